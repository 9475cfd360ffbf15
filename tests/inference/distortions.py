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


def faint_patch() -> Grey:
    """No digit: a patch as good as the background, and one bright pixel by which its contrast is measured."""
    picture = np.full((100, 100), 100, np.uint8)
    picture[20:70, 20:70], picture[5, 5] = 86, 255
    return picture


def _disc(radius: int) -> NDArray[np.bool_]:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= radius * radius)


def thinner(digit: Grey, random: np.random.Generator) -> Grey:
    """Strokes 1.2 of 28 pixels thinner."""
    return np.asarray(ndimage.grey_erosion(enlarge(digit), footprint=_disc(6)))


def thicker(digit: Grey, random: np.random.Generator) -> Grey:
    """Strokes 1.6 of 28 pixels thicker."""
    return np.asarray(ndimage.grey_dilation(np.pad(enlarge(digit), 10), footprint=_disc(8)))


def small(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph of 3,000 pixels a side; the digit's 28 pixels are 112 there."""
    picture = np.zeros((3000, 3000), np.uint8)
    top, left = random.integers(0, 3000 - 112, 2)
    picture[top : top + 112, left : left + 112] = enlarge(digit, 112)
    return paper(picture, random)


DISTORTIONS: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "half to one and a half times as large": scaled,
    "moved by up to 4 of 28 pixels": shifted,
    "anywhere on a larger canvas": anywhere,
    "dark on light": inverted,
    "on paper, in place": on_paper,
    "on paper, anywhere": anywhere_on_paper,
    "strokes 1.2 pixels thinner": thinner,
    "strokes 1.6 pixels thicker": thicker,
    "small in a large photo": small,
}


def distort(what: str, digit: Grey, seed: int) -> Grey:
    """One of `DISTORTIONS` or `SURROUNDINGS` of a digit, ``[28, 28]``."""
    return (DISTORTIONS | SURROUNDINGS)[what](digit, np.random.default_rng([18, seed]))


def framed(digit: Grey, random: np.random.Generator) -> Grey:
    """Dark on white, with a frame as thin as a pixel, at the picture's edge or up to 20 pixels inside it."""
    picture, inset = np.pad(255 - enlarge(digit), 40, constant_values=255), int(random.integers(0, 21))
    frame = np.ones(picture.shape, bool)
    frame[inset + 1 : -inset - 1, inset + 1 : -inset - 1] = False
    frame[:inset] = frame[:, :inset] = frame[-inset or LARGE + 80 :] = frame[:, -inset or LARGE + 80 :] = False
    return np.where(frame, 0, picture).astype(np.uint8)


def on_desk(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph of a sheet on a dark desk, which is seen around it."""
    desk = np.pad(enlarge(digit), 30)
    return np.pad(paper(desk, random), 40, constant_values=50)


def on_card(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph of a card that takes a quarter of the picture, on a dark desk."""
    return np.pad(paper(np.pad(enlarge(digit), 30), random), 170, constant_values=50)


def with_shadow(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph with a finger's shadow in a corner, which does not reach the digit."""
    picture = np.pad(enlarge(digit), 60)
    y, x = np.indices(picture.shape)
    light = ndimage.gaussian_filter(np.where(np.hypot(y - 400, x) < random.uniform(80, 130), 0.5, 1), 4)
    return (paper(picture, random) * light).astype(np.uint8)


def scanned(digit: Grey, random: np.random.Generator) -> Grey:
    """A scan: even light, a sensor's noise."""
    return (245.0 - 220 / 255 * enlarge(digit) + random.normal(0, 7, (LARGE, LARGE))).clip(0, 255).astype(np.uint8)


def lined(digit: Grey, random: np.random.Generator) -> Grey:
    """An even scan of lined paper; the lines pass through the digit."""
    lines = np.where(np.arange(LARGE) % random.integers(30, 60) < 2, 0.8, 1)[:, None]
    return ((255 - enlarge(digit)) * lines).astype(np.uint8)


def dusty(digit: Grey, random: np.random.Generator) -> Grey:
    """An even scan with a speck of dust beside the digit, and an underline."""
    picture = np.pad(255 - enlarge(digit), 40, constant_values=255)
    picture[8:12, random.integers(20, 330) :][:, :4] = 0
    picture[335:340, 30:330] = 0
    return picture


def pencilled(digit: Grey, random: np.random.Generator) -> Grey:
    """A photograph of pencil, which differs less from the paper than the light does from one side to the other."""
    y, x = np.indices((LARGE, LARGE)) / LARGE - 0.5
    light = 210 * (1 + random.uniform(0.3, 0.5) * (x * random.choice([-1, 1]) + y / 2))
    picture = light * (1 - 0.3 / 255 * enlarge(digit)) + random.normal(0, 3, x.shape)
    return np.asarray(picture.clip(0, 255), np.uint8)


SURROUNDINGS: dict[str, Callable[[Grey, np.random.Generator], Grey]] = {
    "in a thin frame": framed,
    "on a desk": on_desk,
    "on a small card": on_card,
    "a shadow in a corner": with_shadow,
    "a noisy scan": scanned,
    "pencil in uneven light": pencilled,
    "a scan of lined paper": lined,
    "dust and an underline": dusty,
}
"""What else may be in a picture; it must make no difference."""
