"""The settings of a run: what each key means and which values it may have.

Hydra composes these dataclasses from ``conf/`` and checks types; ``__post_init__`` checks values.
The rest of the program sees only these objects, never Hydra's.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from mnist_exp.errors import ConfigError

DEVICES = ("cpu", "cuda", "mps", "auto")
ARITHMETICS = ("portable", "native", "exact")
DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"} | {
    f"emnist_{split}": "EMNIST" for split in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
}
"""What `data.name` may be → torchvision's class: of grey images, all in memory, with a training and a test split."""
FOLDERS = ("image_folder", "png_folder")
"""What else `data.name` may be: `mnist_exp.data.folders`."""
AUTO = "auto"
SPLITS = ("train", "test")
COMPONENTS = ("model", "optimizer", "scheduler", "loss", "augment")
"""The groups that name a class."""
TRAINING_MODES = ("every_epoch", "first_epoch")
STALE = ("retrain", "keep")
PROTOCOL_KEYS = ("train_split", "eval_split", "training_mode")
PROTOCOLS: dict[tuple[str, ...], str] = {
    ("train", "test", "every_epoch"): "standard",
    ("test", "train", "first_epoch"): "published",
    ("test", "train", "every_epoch"): "swapped splits only",
    ("train", "test", "first_epoch"): "evaluation mode after epoch 1 only",
}
"""Values of `PROTOCOL_KEYS` → the protocol's name in the report."""
MAX_SEED = 2**32 - 1  # PyTorch's CPU generator reads no more than 32 bits of a seed
MAX_COUNT = 2**31 - 1
MAX_THREADS = 1024


def default_data_root() -> Path:
    """The folder of the datasets where no setting names one: ``MNIST_EXP_DATA``, or ``data``.

    Raises:
        ConfigError: it starts with the home of a user who is not there.
    """
    return Path(expand_user("MNIST_EXP_DATA", os.environ.get("MNIST_EXP_DATA") or "data"))


@dataclass
class DeviceConfig:
    """Where the arithmetic happens."""

    name: str = "cpu"
    """``cpu``, ``cuda`` or ``mps``; or ``auto``: ``cuda`` where there is one, else ``cpu``."""
    threads: int = 1
    """CPU threads of one run. Results depend on it in the last bits, so it is part of the identity."""
    arithmetic: str = "portable"
    """``portable``: the same bytes on every x86-64 processor with AVX2; ``native``: PyTorch's fastest on this one; or
    ``exact``: the same bytes on every processor, for the three networks (`mnist_exp.exact`)."""

    def __post_init__(self) -> None:
        _check_choice("device.name", self.name, DEVICES)
        _check_choice("device.arithmetic", self.arithmetic, ARITHMETICS)
        _check_range("device.threads", self.threads, 1, MAX_THREADS)


@dataclass
class DataConfig:
    """Which images, and where their files are."""

    name: str = "mnist"
    root: str = "data"
    """Folder of the files; they are fetched into it when they are missing."""
    mean: Any = 0.1307  # OmegaConf cannot merge float | str
    """Subtracted from pixels scaled to [0, 1]; or ``auto``, the mean of the training images."""
    std: Any = 0.30812881
    """Divides the result of the subtraction; or ``auto``, the standard deviation of the training images."""
    train_dir: str | None = None
    """With ``image_folder``: the folder of images to train on (`mnist_exp.data.folders`)."""
    test_dir: str | None = None
    """With ``image_folder``: the folder of images to evaluate on."""
    title: str | None = None
    """What the report calls the images; no part of a run's identity."""
    validation_size: int = 0
    """Training images held out, to choose settings by."""

    def __post_init__(self) -> None:
        _check_choice("data.name", self.name, (*DATASETS, *FOLDERS))
        for key, folder in (("train_dir", self.train_dir), ("test_dir", self.test_dir)):
            if self.name in FOLDERS and not (folder or "").strip():
                raise ConfigError(f"data={self.name} needs data.{key}=…: a folder of images")
            if self.name not in FOLDERS and folder is not None:
                raise ConfigError(f"data.{key}={folder}: only data=image_folder reads folders")
        if not self.root.strip():
            raise ConfigError(
                "data.root is empty (or the environment variable MNIST_EXP_DATA is): name the folder of the dataset"
            )
        for key, value in (("mean", self.mean), ("std", self.std)):
            usable = type(value) in (int, float) and math.isfinite(value) and (key == "mean" or value > 0)
            if value != AUTO and not usable:
                what = "a number greater than 0" if key == "std" else "a finite number"
                raise ConfigError(f"data.{key}={value}: must be {what}, or {AUTO}")
        _check_range("data.validation_size", self.validation_size, 0, MAX_COUNT)
        self.root = expand_user("data.root", self.root)
        self.train_dir = self.train_dir and expand_user("data.train_dir", self.train_dir)
        self.test_dir = self.test_dir and expand_user("data.test_dir", self.test_dir)


