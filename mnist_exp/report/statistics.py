"""What can be said of a handful of seeds: intervals, comparisons, and the verdict on the published run."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
MIN_SEEDS = 3
"""Fewer paired seeds say nothing about a difference."""
RESAMPLES = 9999
CHUNK = 2_000_000
"""Numbers that one resampling holds at once, so that hundreds of pairs need no more memory than ten."""


@dataclass(frozen=True)
class Summary:
    """A metric over the n seeds of a group. Only the mean is there for a single seed."""

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
class Comparison:
    """The difference ``first - second`` of a metric, paired by seed."""

    first: str
    second: str
    n: int
    """Seeds that both were run with."""
    difference: float | None
    low: float | None = None
    high: float | None = None
    """95 % bootstrap interval of the mean difference; None for fewer than three seeds."""
    p_value: float | None = None
    """Of a two-sided permutation test, Holm-corrected over the comparisons made together."""
    min_p_value: float = 0.0
    """The smallest p-value that a test of so many seeds and comparisons can give."""

    @property
    def significant(self) -> bool:
        """Whether the corrected test tells the two apart."""
        return self.p_value is not None and self.p_value < 1 - LEVEL

    def reversed(self) -> "Comparison":
        """``second - first``."""
        low, high = (None if x is None else -x for x in (self.high, self.low))
        difference = None if self.difference is None else -self.difference
        return Comparison(self.second, self.first, self.n, difference, low, high, self.p_value, self.min_p_value)


def compare(groups: dict[str, dict[int, float]]) -> list[Comparison]:
    """Compare every pair of groups, in the order of their labels; ``groups`` is label → seed → value."""
    pairs = list(itertools.combinations(groups, 2))
    shared = [sorted(groups[a].keys() & groups[b].keys()) for a, b in pairs]
    differences = [
        np.array([groups[a][s] - groups[b][s] for s in seeds]) for (a, b), seeds in zip(pairs, shared, strict=True)
    ]
    tested: dict[int, tuple[float, float, float]] = {}
    for n in sorted({len(d) for d in differences if len(d) >= MIN_SEEDS}):
        alike = [position for position, d in enumerate(differences) if len(d) == n]
        rows = max(1, CHUNK // (n * RESAMPLES))
        for chunk in (alike[start : start + rows] for start in range(0, len(alike), rows)):
            stack = np.stack([differences[position] for position in chunk])
            found = zip(*bootstrap_interval(stack), paired_permutation_test(stack), strict=True)
            tested |= dict(zip(chunk, found, strict=True))
    corrected = dict(zip(tested, holm([p for _, _, p in tested.values()]), strict=True))
    comparisons = []
    for i, ((first, second), d) in enumerate(zip(pairs, differences, strict=True)):
        low, high = tested[i][:2] if i in tested else (None, None)
        mean, min_p_value = float(d.mean()) if len(d) else None, len(tested) * 2.0 ** (1 - len(d))
        comparisons.append(Comparison(first, second, len(d), mean, low, high, corrected.get(i), min_p_value))
    return comparisons


def bootstrap_interval(differences: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """The 95 % interval of each row's mean, ``[pairs, n]``: bias-corrected and accelerated (Efron 1987)."""
    constant = np.ptp(differences, axis=1) == 0
    # A row without any spread has no such interval; its mean is certain as far as the seeds tell.
    spread = np.where(constant[:, None], np.arange(differences.shape[1]), differences)
    interval = stats.bootstrap(
        (spread,), np.mean, axis=1, confidence_level=LEVEL, n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    ).confidence_interval
    low, high = (np.where(constant, differences[:, 0], bound) for bound in (interval.low, interval.high))
    return low.tolist(), high.tolist()


def paired_permutation_test(differences: NDArray[np.float64]) -> list[float]:
    """Two-sided p-value of each row, ``[pairs, n]``, by a paired permutation test.

    Were the two groups alike, each difference could as well have had the other sign. Up to 13 seeds all
    patterns of signs are tried, so that the test is exact.
    """
    random = np.random.default_rng(0)
    result = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", axis=1, n_resamples=RESAMPLES, rng=random
    )
    return [float(p) for p in np.atleast_1d(result.pvalue)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the family-wise error stays at the level of one test."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.minimum(1, np.asarray(p_values, float)[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(stepped)
    return [float(p) for p in corrected]


def sentence(c: Comparison) -> str:
    """A comparison of accuracies in a sentence; points are percentage points."""
    if c.difference is None or c.low is None or c.high is None or c.p_value is None:
        return f"{c.first} and {c.second}: not enough seeds to say (n = {c.n}; {MIN_SEEDS} of each are needed)."
    if c.difference < 0:
        return sentence(c.reversed())
    span = f"{100 * c.low:.2f} to {100 * c.high:.2f} points"
    seeds = f"n = {c.n} seeds, p = {c.p_value:.2g}"
    if c.significant:
        return f"{c.first} is more accurate than {c.second} by {span}; {seeds}."
    if c.min_p_value >= 1 - LEVEL:
        few = f"but {c.n} seeds are too few for a test to tell that from chance"
        return f"{c.first} was more accurate than {c.second} by {span}, {few}."
    return f"{c.first} and {c.second} cannot be told apart: they differ by {span}; {seeds}."


def winner_sentence(values: dict[str, list[float]], comparisons: list[Comparison]) -> str:
    """Which group is the most accurate, and by how much, in a sentence.

    ``values`` is label → a value for each seed, ``comparisons`` are of all pairs of the labels.
    """
    first, *others = sorted(values, key=lambda label: -float(np.mean(values[label])))
    of = f"{first} ({100 * np.mean(values[first]):.2f} %)"
    if not others:
        return f"{of} is the only one here."
    against = {c.second: c for c in [*comparisons, *(c.reversed() for c in comparisons)] if c.first == first}
    second = against[others[0]]
    if second.low is None or second.high is None:
        return f"{of} comes first, but there are not enough seeds to say whether that is more than chance."
    span = f"ahead of {others[0]} by {100 * second.low:.2f} to {100 * second.high:.2f} points"
    alike = [label for label in others if not against[label].significant]
    if not alike:
        return f"{of} wins, {span}."
    if second.min_p_value >= 1 - LEVEL:
        return f"{of} comes first, {span}, but {second.n} seeds are too few for a test to tell that from chance."
    named = alike[0] if len(alike) == 1 else f"{alike[0]} and {len(alike) - 1} more"
    return f"{of} comes first, but cannot be told apart from {named} with these seeds."
