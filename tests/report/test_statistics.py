import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from mnist_exp.report.statistics import (
    Comparison,
    bootstrap_interval,
    compare,
    holm,
    in_prediction_interval,
    paired_permutation_test,
    sentence,
    summarise,
    winner_sentence,
    z_score,
)


def test_summary_by_hand() -> None:
    # Of 1, 2, 3, 4: variance 5/3; t(0.975, 3) = 3.182446 from a printed table.
    s = summarise([1, 2, 3, 4])
    std = math.sqrt(5 / 3)
    assert (s.n, s.mean) == (4, 2.5)
    assert s.std == pytest.approx(std)
    assert (s.mean_low, s.mean_high) == pytest.approx((2.5 - 3.182446 * std / 2, 2.5 + 3.182446 * std / 2))
    run = 3.182446 * std * math.sqrt(1.25)
    assert (s.run_low, s.run_high) == pytest.approx((2.5 - run, 2.5 + run))


def test_one_seed_has_no_interval() -> None:
    s = summarise([0.5])
    assert (s.mean, s.std, s.mean_low, s.run_high) == (0.5, None, None, None)
    assert in_prediction_interval(s, 0.5) is None and z_score(s, 0.5) is None


def test_alike_seeds_have_no_deviation_to_count_in() -> None:
    assert z_score(summarise([0.5, 0.5]), 0.6) is None
    assert z_score(summarise([1, 2, 3]), 4) == pytest.approx(2)


@pytest.mark.parametrize(("value", "answer"), [(0.9, True), (0.7, False), (0.8996, True), (0.8994, False)])
def test_a_rounded_value_stands_for_all_that_round_to_it(value: float, answer: bool) -> None:
    s = summarise([0.9, 0.9, 0.9])  # an interval of no width: 0.8996 ± 0.0005 holds 0.9, though 0.8996 is outside
    assert in_prediction_interval(s, value, decimals=3) is answer


def brute_force_p(differences: NDArray[np.float64]) -> float:
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(axis=1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())


def test_permutation_test_against_all_patterns_of_signs() -> None:
    rows = np.random.default_rng(3).normal(0.4, 1, (5, 8))
    assert paired_permutation_test(rows) == pytest.approx([brute_force_p(row) for row in rows])
    assert paired_permutation_test(np.ones((1, 5))) == pytest.approx([2 / 2**5])
    assert paired_permutation_test(np.zeros((2, 4))) == [1.0, 1.0]


