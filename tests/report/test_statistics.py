import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mnist_exp.report.statistics import (
    BOTH,
    FRACTION,
    IMAGES,
    SEEDS,
    Comparison,
    Estimate,
    Measured,
    compare,
    estimate,
    holds_rounded,
    holm,
    prediction_interval,
    probability_of_winning,
    z_score,
)
from mnist_exp.report.wording import sentence, winner_sentence

UNBOUNDED = (-math.inf, math.inf)
Values = dict[str, dict[int, float]]


def test_intervals_of_seeds_by_hand() -> None:
    # Of 1, 2, 3, 4: variance 5/3; t(0.975, 3) = 3.182446 from a printed table.
    e = estimate([1, 2, 3, 4], None, UNBOUNDED)
    std = math.sqrt(5 / 3)
    assert (e.n, e.mean, e.basis) == (4, 2.5, SEEDS)
    assert e.std == pytest.approx(std)
    assert (e.low, e.high) == pytest.approx((2.5 - 3.182446 * std / 2, 2.5 + 3.182446 * std / 2))
    assert (e.seeds_low, e.seeds_high) == (e.low, e.high)
    run = 3.182446 * std * math.sqrt(1.25)
    assert prediction_interval(e, UNBOUNDED) == pytest.approx((2.5 - run, 2.5 + run))
    assert prediction_interval(e, FRACTION) == (0, 1)


def test_one_seed_has_no_interval_and_alike_seeds_have_no_deviation_to_count_in() -> None:
    e = estimate([0.5], None, FRACTION)
    assert e.mean == 0.5 and not e.basis
    assert np.isnan([e.std, e.low, e.high, *prediction_interval(e, FRACTION), z_score(e, 0.5)]).all()
    assert math.isnan(z_score(estimate([0.5, 0.5], None, FRACTION), 0.6))
    assert z_score(estimate([1, 2, 3], None, UNBOUNDED), 4) == pytest.approx(2)


@pytest.mark.parametrize(("value", "answer"), [(0.9, True), (0.7, False), (0.8996, True), (0.8994, False)])
def test_a_rounded_value_stands_for_all_that_round_to_it(value: float, answer: bool) -> None:
    e = estimate([0.9, 0.9, 0.9], None, FRACTION)  # of no width: 0.8996 ± 0.0005 holds 0.9, though 0.8996 is outside
    assert holds_rounded(prediction_interval(e, FRACTION), value) is answer


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1, and never smaller than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)


def compared(accuracies: Values, errors: dict[str, dict[int, list[int]]] | None = None) -> list[Comparison]:
    """Groups compared by their accuracies and, where given, by the errors of each image."""
    by_image: dict[str, dict[int, NDArray[np.float32]]] = {
        label: {seed: -np.array(row, np.float32) for seed, row in seeds.items()}
        for label, seeds in (errors or {}).items()
    }
    score = Measured(accuracies, by_image, FRACTION)
    return compare(score, score)


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
    (c,) = compared({"a": a, "b": b})
    d = c.difference
    assert (c.first, c.second, d.n, d.basis) == ("a", "b", 6, SEEDS)
    # 0.1 and 0.099, three times each: the standard deviation is 0.0005 √(6/5), t(0.975, 5) = 2.570582.
    half = 2.570582 * 0.0005 * math.sqrt(6 / 5) / math.sqrt(6)
    assert (d.low, d.high) == pytest.approx((0.0995 - half, 0.0995 + half))
    expected = stats.ttest_1samp([0.1, 0.099] * 3, 0).pvalue
    assert c.p_value == pytest.approx(expected, rel=1e-6)


def test_every_pair_is_compared_as_if_it_were_alone() -> None:
    errors = made_up(3, {f"m{i}": 0.3 + 0.02 * i for i in range(6)})
    comparisons = compared(accuracies(errors), errors)
    assert [(c.first, c.second) for c in comparisons] == list(itertools.combinations(errors, 2))
    for c in comparisons[::4]:
        two = {label: errors[label] for label in (c.first, c.second)}
        (alone,) = compared(accuracies(two), two)
        assert alone.difference == c.difference and c.p_value >= alone.p_value


def test_groups_that_lack_a_run_s_errors_are_compared_by_their_seeds() -> None:
    errors = made_up(3, {"a": 0.3, "b": 0.4})
    values = accuracies(errors)
    del errors["b"][1]
    (c,) = compared(values, errors)
    assert (c.difference.n, c.difference.basis) == (3, SEEDS)


def test_one_seed_of_unknown_errors_and_no_common_seed_say_nothing() -> None:
    one, none = compared({"a": {0: 0.5}, "b": {0: 0.6}, "c": {7: 1.0}})[:2]
    assert one.difference.n == 1 and np.isnan([one.p_value, one.difference.low]).all()
    assert none.difference.n == 0
    assert sentence(one) == "a and b: nothing can be said (n = 1 seed, and no file says which images they get wrong)."
    assert sentence(none) == "a and c: nothing can be said (they share no seed)."


