"""From a picture of one digit to what the networks were trained on: change `preprocessing.js` with it.

MNIST's are 20 pixels large, with their centre of mass at 14.0 ± 0.5 of 28 (LeCun et al., 1998), and stay as they are.
"""

import io
import itertools
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_exp.errors import DataError

LARGEST, COARSE, WINDOW = 600, 60, 17  # pixels: longest sides for finding a digit, and paper; wider than a stroke there
SIDE, BOX, FEWEST, MIN_CONTRAST = (
    28,
    20,
    4,
    24,
)  # the last two: pixels of ink, and grey levels of 255, below which there is no digit
EVEN, FAINT, DUST = 0.02, 0.1, 0.005  # even background: shares of the contrast in it, of ink, of the largest part
CLEAR, SHADE, SPECK = 11, 0.3, 0.05  # a photograph: contrast / noise; the least ink, and the least part, as above

Grey = NDArray[np.uint8]
Ink = NDArray[np.float64]


def open_image(source: Path | bytes) -> Image.Image:
    """The image in a file, or in a file's content, upright (EXIF); of several, the first.

    Raises:
        DataError: it cannot be read, or is not an image.
    """
    try:
        opened = io.BytesIO(source) if isinstance(source, bytes) else source
        with warnings.catch_warnings(action="ignore"), Image.open(opened) as image:  # it is large; larger is an error
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
        level, alpha = (np.asarray(band, float) for band in image.convert("RGBA").convert("LA").split())
        # Behind dark ink white, behind light ink black: a drawing's ink is what is not transparent.
        behind = 255 if (level * alpha).sum() < 127.5 * alpha.sum() else 0
        return np.asarray((level * alpha + behind * (255 - alpha)) / 255 + 0.5, np.uint8)
    return np.asarray(image if image.mode == "L" else image.convert("RGB").convert("L"))


def to_digit(grey: Grey) -> Grey:
    """The one digit in a picture (uint8, ``[H, W]``) as MNIST's are: light on black, uint8, ``[28, 28]``.

    Raises:
        DataError: there is no digit, or more than one.
    """
    ink = _find_digit(grey)
    height, width = (max(1, int(side * BOX / max(ink.shape) + 0.5)) for side in ink.shape)
    small = resize_matrix(ink.shape[0], height) @ ink @ resize_matrix(ink.shape[1], width).T
    corner = np.ceil(13.5 - 1e-6 - np.array(ndimage.center_of_mass(small)))  # 1e-6 is for sums in another order
    top, left = corner.clip(0, [SIDE - height, SIDE - width]).astype(int)
    around = (top, SIDE - height - top), (left, SIDE - width - left)
    return np.pad(small / small.max() * 255 + 0.5, around).astype(np.uint8)


