"""The files with a run's results, as bytes."""

import csv
import io

import numpy as np
import safetensors.torch
from torch import Tensor

from mnist_exp.runs.record import PREDICTIONS, WEIGHTS


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
