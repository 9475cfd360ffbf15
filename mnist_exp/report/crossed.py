"""Runs × images: what can be said of a mean over both, when other seeds and other images were possible.

Seeds and images are crossed and both random: ``x[s, i] = mean + seed[s] + image[i] + rest[s, i]``. Their
variances are estimated by the method of moments, and combined with the degrees of freedom of Satterthwaite
(1946). Everything is computed from the products of the runs' rows, so that hundreds of pairs of runs cost
no more than one matrix product. How often the intervals hold is in ``outputs/reference/coverage``.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri, stdtr, stdtrit

LEVEL = 0.95
CHUNK = 4_000
"""Images that are multiplied at once, in double precision."""


@dataclass(frozen=True)
class Crossed:
    """S runs on the same N images, as the numbers that an analysis of variance needs."""

    sums: NDArray[np.float64]
    """Over the images, ``[S]``."""
    products: NDArray[np.float64]
    """``x @ x.T`` of the values ``x[S, N]``: ``[S, S]``."""
    images: int

    def minus(self, other: "Crossed", between: NDArray[np.float64]) -> "Crossed":
        """The differences to the same seeds of another group; ``between`` is ``x @ y.T``, ``[S, S]``."""
        products = self.products + other.products - between - between.T
        return Crossed(self.sums - other.sums, products, self.images)

    @property
    def parts(self) -> tuple[float, float]:
        """The variance of the grand mean that is due to seeds, and that due to images.

        The first, ``MS_seeds / SN``, includes what seeds and images do together; it is 0 for one seed.
        The second is ``(MS_images - MS_rest) / SN``, and at least 0.
        """
        seeds, images, rest = self.mean_squares()
        return seeds / self._size, max(images - rest, 0.0) / self._size

    @property
    def degrees(self) -> float:
        """Satterthwaite's degrees of freedom of the sum of both parts."""
        n, seeds = self.images - 1, len(self.sums) - 1
        if seeds == 0:
            return float(n)
        squares = self.mean_squares()
        below = sum(s**2 / d for s, d in zip(squares, (seeds, n, seeds * n), strict=True))
        total = sum(self.parts) * self._size
        return float(np.clip(total**2 / below, seeds, n)) if below else float(n)

    @property
    def _size(self) -> int:
        return len(self.sums) * self.images

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
    """Half the 95 % interval of the grand mean: for new seeds and images, or for new images of one run.

    It is about never less than what the seeds alone give (`_floor`).
    """
    whole = math.sqrt(sum(crossed.parts)) * _quantile(crossed.degrees)
    few = len(crossed.sums) - 1
    return max(whole, math.sqrt(_floor(crossed)) * _quantile(few)) if few else whole


def t_test(crossed: Crossed, mean: float) -> float:
    """Two-sided p-value of a mean of 0; below 0.05 exactly where `half_width`'s interval leaves out 0."""
    few = len(crossed.sums) - 1
    whole = tail(mean, sum(crossed.parts), crossed.degrees)
    return max(whole, tail(mean, _floor(crossed), few)) if few else whole


def _floor(crossed: Crossed) -> float:
    """The least variance of the mean, with as many degrees of freedom as the seeds give.

    Where two or three seeds happen to agree, Satterthwaite's formula takes that for granted: intervals of two
    hold in 87 % of the cases. With the seeds' whole part as the least, they hold in 98 %; less a sixteenth of
    the images' part, in 94 to 96 %, whichever of the two is larger.
    """
    seeds, images = crossed.parts
    return max(seeds - images / 16, 0.0)


def mcnemar_test(crossed: Crossed) -> float:
    """The exact p-value that two trained networks err equally often (McNemar 1947), from their differences.

    Of the images that only one of the two gets wrong, as many would be the one's as the other's.
    """
    differ = round(float(crossed.products[0, 0]))
    fewer = (differ - abs(round(float(crossed.sums[0])))) // 2
    return min(1.0, 2 * float(bdtr(fewer, differ, 0.5))) if differ else 1.0


def wilson_interval(share: float, images: int) -> tuple[float, float]:
    """The 95 % interval of the share of independent images (Wilson 1927), within 0 and 1."""
    z2 = float(ndtri((1 + LEVEL) / 2)) ** 2 / images
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4))
    return max((share + z2 / 2 - half) / (1 + z2), 0.0), min((share + z2 / 2 + half) / (1 + z2), 1.0)


def tail(mean: float, variance: float, degrees: float) -> float:
    """Student's two-sided p-value of a mean with this estimated variance."""
    if variance <= 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(mean) / math.sqrt(variance)))


def _quantile(degrees: float) -> float:
    return float(stdtrit(degrees, (1 + LEVEL) / 2))


@dataclass(frozen=True)
class Products:
    """The products of all runs of a section that were evaluated on the same images."""

    rows: Mapping[tuple[str, int], int]
    """Label of the group and seed → row."""
    sums: NDArray[np.float64]
    """``[R]``"""
    products: NDArray[np.float64]
    """``[R, R]``"""
    images: int

    def of(self, label: str, seeds: Iterable[int]) -> Crossed | None:
        """The runs of these seeds; None where one of them is not here."""
        at = [self.rows.get((label, seed)) for seed in seeds]
        if not at or None in at or self.images < 2:
            return None
        rows = np.array(at, dtype=int)
        return Crossed(self.sums[rows], self.products[np.ix_(rows, rows)], self.images)

    def difference(self, first: str, second: str, seeds: list[int]) -> Crossed | None:
        """Of two groups' values, paired by seed; None where a run is not here."""
        a, b = self.of(first, seeds), self.of(second, seeds)
        if a is None or b is None:
            return None
        places = ([self.rows[label, seed] for seed in seeds] for label in (first, second))
        return a.minus(b, self.products[np.ix_(*places)])


def multiply(values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums ``[R]`` and the products ``[R, R]`` of rows ``[R, N]``."""
    sums, products = np.zeros(len(values)), np.zeros((len(values), len(values)))
    for start in range(0, values.shape[1], CHUNK):
        part = values[:, start : start + CHUNK].astype(np.float64)
        sums += part.sum(axis=1)
        products += part @ part.T
    return sums, products
