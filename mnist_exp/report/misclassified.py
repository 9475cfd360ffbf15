"""Which images the models get wrong, from the predictions of their runs."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_exp.data.catalog import CATALOG
from mnist_exp.data.folders import CACHE, read_cache
from mnist_exp.data.idx import read_raw
from mnist_exp.errors import DataError
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.runs import Problem, Run, describe_error, read_checked
from mnist_exp.report.text import printable
from mnist_exp.runs.record import PREDICTIONS

BINS = 15
"""Of confidence; as many as Guo et al. (2017) use."""


@dataclass(frozen=True)
class Misclassified:
    """What the runs of one group got wrong; S runs, N images."""

    group: Group
    confusions: NDArray[np.int64]
    """Images by label and prediction, ``[S, 10, 10]``."""
    bins: NDArray[np.float64]
    """By confidence: images, sum of their confidences, right ones; ``[S, 3, BINS]``."""
    label: NDArray[np.int64]
    """``[N]``"""
    missed: NDArray[np.int64]
    """How many runs got each image wrong, ``[N]``."""
    probabilities: NDArray[np.float64]
    """Mean over the runs, ``[N, 10]``."""

    @property
    def confusion(self) -> NDArray[np.float64]:
        """Mean over the runs, ``[10, 10]``."""
        return np.asarray(self.confusions.mean(axis=0))

    @property
    def mostly_missed(self) -> NDArray[np.bool_]:
        """Whether more than half of the runs get an image wrong, ``[N]``."""
        return self.missed > len(self.confusions) / 2

    @property
    def calibration_errors(self) -> list[float]:
        """The expected calibration error of each run: ``Σ (images in bin / N) |accuracy - confidence|``."""
        _, confidence, right = self.bins.transpose(1, 0, 2)
        return [float(e) for e in np.abs(right - confidence).sum(axis=1) / len(self.label)]


@dataclass(frozen=True)
class Miss:
    """An image that most runs of some group get wrong."""

    index: int
    """Its place in its split, from 0."""
    label: int
    by_all: bool
    """Whether most runs of every group get it wrong."""
    answers: list[tuple[Misclassified, int]]
    """For each group, the class with the highest mean probability."""


def load_misclassified(collection: Collection) -> tuple[list[Misclassified], list[Problem]]:
    """Read the predictions of all groups; runs without that file are skipped."""
    found, problems = [], []
    for group in collection.groups:
        confusions, bins = [], []
        missed: Any = 0
        total: Any = 0
        label = None
        for run in group.runs:
            if not (run.folder / PREDICTIONS).exists():
                continue
            try:
                mine, predicted, probabilities = _predictions(run)
                label = mine if label is None else label
                if not np.array_equal(mine, label):
                    raise ValueError("has a predictions.npz of other images than the other seeds'")
            except (ValueError, OSError) as error:
                problems.append(Problem(printable(run.folder.name), describe_error(error), left_out=False))
                continue
            confusions.append(np.bincount(10 * label + predicted, minlength=100).reshape(10, 10))
            right, confidence = predicted == label, probabilities.max(axis=1)
            place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
            bins.append([np.bincount(place, w, BINS) for w in (np.ones(len(label)), confidence, right)])
            missed, total = missed + ~right, total + probabilities
        if label is not None:
            mean = total / len(confusions)
            found.append(Misclassified(group, np.array(confusions), np.array(bins), label, missed, mean))
    return found, problems


def _predictions(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    content = read_checked(run.folder, run.record, PREDICTIONS)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            label, predicted, probabilities = (archive[k] for k in ("label", "predicted", "probabilities"))
        whole = [np.asarray(a).astype(np.int64, casting="safe") for a in (label, predicted)]
        probabilities = np.asarray(probabilities).astype(np.float64, casting="safe")
    except Exception as error:  # whatever is wrong with it, it is not a usable archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"has a damaged predictions.npz: {reason}") from error
    count = len(whole[0]) if whole[0].ndim == 1 else 0
    fits = count > 0 and whole[1].shape == (count,) and probabilities.shape == (count, 10)
    if not (fits and all(((a >= 0) & (a < 10)).all() for a in whole)):
        raise ValueError("has a predictions.npz without labels, classes and ten probabilities each")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ValueError("has a predictions.npz with probabilities outside 0 to 1")
    return whole[0], whole[1], probabilities


def gallery(misclassified: Sequence[Misclassified], most: int) -> list[Miss]:
    """The images of one section that most runs of some group get wrong: first those that all groups do.

    Args:
        misclassified: of the groups of one section; groups with other images than the first are skipped.
        most: how many images to return.
    """
    alike = [m for m in misclassified if np.array_equal(m.label, misclassified[0].label)]
    label = misclassified[0].label
    shares = np.stack([m.missed / len(m.confusions) for m in alike])
    by_all = np.all([m.mostly_missed for m in alike], axis=0)
    any_ = np.any([m.mostly_missed for m in alike], axis=0)
    given = np.mean([m.probabilities[np.arange(len(label)), label] for m in alike], axis=0)
    order = np.lexsort((np.arange(len(label)), given.round(6), -shares.mean(axis=0).round(6), ~by_all, ~any_))
    return [
        Miss(int(i), int(label[i]), bool(by_all[i]), [(m, int(m.probabilities[i].argmax())) for m in alike])
        for i in order[: min(most, int(any_.sum()))]
    ]


def load_images(root: Path, data: Mapping[str, Any], split: str, label: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The images of a split, uint8, ``[N, 28, 28]`` or ``[N, 32, 32]``, as they are below ``root``.

    Nothing is fetched; of a folder of PNG files only the cache that training made is read.

    Args:
        root: the folder of the data.
        data: what a run's identity says of its data.
        split: ``train`` or ``test``.
        label: the labels that they must have, ``[N]``.

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
    if not np.array_equal(labels, label):
        raise ValueError(
            f"the images of the {split} split in {root.name} are not those that the runs were evaluated on"
        )
    return images
