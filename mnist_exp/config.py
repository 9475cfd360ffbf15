"""The settings of a run: what each key means, what it may be, and which of them name the run.

Hydra composes these dataclasses from ``conf/`` and checks types and unknown keys; ``__post_init__``
checks values. The rest of the program sees only these objects, never Hydra's.
"""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mnist_exp.errors import ConfigError

IDENTITY_VERSION = 2
"""Raised whenever the same settings would no longer give the same numbers."""

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")
DATASETS = ("mnist", "fashion_mnist", "kmnist", "qmnist", "png_folder")
SPLITS = ("train", "test")
ABSENT = "(absent)"
TRAINING_MODES = ("every_epoch", "first_epoch")
MAX_SEED = 2**32 - 1  # PyTorch's CPU generator reads no more than 32 bits of a seed
MAX_COUNT = 2**31 - 1
MAX_THREADS = 1024


@dataclass
class DeviceConfig:
    """Where the arithmetic happens."""

    name: str = "auto"
    """``cpu``, ``cuda``, ``mps``, or ``auto``: the fastest of them that is there."""
    threads: int = 1
    """CPU threads of one run. Results depend on it in the last bits, so it is part of the identity."""
    precision: str = "fp32"
    """``fp32``; or ``bf16``: matrix products and convolutions in bfloat16, by autocast."""
    compile: bool = False
    """Have ``torch.compile`` fuse the model's operations; it takes a while, and a C++ compiler."""

    def __post_init__(self) -> None:
        _one_of("device.name", self.name, DEVICES)
        _one_of("device.precision", self.precision, PRECISIONS)
        _between("device.threads", self.threads, 1, MAX_THREADS)


@dataclass
class DataConfig:
    """Which digits, and where their files lie."""

    name: str = "mnist"
    root: str = "data"
    """Folder of the files; they are fetched into it when they are missing."""
    mean: float = 0.1307
    """Subtracted from pixels scaled to [0, 1]."""
    std: float = 0.30812881
    """Divides what is left."""
    train_dir: str | None = None
    """With ``png_folder``: the folder of PNG files to train on (`mnist_exp.folders`)."""
    test_dir: str | None = None
    """With ``png_folder``: the folder of PNG files to evaluate on."""
    validation_size: int = 0
    """So many digits are held out of training, for a person or a sweeper to choose settings by."""

    def __post_init__(self) -> None:
        _one_of("data.name", self.name, DATASETS)
        for key, folder in (("train_dir", self.train_dir), ("test_dir", self.test_dir)):
            if self.name == "png_folder" and not (folder or "").strip():
                raise ConfigError(f"data=png_folder needs data.{key}=…: a folder of PNG files")
            if self.name != "png_folder" and folder is not None:
                raise ConfigError(f"data.{key}={folder}: only data=png_folder reads folders")
        if not self.root.strip():
            raise ConfigError(
                "data.root is empty (or the environment variable MNIST_EXP_DATA is): name the folder of the digits"
            )
        if not (math.isfinite(self.std) and self.std > 0):
            raise ConfigError(f"data.std={self.std}: the deviation must be greater than 0")
        if not math.isfinite(self.mean):
            raise ConfigError(f"data.mean={self.mean}: the mean must be a finite number")
        _between("data.validation_size", self.validation_size, 0, MAX_COUNT)


@dataclass
class ProtocolConfig:
    """What trains, what is evaluated, and when the model is in training mode."""

    train_split: str = "train"
    eval_split: str = "test"
    training_mode: str = "every_epoch"
    """``every_epoch``; or ``first_epoch``: from epoch 2 on, dropout and batch statistics stay off."""

    def __post_init__(self) -> None:
        _one_of("protocol.train_split", self.train_split, SPLITS)
        _one_of("protocol.eval_split", self.eval_split, SPLITS)
        _one_of("protocol.training_mode", self.training_mode, TRAINING_MODES)
        if self.train_split == self.eval_split:
            raise ConfigError(
                f"protocol.train_split and protocol.eval_split are both '{self.train_split}': "
                "a model must be evaluated on digits that it was not trained on"
            )