@dataclass
class ProtocolConfig:
    """What is trained on, what is evaluated, and when the model is in training mode."""

    train_split: str = "train"
    eval_split: str = "test"
    training_mode: str = "every_epoch"
    """``every_epoch``; or ``first_epoch``: from epoch 2 on, dropout and batch statistics stay off."""

    def __post_init__(self) -> None:
        _check_choice("protocol.train_split", self.train_split, SPLITS)
        _check_choice("protocol.eval_split", self.eval_split, SPLITS)
        _check_choice("protocol.training_mode", self.training_mode, TRAINING_MODES)
        if self.train_split == self.eval_split:
            raise ConfigError(
                f"protocol.train_split and protocol.eval_split are both '{self.train_split}': "
                "a model must be evaluated on images that it was not trained on"
            )


@dataclass
class Config:
    """All settings of a run.

    The groups in `COMPONENTS` hold ``_target_`` (the class) and that class's own keyword arguments;
    `mnist_exp.settings.components` checks them against its signature.
    """

    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=lambda: {"_target_": "torch.nn.CrossEntropyLoss"})
    """What training minimises; losses of evaluations are always the cross-entropy."""
    augment: dict[str, Any] = field(default_factory=lambda: {"_target_": "torch.nn.Identity"})
    """What is done to each batch of training images, at random."""
    device: DeviceConfig = MISSING
    data: DataConfig = MISSING
    protocol: ProtocolConfig = MISSING
    seed: int = 0
    epochs: int = 20
    batch_size: int = 64
    clip_norm: float | None = None
    """The largest norm of the gradient in a step; a longer one is scaled down."""
    metrics: list[str] = field(default_factory=list)
    """More metrics of each evaluation (`mnist_exp.metrics`); no part of a run's identity."""
    output_root: str = "outputs"
    overwrite: bool = False
    """Train a finished run again."""
    stale: str = "retrain"
    """What to do with a finished run of other code: ``retrain``, or ``keep``."""

    def __post_init__(self) -> None:
        _check_choice("stale", self.stale, STALE)
        _check_range("epochs", self.epochs, 1, MAX_COUNT)
        _check_range("batch_size", self.batch_size, 1, MAX_COUNT)
        if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ConfigError(f"clip_norm={self.clip_norm}: must be a number greater than 0, or null")
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed={self.seed}: a seed must be between 0 and {MAX_SEED}")
        if not self.output_root.strip():
            raise ConfigError("output_root is empty: name the folder for the results")
        self.output_root = expand_user("output_root", self.output_root)


def _check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}")


def _check_range(key: str, value: int, minimum: int, maximum: int) -> None:
    if not minimum <= value <= maximum:
        raise ConfigError(f"{key}={value}: must be at least {minimum}, and at most {maximum}")


def expand_user(key: str, path: str) -> str:
    """A path with ``~`` replaced by the home folder; a ConfigError if it names an unknown user."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError as error:  # ~name of nobody here
        raise ConfigError(f"{key}={path}: there is no such user here; write the full path") from error
