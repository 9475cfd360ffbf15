"""What can be said of a handful of seeds: intervals, comparisons, and the verdict on the published run."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from mnist_exp.report import crossed as anova
from mnist_exp.report.crossed import LEVEL, Crossed, student_p, t_factor

BOTH, IMAGES, SEEDS, NOTHING = "new seeds and new images", "new images", "new seeds", ""
"""What an interval generalises to. With new images only, it is about these trained networks."""
FRACTION, DIFFERENCE, LOSS, ANY = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
"""The bounds of accuracies, of their differences, of losses, and of metrics of which nothing is known."""
PUBLISHED_DECIMALS = 3
UNKNOWN = math.nan


@dataclass(frozen=True)
class Estimate:
    """The mean of a metric or of a paired difference over n seeds, with its 95 % intervals; NaN is not known."""

    n: int
    mean: float
    std: float = UNKNOWN
    """Sample standard deviation (n - 1) over the seeds."""
    low: float = UNKNOWN
    high: float = UNKNOWN
    """The interval for whatever `basis` names."""
    basis: str = NOTHING
    seeds_low: float = UNKNOWN
    seeds_high: float = UNKNOWN
    """The interval for new seeds on these very images (Student's t); not known for one seed."""
    seeds_variance: float = UNKNOWN
    images_variance: float = UNKNOWN
    """What seeds and images add to the variance of the mean (`crossed.Crossed.variance_parts`)."""

    def times(self, factor: float) -> "Estimate":
        """The same in another unit; with -1, of the difference the other way round."""
        low, high = sorted((factor * self.low, factor * self.high))
        seeds_low, seeds_high = sorted((factor * self.seeds_low, factor * self.seeds_high))
        mean, std, square = factor * self.mean, abs(factor) * self.std, factor**2
        variances = (square * self.seeds_variance, square * self.images_variance)
        return Estimate(self.n, mean, std, low, high, self.basis, seeds_low, seeds_high, *variances)


def estimate(values: Sequence[float], crossed: Crossed | None, bounds: tuple[float, float]) -> Estimate:
    """The mean over the seeds, with two 95 % intervals.

    ``low`` to ``high`` is for new seeds and new images together, from the analysis of variance in `crossed`. For an
    accuracy it is computed on the log-odds scale (delta method), so that it stays between 0 and 1. A single seed says
    nothing about other seeds: its interval is for new images only. The accuracy of a single seed, or of seeds that are
    all perfect, has Wilson's interval; so has the share of images that may yet differ where two models are right and
    wrong on the same ones.

    ``seeds_low`` to ``seeds_high`` is for new seeds on the same images: Student's t, ``mean ± t s / √n``. Without
    ``crossed``, it is also ``low`` to ``high``.

    Args:
        values: one per seed.
        crossed: of the same runs; None where it is not known which images they got wrong.
        bounds: where intervals end.
    """
    n, mean = len(values), float(np.mean(values)) if len(values) else UNKNOWN
    std = float(np.std(values, ddof=1)) if n > 1 else UNKNOWN
    half = t_factor(n - 1) * std / n**0.5 if n > 1 else UNKNOWN
    of_seeds = _clip(mean - half, mean + half, bounds)
    if crossed is None:
        return Estimate(n, mean, std, *of_seeds, SEEDS if n > 1 else NOTHING, *of_seeds)
    half = anova.half_width(crossed)
    if bounds == DIFFERENCE and not half:
        half = anova.wilson_interval(0, crossed.images)[1]
    low, high = mean - half, mean + half
    if bounds == FRACTION and (n == 1 or not sum(crossed.variance_parts)):
        low, high = anova.wilson_interval(mean, crossed.images)
    elif bounds == FRACTION:
        # d logit(p) / dp = 1 / (p (1 - p))
        low, high = (float(expit(logit(mean) + side * half / (mean * (1 - mean)))) for side in (-1, 1))
    variances = (crossed.variance_parts[0] if n > 1 else UNKNOWN, crossed.variance_parts[1])
    return Estimate(n, mean, std, *_clip(low, high, bounds), BOTH if n > 1 else IMAGES, *of_seeds, *variances)


def _clip(low: float, high: float, bounds: tuple[float, float]) -> tuple[float, float]:
    return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))


def prediction_interval(e: Estimate, bounds: tuple[float, float]) -> tuple[float, float]:
    """Where one new run's value is expected with 95 % probability: ``mean ± t s √(1 + 1/n)``; NaN for one seed."""
    half = t_factor(e.n - 1) * e.std * (1 + 1 / e.n) ** 0.5
    return _clip(e.mean - half, e.mean + half, bounds)


def holds_rounded(interval: tuple[float, float], published: float) -> bool:
    """Whether the interval holds any value that is printed as this one."""
    half = 0.5 * 10.0**-PUBLISHED_DECIMALS
    return interval[0] <= published + half and published - half <= interval[1]


