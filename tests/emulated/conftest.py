"""What the tests on emulated processors share."""

from pathlib import Path

import pytest
from PIL import Image

from mnist_exp.data.datasets import load


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, digits_root: Path) -> Path:
    """The first 608 real training digits, nine batches of 64 and one of 32, and the first 100 test digits, as files."""
    folder = tmp_path_factory.mktemp("digits")
    for split, count in (("train", 608), ("test", 100)):
        ((images, labels, _),) = load("mnist", digits_root, (split,))
        (folder / split).mkdir()
        for number in range(count):
            Image.fromarray(images[number]).save(folder / split / f"{number}_{labels[number]}.png")
    return folder
