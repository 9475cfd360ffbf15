"""Digits as tensors: read, checked, resized; normalised later, batch by batch."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from mnist_exp.config import DataConfig
from mnist_exp.download import SHA256, ensure_mnist
from mnist_exp.errors import ConfigError
from mnist_exp.training import Digits

SIZE = 32
"""Pixels a side that the models expect (LeCun et al., 1998)."""
PREFIX = {"train": "train", "test": "t10k"}
RESIZE_BLOCK = 5000  # digits; bounds the memory that resizing takes


def load(
    config: DataConfig, splits: tuple[str, ...], device: torch.device
) -> tuple[tuple[Digits, ...], dict[str, str]]:
    """The named splits of the dataset, on the device, and the SHA-256 of each file behind them.

    Raises:
        DataError: files are damaged, or missing and not to be fetched.
    """
    files = ensure_mnist(Path(config.root))
    digits = tuple(
        Digits(
            images=resized(_images(files[f"{PREFIX[split]}-images-idx3-ubyte"])).to(device),
            labels=_labels(files[f"{PREFIX[split]}-labels-idx1-ubyte"]).to(device),
            mean=config.mean,
            std=config.std,
        )
        for split in splits
    )
    return digits, dict(SHA256)


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


def _images(content: bytes) -> torch.Tensor:
    # The IDX format: a header of 16 bytes for images, 8 for labels; then a byte a pixel, or a label.
    # The checksum has been checked, so header and length are known.
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)


def _labels(content: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=8).long()
