"""Hydra: how it is started, what it composed, and what its sweeps consist of. Its private names are only here."""

import argparse
import functools
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import TaskFunction
from joblib.parallel import LokyBackend, register_parallel_backend
from omegaconf import DictConfig, OmegaConf

from mnist_exp.cli.messages import KNOWN_KEYS, PATH_SETTINGS, in_hydras_quotes, unknown_setting
from mnist_exp.errors import ConfigError
from mnist_exp.machine.parent import exit_when_parent_dies
from mnist_exp.settings.schema import COMPONENTS, Config, expand_user

GROUPS = (*COMPONENTS, "device", "data", "protocol")
PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_FOLDER = next((p for p in (PACKAGE.parent / "conf", PACKAGE / "conf") if p.is_dir()), PACKAGE / "conf")
"""``conf/`` of the checkout, or its copy in an installed package."""

REPEAT_STORED = "to repeat a stored run, pass the entries of its .hydra/overrides.yaml"
FOREIGN_CONFIG = (
    "these settings are not based on conf/config.yaml, so they cannot be checked; omit --config-path and "
    f"--config-name; {REPEAT_STORED}"
)

# What conf/ uses, made known to Hydra and OmegaConf wherever this module is imported, in workers too.
ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("gpus", lambda device: 1 if device == "cuda" else None, replace=True)
OmegaConf.register_new_resolver("expand_user", lambda path: expand_user("output_root", str(path)), replace=True)
# Our launcher presets have the names of the plugins' own, as their users expect. Each sets every key, so it does not
# matter that Hydra still validates it against the plugin's schema, as this warning says.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/.* is validated against ConfigStore")

_compose_all = Sweeper.validate_batch_is_legal


def start(task: TaskFunction) -> None:
    """Compose the settings from the command line, and call ``task`` with them: once, or for each job of a sweep."""
    if not CONFIG_FOLDER.is_dir():
        raise ConfigError(f"the folder of settings is missing: {CONFIG_FOLDER}; install mnist_exp again")
    if any(word.startswith("--experimental-rerun") for word in sys.argv[1:]):
        raise ConfigError(f"--experimental-rerun is not for this program; {REPEAT_STORED}")
    sys.argv[1:] = map(_path_word, sys.argv[1:])
    sys.modules["hydra.main"].get_args_parser = _args_parser  # type: ignore[attr-defined]
    # joblib's processes watch their parent from their start, not only from their first job.
    register_parallel_backend("loky", functools.partial(LokyBackend, initializer=exit_when_parent_dies))
    Sweeper.validate_batch_is_legal = _compose_some  # type: ignore[assignment, method-assign]
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_FOLDER), config_name="config")(task)()
    finally:
        Sweeper.validate_batch_is_legal = _compose_all  # type: ignore[method-assign]


def _compose_some(sweeper: Sweeper, jobs: Sequence[Sequence[str]]) -> None:
    """Hydra's check that the settings of all jobs can be composed; it takes a second for four of them.

    Of those that differ only in a whole number as their seed, one is checked: sweeps are mostly of these.
    """
    kinds = {tuple(re.sub(r"^seed=\d+$", "seed=0", word) for word in job): job for job in jobs}
    _compose_all(sweeper, [*kinds.values()])


def _path_word(word: str) -> str:
    """A path setting as Hydra has to be given it: with ``~`` expanded, and quoted where it looks like a number."""
    key, _, value = word.partition("=")
    if key not in PATH_SETTINGS:
        return word
    # Unquoted, Hydra would read a number or a keyword, and rewrite it.
    if re.fullmatch(r"[0-9._eE+-]+|true|false|null|\s.*|.*\s", value, re.IGNORECASE):
        return in_hydras_quotes(key, [value])
    if not value.startswith("~"):
        return word
    return in_hydras_quotes(key, [expand_user(key, path) for path in value.split(",")])


def _args_parser() -> argparse.ArgumentParser:
    """Hydra's parser, made to work on Python 3.14 and to accept flags between settings."""
    # Python 3.14 checks each help text, and one of Hydra's is not a string. Completion makes a parser of its own.
    argparse.ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]
    parser: argparse.ArgumentParser = get_args_parser()
    parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
    return parser


def to_config(settings: DictConfig) -> Config:
    """Hydra's settings as our dataclasses, values checked.

    Raises:
        ConfigError: a setting does not exist or has a value that it cannot have.
    """
    reject_unknown(settings)
    config = OmegaConf.to_object(settings)
    assert isinstance(config, Config)
    return config


def reject_unknown(settings: DictConfig) -> None:
    """Raise a ConfigError for a setting that was added with ``+`` but does not exist."""
    if OmegaConf.get_type(settings) is not Config:
        raise ConfigError(FOREIGN_CONFIG)
    for section, known in KNOWN_KEYS.items():
        for key in settings[section] if section else settings:
            if key not in known and key != "hydra":
                raise ConfigError(unknown_setting(f"{section}.{key!s}" if section else str(key)))


def group_choices(context: Any = None) -> dict[str, str]:
    """The chosen option of each config group; ``context`` is Hydra's own settings, where they are not global.

    Raises:
        ConfigError: a group was removed with ``~``, the settings are not from ``conf/``, or a callback cannot work.
    """
    context = context or HydraConfig.get()
    chosen = context.runtime.choices
    for name, callback in (context.callbacks or {}).items():
        if str(callback.get("_target_")).endswith(".PickleJobInfoCallback"):
            raise ConfigError(f"hydra.callbacks.{name}: nothing is pickled here, since run.json and .hydra/ say it all")
    if not any(chosen.get(group) for group in GROUPS):
        raise ConfigError(FOREIGN_CONFIG)
    for group in GROUPS:
        if chosen.get(group) is None:
            options = ", ".join(sorted(path.stem for path in (CONFIG_FOLDER / group).glob("*.yaml")))
            raise ConfigError(f"{group} cannot be left out; set {group}=…, one of {options}")
    return {group: str(chosen[group]).removesuffix(".yaml") for group in GROUPS}


def run_files(settings: DictConfig) -> dict[str, str]:
    """The files that Hydra itself would write about a run, by relative path."""
    context = HydraConfig.get()
    return {
        ".hydra/config.yaml": OmegaConf.to_yaml(settings),
        ".hydra/hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": context})),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(context.overrides.task),
    }


def planned_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep that is about to start; none where the sweeper decides as it goes."""
    if not config.hydra.sweeper["_target_"].endswith(".BasicSweeper"):
        return []
    words = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())  # resolves glob(*)
    overrides = parser.parse_overrides(words + list(config.hydra.overrides.task))
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    if not jobs:
        raise ConfigError("the sweep has no job: a range(…) or glob(…) in the command stands for nothing")
    return jobs


def listed_settings(choice: str) -> set[str]:
    """The settings in the file of an option, ``model=lenet5``; none where the file is not in ``conf/``."""
    path = CONFIG_FOLDER.joinpath(*choice.split("=")).with_suffix(".yaml")
    return {str(key) for key in OmegaConf.load(path)} if path.is_file() else set()


def swept_data(config: DictConfig, jobs: list[list[str]]) -> list[Any]:
    """The ``data`` settings that the jobs of a sweep use, each once; ``config`` lacks what is swept."""
    by_data = {tuple(word for word in job if re.match(r"data[.=]", word)): job for job in jobs}
    return [config.data] if len(by_data) < 2 else [hydra.compose("config", job).data for job in by_data.values()]
