"""Two-way random-effects analysis of variance (runs × images): the interval and the test of a mean over both.

Seeds and images are crossed and both random: ``x[s, i] = mean + seed[s] + image[i] + rest[s, i]``. Their
variances are estimated by the method of moments, and combined with the degrees of freedom of Satterthwaite
(1946). How often the intervals hold is in ``outputs/reference/coverage``.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Crossed:
    """S runs on the same N images, as the numbers that an analysis of variance needs."""

    sums: NDArray[np.float64]
    """Over the images, ``[S]``."""
    products: NDArray[np.float64]
    """``x @ x.T`` of the values ``x[S, N]``: ``[S, S]``."""
    images: int

    @classmethod
    def of(cls, values: NDArray[np.float32], images: int) -> "Crossed":
        """Of the values of S runs on M of the images, ``[S, M]``; on the others all values are 0."""
        x = values.astype(np.float64)
        return cls(x.sum(axis=1), x @ x.T, images)

    @property
    def variance_parts(self) -> tuple[float, float]:
        """The variance of the grand mean that is due to seeds, and that due to images.

        The first, ``MS_seeds / SN``, includes what seeds and images do together; it is 0 for one seed.
        The second is ``(MS_images - MS_rest) / SN``, and at least 0.
        """
        seeds, images, rest = self.mean_squares
        return seeds / self._size, max(images - rest, 0.0) / self._size

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of the sum of both parts."""
        n, seeds = self.images - 1, len(self.sums) - 1
        if seeds == 0:
            return float(n)
        squares = self.mean_squares
        below = sum(s**2 / d for s, d in zip(squares, (seeds, n, seeds * n), strict=True))
        total = sum(self.variance_parts) * self._size
        return float(np.clip(total**2 / below, seeds, n)) if below else float(n)

    @property
    def _size(self) -> int:
        return len(self.sums) * self.images

    @cached_property
    def mean_squares(self) -> tuple[float, float, float]:
        """Of seeds, of images and of the rest; for one seed, (0, that of the images, 0)."""
        runs, n, mean = len(self.sums), self.images, self.sums.sum() / self._size
        seeds = float((self.sums**2).sum() / n - self._size * mean**2)
        images = float(self.products.sum() / runs - self._size * mean**2)
        rest = float(np.trace(self.products) - self._size * mean**2) - seeds - images
        if runs == 1:
            return 0.0, max(images, 0.0) / (n - 1), 0.0
        return max(seeds, 0.0) / (runs - 1), max(images, 0.0) / (n - 1), max(rest, 0.0) / ((runs - 1) * (n - 1))


def half_width(crossed: Crossed) -> float:
    """Half the width of the 95 % interval of the grand mean: for new seeds and images; of one run, for new images."""
    return max(math.sqrt(variance) * t_factor(degrees) for variance, degrees in _variances(crossed))


def t_test(crossed: Crossed, mean: float) -> float:
    """Two-sided p-value of a mean of 0; below 0.05 exactly where `half_width`'s interval leaves out 0."""
    return max(student_p(mean, variance, degrees) for variance, degrees in _variances(crossed))


def _variances(crossed: Crossed) -> list[tuple[float, float]]:
    """The variances to allow for, each with its degrees of freedom; whichever gives the wider interval counts.

    The first is the mean's, with Satterthwaite's degrees of freedom. It is too small where two or three seeds happen
    to agree: intervals of two seeds then hold in only 87 % of cases. So several seeds have a second one, a floor: the
    seeds' part alone, with their own degrees of freedom. In full it is too wide (98 %); less a sixteenth of the images'
    part, intervals hold in 94 to 96 % of cases, whether seeds or images vary more.
    """
    seeds, images = crossed.variance_parts
    whole, few = (seeds + images, crossed.degrees), len(crossed.sums) - 1
    return [whole, (max(seeds - images / 16, 0.0), few)] if few else [whole]


def mcnemar_test(crossed: Crossed) -> float:
    """The exact p-value that two trained networks err equally often (McNemar 1947), from their differences.

    If they do, an image that only one of them gets wrong is equally likely to be either one's error.
    """
    differ = round(float(crossed.products[0, 0]))
    fewer = (differ - abs(round(float(crossed.sums[0])))) // 2
    return float(stats.binomtest(fewer, differ).pvalue) if differ else 1.0


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of the share of independent images (Wilson 1927), within 0 and 1."""
    found = stats.binomtest(round(share * images), images).proportion_ci(LEVEL, "wilson")
    return float(found.low), float(found.high)


def student_p(mean: float, variance: float, degrees: float) -> float:
    """Student's two-sided p-value of a mean with this estimated variance."""
    if variance <= 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), degrees))


def t_factor(degrees: float) -> float:
    """The factor of a 95 % interval: of Student's t with so many degrees of freedom."""
    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))
