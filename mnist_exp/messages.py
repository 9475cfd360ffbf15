"""One sentence for a person from whatever Hydra, OmegaConf or the disk had to say."""

import dataclasses
import difflib
import errno
import re
import traceback
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import hydra
import omegaconf
from hydra.errors import HydraException, MissingConfigException, OverrideParseException

from mnist_exp.config import Config, DataConfig, DeviceConfig, ProtocolConfig
from mnist_exp.errors import UserError

DISK_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on file sizes",
    errno.EACCES: "make the folder yours to write",
    errno.EPERM: "make the folder yours to write",
    errno.EROFS: "choose a disk that can be written",
}
# What the launchers' plugins raise, none of which need be installed: how it starts → what to say.
LAUNCHERS = {
    "Unknown plugin class.*hydra_ray|No module named 'ray": "an extra is needed: pip install -e '.[ray]'",
    "Unknown plugin class.*submitit|No module named 'submitit": "an extra is needed: pip install -e '.[slurm]'",
    'Could not detect "srun"': "no srun command here: type this on a login node of a SLURM cluster",
    "Could not find any running Ray": "{0}; first: ray start --head",
    "n_jobs == 0|batch_size must be": "hydra.launcher: {0}",
    "sbatch: ": "SLURM refused the jobs ({0}); what hydra.launcher says goes to sbatch",
    "Job .* has not produced any output": "{0}; the other jobs go on. Type the same command again for this one",
}
LIBRARIES = (Path(hydra.__file__).parent, Path(omegaconf.__file__).parent)


def about_disk(error: OSError) -> str:
    """What the disk refused, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    advice = DISK_ADVICE.get(error.errno or 0, "see that the folder can be written, or name another output_root")
    return (
        f"{where}{error.strerror or error}; {advice}, then type the same command again: finished epochs are kept"
    )


def about(error: Exception) -> str | None:
    """The sentence for a person's mistake, or None for an error of the program's own."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        there = ", ".join(error.options or ()) or "none"
        return f"{f'{group}=' if group else ''}{name}: there is no such {group or 'config'}; there are: {there}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: can't be read ({_lines(error)[0]}); write KEY=VALUE, and quote it for the shell"
    if isinstance(error, BrokenProcessPool):
        return "the process of a job was killed (out of memory, perhaps); type the same command again to go on"
    if isinstance(error, BrokenPipeError):
        return "stopped, since nobody reads the output any more; type the same command again to go on"
    for pattern, sentence in LAUNCHERS.items():
        if re.match(pattern, _lines(error)[0]):
            return sentence.format(_lines(error)[0])
    if isinstance(error, OSError):
        return about_disk(error)
    innermost = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if isinstance(error, HydraException) or any(library in innermost.parents for library in LIBRARIES):
        return _about_settings(error)
    return None


def reason(error: BaseException) -> str:
    """What the record of a run says of the error that ended it."""
    if isinstance(error, SystemExit):
        return "stopped by its launcher"
    return (about(error) if isinstance(error, Exception) else str(error)) or f"{type(error).__name__}: {error}"


def score(metrics: Mapping[str, Any]) -> str:
    """The one accuracy to tell of a run: that of the validation digits, where any were held out."""
    digits = "validation" if "validation_accuracy" in metrics else "test"
    return f"{digits} accuracy {metrics[f'{digits}_accuracy']:.4f}"


def _about_settings(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    lines = _lines(error)
    if unknown := re.match(r"Could not override '(.+)'", lines[0]):
        close = difflib.get_close_matches(unknown[1], _keys(), n=1)
        hint = f"did you mean {close[0]}?" if close else "--cfg job shows all there are"
        return f"there is no setting {unknown[1]}; {hint}"
    if several := re.match(r"Ambiguous value for argument '(.+)'", lines[0]):
        return f"{several[1]} is several values; add -m to run each of them"
    if merging := re.match(r"Error merging override (.+)", lines[0]):
        return f"{merging[1]}: {_lines(cause)[0]}"
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    return f"{key}: {lines[0]}" if key else lines[0]


def _keys() -> list[str]:
    keys = [field.name for field in dataclasses.fields(Config)]
    for group, schema in (("device", DeviceConfig), ("data", DataConfig), ("protocol", ProtocolConfig)):
        keys += [f"{group}.{field.name}" for field in dataclasses.fields(schema)]
    return [*keys, "optimizer.lr", "optimizer.momentum", "optimizer.weight_decay"]


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
