"""From a picture of one digit to what the networks were trained on: the way in which MNIST was made.

MNIST's digits fill a box of 20×20 pixels with their longer side, and lie in 28×28 with their centre of mass in the
centre (LeCun et al., 1998). `_find_ink` finds the digit: on an even background by its level alone, on a photograph
(`_extract_ink`) by what is brighter than the paper around it; `to_digit` then crops, resizes and places it. As
measured on all 70,000, the longer side is 20 (in 16 of them 19), and the centre of mass is at index 14.0 ± 0.5 in
both directions (in all but two). So these digits come out as they are. `preprocessing.js` does the same in a browser;
change both.
"""

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_exp.errors import DataError

SIDE, BOX, CENTRE = 28, 20, 14.0
LARGEST = 600  # pixels of the longer side; larger pictures are shrunk first
SMALLEST, FEWEST = 8, 4  # pixels of the longer side, and of ink, below which there is no digit
MIN_CONTRAST = 24  # grey levels, of 255, by which ink must differ from its background
SPECK = 0.05  # in a photograph, a part with less than this share of the largest part's ink is dirt
DUST = 0.005  # the same on an even background
EVEN = 0.02  # the share of the contrast by which an even background may vary
FAINT = 0.1  # a pixel with less than this share of the contrast is background

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
    grey = image if image.mode == "L" else image.convert("RGB").convert("L")
    return np.asarray(grey.reduce(-(-max(grey.size) // LARGEST)))


def to_digit(grey: Grey) -> Grey:
    """The one digit in a picture, as MNIST's are: light on black, uint8, ``[28, 28]``.

    Args:
        grey: uint8, ``[H, W]``; dark on light or light on dark.

    Raises:
        DataError: there is no digit, or more than one; the message completes "FILE …".
    """
    ink = _find_ink(grey.astype(float))
    if (ink > max(FAINT, ink.max() / 2)).sum() < FEWEST:
        raise DataError("is blank")
    ink = ink[_find_box(ink > FAINT)]
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


def _find_ink(values: Ink) -> Ink:
    """Each pixel's ink, from 0 (background) to 1, whether the digit is lighter or darker than the rest."""
    border, sides = _border(values), (values[0], values[-1], values[:, 0], values[:, -1])
    level = _quantile(border, 0.5)
    contrast = max(level - values.min(), values.max() - level)
    if max(values.shape) < SMALLEST or contrast < MIN_CONTRAST:
        raise DataError("is blank")
    # Ink may reach one side of an even picture. What reaches more may be lines on the paper, or a shadow.
    touched = sum(bool((abs(side - level) > FAINT * contrast).any()) for side in sides)
    is_flat = touched <= 1 and _quantile(abs(border - level), 0.9) <= EVEN * contrast
    threshold = _otsu(values)
    unlike_border = abs(values - level) > FAINT * contrast
    if not is_flat:
        unlike_border = values >= threshold if level < threshold else values < threshold
    sheet = _find_sheet(values, unlike_border)
    if sheet is not None:
        return _find_ink(sheet)
    radius = max(values.shape) // 4
    around = level if is_flat else _mean_around(values, radius) / _mean_around(np.ones_like(values), radius)
    if ((values - around) ** 3).sum() < 0:  # skewed to dark: dark ink on light; from here on, ink is bright
        values, level = 255 - values, 255 - level
    if not is_flat:
        return _extract_ink(values)
    ink = (values - level).clip(0) / contrast
    return np.where((ink < FAINT) | _find_digit(ink, FAINT, is_flat=True), ink, 0)


def _find_sheet(values: Ink, unlike_border: NDArray[np.bool_]) -> Ink | None:
    """The inside of a sheet that lies on a desk or fills a window, if what differs from the border is a sheet."""
    rows, columns = _find_box(unlike_border, 0.5)  # without small things beside it on the desk
    part = unlike_border[rows, columns]
    share = min(inner / side for inner, side in zip(part.shape, values.shape, strict=True))
    # Of MNIST's 70,000 digits, drawn larger, none is as much of a rectangle as a small sheet must be.
    is_card = part.mean() > 0.7 and part.sum() > 0.9 * unlike_border.sum() and min(part.shape) > 0.4 * max(part.shape)
    is_card &= max(values.shape) > 4 * SIDE
    if min(part.shape) <= SMALLEST or share <= (0.2 if is_card else 0.5) or part.mean() < 0.5 or not _is_outline(part):
        return None
    if _border(unlike_border).mean() > 0.25:  # a sheet touches little of the border: the brighter half of uneven paper
        return None
    inset = 1 + min(part.shape) // 50  # at its edges the brightness is mixed
    return values[rows, columns][inset:-inset, inset:-inset]


def _find_box(mask: NDArray[np.bool_], share: float = 0) -> tuple[slice, slice]:
    """From the first to the last row and column that has more than that share of the fullest one's pixels."""
    full = (np.flatnonzero(counts > share * counts.max()) for counts in (mask.sum(axis=1), mask.sum(axis=0)))
    rows, columns = (slice(places[0], places[-1] + 1) for places in full)
    return rows, columns


def _extract_ink(values: Ink) -> Ink:
    """What is brighter than the paper around it, from 0 to 1; uneven light, texture and specks are left out."""
    side = max(values.shape)
    excess = values - _lighting(values)
    paper = (excess < 2 * _spread(excess)).astype(float)
    around = _mean_around(excess * paper, side // 8) / _mean_around(paper, side // 8).clip(1e-9)
    excess = _mean_around(excess - around, side // 280)
    noise, threshold = _spread(excess), _otsu(excess)
    if threshold < max(3 * noise, MIN_CONTRAST / 2):
        raise DataError("is blank, or has no margin around the digit")
    kept = _find_digit(excess, threshold, is_flat=False)
    near = _mean_around(kept.astype(float), 1 + side // 280) > 1e-9  # soft edges
    return np.where(near, ((excess - 2 * noise) / (excess[kept].mean() - 2 * noise)).clip(0, 1), 0)


def _find_digit(strength: Ink, threshold: float, is_flat: bool) -> NDArray[np.bool_]:
    """Which pixels above the threshold are the digit, and no speck, frame, underline or edge of a photograph."""
    labels, count = ndimage.label(strength >= threshold, np.ones((3, 3)))
    sizes = np.asarray(ndimage.sum_labels(strength, labels, range(1, count + 1)))
    at_edge = np.isin(range(1, count + 1), _border(labels)) & (not is_flat)
    heights, widths = np.zeros((2, count), int)
    framing = np.zeros(count, bool)
    for place, box in enumerate(ndimage.find_objects(labels)):
        part = labels[box] == place + 1
        heights[place], widths[place] = part.shape
        framing[place] = part.mean() < 0.5 and _is_outline(part)
    underline = (widths > 8 * heights) & (widths > heights.max(initial=0))
    kept = np.ones(count, bool)
    for unlikely in (at_edge, framing, underline):  # each is dropped only if something substantial is left
        rest = kept & ~unlikely
        if (rest & (sizes > SPECK * sizes[kept].max(initial=0))).any():
            kept = rest
    kept &= sizes > (DUST if is_flat else SPECK) * sizes[kept].max(initial=0)
    return np.isin(labels, 1 + np.flatnonzero(kept))


def _is_outline(part: NDArray[np.bool_]) -> bool:
    """Whether a part lies along all four sides of its box, as a sheet or a frame does, and no digit."""
    height, width = (1 + side // 10 for side in part.shape)
    sides = part[:height].any(0), part[-height:].any(0), part[:, :width].any(1), part[:, -width:].any(1)
    return all(float(side.mean()) > 0.9 for side in sides)


def _lighting(values: Ink) -> Ink:
    """The paper's brightness, a quadratic function of position, fitted so that ink (brighter) does not count."""
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
    """Raise a DataError for two digits: parts as high with an empty column between them, or as large with an empty row.

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
    for gap in np.flatnonzero((ink <= FAINT).all(axis=1)):
        boxes = [part[_find_box(part > FAINT)].shape for part in (ink[:gap], ink[gap:])]
        heights, widths = zip(*boxes, strict=True)
        alike = min(heights) > 0.75 * max(heights) and min(widths) > 0.5 * max(widths)
        if alike and all(high > 0.6 * wide for high, wide in boxes):
            raise DataError("has more than one digit; crop it to one")


def _offset(profile: Ink, side: int) -> int:
    """Where to put a box of that side, so that its centre of mass is in [13.5, 14.5), as MNIST's are."""
    mass = float(profile @ np.arange(side) / profile.sum())
    return min(max(math.ceil(CENTRE - 0.5 - 1e-6 - mass), 0), SIDE - side)  # equal sums, whatever their order


def _border(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([values[0], values[-1], values[1:-1, 0], values[1:-1, -1]])


def _mean_around(values: Ink, radius: int) -> Ink:
    """Each pixel's mean with its neighbours up to ``radius`` away; beyond the edge is 0."""
    return np.asarray(ndimage.uniform_filter(values, 2 * radius + 1, mode="constant"))


def _quantile(values: Ink, share: float) -> float:
    return float(np.sort(values, axis=None)[int(share * (values.size - 1))])


def _spread(values: Ink) -> float:
    """A standard deviation that a small part of other values does not change; without noise 1 grey level."""
    return max(1.0, 1.4826 * _quantile(abs(values - _quantile(values, 0.5)), 0.5))


def _otsu(values: Ink) -> float:
    """The threshold between the two classes that differ most (Otsu, 1979)."""
    counts = np.bincount(values.clip(0, 255).astype(int).ravel(), minlength=256).astype(float)
    below, total = counts.cumsum(), (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    means = total / below.clip(1), (total[-1] - total) / above.clip(1)
    return float((below * above * (means[0] - means[1]) ** 2).argmax() + 1)
