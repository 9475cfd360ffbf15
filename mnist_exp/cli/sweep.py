"""Sweeps: the plan written before the first job, the data fetched once, and the summary after the last."""

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
from mnist_exp.data import fetch
from mnist_exp.errors import ConfigError, DataError
from mnist_exp.runs.sweeps import JOB_STATUSES, SweepFolder
from mnist_exp.settings.schema import COMPONENTS, FOLDERS, SPLITS, Config

NOT_FINISHED = "not finished"
"""The status of a job without a result: not begun, or ended from outside."""
started: list[SweepFolder] = []
"""The sweep that the present command has started; `mnist_exp.run.main` begins with none."""


class HydraBypass(BaseException):
    """Carries an exception past Hydra's own handling, which would print or swallow it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class SweepCallback(Callback):
    """What this program adds to Hydra's sweeps before their first job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder = SweepFolder(Path(config.hydra.sweep.dir).absolute())
        # Jobs on other machines, which compose the settings again, then use the same folder.
        config.hydra.overrides.hydra.append(in_hydras_quotes("hydra.sweep.dir", [str(folder.path)]))
        try:
            hydra_internals.reject_unknown(config)
            jobs = hydra_internals.planned_jobs(config)
            check_sweep(config, jobs)
            folder.remove_results()
            started.append(folder)
            folder.write_plan(jobs)
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


def check_sweep(config: DictConfig, jobs: list[list[str]]) -> None:
    """Raise a ConfigError for a sweep over what one command has only once, or with what has no effect here."""

    def values(key: str) -> set[str]:
        return {word.lstrip("+") for job in jobs for word in job if word.lstrip("+").startswith(f"{key}=")}

    if len(values("device.arithmetic")) > 1:  # the processes that several jobs share cannot change it
        raise ConfigError("device.arithmetic: one sweep has one arithmetic; start a sweep for each")
    if len(values("experiment")) > 1:  # what it says of the sweep itself would be lost
        raise ConfigError("experiment: an experiment is a sweep of its own; use one command for each")
    for group in COMPONENTS:
        keys = {word.partition("=")[0].lstrip("+") for job in jobs for word in job}
        keys = {key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")}
        has = {choice: keys & hydra_internals.listed_settings(choice) for choice in values(group) if keys}
        for choice in sorted(has):
            if missing := set().union(*has.values()) - has[choice]:
                name = f"{group}.{min(missing)}"
                other = next(each for each in sorted(has) if min(missing) in has[each])
                raise ConfigError(
                    f"{choice} has no setting {name}, which {other} has; use one command for each, such as "
                    f"-m {other} {name}=…"
                )
    if config.hydra.sweeper.get("storage"):
        raise ConfigError("hydra.sweeper.storage: a search has no storage, since its runs are its memory; leave it out")
    backend, prefer = (config.hydra.launcher.get(key) for key in ("backend", "prefer"))
    if backend not in (None, "loky") or prefer not in (None, "processes"):
        raise ConfigError("hydra.launcher: jobs run in processes of their own; leave backend and prefer out")


def prepare_data(config: Any, train_split: str) -> None:
    """Fetch the data, or decode and cache it, before any job starts."""
    root = Path(config.root)
    if config.name in FOLDERS:
        from mnist_exp.data import decoding, folders

        both = folders.scan_both(Path(str(config.train_dir)), Path(str(config.test_dir)), train_split, config.name)
        for folder in both.values():
            decoding.load(folder, root / decoding.CACHE)
    elif not (config.name == "mnist" and fetch.is_complete("MNIST", root)):  # else nothing here needs torch
        from mnist_exp.data import datasets

        datasets.load(config.name, root, SPLITS)


def check_shared_folder(folder: Path, config: Config) -> None:
    """Raise a DataError if this job's machine does not see the command's folder, or not the data in it."""
    root = folder / config.data.root
    if not folder.is_dir() or (config.data.name == "mnist" and not (root / "MNIST" / "raw").is_dir()):
        raise DataError(
            f"{platform.node()} finds no MNIST in {root}: every machine must see {folder} under the same path. To "
            f"fetch the digits: python scripts/download.py {root}"
        )


def print_summary(folder: SweepFolder, refused: str | None) -> bool:
    """Print the summary of a sweep, and return whether every job has a result.

    ``refused`` is the error that ended it: where no job has a result, none can run until the command is changed.
    """
    jobs = folder.read_plan().jobs
    results = [{"job": number, **result} for number, result in folder.read_results()]
    if refused and not results:
        folder.write_plan(jobs, refused)
        jobs = []
    _print_table(results)
    for result in results:
        if result["status"] == "failed":
            print(f"job {result['job']} failed: {result['reason']}")
    counts = Counter(result["status"] for result in results)
    counts[NOT_FINISHED] = max(len(jobs) - len(results), 0)  # a search plans no jobs
    counted = ", ".join(f"{counts[status]} {status}" for status in (*JOB_STATUSES, NOT_FINISHED) if counts[status])
    places = {str(Path(result["folder"]).parent) for result in results if "folder" in result}
    where = f"; results are in {', '.join(sorted(places))}" if places else ""
    hint = " (make status shows more)" if counts[NOT_FINISHED] else ""
    print(f"Jobs: {counted or 'none ran'}{hint}{where}")
    return bool(results) and not counts[NOT_FINISHED]


def _print_table(results: list[dict[str, Any]]) -> None:
    table = Table("job", "settings", "result", "folder", "time", title="Sweep", title_justify="left")
    for result in results:
        accuracy = f", {format_accuracy(result['metrics'])}" if "metrics" in result else ""
        folder = Path(result["folder"]).name if "folder" in result else ""
        row = (result["job"], result["overrides"], result["status"] + accuracy, folder, f"{result['seconds']:.0f} s")
        table.add_row(*(Text(str(cell)) for cell in row))  # [brackets] in plain strings would be markup
    if results:
        Console(width=None if sys.stdout.isatty() else 140).print(table)
