"""From run folders to tidy tables; whatever can't be used is named, with the reason."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
PROTOCOLS = {
    ("train", "test", "every_epoch"): "standard",
    ("test", "train", "first_epoch"): "published",
    ("test", "train", "every_epoch"): "swapped splits only",
    ("train", "test", "first_epoch"): "evaluation mode after epoch 1 only",
}
# Settings that a reader knows from a run's section or row, or that only name the run.
NAMED_OTHERWISE = {"seed", "version", "protocol", "data", "model.target"}


@dataclass(frozen=True)
class Run:
    """One finished run: its record (``run.json``), its folder, and its epochs."""

    folder: Path
    record: dict[str, Any]
    epochs: pd.DataFrame
    """A row an epoch: the columns of ``metrics.csv``."""
    timing: pd.DataFrame | None
    """A row an epoch: the columns of ``timing.csv``; None where that file is missing or damaged."""

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that can change the numbers."""
        identity: dict[str, Any] = self.record["identity"]
        return identity

    @property
    def seed(self) -> int:
        """The run's seed."""
        return int(self.identity["seed"])


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed, sorted by it."""

    label: str
    """The model, and what else sets this group apart from the others of its section."""
    section: str
    """Runs of different data or protocols are in different sections, and never compared."""
    protocol: str
    runs: tuple[Run, ...]

    @property
    def record(self) -> dict[str, Any]:
        """The first run's record; but for the seed, it stands for all."""
        return self.runs[0].record

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were run."""
        return tuple(run.seed for run in self.runs)

    @property
    def slug(self) -> str:
        """The label, for file names."""
        return slug(self.label)

    def final(self, metric: str) -> list[float]:
        """The last epoch's values of a metric, a seed each."""
        return [float(run.epochs[metric].iloc[-1]) for run in self.runs]


@dataclass(frozen=True)
class Collection:
    """All that a report is about."""

    groups: tuple[Group, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    """Folders that are not in the report, and why."""
    sections: tuple[str, ...] = field(default=())

    def in_section(self, section: str) -> list[Group]:
        """The groups of one section."""
        return [group for group in self.groups if group.section == section]

    def epochs(self, section: str) -> pd.DataFrame:
        """One section as a tidy table: a row for each label, seed and epoch."""
        parts = [
            run.epochs.assign(label=group.label, seed=run.seed)
            for group in self.in_section(section)
            for run in group.runs
        ]
        return pd.concat(parts, ignore_index=True)


def collect(runs: Path) -> Collection:
    """Read every run folder under ``runs``; hidden ones are not runs."""
    finished: dict[str, Run] = {}
    problems = []
    folders = sorted(path for path in runs.iterdir() if not path.name.startswith(".")) if runs.is_dir() else []
    for folder in folders:
        try:
            run = _read(folder)
            key = json.dumps(run.identity, sort_keys=True)
            if key in finished:
                raise ValueError(f"has the same settings and seed as {finished[key].folder.name}")
            finished[key] = run
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problems.append(
                (folder.name, reason if not isinstance(error, KeyError) else f"run.json has no {error}")
            )
    groups = _group(list(finished.values()))
    sections = tuple(dict.fromkeys(group.section for group in groups))
    return Collection(tuple(groups), tuple(problems), sections)


def slug(text: str) -> str:
    """Lower-case letters, digits, dots and hyphens."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c == ".") else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)


def _read(folder: Path) -> Run:
    if not folder.is_dir():
        raise ValueError("is not a run's folder")
    record_path = folder / "run.json"
    if not record_path.exists():
        raise ValueError("has no run.json, so it is not a run's folder")
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"run.json is damaged: {error}") from error
    if not isinstance(record, dict) or record.get("format") != 1:
        number = record.get("format") if isinstance(record, dict) else None
        raise ValueError(f"run.json has format {number}, and this report reads format 1")
    if record["status"] != "finished":
        reason = f": {record['reason']}" if record.get("reason") else ""
        raise ValueError(f"is not finished ({record['status']}{reason})")
    epochs = _table(folder / "metrics.csv", ["epoch", *METRICS, "learning_rate"])
    expected = int(record["identity"]["epochs"])
    if list(epochs["epoch"]) != list(range(1, expected + 1)):
        raise ValueError(f"metrics.csv has {len(epochs)} epochs instead of 1 to {expected}")
    try:
        timing = _table(folder / "timing.csv", ["epoch", "train_seconds", "eval_seconds"])
    except (ValueError, OSError):
        timing = None
    return Run(folder, record, epochs, timing)


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.exists():
        raise ValueError(f"{path.name} is missing")
    try:
        table = pd.read_csv(path, float_precision="round_trip")
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{path.name} has no column {', '.join(missing)}")
    for column in columns:
        values = pd.to_numeric(table[column], errors="coerce")
        if not values.map(math.isfinite).all():
            raise ValueError(f"{path.name} has a value in column {column} that is no finite number")
        table[column] = values
    return table


def _group(runs: list[Run]) -> list[Group]:
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in run.identity.items() if key != "seed"}
        grouped.setdefault(json.dumps(settings, sort_keys=True), []).append(run)

    sections: dict[str, list[list[Run]]] = {}
    for members in grouped.values():
        sections.setdefault(_section(members[0].identity), []).append(members)
    groups = []
    for section, contents in sections.items():
        flat = [_flatten(members[0].identity) for members in contents]
        differing = {
            key for settings in flat for key in settings if len({repr(other.get(key)) for other in flat}) > 1
        }
        titles = [members[0].record["title"] for members in contents]
        for members, settings, title in zip(contents, flat, titles, strict=True):
            # What differs only because the model does is said by the model's title.
            same_model = [other for other, name in zip(flat, titles, strict=True) if name == title]
            telling = {key for key in differing if len({repr(other.get(key)) for other in same_model}) > 1} or {
                key for key in differing if not key.startswith("model.")
            }
            words = [f"{_short(key)}={settings[key]}" for key in sorted(telling) if key in settings]
            groups.append(
                Group(
                    label=", ".join([title, *words]),
                    section=section,
                    protocol=_protocol(members[0].identity),
                    runs=tuple(sorted(members, key=lambda run: run.seed)),
                )
            )
    order = {name: position for position, name in enumerate(PROTOCOLS.values())}
    return sorted(groups, key=lambda g: (order.get(g.protocol, len(order)), g.section, _rank(g), g.label))


def _rank(group: Group) -> int:
    """The published order of the three models first, whatever else there is after."""
    known = ["LeNet5", "LeNet5Regularized", "MLP"]
    name = str(group.record["identity"]["model"]["target"]).rpartition(".")[2]
    return known.index(name) if name in known else len(known)


def _protocol(identity: Mapping[str, Any]) -> str:
    p = identity["protocol"]
    switches = (p["train_split"], p["eval_split"], p["training_mode"])
    return PROTOCOLS.get(switches, ", ".join(switches))


def _section(identity: Mapping[str, Any]) -> str:
    return f"{identity['data']['name']}, {_protocol(identity)} protocol"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        path = f"{prefix}{key}"
        if path in NAMED_OTHERWISE:
            continue
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def _short(key: str) -> str:
    """A setting's name as short as it can be told: ``optimizer.lr`` → ``lr``, but ``optimizer``."""
    group, _, name = key.partition(".")
    return group if name == "target" else name or group
