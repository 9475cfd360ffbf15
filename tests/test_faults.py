"""Short rounds of the fault harness; ``tests/faults.py`` runs as long as one likes."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MINUTES, Execute, command, results
from tests.faults import fail_each_write, kill_sweeps

MLP = ("model=mlp", "epochs=2")


@pytest.mark.parametrize("overrides", [MLP, (*MLP, "overwrite=true")], ids=["first", "overwrite"])
def test_a_fault_in_any_step_of_any_write_costs_no_byte(
    overrides: tuple[str, ...], execute: Execute, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    faults, differences = fail_each_write(execute, tmp_path, overrides, stride=8)
    assert faults > 10 and differences == 0


@pytest.mark.slow
def test_sweeps_killed_at_random_instants_come_out_the_same() -> None:
    # With this seed while runs are under way, so that it takes three sweeps and no more.
    done, finished, differences = kill_sweeps(kills=2, epochs=1, seed=9, models="lenet5r,mlp")
    assert (done, differences) == (2, 0) and finished >= 1


@pytest.mark.slow
def test_two_identical_sweeps_at_once_train_each_run_once(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mnist_exp.run", "-m", "model=mlp", "seed=0,1", "epochs=2"]
    processes = [subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=2 * MINUTES)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    together = "".join(outputs)
    assert together.count("epoch 2/2") == 2 and together.count("already finished; skipped") == 2
    assert len(results(tmp_path / "outputs")) == 6
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 2  # each its own, though of one second


@pytest.mark.parametrize("limit", [1_000, 600_000])
def test_a_file_size_limit_is_told_and_costs_nothing(limit: int, tmp_path: Path) -> None:
    """As a full disk: writes fail part of the way through."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = command("model=mlp", "protocol=published", "epochs=2", cwd=tmp_path, preexec_fn=limited)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "raise the limit on file sizes, then repeat the command" in done.stderr
    assert done.stderr.startswith("mnist_exp: outputs/runs/mlp-published-"), done.stderr  # the file is named
    assert command("model=mlp", "protocol=published", "epochs=2", cwd=tmp_path).returncode == 0
    assert len(results(tmp_path / "outputs")) == 3
    assert not list(tmp_path.rglob("*.partial"))


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A real file system of so many KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here; the file-size limit stands in for it")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))
    return folder


@pytest.mark.parametrize("small_disk", [8, 1600], indirect=True)
def test_a_full_disk_is_told_and_costs_nothing(small_disk: Path) -> None:
    words = ("model=mlp", "protocol=published", "epochs=2", f"output_root={small_disk}")
    done = command(*words)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "No space left on device" in done.stderr and "make room" in done.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert command(*words).returncode == 0
    assert len(results(small_disk)) == 3


@pytest.mark.slow
def test_another_locale_home_and_folder_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for name, locale in (("one", "C"), ("zwei", "ko_KR.UTF-8"), ("three", "tr_TR.UTF-8")):
        (tmp_path / name).mkdir()
        environment = os.environ | {"LC_ALL": locale, "HOME": str(tmp_path / name), "PYTHONHASHSEED": str(len(name))}
        words = ("model=mlp", "protocol=published", "epochs=1", f"output_root={name}")
        assert command(*words, cwd=tmp_path / name, env=environment).returncode == 0
        found.append(results(tmp_path / name / name))
    assert len(found[0]) == 3 and found[0] == found[1] == found[2]
