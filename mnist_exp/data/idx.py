"""MNIST and its siblings as they were published: arrays from files in the IDX format."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_exp.data import fetch
from mnist_exp.errors import DataError

DTYPES = {0x08: ">u1", 0x0C: ">i4"}


def load_raw(name: str, split: str, root: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, str]]:
    """A split as published: images ``[N, 28, 28]``, labels ``[N]``, and the SHA-256 of each file's content.

    Raises:
        DataError: files are missing or damaged, and no source has them.
    """
    files = fetch.load_or_fetch(name, split, root)
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    images, labels = _arrays(list(files.values()))
    if not ((labels >= 0) & (labels <= 9)).all():
        raise DataError(f"{name} has labels outside 0 to 9, and the models have ten classes")
    return images, labels, checksums


def read_raw(name: str, split: str, root: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The same images and labels, but from files that are there already and are not checked against checksums.

    Raises:
        DataError: files are missing or cannot be read.
    """
    images, labels = _arrays(fetch.read_unchecked(name, split, root))
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != (len(images),):
        raise DataError(f"the files of the {split} split do not hold as many images as labels")
    return images, labels


def _arrays(contents: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images, labels = map(_parse_idx, contents)
    labels = labels if labels.ndim == 1 else labels[:, 0]  # QMNIST's other columns describe the writer
    return images, labels.astype(np.int64)


def _parse_idx(content: bytes) -> NDArray[Any]:
    """The array in a file of the IDX format."""
    try:
        dtype, dimensions = DTYPES[content[2]], content[3]
        shape = np.frombuffer(content, ">i4", dimensions, offset=4)
        return np.frombuffer(bytearray(content), dtype, offset=4 + 4 * dimensions).reshape(shape)
    except (KeyError, IndexError, ValueError) as error:
        raise DataError(f"a file is not in the IDX format ({type(error).__name__}: {error})") from error