def resize_matrix(before: int, after: int) -> Ink:
    """Weights that resize a side, ``[after, before]``: each the mean of the area that a pixel covers, or bilinear."""
    scale = before / after
    centres = (np.arange(after)[:, None] + 0.5) * scale
    reach, pixels = max(scale, 1) / 2, np.arange(before)
    weights = (np.minimum(centres + reach, pixels + 1) - np.maximum(centres - reach, pixels)).clip(0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _find_digit(grey: Grey) -> Ink:
    """The digit, cut out at its edges: from 0 (background) to 1, float64, ``[h, w]``."""
    factor = -(-max(grey.shape) // LARGEST)
    ink, is_photograph = _find_ink(np.asarray(Image.fromarray(grey).reduce(factor), float))
    labels, count = ndimage.label(ink >= (SHADE if is_photograph else FAINT), np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), ink.ravel() * (labels > 0).ravel())
    kept = sizes > (SPECK if is_photograph else DUST) * sizes.max()
    if is_photograph:  # what reaches two of its sides is a pattern, a shadow, or the edge of the paper
        kept &= [sum(part in side for side in (*labels[[0, -1]], *labels.T[[0, -1]])) < 2 for part in range(count + 1)]
    if not kept[sizes.argmax()]:
        raise DataError("The picture is blank, or has no margin around the digit.")
    parts = labels * kept[labels]
    box = ndimage.find_objects((parts > 0).astype(int))[0]
    margin = max(side.stop - side.start for side in box)
    near = tuple(slice(max(0, side.start - margin) * factor, (side.stop + margin) * factor) for side in box)
    if factor > 1 and max(grey[near].shape) < 0.7 * max(grey.shape):
        return _find_digit(grey[near])
    ink = np.where(parts == labels, ink, 0)[box]
    if max(ink.shape) > SIDE and not _is_single(ink, parts[box]):  # MNIST's own pixels are too few to tell
        raise DataError("The picture has more than one digit, or something else; crop it to one digit.")
    return ink


def _find_ink(values: Ink) -> tuple[Ink, bool]:
    """Each pixel's ink, from 0 (background) to 1, and whether the background is uneven, as in a photograph."""
    border = np.concatenate([*values[[0, -1]], *values.T[[0, -1]]])
    level = np.quantile(border, 0.5, method="lower")
    differs = abs(values - level)
    contrast = differs.max()
    if contrast < MIN_CONTRAST or (differs > contrast / 2).sum() < FEWEST:
        raise DataError("The picture is blank.")
    # Ink may reach a side of an even picture. What reaches two that are opposite may be lines on the paper.
    across = any((each[[0, -1]] > FAINT * contrast).any(axis=1).all() for each in (differs, differs.T))
    if not across and np.quantile(abs(border - level), 0.9, method="lower") <= EVEN * contrast:
        ink = (values - level) / contrast
        return (ink * np.sign((ink**3).sum())).clip(0), False  # skewed to dark: dark ink on light
    return _find_ink_on_paper(values), True


def _find_ink_on_paper(values: Ink) -> Ink:
    """The same for a photograph: by how much each pixel differs from the paper around it, be the ink dark or light."""
    coarse = np.asarray(Image.fromarray(values.astype(np.float32)).reduce(-(-max(values.shape) // COARSE)), float)
    wide, inside = np.pad(coarse, WINDOW - 1, "reflect", reflect_type="odd"), slice(WINDOW - 1, 1 - WINDOW)
    sign = 1 if ((coarse - ndimage.uniform_filter(coarse, WINDOW, mode="nearest")) ** 3).sum() >= 0 else -1
    # An opening has no strokes. Beyond the edges the light goes on as it came, or stays, whichever leaves less ink.
    paper, other = (ndimage.grey_opening(sign * each, (WINDOW, WINDOW), mode="nearest") for each in (wide, coarse))
    paper = ndimage.uniform_filter(np.maximum(paper[inside, inside], other), WINDOW // 2 + 1, mode="nearest")
    down, across = (resize_matrix(few, side) for few, side in zip(paper.shape, values.shape, strict=True))
    excess = ndimage.uniform_filter(sign * values - down @ paper @ across.T, 3, mode="nearest")
    excess -= np.quantile(excess, 0.5, method="lower")
    contrast = excess[excess >= np.sort(excess, axis=None)[-40:][0] / 2].mean()
    is_clear = contrast > max(CLEAR * excess[excess < contrast / 4].std(), MIN_CONTRAST)  # more than crumpled paper
    return np.where(is_clear & (excess >= SHADE * contrast), excess / contrast, 0).clip(0, 1)


def _is_single(ink: Ink, labels: NDArray[np.int32]) -> bool:
    """Whether the parts of a picture can be those of one digit, not of two, nor a pattern, a frame or a patch."""
    (height, width), longer = ink.shape, max(ink.shape)
    shares = np.bincount(labels.ravel(), ink.ravel())[1:] / ink.sum()
    parts = [part for part in zip(ndimage.find_objects(labels), shares, strict=True) if part[1] > 0.1 * max(shares)]
    spaces = np.bincount(ndimage.label(np.pad(labels, 1) == 0)[0].ravel())[2:]
    lines = [np.diff((labels > 0).mean(axis) > 0.97, prepend=False, append=False).sum() // 2 for axis in (0, 1)]
    solid = ndimage.minimum_filter(ink > 0.5, 1 + int(0.45 * longer), mode="constant").any()
    solid |= 2 * min(height, width) > longer and (labels > 0).mean() > 0.8
    bad = len(parts) > 5 or (spaces > 0.01 * ink.size).sum() > 4 or min(lines) > 1 or solid
    for ((rows, columns), share), ((below, beside), other) in itertools.permutations(parts, 2):
        h, w, high, wide = (side.stop - side.start for side in (rows, columns, below, beside))
        down, right = below.start - rows.stop, beside.start - columns.stop  # the gaps, if not negative
        enough, least = (0.5, 0.1) if width > 1.2 * height else (0.65, 0.25)
        bad |= right >= 0 and min(h, high) > enough * height and min(share, other) > least
        bad |= down >= 0 and height > 1.6 * width and min(h, high) > 0.3 * height
        bad |= min(h, high) > 0.85 * max(h, high) and min(w, wide) > 0.85 * max(w, wide)
        bad |= down > 0 and 8 * high < wide > 1.2 * w  # an underline
    return not bad
