"""What can be said of a handful of seeds: intervals, comparisons, and the verdict on the published run."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
MIN_SEEDS = 3
"""Fewer paired seeds say nothing about a difference."""


@dataclass(frozen=True)
class Summary:
    """A metric over the seeds of a group. Intervals are None for a single seed."""

    n: int
    mean: float
    std: float | None
    """Sample standard deviation (n - 1)."""
    mean_low: float | None
    mean_high: float | None
    """95 % confidence interval of the mean."""
    run_low: float | None
    run_high: float | None
    """95 % prediction interval: where one new run's value is expected."""


def summarise(values: Sequence[float]) -> Summary:
    """Mean, deviation and Student's t intervals, with n - 1 degrees of freedom.

    The prediction interval for one new value is ``mean ± t s √(1 + 1/n)``; the confidence interval of
    the mean, ``mean ± t s / √n``.
    """
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return Summary(n, mean, None, None, None, None, None)
    std = float(np.std(values, ddof=1))
    t = float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    of_mean, of_run = t * std / n**0.5, t * std * (1 + 1 / n) ** 0.5
    return Summary(n, mean, std, mean - of_mean, mean + of_mean, mean - of_run, mean + of_run)


def reproduced(summary: Summary, published: float, decimals: int = 3) -> bool | None:
    """Whether a published value lies in the prediction interval of one new run.

    The value was rounded when it was printed, so it stands for all that round to it.

    Returns:
        None where there are too few seeds for an interval.
    """
    if summary.run_low is None or summary.run_high is None:
        return None
    half = 0.5 * 10.0**-decimals
    return summary.run_low <= published + half and published - half <= summary.run_high


def deviations(summary: Summary, published: float) -> float | None:
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
    low: float | None
    high: float | None
    """95 % bootstrap interval of the mean difference; None for fewer than three seeds."""
    p_value: float | None
    """Of a two-sided permutation test, Holm-corrected over the comparisons made together."""


def compare(groups: dict[str, dict[int, float]]) -> list[Comparison]:
    """Compare every pair of groups.

    Args:
        groups: label → seed → value.

    Returns:
        A comparison for each pair, in the order of the labels.
    """
    raw = []
    for (first, ours), (second, theirs) in itertools.combinations(groups.items(), 2):
        seeds = sorted(ours.keys() & theirs.keys())
        differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
        if len(seeds) < MIN_SEEDS:
            mean = float(differences.mean()) if len(seeds) else None
            raw.append(Comparison(first, second, len(seeds), mean, None, None, None))
            continue
        low, high = _bootstrap_interval(differences)
        raw.append(
            Comparison(
                first, second, len(seeds), float(differences.mean()), low, high, _permutation_p(differences)
            )
        )
    return _holm(raw)


def _bootstrap_interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    result = stats.bootstrap(
        (differences,),
        np.mean,
        confidence_level=LEVEL,
        method="BCa",
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _permutation_p(differences: NDArray[np.float64]) -> float:
    """Were the two alike, each difference could as well have had the other sign (paired permutation)."""
    result = stats.permutation_test(
        (differences,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=9999,  # up to 13 seeds, all sign patterns are tried, and the test is exact
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Holm's step-down correction (1979): the family-wise error stays at the level of one test."""
    tested = sorted((c.p_value, position) for position, c in enumerate(comparisons) if c.p_value is not None)
    corrected: dict[int, float] = {}
    running = 0.0
    for rank, (p, position) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        corrected[position] = running
    return [
        Comparison(c.first, c.second, c.n, c.difference, c.low, c.high, corrected.get(position))
        for position, c in enumerate(comparisons)
    ]


def in_words(c: Comparison) -> str:
    """A comparison of accuracies in a sentence; points are percentage points."""
    if c.n < MIN_SEEDS or c.difference is None or c.low is None or c.high is None or c.p_value is None:
        return f"{c.first} and {c.second}: not enough seeds to say (n = {c.n}; {MIN_SEEDS} of each are needed)."
    first, second, low, high = c.first, c.second, 100 * c.low, 100 * c.high
    if c.difference < 0:
        first, second, low, high = second, first, -high, -low
    span, seeds = f"{low:.2f} to {high:.2f} points", f"n = {c.n} seeds, p = {c.p_value:.2g}"
    if c.p_value < 1 - LEVEL:
        return f"{first} is more accurate than {second} by {span}; {seeds}."
    if 2.0 ** (1 - c.n) >= 1 - LEVEL:  # the smallest p-value that so few seeds can give
        return (
            f"{first} was more accurate than {second} by {span}, but {c.n} seeds are too few for a test to "
            "tell that from chance."
        )
    return f"{first} and {second} can't be told apart: they differ by {span}; {seeds}."
