"""What groups of runs and sections are called: a title, and the settings that tell them apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mnist_exp.machine.fingerprint import PART_NAMES
from mnist_exp.text import printable, unique

ALWAYS_SHOWN = ("optimizer.target", "optimizer.lr", "scheduler.target")
"""Settings of an optimizer or a schedule that are shown even where its name implies them."""
MADE_BY = {
    "torch": "the version of torch",
    "model.parameters": "the number of parameters",
    "portable": "whether their bytes are portable",
} | {f"{part}.code": f"the code of {name}" for part, name in (PART_NAMES | {"model": "the model"}).items()}
"""What may differ between runs of one setting, in words."""


def make_labels(titles: Sequence[str], settings: Sequence[Mapping[str, Any]], own: str = "") -> list[str]:
    """Each title, with the settings that tell it from the others.

    A key that starts with ``own`` is shown only where groups of the same title differ in it.
    """
    keys = sorted({key for each in settings for key in each})
    keys = [key for key in keys if not is_determined_by(key, _deciding(key, keys), settings)]
    labels = []
    for mine, title in zip(settings, titles, strict=True):
        same = [other for other, name in zip(settings, titles, strict=True) if name == title]
        telling = [key for key in keys if not key.startswith(own) or not is_determined_by(key, [], same)]
        short = Counter(map(short_name, telling))
        names = {key: short_name(key) if short[short_name(key)] == 1 else key for key in telling}
        words = [f"{names[key]}={shown_value(key, mine[key])}" for key in telling if mine.get(key) is not None]
        labels.append(printable(", ".join([title, *words])))
    return unique(labels, " ({})")


def _deciding(key: str, keys: Sequence[str]) -> list[str]:
    """The settings that may imply this one, so that they are enough to show."""
    group = key.partition(".")[0]
    if key in MADE_BY:
        return [other for other in keys if other not in MADE_BY]
    if group in ("optimizer", "scheduler") and key not in ALWAYS_SHOWN:
        return [f"{group}.target", *(["epochs", "optimizer.lr"] if group == "scheduler" else [])]
    return []


def is_determined_by(key: str, deciding: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> bool:
    """Whether equal values of the deciding settings mean equal values of this one; without any, if all are equal."""
    found: dict[str, set[str]] = {}
    for each in settings:
        found.setdefault(repr([each.get(name) for name in deciding]), set()).add(repr(each.get(key)))
    return all(len(values) == 1 for values in found.values())


def short_name(key: str) -> str:
    """A setting's name as short as it can be: ``optimizer.lr`` → ``lr``, but ``optimizer.target`` → ``optimizer``."""
    group, _, name = key.partition(".")
    return group if name in ("target", "type") else name or group


def shown_value(key: str, value: Any) -> str:
    """A setting's value as short as it can be: ``torch.optim.SGD`` → ``SGD``."""
    if key.endswith("_sha256"):
        return str(value)[:8]
    if isinstance(value, float):
        return f"{value:.6g}"  # a sweeper's have 17 digits
    return str(value).rpartition(".")[2] if key.endswith("target") else str(value)
