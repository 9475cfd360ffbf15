"""One sentence for the user, from whatever Hydra, OmegaConf, a launcher or the disk reported."""

import dataclasses
import difflib
import re
import shlex
import sys
import traceback
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import hydra
import omegaconf
import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from mnist_exp.errors import UserError, disk_message, failure_reason, memory_message
from mnist_exp.files import PROJECT
from mnist_exp.runs.record import selection_metric
from mnist_exp.settings.schema import Config, DataConfig, DeviceConfig, ProtocolConfig

SCHEMAS = {"": Config, "device": DeviceConfig, "data": DataConfig, "protocol": ProtocolConfig}
KNOWN_KEYS = {section: [each.name for each in dataclasses.fields(schema)] for section, schema in SCHEMAS.items()}
"""Section → its settings. The other sections hold the arguments of a class, which is asked for them."""
PATH_SETTINGS = ("output_root", "data.root", "data.train_dir", "data.test_dir", "hydra.sweep.dir", "hydra.run.dir")
REPEAT = "repeat the command to resume"
# How the first line of a library's error starts → what to say. (Text, since not all of these libraries need be
# installed.) {0} is that line, {1} what the pattern's parentheses match.
FOREIGN_MESSAGES = {
    "Unknown plugin class.*hydra_ray|No module named 'ray": "an extra is needed: pip install -e '.[ray]'",
    "Unknown plugin class.*submitit|No module named 'submitit": "an extra is needed: pip install -e '.[slurm]'",
    'Could not detect "srun"': "there is no srun command here: run this on a login node of a SLURM cluster",
    "Could not find any running Ray": "{0}; first: ray start --head",
    "No trials are completed": "no trial of the search has finished",
    "n_jobs == 0|batch_size must be|.*not a valid or supported arithmetic": "hydra.launcher: {0}",
    "TimeoutError": "a job took longer than hydra.launcher.timeout",
    "Tried to step": "scheduler: {0}; the schedule is shorter than the training",
    "If capturable=True": "optimizer.capturable=true: {0}",
    r"In 'experiment/.*Could not override": "{0} Its first line must be: # @package _global_",
    "sbatch: ": "SLURM refused the jobs ({0}); the settings hydra.launcher.* are passed to sbatch",
    "Job .* has not produced any output": "{0}; the other jobs continue. Repeat the command for this one",
    "Config group override must be": "a config group takes the name of one option, such as model=mlp",
    r".*(interval\(|INTERVAL_SWEEP)": "interval(…) is for sweepers that choose values themselves; list the values: "
    "optimizer.lr=0.01,0.1 -m",
    r"Sweep parameters '(.*)' requires": "{1} has several values; add -m to run each of them",
}
LIBRARIES = (Path(hydra.__file__).parent, Path(omegaconf.__file__).parent)


def user_message(error: Exception) -> str | None:
    """The sentence for a user's mistake, or None for an error of the program's own."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):  # an OSError, but never the disk's fault
        return _about_missing_option(error)
    if isinstance(error, OverrideParseException):
        return _about_unreadable(error)
    if isinstance(error, BrokenProcessPool):
        return f"the process of a job was killed (out of memory, perhaps); {REPEAT}"
    if isinstance(error, BrokenPipeError):
        return f"stopped because nothing reads the output any more; {REPEAT}"
    if message := memory_message(error):
        return message
    first_line = _lines(error)[0]
    for pattern, sentence in FOREIGN_MESSAGES.items():
        if match := re.match(pattern, first_line):
            return sentence.format(first_line, *match.groups())
    if isinstance(error, OSError):
        return disk_message(error)
    if isinstance(error, yaml.YAMLError | UnicodeDecodeError):
        return f"a file of settings is not valid YAML: {' '.join(str(error).split())}"
    innermost = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if isinstance(error, HydraException) or any(library in innermost.parents for library in LIBRARIES):
        return _about_settings(error)
    return None


def job_failure_reason(error: BaseException) -> str:
    """Why a job ended, for the sweep's summary."""
    return (user_message(error) if isinstance(error, Exception) else None) or failure_reason(error)


