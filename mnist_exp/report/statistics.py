"""What can be said of a handful of seeds: intervals, comparisons, and the verdict on the published run."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtr

from mnist_exp.report.crossed import (
    LEVEL,
    Crossed,
    half_width,
    mcnemar_test,
    student_p,
    t_factor,
    t_test,
    wilson_interval,
)

BOTH, IMAGES, SEEDS, NOTHING = "new seeds and new images", "new images", "new seeds", ""
"""What an interval takes to be drawn anew. Only images: it is of these trained networks."""
CAVEATS = {
    IMAGES: " That is about new images for these two trained networks; it says nothing about other seeds.",
    SEEDS: " That is about new seeds on these very images; it says nothing about other images.",
}
PER = 10_000
"""Images that errors are counted in."""
FRACTION, LOSS, UNBOUNDED = (0.0, 1.0), (0.0, math.inf), (-math.inf, math.inf)
"""The bounds of accuracies, of losses, and of what has none."""
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
    """What seeds and what images add to the variance of the mean (`crossed.Crossed.variance_parts`)."""

    def times(self, factor: float) -> "Estimate":
        """The same in another unit; with -1, of the difference the other way round."""
        low, high = sorted((factor * self.low, factor * self.high))
        seeds_low, seeds_high = sorted((factor * self.seeds_low, factor * self.seeds_high))
        mean, std, square = factor * self.mean, abs(factor) * self.std, factor**2
        variances = (square * self.seeds_variance, square * self.images_variance)
        return Estimate(self.n, mean, std, low, high, self.basis, seeds_low, seeds_high, *variances)


def estimate(values: Sequence[float], crossed: Crossed | None, bounds: tuple[float, float]) -> Estimate:
    """The mean of a value per seed, and its intervals.

    New seeds and images: `crossed.half_width`, of an accuracy on the scale of its log odds, which suits few
    errors and ends at 0 and 1. One seed has an interval for new images alone, of an accuracy Wilson's, as
    have seeds that are all perfect. New seeds alone: Student's t, ``mean ± t s / √n``.

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
    half = half_width(crossed)
    low, high = mean - half, mean + half
    if bounds == FRACTION and (n == 1 or not sum(crossed.variance_parts)):
        low, high = wilson_interval(mean, crossed.images)
    elif bounds == FRACTION:
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
    """The same for each image, ``[N]``, of the runs of which it is known: its loss, or 0 where it is right, else -1."""
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
    """Compare every pair of groups by their score, an accuracy, in the order of their labels."""
    found = []
    for first, second in itertools.combinations(score.values, 2):
        difference, p_value = _test(*score.difference(first, second))
        loss, _ = losses.difference(first, second)
        wins = probability_of_winning([*score.values[first].values()], [*score.values[second].values()])
        found.append(Comparison(first, second, difference, loss, p_value, wins))
    return [replace(c, p_value=p) for c, p in zip(found, holm([c.p_value for c in found]), strict=True)]


def _test(d: Estimate, crossed: Crossed | None) -> tuple[Estimate, float]:
    """A difference, and the p-value that it is none."""
    if crossed is not None:
        return d, mcnemar_test(crossed) if d.n == 1 else t_test(crossed, d.mean)
    if not d.std > 0:  # one seed, or seeds that agree by chance: accuracies are multiples of one image
        return replace(d, low=UNKNOWN, high=UNKNOWN, basis=NOTHING), UNKNOWN
    return d, student_p(d.mean, d.std**2 / d.n, d.n - 1)


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
    return float(stdtr(degrees, gap / sum(parts) ** 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the family-wise error stays at the level of one test; NaN are left out."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")  # NaN last
    tests = np.count_nonzero(~np.isnan(p))
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(1, p[order] * (tests - np.arange(len(p)))))
    return [float(each) for each in corrected]


def sentence(c: Comparison) -> str:
    """A comparison of accuracies in a sentence that a student understands."""
    d = c.difference
    if math.isnan(c.p_value):
        few = "they share no seed" if not d.n else f"{_seeds(d.n)}, and no file says which images they get wrong"
        return f"{c.first} and {c.second}: nothing can be said ({few})."
    if d.mean < 0:
        return sentence(c.reversed())
    test = "McNemar's test, " if d.basis == IMAGES else ""
    p = f"p = {c.p_value:.2g}" if c.p_value >= 0.001 else "p < 0.001"
    words = f"{c.first} is more accurate than {c.second}: "
    if not c.significant:
        words = f"{c.first} and {c.second} cannot be told apart: {c.first} makes "
        p += " after Holm's correction" if d.low > 0 else ""  # else the interval would seem to contradict it
    words += f"{_span(d)}; {_seeds(d.n)}, {test}{p}.{CAVEATS.get(d.basis, '')}"
    if math.isnan(c.wins):
        return words
    return f"{words} A new run of {c.first} beats a new run of {c.second} with a probability of {_percent(c.wins)}."


def winner_sentence(means: dict[str, float], comparisons: list[Comparison]) -> str:
    """Which group is the most accurate, and by how much, in a sentence.

    ``means`` is label → mean accuracy, ``comparisons`` are of all pairs of the labels.
    """
    first, *others = sorted(means, key=lambda label: -means[label])
    of = f"{first} ({100 * means[first]:.2f} %)"
    if not others:
        return f"{of} is the only one here."
    against = {c.second: c for c in [*comparisons, *(c.reversed() for c in comparisons)] if c.first == first}
    second = against[others[0]].difference
    if math.isnan(second.low):
        return f"{of} comes first, but nothing says whether that is more than chance."
    span = f"{_span(second)} than {others[0]}"
    only = "; this says nothing about other seeds" if second.basis == IMAGES else ""
    alike = [label for label in others if not against[label].significant]
    if not alike:
        return f"{of} wins, with {span}{only}."
    named = alike[0] if len(alike) == 1 else f"{alike[0]} and {len(alike) - 1} more"
    return f"{of} comes first, with {span}, but cannot be told apart from {named}{only}."


def _span(d: Estimate) -> str:
    """The interval of a difference of accuracies, in errors."""
    low = f"{PER * d.low:.1f}" if d.low >= 0 else f"{-PER * d.low:.1f} more"
    return f"{low} to {PER * d.high:.1f} fewer errors per {PER:,} images"


def _seeds(n: int) -> str:
    return f"n = {n} seed{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return "more than 99 %" if share > 0.99 else "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
