"""One run's predictions: from its predictions.npz or, if that is missing, from its mistakes.csv."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_exp.report.runs import Run, read_checked, read_table
from mnist_exp.runs.record import CLASS_COUNTS, MISTAKES, MISTAKES_COLUMNS, PREDICTIONS

BINS = 15
"""Of confidence; as many as Guo et al. (2017) use."""
UNKNOWN_LABEL = -1
"""The label of an image whose label is not in the file."""
SMALLEST_PROBABILITY = 1e-45
"""About the smallest positive float32; it replaces a probability of 0, whose logarithm would be infinite."""


@dataclass(frozen=True)
class Predictions:
    """One run's predictions for N images, W of which it gets wrong."""

    labels: NDArray[np.int64]
    """Of all images, ``[N]``; from mistakes.csv, `UNKNOWN_LABEL` where the run is right."""
    counts: NDArray[np.int64]
    """Images by label, ``[10]``."""
    wrong_index: NDArray[np.int64]
    """Of each image that it gets wrong: its index in the split, from 0, ``[W]``."""
    wrong_label: NDArray[np.int64]
    """Its label, ``[W]``."""
    wrong_prediction: NDArray[np.int64]
    """What the run predicts for it, ``[W]``."""
    wrong_probability: NDArray[np.float64]
    """The probability of that, ``[W]``."""
    losses: NDArray[np.float32] | None = None
    """Cross-entropy of each image, in nats, ``[N]``; None, as are the bins, from mistakes.csv."""
    bins: NDArray[np.float64] | None = None
    """For each bin of confidence: how many images, the sum of their confidences, how many right; ``[3, BINS]``."""

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Images by label and prediction, ``[10, 10]``."""
        wrong = np.bincount(10 * self.wrong_label + self.wrong_prediction, minlength=100).reshape(10, 10)
        return wrong + np.diag(self.counts - wrong.sum(axis=1))


def read_predictions(run: Run) -> Predictions | None:
    """A run's predictions; None if it has neither of the files.

    Raises:
        ValueError, OSError: the file is damaged, or another run's.
    """
    if (run.folder / PREDICTIONS).exists():
        return _from_predictions(run)
    return _from_mistakes(run) if (run.folder / MISTAKES).exists() else None


def _from_predictions(run: Run) -> Predictions:
    label, predicted, probabilities = _read_predictions(run)
    wrong, confidence = np.flatnonzero(predicted != label), probabilities.max(axis=1)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [np.bincount(place, w, BINS) for w in (np.ones(len(label)), confidence, predicted == label)]
    return Predictions(
        labels=label,
        counts=np.bincount(label, minlength=10),
        wrong_index=wrong,
        wrong_label=label[wrong],
        wrong_prediction=predicted[wrong],
        wrong_probability=probabilities[wrong, predicted[wrong]].round(4),
        losses=-np.log(np.maximum(probabilities[np.arange(len(label)), label], SMALLEST_PROBABILITY)).astype(
            np.float32
        ),
        bins=np.array(bins),
    )


def _read_predictions(run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    content = read_checked(run.folder, run.record, PREDICTIONS)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            label, predicted, probabilities = (archive[k] for k in ("label", "predicted", "probabilities"))
        whole = [np.asarray(a).astype(np.int64, casting="safe") for a in (label, predicted)]
        probabilities = np.asarray(probabilities).astype(np.float64, casting="safe")
    except Exception as error:  # whatever is wrong with it, it is not a usable archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"has a damaged predictions.npz: {reason}") from error
    fits = whole[0].ndim == 1 and whole[0].shape == whole[1].shape and probabilities.shape == (len(whole[0]), 10)
    if not (fits and len(whole[0]) and all(((a >= 0) & (a < 10)).all() for a in whole)):
        raise ValueError("has a predictions.npz without labels, classes and ten probabilities each")
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all():
        raise ValueError("has a predictions.npz with probabilities outside 0 to 1")
    return whole[0], whole[1], probabilities


def _from_mistakes(run: Run) -> Predictions:
    table = read_table(run.folder, run.record, MISTAKES, MISTAKES_COLUMNS)
    index, label, predicted = (table[name].to_numpy(np.int64) for name in MISTAKES_COLUMNS[:3])
    probability = table[MISTAKES_COLUMNS[3]].to_numpy(np.float64)
    classes = read_table(run.folder, run.record, CLASS_COUNTS, ["images", "wrong"]).astype(np.int64)
    counts = classes["images"].to_numpy()
    inside = all(((a >= 0) & (a <= end)).all() for a, end in ((label, 9), (predicted, 9), (probability, 1)))
    ordered = (np.diff(index) > 0).all() and (not len(index) or 0 <= index[0] <= index[-1] < counts.sum())
    if len(counts) != 10 or counts.sum() == 0 or not (inside and ordered and (label != predicted).all()):
        raise ValueError(f"has a {MISTAKES} without places in order, two classes and a probability each")
    accuracy, recorded = 1 - len(index) / counts.sum(), run.epochs["test_accuracy"].iloc[-1]
    if (np.bincount(label, minlength=10) != classes["wrong"]).any() or abs(accuracy - recorded) > 1e-6:
        raise ValueError(f"has a {MISTAKES} that is not that of its {CLASS_COUNTS} or of its metrics")
    labels = np.full(counts.sum(), UNKNOWN_LABEL)
    labels[index] = label
    return Predictions(labels, counts, index, label, predicted, probability)
