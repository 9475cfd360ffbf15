"""Finished runs as models that predict."""

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

from mnist_exp.data.folders import to_grey32
from mnist_exp.data.images import resize
from mnist_exp.errors import DataError, RunFolderError
from mnist_exp.inference.preprocessing import open_image, to_digit, to_grey
from mnist_exp.runs.record import RECORD, WEIGHTS, Record, RecordError, checksum, read_record
from mnist_exp.settings import factory
from mnist_exp.settings.schema import PROTOCOL_KEYS, PROTOCOLS
from mnist_exp.text import printable

DIGIT_DATASETS = ("mnist", "qmnist")  # pictures for runs on other data are only resized, as in training


@dataclass(frozen=True)
class TrainedModel:
    """A finished run's model."""

    record: Record
    model: nn.Module
    """In evaluation mode, on the CPU."""

    @property
    def classes(self) -> list[str]:
        """The names of the ten classes, by label."""
        return self.record.class_names or [str(digit) for digit in range(10)]

    @property
    def normalisation(self) -> tuple[float, float]:
        """The mean that is subtracted from pixels in [0, 1], and the standard deviation that divides the result."""
        return float(self.record.identity["data"]["mean"]), float(self.record.identity["data"]["std"])

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """The pixels that the model gets for a picture: uint8, ``[28, 28]`` for models of digits, else ``[32, 32]``.

        Raises:
            DataError: it does not show one digit, or cannot be converted to grey.
        """
        if self.record.identity["data"]["name"] in DIGIT_DATASETS:
            return to_digit(to_grey(image))
        try:
            return np.array(to_grey32(image))  # a copy, which torch may write to
        except Exception as error:  # Pillow raises all kinds of errors for rare formats
            raise DataError("The picture cannot be converted to grey; save it as PNG or JPEG.") from error

    def logits(self, images: NDArray[np.uint8]) -> Tensor:
        """Logits, float32, ``[N, 10]``, of images as datasets have them: uint8, ``[N, H, W]``.

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
    try:
        record = read_record(folder)
        if record.status != "finished":
            raise RunFolderError(f"{folder} is not finished ({record.status}); repeat its command")
        if (record.files or {}).get(WEIGHTS) != checksum(folder / WEIGHTS):
            raise RunFolderError(f"{folder / WEIGHTS} is not the file that the run wrote; train the run again")
        weights = load((folder / WEIGHTS).read_bytes())
    except OSError as error:
        what = "there is no such run; make status lists them"
        if folder.is_dir() and (folder / RECORD).exists():
            missing = isinstance(error, FileNotFoundError)
            what = f"{WEIGHTS} {'is missing' if missing else f'cannot be read: {error.strerror}'}"
        raise RunFolderError(f"{folder}: {what}") from error
    except RecordError as error:
        raise RunFolderError(f"{folder}: its run.json is a record {error}") from error
    except SafetensorError as error:
        raise RunFolderError(f"{folder}: its weights cannot be read: {error}") from error
    record.title = printable(record.title)
    settings = dict(record.identity["model"])
    model = factory.build_model({"_target_": settings.pop("target"), **settings})
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise RunFolderError(
            f"{folder}: its weights are not those of the model as it is now; train it again"
        ) from error
    trained = TrainedModel(record, model.eval())
    try:
        _, std = trained.normalisation
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{folder}: its run.json does not say how images are normalised") from error
    if not std > 0:
        raise RunFolderError(f"{folder}: its run.json has a standard deviation of {std}")
    return trained


def load_each_model(runs: Path) -> list[TrainedModel]:
    """For each model, its run of MNIST's standard protocol with the lowest seed; of several, the longest trained.

    Models of one title have their class in it, too.

    Raises:
        RunFolderError: there is none, or one cannot be used.
    """
    found: dict[tuple[str, str], tuple[int, int, str]] = {}
    for folder in (path.parent for path in runs.glob(f"[!.]*/{RECORD}")):
        try:
            record = read_record(folder)
        except (RecordError, OSError):
            continue
        protocol = PROTOCOLS.get(tuple(record.identity["protocol"][key] for key in PROTOCOL_KEYS))
        usable = record.status == "finished" and (folder / WEIGHTS).exists()
        if usable and protocol == "standard" and record.identity["data"]["name"] == "mnist":
            kind, run = (record.title, record.identity["model"]["target"]), (record.seed, -record.epochs, folder.name)
            found[kind] = min(found.get(kind, run), run)
    if not found:
        raise RunFolderError(
            f"there are no finished runs of MNIST's standard protocol in {runs}. Train some (make sweep), or use those "
            "that are tracked: --runs outputs/reference/runs"
        )
    models = [load_run(runs / name) for name in sorted(run[-1] for run in found.values())]
    shared = [title for title, count in Counter(model.record.title for model in models).items() if count > 1]
    for model in (each for each in models if each.record.title in shared):
        model.record.title += f", {type(model.model).__name__}"
    return models
