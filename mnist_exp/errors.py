"""Errors whose message is all that a person needs: what is wrong, where, and what to do."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Something a person can put right. Its message is shown alone, without a traceback."""


class ConfigError(UserError):
    """A setting that can't be used."""


class DataError(UserError):
    """Digits that are missing, damaged, or not what they should be."""


@contextlib.contextmanager
def keeping(what: str, folder: Path) -> Iterator[None]:
    """Have a disk that refuses data told as a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{what} can't be kept in {folder}: {error.strerror or error}. Name another folder with "
            "data.root=… or the environment variable MNIST_EXP_DATA"
        ) from error


class RunFolderError(UserError):
    """A run's folder that can't be used as it is."""


class DivergedError(UserError):
    """A training loss that is no longer a finite number."""


class Interrupted(BaseException):
    """A signal asked this process to stop.

    Not an ``Exception``, so that nothing which handles failures takes it for one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signal_number).name}"
