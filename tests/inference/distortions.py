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


def paper(ink: Grey, random: np.random.Generator) -> Grey:
    """A photograph: dark ink on textured paper, light from one side, a lens's blur, noise.

    Texture and noise repeat after 600 pixels, which saves minutes.
    """
    y, x = np.indices(ink.shape, np.float32) / max(ink.shape) - np.float32(0.5)
    angle = random.uniform(0, 2 * np.pi)
    slope, vignette = random.uniform(0.15, 0.45), random.uniform(0, 0.3)
    light = 1 + slope * (x * np.cos(angle) + y * np.sin(angle)) - vignette * (x * x + y * y)
    tile = [min(side, 600) for side in ink.shape]
    texture = ndimage.gaussian_filter(random.normal(0, 1, tile), random.uniform(1, 3))
    sheet = _tiled(random.uniform(170, 225) + random.uniform(2, 5) * texture / texture.std(), ink.shape)
    pen = random.uniform(30, 90)
    picture = ndimage.gaussian_filter((sheet + (pen - sheet) * (ink / np.float32(255))) * light, 1.5)
    noise = _tiled(random.normal(0, random.uniform(2, 6), tile), ink.shape)
    return np.asarray((picture + noise).clip(0, 255), np.uint8)


def _tiled(tile: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float32]:
    rows, columns = (np.arange(side) % of for side, of in zip(shape, tile.shape, strict=True))
    return np.asarray(tile[rows[:, None], columns], np.float32)


def _disc(radius: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius)


def thinner(digit: Grey, random: np.random.Generator) -> Grey:
    """Strokes 1.2 of 28 pixels thinner."""
    return np.asarray(ndimage.grey_erosion(enlarge(digit), footprint=_disc(6)))


def thicker(digit: Grey, random: np.random.Generator) -> Grey:
    """Strokes 1.6 of 28 pixels thicker."""
    return np.asarray(ndimage.grey_dilation(np.pad(enlarge(digit), 10), footprint=_disc(8)))


def in_a_large_photograph(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph of 3,000 pixels a side, of which MNIST's 28 are 112."""
    canvas = np.zeros((3000, 3000), np.uint8)
    top, left = random.integers(0, 3000 - 112, 2)
    canvas[top : top + 112, left : left + 112] = enlarge(digit, 112)
    return paper(canvas, random)


def scanned(digit: Grey, random: np.random.Generator) -> Grey:
    """A scan of lined paper: even light, a sensor's noise, lines that pass through the digit, and a speck."""
    lines = np.where(np.arange(LARGE) % random.integers(30, 60) < 2, 0.8, 1)[:, None]
    picture = (245 - 220 / 255 * enlarge(digit)) * lines + random.normal(0, 7, (LARGE, LARGE))
    picture[8:12, random.integers(20, 230) :][:, :4] = 20
    return np.asarray(picture.clip(0, 255), np.uint8)


def pencilled(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph of pencil, which differs less from the paper than the light does from one side to the other."""
    y, x = np.indices((LARGE, LARGE)) / LARGE - 0.5
    light = 210 * (1 + random.uniform(0.3, 0.5) * (x * random.choice([-1, 1]) + y / 2))
    picture = light * (1 - 0.3 / 255 * enlarge(digit)) + random.normal(0, 3, x.shape)
    return np.asarray(picture.clip(0, 255), np.uint8)


def blank_paper(what: str, seed: int) -> Grey:
    """A page without a digit: "squares", "lines" or "dots", with or without margins, or "crumples".

    Every other one is photographed, the rest is even.
    """
    random = np.random.default_rng([19, seed])
    y, x = np.indices((400, 400))
    if what == "crumples":  # facets, each with its own shade and slope
        corners = random.uniform(0, 400, (2, random.integers(4, 40), 1, 1))
        facet = np.hypot(*(corners - np.stack([y, x])[:, None])).argmin(axis=0)
        shade, down, across = random.normal(0, [[random.uniform(5, 25)], [0.1], [0.1]], (3, corners.shape[1]))
        ink = shade[facet] + down[facet] * (y - 200) + across[facet] * (x - 200)
        ink = ndimage.gaussian_filter(ink - ink.min(), random.uniform(0.7, 4))
    else:
        period, width, start = random.integers([15, 1, 0], [90, 4, 15])
        rows, columns = (y + start) % period, (x + start) % period
        dots = np.hypot(rows - period / 2, columns - period / 2) < random.uniform(1, period / 4)
        lines = rows < width if what == "lines" else (rows < width) | (columns < width)
        ink = random.uniform(50, 200) * (dots if what == "dots" else lines)
        margin = int(random.integers(0, 2) * random.integers(20, 120))
        ink[:margin] = ink[400 - margin :] = ink[:, :margin] = ink[:, 400 - margin :] = 0
    if seed % 2:
        return paper(np.asarray(ink.clip(0, 255), np.uint8), random)
    return np.asarray((235 - ink).clip(0, 255), np.uint8)


BLANK = ("squares", "lines", "dots", "crumples")
DISTORTIONS: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "half to one and a half times as large": scaled,
    "moved by up to 4 of 28 pixels": shifted,
    "anywhere on a larger canvas": anywhere,
    "dark on light": lambda digit, _: 255 - enlarge(digit),
    "on paper, in place": lambda digit, random: paper(enlarge(digit), random),
    "on paper, anywhere": lambda digit, random: paper(anywhere(digit, random), random),
    "strokes 1.2 pixels thinner": thinner,
    "strokes 1.6 pixels thicker": thicker,
    "small in a large photograph": in_a_large_photograph,
    "pencil in uneven light": pencilled,
    "a scan of lined paper": scanned,
}


def distort(what: str, digit: Grey, seed: int) -> Grey:
    """One of `DISTORTIONS` of a digit, ``[28, 28]``."""
    return DISTORTIONS[what](digit, np.random.default_rng([18, seed]))
