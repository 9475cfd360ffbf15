"""The tracked runs' models, and the real test digits as datasets have them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_exp.data.datasets import load
from mnist_exp.inference.trained import TrainedModel, load_each_model

REFERENCE = Path(__file__).parents[2] / "outputs" / "reference"
TITLES = ["LeNet5", "LeNet5_regularized", "Custom MLP"]


@pytest.fixture(scope="session")
def models() -> list[TrainedModel]:
    """LeNet5, LeNet5_regularized and the MLP, of seed 0."""
    return load_each_model(REFERENCE / "runs")


@pytest.fixture(scope="session")
def digits(digits_root: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 10,000 test digits, ``[N, 28, 28]``, and their labels."""
    ((images, labels, _),) = load("mnist", digits_root, ("test",))
    return images, labels
