"""From run folders to groups of runs; whatever can't be used is named, with the reason."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp.report import published

METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
VALIDATION = ("validation_loss", "validation_accuracy")
"""Metrics of the runs that held digits out of training."""
DIGITS = tuple("0123456789")
"""The classes of a run whose record names none."""
TIMES = ("train_seconds", "eval_seconds", "train_images_per_second")
SWITCHES = ("train_split", "eval_split", "training_mode")
PROTOCOLS: dict[tuple[str, ...], str] = {
    ("train", "test", "every_epoch"): "standard",
    ("test", "train", "first_epoch"): "published",
    ("test", "train", "every_epoch"): "swapped splits only",
    ("train", "test", "first_epoch"): "evaluation mode after epoch 1 only",
}
REQUIRED = {
    **dict.fromkeys(("title", "identity.model.target", "identity.data.name"), str),
    **dict.fromkeys((f"identity.protocol.{key}" for key in SWITCHES), str),
    **dict.fromkeys(("parameters", "identity.seed", "identity.epochs"), int),
}
"""What the record of a finished run must hold; the rest is shown where it is there."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a folder, and whether the folder is left out of the report for it."""

    folder: str
    reason: str
    left_out: bool = True


@dataclass(frozen=True, eq=False)
class Run:
    """One finished run."""

    folder: Path
    record: dict[str, Any]
    """The content of ``run.json``."""
    identity: dict[str, Any]
    """The settings that can change the numbers."""
    seed: int
    epochs: pd.DataFrame
    """``metrics.csv``, a row an epoch."""
    timing: pd.DataFrame | None
    """``timing.csv``, a row an epoch; None where it is missing or damaged."""


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but their seed, sorted by it."""

    label: str
    """The model, and whatever else differs between the groups of its section."""
    slug: str
    """The label, for file names; no two groups of a section share one."""
    section: str
    """Runs of different data or protocols are in different sections, and never compared."""
    protocol: str
    runs: tuple[Run, ...]
    record: dict[str, Any]
    """The first run's; but for the seed, it stands for all."""

    @property
    def score(self) -> str:
        """The metric to rank the group by: not the test accuracy, where there is a validation accuracy."""
        return "validation_accuracy" if "validation_accuracy" in self.runs[0].epochs else "test_accuracy"

    @property
    def level(self) -> float:
        """The mean of the last epoch's score."""
        return sum(self.final(self.score)) / len(self.runs)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the ten classes, by label."""
        return tuple(self.record["classes"])

    def final(self, metric: str) -> list[float]:
        """The last epoch's values of a metric, a seed each; none where it was not measured."""
        return [float(run.epochs[metric].iloc[-1]) for run in self.runs if metric in run.epochs]


