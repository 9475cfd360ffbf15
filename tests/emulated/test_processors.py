"""The real command on other processors, emulated: all bytes are those of this one (pytest -m emulated)."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from tests.conftest import results

QEMU = shutil.which("qemu-x86_64-static")
PACKAGES, PROJECT = Path(numpy.__file__).parents[1], Path(__file__).parents[2]
PROCESSORS = ("Haswell", "EPYC-Rome")
"""Intel's first with AVX2 (2013), and an AMD of 2019."""
LIBRARIES = re.compile("ATEN_CPU_|ONEDNN_|DNNL_|MKL_")

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(QEMU is None, reason="needs Debian's package qemu-user-static")]


def run(processor: str | None, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python on an emulated processor, or on this one, in an environment that sets nothing of the arithmetic."""
    environment = {name: value for name, value in os.environ.items() if not LIBRARIES.match(name)}
    environment["PYTHONPATH"] = f"{PROJECT}{os.pathsep}{PACKAGES}"
    # A worker process would be started on the real processor, so all is done in the one that is emulated.
    environment["JOBLIB_MULTIPROCESSING"] = "0"
    python = [str(Path(sys.executable).resolve()), *words]
    emulated = [QEMU, "-cpu", processor, *python] if QEMU and processor else python
    return subprocess.run(emulated, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)


def train(processor: str | None, digits: Path, folder: Path, *more: str) -> dict[str, bytes]:
    """Two epochs of three models on the 608 digits; the bytes of the results."""
    words = ("data=png_folder", f"data.train_dir={digits}/train", f"data.test_dir={digits}/test", "epochs=2", *more)
    done = run(processor, "-m", "mnist_exp.run", "-m", "model=lenet5,lenet5r,mlp", *words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return results(folder / "outputs")


@pytest.fixture(scope="module")
def expected(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes on this processor."""
    return train(None, digits, tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize("processor", PROCESSORS)
def test_all_bytes_are_the_same(processor: str, digits: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    emulated = train(processor, digits, tmp_path)
    assert len(expected) == 9 and emulated.keys() == expected.keys()
    assert [name for name in expected if emulated[name] != expected[name]] == []
    for path in tmp_path.glob("outputs/runs/*/run.json"):
        assert json.loads(path.read_text())["provenance"]["portable"] is True


def test_the_processor_is_emulated(tmp_path: Path) -> None:
    """Else the tests above would compare this processor with itself."""
    asked = "import torch; print(torch.cpu._is_avx2_supported(), torch.cpu._is_avx512_supported())"
    assert run("Haswell", "-c", asked, folder=tmp_path).stdout.split() == ["True", "False"]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_stored_run_on_10_000_digits_verifies_equal(processor: str, tmp_path: Path) -> None:
    words = ("model=mlp", "protocol=published", "epochs=1")
    assert run(None, "-m", "mnist_exp.run", *words, folder=tmp_path).returncode == 0
    (stored,) = tmp_path.glob("outputs/runs/mlp-*")
    done = run(processor, str(PROJECT / "scripts" / "verify.py"), str(stored), folder=tmp_path)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{stored.name}: equal, bit for bit"), done.stderr


def test_without_avx2_a_run_says_that_its_bytes_are_not_portable(digits: Path, tmp_path: Path) -> None:
    words = ("model=mlp", "data=png_folder", f"data.train_dir={digits}/train", f"data.test_dir={digits}/test")
    done = run("SandyBridge", "-m", "mnist_exp.run", *words, "epochs=1", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("outputs/runs/*/run.json")
    reason = "this processor has no AVX2 and FMA (Intel since 2013, AMD since 2015)"
    assert f"{path.parent.name}: another machine may give other bytes: {reason}" in done.stdout
    assert json.loads(path.read_text())["provenance"]["portable"] is False
