"""Which images the models get wrong, from the answers of their runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_exp.data.catalog import CATALOG
from mnist_exp.data.folders import CACHE, read_cache
from mnist_exp.data.idx import read_raw
from mnist_exp.errors import DataError
from mnist_exp.report.answers import UNKNOWN_LABEL, Answers, read_answers
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.runs import Problem, describe_error
from mnist_exp.report.text import printable


@dataclass(frozen=True)
class Misclassified:
    """What the runs of one group got wrong; S runs, N images."""

    group: Group
    answers: dict[int, Answers]
    """By seed, of the runs that have them."""
    labels: NDArray[np.int64]
    """``[N]``; `UNKNOWN_LABEL` where the files do not say."""

    @cached_property
    def confusion(self) -> NDArray[np.float64]:
        """Images by label and prediction, mean over the runs, ``[10, 10]``."""
        return np.asarray(np.mean([answers.confusion for answers in self.answers.values()], axis=0))

    @cached_property
    def errors(self) -> NDArray[np.float32]:
        """1 where a run is wrong, else 0; ``[S, N]``."""
        return self.marks([answers.wrong_index for answers in self.answers.values()])

    def marks(self, places: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """1 at these places of each run, else 0; ``[S, N]``."""
        found = np.zeros((len(self.answers), len(self.labels)), np.float32)
        for row, mine in zip(found, places, strict=True):
            row[mine] = 1
        return found

    @property
    def losses(self) -> NDArray[np.float32] | None:
        """Of each run and image, ``[S, N]``; None where a run has no predictions.npz."""
        found = [answers.losses for answers in self.answers.values() if answers.losses is not None]
        return np.array(found) if len(found) == len(self.answers) else None

    @cached_property
    def missed(self) -> NDArray[np.int64]:
        """How many runs got each image wrong, ``[N]``."""
        return np.asarray(self.errors.sum(axis=0).astype(np.int64))

    @property
    def mostly_missed(self) -> NDArray[np.bool_]:
        """Whether more than half of the runs get an image wrong, ``[N]``."""
        return self.missed > len(self.answers) / 2

    @property
    def bins(self) -> NDArray[np.float64]:
        """By confidence, of the runs that have a predictions.npz: `Answers.bins`, ``[S, 3, BINS]``."""
        return np.array([answers.bins for answers in self.answers.values() if answers.bins is not None])

    @property
    def calibration_errors(self) -> list[float]:
        """The expected calibration error of each run: ``Σ (images in bin / N) |accuracy - confidence|``."""
        return [float(np.abs(right - sure).sum() / len(self.labels)) for _, sure, right in self.bins]

    def answer(self, index: int) -> tuple[int, float | None]:
        """The answer of most runs to an image, and its mean probability where that answer is wrong."""
        given: dict[int, list[float]] = {}
        for answers in self.answers.values():
            place = int(np.searchsorted(answers.wrong_index, index))
            if place < len(answers.wrong_index) and answers.wrong_index[place] == index:
                given.setdefault(int(answers.wrong_answer[place]), []).append(float(answers.wrong_probability[place]))
        best = max(given, key=lambda answer: (len(given[answer]), sum(given[answer])), default=None)
        if best is None or len(given[best]) < len(self.answers) - self.missed[index]:
            return int(self.labels[index]), None
        return best, float(np.mean(given[best]))


@dataclass(frozen=True)
class Miss:
    """An image that most runs of some group get wrong."""

    index: int
    """Its place in its split, from 0."""
    label: int
    by_all: bool
    """Whether most runs of every group get it wrong."""
    answers: list[tuple[Misclassified, int, float | None]]
    """For each group, the answer of most of its runs, and that answer's mean probability if it is wrong."""


def load_misclassified(collection: Collection) -> tuple[list[Misclassified], list[Problem]]:
    """Read the answers of all groups; runs without such files are skipped."""
    found, problems = [], []
    for group in collection.groups:
        answers: dict[int, Answers] = {}
        label = np.zeros(0, np.int64)
        for run in group.runs:
            try:
                if mine := read_answers(run):
                    label = _merge(label, mine.labels) if answers else mine.labels
                    answers[run.record.seed] = mine
            except (ValueError, OSError) as error:
                problems.append(Problem(printable(run.folder.name), describe_error(error), left_out=False))
        if answers:
            found.append(Misclassified(group, answers, label))
    return found, problems


def same_images(one: NDArray[np.int64], other: NDArray[np.int64]) -> bool:
    """Whether labels agree as far as both are known."""
    return len(one) == len(other) and bool(((one == other) | (one == UNKNOWN_LABEL) | (other == UNKNOWN_LABEL)).all())


def _merge(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    if not same_images(one, other):
        raise ValueError("has a predictions.npz or mistakes.csv of other images than the other seeds'")
    return np.maximum(one, other)


def gallery(misclassified: Sequence[Misclassified], most: int) -> list[Miss]:
    """The images of one section that most runs of some group get wrong; first those that most of every group do.

    Args:
        misclassified: of the groups of one section; groups with other images than the first are skipped.
        most: how many images to return.
    """
    alike = [m for m in misclassified if same_images(m.labels, misclassified[0].labels)]
    label = np.max([m.labels for m in alike], axis=0)
    shares = np.mean([m.missed / len(m.answers) for m in alike], axis=0).round(6)
    by_all = np.all([m.mostly_missed for m in alike], axis=0)
    any_ = np.any([m.mostly_missed for m in alike], axis=0)
    sure = np.zeros(len(label))
    for m in alike:
        for answers in m.answers.values():
            sure[answers.wrong_index] += answers.wrong_probability / len(m.answers)
    order = np.lexsort((-sure.round(6), -shares, ~by_all, ~any_))
    return [
        Miss(int(i), int(label[i]), bool(by_all[i]), [(m, *m.answer(int(i))) for m in alike])
        for i in order[: min(most, int(any_.sum()))]
    ]


def load_images(root: Path, data: Mapping[str, Any], split: str, label: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The images of a split, uint8, ``[N, 28, 28]`` or ``[N, 32, 32]``, as they are below ``root``.

    Nothing is fetched; of a folder of PNG files only the cache that training made is read.

    Args:
        root: the folder of the data.
        data: what a run's identity says of its data.
        split: ``train`` or ``test``.
        label: the labels that they must have, ``[N]``; any where `UNKNOWN_LABEL`.

    Raises:
        ValueError: the files are missing or damaged, or hold other labels than ``label``.
    """
    if data["name"] == "png_folder":
        decoded = read_cache(root / CACHE, str(data.get(f"{split}_sha256")), len(label))
        if decoded is None:
            raise ValueError("the folder's decoded images are not in the data folder, or damaged")
        return decoded
    if data["name"] not in CATALOG:
        raise ValueError(f"there are no images of {data['name']} to read")
    try:
        images, labels = read_raw(data["name"], split, root)
    except DataError as error:
        raise ValueError(f"the images cannot be read from the data folder: {error}") from error
    if not same_images(np.asarray(labels).astype(np.int64), label):
        raise ValueError(
            f"the images of the {split} split in {root.name} are not those that the runs were evaluated on"
        )
    return images
