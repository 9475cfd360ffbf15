"""What has become of the runs: ``make status``, on a laptop and on a cluster's login node alike.

Reads the run folders and Hydra's notes of sweeps, and nothing else: no engine is asked, no file is written.
"""

import argparse
import contextlib
import csv
import functools
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease
from omegaconf import OmegaConf
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mnist_exp.messages import score
from mnist_exp.process import leave
from mnist_exp.run import JOBS, planned

STATUSES = ("running", "failed", "damaged", "interrupted", "waiting", "finished")
LEASE_SECONDS = 60.0  # as in mnist_exp.run_folder, whose import would bring PyTorch with it
REFRESH_SECONDS = 2
LISTED = 20  # rows of one status
GONE = "its process is gone; the same command again goes on with it"
QUIET = (
    "Nothing is running. What is waiting or interrupted may be queued on a cluster; if it is not, type the same "
)
QUIET += "command again."


@dataclass(frozen=True)
class Line:
    """One run, or one job of a sweep that has no folder yet."""

    name: str
    status: str
    epochs: str = ""
    seconds_left: float | None = None
    remark: str = ""
    overrides: tuple[str, ...] | None = None
    """What it was last started with."""


def read_run(folder: Path) -> Line:
    """What a run's folder says, or the one beside it, where it is being trained anew."""
    name, live = folder.name, is_live(folder.with_name(f".{folder.name}.lock"))
    if live and (anew := folder.with_name(f".{name}.new")).exists():
        folder = anew
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        status, reason, total = record["status"], record["reason"], int(record["config"]["epochs"])
        done = len(_rows(folder / "metrics.csv"))
        if status == "running" and not live:
            status, reason = "interrupted", GONE
        left = _seconds_left(folder, total - done) if status == "running" else None
        if status == "finished":
            reason = score(record["metrics"])
        overrides = _overrides(folder)
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is none of ours")
    except FileNotFoundError as error:
        return Line(name, "damaged", remark=f"there is no {Path(error.filename).name}")
    except Exception as error:  # a file may hold anything
        return Line(name, "damaged", remark=f"run.json or its tables: {type(error).__name__}: {error}")
    return Line(name, status, f"{done}/{total}", left, str(reason or ""), overrides)


def is_live(lock: Path) -> bool:
    """Whether the process that holds a run's lock is alive, as far as that can be known from here.

    On this machine its process is looked for. Another machine's has to have touched its lock lately, so the
    clocks may differ by less than a minute.
    """
    try:
        age = time.time() - lock.stat().st_mtime
        owner = SoftFileLease(lock, lease_duration=LEASE_SECONDS).owner
    except OSError:
        return False
    if owner is not None and owner.hostname == socket.gethostname():
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's process
            return True
    return age < LEASE_SECONDS


def read_sweep(folder: Path, started: set[tuple[str, ...] | None]) -> list[Line]:
    """The jobs of a sweep that have no run's folder: those that wait, and those that failed before they had one.

    Args:
        folder: the sweep's.
        started: the settings that each run was started with.
    """
    try:
        jobs = _planned(folder)
    except Exception as error:  # whatever is wrong with it, it is not a note of Hydra's
        return [Line(f"sweeps/{folder.name}", "damaged", remark=f"multirun.yaml: {type(error).__name__}")]
    lines = []
    for number, overrides in enumerate(jobs):
        try:
            result = json.loads((folder / JOBS / f"{number}.json").read_text(encoding="utf-8"))
            state, remark = result["status"], str(result.get("reason") or "")
        except Exception:  # it is not there yet, or not one of ours
            state, remark = "waiting", ""
        if overrides not in started and state in ("waiting", "failed"):
            lines.append(Line(" ".join(overrides), state, remark=remark))
    return lines


def read_all(runs: Path) -> list[Line]:
    """All runs, and the jobs that have none yet, of the newest sweep and of every one that is being worked at."""
    lines = [read_run(folder) for folder in sorted(runs.glob("[!.]*/"))]
    started = {line.overrides for line in lines}
    running = {line.overrides for line in lines if line.status == "running"}
    for age, sweep in enumerate(sorted((runs.parent / "sweeps").glob("[!.]*/"), reverse=True)):
        # An older sweep's jobs that were never started wait for nobody, unless others of it are running.
        if age == 0 or (running and running.intersection(_planned_or_none(sweep))):
            lines += read_sweep(sweep, started)
    return list(dict.fromkeys(lines))


def view(lines: list[Line], *, everything: bool) -> RenderableType:
    """The counts, and a row for each run that is not finished (or for each there is)."""
    counts = Counter(line.status for line in lines)
    table = Table("run", "status", "epoch", "left", "remark", box=None, pad_edge=False)
    for status in STATUSES:
        of_this = [line for line in lines if line.status == status]
        listed = len(of_this) if everything else 0 if status == "finished" else LISTED
        for line in of_this[:listed]:
            cells = (line.name, line.status, line.epochs, _duration(line.seconds_left), line.remark)
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        if status != "finished" and len(of_this) > listed:
            table.add_row(Text(f"… and {len(of_this) - listed} more"), status)
    parts: list[RenderableType] = [
        Text(", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status]))
    ]
    if table.row_count:
        parts.append(table)
    if counts["waiting"] + counts["interrupted"] and not counts["running"]:
        parts.append(Text(QUIET))
    return Group(*parts)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():  # before the first epoch's end
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _seconds_left(folder: Path, epochs: int) -> float | None:
    recent = _rows(folder / "timing.csv")[-5:]
    if not recent:
        return None
    each = sum(float(row["train_seconds"]) + float(row["eval_seconds"]) for row in recent) / len(recent)
    since_the_last = time.time() - (folder / "timing.csv").stat().st_mtime
    return max(0.0, each * epochs - since_the_last)


def _overrides(folder: Path) -> tuple[str, ...] | None:
    try:
        return tuple(str(word) for word in OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except Exception:  # then the run is known by its folder alone
        return None


def _planned(sweep: Path) -> tuple[tuple[str, ...], ...]:
    note = sweep / "multirun.yaml"
    return _planned_since(sweep, note.stat().st_mtime_ns) if note.exists() else ()


@functools.cache
def _planned_since(sweep: Path, _modified: int) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(overrides) for overrides in planned(sweep))


def _planned_or_none(sweep: Path) -> Iterable[tuple[str, ...]]:
    try:
        return _planned(sweep)
    except Exception:  # an old one; the newest is named when it can't be read
        return ()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def main() -> int:
    """Show the runs once, or again and again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("outputs/runs")
    parser.add_argument("--runs", type=Path, default=default, metavar="DIR", help="their folder (%(default)s)")
    parser.add_argument("--all", action="store_true", help="list finished runs too")
    parser.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    arguments = parser.parse_args()
    lines = read_all(arguments.runs)
    if not lines and not arguments.watch:
        hint = "make sweep trains some, --runs DIR names others"
        print(f"status: there is no run in {arguments.runs}; {hint}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else 140)
    if not arguments.watch:
        console.print(view(lines, everything=arguments.all))
        return 0
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            shown = view(read_all(arguments.runs), everything=arguments.all)
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown, "")
            time.sleep(REFRESH_SECONDS)
    return 0


if __name__ == "__main__":
    leave(main)
