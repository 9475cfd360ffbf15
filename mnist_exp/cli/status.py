"""The state of all runs: ``make status``, on a laptop and on a cluster's login node alike.

Only reads files: no launcher is asked, no file is written.
"""

import argparse
import contextlib
import csv
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mnist_exp.cli.messages import format_accuracy, unreadable_reason
from mnist_exp.cli.sweep import JOBS_DIR, read_job, read_plan
from mnist_exp.errors import ConfigError, UserError
from mnist_exp.machine.fingerprint import other_code
from mnist_exp.runs.lock import is_live
from mnist_exp.runs.record import METRICS, RECORD, TIMING, check_identity, read_record
from mnist_exp.settings.identity import IDENTITY_VERSION
from mnist_exp.text import printable

STATUSES = ("running", "failed", "damaged", "interrupted", "waiting", "stale", "finished")
REFRESH_SECONDS = 2
MAX_LISTED = 20  # rows of one status
GONE = "its process is gone; repeat the command to resume it"
EARLIER = "made by an earlier version of mnist_exp; only that version can resume it"
IDLE = (
    "Nothing is running. What is waiting or interrupted may be queued on a cluster; if it is not, repeat the command."
)


@dataclass(frozen=True)
class StatusRow:
    """One run, or one job of a sweep that has no folder yet."""

    name: str
    status: str
    epochs: str = ""
    seconds_left: float | None = None
    remark: str = ""
    overrides: tuple[str, ...] | None = None
    """What the run was last started with."""


def read_run(run: Path) -> StatusRow:
    """The state of a run's folder, or of the one beside it where the run is being trained again."""
    name, live = run.name, is_live(run)
    if live and (new := run.with_name(f".{name}.new")).exists():
        run = new
    try:
        record = read_record(run)
        check_identity(run, record)
        done = len(_rows(run / METRICS))
        status, remark, left = record.status, record.reason or "", None
        if status == "running" and live:
            left = _seconds_left(run, record.epochs - done)
        elif status == "running":
            status, remark = "interrupted", GONE
        if status == "interrupted" and record.identity.get("version") != IDENTITY_VERSION:
            remark = EARLIER
        if status == "finished" and done == record.epochs and record.metrics:
            remark = format_accuracy(record.metrics)
            if record.code is not None and (other := other_code(record.identity, record.code)):
                status, remark = "stale", f"{remark}; made by other code: {other}"
        elif status == "finished":
            status, remark = "damaged", f"{METRICS} has {done} of {record.epochs} epochs, or {RECORD} has no metrics"
        return StatusRow(name, status, f"{done}/{record.epochs}", left, remark, _overrides(run))
    except ConfigError:  # not this run's fault
        raise
    except Exception as error:  # a file may hold anything
        return StatusRow(name, "damaged", remark=unreadable_reason(error))


def read_sweep(sweep: Path, runs: list[StatusRow], *, newest: bool) -> list[StatusRow]:
    """The jobs of a sweep that have no run's folder: waiting ones, and those that failed before they had one.

    Jobs of an older sweep that were never started will not start, unless others of it are running.
    """
    try:
        jobs, refused = read_plan(sweep)
    except Exception as error:  # a file may hold anything
        return [StatusRow(f"sweeps/{sweep.name}", "damaged", remark=f"jobs.json: {type(error).__name__}")]
    started = {row.overrides for row in runs}
    running = {row.overrides for row in runs if row.status == "running"}
    if not newest and running.isdisjoint(map(tuple, jobs)):
        return []
    rows, shown = [], ("failed",) if refused else ("failed", "waiting")
    for number, job in enumerate(jobs):
        result = read_job(sweep / JOBS_DIR / f"{number}.json") or {"status": "waiting"}
        if tuple(job) not in started and result["status"] in shown:
            rows.append(StatusRow(" ".join(job), result["status"], remark=str(result.get("reason") or "")))
    return rows


def read_all(runs: Path) -> list[StatusRow]:
    """All runs; then the jobs that have no run yet, of the newest sweep and of every sweep that is still running."""
    rows = [read_run(run) for run in sorted(runs.glob("[!.]*/"))]
    sweeps = sorted((runs.parent / "sweeps").glob("[!.]*/"), reverse=True)
    jobs = [row for sweep in sweeps for row in read_sweep(sweep, rows, newest=sweep == sweeps[0])]
    return list(dict.fromkeys([*rows, *jobs]))


def render(rows: list[StatusRow], *, everything: bool) -> RenderableType:
    """The counts, and a line for each run that is not finished (or for every run)."""
    counts = Counter(row.status for row in rows)
    table = Table("run", "status", "epoch", "left", "remark", box=None, pad_edge=False)
    for status in STATUSES:
        of_this = [row for row in rows if row.status == status]
        most = 0 if status == "finished" else MAX_LISTED
        listed = len(of_this) if everything else most
        for row in of_this[:listed]:
            cells = (row.name, row.status, row.epochs, _duration(row.seconds_left), row.remark)
            table.add_row(*(Text(printable(cell), overflow="fold") for cell in cells))
        if status != "finished" and len(of_this) > listed:
            table.add_row(Text(f"… and {len(of_this) - listed} more"), status)
    parts: list[RenderableType] = [", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])]
    if table.row_count:
        parts.append(table)
    if counts["waiting"] + counts["interrupted"] and not counts["running"]:
        parts.append(IDLE)
    return Group(*parts)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():  # the run has only just started
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _seconds_left(run: Path, epochs: int) -> float | None:
    recent = [float(row["train_seconds"]) + float(row["eval_seconds"]) for row in _rows(run / TIMING)[-5:]]
    return epochs * sum(recent) / len(recent) if recent else None


def _overrides(run: Path) -> tuple[str, ...] | None:
    try:
        return tuple(str(word) for word in OmegaConf.load(run / ".hydra" / "overrides.yaml"))
    except Exception:  # then the run is known by its folder alone
        return None


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
    parser.add_argument("--runs", type=Path, default="outputs/runs", metavar="DIR", help="their folder (%(default)s)")
    parser.add_argument("--all", action="store_true", help="list finished runs too")
    parser.add_argument("--watch", action="store_true", help="refresh until Ctrl-C")
    arguments = parser.parse_args()
    rows = read_all(arguments.runs)
    if not rows and not arguments.watch:
        raise UserError(f"there are no runs in {arguments.runs}; make sweep, or name another --runs DIR")
    console = Console(width=None if sys.stdout.isatty() else 140)
    if not arguments.watch:
        console.print(render(rows, everything=arguments.all))
        return 0
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            shown = render(read_all(arguments.runs), everything=arguments.all)
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown, "")
            time.sleep(REFRESH_SECONDS)
    return 0
