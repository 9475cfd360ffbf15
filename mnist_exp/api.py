"""In a program or a notebook: compose settings, train, and read runs. `mnist_exp.inference.trained.load_run` predicts.

A run that is trained here has the name and the bytes of the same run by the command.
"""

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from rich.console import Console

from mnist_exp.cli import hydra_internals
from mnist_exp.cli.messages import user_message
from mnist_exp.cli.progress import Lines, LiveBar
from mnist_exp.errors import ConfigError, RunFolderError
from mnist_exp.job import RunResult, train_run
from mnist_exp.runs.read import read_run
from mnist_exp.settings.identity import flatten, with_neutral
from mnist_exp.settings.schema import Config

__all__ = ["ComposedConfig", "RunResult", "compose", "read_runs", "train"]


@dataclass
class ComposedConfig(Config):
    """The settings of a run, which may be changed before it is trained (``config.seed = 1``)."""

    choices: dict[str, str] = field(default_factory=dict)
    """The chosen option of each config group, by which the run's folder is named."""


def compose(overrides: Sequence[str] = ()) -> ComposedConfig:
    """The settings of the command ``python -m mnist_exp.run`` with these words (``["model=mlp", "epochs=5"]``).

    Raises:
        ConfigError: a setting does not exist, or cannot have that value.
    """
    try:
        with initialize_config_dir(str(hydra_internals.CONFIG_FOLDER), version_base="1.3"):
            composed = hydra_compose("config", [*overrides], return_hydra_config=True)
            choices = hydra_internals.group_choices(composed.hydra)
            config = hydra_internals.to_config(hydra_compose("config", [*overrides]))
    except Exception as error:
        raise ConfigError(user_message(error) or str(error)) from error
    return ComposedConfig(**vars(config), choices=choices)


def train(config: ComposedConfig) -> RunResult:
    """Train a run, or resume it, or find it finished; with a live bar in a terminal or a notebook.

    After an edit of a component's file, start Python anew: a process keeps the code that it has imported.

    Raises:
        UserError: settings, data or a folder that cannot be used, or a training that diverged.
    """
    settings = {each.name: getattr(config, each.name) for each in fields(Config)}
    checked = {key: replace(settings[key]) for key in ("device", "data", "protocol")}  # they may have been changed
    console = Console()
    has_bar = importlib.util.find_spec("ipywidgets") if console.is_jupyter else console.is_terminal
    return train_run(Config(**settings | checked), config.choices, {}, LiveBar if has_bar else Lines)


def read_runs(folder: Path | str, *, epochs: bool = False) -> pd.DataFrame:
    """The runs in a folder, such as ``outputs/runs``: a row for each, or for each of its epochs.

    Columns are the run's name, status and model, all settings by dotted path (``optimizer.lr``), and the metrics of
    its last epoch (or of each). A run that cannot be read is left out, with a warning.

    Raises:
        RunFolderError: there is no such folder.
    """
    rows: list[dict[str, Any]] = []
    if not Path(folder).is_dir():
        raise RunFolderError(f"{folder}: there is no such folder of runs")
    for path in sorted(each for each in Path(folder).iterdir() if each.is_dir() and not each.name.startswith(".")):
        try:
            run = read_run(path)
        except RunFolderError as error:
            warnings.warn(f"{path}: {error}", stacklevel=2)
            continue
        known = {"run": run.record.name, "status": run.record.status, "title": run.record.title}
        known |= flatten(with_neutral(run.record.identity))
        metrics = run.epochs if epochs else run.epochs.tail(1)
        rows += [known | {str(key): value for key, value in row.items()} for row in metrics.to_dict("records")]
        rows += [known] if metrics.empty else []
    return pd.DataFrame(rows)