def test_mcnemar_by_hand() -> None:
    # Of 12 images, one is wrong in both, 6 in a alone, 1 in b alone: p = 2 (1 + 7) / 2**7.
    errors = {"a": {0: [1] * 7 + [0] * 5}, "b": {0: [1] + [0] * 6 + [1] + [0] * 4}}
    (c,) = compared(accuracies(errors), errors)
    assert c.difference.mean == pytest.approx(-5 / 12) and c.difference.basis == IMAGES
    assert c.p_value == pytest.approx(2 * 8 / 2**7)
    assert math.isnan(c.wins) and math.isnan(c.difference.seeds_low)
    alike = {"a": {0: [1, 0, 0]}, "b": {0: [1, 0, 0]}}
    assert compared(accuracies(alike), alike)[0].p_value == 1


def test_probability_of_winning_by_hand() -> None:
    # Variances 2 and 2 of two runs each: their difference has t(2), spread √(2 · 2 · 1.5) = √6; P(t < 1) = 0.788675.
    assert probability_of_winning([6 + 6**0.5, 8 + 6**0.5], [6, 8]) == pytest.approx(0.7886751)
    assert math.isnan(probability_of_winning([1], [0, 0]))
    assert probability_of_winning([1, 1], [0, 0]) == 1 and probability_of_winning([1, 1], [1, 1]) == 0.5


def comparison(low: float, high: float, p: float, n: int = 10, basis: str = BOTH) -> Comparison:
    wins, difference = 0.973 if n > 1 else math.nan, Estimate(n, (low + high) / 2, math.nan, low, high, basis)
    return Comparison("A", "B", difference, difference, p, wins)


def test_comparisons_in_words() -> None:
    clear = comparison(0.0004, 0.0011, 0.002)
    assert sentence(clear) == (
        "A is more accurate than B: 4.0 to 11.0 fewer errors per 10,000 images; n = 10 seeds, p = 0.002. "
        "A new run of A beats a new run of B with a probability of 97 %."
    )
    assert sentence(clear.reversed()) == sentence(clear)
    alike = "A and B cannot be told apart: A makes "
    said = sentence(comparison(-0.0004, 0.0011, 0.2))
    assert said.startswith(f"{alike}4.0 more to 11.0 fewer errors per 10,000 images; n = 10 seeds")
    corrected = sentence(comparison(0.0004, 0.0011, 0.06))
    assert f"{alike}4.0 to 11.0 fewer errors" in corrected and "p = 0.06 after Holm's correction. " in corrected
    one = sentence(comparison(0.0004, 0.0011, 0.002, n=1, basis=IMAGES))
    assert "n = 1 seed, McNemar's test, p = 0.002" in one and one.endswith("it says nothing about other seeds.")
    assert sentence(comparison(0.0004, 0.0011, 0.002, basis=SEEDS)).count("it says nothing about other images.") == 1
    assert sentence(comparison(0.0004, 0.0011, 0.002, n=2)).count("Two seeds say little about others.") == 1


def winner(values: Values, errors: dict[str, dict[int, list[int]]] | None = None) -> str:
    means = {label: float(np.mean([*seeds.values()])) for label, seeds in values.items()}
    return winner_sentence(means, compared(values, errors))


def test_winner_in_words() -> None:
    errors = made_up(4, {"B": 0.3, "A": 0.1, "C": 0.5})
    said = winner(accuracies(errors), errors)
    assert said.startswith("A (") and "wins, with" in said and said.endswith("fewer errors per 10,000 images than B.")
    one = made_up(1, {"B": 0.3, "A": 0.1})
    assert winner(accuracies(one), one).endswith("nothing about other seeds.")
    assert "nothing says whether" in winner(accuracies(one))
    said = winner({"A": {0: 0.9, 1: 0.91, 2: 0.92}, "B": {0: 0.8, 1: 0.8101, 2: 0.8203}})
    assert "A (91.00 %) wins" in said and said.endswith("; it says nothing about other images.")


def test_a_winner_by_chance_or_by_other_seeds_alone_is_none() -> None:
    alike = {"A": {0: 0.9, 1: 0.91}, "B": {0: 0.91, 1: 0.9}}
    assert winner(alike) == "A (90.50 %) and B are equally accurate."
    random = np.random.default_rng(0)
    drawn = {name: dict(enumerate(random.normal(0.9, 0.01, 10))) for name in "AB"}
    assert "cannot be told apart from" in winner(drawn)
    assert winner_sentence({"A": 0.9}, []) == "A (90.00 %) is the only one here."
    both = {0: 0.9100, 1: 0.9111, 2: 0.9121}
    said = winner({"A": {0: 0.900, 1: 0.901, 2: 0.902, 3: 0.99, 4: 0.99}, "B": both})
    assert said == "A (93.66 %) has the highest mean, but on the seeds that both have, B is more accurate."
    # Not significant, but all below 0: errors are counted the right way round.
    c = compared({"A": {0: 0.90, 1: 0.91}, "B": {0: 0.92, 1: 0.9301}})[0]
    loser = replace(c, difference=replace(c.difference, low=-0.03, high=-0.001), p_value=0.06)
    said = winner_sentence({"A": 0.95, "B": 0.92}, [loser])
    assert "with 10.0 to 300.0 more errors per 10,000 images than B, but cannot be told apart from B" in said
