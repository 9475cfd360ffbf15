"""What a run is called: a name that ends in a hash of every setting that can change its numbers."""

import dataclasses
import functools
import hashlib
import json
import operator
import re
from collections.abc import Mapping
from typing import Any

from mnist_exp.settings.schema import Config

IDENTITY_VERSION = 3
"""Raised when settings mean something else than before. (Changed code has its own checksums: `machine.fingerprint`.)"""
ABSENT = "(absent)"
NEUTRAL: dict[str, Any] = {
    "data.validation_size": 0,
    "clip_norm": None,
    "augment": {"target": "torch.nn.Identity"},
    "loss": {
        "target": "torch.nn.CrossEntropyLoss",
        **dict.fromkeys(("weight", "size_average", "reduce")),
        "ignore_index": -100,
        "reduction": "mean",
        "label_smoothing": 0,
    },
}
"""Settings that are younger than stored runs → the value with which the identity leaves them out, so that stored runs
keep their names. A new setting gets a line here, and a default that changes nothing."""


def run_identity(
    config: Config, components: dict[str, dict[str, Any]], device: str, contents: dict[str, Any]
) -> dict[str, Any]:
    """Every setting that can change a run's numbers, in one canonical form, and nothing else.

    Args:
        config: the run's settings.
        components: for each of `COMPONENTS`, the class and all its arguments
            (`mnist_exp.settings.components.component_identity`).
        device: the kind of device that ``device.name`` resolved to.
        contents: what the data's name does not determine, such as the checksum of a folder, and its classes.

    Returns:
        A tree of JSON values. Numbers are written one way (``1.0`` is ``1``), so that equal settings
        are equal however they were spelled.
    """
    settings = settings_without_paths(config)
    settings["data"] |= contents
    del settings["data"]["title"], settings["metrics"]  # change no number
    del settings["device"]["name"]  # may be auto
    settings["device"]["type"] = device
    # The components replace what the settings say of them: with the classes' defaults.
    canonical: dict[str, Any] = _canonical({"version": IDENTITY_VERSION} | settings | components)
    for path, value in NEUTRAL.items():
        *sections, key = path.split(".")
        section = functools.reduce(operator.getitem, sections, canonical)
        if section[key] == value:
            del section[key]
    return canonical


def with_neutral(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity with all settings, those too that it leaves out; `data` aside."""
    return {path: value for path, value in NEUTRAL.items() if "." not in path} | dict(identity)


def settings_without_paths(config: Config) -> dict[str, Any]:
    """All settings but paths, which may hold a user's name, and policies (`overwrite`, `stale`)."""
    settings = dataclasses.asdict(config)
    for key in ("output_root", "overwrite", "stale"):
        del settings[key]
    for key in ("root", "train_dir", "test_dir"):
        del settings["data"][key]
    return settings


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as one mapping: ``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def identity_hash(identity: dict[str, Any]) -> str:
    """The first 8 hexadecimal digits of the SHA-256 of the identity's canonical JSON text."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_name(choices: dict[str, str], identity: dict[str, Any]) -> str:
    """The name of a run's folder: readable first, unique last.

    Args:
        choices: the chosen option of each config group (``model`` → ``lenet5``).
        identity: the run's `run_identity`.
    """
    words = [choices["model"], choices["protocol"], choices["optimizer"]]
    if choices["data"] != "mnist":
        words.insert(0, choices["data"])
    readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", word) for word in words)
    return f"{readable}-seed{identity['seed']}-{identity_hash(identity)}"


def diff_settings(now: Any, recorded: Any, path: str = "") -> list[str]:
    """Where two trees of settings differ: ``key: recorded → now``, sorted by key."""
    if isinstance(now, dict) and isinstance(recorded, dict):
        return [
            line
            for key in sorted(now.keys() | recorded.keys())
            for line in diff_settings(now.get(key, ABSENT), recorded.get(key, ABSENT), f"{path}.{key}" if path else key)
        ]
    return [] if now == recorded else [f"{path}: {recorded!r} → {now!r}"]


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
