"""From a picture of one digit to what the networks were trained on: the way in which MNIST was made.

MNIST's digits fill a box of 20×20 pixels with their longer side, and lie in 28×28 with their centre of mass in the
centre (LeCun et al., 1998). As measured on all 70,000, the longer side is 20 (in 16 of them 19), and the centre of
mass is at index 14.0 ± 0.5 in both directions (in all but two). So these digits come out as they are.
`preprocessing.js` does the same in a browser; change both.
"""

import io
import itertools
import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_exp.errors import DataError

SIDE, BOX = 28, 20
LARGEST = 600  # pixels of the longer side in which the digit is looked for; it is read from all of them
COARSE, REACH = 60, 8  # pixels of the longer side in which paper is told from ink, and half the width of its window
FEWEST, MIN_CONTRAST = 4, 24  # pixels of ink, and grey levels of 255, below which there is no digit
EVEN, FAINT, DUST = 0.02, 0.1, 0.005  # even background: shares of the contrast in it, of ink, of the largest part
CLEAR, SHADE, SPECK = 11, 0.25, 0.05  # a photograph: contrast / noise; the least ink, and the least part, as above
BLANK, NO_MARGIN = "The picture is blank.", "The picture is blank, or has no margin around the digit."

Grey = NDArray[np.uint8]
Ink = NDArray[np.float64]


def open_image(source: Path | bytes) -> Image.Image:
    """The image in a file, or in a file's content, upright (EXIF); of several, the first.

    Raises:
        DataError: it cannot be read, or is not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures; twice as large is an error
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise DataError("The file is not a picture that can be read here; save it as PNG or JPEG.") from error
    except Exception as error:  # Pillow raises all kinds of errors for damaged files
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise DataError(f"The file cannot be read: {reason}.") from error


def to_grey(image: Image.Image) -> Grey:
    """Any image as grey, without transparency: uint8, ``[H, W]``."""
    if image.mode[0] in "IF":  # Pillow's own conversion cuts off at 255; many files use less than all their bits
        levels = np.nan_to_num(np.asarray(image, float)).clip(0)
        most = next((top for top in (1, 255, 4095, 65535) if levels.max() <= top), levels.max())
        image = Image.fromarray((levels * (255 / most) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        level, alpha = (np.asarray(band, float) for band in (image.convert("RGB").convert("L"), image.getchannel("A")))
        # Behind dark ink white, behind light ink black: a drawing's ink is what is not transparent.
        behind = 255 if (level * alpha).sum() < 127.5 * alpha.sum() else 0
        image = Image.alpha_composite(Image.new("RGBA", image.size, (behind, behind, behind, 255)), image)
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))


def to_digit(grey: Grey) -> Grey:
    """The one digit in a picture, as MNIST's are: light on black, uint8, ``[28, 28]``.

    Args:
        grey: uint8, ``[H, W]``; dark on light or light on dark.

    Raises:
        DataError: there is no digit, or more than one.
    """
    ink = _find_digit(grey)
    height, width = (max(1, int(side * BOX / max(ink.shape) + 0.5)) for side in ink.shape)
    small = resize_matrix(ink.shape[0], height) @ ink @ resize_matrix(ink.shape[1], width).T
    digit = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (  # the centre of mass is then in [13.5, 14.5), as MNIST's are; equal sums, whatever their order
        min(max(math.ceil(13.5 - 1e-6 - mass), 0), SIDE - side)
        for mass, side in zip(ndimage.center_of_mass(small), small.shape, strict=True)
    )
    digit[top : top + height, left : left + width] = small / small.max() * 255 + 0.5
    return digit


def resize_matrix(before: int, after: int) -> Ink:
    """Weights that resize one direction of an image, ``[after, before]``; each row's sum is 1.

    Shrinking takes the mean of the area that a pixel covers; enlarging is bilinear, as Pillow's.
    """
    scale = before / after
    centres = (np.arange(after)[:, None] + 0.5) * scale
    reach, pixels = max(scale, 1) / 2, np.arange(before)
    weights = (np.minimum(centres + reach, pixels + 1) - np.maximum(centres - reach, pixels)).clip(0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _find_digit(grey: Grey) -> Ink:
    """The digit, cut out at its edges: from 0 (background) to 1, float64, ``[h, w]``."""
    factor = -(-max(grey.shape) // LARGEST)
    ink, least, dirt = _find_ink(np.asarray(Image.fromarray(grey).reduce(factor), float))
    labels = ndimage.label(ink >= least, np.ones((3, 3)))[0]
    sizes = np.bincount(labels.ravel(), ink.ravel() * (labels > 0).ravel())
    kept = sizes > dirt * sizes.max()
    if dirt == SPECK:  # what reaches two sides of a photograph is a pattern, a shadow, or the edge of the paper
        sides = labels[0], labels[-1], labels[:, 0], labels[:, -1]
        kept[[part for part in range(len(kept)) if sum(part in side for side in sides) > 1]] = False
    if not kept[sizes.argmax()]:
        raise DataError(NO_MARGIN)
    box = ndimage.find_objects(kept[labels].astype(int))[0]
    margin = max(side.stop - side.start for side in box)
    near = tuple(slice(max(0, side.start - margin) * factor, (side.stop + margin) * factor) for side in box)
    if factor > 1 and max(grey[near].shape) < 0.7 * max(grey.shape):
        return _find_digit(grey[near])
    large = np.flatnonzero(kept & (sizes > 0.1 * sizes.max()))
    ink = np.where(kept[labels] | (labels == 0), ink, 0)[box]
    if max(ink.shape) > SIDE:  # fewer pixels than MNIST's do not show more than a digit
        _check_single(ink, kept[labels][box], [(ndimage.find_objects(labels)[i - 1], sizes[i] / ink.sum()) for i in large])
    return ink


def _find_ink(values: Ink) -> tuple[Ink, float, float]:
    """Each pixel's ink, from 0 (background) to 1, the least that counts, and the least share of a part that does."""
    border = np.concatenate([*values[[0, -1]], *values.T[[0, -1]]])
    level = np.quantile(border, 0.5, method="lower")
    contrast = abs(values - level).max()
    if contrast < MIN_CONTRAST or (abs(values - level) > contrast / 2).sum() < FEWEST:
        raise DataError(BLANK)
    far = abs(values - level) > FAINT * contrast
    # Ink may reach a side of an even picture. What reaches two that are opposite may be lines on the paper.
    is_even = not (far[[0, -1]].any(axis=1).all() or far[:, [0, -1]].any(axis=0).all())
    if is_even and np.quantile(abs(border - level), 0.9, method="lower") <= EVEN * contrast:
        sign = 1 if ((values - level) ** 3).sum() >= 0 else -1  # skewed to dark: dark ink on light
        return (sign * (values - level) / contrast).clip(0), FAINT, DUST
    excess = _remove_paper(values)
    contrast = excess[excess >= np.sort(excess, axis=None)[-40:][0] / 2].mean()
    noise = max(1.0, excess[excess < SHADE * contrast].std())
    if contrast < max(CLEAR * noise, MIN_CONTRAST):  # crumpled paper varies more
        raise DataError(NO_MARGIN)
    least = max(SHADE * contrast, 4 * noise)
    return np.where(excess < least, 0, excess / contrast).clip(0, 1), least / contrast, SPECK


