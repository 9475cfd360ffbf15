"""Where the models fail, from the predictions of their runs."""

import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_exp.folders import CACHE, kept
from mnist_exp.report.collect import Collection, Group, Problem, Run, clean, read_checked, why

BINS = 15
"""Of confidence; as many as Guo et al. (2017) use."""
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
FILES = {"test": "t10k", "train": "train"}
SIDE = 28


@dataclass(frozen=True)
class Mistakes:
    """What the runs of one group got wrong; S runs, N digits."""

    group: Group
    confusions: NDArray[np.int64]
    """Digits by label and prediction, ``[S, 10, 10]``."""
    bins: NDArray[np.float64]
    """By confidence: digits, sum of their confidences, right ones; ``[S, 3, BINS]``."""
    label: NDArray[np.int64]
    """``[N]``"""
    missed: NDArray[np.int64]
    """In how many runs each digit was, ``[N]``."""
    probabilities: NDArray[np.float64]
    """Mean over the runs, ``[N, 10]``."""

    @property
    def confusion(self) -> NDArray[np.float64]:
        """Mean over the runs, ``[10, 10]``."""
        return np.asarray(self.confusions.mean(axis=0))

    @property
    def mostly_missed(self) -> NDArray[np.bool_]:
        """Whether more than half of the runs miss a digit, ``[N]``."""
        return self.missed > len(self.confusions) / 2

    @property
    def calibration_errors(self) -> list[float]:
        """The expected calibration error of each run: ``Σ (digits in bin / N) |accuracy - confidence|``."""
        _, confidence, right = self.bins.transpose(1, 0, 2)
        return [float(e) for e in np.abs(right - confidence).sum(axis=1) / len(self.label)]


@dataclass(frozen=True)
class Miss:
    """A digit that most runs of some group miss."""

    index: int
    """Its place in its split, from 0."""
    label: int
    by_all: bool
    """Whether most runs of every group miss it."""
    answers: list[tuple[Mistakes, int]]
    """For each group, the class with the highest mean probability."""


def analyse(collection: Collection) -> tuple[list[Mistakes], list[Problem]]:
    """Read the predictions of all groups; runs without that file are passed over."""
    found, problems = [], []
    for group in collection.groups:
        confusions, bins = [], []
        missed: Any = 0
        total: Any = 0
        label = None
        for run in group.runs:
            if not (run.folder / "predictions.npz").exists():
                continue
            try:
                mine, predicted, probabilities = _predictions(run)
                label = mine if label is None else label
                if not np.array_equal(mine, label):
                    raise ValueError("has a predictions.npz of other digits than the other seeds'")
            except (ValueError, OSError) as error:
                problems.append(Problem(clean(run.folder.name), why(error), left_out=False))
                continue
            confusions.append(np.bincount(10 * label + predicted, minlength=100).reshape(10, 10))
            right, confidence = predicted == label, probabilities.max(axis=1)
            place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
            bins.append([np.bincount(place, w, BINS) for w in (np.ones(len(label)), confidence, right)])
            missed, total = missed + ~right, total + probabilities
        if label is not None:
            mean = total / len(confusions)
            found.append(Mistakes(group, np.array(confusions), np.array(bins), label, missed, mean))
    return found, problems


def _predictions(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    content = read_checked(run.folder, run.record, "predictions.npz")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            label, predicted, probabilities = (archive[k] for k in ("label", "predicted", "probabilities"))
        whole = [np.asarray(a).astype(np.int64, casting="safe") for a in (label, predicted)]
        probabilities = np.asarray(probabilities).astype(np.float64, casting="safe")
    except Exception as error:  # whatever is wrong with it, it is no archive of ours
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"has a damaged predictions.npz: {reason}") from error
    count = len(whole[0]) if whole[0].ndim == 1 else 0
    fits = count > 0 and whole[1].shape == (count,) and probabilities.shape == (count, 10)
    if not (fits and all(((a >= 0) & (a < 10)).all() for a in whole)):
        raise ValueError("has a predictions.npz that does not hold labels, classes and ten probabilities each")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ValueError("has a predictions.npz with probabilities that are no numbers from 0 to 1")
    return whole[0], whole[1], probabilities


def gallery(mistakes: Sequence[Mistakes], most: int) -> list[Miss]:
    """The digits of one section that most runs of some group miss: those that all groups miss first.

    Args:
        mistakes: of the groups of one section; groups with other digits than the first are passed over.
        most: how many digits to return.
    """
    alike = [m for m in mistakes if np.array_equal(m.label, mistakes[0].label)]
    label = mistakes[0].label
    shares = np.stack([m.missed / len(m.confusions) for m in alike])
    by_all = np.all([m.mostly_missed for m in alike], axis=0)
    any_ = np.any([m.mostly_missed for m in alike], axis=0)
    given = np.mean([m.probabilities[np.arange(len(label)), label] for m in alike], axis=0)
    order = np.lexsort((np.arange(len(label)), given.round(6), -shares.mean(axis=0).round(6), ~by_all, ~any_))
    return [
        Miss(int(i), int(label[i]), bool(by_all[i]), [(m, int(m.probabilities[i].argmax())) for m in alike])
        for i in order[: min(most, int(any_.sum()))]
    ]


def pictures(root: Path, data: Mapping[str, Any], split: str, label: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The images of a split, ``[N, 28, 28]`` or ``[N, 32, 32]`` in grey, as they lie below ``root``.

    Nothing is fetched, and of a folder of PNG files only what training has decoded is looked for.

    Args:
        root: the folder of the data.
        data: what a run's identity says of its data.
        split: ``train`` or ``test``.
        label: of the images that are wanted, ``[N]``.

    Raises:
        ValueError: the files are missing or damaged, or hold other labels than ``label``.
    """
    name = FILES.get(split, split)
    if data["name"] == "png_folder":
        decoded = kept(root / CACHE, str(data.get(f"{split}_sha256")), len(label))
        if decoded is None:
            raise ValueError("the folder's decoded images are not in the data folder, or damaged")
        return decoded
    if data["name"] not in FOLDERS:
        raise ValueError(f"those of {data['name']} are not read here")
    folder = root / FOLDERS[data["name"]] / "raw"
    images = _idx(folder, f"{name}-images-idx3-ubyte", 16)
    labels = _idx(folder, f"{name}-labels-idx1-ubyte", 8)
    if len(images) != len(label) * SIDE * SIDE or not np.array_equal(labels, label):
        raise ValueError(f"the digits of {name} in {root.name} are not those that the runs were evaluated on")
    return images.reshape(-1, SIDE, SIDE)


def _idx(folder: Path, name: str, header: int) -> NDArray[np.uint8]:
    for path in (folder / name, folder / f"{name}.gz"):
        try:
            content = path.read_bytes()
            return np.frombuffer(gzip.decompress(content) if path.suffix else content, np.uint8)[header:]
        except FileNotFoundError:
            continue
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"{path.name} can't be read ({error})") from error
    raise ValueError(f"the digits ({name}) are not in the data folder")
