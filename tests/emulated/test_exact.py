"""Exact arithmetic on processors without AVX2, without AVX, and on ARM, emulated (pytest -m emulated)."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from mnist_exp.data.datasets import load
from tests.conftest import results
from tests.emulated.test_processors import run
from tests.exact.processors import ARM64, PROCESSORS, checksums_on

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="needs the extra exact (make extras)"),
]


@pytest.mark.parametrize("processor", ["Intel Nehalem (2008)", "ARM64"])
def test_weights_are_the_same(processor: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("kernels")
    found = checksums_on(processor, cache)
    if found is None:
        pytest.skip(f"needs Debian's qemu-user-static; for ARM64, {ARM64}: a command that runs Python there")
    assert found == checksums_on("this processor", cache)


def test_whole_runs_are_the_same_without_avx(
    digits_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, initial weights, dropout, losses, files: the command, on few digits, since each step takes seconds."""
    for split, count in (("train", 80), ("test", 40)):
        ((images, labels, _),) = load("mnist", digits_root, (split,))
        (tmp_path / split).mkdir()
        for number in range(count):
            Image.fromarray(images[number]).save(tmp_path / split / f"{number}_{labels[number]}.png")
    words = ["-m", "mnist_exp.run", "-m", "model=lenet5r,mlp", "protocol=standard,published", "epochs=2"]
    words += ["data=image_folder", f"data.train_dir={tmp_path}/train", f"data.test_dir={tmp_path}/test"]
    found = []
    emulated, name, instructions = PROCESSORS["Intel Nehalem (2008)"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for processor in (None, emulated):
        for key, value in (("NUMBA_CPU_NAME", name), ("NUMBA_CPU_FEATURES", instructions)):
            monkeypatch.setenv(key, value)  # compiled for it on this one, which is faster
        (folder := tmp_path / str(processor)).mkdir()
        done = run(processor, *words, "device.arithmetic=exact", folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(results(folder / "outputs"))
    assert len(found[0]) == 12 and found[0] == found[1]
