"""``run.json``: what is known of a run, typed. Written by runs; read by the report, status and verify."""

import dataclasses
import functools
import hashlib
import json
import operator
import types
import typing
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnist_exp.errors import RunFolderError
from mnist_exp.settings.schema import PROTOCOL_KEYS, PROTOCOLS

RECORD_FORMAT = 1
RECORD = "run.json"
METRICS = "metrics.csv"
TIMING = "timing.csv"
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions.npz"
RESULT_FILES = (METRICS, PREDICTIONS, WEIGHTS)
"""Byte-identical between equal runs."""
MISTAKES = "mistakes.csv"
MISTAKES_COLUMNS = ("index", "label", "predicted", "probability")
"""A row for each evaluated image that the run gets wrong: its place in its split, its label, and the answer."""
CLASS_COUNTS = "classes.csv"
"""How many images of each label were evaluated, and how many of them the run gets wrong."""
STATUSES = ("running", "finished", "failed", "interrupted")
REQUIRED = ("model.target", "data.name", *(f"protocol.{key}" for key in PROTOCOL_KEYS), "seed", "epochs")
"""What every identity has, by dotted path."""


class RecordError(RunFolderError):
    """A ``run.json`` that cannot be used."""


class UnknownFormatError(RecordError):
    """A record that another version of mnist_exp wrote."""


def utc_now() -> str:
    """The time, UTC, to the second, as in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(kw_only=True)
class Record:
    """The content of a ``run.json``, in the order in which it is written."""

    name: str
    status: str = "running"
    """One of `STATUSES`."""
    reason: str | None = None
    """Why the run failed or was interrupted."""
    title: str
    """The model's, as people read it."""
    choices: dict[str, str]
    """The chosen option of each config group."""
    identity: dict[str, Any]
    """Every setting that can change the numbers (`mnist_exp.settings.identity.run_identity`)."""
    config: dict[str, Any]
    """All settings but paths, `overwrite` and `stale`."""
    parameters: int | None = None
    multiply_accumulates: int | None = None
    """Of one forward pass per image."""
    metrics: dict[str, float] | None = None
    """The last epoch's row of ``metrics.csv``."""
    started: str = field(default_factory=utc_now)
    ended: str | None = None
    resumed: int = 0
    starts: list[dict[str, Any]] = field(default_factory=list)
    """Each start of the run: the epoch it started from, the time, the code and its commit, versions, processor."""
    code: dict[str, str] | None = None
    """The checksum of each part of the code that made it (`mnist_exp.machine.fingerprint`)."""
    provenance: dict[str, Any] | None = None
    """Commit, versions, processor (`mnist_exp.machine.provenance`)."""
    data: dict[str, str] | None = None
    """SHA-256 of each file or folder that the images came from."""
    files: dict[str, str] | None = None
    """SHA-256 of each of `RESULT_FILES`."""
    classes: list[str] | None = None
    """The names of the classes by label; None where they are the digits."""
    normalisation: dict[str, float] | None = None
    """``mean`` and ``std``, where the settings leave them to the training images."""

    @property
    def seed(self) -> int:
        """The seed that every random draw of the run follows from."""
        return int(self.identity["seed"])

    @property
    def epochs(self) -> int:
        """The number of epochs to train."""
        return int(self.identity["epochs"])

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by label."""
        return self.classes or [str(digit) for digit in range(10)]

    @property
    def protocol(self) -> str:
        """The protocol's name, or what it consists of."""
        values = tuple(str(self.identity["protocol"][key]) for key in PROTOCOL_KEYS)
        return PROTOCOLS.get(values, ", ".join(values))

    def resume(self) -> None:
        """Note that the run continues, after it was interrupted or failed."""
        self.status, self.reason, self.ended = "running", None, None
        self.resumed += 1

    def add_start(self, epoch: int) -> None:
        """Note that the run starts after this many epochs, by its present code and provenance."""
        kept = ("git_commit", "git_dirty", "python", "packages", "cpu", "cpu_capability", "device")
        described = {key: value for key, value in (self.provenance or {}).items() if key in kept}
        self.starts.append({"from_epoch": epoch, "time": utc_now(), "code": self.code} | described)

    def to_json(self) -> bytes:
        """The file's content."""
        fields = dataclasses.asdict(self)
        fields = {k: v for k, v in fields.items() if v is not None or k not in ("classes", "normalisation")}
        return json.dumps({"format": RECORD_FORMAT} | fields, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Record":
        """Read a file's content.

        Raises:
            RecordError: it is damaged, of another format, or lacks something that every run has.
        """
        try:
            fields = json.loads(content, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{RECORD} is damaged ({type(error).__name__}: {error})") from error
        number = fields.pop("format", None) if isinstance(fields, dict) else None
        if number != RECORD_FORMAT:
            kind = UnknownFormatError if type(number) is int else RecordError
            raise kind(f"{RECORD} has format {number}, and this version of mnist_exp reads format {RECORD_FORMAT}")
        known = {each.name for each in dataclasses.fields(cls)}
        try:
            record = cls(**{name: value for name, value in fields.items() if name in known})
            for path in REQUIRED:
                functools.reduce(operator.getitem, path.split("."), record.identity)
        except (TypeError, KeyError) as error:
            raise RecordError(f"{RECORD} lacks what every run has: {error}") from error
        if type(record.identity["seed"]) is not int or type(record.identity["epochs"]) is not int:
            raise RecordError(f"{RECORD} has a seed or a number of epochs that is no whole number")
        if record.status not in STATUSES:
            raise RecordError(f"{RECORD} has the status {record.status!r:.40}")
        for name, hint in typing.get_type_hints(cls).items():
            value = getattr(record, name)
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            if type(value) not in {typing.get_origin(kind) or kind for kind in kinds}:
                raise RecordError(f"{RECORD} has a {name} of another type than runs write: {value!r:.40}")
        classes = record.class_names
        if not all(isinstance(each, str) for each in classes) or len({*classes}) != len(classes) or len(classes) < 2:
            raise RecordError(f"{RECORD} has classes that are not different names")
        return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def read_record(run: Path) -> Record:
    """The record in a run's folder.

    Raises:
        OSError: there is none that can be read.
        RecordError: it cannot be used.
    """
    return Record.from_json((run / RECORD).read_bytes())


def selection_metric(metrics: Container[str]) -> str:
    """The metric to choose settings by: the validation accuracy, where images were held out, else the test accuracy."""
    return "validation_accuracy" if "validation_accuracy" in metrics else "test_accuracy"


def checksum(path: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
