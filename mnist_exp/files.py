"""Files that are whole or absent, whatever happens while they are written."""

import os
import uuid
from pathlib import Path

TEMPORARY = ".partial"


def write_atomically(path: Path, content: bytes) -> None:
    """Give ``path`` this content, such that a crash at any instant leaves the old content or the new.

    The bytes go to a temporary file beside it, reach the disk, and then take its name.
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
            error.filename = str(path)  # a full disk doesn't say itself what it has no room for
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files' contents."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary_files(folder: Path) -> None:
    """Remove what writes that were cut off left behind. Only for the one who owns the folder now."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)
