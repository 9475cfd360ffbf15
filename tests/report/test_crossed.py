"""The crossed analysis against sums written out, and how often its intervals hold."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mnist_exp.report.crossed import Crossed, half_width, t_test, wilson_interval
from mnist_exp.report.statistics import BOTH, DIFFERENCE, FRACTION, IMAGES, LOSS, Measured, estimate
from scripts import interval_coverage as coverage


def crossed(values: list[list[float]] | NDArray[Any]) -> Crossed:
    array = np.array(values, np.float32)
    return Crossed.of(array, array.shape[1])


def test_parts_by_hand() -> None:
    # Two seeds, three images: 1 2 3 and 3 2 7. Means of seeds 2, 4; of images 2, 2, 5; of all 3.
    # Squares: seeds 3 (1 + 1) = 6, 1 degree; images 2 (1 + 1 + 4) = 12, 2 degrees; all 4+1+0+0+1+16 = 22,
    # so the rest 4, 2 degrees. Mean squares 6, 6, 2.
    c = crossed([[1, 2, 3], [3, 2, 7]])
    assert c.variance_parts == pytest.approx((6 / 6, (6 - 2) / 6))
    # (6 + 6 - 2)² / (36/1 + 36/2 + 4/2) = 100 / 56 degrees of freedom.
    assert c.degrees == pytest.approx(100 / 56)
    t = stats.t.ppf(0.975, 100 / 56)
    # t(0.975, 1) = 12.706205, with the seeds' part less a sixteenth of the images'.
    assert half_width(c) == pytest.approx(max(t * (10 / 6) ** 0.5, 12.706205 * (1 - 4 / 6 / 16) ** 0.5))


def test_parts_against_every_deviation_written_out() -> None:
    x = np.random.default_rng(0).normal(size=(4, 7)) + np.arange(7)
    mean, of_seed, of_image = x.mean(), x.mean(axis=1), x.mean(axis=0)
    rest = sum((x[s, i] - of_seed[s] - of_image[i] + mean) ** 2 for s, i in itertools.product(range(4), range(7))) / 18
    seeds, images = 7 * ((of_seed - mean) ** 2).sum() / 3, 4 * ((of_image - mean) ** 2).sum() / 6
    assert crossed(x).variance_parts == pytest.approx((seeds / 28, (images - rest) / 28), rel=1e-5)


def test_two_seeds_that_agree_by_chance_give_no_certainty() -> None:
    # 1 1 0 0 0 … and 1 0 1 0 0 …, of 100 images: both seeds sum to 2, so their mean square is 0.
    # Squares of images: 2 (1 + 1/4 + 1/4) - 200 · 0.02² = 2.92; of all 4 - 0.08, so of the rest 1.
    x = np.zeros((2, 100))
    x[0, :2] = x[1, [0, 2]] = 1
    error = (2.92 / 99 / 200) ** 0.5  # the larger of the two
    assert half_width(crossed(x)) >= error
    # 10 standard errors are 1e-23 of a normal distribution. Here 1 is as rare as 12.706205 with one degree of freedom.
    assert t_test(crossed(x), 10 * error) == pytest.approx(2 * stats.t.sf(127.06205, 1), rel=1e-6)


def test_one_seed_has_the_variance_of_its_images() -> None:
    x = [[1.0, 0, 0, 1, 5]]
    assert crossed(x).variance_parts == pytest.approx((0, np.var(x, ddof=1) / 5))
    assert half_width(crossed(x)) == pytest.approx(stats.t.ppf(0.975, 4) * stats.sem(x[0]))


def test_differences_are_those_of_the_values_paired_by_seed() -> None:
    random = np.random.default_rng(1)
    x, y = random.integers(0, 2, (3, 50)), random.integers(0, 2, (3, 50))
    by_image = {"x": dict(enumerate(-x)), "y": {seed: -y[seed] for seed in (2, 0, 1)}}
    values = {label: {seed: 1 + row.mean() for seed, row in rows.items()} for label, rows in by_image.items()}
    d, found = Measured(values, by_image, FRACTION).difference("x", "y")
    expected = crossed(x - y)
    assert found is not None and found.variance_parts == pytest.approx(expected.variance_parts)
    assert found.degrees == pytest.approx(expected.degrees) and d.mean == pytest.approx(np.mean(y - x))
    assert d.high - d.mean == pytest.approx(half_width(expected))


def test_images_that_are_left_out_are_those_of_value_0() -> None:
    some = Crossed.of(np.array([[1, 1, 0], [0, 1, 1]], np.float32), 5)
    whole = crossed([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]])
    assert some.variance_parts == whole.variance_parts and half_width(some) == half_width(whole)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_the_test_rejects_where_the_interval_leaves_out_zero(seeds: int) -> None:
    random = np.random.default_rng(2)
    for shift in np.linspace(0, 1, 40):
        c = crossed(random.normal(shift, 1, (seeds, 30)) + random.normal(0, 0.2, (seeds, 1)))
        mean = float(c.sums.sum() / (seeds * 30))
        assert (t_test(c, mean) < 0.05) == (abs(mean) > half_width(c))


def test_wilson_by_hand() -> None:
    # z² = 3.841459; of 0 of 10: 0 to z² / (10 + z²).
    assert wilson_interval(0, 10) == pytest.approx((0, 3.841459 / 13.841459), abs=1e-6)
    assert wilson_interval(1, 10) == pytest.approx((10 / 13.841459, 1), abs=1e-6)


def test_accuracies_stay_within_0_and_1_and_a_perfect_one_is_not_certain() -> None:
    perfect = estimate([1.0, 1.0, 1.0], crossed(np.zeros((3, 100))), FRACTION)
    assert perfect.low == pytest.approx(100 / 103.841459) and (perfect.high, perfect.basis) == (1, BOTH)
    errors = np.zeros((2, 50))
    errors[0, :3] = 1
    found = estimate([0.94, 1.0], crossed(errors), FRACTION)
    assert 0 <= found.low < 0.94 and 0.99 < found.high <= 1
    # On the log odds' scale, where a small step is as many times larger as p (1 - p) is smaller than 1.
    half, odds = half_width(crossed(errors)), math.log(0.97 / 0.03)
    assert found.low == pytest.approx(1 / (1 + math.exp(half / (0.97 * 0.03) - odds)))
    one = estimate([0.5], crossed([[0.5, 0.4, 0.6]]), LOSS)
    assert one.basis == IMAGES and math.isnan(one.seeds_low) and math.isnan(one.seeds_variance)


def test_two_perfect_models_may_yet_differ_as_much_as_one_may_err() -> None:
    found = estimate([0.0, 0.0], crossed(np.zeros((2, 200))), DIFFERENCE)
    assert (found.low, found.high) == pytest.approx((-3.841459 / 203.841459, 3.841459 / 203.841459))


def population(difference: bool) -> coverage.Population:
    """2 % of the images are hard, for each of two models in another way; seeds change the odds by a fifth."""
    random = np.random.default_rng(3)
    hard = np.zeros((2, 5000))
    hard[:, :100] = random.beta(0.8, 0.8, 100)
    hard[1, 50:150] = random.beta(0.8, 0.8, 100)
    models = 2 if difference else 1
    return coverage.Population("made up", hard[:models], np.full(models, 0.2))


@pytest.mark.parametrize("difference", [False, True])
def test_intervals_hold_and_tests_err_as_often_as_they_say(difference: bool) -> None:
    draws = 1000  # a binomial count's standard deviation is 0.7 points
    for row in coverage.simulate(population(difference), draws):
        assert 0.93 - 0.015 <= row["holds"] <= 0.97 + 0.015, row
        assert row["rejects"] is None or 0.03 - 0.015 <= row["rejects"] <= 0.06 + 0.015, row
        assert row["rejects"] is None or row["rejects_at_1_percent"] <= 0.015 + 0.007, row
        assert row["rejects"] is None or row["rejects_at_0.1_percent"] <= 0.002 + 0.003, row


def test_what_stands_for_all_is_the_mean_of_all_and_is_mostly_held() -> None:
    random = np.random.default_rng(5)
    hard = np.zeros(30_000)
    hard[:900] = random.random(900)
    errors = (random.random((10, 30_000)) < hard).astype(np.float32)
    for row in coverage.real("made up", [errors], 300):
        assert row["holds"] >= 0.93
