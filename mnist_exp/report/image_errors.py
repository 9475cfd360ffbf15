"""Which images the models get wrong: the errors of the runs of each group, and the images behind them."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist_exp.data.decoding import CACHE, read_cache
from mnist_exp.errors import RunFolderError
from mnist_exp.report.collect import Collection, Group, Problem
from mnist_exp.report.predictions import Predictions, read_predictions
from mnist_exp.runs.record import Record
from mnist_exp.text import printable

MAX_CLASSES = 20
"""Classes that a table or a figure shows: of more, those with the most errors."""


@dataclass(frozen=True)
class GroupErrors:
    """What the runs of one group get wrong: S runs, evaluated on the same N images."""

    group: Group
    predictions: dict[int, Predictions]
    """By seed, of the runs that have them."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images by label, ``[classes]``."""
        return next(iter(self.predictions.values())).counts

    @property
    def images(self) -> int:
        """N."""
        return int(self.counts.sum())

    @cached_property
    def table(self) -> pd.DataFrame:
        """The errors of all runs: `Predictions.errors`, and the seed."""
        return pd.concat([p.errors.assign(seed=seed) for seed, p in self.predictions.items()], ignore_index=True)

    @cached_property
    def labels(self) -> "pd.Series[int]":
        """The labels of the images that some run gets wrong, by the image's index."""
        return self.table.drop_duplicates("index").set_index("index")["label"]

    def matrix(self, errors: pd.DataFrame) -> NDArray[np.float32]:
        """1 where a run makes one of these errors (rows of `table`), else 0; ``[S, N]``."""
        found = np.zeros((len(self.predictions), self.images), np.float32)
        found[pd.Index([*self.predictions]).get_indexer(pd.Index(errors["seed"])), errors["index"]] = 1
        return found

    @cached_property
    def errors(self) -> NDArray[np.float32]:
        """1 where a run is wrong, else 0; ``[S, N]``."""
        return self.matrix(self.table)

    @cached_property
    def confusion(self) -> NDArray[np.float64]:
        """Images by label and prediction, mean over the runs, ``[classes, classes]``."""
        size = len(self.counts)
        cells = np.bincount(size * self.table["label"] + self.table["predicted"], minlength=size**2)
        cells = cells.reshape(size, size)
        runs = len(self.predictions)
        return np.asarray((cells + np.diag(runs * self.counts - cells.sum(axis=1))) / runs)

    @property
    def losses(self) -> NDArray[np.float32] | None:
        """Of each run and image, ``[S, N]``; None where a run has no predictions.npz."""
        found = [p.losses for p in self.predictions.values()]
        return None if any(losses is None for losses in found) else np.array(found)

    @property
    def bins(self) -> NDArray[np.float64]:
        """By confidence, of the runs that have a predictions.npz: `Predictions.bins`, ``[S, 3, BINS]``."""
        return np.array([p.bins for p in self.predictions.values() if p.bins is not None])

    @property
    def calibration_errors(self) -> list[float]:
        """The expected calibration error of each run: ``Σ (images in bin / N) |accuracy - confidence|``."""
        return [float(np.abs(right - sure).sum() / self.images) for _, sure, right in self.bins]

    def same_images(self, other: "GroupErrors") -> bool:
        """Whether both were evaluated on the same images, as far as their labels are known."""
        both = self.labels.index.intersection(other.labels.index)
        return np.array_equal(self.counts, other.counts) and self.labels[both].equals(other.labels[both])


@dataclass(frozen=True)
class Answer:
    """What most of a group's runs predict for an image, and how many of the runs get it wrong."""

    group: Group
    predicted: int
    probability: float | None
    """The mean over the runs that predict it; None where the prediction is right."""
    errors: int
    runs: int


@dataclass(frozen=True)
class HardImage:
    """An image that most runs of some group get wrong."""

    index: int
    """Its place in its split, from 0."""
    label: int
    by_all: bool
    """Whether most runs of every group get it wrong."""
    answers: list[Answer]


