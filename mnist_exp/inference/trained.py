"""Finished runs as models that predict."""

import contextlib
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from mnist_exp.data.decoding import to_grey32
from mnist_exp.data.images import resize
from mnist_exp.errors import DataError, RunFolderError
from mnist_exp.inference.preprocessing import open_image, to_digit, to_grey
from mnist_exp.runs.read import read_finished_run, read_run
from mnist_exp.runs.record import WEIGHTS, Record
from mnist_exp.settings import components, factory
from mnist_exp.settings.schema import DATASETS
from mnist_exp.text import printable

UNSURE = 0.9
"""An answer of a lower probability is marked as unsure."""
HANDWRITTEN = ("mnist", "qmnist", *(name for name in DATASETS if name.startswith("emnist_")))
"""Data that pictures are made to look like; for runs on other data they are only resized, as in training."""


@dataclass(frozen=True)
class TrainedModel:
    """A finished run's model."""

    record: Record
    model: nn.Module
    """In evaluation mode, on the CPU."""

    @property
    def classes(self) -> list[str]:
        """The names of the classes, by label."""
        return self.record.class_names

    @property
    def normalisation(self) -> tuple[float, float]:
        """The mean that is subtracted from pixels in [0, 1], and the standard deviation that divides the result."""
        found = self.record.normalisation or self.record.identity["data"]
        return float(found["mean"]), float(found["std"])

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels that the model gets for a picture: uint8, ``[28, 28]`` for handwriting, else ``[32, 32]``.

        Raises:
            DataError: it does not show one digit, or cannot be converted to grey.
        """
        if self.record.identity["data"]["name"] in HANDWRITTEN:
            return to_digit(to_grey(image))
        try:
            return np.array(to_grey32(image))  # a copy, which torch may write to
        except Exception as error:  # Pillow raises all kinds of errors for rare formats
            raise DataError("The picture cannot be converted to grey; save it as PNG or JPEG.") from error

    def logits(self, images: NDArray[np.uint8]) -> Tensor:
        """Logits, float32, ``[N, classes]``, of images as datasets have them: uint8, ``[N, H, W]``.

        Raises:
            ValueError: the images are of another type or shape.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 3 or 0 in images.shape[1:]:
            given = getattr(images, "dtype", type(images).__name__), [*getattr(images, "shape", [])]
            raise ValueError("images must be uint8, [N, H, W], not {}, {}".format(*given))
        mean, std = self.normalisation
        pixels = resize(torch.from_numpy(np.array(images, order="C"))[:, None])
        with torch.inference_mode():
            logits: Tensor = self.model(pixels.float().div_(255).sub_(mean).div_(std))
        return logits

    def predict(self, picture: Path | str) -> list[tuple[str, float]]:
        """The classes and their probabilities, the most probable first.

        Raises:
            DataError: the file cannot be read, or does not show one digit.
        """
        return self.rank(self.prepare(open_image(Path(picture))))

    def rank(self, prepared: NDArray[np.uint8]) -> list[tuple[str, float]]:
        """As `predict`, of what `prepare` returned."""
        probabilities = self.logits(prepared[None])[0].softmax(dim=0).tolist()
        return sorted(zip(self.classes, probabilities, strict=True), key=lambda answer: -answer[1])


def load_run(folder: Path | str) -> TrainedModel:
    """The model of a run's folder.

    Raises:
        RunFolderError: there is no finished run in it, or its weights are missing, damaged or of another model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: there is no such run; make status lists them")
    try:
        run = read_finished_run(folder)
        weights = load(run.read(WEIGHTS))
    except RunFolderError as error:
        raise RunFolderError(f"{folder}: {error}") from error
    except SafetensorError as error:
        raise RunFolderError(f"{folder}: its weights cannot be read: {error}") from error
    run.record.title = printable(run.record.title)
    settings = components.without_defaults("model", run.record.identity["model"])
    model = factory.build_model(settings, len(run.record.class_names))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunFolderError(
            f"{folder}: its weights are not those of the model as it is now; train it again"
        ) from error
    return TrainedModel(run.record, model.eval())


def load_each_model(runs: Path, data: str = "mnist") -> list[TrainedModel]:
    """For each model, its run of the standard protocol with the lowest seed; of several, the longest trained.

    Models of one title have their class in it, too.

    Args:
        runs: the folder of the runs.
        data: the name of the images that they are trained on.

    Raises:
        RunFolderError: there is none.
    """
    found: dict[tuple[str, str], list[tuple[int, int, Path]]] = {}
    others: set[str] = set()
    for folder in runs.glob(f"[!.]*/{WEIGHTS}"):
        with contextlib.suppress(RunFolderError):
            record = read_run(folder.parent).record
            name = record.identity["data"]["name"]
            if (record.status, record.protocol) != ("finished", "standard"):
                continue
            if name != data:
                others.add(name)
            else:
                kind = (record.title, record.identity["model"]["target"])
                found.setdefault(kind, []).append((record.seed, -record.epochs, folder.parent))
    models = []
    for candidates in found.values():
        for *_, folder in sorted(candidates):
            try:
                models.append(load_run(folder))
                break
            except RunFolderError as error:  # the next one may do
                print(f"warning: {error}", file=sys.stderr)
    if not models:
        there = f" (there are some of {', '.join(sorted(others))}: --data NAME)" if others else ""
        raise RunFolderError(
            f"there are no finished runs of {data} by the standard protocol in {runs}{there}. Train some (make sweep), "
            "or use those that are tracked: --runs outputs/reference/runs"
        )
    models.sort(key=lambda model: model.record.name)
    shared = [title for title, count in Counter(model.record.title for model in models).items() if count > 1]
    for model in (each for each in models if each.record.title in shared):
        model.record.title += f", {type(model.model).__name__}"
    return models
