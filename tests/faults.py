"""Kill the program at any instant, start it again until it is done, and compare all bytes.

``python tests/faults.py --kills 200`` kills real sweeps of the three models with SIGKILL at random
instants; it exits with 1 if a byte differs. `fail_each_write` kills, and separately fails, each single
step of each single write of one run.
"""

import argparse
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MODELS = "lenet5,lenet5r,mlp"


def sweep(root: Path, models: str, epochs: int, kill_after: float | None = None) -> bool:
    """Run a sweep, or kill its whole process group after so many seconds; whether it was killed."""
    words = [sys.executable, "-m", "mnist_exp.run", "-m", f"model={models}", f"output_root={root}"]
    # The published protocol: it trains on 10,000 digits, so that many epochs, and their writes, go by.
    words += ["protocol=published", f"epochs={epochs}"]
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    if process.returncode:
        raise SystemExit(f"the sweep ended with {process.returncode}: {errors}")
    return False


def kill_sweeps(kills: int, epochs: int, seed: int = 0, models: str = MODELS) -> tuple[int, int, int]:
    """Kill sweeps so many times. Returns kills, sweeps finished in spite of them, files that differ."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed, disturbed = Path(temporary, "undisturbed"), Path(temporary, "disturbed")
        start = time.monotonic()
        sweep(undisturbed, models, epochs)
        whole = time.monotonic() - start
        expected = results(undisturbed)
        done = finished = differences = 0
        while done < kills or disturbed.exists():
            # Once enough were killed, the last sweep may finish.
            killed = sweep(disturbed, models, epochs, draw.uniform(0.3 * whole, whole) if done < kills else None)
            done += killed
            if killed:
                print(f"kill {done} of {kills}; sweeps finished so far: {finished}", flush=True)
                continue
            finished += 1
            found = results(disturbed)
            differences += sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())
            shutil.rmtree(disturbed)
    return done, finished, differences


def results(root: Path) -> dict[str, bytes]:
    """The bytes that equal runs share: ``run/file`` → content."""
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for name in ("metrics.csv", "predictions.npz", "model.safetensors")
        for path in (root / "runs").glob(f"[!.]*/{name}")
    }


@contextlib.contextmanager
def fault_at(target: int, fault: Callable[[], None]) -> Iterator[Callable[[], int]]:
    """Call ``fault`` at the ``target``-th step of all file operations; yields the count of steps so far."""
    from mnist_exp import files
    from mnist_exp.runs import folder as run_folder

    write, replace, unlink, count = files.write_atomically, Path.replace, Path.unlink, 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == target + 1:
            fault()

    def faulty_write(path: Path, content: bytes) -> None:
        step()
        (path.parent / f".{path.name}.killed{files.TEMPORARY}").write_bytes(content[: len(content) // 2])
        step()
        unlink(path.parent / f".{path.name}.killed{files.TEMPORARY}")
        write(path, content)
        step()

    def faulty_replace(self: Path, other: Path) -> Path:
        step()
        result = replace(self, other)
        step()
        return result

    def faulty_unlink(self: Path, missing_ok: bool = False) -> None:
        step()
        unlink(self, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "write_atomically", faulty_write)
        patch.setattr(Path, "replace", faulty_replace)
        patch.setattr(Path, "unlink", faulty_unlink)
        yield lambda: count


def kill() -> None:
    """As a power cut would: no handler runs, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """As a write to a full disk would."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_each_write(
    execute: Callable[..., object], root: Path, overrides: tuple[str, ...], stride: int = 1
) -> tuple[int, int]:
    """Kill, and separately fail, each ``stride``-th step of a run's writes; each time run it again.

    Args:
        execute: runs one job in this process: overrides, and ``root``.
        root: a folder for the runs.
        overrides: the job's settings.
        stride: 1 for every step.

    Returns:
        Faults, and files that differ from an undisturbed run's.
    """
    with fault_at(-1, kill) as counted:
        execute(*overrides, root=root / "undisturbed")
        steps = counted()
    expected, faults, differences = results(root / "undisturbed"), 0, 0
    for target in range(0, steps, stride):
        for fault in (kill, fill_disk):
            place = root / f"{fault.__name__}-{target}"
            child = os.fork()
            if child == 0:
                with contextlib.suppress(OSError), fault_at(target, fault):
                    execute(*overrides, root=place)
                os._exit(0)
            os.waitpid(child, 0)
            faults += 1
            execute(*overrides, root=place)
            found = results(place)
            differences += sum(found.get(name) != expected.get(name) for name in found.keys() | expected.keys())
            shutil.rmtree(place)
    return faults, differences


def main() -> int:
    """Kill as often as asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many times to kill (%(default)s)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (%(default)s)")
    arguments = parser.parse_args()
    done, finished, differences = kill_sweeps(arguments.kills, arguments.epochs, arguments.seed)
    print(f"{done} kills, {finished} sweeps finished in spite of them, {differences} files differ")
    return int(differences > 0)


if __name__ == "__main__":
    sys.exit(main())
