"""What can be said of a handful of seeds: intervals, comparisons, and the verdict on the published run."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.special import expit, logit, stdtr

from mnist_exp.report.crossed import LEVEL, Crossed, Products, half_width, mcnemar_test, t_test, tail, wilson_interval

BOTH, IMAGES, SEEDS, NOTHING = "new seeds and new images", "new images", "new seeds", ""
"""What an interval takes to be drawn anew. Only images: it is of these trained networks."""
CAVEATS = {
    IMAGES: " That is about new images for these two trained networks; it says nothing about other seeds.",
    SEEDS: " That is about new seeds on these very images; it says nothing about other images.",
}
PER = 10_000
"""Images that errors are counted in."""
FRACTION, DIFFERENCE, LOSS = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf)
"""The bounds of accuracies, of their differences, and of losses."""


@dataclass(frozen=True)
class Summary:
    """A metric over the n seeds of a group, on these very images. Only the mean is there for a single seed."""

    n: int
    mean: float
    std: float | None = None
    """Sample standard deviation (n - 1)."""
    mean_low: float | None = None
    mean_high: float | None = None
    """95 % confidence interval of the mean."""
    run_low: float | None = None
    run_high: float | None = None
    """95 % prediction interval: where one new run's value is expected."""


def summarise(values: Sequence[float], *, fraction: bool = False) -> Summary:
    """Mean, standard deviation and Student's t intervals, with n - 1 degrees of freedom.

    The prediction interval for one new value is ``mean ± t s √(1 + 1/n)``; the confidence interval of
    the mean, ``mean ± t s / √n``. Those of a ``fraction`` end at 0 and 1.
    """
    n, mean = len(values), float(np.mean(values)) if len(values) else float("nan")
    if n < 2:
        return Summary(n, mean)
    std = float(np.std(values, ddof=1))
    t = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    of_mean, of_run = t * std / n**0.5, t * std * (1 + 1 / n) ** 0.5
    low, high = (0.0, 1.0) if fraction else (-math.inf, math.inf)
    bounds = (mean - of_mean, mean + of_mean, mean - of_run, mean + of_run)
    return Summary(n, mean, std, *(min(max(bound, low), high) for bound in bounds))


def in_prediction_interval(summary: Summary, published: float, decimals: int = 3) -> bool | None:
    """Whether a published value lies in the prediction interval of one new run; None for too few seeds.

    The value was rounded when it was printed, so it stands for all that round to it.
    """
    if summary.run_low is None or summary.run_high is None:
        return None
    half = 0.5 * 10.0**-decimals
    return summary.run_low <= published + half and published - half <= summary.run_high


def z_score(summary: Summary, published: float) -> float | None:
    """How many standard deviations the published value lies from the mean of our runs."""
    return (published - summary.mean) / summary.std if summary.std else None


@dataclass(frozen=True)
class Estimate:
    """The mean of a metric or of a paired difference over n seeds, with both of its 95 % intervals."""

    n: int
    mean: float
    std: float | None = None
    """Sample standard deviation (n - 1) over the seeds."""
    low: float | None = None
    high: float | None = None
    """The interval for whatever `basis` names."""
    basis: str = NOTHING
    seeds_low: float | None = None
    seeds_high: float | None = None
    """The interval for new seeds on these very images; None for one seed."""
    seeds_variance: float | None = None
    images_variance: float | None = None
    """What seeds and what images add to the variance of the mean (`crossed.Crossed.parts`)."""

    def times(self, factor: float) -> "Estimate":
        """The same in another unit; with -1, of the difference the other way round."""
        ends = [[self.low, self.high], [self.seeds_low, self.seeds_high]]
        (low, high), (seeds_low, seeds_high) = ends if factor > 0 else [pair[::-1] for pair in ends]
        return Estimate(
            self.n,
            factor * self.mean,
            _times(self.std, abs(factor)),
            _times(low, factor),
            _times(high, factor),
            self.basis,
            _times(seeds_low, factor),
            _times(seeds_high, factor),
            _times(self.seeds_variance, factor**2),
            _times(self.images_variance, factor**2),
        )


