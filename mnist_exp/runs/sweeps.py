"""A sweep's folder: which jobs it consists of, and what became of each. Imports no torch."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.files import write_atomically
from mnist_exp.runs.record import utc_now

JOB_STATUSES = ("finished", "skipped", "stopped", "failed")


@dataclass(frozen=True)
class Plan:
    """What a sweep consists of."""

    jobs: list[list[str]]
    """The overrides of each job; empty where the sweeper decides as it goes."""
    refused: str | None = None
    """Why none of the jobs can run."""
    started: str = ""
    """When, UTC, as in ISO 8601, so that sweeps sort by it whatever their time zones."""


@dataclass(frozen=True)
class SweepFolder:
    """The folder of one sweep, with ``jobs.json`` and a file for each job that has ended."""

    path: Path

    def write_plan(self, jobs: list[list[str]], refused: str | None = None) -> None:
        """Write down which jobs it consists of."""
        self.path.mkdir(parents=True, exist_ok=True)
        plan = vars(Plan(jobs, refused, utc_now()))
        write_atomically(self.path / "jobs.json", json.dumps(plan).encode())

    def read_plan(self) -> Plan:
        """What `write_plan` wrote; no jobs where nothing was written.

        Raises:
            ValueError, KeyError, TypeError: it holds something else.
        """
        if not (self.path / "jobs.json").exists():
            return Plan([])
        plan = json.loads((self.path / "jobs.json").read_text(encoding="utf-8"))
        jobs = [[str(word) for word in job] for job in plan["jobs"]]
        return Plan(jobs, plan["refused"], str(plan.get("started", "")))

    def write_result(self, number: int, result: dict[str, Any]) -> None:
        """Write down the outcome of one job."""
        try:
            (self.path / "jobs").mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "jobs" / f"{number}.json", json.dumps(result).encode())
        except OSError as error:
            message = f"mnist_exp: the result of job {number} could not be saved in {self.path}: {error}"
            print(message, file=sys.stderr)

    def read_results(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number and the outcome of each job that has ended, in order."""
        paths = [path for path in (self.path / "jobs").glob("*.json") if path.stem.isdigit()]
        for path in sorted(paths, key=lambda path: int(path.stem)):
            try:
                result = json.loads(path.read_text(encoding="utf-8"))
                if result["status"] in JOB_STATUSES:
                    yield int(path.stem), result
            except (OSError, ValueError, KeyError, TypeError):  # half-written, or something else's
                continue

    def remove_results(self) -> None:
        """Remove those of another sweep that was given this folder."""
        for path in (self.path / "jobs").glob("*.json"):
            if path.stem.isdigit():
                path.unlink()
