"""Exact arithmetic in whole runs on other processors, emulated: the same bytes of all files (pytest -m emulated)."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

from tests.conftest import results
from tests.exact.processors import ARM64, ARM64_PYTHON, HERE, PROCESSORS, command_of

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs the extra exact (make extras)"),
]


def train(processor: str, digits: Path, folder: Path, kernels: Path) -> dict[str, bytes]:
    """Train three networks by two protocols on that processor; the bytes of the results."""
    if (found := command_of(processor, kernels)) is None:
        pytest.skip(
            f"{processor}: needs Debian's package qemu-user-static, and for ARM64 a Python made by "
            f"tests/exact/arm64.sh, named by the variable {ARM64_PYTHON}"
        )
    command, environment = found
    # A worker process would be started on the real processor, so all is done in the one that is emulated.
    environment["JOBLIB_MULTIPROCESSING"] = "0"
    folder.mkdir()
    # protocol=published trains in evaluation mode from its second epoch on.
    for more in (["protocol=standard", "epochs=1"], ["protocol=published", "epochs=2"]):
        words = ["-m", "mnist_exp.run", "-m", "model=lenet5,lenet5r,mlp", "device.arithmetic=exact", *more]
        words += ["data=image_folder", f"data.train_dir={digits}/train", f"data.test_dir={digits}/test"]
        done = subprocess.run([*command, *words], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return results(folder / "outputs")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes the compiled kernels."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def expected(digits: Path, kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes on this processor."""
    return train(HERE, digits, tmp_path_factory.mktemp("here") / "runs", kernels)


@pytest.mark.parametrize("processor", [*PROCESSORS, ARM64])
def test_all_bytes_are_the_same(
    processor: str, digits: Path, kernels: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    emulated = train(processor, digits, tmp_path / "there", kernels)
    assert len(expected) == 18 and emulated.keys() == expected.keys()
    assert [name for name in expected if emulated[name] != expected[name]] == []
