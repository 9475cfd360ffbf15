"""Count how often the report's 95 % intervals hold, and how often its tests find what is not there.

By simulation, with as many seeds as it takes, and on the tracked runs of ``protocol=published``, whose
60,000 evaluated images and ten seeds stand for all there are. Writes CSV files beside the tracked runs;
``make docs`` puts them into ``docs/reproduction.md``.
"""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.report.collect import collect
from mnist_exp.report.crossed import Crossed, half_width, mcnemar_test, t_test
from mnist_exp.report.image_errors import load_errors
from mnist_exp.report.statistics import FRACTION, Estimate, estimate

REFERENCE = Path(__file__).resolve().parent.parent / "outputs" / "reference"
SEEDS = (1, 2, 3, 5, 10)
REAL_SEEDS, ALL_SEEDS = (3, 5), 10
IMAGES = 10_000
DRAWS = 10_000
SPREADS = {1: "", 4: ", seeds four times as unlike"}
"""Factors of the seeds' effects that are simulated. Under the standard protocol they are about four times as large."""
REJECTS = {"rejects": 0.05, "rejects_at_1_percent": 0.01, "rejects_at_0.1_percent": 0.001}
"""Column → the level of the test."""
GRID = stats.norm.ppf((np.arange(100) + 0.5) / 100)
"""A standard normal variable, to average over."""

