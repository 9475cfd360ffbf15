"""A run's folder: its record, tables, checkpoints and results.

Every file is written whole or not at all (`mnist_exp.files`), and a checkpoint holds all rows written so
far. So a process may die at any instant: the next one resumes from the newest whole checkpoint and
rewrites the rest from it.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mnist_exp.errors import RunFolderError
from mnist_exp.files import remove_temporary_files, sync_folder, write_atomically
from mnist_exp.runs import checkpoint, lock, results
from mnist_exp.runs.checkpoint import History
from mnist_exp.runs.record import (
    METRICS,
    RECORD,
    RESULT_FILES,
    TIMING,
    Record,
    RecordError,
    UnknownFormatError,
    checksum,
    read_record,
)
from mnist_exp.settings.identity import diff_settings

CHECKPOINT = "checkpoint.pt"
PREVIOUS_CHECKPOINT = "checkpoint.previous.pt"


class RunFolder:
    """One run's folder, ``<output_root>/runs/<name>``. Use it inside `locked`.

    Records, checkpoints and results are not written once another process has taken the run over: a RunFolderError.
    """

    def __init__(self, runs: Path, name: str, identity: dict[str, Any]) -> None:
        self.identity = identity
        self.final_path = runs / name
        self.path = self.final_path
        self._check_lock: Callable[[], None] = lambda: None
        self._new_path = runs / f".{name}.new"
        self._old_path = runs / f".{name}.old"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of this folder, and repair what a dead one left."""
        with lock.locked(self.final_path) as self._check_lock:
            self._recover()
            yield

    def load_record(self) -> Record | None:
        """What ``run.json`` says; None where there is none, or where it is damaged, and is then set aside.

        Raises:
            RunFolderError: the folder holds a run of other settings than its name stands for, or of
                another version of mnist_exp.
        """
        path = self.final_path / RECORD
        try:
            record = read_record(self.final_path)
        except FileNotFoundError:
            return None
        except UnknownFormatError as error:
            raise RunFolderError(f"{path}: {error}; use the version that wrote it, or another output_root") from error
        except RecordError as error:
            self._quarantine(path, str(error))
            return None
        self._check_identity(path, record.identity)
        return record

    def is_complete(self, record: Record) -> bool:
        """Whether the run is finished and its results are still there, as it wrote them."""
        if record.status != "finished" or not {"test_loss", "test_accuracy"} <= (record.metrics or {}).keys():
            return False
        paths, recorded = [self.final_path / name for name in (*RESULT_FILES, TIMING)], record.files or {}
        return all(path.is_file() and recorded.get(path.name) in (None, checksum(path)) for path in paths)

    def open_for_writing(self, record: Record, extra_files: dict[str, str], *, from_scratch: bool) -> None:
        """Make the folder, and write the extra files (relative path → text) and the record of a run that begins.

        Where it begins from scratch, what the folder holds is kept until the first checkpoint.
        """
        self.path = self._new_path if from_scratch and self.final_path.exists() else self.final_path
        self.path.mkdir(parents=True, exist_ok=True)
        for name, text in extra_files.items():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_atomically(self.path / name, text.encode())
        self.write_record(record)

    def write_record(self, record: Record) -> None:
        """Replace ``run.json``."""
        self._check_lock()
        write_atomically(self.path / RECORD, record.to_json())

    def load_history(self) -> History:
        """What the newest whole checkpoint holds, or nothing where there is none.

        Raises:
            RunFolderError: a checkpoint is of other settings.
        """
        for name in (CHECKPOINT, PREVIOUS_CHECKPOINT):
            path = self.final_path / name
            if not path.exists():
                continue
            try:
                identity, history = checkpoint.read(path)
            except Exception as error:  # whatever is wrong with it, it is not a usable checkpoint
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                self._quarantine(path, f"it is damaged, or not a checkpoint ({reason})")
                continue
            self._check_identity(path, identity)
            return history
        return History()

    def save_epoch(self, history: History) -> None:
        """Write what the run's newest epoch added: first the checkpoint, which has all rows, then the tables."""
        content = checkpoint.to_bytes(self.identity, history)
        self._check_lock()
        if (self.path / CHECKPOINT).exists():
            (self.path / CHECKPOINT).replace(self.path / PREVIOUS_CHECKPOINT)
        write_atomically(self.path / CHECKPOINT, content)
        self.write_tables(history)
        self._replace_old_run()

    def write_tables(self, history: History) -> None:
        """Write ``metrics.csv`` and ``timing.csv`` from the rows so far."""
        for name, rows in ((METRICS, history.metrics), (TIMING, history.timing)):
            write_atomically(self.path / name, results.to_csv(rows[0], [[*row.values()] for row in rows]))

    def finish(self, record: Record, files: dict[str, bytes]) -> None:
        """Write the results (name → content) and last the record, with checksums."""
        self._check_lock()
        for name, content in files.items():
            write_atomically(self.path / name, content)
        record.files = {name: checksum(self.path / name) for name in RESULT_FILES}
        self.write_record(record)
        (self.path / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)

    def _replace_old_run(self) -> None:
        """Put the run that started from scratch in the place of the old one."""
        if self.path == self.final_path:
            return
        self.final_path.replace(self._old_path)
        self.path.replace(self.final_path)
        self.path = self.final_path
        sync_folder(self.path.parent)
        _remove(self._old_path)

    def _recover(self) -> None:
        """Finish or undo what a process that died in `open_for_writing` or `_replace_old_run` left behind."""
        if self._old_path.exists() and not self.final_path.exists():
            self._old_path.replace(self.final_path)
        for path in (self._old_path, self._new_path):
            if path.exists():
                _remove(path)
        if self.final_path.exists():
            remove_temporary_files(self.final_path)

    def _check_identity(self, path: Path, recorded: dict[str, Any]) -> None:
        if different := diff_settings(self.identity, recorded):
            raise RunFolderError(
                f"{path} does not match its folder's name: these settings differ "
                f"({'; '.join(different)}). Move {self.final_path} away, or use another output_root"
            )

    def _quarantine(self, path: Path, what: str) -> None:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        print(f"warning: {path} was set aside as {aside.name}: {what}", file=sys.stderr, flush=True)


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # the link's target is not ours to remove
        folder.unlink()
    else:
        shutil.rmtree(folder)
