"""Errors that the user can put right. Each message says what is wrong, where, and what to do."""

import contextlib
import errno
import re
import signal
from collections.abc import Iterator
from pathlib import Path

DISK_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "make the folder writable for you",
    errno.EPERM: "make the folder writable for you",
    errno.EROFS: "choose a disk that can be written to",
}


class UserError(Exception):
    """Something a user can put right. Its message is shown alone, without a traceback."""


class ConfigError(UserError):
    """A setting that cannot be used."""


class DataError(UserError):
    """Images that are missing, damaged, or not what they should be."""


class RunFolderError(UserError):
    """A run's folder that cannot be used as it is."""


class ChangedFileError(RunFolderError):
    """A run's file that is not the one that the run wrote."""


class DivergedError(UserError):
    """A loss that is no longer a finite number."""


class Interrupted(BaseException):
    """A signal asked this process to stop.

    Not an ``Exception``, so that code which handles failures does not handle this.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signal_number).name}"


def disk_message(error: OSError) -> str:
    """What the disk refused, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    advice = DISK_ADVICE.get(error.errno or 0, "check that the folder can be written to, or set another output_root")
    return f"{where}{error.strerror or error}; {advice}, then repeat the command: finished epochs are kept"


def memory_message(error: BaseException) -> str | None:
    """What to do about an allocation that failed; None for any other error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not re.search("DefaultCPUAllocator|out of memory", text):
        return None
    size = re.search(r"allocate (\d+) bytes", text)
    amount = f" ({int(size[1]) / 1e9:.1f} GB requested)" if size else ""
    return f"out of memory{amount}; use a smaller batch_size"


def failure_reason(error: BaseException) -> str:
    """Why a run ended, for its record: one sentence without a traceback."""
    if isinstance(error, UserError | Interrupted):
        return str(error)
    if isinstance(error, SystemExit):
        return "stopped by its launcher"
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return disk_message(error)
    return memory_message(error) or f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def disk_errors_as_data_errors(what: str, folder: Path) -> Iterator[None]:
    """Re-raise an OSError as a DataError: ``what`` could not be stored in ``folder``."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{what} cannot be stored in {folder}: {error.strerror or error}. Set another folder with "
            "data.root=… or the environment variable MNIST_EXP_DATA"
        ) from error
