"""The files with a run's results, as bytes."""

import csv
import io

import numpy as np
import safetensors.torch
from torch import Tensor

from mnist_exp.runs.record import CLASS_COUNTS, MISTAKES, MISTAKES_COLUMNS, PREDICTIONS, WEIGHTS


def to_csv(rows: list[dict[str, float]]) -> bytes:
    """A table with a header; floats are written so that reading them gives the same numbers."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def to_files(weights: dict[str, Tensor], logits: Tensor, labels: Tensor) -> dict[str, bytes]:
    """File name → content.

    Args:
        weights: the model's state.
        logits: of the evaluated images, float32, ``[N, 10]``.
        labels: of the evaluated images, int64, ``[N]``.
    """
    # Contiguous, whatever memory layout the model computes in.
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    predictions = io.BytesIO()
    np.savez(
        predictions,
        label=labels.cpu().numpy().astype(np.uint8),
        predicted=logits.argmax(dim=1).cpu().numpy().astype(np.uint8),
        probabilities=logits.softmax(dim=1).cpu().numpy(),
    )
    return {WEIGHTS: safetensors.torch.save(tensors), PREDICTIONS: predictions.getvalue()}


def mistakes(predictions: bytes) -> dict[str, bytes]:
    """What a run got wrong, by its ``predictions.npz``, as tables that a person can read: file name → content."""
    with np.load(io.BytesIO(predictions), allow_pickle=False) as archive:
        label, predicted, probabilities = (archive[key] for key in ("label", "predicted", "probabilities"))
    wrong = np.flatnonzero(label != predicted)
    rows = zip(wrong, label[wrong], predicted[wrong], probabilities[wrong, predicted[wrong]], strict=True)
    counts = zip(range(10), np.bincount(label, minlength=10), np.bincount(label[wrong], minlength=10), strict=True)
    return {
        MISTAKES: _csv(MISTAKES_COLUMNS, [(*row, f"{probability:.4f}") for *row, probability in rows]),
        CLASS_COUNTS: _csv(("label", "images", "wrong"), list(counts)),
    }


def _csv(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()
