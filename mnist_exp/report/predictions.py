"""One run's predictions: its errors from mistakes.csv, and what predictions.npz adds where it is there."""

import io
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist_exp.errors import RunFolderError
from mnist_exp.runs.read import Run
from mnist_exp.runs.record import CLASS_COUNTS, MISTAKES, MISTAKES_COLUMNS, PREDICTIONS

BINS = 15
"""Of confidence; as many as Guo et al. (2017) use."""
SMALLEST_PROBABILITY = 1e-45
"""About the smallest positive float32; it replaces a probability of 0, whose logarithm would be infinite."""


@dataclass(frozen=True)
class Predictions:
    """One run's predictions for N images."""

    counts: NDArray[np.int64]
    """Images by label, ``[classes]``."""
    errors: pd.DataFrame
    """A row for each image that the run gets wrong: its ``index`` in the split, from 0, its ``label``, the class
    ``predicted`` (all int64) and the ``probability`` of that class (float64)."""
    losses: NDArray[np.float32] | None = None
    """Cross-entropy of each image, in nats, ``[N]``; None, as are the bins, without a predictions.npz."""
    bins: NDArray[np.float64] | None = None
    """For each bin of confidence: how many images, the sum of their confidences, how many right; ``[3, BINS]``."""


def read_predictions(run: Run) -> Predictions | None:
    """A run's predictions; None if it has no mistakes.csv.

    Raises:
        RunFolderError: a file is damaged, or another run's.
    """
    if not (run.folder / MISTAKES).exists():
        return None
    counts, errors = _read_errors(run)
    if not (run.folder / PREDICTIONS).exists():
        return Predictions(counts, errors)
    label, predicted, probabilities = _read_archive(run, counts, errors)
    confidence = probabilities.max(axis=1)
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    bins = [np.bincount(place, w, BINS) for w in (np.ones(len(label)), confidence, predicted == label)]
    of_label = np.maximum(probabilities[np.arange(len(label)), label], SMALLEST_PROBABILITY)
    return Predictions(counts, errors, -np.log(of_label).astype(np.float32), np.array(bins))


def _read_errors(run: Run) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """Images by label, ``[classes]``, and the errors."""
    classes = run.read_table(CLASS_COUNTS, ["images", "wrong"]).astype(np.int64)
    errors = run.read_table(MISTAKES, MISTAKES_COLUMNS)
    errors = errors.astype(dict.fromkeys(MISTAKES_COLUMNS[:3], np.int64))
    images, probability, size = int(classes["images"].sum()), errors["probability"], len(run.record.class_names)
    fits = errors["index"].is_monotonic_increasing and errors["index"].is_unique and len(classes) == size
    fits = fits and bool(errors["index"].between(0, images - 1).all() and probability.between(0, 1).all())
    fits = fits and bool(errors[["label", "predicted"]].isin(range(size)).to_numpy().all())
    fits = fits and np.array_equal(np.bincount(errors["label"], minlength=size), classes["wrong"])
    if not fits or not images or abs(1 - len(errors) / images - run.epochs["test_accuracy"].iloc[-1]) > 1e-6:
        raise RunFolderError(f"{MISTAKES} is damaged, or does not fit {CLASS_COUNTS} or the metrics")
    return classes["images"].to_numpy(), errors


def _read_archive(
    run: Run, counts: NDArray[np.int64], errors: pd.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The labels and the predicted classes, both ``[N]``, and the probabilities, ``[N, classes]``."""
    content = run.read(PREDICTIONS)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            label, predicted = (archive[key].astype(np.int64, casting="safe") for key in ("label", "predicted"))
            probabilities = archive["probabilities"].astype(np.float64, casting="safe")
        wrong = np.flatnonzero(predicted != label)
        known = np.column_stack([wrong, label[wrong], predicted[wrong]])
        fits = np.array_equal(np.bincount(label, minlength=len(counts)), counts)
        fits = fits and np.array_equal(errors[["index", "label", "predicted"]], known)
        fits = fits and probabilities.shape == (len(label), len(counts))
        if not (fits and ((probabilities >= 0) & (probabilities <= 1 + 1e-6)).all()):
            raise ValueError(f"it does not fit {MISTAKES}")
    except Exception as error:  # whatever is wrong with it, it is not a usable archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RunFolderError(f"{PREDICTIONS} is damaged: {reason}") from error
    return label, predicted, probabilities
