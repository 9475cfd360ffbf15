"""From run folders to groups of runs that differ in nothing but their seed, each with a label."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.machine.fingerprint import newest_equivalent
from mnist_exp.report import published
from mnist_exp.report.runs import VALIDATION_NAMES, Problem, Run, describe_error, read_run
from mnist_exp.report.text import printable, slug, unique
from mnist_exp.runs.record import Record
from mnist_exp.settings.schema import PROTOCOL_KEYS, PROTOCOLS

ALWAYS_SHOWN = ("optimizer.target", "optimizer.lr", "scheduler.target")
"""Settings of an optimizer or a schedule that are shown even where its name implies them."""

_WORDS = {"torch": "the version of torch", "model.parameters": "the number of parameters"}


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but their seed, sorted by it."""

    label: str
    """The model, and whatever else differs between the groups of its section."""
    slug: str
    """The label, for file names; unique within a section."""
    section: str
    """Runs of different data or protocols are in different sections, and never compared."""
    protocol: str
    runs: tuple[Run, ...]
    record: Record
    """The first run's; but for the seed, it stands for all."""

    @property
    def selection_metric(self) -> str:
        """The metric to rank the group by: not the test accuracy, where there is a validation accuracy."""
        return "validation_accuracy" if "validation_accuracy" in self.runs[0].epochs else "test_accuracy"

    @property
    def mean_score(self) -> float:
        """The mean of the last epoch's selection metric."""
        return sum(self.final_values(self.selection_metric).values()) / len(self.runs)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the ten classes, by label."""
        return tuple(self.record.classes or ())

    def final_values(self, metric: str) -> dict[int, float]:
        """Seed → the last epoch's value of a metric; empty where it was not measured."""
        return {run.record.seed: float(run.epochs[metric].iloc[-1]) for run in self.runs if metric in run.epochs}


@dataclass(frozen=True)
class Collection:
    """All that a report is about; the standard protocol's groups come first."""

    groups: tuple[Group, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    """Sentences about runs of one setting that are not averaged, since other code or versions made them."""

    @property
    def sections(self) -> tuple[str, ...]:
        """Their names, in the order of the groups."""
        return tuple(dict.fromkeys(group.section for group in self.groups))

    def in_section(self, section: str, most: int | None = None) -> list[Group]:
        """The groups of one section, or only the ``most`` best of them by their mean score."""
        groups = [group for group in self.groups if group.section == section]
        best = sorted(groups, key=lambda group: -group.mean_score)[:most]
        return [group for group in groups if group in best]


def collect(runs: Path) -> Collection:
    """Read every run folder under ``runs`` but hidden ones; an OSError if ``runs`` itself cannot be read."""
    finished: dict[str, Run] = {}
    problems = []
    for folder in sorted(path for path in runs.iterdir() if not path.name.startswith(".")):
        try:
            run, lacks = read_run(folder)
            key = json.dumps(run.record.identity, sort_keys=True)
            if twin := finished.get(key):
                same = "the same" if run.epochs.equals(twin.epochs) else "other"
                raise ValueError(f"has the settings and seed of {twin.folder.name}, and {same} numbers")
            finished[key] = run
            problems += [Problem(printable(folder.name), reason, left_out=False) for reason in lacks]
        except (ValueError, OSError, RecursionError) as error:
            problems.append(Problem(printable(folder.name), describe_error(error)))
    runs_found = list(finished.values())
    return Collection(tuple(_group(runs_found)), tuple(problems), tuple(_warnings(runs_found)))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as one mapping: ``{"a": {"b": 1}}`` → ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _group(runs: list[Run]) -> list[Group]:
    sections: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.record.seed):
        section = json.dumps([run.record.identity["data"], run.record.identity["protocol"]], sort_keys=True)
        sections.setdefault(section, {}).setdefault(_setting(run) + json.dumps(_made_by(run)), []).append(run)

    groups: list[Group] = []
    names = _section_names([next(iter(members.values()))[0] for members in sections.values()])
    for name, members in zip(names, sections.values(), strict=True):
        contents = sorted(members.values(), key=lambda group: _order(group[0]))
        titles = [group[0].record.title for group in contents]
        labels = _labels(titles, [_settings(group[0]) for group in contents], "model.")
        slugs = unique([slug(label) for label in labels], "-{}")
        made = [
            Group(label, file_name, name, _protocol(group[0]), tuple(group), group[0].record)
            for label, file_name, group in zip(labels, slugs, contents, strict=True)
        ]
        by_score = made[0].selection_metric in VALIDATION_NAMES
        groups += sorted(made, key=lambda group: -group.mean_score) if by_score else made
    known = [*PROTOCOLS.values()]
    return sorted(groups, key=lambda g: (known.index(g.protocol) if g.protocol in known else 9, g.section))


def _setting(run: Run) -> str:
    """All of a run's settings but the seed."""
    return json.dumps({k: v for k, v in run.record.identity.items() if k != "seed"}, sort_keys=True)


def _made_by(run: Run) -> dict[str, Any]:
    """What may differ between runs of one setting, which are then never averaged."""
    code, packages = run.record.code or {}, (run.record.provenance or {}).get("packages")
    known = {part: newest_equivalent(part, each) for part, each in sorted(code.items()) if isinstance(each, str)}
    made_by: dict[str, Any] = {f"{part}.code": checksum[:8] for part, checksum in known.items()}
    torch = packages.get("torch") if isinstance(packages, Mapping) else None
    return made_by | {"torch": torch, "model.parameters": run.record.parameters}


