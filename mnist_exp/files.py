"""Files that are written whole or not at all, and folders that one process uses at a time."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import SoftFileLease

PROJECT = Path(__file__).resolve().parents[1]
"""The folder that holds this package: the checkout, or where packages are installed."""
TEMPORARY = ".partial"
LEASE_SECONDS = 60.0
"""A lock whose last heartbeat is older than this is taken over, whichever host it is from."""


@contextlib.contextmanager
def one_process_in(folder: Path) -> Iterator[None]:
    """Keep every other process out of a folder, on this host or another on the same disk; they wait.

    By a file with a heartbeat, since not every shared disk has the operating system's locks.
    """
    path = folder / ".in-use"
    remove_empty_lock(path)
    with SoftFileLease(path, lease_duration=LEASE_SECONDS):
        yield


def remove_empty_lock(path: Path) -> None:
    """Remove a lock that nothing was written to, as a power cut leaves it: it would never be released."""
    with contextlib.suppress(OSError):
        status = path.stat()
        if status.st_size == 0 and time.time() - status.st_mtime > LEASE_SECONDS:
            path.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Give ``path`` this content; a crash at any instant leaves either the old content or the new.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and are then renamed.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # the error of a full disk does not name the file
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system can: Windows and some shared disks refuse."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporary_files(folder: Path) -> None:
    """Remove what interrupted writes left behind. Only for the process that has locked the folder."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)
