"""From a picture of one digit to what the networks were trained on: the way in which MNIST was made.

MNIST's digits fill a box of 20×20 pixels with their longer side, and lie in 28×28 with their centre of mass in
the centre (LeCun et al., 1998). As measured on all 70,000, the longer side is 20 (in 16 of them 19), and the centre
of mass is at index 14.0 ± 0.5 in both directions (in all but two). So these digits come out as they are.
`preprocessing.js` does the same in a browser; change both.
"""

import io
import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_exp.errors import DataError

SIDE, BOX, CENTRE = 28, 20, 14.0
LARGEST = 600  # pixels of the longer side; larger pictures are shrunk first
MIN_CONTRAST = 24  # grey levels, of 255, by which ink must differ from its background
SPECK = 0.05  # the share of the largest part below which another part of a photograph is no ink
FAINT = 0.1  # the share of the contrast below which a pixel is no ink

Grey = NDArray[np.uint8]
Ink = NDArray[np.float64]


def open_image(source: Path | bytes) -> Image.Image:
    """The image in a file, or in a file's content, upright (EXIF); of several, the first.

    Raises:
        DataError: it cannot be read, is empty, truncated, too large, or not an image; the message completes "FILE …".
    """
    if isinstance(source, Path) and source.is_dir():
        raise DataError("is a folder without images")
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    if not content:
        raise DataError("is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures; twice as large is an error
            image = Image.open(io.BytesIO(content))
            image.load()
            return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise DataError("is not an image that can be read here; save it as PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        raise DataError("is too large; shrink it") from error
    except Exception as error:  # Pillow raises all kinds of errors for damaged files
        raise DataError("is damaged or truncated; save it again") from error


def to_grey(image: Image.Image) -> Grey:
    """Any image as grey, without transparency: uint8, ``[H, W]``, at most 600 pixels a side."""
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16 bits off at 255
        image = Image.fromarray(((np.asarray(image, np.int64).clip(0) + 128) // 257).clip(max=255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        level, alpha = (np.asarray(band, float) for band in (image.convert("RGB").convert("L"), image.getchannel("A")))
        # Behind dark ink white, behind light ink black: a drawing's ink is what is not transparent.
        behind = 255 if (level * alpha).sum() < 127.5 * alpha.sum() else 0
        image = Image.alpha_composite(Image.new("RGBA", image.size, (behind, behind, behind, 255)), image)
    grey = image if image.mode == "L" else image.convert("RGB").convert("L")
    return np.asarray(grey.reduce(-(-max(grey.size) // LARGEST)))


def to_digit(grey: Grey) -> Grey:
    """The one digit in a picture, as MNIST's are: light on black, uint8, ``[28, 28]``.

    Args:
        grey: uint8, ``[H, W]``; dark on light or light on dark.

    Raises:
        DataError: there is no digit, or more than one; the message completes "FILE …".
    """
    values = grey.astype(float)
    border = np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])
    level = _quantile(border, 0.5)
    contrast = max(level - values.min(), values.max() - level)
    if contrast < MIN_CONTRAST:
        raise DataError("is blank")
    is_flat = _quantile(abs(border - level), 0.9) <= FAINT * contrast
    radius = max(values.shape) // 4
    around = level if is_flat else _mean_around(values, radius) / _mean_around(np.ones_like(values), radius)
    if ((values - around) ** 3).sum() < 0:  # dark on light: ink differs more from what is around it than paper does
        values, level = 255 - values, 255 - level
    ink = (values - level).clip(0) / contrast if is_flat else _extract_ink(values)
    rows, columns = (np.flatnonzero((ink > FAINT).any(axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    _check_single(ink)
    height, width = (max(1, int(side * BOX / max(ink.shape) + 0.5)) for side in ink.shape)
    small = resize_matrix(ink.shape[0], height) @ ink @ resize_matrix(ink.shape[1], width).T
    digit = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (_offset(small.sum(axis), side) for axis, side in ((1, height), (0, width)))
    digit[top : top + height, left : left + width] = small / small.max() * 255 + 0.5
    return digit


def resize_matrix(before: int, after: int) -> NDArray[np.float64]:
    """Weights that resize one direction of an image, ``[after, before]``; each row's sum is 1.

    Shrinking takes the mean of the area that a pixel covers; enlarging is bilinear, as Pillow's.
    """
    scale = before / after
    centres = (np.arange(after)[:, None] + 0.5) * scale
    reach, pixels = max(scale, 1) / 2, np.arange(before)
    weights = (np.minimum(centres + reach, pixels + 1) - np.maximum(centres - reach, pixels)).clip(0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _extract_ink(values: Ink) -> Ink:
    """What is brighter than the paper around it, from 0 to 1; uneven light, texture and specks are left out."""
    side = max(values.shape)
    excess = values - _lighting(values)
    paper = (excess < 2 * _spread(excess)).astype(float)
    around = _mean_around(excess * paper, side // 8) / _mean_around(paper, side // 8).clip(1e-9)
    excess = _mean_around(excess - around, side // 280)
    noise, threshold = _spread(excess), _otsu(excess)
    if threshold < max(3 * noise, MIN_CONTRAST / 2):
        raise DataError("is blank")
    labels, count = ndimage.label(excess >= threshold, np.ones((3, 3)))
    sizes = ndimage.sum_labels(excess, labels, range(1, count + 1))
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    sizes[np.unique(edges[edges > 0]) - 1] /= 10  # more likely a dark corner, or what lies beside the paper
    kept = np.isin(labels, 1 + np.flatnonzero(sizes > SPECK * sizes.max()))
    near = _mean_around(kept.astype(float), 1 + side // 280) > 1e-9  # soft edges
    return np.where(near, ((excess - 2 * noise) / (excess[kept].mean() - 2 * noise)).clip(0, 1), 0)


def _lighting(values: Ink) -> Ink:
    """The paper's brightness as a quadratic function of the place, fitted to what is not brighter than most of it."""
    y, x = np.indices(values.shape) / max(values.shape)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y])
    step = 1 + max(values.shape) // 140
    few, some = terms[:, ::step, ::step].reshape(6, -1), values[::step, ::step].ravel()
    paper = np.ones_like(some)
    for _ in range(4):
        light = np.linalg.solve(few * paper @ few.T + 1e-6 * np.eye(6), few * paper @ some)
        rest = some - light @ few
        light[0] += _quantile(rest, 0.5)
        paper = (rest < _quantile(rest, 0.5) + _spread(rest)).astype(float)
    return np.asarray(np.tensordot(light, terms, 1))


def _check_single(ink: Ink) -> None:
    """Raise a DataError for two digits side by side: parts about as high, with an empty column between them.

    Of MNIST's 70,000 digits, some of which are in two parts, none is taken for two.
    """
    height, width = ink.shape
    columns = ink.sum(axis=0)
    enough, least = (0.5, 0.1) if width > 1.3 * height else (0.65, 0.25)
    for gap in np.flatnonzero((ink <= FAINT).all(axis=0)):
        parts = ink[:, :gap], ink[:, gap:]
        lowest = min(np.ptp(np.flatnonzero((part > FAINT).any(axis=1))) + 1 for part in parts)
        share = min(columns[:gap].sum(), columns[gap:].sum()) / columns.sum()
        if lowest > enough * height and share > least:
            raise DataError("has more than one digit; crop it to one")


def _offset(profile: Ink, side: int) -> int:
    """Where to put a box of that side, so that its centre of mass is in [13.5, 14.5), as MNIST's are."""
    mass = float(profile @ np.arange(side) / profile.sum())
    return min(max(math.ceil(CENTRE - 0.5 - 1e-6 - mass), 0), SIDE - side)  # equal sums, whatever their order


def _mean_around(values: Ink, radius: int) -> Ink:
    """Each pixel's mean with its neighbours up to ``radius`` away; beyond the edge is 0."""
    return np.asarray(ndimage.uniform_filter(values, 2 * radius + 1, mode="constant"))


def _quantile(values: Ink, share: float) -> float:
    return float(np.sort(values, axis=None)[int(share * (values.size - 1))])


def _spread(values: Ink) -> float:
    """A standard deviation that a small part of other values does not change."""
    return 1.4826 * _quantile(abs(values - _quantile(values, 0.5)), 0.5)


def _otsu(values: Ink) -> float:
    """The threshold between the two classes that differ most (Otsu, 1979)."""
    counts = np.bincount(values.clip(0, 255).astype(int).ravel(), minlength=256).astype(float)
    below, total = counts.cumsum(), (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    means = total / below.clip(1), (total[-1] - total) / above.clip(1)
    return float((below * above * (means[0] - means[1]) ** 2).argmax() + 1)
