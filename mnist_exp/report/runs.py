"""Finished runs, read from their folders; whatever cannot be used is reported, with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mnist_exp.runs.read import METRIC_NAMES, TIMES, VALIDATION_NAMES, Run, read_finished_run
from mnist_exp.runs.record import Record
from mnist_exp.text import printable

__all__ = ["METRIC_NAMES", "TIMES", "VALIDATION_NAMES", "Run", "read_run"]
DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a folder, and whether the folder is left out of the report for it."""

    folder: str
    reason: str
    left_out: bool = True


def read_run(folder: Path) -> tuple[Run, list[str]]:
    run = read_finished_run(folder)
    run.record.title = printable(run.record.title).lstrip("_") or "untitled"  # matplotlib hides labels like _this
    run.record.classes = run.record.class_names
    return run, run.problems


def read_checked(folder: Path, record: Record, name: str) -> bytes:
    return Run(folder, record, pd.DataFrame(), None).read(name)


def describe_error(error: Exception) -> str:
    """What went wrong, on one line and without a path."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return printable(str(error) or type(error).__name__)


def read_table(folder: Path, record: Record, name: str, columns: Sequence[str]) -> pd.DataFrame:
    return Run(folder, record, pd.DataFrame(), None).read_table(name, columns)
