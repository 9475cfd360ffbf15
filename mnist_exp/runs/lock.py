"""One process per run, across hosts that share a disk.

The lock is a file with a heartbeat rather than one of the operating system's, since those do not work on every shared
file system.
"""

import _thread
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from filelock import SoftFileLease, Timeout

from mnist_exp.errors import Interrupted, RunFolderError
from mnist_exp.files import LEASE_SECONDS as LEASE_SECONDS
from mnist_exp.files import remove_empty_lock


def lock_path(run: Path) -> Path:
    """The lock of a run's folder, beside it."""
    return run.with_name(f".{run.name}.lock")


@contextlib.contextmanager
def locked(run: Path) -> Iterator[Callable[[], None]]:
    """Keep every other process out of a run's folder, on this host or another on the same disk.

    A second process waits, and prints which one it waits for. The lock of a dead process is taken over, and so is that
    of one that was stopped for too long.

    Yields:
        A function to be called before anything is written.

    Raises:
        RunFolderError: (also that function) another process has taken the run over.
    """
    path = lock_path(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = SoftFileLease(
        path,
        lease_duration=LEASE_SECONDS,
        # Another process has taken this run over, so this one must stop writing, as after Ctrl-C.
        # Not by SIGTERM, which a cluster's launcher may handle itself.
        on_compromise=lambda _: _thread.interrupt_main(signal.SIGINT),
    )
    timeout = 0.0
    while not lock.is_locked:
        remove_empty_lock(path)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            if not timeout:
                owner = lock.owner  # is read from the file each time
                holder = f"process {owner.pid} on {owner.hostname}" if owner else f"the holder of {path}"
                print(f"{run.name}: waiting for {holder}, which is training it", flush=True)
            timeout = LEASE_SECONDS
    lost = RunFolderError(
        f"{run.name}: another process has taken this run over, since this one was stopped for too long"
    )

    def check() -> None:
        if lock.owner is not None and not lock.is_lock_held_by_us:
            raise lost

    try:
        yield check
    except Interrupted:
        if lock.compromise is None:
            raise
        raise lost from None
    finally:
        lock.release()


def is_live(run: Path) -> bool:
    """Whether the process that has locked a run is alive, as far as that can be known from here.

    On this host, its process is looked up. One on another host must have touched its lock within `LEASE_SECONDS`, which
    requires that the two clocks agree to within that.
    """
    path = lock_path(run)
    try:
        age = time.time() - path.stat().st_mtime
        owner = SoftFileLease(path, lease_duration=LEASE_SECONDS).owner
    except OSError:
        return False
    if owner is not None and owner.hostname == socket.gethostname() and not psutil.pid_exists(owner.pid):
        return False
    return age < LEASE_SECONDS