Array = NDArray[np.float64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Population:
    """Images that one or two models get wrong with a probability each, and how seeds change it."""

    name: str
    wrong: Array
    """Of the G models and M images, the share of seeds that get it wrong, ``[G, M]``."""
    seed_effect: Array
    """The standard deviation of what a seed adds to the logarithm of a model's odds, ``[G]``."""

    def shares(self, effects: Array) -> Array:
        """Each model's share of wrong images under these effects on the log odds, ``[G, K]`` → ``[G, K]``."""
        return np.array(
            [[_shift(model, effect).mean() for effect in row] for model, row in zip(self.wrong, effects, strict=True)]
        )


def _shift(probabilities: Array, effect: float | Array) -> Array:
    odds = probabilities * np.exp(effect)
    return np.asarray(odds / (1 - probabilities + odds))


def fit(name: str, models: list[NDArray[np.float32]], factor: float = 1) -> Population:
    """A population as hard, and ``factor`` times as much changed by seeds, as these models' runs, ``[S, N]`` each."""
    effects = []
    for errors in models:
        seeds, _, rest = Crossed.of(errors, errors.shape[1]).mean_squares
        share = errors.mean(axis=0).astype(float)
        slope = (share * (1 - share)).mean()  # what the share of wrong images gains with the log odds
        effects.append(max(seeds - rest, 0.0) ** 0.5 / errors.shape[1] ** 0.5 / slope)
    return Population(name, np.array([errors.mean(axis=0) for errors in models], float), factor * np.array(effects))


def without_difference(population: Population) -> Population:
    """Each image twice, once with its two models exchanged: they differ on images, but not on the whole."""
    effect = np.full(2, population.seed_effect.mean())
    return Population(population.name, np.hstack([population.wrong, population.wrong[::-1]]), effect)


def draw(population: Population, seeds: int, random: np.random.Generator) -> tuple[NDArray[np.float32], Array]:
    """Errors of new seeds on new images, ``[G, S, M]`` (only M images that may be wrong), and the seeds' effects."""
    possible = np.flatnonzero(population.wrong.any(axis=0))
    count = random.binomial(IMAGES, len(possible) / population.wrong.shape[1])
    wrong = population.wrong[:, random.choice(possible, count)]
    effects = population.seed_effect[:, None] * random.standard_normal((len(wrong), seeds))
    chance = _shift(wrong[:, None, :], effects[:, :, None])
    return (random.random(chance.shape, np.float32) < chance).astype(np.float32), effects


def analyse(errors: NDArray[np.float32]) -> Estimate:
    """What the report says of one model's accuracy or of two models' difference, from ``[G, S, M]`` errors."""
    crossed = _crossed(errors)
    means = crossed.sums / IMAGES
    if len(errors) == 1:
        return estimate(list(1 - means), crossed, FRACTION)
    return estimate(list(means), crossed, (-1, 1))


def p_value(errors: NDArray[np.float32]) -> float:
    """The report's p-value of no difference between two models, from ``[2, S, M]`` errors."""
    crossed = _crossed(errors)
    one = len(crossed.sums) == 1
    return mcnemar_test(crossed) if one else t_test(crossed, float(crossed.sums.mean()) / IMAGES)


def _crossed(errors: NDArray[np.float32]) -> Crossed:
    return Crossed.of(errors[0] if len(errors) == 1 else errors[1] - errors[0], IMAGES)


def simulate(population: Population, draws: int) -> Iterator[Row]:
    """A row for each number of seeds: how often intervals hold the truth and, of two models, tests err."""
    random = np.random.default_rng(16)
    two = len(population.wrong) == 2
    null = without_difference(population) if two else population
    quiet = Population(null.name, null.wrong, np.zeros(len(null.wrong)))
    held, p_values = {n: np.zeros(2) for n in SEEDS}, {n: np.ones(draws) for n in SEEDS}
    truth = _value(population.shares(population.seed_effect[:, None] * GRID).mean(axis=1))
    for number in range(draws):
        errors, effects = draw(population, max(SEEDS), random)
        unlike = draw(null, max(SEEDS), random)[0] if two else errors
        for n in SEEDS:
            found = analyse(errors[:, :n])
            # One trained network is asked about itself, not about its seed's siblings.
            true = truth if n > 1 else _value(population.shares(effects[:, :1])[:, 0])
            held[n] += found.low <= true <= found.high, found.seeds_low <= true <= found.seeds_high
            if two:
                p_values[n][number] = p_value(unlike[:, :n] if n > 1 else draw(quiet, 1, random)[0])
    for n in SEEDS:
        row: Row = {"what": population.name, "n": n, "draws": draws, "holds": held[n][0] / draws}
        row["seeds_alone_holds"] = held[n][1] / draws if n > 1 else None
        yield row | {name: (p_values[n] < level).mean() if two else None for name, level in REJECTS.items()}


def real(name: str, models: list[NDArray[np.float32]], draws: int) -> Iterator[Row]:
    """The same of intervals on real errors, ``[S, N]`` a model: some seeds and images are drawn from all."""
    random = np.random.default_rng(16)
    errors = np.array(models)
    truth = _value(np.asarray(errors.mean(axis=(1, 2)), np.float64))
    possible = np.flatnonzero(errors.any(axis=(0, 1)))
    errors, place = errors[:, :, possible], np.full(errors.shape[2], -1)
    place[possible] = np.arange(len(possible))
    for n in REAL_SEEDS:
        held = np.zeros(2)
        for _ in range(draws):
            images = place[random.choice(len(place), IMAGES, replace=False, shuffle=False)]
            seeds = random.choice(errors.shape[1], n, replace=False)
            found = analyse(errors[:, seeds][:, :, images[images >= 0]])
            held += found.low <= truth <= found.high, found.seeds_low <= truth <= found.seeds_high
        yield {"what": name, "n": n, "draws": draws, "holds": held[0] / draws, "seeds_alone_holds": held[1] / draws}


def pairs() -> Iterator[Row]:
    """Of all pairs of the tracked runs' seeds, on all images: how many intervals hold what ten seeds say."""
    found, _ = load_errors(collect(REFERENCE / "runs"))
    for first, second in itertools.combinations([g for g in found if len(g.predictions) == ALL_SEEDS], 2):
        if first.group.section != second.group.section:
            continue
        values = second.errors - first.errors
        two = [Crossed.of(values[[*seeds]], first.images) for seeds in itertools.combinations(range(ALL_SEEDS), 2)]
        means = [float(crossed.sums.mean()) / first.images for crossed in two]
        holds = [abs(mean - values.mean()) <= half_width(crossed) for mean, crossed in zip(means, two, strict=True)]
        row: Row = {"what": f"{first.group.label} and {second.group.label}", "protocol": first.group.protocol}
        row |= {"pairs": len(two), "hold": sum(holds)}
        yield row | {"smallest_p": min(t_test(crossed, mean) for mean, crossed in zip(means, two, strict=True))}


def _value(shares: Array) -> float:
    """The accuracy of one model, or by how much the first of two is more accurate."""
    return float(1 - shares[0] if len(shares) == 1 else shares[1] - shares[0])


def questions() -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """Each model's accuracy and each pair's difference: its name and the models' errors, ``[S, N]`` each."""
    found, _ = load_errors(collect(REFERENCE / "runs"))
    whole = [m for m in found if m.group.protocol == "published" and len(m.predictions) == ALL_SEEDS]
    for one in whole:
        yield f"accuracy of {one.group.label}", [one.errors]
    for first, second in itertools.combinations(whole, 2):
        yield f"{first.group.label} and {second.group.label}", [first.errors, second.errors]


def main(draws: int = DRAWS) -> int:
    """Write the tables."""
    folder = REFERENCE / "coverage"
    folder.mkdir(exist_ok=True)
    asked = list(questions())
    simulated = [
        row
        for factor, words in SPREADS.items()
        for name, models in asked
        for row in simulate(fit(name + words, models, factor), draws)
    ]
    measured = [row for name, models in asked for row in real(name, models, draws)]
    for name, rows in (("simulated", simulated), ("real", measured), ("pairs", [*pairs()])):
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
        print(pd.DataFrame(rows).to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