@dataclass
class Config:
    """Everything that a run is told.

    ``model``, ``optimizer`` and ``scheduler`` hold ``_target_`` (the class) and that class's own
    keyword arguments; `mnist_exp.factory` checks them against its signature.
    """

    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    device: DeviceConfig = MISSING
    data: DataConfig = MISSING
    protocol: ProtocolConfig = MISSING
    seed: int = 0
    epochs: int = 20
    batch_size: int = 64
    output_root: str = "outputs"
    overwrite: bool = False

    def __post_init__(self) -> None:
        _between("epochs", self.epochs, 1, MAX_COUNT)
        _between("batch_size", self.batch_size, 1, MAX_COUNT)
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"seed={self.seed}: a seed lies between 0 and {MAX_SEED}")
        if not self.output_root.strip():
            raise ConfigError("output_root is empty: name the folder that results go to")


def identity(
    config: Config, components: dict[str, dict[str, Any]], device: str, contents: dict[str, str]
) -> dict[str, Any]:
    """Every setting that can change a run's numbers, in one canonical form, and nothing else.

    Args:
        config: the run's settings.
        components: for ``model``, ``optimizer`` and ``scheduler``, the class and those of its
            arguments that differ from its defaults (`mnist_exp.factory.describe`).
        device: the kind of device that ``device.name`` resolved to.
        contents: checksums of data that its name doesn't tell, as a folder's.

    Returns:
        A tree of JSON values. Numbers are written one way (``1.0`` is ``1``), so that equal settings
        are equal however they were spelled.
    """
    # Keys that came later are there only when they are set, so that older runs keep their names.
    arithmetic = {"precision": config.device.precision, "compile": config.device.compile}
    data = {"name": config.data.name, "mean": config.data.mean, "std": config.data.std, **contents}
    data |= _changed({"validation_size": config.data.validation_size}, DataConfig)
    canonical: dict[str, Any] = _canonical(
        {
            "version": IDENTITY_VERSION,
            **components,
            "device": {"type": device, "threads": config.device.threads, **_changed(arithmetic, DeviceConfig)},
            "data": data,
            "protocol": dataclasses.asdict(config.protocol),
            "seed": config.seed,
            "epochs": config.epochs,
            "batch_size": config.batch_size,
        }
    )
    return canonical


def identity_hash(run_identity: dict[str, Any]) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of the identity's canonical JSON text."""
    text = json.dumps(run_identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(choices: dict[str, str], run_identity: dict[str, Any]) -> str:
    """The name of a run's folder: readable first, unique last.

    Args:
        choices: the chosen option of each config group (``model`` → ``lenet5``).
        run_identity: the run's `identity`.
    """
    words = [choices["model"], choices["protocol"], choices["optimizer"]]
    if choices["data"] != "mnist":
        words.insert(0, choices["data"])
    readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word) for word in words)
    return f"{readable}-seed{run_identity['seed']}-{identity_hash(run_identity)}"


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two trees of settings differ: ``key: theirs → ours``, sorted by key."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key in sorted(ours.keys() | theirs.keys())
            for line in differences(
                ours.get(key, ABSENT), theirs.get(key, ABSENT), f"{path}.{key}" if path else key
            )
        ]
    return [] if ours == theirs else [f"{path}: {theirs!r} → {ours!r}"]


def _changed(settings: dict[str, Any], schema: type) -> dict[str, Any]:
    """Those settings that differ from the schema's defaults."""
    return {key: value for key, value in settings.items() if value != getattr(schema, key)}


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(allowed)}")


def _between(key: str, value: int, minimum: int, maximum: int) -> None:
    if not minimum <= value <= maximum:
        raise ConfigError(f"{key}={value}: must be at least {minimum}, and at most {maximum}")