def format_accuracy(metrics: Mapping[str, Any]) -> str:
    """The accuracy that settings are chosen by."""
    metric = selection_metric(metrics)
    return f"{metric.replace('_', ' ')} {metrics[metric]:.4f}"


def unknown_setting(key: str) -> str:
    """What to say of a setting that does not exist."""
    section, _, name = key.rpartition(".")
    options = (PROJECT / "conf" / section).glob("*.yaml") if section not in KNOWN_KEYS else ()
    listed = {key for path in options for key in re.findall(r"^(\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)}
    known = KNOWN_KEYS.get(section, sorted(listed - {name}))
    if name in ("classes", "steps_per_epoch"):
        hint = "it follows from the data"
    elif section.startswith("hydra"):
        hint = "--cfg hydra shows what there is"
    elif close := difflib.get_close_matches(name, known, n=1):
        hint = f"did you mean {f'{section}.' if section else ''}{close[0]}?"
    elif section in KNOWN_KEYS:
        hint = f"{section or 'the program'} has {', '.join(known)}"
    else:
        hint = f"an argument that conf/ does not list needs a plus: +{key}=…"
    return f"there is no setting {key}; {hint}"


def _about_missing_option(error: MissingConfigException) -> str:
    if not error.missing_cfg_file:
        return f"{_lines(error)[0]} Leave --config-path out; --config-dir DIR adds a folder of settings"
    group, _, name = error.missing_cfg_file.rpartition("/")
    if not group:
        return f"--config-name {name}: there is no such config; leave the flag out"
    if (group, name) == ("hydra/sweeper", "optuna"):
        return "an extra is needed: pip install -e '.[search]'"
    return f"{group}={name}: there is no such {group}; there are: {', '.join(error.options or ())}"


def _about_unreadable(error: OverrideParseException) -> str:
    key, equals, value = error.override.partition("=")
    if equals and key.lstrip("+~") in PATH_SETTINGS:
        values = value.split(",") if {"-m", "--multirun"} & {*sys.argv} else [value]
        return f"{error.override}: cannot be read as it is; write {_quoted(key, values)}"
    return f"{error.override}: cannot be read ({_lines(error)[0]}); write KEY=VALUE, and quote it for the shell"


def in_hydras_quotes(key: str, values: list[str]) -> str:
    """An override for values of any characters."""
    return f"{key}=" + ",".join("'{}'".format(re.sub(r"(\\*)'", r"\1\1\\'", value)) for value in values)


def _quoted(key: str, values: list[str]) -> str:
    """An override for values of any characters, in Hydra's quotes and in the shell's, ready to paste."""
    word = in_hydras_quotes(key, [re.sub(r"^(['\"])(.*)\1$", r"\2", value) for value in values])
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'


def _about_settings(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    lines = _lines(error)
    if unknown := re.match(r"Could not override '(.+)'", lines[0]):
        return unknown_setting(unknown[1])
    if several := re.match(r"Ambiguous value for argument '(.+)'", lines[0]):
        key, _, value = several[1].partition("=")
        return (
            f"{several[1]} has several values; add -m to run each of them. For one value with a comma in it, "
            f"write {_quoted(key, [value])}"
        )
    if "is not a ListConfig" in _lines(cause)[0]:
        return f"{lines[0].removeprefix('Error merging override ')}: write a list, in brackets: metrics=[macro_f1]"
    if merging := re.match(r"Error merging override (.+)", lines[0]):
        return f"{merging[1]}: {_lines(cause)[0]}"
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    if "raised while composing config" in lines[0]:
        reason = _lines(cause)[0] if cause is not error else " ".join(lines[1:2])
        if key == "experiment":
            reason = "the first line must be: # @package _global_"
        is_unknown = key and re.match("Key .* not in", reason)
        return f"{lines[0].partition(':')[0]}: {unknown_setting(key) if is_unknown else reason}"
    return f"{key}: {lines[0]}" if key else lines[0]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
