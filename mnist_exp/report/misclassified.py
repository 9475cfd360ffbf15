"""Which images the models get wrong, from the predictions of their runs."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_exp.data.folders import CACHE, read_cache
from mnist_exp.errors import RunFolderError
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.predictions import UNKNOWN_LABEL, Predictions, read_predictions
from mnist_exp.report.runs import Problem, describe_error
from mnist_exp.runs.record import Record
from mnist_exp.text import printable


@dataclass(frozen=True)
class Misclassified:
    """What the runs of one group got wrong; S runs, N images."""

    group: Group
    predictions: dict[int, Predictions]
    """By seed, of the runs that have them."""
    labels: NDArray[np.int64]
    """``[N]``; `UNKNOWN_LABEL` where the files do not say."""

    @cached_property
    def confusion(self) -> NDArray[np.float64]:
        """Images by label and prediction, mean over the runs, ``[10, 10]``."""
        return np.asarray(np.mean([p.confusion for p in self.predictions.values()], axis=0))

    @cached_property
    def errors(self) -> NDArray[np.float32]:
        """1 where a run is wrong, else 0; ``[S, N]``."""
        return self.marks([p.wrong_index for p in self.predictions.values()])

    def marks(self, places: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """1 at these places of each run, else 0; ``[S, N]``."""
        found = np.zeros((len(self.predictions), len(self.labels)), np.float32)
        for row, mine in zip(found, places, strict=True):
            row[mine] = 1
        return found

    @property
    def losses(self) -> NDArray[np.float32] | None:
        """Of each run and image, ``[S, N]``; None where a run has no predictions.npz."""
        found = [p.losses for p in self.predictions.values() if p.losses is not None]
        return np.array(found) if len(found) == len(self.predictions) else None

    @cached_property
    def missed(self) -> NDArray[np.int64]:
        """How many runs got each image wrong, ``[N]``."""
        return np.asarray(self.errors.sum(axis=0).astype(np.int64))

    @property
    def mostly_missed(self) -> NDArray[np.bool_]:
        """Whether more than half of the runs get an image wrong, ``[N]``."""
        return self.missed > len(self.predictions) / 2

    @property
    def bins(self) -> NDArray[np.float64]:
        """By confidence, of the runs that have a predictions.npz: `Predictions.bins`, ``[S, 3, BINS]``."""
        return np.array([p.bins for p in self.predictions.values() if p.bins is not None])

    @property
    def calibration_errors(self) -> list[float]:
        """The expected calibration error of each run: ``Σ (images in bin / N) |accuracy - confidence|``."""
        return [float(np.abs(right - sure).sum() / len(self.labels)) for _, sure, right in self.bins]

    def most_common(self, index: int) -> tuple[int, float | None]:
        """The most common prediction for an image, and its mean probability if it is wrong."""
        wrong: dict[int, list[float]] = {}
        for p in self.predictions.values():
            for place in np.flatnonzero(p.wrong_index == index):
                wrong.setdefault(int(p.wrong_prediction[place]), []).append(float(p.wrong_probability[place]))
        best = max(wrong, key=lambda predicted: (len(wrong[predicted]), sum(wrong[predicted])), default=None)
        right = len(self.predictions) - self.missed[index]
        if best is None or len(wrong[best]) < right:
            return int(self.labels[index]), None
        return best, float(np.mean(wrong[best]))


@dataclass(frozen=True)
class Miss:
    """An image that most runs of some group get wrong."""

    index: int
    """Its place in its split, from 0."""
    label: int
    by_all: bool
    """Whether most runs of every group get it wrong."""
    predictions: list[tuple[Misclassified, int, float | None]]
    """For each group, the most common prediction of its runs, and its mean probability if it is wrong."""


def load_misclassified(collection: Collection) -> tuple[list[Misclassified], list[Problem]]:
    """Read the predictions of all groups; runs without such files are skipped."""
    found: list[Misclassified] = []
    problems = []
    for group in collection.groups:
        predictions: dict[int, Predictions] = {}
        label = np.zeros(0, np.int64)
        for run in group.runs:
            try:
                if mine := read_predictions(run):
                    label = _merge(label, mine.labels) if predictions else mine.labels
                    predictions[run.record.seed] = mine
            except (ValueError, OSError, RunFolderError) as error:
                problems.append(Problem(printable(run.folder.name), describe_error(error), left_out=False))
        if predictions:
            first = next((m for m in found if m.group.section == group.section), None)
            if first and not same_images(first.labels, label):
                reason = f"was evaluated on images with other labels than the runs of {first.group.label}"
                problems.append(Problem(printable(group.runs[0].folder.name), reason, left_out=False))
            found.append(Misclassified(group, predictions, label))
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
    shares = np.mean([m.missed / len(m.predictions) for m in alike], axis=0).round(6)
    by_all = np.all([m.mostly_missed for m in alike], axis=0)
    any_ = np.any([m.mostly_missed for m in alike], axis=0)
    sure = np.zeros(len(label))
    for m in alike:
        for p in m.predictions.values():
            sure[p.wrong_index] += p.wrong_probability / len(m.predictions)
    order = np.lexsort((-sure.round(6), -shares, ~by_all, ~any_))
    return [
        Miss(int(i), int(label[i]), bool(by_all[i]), [(m, *m.most_common(int(i))) for m in alike])
        for i in order[: min(most, int(any_.sum()))]
    ]


def load_images(root: Path, record: Record, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The images that a run was evaluated on, uint8, ``[N, H, W]``, as they are below ``root``; nothing is fetched.

    Of MNIST and its siblings these are the files that the run recorded, of a folder of PNG files the cache that
    training made.

    Args:
        root: the folder of the data.
        record: the run's.
        labels: of the images, ``[N]``.

    Raises:
        RunFolderError: they are not there as the run had them.
    """
    split = record.identity["protocol"]["eval_split"]
    if sha256 := record.identity["data"].get(f"{split}_sha256"):
        decoded = read_cache(root / CACHE, sha256, len(labels))
        if decoded is None:
            raise RunFolderError("the decoded images are not in the data folder, or are damaged")
        return decoded
    file, sha256 = [("", ""), *(record.data or {}).items()][-2]  # before the labels of the split that comes last
    for path in sorted(root.glob(f"*/raw/{file}")) if file else ():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == sha256:
            return np.frombuffer(content, np.uint8, offset=16).reshape(-1, *struct.unpack(">II", content[8:16]))
    raise RunFolderError(f"the images that the runs were evaluated on are not in {root.name}")
