"""Everything on disk about one run: its lock, record, metrics, checkpoints and results.

Every file is written whole or not at all (`mnist_exp.files`), and a checkpoint holds all the rows
written so far, so that a process may die at any instant: the next one goes on from the newest whole
checkpoint and rewrites the rest from it.
"""

import _thread
import contextlib
import csv
import hashlib
import io
import json
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from filelock import SoftFileLease, Timeout

from mnist_exp.config import differences
from mnist_exp.environment import now
from mnist_exp.errors import RunFolderError
from mnist_exp.files import remove_temporary_files, sync_folder, write_atomically
from mnist_exp.training import Epoch

RECORD_FORMAT = 1
RECORD = "run.json"
CHECKPOINT = "checkpoint.pt"
PREVIOUS_CHECKPOINT = "checkpoint.previous.pt"
METRICS = "metrics.csv"
TIMING = "timing.csv"
WEIGHTS = "model.safetensors"
PREDICTIONS = "predictions.npz"
REPRODUCIBLE = (METRICS, PREDICTIONS, WEIGHTS)
"""The files whose bytes equal runs share."""
LEASE_SECONDS = 60.0
"""A lock whose holder has not been heard of for so long, on whatever host, is taken over."""


@dataclass
class History:
    """What is known of a run so far: its rows and, unless it starts anew, its training state."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``metrics.csv``, an epoch each, by column."""
    timing: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``timing.csv``."""
    training: dict[str, Any] | None = None


class RunFolder:
    """One run's folder, ``<output_root>/runs/<name>``. Use it inside `locked`."""

    def __init__(self, runs: Path, name: str, identity: dict[str, Any]) -> None:
        self.name = name
        self.identity = identity
        self.final_path = runs / name
        self.path = self.final_path
        self._lock_path = runs / f".{name}.lock"
        self._new_path = runs / f".{name}.new"
        self._old_path = runs / f".{name}.old"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of this folder, on this host or another on the same disk.

        A second process waits, and says for whom. The lock is a file with a heartbeat, not the
        operating system's, since those do not reach across every shared file system; a dead
        holder's is taken over.
        """
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLease(
            self._lock_path,
            lease_duration=LEASE_SECONDS,
            # Another process took this run over, so this one must stop writing: as if told to.
            # Not by SIGTERM, which a cluster's launcher may have taken for itself.
            on_compromise=lambda _: _thread.interrupt_main(signal.SIGINT),
        )
        patience = 0.0
        while not lock.is_locked:
            self._remove_empty_lock()
            try:
                lock.acquire(timeout=patience)
            except Timeout:
                unknown = f"the holder of {self._lock_path}"
                holder = f"process {lock.owner.pid} on {lock.owner.hostname}" if lock.owner else unknown
                if not patience:
                    print(f"{self.name}: waiting for {holder}, which is training it", flush=True)
                patience = LEASE_SECONDS
        try:
            self._recover()
            yield
        finally:
            lock.release()

    def record(self) -> dict[str, Any] | None:
        """What ``run.json`` says, or None where there is none.

        Raises:
            RunFolderError: the folder holds a run of other settings than its name stands for.
        """
        path = self.final_path / RECORD
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            recorded, number = record["identity"], record["format"]
            record["status"], record["resumed"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._set_aside(path, f"is damaged ({type(error).__name__}: {error})")
            return None
        if number != RECORD_FORMAT:
            raise RunFolderError(
                f"{path} has format {number}, and this version of mnist_exp reads {RECORD_FORMAT}; "
                "use the version that wrote it, or another output_root"
            )
        self._check_identity(path, recorded)
        return record

    def is_complete(self, record: dict[str, Any]) -> bool:
        """Whether the run is finished and its results are still there."""
        files = (METRICS, TIMING, WEIGHTS, PREDICTIONS)
        return record["status"] == "finished" and all((self.final_path / name).exists() for name in files)

    def begin(self, record: dict[str, Any], extra_files: dict[str, str], *, anew: bool) -> None:
        """Make the folder, and write the record of a run that starts or goes on.

        Args:
            record: the content of ``run.json``.
            extra_files: more files, by relative path.
            anew: keep what the folder holds until this run's first checkpoint is written.
        """
        self.path = self._new_path if anew and self.final_path.exists() else self.final_path
        self.path.mkdir(parents=True, exist_ok=True)
        for name, text in extra_files.items():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_atomically(self.path / name, text.encode())
        self.write_record(record)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        write_atomically(self.path / RECORD, json.dumps(record, indent=2, ensure_ascii=False).encode() + b"\n")

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
                content = _read_checkpoint(path)
                history = History(content["metrics"], content["timing"], content["training"])
                recorded = json.loads(content["identity"])
            except Exception as error:  # whatever is wrong with it, it is not a checkpoint of ours
                self._set_aside(path, f"is damaged or not a checkpoint ({_first_line(error)})")
                continue
            self._check_identity(path, recorded)
            return history
        return History()

    def save_epoch(self, history: History, training: dict[str, Any], epoch: Epoch, images: int) -> None:
        """Add an epoch: its rows, then the checkpoint that holds them all, then the CSV files."""
        history.metrics.append(epoch.metrics.measured())
        history.timing.append(
            {
                "epoch": epoch.metrics.epoch,
                "train_seconds": epoch.train_seconds,
                "eval_seconds": epoch.eval_seconds,
                "train_images_per_second": images / epoch.train_seconds,
            }
        )
        rows = {"metrics": history.metrics, "timing": history.timing}
        buffer = io.BytesIO()
        torch.save({"identity": json.dumps(self.identity), "training": training} | rows, buffer)
        if (self.path / CHECKPOINT).exists():
            (self.path / CHECKPOINT).replace(self.path / PREVIOUS_CHECKPOINT)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())
        self.write_rows(history)
        self._replace_old()

    def write_rows(self, history: History) -> None:
        """Write ``metrics.csv`` and ``timing.csv`` anew."""
        write_atomically(self.path / METRICS, _csv(history.metrics))
        write_atomically(self.path / TIMING, _csv(history.timing))

    def finish(
        self, record: dict[str, Any], weights: dict[str, torch.Tensor], logits: torch.Tensor, labels: torch.Tensor
    ) -> None:
        """Write the results, and last the record that says so.

        Args:
            record: the content of ``run.json``; the results' checksums are added.
            weights: the model's state.
            logits: of the evaluated digits, float32, ``[N, 10]``.
            labels: of the evaluated digits, ``[N]``.
        """
        # Contiguous, whatever memory format the model computes in: the file is for everybody.
        tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
        write_atomically(self.path / WEIGHTS, safetensors.torch.save(tensors))
        buffer = io.BytesIO()
        np.savez(
            buffer,
            label=labels.cpu().numpy().astype(np.uint8),
            predicted=logits.argmax(dim=1).cpu().numpy().astype(np.uint8),
            probabilities=logits.softmax(dim=1).cpu().numpy(),
        )
        write_atomically(self.path / PREDICTIONS, buffer.getvalue())
        record["files"] = {name: checksum(self.path / name) for name in REPRODUCIBLE}
        self.write_record(record)
        (self.path / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)

    def _replace_old(self) -> None:
        if self.path == self.final_path:
            return
        self.final_path.replace(self._old_path)
        self.path.replace(self.final_path)
        self.path = self.final_path
        sync_folder(self.path.parent)
        _remove(self._old_path)

    def _recover(self) -> None:
        """Finish or undo what a process that died in `begin` or `_replace_old` left behind."""
        if self._old_path.exists() and not self.final_path.exists():
            self._old_path.replace(self.final_path)
        for path in (self._old_path, self._new_path):
            if path.exists():
                _remove(path)
        if self.final_path.exists():
            remove_temporary_files(self.final_path)

    def _remove_empty_lock(self) -> None:
        """Remove a lock that nobody wrote into, as a machine that lost power leaves it: it would hold for ever."""
        with contextlib.suppress(OSError):
            status = self._lock_path.stat()
            if status.st_size == 0 and time.time() - status.st_mtime > LEASE_SECONDS:
                self._lock_path.unlink()

    def _check_identity(self, path: Path, recorded: dict[str, Any]) -> None:
        if different := differences(self.identity, recorded):
            raise RunFolderError(
                f"{path} is of a run with other settings than its folder's name stands for "
                f"({'; '.join(different)}). Move {self.final_path} away, or use another output_root"
            )

    def _set_aside(self, path: Path, what: str) -> None:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        print(f"warning: {path} {what}; it was set aside as {aside.name}", file=sys.stderr, flush=True)


def new_record(
    name: str, identity: dict[str, Any], choices: dict[str, str], title: str, config: dict[str, Any]
) -> dict[str, Any]:
    """The ``run.json`` of a run that starts."""
    return {
        "format": RECORD_FORMAT,
        "name": name,
        "status": "running",
        "reason": None,
        "title": title,
        "choices": choices,
        "identity": identity,
        "config": config,
        "parameters": None,
        "multiply_accumulates": None,
        "metrics": None,
        "started": now(),
        "ended": None,
        "resumed": 0,
        "provenance": None,
        "data": None,
        "files": None,
    }


def checksum(path: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # what it leads to is not ours to remove
        folder.unlink()
    else:
        shutil.rmtree(folder)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    # PyTorch skips the archive's own checksums when it reads, so a flipped bit would pass.
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"checksum of {broken} does not match")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def _csv(rows: list[dict[str, float]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # floats by repr, which loses nothing
    return text.getvalue().encode()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