def _warnings(runs: list[Run]) -> list[str]:
    """A sentence for each setting whose runs other code or versions made."""
    by_setting: dict[str, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(_setting(run), []).append(run)
    sentences = []
    for alike in by_setting.values():
        made = [_made_by(run) for run in alike]
        differing = [key for key in made[0] | made[-1] if len({repr(each.get(key)) for each in made}) > 1]
        if differing:
            words = ", ".join(_WORDS.get(key, f"the code of the {key.partition('.')[0]}") for key in sorted(differing))
            sentences.append(
                f"{alike[0].record.title}: its {len(alike)} runs of one setting differ in {words}, so they are in rows "
                "of their own; to have one, repeat the command that trained them"
            )
    return sentences


def _section_names(firsts: list[Run]) -> list[str]:
    """The names of sections, given the first run of each."""
    names = [f"{run.record.identity['data']['name']}, {_protocol(run)} protocol" for run in firsts]
    names = _labels(names, [flatten(run.record.identity["data"]) for run in firsts], "")
    for place, run in enumerate(firsts):
        size = run.record.identity["data"].get("validation_size")
        if size and "validation_size=" not in names[place]:  # shown even where all sections share it
            names[place] = printable(f"{names[place]}, validation_size={size}")
    return names


def _protocol(run: Run) -> str:
    values = tuple(run.record.identity["protocol"][key] for key in PROTOCOL_KEYS)
    return PROTOCOLS.get(values, printable(", ".join(values)))


def _order(run: Run) -> tuple[Any, ...]:
    """The three models in the published order and then any others; within a model, by its settings."""
    known, name = [*published.MODELS], run.record.identity["model"]["target"].rpartition(".")[2]
    settings = {key.strip(): value for key, value in _settings(run).items()}
    values = [(k, 0, v, "") if isinstance(v, int | float) else (k, 1, 0, str(v)) for k, v in settings.items()]
    return known.index(name) if name in known else len(known), run.record.title, sorted(values)


def _settings(run: Run) -> dict[str, Any]:
    """What may distinguish a run's group from another; the section, the seed and the title say the rest."""
    # An identity leaves out what equals a class's own default; the config may still have it. Such keys end
    # in a space: they are shown where the identities of others differ, but make no difference themselves.
    from_config = {f"{key} ": value for key, value in flatten(run.record.config).items()}
    identity = {k: v for k, v in run.record.identity.items() if k not in ("data", "protocol", "seed")}
    return from_config | flatten(identity) | _made_by(run)


def _labels(titles: list[str], settings: list[dict[str, Any]], own: str) -> list[str]:
    """Each title with the settings that differ; keys that start with ``own`` count only among equal titles."""
    keys = sorted({key for s in settings for key in s if not key.endswith(" ")})
    full = [{key: s.get(key, s.get(f"{key} ")) for key in keys} for s in settings]
    # Identities of version 2 leave out arguments that have their default, and no run of it has them all.
    versions = {s.get("version") for s in settings}
    per_version = [[s for s in full if s.get("version") == version] for version in versions]
    keys = [key for key in keys if len(versions) == 1 or all(any(s[key] is not None for s in ss) for ss in per_version)]
    labels = []
    for mine, title in zip(full, titles, strict=True):
        same = [other for other, name in zip(full, titles, strict=True) if name == title]
        among = {key: same if key.startswith(own) else full for key in keys}
        telling = [key for key in keys if len({repr(other[key]) for other in among[key]}) > 1]
        telling = [key for key in telling if not _implied(key, full) and not _made_by_settings(key, full)]
        short = Counter(map(_short, telling))
        names = {key: _short(key) if short[_short(key)] == 1 else key for key in telling}
        words = [f"{names[key]}={_value(key, mine[key])}" for key in telling if mine[key] is not None]
        labels.append(printable(", ".join([title, *words])))
    return unique(labels, " ({})")


def _implied(key: str, settings: list[dict[str, Any]]) -> bool:
    """Whether a setting is a detail of the optimizer or the schedule that its class, epochs and rate decide here."""
    group = key.partition(".")[0]
    if group not in ("optimizer", "scheduler") or key in ALWAYS_SHOWN:
        return False
    values: dict[str, set[str]] = {}
    for each in settings:
        deciding = repr([each.get(name) for name in (f"{group}.target", "epochs", "optimizer.lr")])
        values.setdefault(deciding, set()).add(repr(each[key]))
    return all(len(found) == 1 for found in values.values())


def _made_by_settings(key: str, settings: list[dict[str, Any]]) -> bool:
    """Whether code, version or size (`_made_by`) differ only along with settings, which then are enough to show."""
    made_by = [each for each in settings[0] if each in _WORDS or each.endswith(".code")]
    if key not in made_by:
        return False
    found: dict[str, set[str]] = {}
    for each in settings:
        rest = repr([value for name, value in each.items() if name not in made_by])
        found.setdefault(rest, set()).add(repr(each[key]))
    return all(len(values) == 1 for values in found.values())


def _short(key: str) -> str:
    """A setting's name as short as it can be: ``optimizer.lr`` → ``lr``, but ``optimizer.target`` → ``optimizer``."""
    group, _, name = key.partition(".")
    return group if name in ("target", "type") else name or group


def _value(key: str, value: Any) -> str:
    if key.endswith("_sha256"):
        return str(value)[:8]
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return str(value).rpartition(".")[2] if key.endswith("target") else str(value)