@dataclass(frozen=True)
class Collection:
    """All that a report is about; the standard protocol's groups come first."""

    groups: tuple[Group, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def sections(self) -> tuple[str, ...]:
        """Their names, in the order of the groups."""
        return tuple(dict.fromkeys(group.section for group in self.groups))

    def in_section(self, section: str, most: int | None = None) -> list[Group]:
        """The groups of one section, or only so many of them: the best by their score."""
        groups = [group for group in self.groups if group.section == section]
        best = sorted(groups, key=lambda group: -group.level)[:most]
        return [group for group in groups if group in best]


def collect(runs: Path) -> Collection:
    """Read every run folder under ``runs``, but for hidden ones; an OSError if ``runs`` itself can't be read."""
    finished: dict[str, Run] = {}
    problems = []
    for folder in sorted(path for path in runs.iterdir() if not path.name.startswith(".")):
        try:
            run, lacks = _read(folder)
            key = json.dumps(run.identity, sort_keys=True)
            if twin := finished.get(key):
                same = "the same" if run.epochs.equals(twin.epochs) else "other"
                raise ValueError(f"has the settings and seed of {twin.folder.name}, and {same} numbers")
            finished[key] = run
            problems += [Problem(clean(folder.name), reason, left_out=False) for reason in lacks]
        except (ValueError, OSError, RecursionError) as error:
            problems.append(Problem(clean(folder.name), why(error)))
    return Collection(tuple(_group(list(finished.values()))), tuple(problems))


def why(error: Exception) -> str:
    """What went wrong, on one line and without a path."""
    if isinstance(error, OSError) and error.strerror:
        return f"can't be read: {error.strerror}"
    return clean(str(error) or type(error).__name__)


def clean(text: str) -> str:
    """One line of printable characters: names and reasons come from files, and may hold anything."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def slug(text: str) -> str:
    """Lower-case letters, digits, dots and hyphens, at most 80."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c == ".") else " " for c in text.lower())
    return "-".join(part for part in kept.split() if part.strip("."))[:80] or "unnamed"


def read_checked(run_folder: Path, record: Mapping[str, Any], name: str) -> bytes:
    """A file's content; a ValueError if it is missing or empty, or not what ``run.json`` has the SHA-256 of."""
    path = run_folder / name
    if not path.is_file():
        raise ValueError(f"has no file {name}")
    content, sums = path.read_bytes(), record.get("files")
    if not content:
        raise ValueError(f"has an empty {name}")
    if isinstance(sums, Mapping) and name in sums and hashlib.sha256(content).hexdigest() != sums[name]:
        raise ValueError(f"has another {name} than the one it finished with: run.json has another SHA-256")
    return content


def _read(folder: Path) -> tuple[Run, list[str]]:
    if not folder.is_dir():
        raise ValueError("is a file, not a run's folder")
    content = read_checked(folder, {}, "run.json")
    try:
        record = json.loads(content.decode())
        # Refuses NaN, which is no JSON, and half of a surrogate pair, which no file can hold.
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise ValueError(f"has a damaged run.json: {error}") from error
    record = record if isinstance(record, dict) else {}
    if record.get("format") != 1:
        raise ValueError(f"has a run.json of format {record.get('format')}; this report reads format 1")
    if record.get("status") != "finished":
        reason = f": {record['reason']}" if record.get("reason") else ""
        raise ValueError(f"is not finished ({record.get('status')}{reason})")
    for path, kind in REQUIRED.items():
        value: Any = record
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None:
            raise ValueError(f"has a run.json without {path}")
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
            raise ValueError(f"has a run.json whose {path} is {value!r:.40}")
    record["title"] = clean(record["title"]) or "untitled"
    given = record.get("classes")
    names = [clean(name) if isinstance(name, str) else "" for name in given] if isinstance(given, list) else []
    named = len(names) == len({*names} - {""}) == len(DIGITS)
    record["classes"] = names if named else [*DIGITS]
    bad_names = "has a run.json whose classes are not ten different names, so they are told as 0 to 9"
    lacks = [] if named or given is None else [bad_names]
    measured = [*METRICS, *(VALIDATION if record["identity"]["data"].get("validation_size") else ())]
    epochs = _table(folder, record, "metrics.csv", ["epoch", *measured, "learning_rate"])
    expected = record["identity"]["epochs"]
    if len(epochs) != expected or list(epochs["epoch"]) != list(range(1, expected + 1)):
        raise ValueError(f"has a metrics.csv of {len(epochs)} epochs instead of 1 to {expected}")
    accuracies = epochs.filter(like="accuracy").to_numpy()
    if accuracies.min() < 0 or accuracies.max() > 1:
        raise ValueError("has a metrics.csv with an accuracy that is no fraction")
    timing = None
    try:
        timing = _table(folder, record, "timing.csv", ["epoch", *TIMES])
    except (ValueError, OSError) as error:
        lacks.append(why(error))
    return Run(folder, record, record["identity"], record["identity"]["seed"], epochs, timing), lacks


def _table(folder: Path, record: Mapping[str, Any], name: str, columns: list[str]) -> pd.DataFrame:
    try:
        text = read_checked(folder, record, name).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"has a damaged {name}: {error}") from error
    header, *rows = [line.split(",") for line in text.splitlines()]
    if missing := [column for column in columns if column not in header]:
        raise ValueError(f"has a {name} without column {', '.join(missing)}")
    if not rows or not text.endswith("\n") or any(len(row) != len(header) for row in rows):
        raise ValueError(f"has a half-written {name}")
    table = pd.DataFrame({column: [_number(row[header.index(column)]) for row in rows] for column in columns})
    if bad := [column for column in columns if not table[column].map(math.isfinite).all()]:
        raise ValueError(f"has a {name} with a value in column {', '.join(bad)} that is no finite number")
    return table.astype({"epoch": int})


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _group(runs: list[Run]) -> list[Group]:
    sections: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        settings = {key: value for key, value in run.identity.items() if key != "seed"}
        section = json.dumps([settings["data"], settings["protocol"]], sort_keys=True)
        sections.setdefault(section, {}).setdefault(json.dumps(settings, sort_keys=True), []).append(run)

    firsts = [next(iter(members.values()))[0] for members in sections.values()]
    names = [f"{run.identity['data']['name']}, {_protocol(run)} protocol" for run in firsts]
    names = _labels(names, [flatten(run.identity["data"]) for run in firsts], "")
    for place, size in enumerate(run.identity["data"].get("validation_size") for run in firsts):
        if size and "validation_size=" not in names[place]:  # it is said even where all sections share it
            names[place] = clean(f"{names[place]}, validation_size={size}")
    groups: list[Group] = []
    for name, members in zip(names, sections.values(), strict=True):
        contents = sorted(members.values(), key=lambda group: _order(group[0]))
        titles = [group[0].record["title"] for group in contents]
        labels = _labels(titles, [_settings(group[0]) for group in contents], "model.")
        slugs = _unique([slug(label) for label in labels], "-{}")
        made = [
            Group(label, file_name, name, _protocol(group[0]), tuple(group), group[0].record)
            for label, file_name, group in zip(labels, slugs, contents, strict=True)
        ]
        groups += sorted(made, key=lambda group: -group.level) if made[0].score in VALIDATION else made
    known = [*PROTOCOLS.values()]
    return sorted(groups, key=lambda g: (known.index(g.protocol) if g.protocol in known else 9, g.section))