def estimate(values: Sequence[float], crossed: Crossed | None, bounds: tuple[float, float]) -> Estimate:
    """The mean of a value per seed, and its intervals.

    New seeds and images: `crossed.half_width`, of an accuracy on the scale of its log odds, which suits few
    errors and ends at 0 and 1. One seed has an interval for new images alone, of an accuracy Wilson's, as
    have seeds that are all perfect. New seeds alone: Student's t.

    Args:
        values: one per seed.
        crossed: of the same runs; None where it is not known which images they got wrong.
        bounds: where intervals end.
    """
    s = summarise(values)
    seeds_low, seeds_high = _clip(s.mean_low, bounds), _clip(s.mean_high, bounds)
    if crossed is None:
        basis = SEEDS if s.n > 1 else NOTHING
        return Estimate(s.n, s.mean, s.std, seeds_low, seeds_high, basis, seeds_low, seeds_high)
    of_seeds, of_images = crossed.parts
    half = half_width(crossed)
    low, high = s.mean - half, s.mean + half
    if bounds == FRACTION and (s.n == 1 or not of_seeds + of_images):
        low, high = wilson_interval(s.mean, crossed.images)
    elif bounds == FRACTION:
        low, high = (float(expit(logit(s.mean) + side * half / (s.mean * (1 - s.mean)))) for side in (-1, 1))
    ends, basis = (_clip(low, bounds), _clip(high, bounds)), BOTH if s.n > 1 else IMAGES
    parts = (of_seeds if s.n > 1 else None, of_images)
    return Estimate(s.n, s.mean, s.std, *ends, basis, seeds_low, seeds_high, *parts)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _clip(value: float | None, bounds: tuple[float, float]) -> float | None:
    return None if value is None else min(max(value, bounds[0]), bounds[1])


@dataclass(frozen=True)
class Comparison:
    """The difference ``first - second`` of an accuracy, paired by seed."""

    first: str
    second: str
    difference: Estimate
    p_value: float | None = None
    """Two-sided, Holm-corrected over the comparisons made together; None where nothing can be said."""
    wins: float | None = None
    """The probability that a new run of the first is more accurate than a new run of the second."""
    loss: Estimate | None = None
    """The difference of the losses."""

    @property
    def significant(self) -> bool:
        """Whether the corrected test finds a difference."""
        return self.p_value is not None and self.p_value < 1 - LEVEL

    def reversed(self) -> "Comparison":
        """``second - first``."""
        wins = None if self.wins is None else 1 - self.wins
        loss = self.loss and self.loss.times(-1)
        return Comparison(self.second, self.first, self.difference.times(-1), self.p_value, wins, loss)


Values = dict[str, dict[int, float]]
"""Label of a group → seed → value."""


def compare(accuracies: Values, errors: Products | None = None) -> list[Comparison]:
    """Compare every pair of groups, in the order of their labels; ``errors`` are 1 where a run is wrong."""
    found, p_values = [], []
    for first, second in itertools.combinations(accuracies, 2):
        d, p = _difference(accuracies, errors, first, second)
        wins = probability_of_winning(list(accuracies[first].values()), list(accuracies[second].values()))
        found.append(Comparison(first, second, d, wins=wins))
        p_values.append(p)
    corrected = iter(holm([p for p in p_values if p is not None]))
    return [replace(c, p_value=None if p is None else next(corrected)) for c, p in zip(found, p_values, strict=True)]