def _remove_paper(values: Ink) -> Ink:
    """How much each pixel of a photograph differs from the paper around it; ink is positive, be it dark or light.

    The paper is the opening of a coarse picture, in which strokes are lost. Beyond the edges the light goes on as it
    came, or stays, whichever leaves less ink.
    """
    coarse = np.asarray(Image.fromarray(values.astype(np.float32)).reduce(-(-max(values.shape) // COARSE)), float)
    wide, window = np.pad(coarse, 2 * REACH, "reflect", reflect_type="odd"), 2 * REACH + 1
    inside = (slice(2 * REACH, -2 * REACH),) * 2
    sign = 1 if ((wide - ndimage.uniform_filter(wide, window))[inside] ** 3).sum() >= 0 else -1
    paper, other = (ndimage.grey_opening(sign * each, (window, window), mode="nearest") for each in (wide, coarse))
    paper = ndimage.uniform_filter(np.maximum(paper[inside], other), REACH + 1, mode="nearest")
    down, across = (resize_matrix(few, side) for few, side in zip(paper.shape, values.shape, strict=True))
    excess = ndimage.uniform_filter(sign * values - down @ paper @ across.T, 3, mode="nearest")
    return np.asarray(excess - np.quantile(excess, 0.5, method="lower"))


def _check_single(ink: Ink, is_digit: NDArray[np.bool_], parts: list[tuple[tuple[slice, ...], float]]) -> None:
    """Raise a DataError for two digits, and for patterns, frames and patches."""
    height, width = ink.shape
    spaces = np.bincount(ndimage.label(~np.pad(is_digit, 1))[0].ravel())[2:]
    lines = [np.diff(is_digit.mean(axis) > 0.9, prepend=False, append=False).sum() // 2 for axis in (0, 1)]
    solid = ndimage.minimum_filter(ink > 0.5, 1 + int(0.45 * max(ink.shape)), mode="constant").any()
    if len(parts) > 5 or (spaces > 0.01 * ink.size).sum() > 4 or min(lines) > 1 or solid:
        raise DataError("The picture shows something other than a digit.")
    for ((rows, columns), share), ((below, beside), other) in itertools.permutations(parts, 2):
        h, w, high, wide = (side.stop - side.start for side in (rows, columns, below, beside))
        down, right = below.start - rows.stop, beside.start - columns.stop  # the gaps, if not negative
        two = right >= 0 and width > 1.2 * height < 2.4 * min(h, high) and min(share, other) > 0.1
        similar = min(h, high) > 0.75 * max(h, high) and min(w, wide) > 0.5 * max(w, wide)
        two |= down > 0 and similar and h > 0.6 * w and high > 0.6 * wide
        two |= min(h, high) > 0.85 * max(h, high) and min(w, wide) > 0.85 * max(w, wide)
        two |= len(parts) == 2 and max(down, right) > 0.4 * max(height, width)
        if two or (down > 0 and 8 * high < wide > 1.2 * w):
            raise DataError("The picture has more than one digit; crop it to one.")
