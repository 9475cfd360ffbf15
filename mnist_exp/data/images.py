"""Images and labels as tensors: loaded, resized, split; normalised later, batch by batch."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mnist_exp.data import datasets, decoding
from mnist_exp.data.decoding import IMAGE_SIZE
from mnist_exp.data.folders import Folders
from mnist_exp.errors import ConfigError, DataError
from mnist_exp.settings.schema import AUTO, FOLDERS, DataConfig

RESIZE_BLOCK = 5000
"""Images resized at once, which bounds the memory that it takes."""


@dataclass(frozen=True)
class ImageSplit:
    """A split of a dataset, on the device that trains.

    ``images`` are uint8, ``[N, 1, 32, 32]``; ``labels`` int64, ``[N]``. Pixels are normalised when
    they are used: ``(pixel / 255 - mean) / std``.
    """

    images: Tensor
    labels: Tensor
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, where: Tensor) -> "ImageSplit":
        """The images of a mask, bool, ``[N]``."""
        return dataclasses.replace(self, images=self.images[where], labels=self.labels[where])

    def normalised(self, index: Tensor | slice) -> Tensor:
        """The images at ``index`` as the models expect them: float32, ``[n, 1, 32, 32]``.

        The arithmetic is that of torchvision's ``ToTensor`` and ``Normalize``, bit for bit.
        """
        # index_select copies whole images; ``images[tensor]`` goes pixel by pixel and takes six times as long.
        images = self.images[index] if isinstance(index, slice) else self.images.index_select(0, index)
        return images.float().div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class RunImages:
    """What a run trains on, what it evaluates, and what it validates on (None: nothing is held out)."""

    train: ImageSplit
    evaluation: ImageSplit
    validation: ImageSplit | None
    checksums: dict[str, str]
    """The SHA-256 of each file or folder behind them."""


def load(
    config: DataConfig, scanned: Folders, splits: tuple[str, ...], device: torch.device
) -> tuple[tuple[ImageSplit, ...], dict[str, str]]:
    """The named splits of the dataset, on the device, and the SHA-256 of each file or folder behind them.

    Args:
        config: which dataset, and where its files are.
        scanned: with ``data=image_folder``, what `mnist_exp.data.folders.scan_both` found.
        splits: ``train`` or ``test``, in the order in which they are returned; `AUTO` stands for the first one's mean
            and standard deviation.
        device: where the tensors go.

    Raises:
        DataError: files are missing or damaged, and no source has them.
    """
    root = Path(config.root)
    if config.name in FOLDERS:
        raw = []
        for split in splits:
            folder = scanned[split]
            raw.append((decoding.load(folder, root / decoding.CACHE), folder.labels, {f"{split}_dir": folder.sha256}))
    else:
        raw = datasets.load(config.name, root, splits)
    pixels = [resize(torch.from_numpy(images)[:, None]) for images, *_ in raw]
    mean, std = config.mean, config.std
    if AUTO in (mean, std):
        found = mean_and_std(pixels[0])
        mean, std = (own if given == AUTO else given for own, given in zip(found, (mean, std), strict=True))
        print(f"of the training images: data.mean={mean} data.std={std}", flush=True)
    mean, std = float(mean), float(std)
    loaded = [
        ImageSplit(each.to(device), torch.from_numpy(labels).to(device), mean, std)
        for each, (_, labels, _) in zip(pixels, raw, strict=True)
    ]
    return tuple(loaded), {file: sha256 for *_, checksums in raw for file, sha256 in checksums.items()}


def mean_and_std(images: Tensor) -> tuple[float, float]:
    """Of all pixels, scaled to [0, 1], of images, uint8: exact sums, so the same on every machine.

    Raises:
        DataError: all pixels are alike.
    """
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), RESIZE_BLOCK):
        counts += np.bincount(images[start : start + RESIZE_BLOCK].numpy().ravel(), minlength=256)
    pixels, total, squares = (sum(n * level**power for level, n in enumerate(counts.tolist())) for power in (0, 1, 2))
    if pixels * squares == total**2:
        raise DataError("all pixels of the training images are alike; there is nothing to learn from them")
    return total / pixels / 255, math.sqrt(pixels * squares - total**2) / pixels / 255


def stratified_split(images: ImageSplit, size: int, seed: int) -> tuple[ImageSplit, ImageSplit]:
    """Hold out ``size`` images for validation; return the rest and the held-out images, each in its original order.

    Each class has the same share of both, as near as whole images allow (largest remainders first,
    then the lower label), and at least one image in each. Which images of a class are held out is drawn from ``seed``.

    Raises:
        ConfigError: a class would have no image in one of the two.
    """
    labels = images.labels.cpu().numpy()
    counts = np.bincount(labels)
    shares, remainders = np.divmod(counts * size, len(labels))
    shares[np.argsort(-remainders, kind="stable")[: size - shares.sum()]] += 1
    # A rare class has at least one image on either side; the largest classes make up for it.
    least, most = np.minimum(counts, 1), np.maximum(counts - 1, 0)
    shares = shares.clip(least, most)
    while shares.sum() > size and (shares > least).any():
        shares[(shares - least).argmax()] -= 1
    while shares.sum() < size and (shares < most).any():
        shares[(most - shares).argmax()] += 1
    if shares.sum() != size or (least > most).any():
        raise ConfigError(
            f"data.validation_size={size}: with {len(labels):,} images, some class would have none to train on "
            "or none to validate on"
        )
    # NumPy's generator: torch's, seeded alike, would repeat the numbers that shuffle the images.
    order = np.random.default_rng(seed).permutation(len(labels))
    held = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        held[order[labels[order] == label][:share]] = True
    rest, held_out = (torch.from_numpy(part).to(images.labels.device) for part in (~held, held))
    return images.subset(rest), images.subset(held_out)


def resize(images: Tensor) -> Tensor:
    """Images of any size at 32×32: uint8, ``[N, 1, H, W]`` → ``[N, 1, 32, 32]``.

    Bilinear with antialiasing, in 8 bits: equal to Pillow's ``Image.resize`` bit for bit.
    """
    shape = (IMAGE_SIZE, IMAGE_SIZE)
    if images.shape[-2:] == shape:
        return images
    result = images.new_empty(len(images), 1, *shape)
    for start in range(0, len(images), RESIZE_BLOCK):
        block = slice(start, start + RESIZE_BLOCK)
        result[block] = interpolate(images[block], shape, mode="bilinear", antialias=True)
    return result