def _difference(accuracies: Values, errors: Products | None, first: str, second: str) -> tuple[Estimate, float | None]:
    """The estimate of a difference, and the p-value that it is none."""
    seeds = sorted(accuracies[first].keys() & accuracies[second].keys())
    values = [accuracies[first][seed] - accuracies[second][seed] for seed in seeds]
    crossed = errors.difference(second, first, seeds) if errors else None
    d = estimate(values, crossed, DIFFERENCE)
    if crossed is not None:
        return d, mcnemar_test(crossed) if d.n == 1 else t_test(crossed, d.mean)
    if not d.std:  # one seed, or seeds that agree by chance: accuracies are multiples of one image
        return replace(d, low=None, high=None, basis=NOTHING), None
    return d, tail(d.mean, d.std**2 / d.n, d.n - 1)


def difference_of_losses(losses: Values, products: Products | None, first: str, second: str) -> Estimate | None:
    """The difference of two groups' losses, paired by seed; None without a seed that both have."""
    seeds = sorted(losses[first].keys() & losses[second].keys())
    values = [losses[first][seed] - losses[second][seed] for seed in seeds]
    crossed = products.difference(first, second, seeds) if products else None
    return estimate(values, crossed, (-math.inf, math.inf)) if seeds else None


def probability_of_winning(first: Sequence[float], second: Sequence[float]) -> float | None:
    """That a new run of the first has a higher value than a new run of the second, on these images.

    The difference of two new runs is Student's t, with both groups' variances and the degrees of freedom
    of Welch (1947); None unless both have two seeds.
    """
    a, b = summarise(first), summarise(second)
    if a.std is None or b.std is None:
        return None
    parts = [s.std**2 * (1 + 1 / s.n) for s in (a, b) if s.std is not None]
    if not sum(parts):
        return float(np.heaviside(a.mean - b.mean, 0.5))
    degrees = sum(parts) ** 2 / sum(part**2 / (s.n - 1) for part, s in zip(parts, (a, b), strict=True))
    return float(stdtr(degrees, (a.mean - b.mean) / sum(parts) ** 0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the family-wise error stays at the level of one test."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.minimum(1, np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(stepped)
    return [float(p) for p in corrected]


def sentence(c: Comparison) -> str:
    """A comparison of accuracies in a sentence that a student understands."""
    d = c.difference
    if d.low is None or d.high is None or c.p_value is None:
        few = "they share no seed" if not d.n else f"{_seeds(d.n)}, and no file says which images they get wrong"
        return f"{c.first} and {c.second}: nothing can be said ({few})."
    if d.mean < 0:
        return sentence(c.reversed())
    test = "McNemar's test, " if d.basis == IMAGES else ""
    p = f"p = {c.p_value:.2g}" if c.p_value >= 0.001 else "p < 0.001"
    said = f"{_span(d)}; {_seeds(d.n)}, {test}{p}."
    if c.significant:
        words = f"{c.first} is more accurate than {c.second}: {said}{CAVEATS.get(d.basis, '')}"
    else:
        words = f"{c.first} and {c.second} cannot be told apart: of the former, {said}{CAVEATS.get(d.basis, '')}"
    if c.wins is None:
        return words
    return f"{words} A new run of {c.first} beats a new run of {c.second} with a probability of {_percent(c.wins)}."


def winner_sentence(values: dict[str, list[float]], comparisons: list[Comparison]) -> str:
    """Which group is the most accurate, and by how much, in a sentence.

    ``values`` is label → a value for each seed, ``comparisons`` are of all pairs of the labels.
    """
    first, *others = sorted(values, key=lambda label: -float(np.mean(values[label])))
    of = f"{first} ({100 * np.mean(values[first]):.2f} %)"
    if not others:
        return f"{of} is the only one here."
    against = {c.second: c for c in [*comparisons, *(c.reversed() for c in comparisons)] if c.first == first}
    second = against[others[0]].difference
    if second.low is None or second.high is None:
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
    low, high = (PER * (end or 0.0) for end in (d.low, d.high))
    if low >= 0:
        return f"{low:.1f} to {high:.1f} fewer errors per {PER:,} images"
    return f"{-low:.1f} more to {high:.1f} fewer errors per {PER:,} images"


def _seeds(n: int) -> str:
    return f"n = {n} seed{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return "more than 99 %" if share > 0.99 else "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
