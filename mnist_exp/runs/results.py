"""The files with a run's results, as bytes."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import safetensors.torch
from numpy.typing import NDArray
from torch import Tensor

from mnist_exp.runs.record import CLASS_COUNTS, MISTAKES, MISTAKES_COLUMNS, PREDICTIONS, WEIGHTS


def to_csv(header: Iterable[str], rows: Iterable[Sequence[object]]) -> bytes:
    """A table with a header; floats are written so that reading them gives the same numbers."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[*header], *rows])
    return text.getvalue().encode()


def to_files(weights: Mapping[str, Tensor], predictions: Mapping[str, Tensor]) -> dict[str, bytes]:
    """File name → content: the weights, the predictions, and as tables that a person can read, the errors among them.

    Args:
        weights: the model's state.
        predictions: as from `mnist_exp.training.predictions`.
    """
    # Contiguous, whatever memory layout the model computes in; and cloned, since layers may share their weights.
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in weights.items()}
    arrays = {name: tensor.numpy() for name, tensor in predictions.items()}
    archive = io.BytesIO()
    np.savez(archive, allow_pickle=False, **arrays)
    return {WEIGHTS: safetensors.torch.save(tensors), PREDICTIONS: archive.getvalue()} | _tables(**arrays)


def _tables(
    label: NDArray[np.integer], predicted: NDArray[np.integer], probabilities: NDArray[np.float32]
) -> dict[str, bytes]:
    (wrong,) = np.nonzero(label != predicted)
    sure = [f"{probability:.4f}" for probability in probabilities[wrong, predicted[wrong]]]
    errors = zip(wrong, label[wrong], predicted[wrong], sure, strict=True)
    classes = probabilities.shape[1]
    images, errors_of = (np.bincount(each, minlength=classes) for each in (label, label[wrong]))
    counts = zip(range(classes), images, errors_of, strict=True)
    return {MISTAKES: to_csv(MISTAKES_COLUMNS, errors), CLASS_COUNTS: to_csv(("label", "images", "wrong"), counts)}