def _protocol(run: Run) -> str:
    switches = tuple(run.identity["protocol"][key] for key in SWITCHES)
    return PROTOCOLS.get(switches, clean(", ".join(switches)))


def _order(run: Run) -> tuple[Any, ...]:
    """The three models in the published order and then any others; within a model, by its settings."""
    known, name = [*published.MODELS], run.identity["model"]["target"].rpartition(".")[2]
    settings = {key.strip(): value for key, value in _settings(run).items()}
    values = [(k, 0, v, "") if isinstance(v, int | float) else (k, 1, 0, str(v)) for k, v in settings.items()]
    return known.index(name) if name in known else len(known), run.record["title"], sorted(values)


def _settings(run: Run) -> dict[str, Any]:
    """What may tell a run's group from another; the section, the seed and the title say the rest."""
    config = run.record.get("config")
    # An identity leaves out what equals a class's own default; the config may still say it.
    told = {f"{key} ": value for key, value in flatten(config if isinstance(config, Mapping) else {}).items()}
    return told | flatten({k: v for k, v in run.identity.items() if k not in ("data", "protocol", "seed")})


def _labels(titles: list[str], settings: list[dict[str, Any]], own: str) -> list[str]:
    """Each title with the settings that differ; the title alone tells of those ``own`` that differ as it does."""
    keys = sorted({key for s in settings for key in s if not key.endswith(" ")})
    full = [{key: s.get(key, s.get(f"{key} ")) for key in keys} for s in settings]
    labels = []
    for mine, title in zip(full, titles, strict=True):
        same = [other for other, name in zip(full, titles, strict=True) if name == title]
        among = {key: same if key.startswith(own) else full for key in keys}
        telling = [key for key in keys if len({repr(other[key]) for other in among[key]}) > 1]
        short = Counter(map(_short, telling))
        names = {key: _short(key) if short[_short(key)] == 1 else key for key in telling}
        words = [f"{names[key]}={_value(key, mine[key])}" for key in telling if mine[key] is not None]
        labels.append(clean(", ".join([title, *words])))
    return _unique(labels, " ({})")


def _short(key: str) -> str:
    """A setting's name as short as it can be told: ``optimizer.lr`` → ``lr``, but ``optimizer``."""
    group, _, name = key.partition(".")
    return group if name in ("target", "type") else name or group


def _value(key: str, value: Any) -> str:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return str(value).rpartition(".")[2] if key.endswith("target") else str(value)


def _unique(names: list[str], pattern: str) -> list[str]:
    """The same names, those that were there before with a number added."""
    result: list[str] = []
    for name in names:
        number, one = 2, name
        while one in result:
            one, number = name + pattern.format(number), number + 1
        result.append(one)
    return result


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as one mapping: ``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
