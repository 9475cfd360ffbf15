"""Files that are written whole or not at all."""

import contextlib
import os
import uuid
from pathlib import Path

TEMPORARY = ".partial"


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
