"""The command: ``python -m mnist_exp.run [KEY=VALUE …]``, with ``-m`` for a sweep. Knows Hydra.

Hydra composes the settings, this module turns them into plain objects, and `mnist_exp.job` trains.
PyTorch is imported only once there is something to train, so that ``--help``, ``--cfg job`` and
shell completion answer at once.
"""

import json
import os
import platform
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_exp import download, folders
from mnist_exp.config import SPLITS, Config, DataConfig
from mnist_exp.errors import DataError, Interrupted
from mnist_exp.files import write_atomically
from mnist_exp.messages import about, reason, score
from mnist_exp.process import end_with_parent, forget_output, mend_streams

CONFIG_FOLDER = Path(__file__).resolve().parent.parent / "conf"
GROUPS = ("model", "optimizer", "scheduler", "device", "data", "protocol")
JOBS = "jobs"
UNKNOWN = "without a result (make status says more)"
STATUSES = ("finished", "skipped", "stopped", "failed", UNKNOWN)
GO_ON = "finished epochs are kept. Type the same command again to go on"

ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("gpus", lambda device: 1 if device == "cuda" else None, replace=True)
# Our launchers' presets have the names of the plugins' own, as their users expect; each is complete,
# so that it makes no difference whether Hydra still checks it against the plugin's.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.* is validated against ConfigStore")


def job(settings: DictConfig) -> float:
    """One run: alone, or as a job of a sweep, in whatever process the launcher chose.

    Returns:
        A score for sweepers to maximise: the last epoch's validation accuracy, or its test accuracy
        where `data.validation_size` is 0.
    """
    _listen_to_signals()
    end_with_parent()
    context = HydraConfig.get()
    sweep = context.mode == RunMode.MULTIRUN
    result: dict[str, Any] = {"overrides": " ".join(context.overrides.task)}
    start = time.perf_counter()
    try:
        config = plain(settings)
        if sweep:
            _enter(Path(context.runtime.cwd), config)
        from mnist_exp.job import execute
        from mnist_exp.progress import Lines, LiveBar

        choices = {group: str(context.runtime.choices[group]) for group in GROUPS}
        display = LiveBar if sys.stdout.isatty() and not sweep else Lines
        outcome = execute(config, choices, _hydra_record(settings), display)
        result.update(status="skipped" if outcome.skipped else "finished", **vars(outcome))
        if not sweep:
            last = outcome.metrics
            accuracies = dict.fromkeys((score(last), f"test accuracy {last['test_accuracy']:.4f}"))
            print(f"{', '.join(accuracies)}, test loss {last['test_loss']:.4f}; {outcome.folder}")
        return outcome.score
    except BaseException as error:
        status = "stopped" if isinstance(error, Interrupted | SystemExit) else "failed"
        result.update(status=status, reason=reason(error))
        if not sweep and isinstance(error, Exception):
            raise _Failed(error) from error
        raise
    finally:
        if sweep:
            result["seconds"] = time.perf_counter() - start
            _write_result(Path(context.sweep.dir), int(context.job.num), result)


def plain(settings: DictConfig) -> Config:
    """Hydra's settings as our dataclasses, values checked."""
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    return config


class _Failed(BaseException):
    """Takes an error past Hydra, which would announce it in its own words, or but warn of it."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Sweep(Callback):
    """What this program adds to Hydra's sweeps: the digits fetched once before, a summary after."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before any job starts."""
        Sweep.folder = Path(config.hydra.sweep.dir).absolute()
        # Jobs on another machine compose the settings anew, or start in another folder.
        quoted = QuotedString(str(Sweep.folder), Quote.single).with_quotes()
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted}")
        for earlier in (Sweep.folder / JOBS).glob("*.json"):  # of another sweep that was given this folder
            earlier.unlink()
        swept = _swept_data(config)
        for data in swept:
            try:
                _ensure_data(data, config.protocol.train_split)
            except Exception as error:
                if len(swept) == 1:  # of several, its own jobs will say so, and the others go on
                    raise _Failed(error) from error


def main() -> None:
    """Run the command line, and turn a person's mistakes into one message and an exit code."""
    debugging = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # have Hydra raise its errors, not print them
    code = 0
    mend_streams()
    _listen_to_signals()
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")(job)()
    except Interrupted as error:
        print(f"\nmnist_exp: {error}; {GO_ON}", file=sys.stderr)
        code = 128 + error.signal_number
    except (Exception, _Failed) as error:
        cause = error.error if isinstance(error, _Failed) else error
        if isinstance(cause, BrokenPipeError):
            forget_output()
        if debugging or (sentence := about(cause)) is None:
            traceback.print_exception(cause)
        else:
            print(f"mnist_exp: {sentence}", file=sys.stderr)
        code = 1
    try:
        if Sweep.folder is not None and not _print_summary(_results(Sweep.folder), len(planned(Sweep.folder))):
            code = code or 1
        sys.stdout.flush()
    except Exception as error:  # its notes, or the output, are not to be had
        forget_output()
        print(f"mnist_exp: the sweep's summary can't be shown: {reason(error)}", file=sys.stderr)
        code = code or 1
    sys.exit(code)