def z_score(e: Estimate, published: float) -> float:
    """How many standard deviations the published value lies from the mean of our runs."""
    return (published - e.mean) / e.std if e.std else UNKNOWN


@dataclass(frozen=True)
class Measured:
    """One metric of the runs of a section."""

    values: dict[str, dict[int, float]]
    """Label of a group → seed → value."""
    by_image: dict[str, dict[int, NDArray[np.float32]]]
    """Label → seed → one value per image, ``[N]``, where known: its loss; for accuracy, 0 if right and -1 if wrong."""
    bounds: tuple[float, float]

    def mean(self, label: str) -> Estimate:
        """The mean over a group's seeds."""
        seeds = [*self.values[label]]
        return estimate([*self.values[label].values()], self._crossed(seeds, label), self.bounds)

    def difference(self, first: str, second: str) -> tuple[Estimate, Crossed | None]:
        """Of two groups, paired by seed; and what it was estimated from, where the images are known."""
        seeds = sorted(self.values[first].keys() & self.values[second].keys())
        crossed = self._crossed(seeds, first, second)
        low, high = self.bounds
        values = [self.values[first][seed] - self.values[second][seed] for seed in seeds]
        return estimate(values, crossed, (low - high, high - low)), crossed

    def _crossed(self, seeds: Sequence[int], *labels: str) -> Crossed | None:
        """Of one group, or of the differences of two; None where a run's images are not known."""
        known = [self.by_image.get(label, {}) for label in labels]
        if not seeds or any(seed not in images for images in known for seed in seeds):
            return None
        first, *second = (np.array([images[seed] for seed in seeds]) for images in known)
        return Crossed.of(first - second[0] if second else first, first.shape[1])


@dataclass(frozen=True)
class Comparison:
    """Two groups, paired by seed."""

    first: str
    second: str
    difference: Estimate
    """``first - second``, of the accuracy."""
    loss: Estimate
    """The same of the loss."""
    p_value: float
    """Two-sided, Holm-corrected over the comparisons made together; NaN where nothing can be said."""
    wins: float
    """The probability that a new run of the first is more accurate than a new run of the second, or NaN."""

    @property
    def significant(self) -> bool:
        """Whether the corrected test finds a difference."""
        return self.p_value < 1 - LEVEL

    def reversed(self) -> "Comparison":
        """``second - first``."""
        difference, loss = self.difference.times(-1), self.loss.times(-1)
        return Comparison(self.second, self.first, difference, loss, self.p_value, 1 - self.wins)


def compare(score: Measured, losses: Measured) -> list[Comparison]:
    """Compare every pair of groups, in the order of ``score.values``, by their score (an accuracy) and their loss."""
    found = []
    for first, second in itertools.combinations(score.values, 2):
        difference, p_value = _test(*score.difference(first, second))
        loss, _ = losses.difference(first, second)
        wins = probability_of_winning([*score.values[first].values()], [*score.values[second].values()])
        found.append(Comparison(first, second, difference, loss, p_value, wins))
    return [replace(c, p_value=p) for c, p in zip(found, holm([c.p_value for c in found]), strict=True)]


def _test(d: Estimate, crossed: Crossed | None) -> tuple[Estimate, float]:
    """The difference and its two-sided p-value; without a usable test, p is NaN and the interval is removed."""
    if crossed is not None:
        return d, anova.mcnemar_test(crossed) if d.n == 1 else anova.t_test(crossed, d.mean)
    if not d.std > 0:  # one seed, or seeds that agree by chance: accuracies are multiples of one image
        return replace(d, low=UNKNOWN, high=UNKNOWN, basis=NOTHING), UNKNOWN
    return d, float(student_p(d.mean, d.std**2 / d.n, d.n - 1))


def probability_of_winning(first: Sequence[float], second: Sequence[float]) -> float:
    """That a new run of the first has a higher value than a new run of the second, on these images.

    The difference of two new runs is Student's t, with both groups' variances and the degrees of freedom
    of Welch (1947); NaN unless both have two seeds.
    """
    if min(len(first), len(second)) < 2:
        return UNKNOWN
    gap = float(np.mean(first)) - float(np.mean(second))
    parts = [float(np.std(values, ddof=1)) ** 2 * (1 + 1 / len(values)) for values in (first, second)]
    if not sum(parts):
        return float(np.heaviside(gap, 0.5))
    degrees = sum(parts) ** 2 / sum(part**2 / (len(v) - 1) for part, v in zip(parts, (first, second), strict=True))
    return float(stats.t.cdf(gap / sum(parts) ** 0.5, degrees))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the family-wise error stays at the level of one test; NaN are left out."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")  # NaN last
    tests = np.count_nonzero(~np.isnan(p))
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(1, p[order] * (tests - np.arange(len(p)))))
    return [float(each) for each in corrected]
