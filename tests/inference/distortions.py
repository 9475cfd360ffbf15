"""Real test digits as people draw and photograph them, from fixed seeds."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Grey = NDArray[np.uint8]
LARGE = 280


def enlarge(digit: Grey, side: int = LARGE) -> Grey:
    """Drawn ten times as large: light on black, ``[280, 280]``."""
    return np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def scaled(digit: Grey, random: np.random.Generator) -> Grey:
    """0.5 to 1.5 times as large; what does not fit is not cut off, since the canvas is larger."""
    side = int(LARGE * random.uniform(0.5, 1.5))
    canvas = np.zeros((420, 420), np.uint8)
    start = (420 - side) // 2
    canvas[start : start + side, start : start + side] = enlarge(digit, side)
    return canvas


def shifted(digit: Grey, random: np.random.Generator) -> Grey:
    """Moved by up to 4 of 28 pixels."""
    top, left = random.integers(0, 81, 2)
    canvas = np.zeros((LARGE + 80, LARGE + 80), np.uint8)
    canvas[top : top + LARGE, left : left + LARGE] = enlarge(digit)
    return canvas[40:-40, 40:-40]


def anywhere(digit: Grey, random: np.random.Generator) -> Grey:
    """Half to all of its size, anywhere on a canvas of 420 pixels."""
    side = int(LARGE * random.uniform(0.5, 1))
    canvas = np.zeros((420, 420), np.uint8)
    top, left = random.integers(0, 421 - side, 2)
    canvas[top : top + side, left : left + side] = enlarge(digit, side)
    return canvas


def inverted(digit: Grey, random: np.random.Generator) -> Grey:
    """Dark on white."""
    return 255 - enlarge(digit)


def paper(ink: Grey, random: np.random.Generator) -> Grey:
    """A photograph: dark ink on textured paper, light from one side, noise, a lens's blur, JPEG."""
    y, x = np.indices(ink.shape) / max(ink.shape) - 0.5
    angle = random.uniform(0, 2 * np.pi)
    light = (
        1
        + random.uniform(0.15, 0.45) * (x * np.cos(angle) + y * np.sin(angle))
        - random.uniform(0, 0.3) * (x * x + y * y)
    )
    texture = ndimage.gaussian_filter(random.normal(0, 1, ink.shape), random.uniform(1, 3))
    sheet = random.uniform(170, 225) + random.uniform(2, 5) * texture / texture.std()
    pen = random.uniform(30, 90)
    picture = (sheet + (pen - sheet) * ink / 255) * light
    picture = ndimage.gaussian_filter(picture, 1.5) + random.normal(0, random.uniform(2, 6), ink.shape)
    return picture.clip(0, 255).astype(np.uint8)


def on_paper(digit: Grey, random: np.random.Generator) -> Grey:
    return paper(enlarge(digit), random)


def anywhere_on_paper(digit: Grey, random: np.random.Generator) -> Grey:
    return paper(anywhere(digit, random), random)


def _disc(radius: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius)


def thinner(digit: Grey, random: np.random.Generator) -> Grey:
    """Strokes 1.2 of 28 pixels thinner."""
    return np.asarray(ndimage.grey_erosion(enlarge(digit), footprint=_disc(6)))


def thicker(digit: Grey, random: np.random.Generator) -> Grey:
    """Strokes 1.6 of 28 pixels thicker."""
    return np.asarray(ndimage.grey_dilation(np.pad(enlarge(digit), 10), footprint=_disc(8)))


DISTORTIONS: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "half to one and a half times as large": scaled,
    "moved by up to 4 of 28 pixels": shifted,
    "anywhere on a larger canvas": anywhere,
    "dark on light": inverted,
    "on paper, in place": on_paper,
    "on paper, anywhere": anywhere_on_paper,
    "strokes 1.2 pixels thinner": thinner,
    "strokes 1.6 pixels thicker": thicker,
}


def distort(what: str, digit: Grey, seed: int) -> Grey:
    """One of `DISTORTIONS` of a digit, ``[28, 28]``."""
    return DISTORTIONS[what](digit, np.random.default_rng([18, seed]))
