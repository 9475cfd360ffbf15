"""Runs as they are on the disk, for all who read them: status, the report, prediction and verify. Imports no torch."""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mnist_exp.errors import ChangedFileError, RunFolderError
from mnist_exp.runs.record import METRICS, RECORD, TIMING, Record, read_record
from mnist_exp.settings.identity import identity_hash

# As in `training.Metrics`; here, since this module imports no torch.
METRIC_NAMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
VALIDATION_NAMES = ("validation_loss", "validation_accuracy")
"""Metrics of the runs that held images out of training."""
TIMES = ("train_seconds", "eval_seconds", "train_images_per_second")


@dataclass(frozen=True, eq=False)
class Run:
    """One run, finished or not."""

    folder: Path
    record: Record
    epochs: pd.DataFrame
    """``metrics.csv``, one row per epoch; empty before the first."""
    timing: pd.DataFrame | None
    """``timing.csv``, one row per epoch; None where it is missing or damaged."""
    problems: list[str] = field(default_factory=list)
    """Parts that cannot be used, in a run that otherwise can."""

    def read(self, name: str) -> bytes:
        """The content of one of its files.

        Raises:
            RunFolderError: it is missing.
            ChangedFileError: it is not the file that the run wrote.
        """
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise RunFolderError(f"{name} cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        if (self.record.files or {}).get(name, sha256) != sha256:
            raise ChangedFileError(
                f"{name} is not the file that the run wrote, by its SHA-256 in {RECORD}; delete it and repeat the "
                "run's command, which makes it anew"
            )
        return content

    def read_table(self, name: str, columns: Sequence[str], more: tuple[str, ...] = ()) -> pd.DataFrame:
        """These columns of a CSV file, and those whose names start with one of ``more``, float64.

        Raises:
            RunFolderError: it is missing or damaged, or a value is not a finite number.
        """
        content = self.read(name)
        try:
            table = pd.read_csv(io.BytesIO(content), dtype=str)
            if missing := [column for column in columns if column not in table]:
                raise RunFolderError(f"{name} has no column {', '.join(missing)}")
            own = [each for each in map(str, table) if each.startswith(more) and each not in columns] if more else []
            table = table[[*columns, *own]].map(float)  # pandas 2 may read the last bit wrong
        except (ValueError, TypeError) as error:
            raise RunFolderError(f"{name} is damaged: {error}") from error
        if not content.endswith(b"\n") or not np.isfinite(table.astype(float)).all(axis=None):
            raise RunFolderError(f"{name} is damaged: it is cut off, or has a value that is not a finite number")
        return table.astype(float)


def read_run(folder: Path) -> Run:
    """A run's folder, whatever the run's status; of one that is not finished, as many epochs as there are.

    Raises:
        RunFolderError: it is not a run's folder, or what is in it cannot be used; the message is a sentence.
    """
    if not folder.is_dir() or not (folder / RECORD).is_file():  # a pipe, too, is no file
        raise RunFolderError(f"there is no file {RECORD} in the folder")
    try:
        record = read_record(folder)
    except OSError as error:
        raise RunFolderError(f"{RECORD} cannot be read: {error.strerror}") from error
    for name in (folder.name, record.name):
        if (named := re.search(r"-seed\d+-([0-9a-f]{8})$", name)) and named[1] != identity_hash(record.identity):
            raise RunFolderError(f"the settings in {RECORD} are not those that the run's name stands for")
    run = Run(folder, record, pd.DataFrame(), None)
    validation = VALIDATION_NAMES if record.identity["data"].get("validation_size") else ()
    epochs = pd.DataFrame()
    if record.status == "finished" or (folder / METRICS).exists():
        known = ["epoch", *METRIC_NAMES, *validation, "learning_rate"]
        epochs = run.read_table(METRICS, known, more=("test_", "validation_")).astype({"epoch": int})
    if list(epochs.get("epoch", [])) != list(range(1, len(epochs) + 1)):
        raise RunFolderError(f"{METRICS} does not have one row for each epoch")
    timing, problems = None, []
    try:
        timing = run.read_table(TIMING, ["epoch", *TIMES]) if len(epochs) else None
        if timing is not None and record.status == "finished" and list(timing["epoch"]) != list(epochs["epoch"]):
            timing = None
            problems.append(f"{TIMING} has other epochs than {METRICS}")
    except RunFolderError as error:
        problems.append(str(error))
    return Run(folder, record, epochs, timing, problems)


def read_finished_run(folder: Path) -> Run:
    """A finished run.

    Raises:
        RunFolderError: as `read_run`; or it is not finished, or lacks epochs.
    """
    run = read_run(folder)
    if run.record.status != "finished":
        reason = f": {run.record.reason}" if run.record.reason else ""
        raise RunFolderError(f"the run is not finished ({run.record.status}{reason})")
    if len(run.epochs) != run.record.epochs or run.record.metrics is None:
        raise RunFolderError(f"{METRICS} has {len(run.epochs)} of {run.record.epochs} epochs")
    return run
