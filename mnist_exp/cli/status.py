"""The state of all runs: ``make status``, on a laptop and on a cluster's login node alike.

Only reads files: no launcher is asked, no file is written.
"""

import argparse
import contextlib
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

from mnist_exp.cli.messages import format_accuracy
from mnist_exp.errors import RunFolderError, UserError
from mnist_exp.machine.fingerprint import other_code, present_code
from mnist_exp.runs.lock import is_live
from mnist_exp.runs.read import Run, read_finished_run, read_run
from mnist_exp.runs.sweeps import Plan, SweepFolder
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


def describe_run(folder: Path) -> StatusRow:
    """The state of a run's folder, or of the one beside it where the run is being trained again."""
    name, live = folder.name, is_live(folder)
    if live and (new := folder.with_name(f".{name}.new")).exists():
        folder = new
    try:
        run = read_run(folder)
        record = run.record
        status, remark, left = record.status, record.reason or "", None
        if status == "running" and live:
            left = _seconds_left(run)
        elif status == "running":
            status, remark = "interrupted", GONE
        if status == "interrupted" and record.identity.get("version") != IDENTITY_VERSION:
            remark = EARLIER
        if status == "finished":
            remark = format_accuracy(read_finished_run(folder).record.metrics or {})
            if record.code and (other := other_code(record.identity, present_code(record.identity), record.code)):
                status, remark = "stale", f"{remark}; made by other code: {other}"
        epochs = f"{len(run.epochs)}/{record.epochs}"
        return StatusRow(name, status, epochs, left, remark, _overrides(folder))
    except RunFolderError as error:
        return StatusRow(name, "damaged", remark=str(error))


def read_all(runs: Path) -> list[StatusRow]:
    """All runs; then the jobs that have no run yet, of the newest sweep and of every sweep that is still running."""
    rows = [describe_run(run) for run in sorted(runs.glob("[!.]*/"))]
    plans, jobs = [], []
    for sweep in map(SweepFolder, (runs.parent / "sweeps").glob("[!.]*/")):
        try:
            plans.append((sweep.read_plan(), sweep))
        except Exception as error:  # a file may hold anything
            jobs.append(StatusRow(f"sweeps/{sweep.path.name}", "damaged", remark=f"jobs.json: {type(error).__name__}"))
    plans.sort(key=lambda each: (each[0].started, each[1].path.name), reverse=True)
    for plan, sweep in plans:
        jobs += _describe_jobs(plan, sweep, rows, newest=plan is plans[0][0])
    return list(dict.fromkeys([*rows, *jobs]))


def _describe_jobs(plan: Plan, sweep: SweepFolder, runs: list[StatusRow], *, newest: bool) -> list[StatusRow]:
    """The jobs of a sweep that have no run's folder: waiting ones, and those that failed before they had one.

    Jobs of an older sweep that were never started will not start, unless others of it are running.
    """
    known = {row.overrides for row in runs}
    running = {row.overrides for row in runs if row.status == "running"}
    if not newest and running.isdisjoint(map(tuple, plan.jobs)):
        return []
    rows, shown, results = [], ("failed",) if plan.refused else ("failed", "waiting"), dict(sweep.read_results())
    for number, job in enumerate(plan.jobs):
        result = results.get(number, {"status": "waiting"})
        if tuple(job) not in known and result["status"] in shown:
            rows.append(StatusRow(" ".join(job), result["status"], remark=str(result.get("reason") or "")))
    return rows


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


def _seconds_left(run: Run) -> float | None:
    if run.timing is None:
        return None
    recent = run.timing[["train_seconds", "eval_seconds"]].sum(axis=1).tail(5).mean()
    return float((run.record.epochs - len(run.epochs)) * recent)


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
