"""MNIST and its siblings as torchvision knows them: checked, and fetched where they are missing."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import KMNIST, MNIST, QMNIST, FashionMNIST

from mnist_exp.data import fetch
from mnist_exp.errors import DataError

DATASETS: dict[str, type[MNIST]] = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST, "qmnist": QMNIST}
Raw = tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, str]]


def load(name: str, root: Path, splits: tuple[str, ...]) -> list[Raw]:
    """The splits of a dataset as published; files that are missing or damaged are fetched first.

    Args:
        name: a key of `DATASETS`.
        root: the folder that holds, or will hold, ``MNIST/raw/`` and its like, as for torchvision.
        splits: ``train`` or ``test``, in the order in which they are returned.

    Returns:
        For each split its images, uint8, ``[N, 28, 28]``, its labels, ``[N]``, and the SHA-256 of each file's content.

    Raises:
        DataError: files are missing or damaged, and no source has them.
    """
    dataset, files = DATASETS[name], _files(name)
    fetch.ensure(dataset, root, {file: md5 for split in files.values() for file, md5 in split.items()})
    # Where torchvision of years ago left a folder `processed`, it would read that, unchecked.
    checked = type(dataset.__name__, (dataset,), {"_check_legacy_exist": lambda _: False})
    found = []
    for split in splits:
        try:
            published = checked(root, train=split == "train")
        except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
            raise DataError(f"the files in {root / dataset.__name__} cannot be read: {error}") from error
        labels = published.targets if published.targets.ndim == 1 else published.targets[:, 0]  # QMNIST's writers
        if labels.max() > 9:
            raise DataError(f"{name} has labels outside 0 to 9, and the models have ten classes")
        raw, known = Path(published.raw_folder), fetch.SHA256.get(dataset.__name__, {})  # these are checked already
        checksums = {f: known.get(f) or hashlib.sha256((raw / f).read_bytes()).hexdigest() for f in files[split]}
        found.append((published.data.numpy(), labels.numpy(), checksums))
    return found


def class_names(name: str) -> list[str] | None:
    """The names of a dataset's classes by label; None where they are the digits."""
    names = DATASETS[name].classes if name in DATASETS else MNIST.classes
    return None if names == MNIST.classes else names


def _files(name: str) -> dict[str, dict[str, str]]:
    """By split: each file, images first, with the MD5 of its gzipped content."""
    given = DATASETS[name].resources
    by_split = given if isinstance(given, dict) else {"train": given[:2], "test": given[2:]}
    return {
        split: {Path(url).name.removesuffix(".gz"): md5 for url, md5 in by_split[split]} for split in ("train", "test")
    }