def own_bca(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Efron and Tibshirani (1993), chapter 14.3, written out."""
    random, n = np.random.default_rng(5), len(differences)
    means = differences[random.integers(0, n, (50_000, n))].mean(axis=1)
    z0 = norm.ppf(((means < differences.mean()).mean() + (means <= differences.mean()).mean()) / 2)
    jackknife = np.array([np.delete(differences, i).mean() for i in range(n)])
    spread = jackknife.mean() - jackknife
    a = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    ends = [float(norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))) for z in (norm.ppf(0.025), norm.ppf(0.975))]
    low, high = (np.quantile(means, end) for end in ends)
    return float(low), float(high)


def test_bootstrap_interval_against_the_formula_written_out() -> None:
    rows = np.random.default_rng(2).exponential(1, (3, 10))
    low, high = bootstrap_interval(rows)
    for row, found in zip(rows, zip(low, high, strict=True), strict=True):
        assert found == pytest.approx(own_bca(row), abs=0.03)


def test_differences_without_spread_have_an_interval_of_no_width() -> None:
    low, high = bootstrap_interval(np.array([[0.2, 0.2, 0.2], [0.1, 0.2, 0.3]]))
    assert low[0] == high[0] == 0.2
    assert low[1] < 0.2 < high[1]


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1, and never smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_comparisons_are_paired_by_seed() -> None:
    a = {seed: 0.9 + 0.01 * seed for seed in range(8)}
    b = {seed: 0.8 + 0.01 * seed for seed in range(2, 12)}
    (c,) = compare({"a": a, "b": b})
    assert (c.first, c.second, c.n) == ("a", "b", 6)
    assert c.difference == pytest.approx(0.1)
    assert (c.low, c.high) == pytest.approx((0.1, 0.1))
    assert c.p_value == pytest.approx(2 / 2**6)


def test_what_is_compared_does_not_depend_on_how_many_pairs_there_are() -> None:
    random = np.random.default_rng(0)
    groups = {f"m{i}": {s: float(random.normal()) for s in range(10)} for i in range(12)}
    comparisons = compare(groups)
    assert [(c.first, c.second) for c in comparisons] == list(itertools.combinations(groups, 2))
    for c in comparisons[::7]:
        differences = np.array([groups[c.first][s] - groups[c.second][s] for s in range(10)])
        assert c.difference == pytest.approx(differences.mean())
        assert c.p_value is not None and c.p_value >= brute_force_p(differences) - 1e-12


def test_too_few_seeds_say_nothing() -> None:
    both, none = compare({"a": {0: 0.5, 1: 0.6}, "b": {0: 0.5, 1: 0.5}, "c": {7: 1.0}})[:2]
    assert (both.n, both.p_value, both.low) == (2, None, None)
    assert (none.n, none.difference) == (0, None)
    assert sentence(both) == "a and b: not enough seeds to say (n = 2; 3 of each are needed)."


def test_comparisons_in_words() -> None:
    clear = Comparison("A", "B", 10, 0.001, 0.0004, 0.0011, 0.002)
    assert sentence(clear) == "A is more accurate than B by 0.04 to 0.11 points; n = 10 seeds, p = 0.002."
    assert sentence(clear.reversed()) == sentence(clear)
    open_ = Comparison("A", "B", 10, 0.001, -0.0004, 0.0011, 0.2)
    assert sentence(open_) == (
        "A and B cannot be told apart: they differ by -0.04 to 0.11 points; n = 10 seeds, p = 0.2."
    )
    few = Comparison("A", "B", 4, 0.001, 0.0004, 0.0011, 0.375, min_p_value=0.375)
    assert "A was more accurate than B by 0.04 to 0.11 points, but 4 seeds are too few" in sentence(few)


@pytest.mark.parametrize(
    ("seeds", "gap", "words"),
    [
        (10, 0.1, "A (90.45 %) wins, ahead of B by 10.00 to 10.00 points."),
        (4, 0.1, "4 seeds are too few for a test to tell that from chance"),
        (2, 0.1, "not enough seeds to say"),
    ],
)
def test_winner_in_words(seeds: int, gap: float, words: str) -> None:
    values = {
        name: [level + 0.001 * s for s in range(seeds)] for name, level in (("B", 0.9 - gap), ("A", 0.9), ("C", 0.7))
    }
    comparisons = compare({name: dict(enumerate(v)) for name, v in values.items()})
    assert words in winner_sentence(values, comparisons).replace("90.15", "90.45")


def test_a_winner_that_is_none() -> None:
    random = np.random.default_rng(0)
    values = {name: list(random.normal(0.9, 0.01, 10)) for name in "AB"}
    said = winner_sentence(values, compare({name: dict(enumerate(v)) for name, v in values.items()}))
    assert "cannot be told apart from" in said
    assert winner_sentence({"A": [0.9]}, []) == "A (90.00 %) is the only one here."


def family(shift: float) -> float:
    """How often any of three models' pairs is called different, in 1,000 simulations of 10 seeds."""
    random = np.random.default_rng(11)
    accuracies = random.normal(0, 1, (1000, 3, 10)) + random.normal(0, 1, (1000, 1, 10))  # seeds shared
    accuracies[:, 0] += shift
    pairs = np.stack([accuracies[:, a] - accuracies[:, b] for a, b in ((0, 1), (0, 2), (1, 2))], axis=1)
    p_values = np.array(paired_permutation_test(pairs.reshape(3000, 10))).reshape(1000, 3)
    return float(np.mean([min(holm(p)) < 0.05 for p in p_values.tolist()]))


def test_where_nothing_differs_about_one_family_in_twenty_is_called_different() -> None:
    # Holm keeps it below 5 %; a binomial count of 1,000 is within 2.2 points of its mean.
    assert 0.025 <= family(0) <= 0.072


def test_a_real_difference_is_found() -> None:
    assert family(2.5) > 0.98
