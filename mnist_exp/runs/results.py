"""The files with a run's results, as bytes."""

import csv
import io
import zipfile
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
    return {WEIGHTS: safetensors.torch.save(tensors), PREDICTIONS: to_npz(arrays)} | _tables(**arrays)


def to_npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """What ``numpy.savez`` writes, and the same bytes with every Python."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, array in arrays.items():
            with file.open(_Entry(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    return archive.getvalue()


class _Entry(zipfile.ZipInfo):
    """An entry of a ZIP archive with 64-bit sizes; Python before 3.11.4 (Debian 12 has 3.11.2) did not declare them."""

    def FileHeader(self, zip64: bool | None = None) -> bytes:  # noqa: N802
        self.create_version = self.extract_version = zipfile.ZIP64_VERSION
        header = bytearray(super().FileHeader(zip64))
        header[4] = zipfile.ZIP64_VERSION
        header[18:26] = b"\xff" * 8  # the two sizes, which follow as 64-bit numbers
        return bytes(header)


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
