"""Sweeps: the plan written before the first job, the data fetched once, and the summary after the last."""

import json
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_exp.cli import hydra_internals
from mnist_exp.cli.messages import format_accuracy, in_hydras_quotes
from mnist_exp.data import fetch, folders
from mnist_exp.errors import ConfigError, DataError
from mnist_exp.files import write_atomically
from mnist_exp.settings.schema import SPLITS, Config

PLAN = "jobs.json"
JOBS_DIR = "jobs"
NO_RESULT = "without a result (see make status)"
JOB_STATUSES = ("finished", "skipped", "stopped", "failed", NO_RESULT)

current_folder: Path | None = None
"""The folder of the sweep that this process has started."""


class HydraBypass(BaseException):
    """Carries an exception past Hydra's own handling, which would print or swallow it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class SweepCallback(Callback):
    """What this program adds to Hydra's sweeps before their first job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        global current_folder
        folder = Path(config.hydra.sweep.dir).absolute()
        # Jobs on other machines, which compose the settings again, then use the same folder.
        config.hydra.overrides.hydra.append(in_hydras_quotes("hydra.sweep.dir", [str(folder)]))
        try:
            hydra_internals.reject_unknown(config)
            jobs = hydra_internals.planned_jobs(config)
            reject_two_arithmetics(jobs)
            for earlier in (folder / JOBS_DIR).glob("*.json"):  # of another sweep that was given this folder
                if earlier.stem.isdigit():
                    earlier.unlink()
            current_folder = folder
            write_plan(folder, jobs)
            swept = hydra_internals.swept_data(config, jobs)
            for data in swept:
                try:
                    prepare_data(OmegaConf.to_object(data), config.protocol.train_split)
                except Exception:
                    if len(swept) == 1:
                        raise
                    # Else the jobs that need this data will report it, and the others run.
        except Exception as error:
            raise HydraBypass(error) from error


def reject_two_arithmetics(jobs: list[list[str]]) -> None:
    """Raise a ConfigError for a sweep over arithmetics, which the processes that several jobs share cannot change."""
    if len({word.lstrip("+") for job in jobs for word in job if word.lstrip("+").startswith("device.arithmetic=")}) > 1:
        raise ConfigError("device.arithmetic: one sweep has one arithmetic; start a sweep for each")


def prepare_data(config: Any, train_split: str) -> None:
    """Fetch the data, or decode and cache it, before any job starts."""
    if config.name != "png_folder":
        for split in SPLITS:
            fetch.load_or_fetch(config.name, split, Path(config.root))
        return
    both = folders.scan_both(Path(str(config.train_dir)), Path(str(config.test_dir)), train_split)
    for folder in both.values():
        folders.load(folder, Path(config.root) / folders.CACHE)


def check_shared_folder(folder: Path, config: Config) -> None:
    """Raise a DataError if this job's machine does not see the command's folder, or not the data in it."""
    root = folder / config.data.root
    if not folder.is_dir() or (config.data.name == "mnist" and not fetch.is_present("mnist", root)):
        raise DataError(
            f"{platform.node()} finds no MNIST in {root}, where the sweep's command found it: every machine must "
            f"see {folder} under the same path. To fetch it there: python scripts/download.py {root}"
        )


def write_plan(folder: Path, jobs: list[list[str]], refused: str | None = None) -> None:
    """Write down which jobs a sweep consists of; ``refused`` says why none of them can run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PLAN, json.dumps({"jobs": jobs, "refused": refused}).encode())


def read_plan(folder: Path) -> tuple[list[list[str]], str | None]:
    """What `write_plan` wrote; no jobs where nothing was written."""
    if not (folder / PLAN).exists():
        return [], None
    plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    return [[str(word) for word in job] for job in plan["jobs"]], plan["refused"]


def write_result(folder: Path, number: int, result: dict[str, Any]) -> None:
    """Write down the outcome of one job."""
    try:
        (folder / JOBS_DIR).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JOBS_DIR / f"{number}.json", json.dumps(result).encode())
    except OSError as error:
        print(f"mnist_exp: the result of job {number} could not be saved in {folder}: {error}", file=sys.stderr)


def read_job(path: Path) -> dict[str, Any] | None:
    """What `write_result` wrote; None where there is nothing, or something else."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result if result["status"] in JOB_STATUSES else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def print_summary(refused: str | None) -> bool:
    """Print the summary of the sweep that this process has started, and return whether every job has a result.

    ``refused`` is the error that ended it: where no job has a result, none can run until the command is changed.
    """
    assert current_folder is not None
    jobs, _ = read_plan(current_folder)
    paths = sorted((current_folder / JOBS_DIR).glob("*.json"), key=lambda path: int(path.stem))
    results = [{"job": int(path.stem), **result} for path in paths if (result := read_job(path))]
    if refused and not results:
        write_plan(current_folder, jobs, refused)
        jobs = []
    _print_table(results)
    for result in results:
        if result["status"] == "failed":
            print(f"job {result['job']} failed: {result['reason']}")
    counts = Counter(result["status"] for result in results)
    counts[NO_RESULT] = max(len(jobs) - len(results), 0)  # a search plans no jobs
    counted = ", ".join(f"{counts[status]} {status}" for status in JOB_STATUSES if counts[status])
    places = {str(Path(result["folder"]).parent) for result in results if "folder" in result}
    where = f"; results are in {', '.join(sorted(places))}" if places else ""
    print(f"Jobs: {counted or 'none ran'}{where}")
    return bool(results) and not counts[NO_RESULT]


def _print_table(results: list[dict[str, Any]]) -> None:
    table = Table("job", "settings", "result", "folder", "time", title="Sweep", title_justify="left")
    for result in results:
        accuracy = f", {format_accuracy(result['metrics'])}" if "metrics" in result else ""
        folder = Path(result["folder"]).name if "folder" in result else ""
        row = (result["job"], result["overrides"], result["status"] + accuracy, folder, f"{result['seconds']:.0f} s")
        table.add_row(*(Text(str(cell)) for cell in row))  # [brackets] in plain strings would be markup
    if results:
        Console(width=None if sys.stdout.isatty() else 140).print(table)
