"""What the sweeps on clusters share: a folder, a sweep under way, and what a local one gives."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.services import wait_for
from tests.conftest import command, results

SWEEP = ("-m", "model=lenet5,lenet5r,mlp", "protocol=published", "epochs=6")
"""An epoch before a job is disturbed, and more after; the published protocol's are short."""
STATUS = Path(__file__).parents[2] / "scripts" / "status.py"


@pytest.fixture(scope="module")
def service_folder() -> Iterator[Path]:
    """A folder with a short path that every user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="mnist", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes that a local sweep gives."""
    folder = tmp_path_factory.mktemp("local")
    done = command(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    return results(folder / "outputs")


class RunningSweep:
    """A sweep under way, in a folder of its own."""

    def __init__(self, folder: Path, process: "subprocess.Popen[str]") -> None:
        self.folder, self.process = folder, process

    def run(self, model: str) -> Path:
        """The folder of the one run of a model."""
        (path,) = (self.folder / "outputs" / "runs").glob(f"{model}-*")
        return path

    def record(self, model: str) -> dict[str, Any]:
        """What its ``run.json`` says."""
        record: dict[str, Any] = json.loads((self.run(model) / "run.json").read_text())
        return record

    def wait_for_an_epoch(self, model: str) -> None:
        """Until the first is done."""
        pattern = f"outputs/runs/{model}-*/metrics.csv"
        self.wait_for(lambda: list(self.folder.glob(pattern)), f"{model} has done an epoch")

    def wait_for(self, ready: Callable[[], object], what: str) -> None:
        """As `services.wait_for`; fails at once if the sweep's command ended."""

        def checked() -> object:
            assert self.process.poll() is None, (self.folder / "sweep.out").read_text()
            return ready()

        wait_for(checked, what, self.folder)

    def finish(self, code: int = 0) -> str:
        """Wait for its end; its output."""
        self.process.wait(timeout=600)
        output = (self.folder / "sweep.out").read_text()
        assert self.process.returncode == code, output
        return output

    def status(self) -> str:
        """What ``make status`` shows."""
        words = [sys.executable, str(STATUS), "--runs", str(self.folder / "outputs" / "runs")]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningSweep]]:
    """Start a sweep in an environment; it is killed if the test ends before it."""
    with contextlib.ExitStack() as stack:

        def start(environment: dict[str, str], *arguments: str) -> RunningSweep:
            output = stack.enter_context((tmp_path / "sweep.out").open("w"))
            words = [sys.executable, "-m", "mnist_exp.run", *arguments]
            process = subprocess.Popen(
                words, cwd=tmp_path, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return RunningSweep(tmp_path, process)

        yield start