def planned(folder: Path) -> list[list[str]]:
    """The settings of each job of a sweep, from Hydra's record of it; none where that doesn't say."""
    noted = OmegaConf.load(path).hydra if (path := folder / "multirun.yaml").exists() else None
    if noted is None or not noted.sweeper["_target_"].endswith(".BasicSweeper"):
        return []
    with hydra.initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return BasicSweeper.split_arguments(_overrides(noted), None)[0]


def _overrides(noted: DictConfig) -> list[Override]:
    """What a sweep was told: Hydra has to be initialized, and ``noted`` is its own part of the settings."""
    words = [f"{key}={value}" for key, value in (noted.sweeper.params or {}).items()] + list(noted.overrides.task)
    return OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(words)  # for glob(*)


def _swept_data(config: DictConfig) -> list[DictConfig]:
    """The data of each job of a sweep, but once each: Hydra leaves what is swept out of ``config``."""
    overrides = _overrides(config.hydra) if config.hydra.sweeper["_target_"].endswith(".BasicSweeper") else []
    swept = [o for o in overrides if o.is_sweep_override() and o.key_or_group.partition(".")[0] == "data"]
    if not swept:
        return [config.data]
    chosen = [o for o in overrides if not o.is_sweep_override()] + swept
    return [hydra.compose("config", words).data for words in BasicSweeper.split_arguments(chosen, None)[0]]


def _ensure_data(settings: DictConfig, trained: str) -> None:
    """Have the data fetched, or decoded, or found wanting, before any job starts."""
    config = OmegaConf.to_object(settings)
    assert isinstance(config, DataConfig)
    if config.name != "png_folder":
        for split in SPLITS:
            download.ensure(config.name, split, Path(config.root))
    else:
        train_dir, test_dir = Path(str(config.train_dir)), Path(str(config.test_dir))
        for folder in folders.scan_both(train_dir, test_dir, trained).values():
            folders.load(folder, Path(config.root) / folders.CACHE)


def _enter(folder: Path, config: Config) -> None:
    """See that a sweep's job finds what the sweep's command saw, on whatever machine it is."""
    root = folder / config.data.root
    if not folder.is_dir() or (config.data.name == "mnist" and not download.is_there("mnist", root)):
        raise DataError(
            f"{platform.node()} finds no MNIST in {root}, as the sweep's command did: every machine must see "
            f"{folder} under one path. To fetch it there: python scripts/download.py {root}"
        )
    os.chdir(folder)


def _listen_to_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # What a cluster's launcher has set stays. SLURM sends SIGTERM to a job that it preempts, and queues
        # it again only if it then has to kill it: so submitit ignores SIGTERM, and SIGKILL is safe. Before
        # a time limit, SIGUSR2 has submitit queue the job again and end it by SystemExit; so do Ray's workers.
        theirs = signal.getsignal(number)
        if not callable(theirs) or theirs in (signal.default_int_handler, _interrupt):
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    # Every file is written whole or not at all, so any instant is a safe one to stop at. What comes
    # after this is only the way out, which a second signal must not cut short.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def _hydra_record(settings: DictConfig) -> dict[str, str]:
    """The files that Hydra itself would write, for the run's own folder."""
    context = HydraConfig.get()
    return {
        ".hydra/config.yaml": OmegaConf.to_yaml(settings),
        ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": context})),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(context.overrides.task),
    }


def _write_result(folder: Path, number: int, result: dict[str, Any]) -> None:
    try:
        (folder / JOBS).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / JOBS / f"{number}.json", json.dumps(result).encode())
    except OSError as error:
        print(f"mnist_exp: the result of job {number} could not be noted in {folder}: {error}", file=sys.stderr)


def _results(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / JOBS).glob("*.json"), key=lambda path: int(path.stem))
    return [{"job": int(path.stem), **json.loads(path.read_text())} for path in paths]


def _print_summary(results: list[dict[str, Any]], jobs: int) -> bool:
    """Say what came of each job, and return whether every one of them has a result."""
    table = Table("job", "settings", "result", "folder", "time", title="Sweep", title_justify="left")
    for result in results:
        accuracy = f", {score(result['metrics'])}" if "metrics" in result else ""
        folder = Path(result["folder"]).name if "folder" in result else ""
        cells = (
            result["job"],
            result["overrides"],
            result["status"] + accuracy,
            folder,
            f"{result['seconds']:.0f} s",
        )
        table.add_row(*(Text(str(cell)) for cell in cells))  # [brackets] in plain strings would be markup
    if results:
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    for result in results:
        if result["status"] == "failed":
            print(f"job {result['job']} failed: {result['reason']}")
    counts = Counter(result["status"] for result in results)
    counts[UNKNOWN] = jobs - len(results)
    counted = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status] > 0)
    folders = {str(Path(result["folder"]).parent) for result in results if "folder" in result}
    where = f"; results lie in {', '.join(sorted(folders))}" if folders else ""
    print(f"Jobs: {counted or 'none ran'}{where}")
    return bool(results) and counts[UNKNOWN] <= 0


if __name__ == "__main__":
    # One copy of this module, under its own name, so that launchers can hand `job` to other processes.
    from mnist_exp.run import main as main_of_the_module

    main_of_the_module()
