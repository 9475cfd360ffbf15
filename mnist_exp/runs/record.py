"""``run.json``: what is known of a run, typed. Written by runs; read by the report, status and verify."""

import dataclasses
import hashlib
import json
import re
import types
import typing
from collections.abc import Container
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnist_exp.settings.identity import identity_hash
from mnist_exp.text import printable

RECORD_FORMAT = 1
RECORD = "run.json"
METRICS = "metrics.csv"
TIMING = "timing.csv"
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions.npz"
RESULT_FILES = (METRICS, PREDICTIONS, WEIGHTS)
"""The files whose bytes equal runs share."""
MISTAKES = "mistakes.csv"
MISTAKES_COLUMNS = ("index", "label", "predicted", "probability")
"""A row for each evaluated image that the run gets wrong: its place in its split, its label, and the answer."""
CLASS_COUNTS = "classes.csv"
"""How many images of each label were evaluated, and how many of them the run gets wrong."""
STATUSES = ("running", "finished", "failed", "interrupted")
REQUIRED: dict[str, type] = {  # a record without one of these, or of another type, cannot be used
    "title": str,
    "status": str,
    "identity.model.target": str,
    "identity.data.name": str,
    "identity.protocol.train_split": str,
    "identity.protocol.eval_split": str,
    "identity.protocol.training_mode": str,
    "identity.seed": int,
    "identity.epochs": int,
}


class RecordError(ValueError):
    """A ``run.json`` that cannot be used; the message completes "a record …"."""


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
    data: dict[str, str] | None = None
    """SHA-256 of each file or folder that the images came from."""
    files: dict[str, str] | None = None
    """SHA-256 of each of `RESULT_FILES`."""
    classes: list[str] | None = None
    """The names of the classes by label; None where they are the digits."""

    @property
    def seed(self) -> int:
        """The seed that every random draw of the run follows from."""
        return int(self.identity["seed"])

    @property
    def epochs(self) -> int:
        """The number of epochs to train."""
        return int(self.identity["epochs"])

    @property
    def class_names(self) -> list[str] | None:
        """The names of the classes by label, if the record has ten different ones."""
        given = self.classes if isinstance(self.classes, list) else []
        names = [printable(name) for name in given if isinstance(name, str)]
        return names if len(names) == len({*names} - {""}) == len(given) == 10 else None

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
        if self.classes is None:
            del fields["classes"]
        return json.dumps({"format": RECORD_FORMAT} | fields, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "Record":
        """Read a file's content.

        Raises:
            RecordError: it is damaged, of another format, or lacks something that every run has.
        """
        try:
            fields = json.loads(content.decode())
            # Rejects NaN, which is not JSON, and half of a surrogate pair, which no file can hold.
            json.dumps(fields, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            raise RecordError(f"that is damaged ({type(error).__name__}: {error})") from error
        fields = fields if isinstance(fields, dict) else {}
        number = fields.get("format")
        if number != RECORD_FORMAT:
            error_type = UnknownFormatError if type(number) is int else RecordError
            raise error_type(f"of format {number}, and this version of mnist_exp reads format {RECORD_FORMAT}")
        required = REQUIRED | ({"parameters": int} if fields.get("status") == "finished" else {})
        for path, kind in required.items():
            _check_field(fields, path, kind)
        if fields["status"] not in STATUSES:
            raise RecordError(f"whose status is {fields['status']!r:.40}")
        # A value of another type is left out, as if it were missing; of the classes, the report says what is wrong.
        kinds = {each.name: _json_type(each.type) for each in dataclasses.fields(cls)}
        values: dict[str, Any] = {name: fields[name] for name, kind in kinds.items() if _is_a(fields.get(name), kind)}
        if not all(isinstance(value, float | int) for value in values.get("metrics", {}).values()):
            del values["metrics"]
        absent: dict[str, Any] = {"name": "", "choices": {}, "config": {}, "started": ""}
        return cls(**(absent | values | {"classes": fields.get("classes")}))


def read_record(run: Path) -> Record:
    """The record in a run's folder.

    Raises:
        FileNotFoundError: there is none.
        RecordError: it cannot be used.
    """
    return Record.from_json((run / RECORD).read_bytes())


def check_identity(run: Path, record: Record) -> None:
    """Raise a RecordError if the identity was edited: a run's name ends in its hash."""
    for name in (run.name, record.name):
        if (named := re.search(r"-seed\d+-([0-9a-f]{8})$", name)) and named[1] != identity_hash(record.identity):
            raise RecordError("whose identity is not that of its name: one of the two was edited")


def selection_metric(metrics: Container[str]) -> str:
    """The metric to choose settings by: the validation accuracy, where images were held out, else the test accuracy."""
    return "validation_accuracy" if "validation_accuracy" in metrics else "test_accuracy"


def checksum(path: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _check_field(fields: dict[str, Any], path: str, kind: type) -> None:
    value: Any = fields
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None:
        raise RecordError(f"without {path}")
    if not _is_a(value, kind):
        raise RecordError(f"whose {path} is {value!r:.40}")


def _is_a(value: Any, kind: Any) -> bool:
    return type(value) is kind and (kind is not int or 0 <= value < 2**63)


def _json_type(annotation: Any) -> Any:
    """The type of a field's value in JSON: dict, for ``dict[str, str] | None``."""
    given = typing.get_args(annotation)[0] if isinstance(annotation, types.UnionType) else annotation
    return typing.get_origin(given) or given
