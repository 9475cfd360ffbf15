"""Datasets as torchvision knows them: checked, and fetched where they are missing."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from numpy.typing import NDArray

from mnist_exp.data import fetch
from mnist_exp.data.folders import DIGITS
from mnist_exp.errors import DataError
from mnist_exp.settings.schema import DATASETS, DataConfig

Raw = tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, str]]


def load(name: str, root: Path, splits: tuple[str, ...]) -> list[Raw]:
    """The splits of a dataset as published; files that are missing or damaged are fetched first.

    Args:
        name: a key of `DATASETS`.
        root: the folder that holds, or will hold, ``MNIST/raw/`` and its like, as for torchvision.
        splits: ``train`` or ``test``, in the order in which they are returned.

    Returns:
        For each split its images, uint8, ``[N, H, W]``, its labels, ``[N]``, and the SHA-256 of each file's content
        (of datasets that are not MNIST's siblings, of the images and of the labels).

    Raises:
        DataError: files are missing or damaged, and no source has them.
    """
    dataset, files = _dataset(name), _files(name)
    if files:
        fetch.ensure(dataset, root, {file: md5 for split in files.values() for file, md5 in split.items()})
    # Where torchvision of years ago left a folder `processed`, it would read that, unchecked.
    checked: Any = type(dataset.__name__, (dataset,), {"_check_legacy_exist": lambda _: False})
    is_emnist = DATASETS[name] == "EMNIST"
    make = partial(checked, split=name.removeprefix("emnist_")) if is_emnist else checked
    found = []
    for split in splits:
        try:
            read = partial(make, root if files or is_emnist else root / dataset.__name__, train=split == "train")
            published = read() if files else fetch.by_torchvision(read, dataset.__name__, root)
        except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
            raise DataError(f"the files in {root / dataset.__name__} cannot be read: {error}") from error
        images, labels = np.asarray(published.data), np.asarray(published.targets, dtype=np.int64)
        if labels.ndim > 1:  # QMNIST's have the writers, too
            labels = labels[:, 0]
        if is_emnist:  # published lying; and letters from 1
            images, labels = images.swapaxes(1, 2), labels - (name == "emnist_letters")
        if not 0 <= labels.min() <= labels.max() < (count := len(class_names(name))):
            raise DataError(f"{name} has labels outside 0 to {count - 1}")
        if images.dtype != np.uint8 or images.ndim != 3 or len(images) != len(labels):
            raise DataError(f"{dataset.__name__} of torchvision does not have grey images in memory, with a label each")
        if files or is_emnist:
            raw, known = Path(published.raw_folder), fetch.SHA256.get(dataset.__name__, {})  # these are checked already
            names = files.get(split) or [Path(each).name for each in (published.images_file, published.labels_file)]
            checksums = {file: known.get(file) or _sha256(raw / file) for file in names}
        else:
            arrays = {"images": images, "labels": labels}
            checksums = {f"{name}-{split}-{k}": hashlib.sha256(a.tobytes()).hexdigest() for k, a in arrays.items()}
        found.append((images, labels, checksums))
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_states(config: DataConfig) -> list[tuple[str, int, int]]:
    """Name, size and time of each file that a dataset is read from; of folders of images the checksums tell."""
    if config.name not in DATASETS:
        return []
    place = Path(config.root) / _dataset(config.name).__name__
    states = [(path.name, path.stat()) for path in sorted(place.rglob("*")) if path.is_file()]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def class_names(name: str) -> list[str]:
    """The names of a dataset's classes, by label; those of the digits where torchvision has none."""
    dataset: Any = _dataset(name)
    if DATASETS[name] == "EMNIST":
        return [each for each in dataset.classes_split_dict[name.removeprefix("emnist_")] if each != "N/A"]
    names = getattr(dataset, "classes", DIGITS)
    return DIGITS if names == torchvision.datasets.MNIST.classes else [*names]


def _dataset(name: str) -> type[torchvision.datasets.MNIST]:
    found: type[torchvision.datasets.MNIST] = getattr(torchvision.datasets, DATASETS[name])
    return found


def _files(name: str) -> dict[str, dict[str, str]]:
    """By split: each file, images first, with the MD5 of its gzipped content; empty where torchvision checks it all."""
    given = vars(_dataset(name)).get("resources", ())
    by_split = given if isinstance(given, dict) else {"train": given[:2], "test": given[2:]}
    return {
        split: {Path(url).name.removesuffix(".gz"): md5 for url, md5 in by_split[split]}
        for split in ("train", "test")
        if given
    }
