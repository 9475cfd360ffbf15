import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mnist_exp.report.crossed import Products, multiply
from mnist_exp.report.statistics import (
    BOTH,
    IMAGES,
    SEEDS,
    Comparison,
    Estimate,
    Values,
    compare,
    holm,
    in_prediction_interval,
    probability_of_winning,
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


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1, and never smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def rows(values: dict[str, dict[int, list[int]]]) -> Products:
    """Errors of each group, seed and image, as the report multiplies them."""
    names = [(label, seed) for label, seeds in values.items() for seed in seeds]
    errors = np.array([values[label][seed] for label, seed in names], np.float32)
    return Products({name: row for row, name in enumerate(names)}, *multiply(errors), errors.shape[1])


def accuracies(values: dict[str, dict[int, list[int]]]) -> Values:
    return {label: {seed: 1 - float(np.mean(row)) for seed, row in seeds.items()} for label, seeds in values.items()}


def made_up(seeds: int, shares: dict[str, float], images: int = 400) -> dict[str, dict[int, list[int]]]:
    random = np.random.default_rng(4)
    hard = random.random(images)
    return {
        label: {seed: ((hard + random.random(images)) / 2 > 1 - share).astype(int).tolist() for seed in range(seeds)}
        for label, share in shares.items()
    }


def test_comparisons_are_paired_by_seed() -> None:
    a = {seed: 0.9 + 0.01 * seed for seed in range(8)}
    b = {seed: 0.8 + 0.01 * seed + 0.001 * (seed % 2) for seed in range(2, 12)}
    (c,) = compare({"a": a, "b": b})
    d = c.difference
    assert (c.first, c.second, d.n, d.basis) == ("a", "b", 6, SEEDS)
    # 0.1 and 0.099, three times each: the standard deviation is 0.0005 √(6/5), t(0.975, 5) = 2.570582.
    half = 2.570582 * 0.0005 * math.sqrt(6 / 5) / math.sqrt(6)
    assert (d.low, d.high) == pytest.approx((0.0995 - half, 0.0995 + half))
    expected = stats.ttest_1samp([0.1, 0.099] * 3, 0).pvalue
    assert c.p_value == pytest.approx(expected, rel=1e-6)


def test_every_pair_is_compared_as_if_it_were_alone() -> None:
    errors = made_up(3, {f"m{i}": 0.3 + 0.02 * i for i in range(6)})
    comparisons = compare(accuracies(errors), rows(errors))
    assert [(c.first, c.second) for c in comparisons] == list(itertools.combinations(errors, 2))
    for c in comparisons[::4]:
        two = {label: errors[label] for label in (c.first, c.second)}
        (alone,) = compare(accuracies(two), rows(two))
        assert alone.difference == c.difference and c.p_value is not None and alone.p_value is not None
        assert c.p_value >= alone.p_value


def test_groups_that_lack_a_run_s_errors_are_compared_by_their_seeds() -> None:
    errors = made_up(3, {"a": 0.3, "b": 0.4})
    del errors["b"][1]
    whole = made_up(3, {"a": 0.3, "b": 0.4})
    (c,) = compare(accuracies(whole), rows(errors))
    assert (c.difference.n, c.difference.basis) == (3, SEEDS)


def test_one_seed_of_unknown_errors_and_no_common_seed_say_nothing() -> None:
    one, none = compare({"a": {0: 0.5}, "b": {0: 0.6}, "c": {7: 1.0}})[:2]
    assert (one.difference.n, one.p_value, one.difference.low) == (1, None, None)
    assert none.difference.n == 0
    assert sentence(one) == "a and b: nothing can be said (n = 1 seed, and no file says which images they get wrong)."
    assert sentence(none) == "a and c: nothing can be said (they share no seed)."


def test_mcnemar_by_hand() -> None:
    # Of 12 images, one is wrong in both, 6 in a alone, 1 in b alone: p = 2 (1 + 7) / 2**7.
    errors = {"a": {0: [1] * 7 + [0] * 5}, "b": {0: [1] + [0] * 6 + [1] + [0] * 4}}
    (c,) = compare(accuracies(errors), rows(errors))
    assert c.difference.mean == pytest.approx(-5 / 12) and c.difference.basis == IMAGES
    assert c.p_value == pytest.approx(2 * 8 / 2**7)
    assert c.wins is None and c.difference.seeds_low is None
    alike = {"a": {0: [1, 0, 0]}, "b": {0: [1, 0, 0]}}
    assert compare(accuracies(alike), rows(alike))[0].p_value == 1


def test_probability_of_winning_by_hand() -> None:
    # Variances 2 and 2 of two runs each: their difference has t(2), spread √(2 · 2 · 1.5) = √6; P(t < 1) = 0.788675.
    assert probability_of_winning([6 + 6**0.5, 8 + 6**0.5], [6, 8]) == pytest.approx(0.7886751)
    assert probability_of_winning([1], [0, 0]) is None
    assert probability_of_winning([1, 1], [0, 0]) == 1 and probability_of_winning([1, 1], [1, 1]) == 0.5


def comparison(low: float, high: float, p: float, n: int = 10, basis: str = BOTH) -> Comparison:
    wins = 0.973 if n > 1 else None
    return Comparison("A", "B", Estimate(n, (low + high) / 2, None, low, high, basis), p, wins)


def test_comparisons_in_words() -> None:
    clear = comparison(0.0004, 0.0011, 0.002)
    assert sentence(clear) == (
        "A is more accurate than B: 4.0 to 11.0 fewer errors per 10,000 images; n = 10 seeds, p = 0.002. "
        "A new run of A beats a new run of B with a probability of 97 %."
    )
    assert sentence(clear.reversed()) == sentence(clear)
    assert sentence(comparison(-0.0004, 0.0011, 0.2)).startswith(
        "A and B cannot be told apart: of the former, 4.0 more to 11.0 fewer errors per 10,000 images; n = 10 seeds"
    )
    one = sentence(comparison(0.0004, 0.0011, 0.002, n=1, basis=IMAGES))
    assert "n = 1 seed, McNemar's test, p = 0.002" in one and one.endswith("it says nothing about other seeds.")
    assert sentence(comparison(0.0004, 0.0011, 0.002, basis=SEEDS)).count("it says nothing about other images.") == 1


def test_winner_in_words() -> None:
    errors = made_up(4, {"B": 0.3, "A": 0.1, "C": 0.5})
    values = {label: list(seeds.values()) for label, seeds in accuracies(errors).items()}
    said = winner_sentence(values, compare(accuracies(errors), rows(errors)))
    assert said.startswith("A (") and "wins, with" in said and said.endswith("fewer errors per 10,000 images than B.")
    one = made_up(1, {"B": 0.3, "A": 0.1})
    values = {label: list(seeds.values()) for label, seeds in accuracies(one).items()}
    assert winner_sentence(values, compare(accuracies(one), rows(one))).endswith("nothing about other seeds.")
    assert "nothing says whether" in winner_sentence(values, compare(accuracies(one)))


def test_a_winner_that_is_none() -> None:
    random = np.random.default_rng(0)
    values = {name: list(random.normal(0.9, 0.01, 10)) for name in "AB"}
    said = winner_sentence(values, compare({name: dict(enumerate(v)) for name, v in values.items()}))
    assert "cannot be told apart from" in said
    assert winner_sentence({"A": [0.9]}, []) == "A (90.00 %) is the only one here."
