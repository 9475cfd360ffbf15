"""Digits, or other images, as tensors: read, checked, resized; normalised later, batch by batch."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from mnist_exp import download, folders
from mnist_exp.config import DataConfig
from mnist_exp.errors import ConfigError
from mnist_exp.folders import SIZE, Folders
from mnist_exp.training import Digits

RESIZE_BLOCK = 5000  # digits; bounds the memory that resizing takes


def load(
    config: DataConfig, scanned: Folders, splits: tuple[str, ...], device: torch.device
) -> tuple[tuple[Digits, ...], dict[str, str]]:
    """The named splits of the dataset, on the device, and the SHA-256 of each file or folder behind them.

    Args:
        config: which dataset, and where its files lie.
        scanned: with ``data=png_folder``, what `mnist_exp.folders.scan_both` found.
        splits: ``train`` or ``test``, in the order in which they are wanted.
        device: where the tensors go.

    Raises:
        DataError: files are damaged, or missing and not to be fetched.
    """
    root = Path(config.root)
    digits: list[Digits] = []
    checksums: dict[str, str] = {}
    for split in splits:
        if folder := scanned.get(split):
            images, labels = folders.load(folder, root / folders.CACHE), folder.labels
            sums = {f"{split}_dir": folder.sha256}
        else:
            images, labels, sums = originals(config.name, split, root)
        checksums |= sums
        digits.append(
            Digits(
                images=resized(torch.from_numpy(images)[:, None]).to(device),
                labels=torch.from_numpy(labels).to(device),
                mean=config.mean,
                std=config.std,
            )
        )
    return tuple(digits), checksums


def originals(name: str, split: str, root: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, str]]:
    """MNIST or a sibling as it was published: images ``[N, 28, 28]``, labels ``[N]``, and contents' SHA-256.

    Raises:
        DataError: files are damaged, or missing and not to be fetched.
    """
    files = download.ensure(name, split, root)
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    images, labels = map(_idx, files.values())
    labels = labels if labels.ndim == 1 else labels[:, 0]  # QMNIST's other columns tell of the writer
    return images, labels.astype(np.int64), checksums


def classes(name: str) -> list[str] | None:
    """The names of a dataset's classes in the order of the labels; None where they are the digits."""
    return list(download.described(name).classes) if name in ("fashion_mnist", "kmnist") else None


def hold_out(digits: Digits, size: int, seed: int) -> tuple[Digits, Digits]:
    """Divide a split into a rest to train on and ``size`` digits to validate on, each in its old order.

    Stratified: a class has the same share of both, as near as whole digits allow (largest remainders
    first, then the lower label). Which digits of a class are held out is drawn from ``seed``.

    Raises:
        ConfigError: a class would have no digit in one of the two.
    """
    labels = digits.labels.cpu().numpy()
    counts = np.bincount(labels)
    shares, remainders = np.divmod(counts * size, len(labels))
    shares[np.argsort(-remainders, kind="stable")[: size - shares.sum()]] += 1
    if ((counts > 0) & ((shares < 1) | (shares >= counts))).any():
        raise ConfigError(
            f"data.validation_size={size}: of {len(labels):,} digits, that leaves some class none to train on, "
            "or none to validate on"
        )
    # NumPy's generator, not torch's: that would draw the numbers that shuffle the digits once more.
    order = np.random.default_rng(seed).permutation(len(labels))
    held = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        held[order[labels[order] == label][:share]] = True
    held_out, rest = (torch.from_numpy(part).to(digits.labels.device) for part in (held, ~held))
    return _select(digits, rest), _select(digits, held_out)


def resized(images: torch.Tensor) -> torch.Tensor:
    """Digits of any size at 32×32: uint8, ``[N, 1, H, W]`` → ``[N, 1, 32, 32]``.

    Bilinear with antialiasing, in 8 bits: equal to Pillow's ``Image.resize`` bit for bit.
    """
    result = torch.empty(len(images), 1, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, len(images), RESIZE_BLOCK):
        block = slice(start, start + RESIZE_BLOCK)
        result[block] = resize(images[block], [SIZE, SIZE], InterpolationMode.BILINEAR, antialias=True)
    return result


def _select(digits: Digits, where: torch.Tensor) -> Digits:
    return dataclasses.replace(digits, images=digits.images[where], labels=digits.labels[where])


def _idx(content: bytes) -> NDArray[Any]:
    """The array in a file of the IDX format. Its checksum has been checked, so its header is known to be right."""
    dtype, dimensions = {8: ">u1", 12: ">i4"}[content[2]], content[3]
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(bytearray(content), dtype, offset=4 + 4 * dimensions).reshape(shape)