def load_errors(collection: Collection) -> tuple[list[GroupErrors], list[Problem]]:
    """Read the errors of all groups, and say what is wrong with their files; runs without such files are skipped."""
    found: list[GroupErrors] = []
    problems = []
    for group in collection.groups:
        mine = GroupErrors(group, {})
        for run in group.runs:
            try:
                if predictions := read_predictions(run):
                    one = GroupErrors(group, {run.record.seed: predictions})
                    if mine.predictions and not mine.same_images(one):
                        raise RunFolderError("mistakes.csv is of other images than the other seeds'")
                    mine = GroupErrors(group, mine.predictions | one.predictions)
            except RunFolderError as error:
                problems.append(Problem(printable(run.folder.name), printable(str(error)), left_out=False))
        if not mine.predictions:
            continue
        first = next((other for other in found if other.group.section == group.section), mine)
        if not mine.same_images(first):
            reason = f"it was evaluated on images with other labels than the runs of {first.group.label}"
            problems.append(Problem(printable(group.runs[0].folder.name), reason, left_out=False))
        found.append(mine)
    return found, problems


def hardest_images(errors: Sequence[GroupErrors], most: int) -> list[HardImage]:
    """The images of one section that most runs of some group get wrong; first those that most of every group do.

    Args:
        errors: of the groups of one section; groups with other images than the first are skipped.
        most: how many images to return.
    """
    alike = [group for group in errors if group.same_images(errors[0])]
    counts = [group.errors.sum(axis=0) for group in alike]
    shares = [count / len(group.predictions) for count, group in zip(counts, alike, strict=True)]
    by_all, by_some = np.min(shares, axis=0) > 0.5, np.max(shares, axis=0) > 0.5
    share = np.mean(shares, axis=0).round(6)
    sure = np.zeros(len(share))
    for group in alike:
        np.add.at(sure, group.table["index"], group.table["probability"] / len(group.predictions))
    order = np.lexsort((-sure.round(6), -share, ~by_all, ~by_some))[: min(most, int(by_some.sum()))]
    labels = pd.concat([group.labels for group in alike])
    labels = labels[~labels.index.duplicated()]
    return [
        HardImage(int(i), int(labels[i]), bool(by_all[i]), [_answer(group, int(i), int(labels[i])) for group in alike])
        for i in order
    ]


def _answer(group: GroupErrors, index: int, label: int) -> Answer:
    """The most common prediction for an image; of several, the one that the runs are surer of."""
    errors, runs = group.table[group.table["index"] == index], len(group.predictions)
    found = errors.groupby("predicted")["probability"].agg(["count", "sum"]).sort_values(["count", "sum"])
    if found.empty or found["count"].iloc[-1] < runs - len(errors):
        return Answer(group.group, label, None, len(errors), runs)
    count, total = found.iloc[-1]
    return Answer(group.group, int(found.index[-1]), total / count, len(errors), runs)


def load_images(root: Path, record: Record, count: int) -> NDArray[np.uint8]:
    """The images that a run was evaluated on, uint8, ``[N, H, W]``, as they are below ``root``; nothing is fetched.

    Of MNIST and its siblings these are the files that the run recorded, of a folder of images the cache that
    training made.

    Args:
        root: the folder of the data.
        record: the run's.
        count: how many images there are, N.

    Raises:
        RunFolderError: they are not there as the run had them.
    """
    split = record.identity["protocol"]["eval_split"]
    if sha256 := record.identity["data"].get(f"{split}_sha256"):
        decoded = read_cache(root / CACHE, sha256, count)
        if decoded is None:
            raise RunFolderError("the decoded images are not in the data folder, or are damaged")
        return decoded
    file, sha256 = [("", ""), ("", ""), *(record.data or {}).items()][
        -2
    ]  # before the labels of the split that comes last
    for path in sorted(root.glob(f"*/raw/{file}")) if file else ():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == sha256:
            images = np.frombuffer(content, np.uint8, offset=16).reshape(-1, *struct.unpack(">II", content[8:16]))
            return images.swapaxes(1, 2) if file.startswith("emnist-") else images  # which has them lying
    raise RunFolderError(f"the images that the runs were evaluated on are not in {root.name}")
