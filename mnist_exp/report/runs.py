"""Finished runs, read from their folders; whatever cannot be used is reported, with the reason."""

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mnist_exp.runs.record import METRICS, RECORD, TIMING, Record, RecordError, check_identity, read_record
from mnist_exp.settings.schema import PROTOCOL_KEYS, PROTOCOLS
from mnist_exp.text import printable

METRIC_NAMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
VALIDATION_NAMES = ("validation_loss", "validation_accuracy")
"""Metrics of the runs that held images out of training."""
DIGITS = tuple("0123456789")
"""The classes of a run whose record names none."""
TIMES = ("train_seconds", "eval_seconds", "train_images_per_second")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a folder, and whether the folder is left out of the report for it."""

    folder: str
    reason: str
    left_out: bool = True


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run."""

    folder: Path
    record: Record
    epochs: pd.DataFrame
    """``metrics.csv``, one row per epoch."""
    timing: pd.DataFrame | None
    """``timing.csv``, one row per epoch; None where it is missing or damaged."""

    @property
    def protocol(self) -> str:
        """The protocol's name, or what it consists of."""
        values = tuple(self.record.identity["protocol"][key] for key in PROTOCOL_KEYS)
        return PROTOCOLS.get(values, printable(", ".join(values)))


def read_run(folder: Path) -> tuple[Run, list[str]]:
    """A finished run, and what of it cannot be used.

    Raises:
        ValueError, OSError: the run cannot be used at all.
    """
    if not folder.is_dir():
        raise ValueError("is a file, not a run's folder")
    if not (folder / RECORD).is_file():
        raise ValueError(f"has no file {RECORD}")
    try:
        record = read_record(folder)
        check_identity(folder, record)
    except RecordError as error:
        raise ValueError(f"has a {RECORD} {error}") from error
    if record.status != "finished":
        reason = f": {record.reason}" if record.reason else ""
        raise ValueError(f"is not finished ({record.status}{reason})")
    record.title = printable(record.title).lstrip("_") or "untitled"  # matplotlib hides labels like _this
    lacks = []
    names = record.class_names
    if not names and record.classes is not None:
        lacks.append(f"has a {RECORD} whose classes are not ten different names, so they are shown as 0 to 9")
    record.classes = names or [*DIGITS]
    try:
        epochs = _read_epochs(folder, record)
    except ValueError as error:
        raise ValueError(f"{error}{_restore_hint(folder / METRICS)}") from error
    timing = None
    try:
        times = read_table(folder, record, TIMING, ["epoch", *TIMES])
        if list(times["epoch"]) != list(epochs["epoch"]) or (times < 0).to_numpy().any():
            raise ValueError(f"has a {TIMING} with other epochs than its {METRICS}, or with negative times")
        timing = times
    except (ValueError, OSError) as error:
        lacks.append(describe_error(error) + _restore_hint(folder / TIMING))
    return Run(folder, record, epochs, timing), lacks


def _restore_hint(path: Path) -> str:
    restore = "; to restore it, delete it and repeat the run's command, which rewrites it from the checkpoint"
    return restore if path.is_file() else ""


def _read_epochs(folder: Path, record: Record) -> pd.DataFrame:
    """``metrics.csv``, with the columns and the epochs that the record says."""
    measured = [*METRIC_NAMES, *(VALIDATION_NAMES if record.identity["data"].get("validation_size") else ())]
    epochs = read_table(folder, record, METRICS, ["epoch", *measured, "learning_rate"])
    if len(epochs) != record.epochs or list(epochs["epoch"]) != list(range(1, record.epochs + 1)):
        raise ValueError(f"has a {METRICS} of {len(epochs)} epochs instead of 1 to {record.epochs}")
    accuracies = epochs.filter(like="accuracy").to_numpy()
    if accuracies.min() < 0 or accuracies.max() > 1:
        raise ValueError(f"has a {METRICS} with an accuracy outside 0 to 1")
    return epochs.astype({"epoch": int})


def read_checked(folder: Path, record: Record, name: str) -> bytes:
    """A file's content.

    Raises:
        ValueError: it is missing or empty, or differs from what ``run.json`` has the SHA-256 of.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"has no file {name}")
    content = path.read_bytes()
    if not content:
        raise ValueError(f"has an empty {name}")
    checksum = hashlib.sha256(content).hexdigest()
    if (record.files or {}).get(name, checksum) != checksum:
        raise ValueError(f"has a {name} that was changed after the run: its SHA-256 is not the recorded one")
    return content


def describe_error(error: Exception) -> str:
    """What went wrong, on one line and without a path."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return printable(str(error) or type(error).__name__)


def read_table(folder: Path, record: Record, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of a CSV file; a ValueError, or an OSError, unless all their values are finite numbers."""
    content = read_checked(folder, record, name)
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str)
    except ValueError as error:
        raise ValueError(f"has a damaged {name}: {error}") from error
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"has a {name} without column {', '.join(missing)}")
    if not content.endswith(b"\n"):
        raise ValueError(f"has a half-written {name}")
    table = table[[*columns]].map(_to_float).astype(float)  # pandas 2 may read the last bit wrong
    if bad := [column for column in columns if not np.isfinite(table[column]).all()]:
        raise ValueError(f"has a {name} with a value in column {', '.join(bad)} that is not a finite number")
    return table


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
