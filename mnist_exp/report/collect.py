"""From run folders to groups of runs that differ in nothing but their seed, each with a label."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.errors import RunFolderError
from mnist_exp.machine.fingerprint import canonical_checksum
from mnist_exp.report import published
from mnist_exp.report.labels import MADE_BY, make_labels
from mnist_exp.runs.read import METRIC_NAMES, VALIDATION_NAMES, Run, read_finished_run
from mnist_exp.runs.record import Record, selection_metric
from mnist_exp.settings.identity import flatten, with_neutral
from mnist_exp.settings.schema import PROTOCOLS
from mnist_exp.text import printable, slug, unique


@dataclass(frozen=True)
class Problem:
    """Something wrong with a folder, and whether the folder is left out of the report for it."""

    folder: str
    reason: str
    left_out: bool = True


@dataclass(frozen=True, eq=False)
class Group:
    """Runs that differ in nothing but their seed, sorted by it."""

    label: str
    """The model, and whatever else differs between the groups of its section."""
    slug: str
    """The label, for file names; unique within a section."""
    section: str
    """Runs of different data or protocols are in different sections, and never compared."""
    settings: Mapping[str, Any]
    """What may tell it from other groups of its section, by dotted path; all of them have the same keys."""
    runs: tuple[Run, ...]

    @property
    def record(self) -> Record:
        """The first run's; but for the seed, it stands for all."""
        return self.runs[0].record

    @property
    def protocol(self) -> str:
        """The protocol's name."""
        return self.runs[0].record.protocol

    @property
    def selection_metric(self) -> str:
        """The metric to rank the group by."""
        return selection_metric(self.runs[0].epochs.columns)

    @property
    def mean_score(self) -> float:
        """The mean of the last epoch's selection metric."""
        return sum(self.final_values(self.selection_metric).values()) / len(self.runs)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by label."""
        return tuple(map(printable, self.record.class_names))

    @property
    def own_metrics(self) -> list[str]:
        """The metrics that its settings name, beside those that every run has; only those that all of its runs have."""
        known = (*METRIC_NAMES, *VALIDATION_NAMES)
        names = [name for name in map(str, self.runs[0].epochs) if name.startswith(("test_", "validation_"))]
        return [name for name in names if name not in known and all(name in run.epochs for run in self.runs)]

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

    @property
    def remarks(self) -> list[str]:
        """The problems and the warnings, a line each, for the terminal."""
        problems = [f"{'left out' if p.left_out else 'in part'}: {p.folder}: {p.reason}" for p in self.problems]
        return problems + [f"warning: {warning}" for warning in self.warnings]

    @property
    def folders(self) -> dict[str, str]:
        """Section → the folder of its figures, unique."""
        return dict(zip(self.sections, unique([slug(section) for section in self.sections], "-{}"), strict=True))

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
            run = read_finished_run(folder)
            key = json.dumps(run.record.identity, sort_keys=True)
            if twin := finished.get(key):
                same = "the same" if run.epochs.equals(twin.epochs) else "other"
                raise RunFolderError(f"it has the settings and seed of {twin.folder.name}, and {same} numbers")
            finished[key] = run
            problems += [Problem(printable(folder.name), printable(each), left_out=False) for each in run.problems]
        except RunFolderError as error:
            problems.append(Problem(printable(folder.name), printable(str(error))))
    runs_found = list(finished.values())
    return Collection(tuple(_group(runs_found)), tuple(problems), tuple(_warnings(runs_found)))


def _group(runs: list[Run]) -> list[Group]:
    """The runs by section, setting and what made them."""
    sections: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.record.seed):
        section = json.dumps([run.record.identity["data"], run.record.identity["protocol"]], sort_keys=True)
        sections.setdefault(section, {}).setdefault(_setting(run) + json.dumps(_made_by(run)), []).append(run)

    names = _section_names([next(iter(members.values()))[0] for members in sections.values()])
    parts = zip(names, sections.values(), strict=True)
    groups = [group for name, members in parts for group in _name_groups(name, [*members.values()])]
    known = [*PROTOCOLS.values()]
    return sorted(groups, key=lambda g: (known.index(g.protocol) if g.protocol in known else len(known), g.section))


def _name_groups(section: str, members: list[list[Run]]) -> list[Group]:
    """The groups of a section in order, given the runs of each."""
    settings = _complete_settings([runs[0] for runs in members])
    places = sorted(range(len(members)), key=lambda place: _order(members[place][0], settings[place]))
    # Of printable characters, and without what hides a label from matplotlib.
    titles = [printable(members[place][0].record.title).lstrip("_") or "untitled" for place in places]
    labels = make_labels(titles, [settings[place] for place in places], "model.")
    names = zip(labels, unique([slug(label) for label in labels], "-{}"), places, strict=True)
    groups = [Group(label, name, section, settings[at], tuple(members[at])) for label, name, at in names]
    if groups[0].selection_metric in VALIDATION_NAMES:
        groups.sort(key=lambda group: -group.mean_score)
    return groups


def _setting(run: Run) -> str:
    """All of a run's settings but the seed."""
    return json.dumps({k: v for k, v in run.record.identity.items() if k != "seed"}, sort_keys=True)


def _made_by(run: Run) -> dict[str, Any]:
    """What may differ between runs of one setting, which are then never averaged: `MADE_BY`."""
    code, provenance = run.record.code or {}, run.record.provenance or {}
    packages = provenance.get("packages")
    known = {part: canonical_checksum(part, each) for part, each in sorted(code.items()) if isinstance(each, str)}
    made_by: dict[str, Any] = {f"{part}.code": checksum[:8] for part, checksum in known.items()}
    torch = packages.get("torch") if isinstance(packages, Mapping) else None
    portable = provenance.get("portable")
    return made_by | {"torch": torch, "model.parameters": run.record.parameters, "portable": portable}


def _warnings(runs: list[Run]) -> list[str]:
    """A sentence for each setting whose runs other code or versions made."""
    by_setting: dict[str, list[Run]] = {}
    for run in runs:
        by_setting.setdefault(_setting(run), []).append(run)
    sentences = []
    for alike in by_setting.values():
        made = [_made_by(run) for run in alike]
        differing = [key for key in MADE_BY if len({repr(each.get(key)) for each in made}) > 1]
        if differing:
            words = ", ".join(MADE_BY[key] for key in sorted(differing))
            sentences.append(
                f"{printable(alike[0].record.title)}: its {len(alike)} runs of one setting differ in {words}, so they "
                "are in separate rows; to merge them, repeat the command that trained them"
            )
    return sentences


def _section_names(firsts: list[Run]) -> list[str]:
    """The names of sections, given the first run of each."""
    data = [run.record.identity["data"] for run in firsts]
    given = [(run.record.config.get("data") or {}).get("title") for run in firsts]
    titles = [title or each["name"] for title, each in zip(given, data, strict=True)]
    names = [printable(f"{title}, {run.record.protocol} protocol") for title, run in zip(titles, firsts, strict=True)]
    names = make_labels(names, [flatten({k: v for k, v in each.items() if k != "classes"}) for each in data])
    for place, each in enumerate(data):
        size = each.get("validation_size")
        if size and "validation_size=" not in names[place]:  # shown even where all sections share it
            names[place] = printable(f"{names[place]}, validation_size={size}")
    return names


def _complete_settings(runs: list[Run]) -> list[dict[str, Any]]:
    """What may distinguish the runs of a section but their seed and title: for each run the same keys, sorted."""
    left_out = ("data", "protocol", "seed")
    given = [
        flatten({k: v for k, v in with_neutral(run.record.identity).items() if k not in left_out}) | _made_by(run)
        for run in runs
    ]
    keys = sorted({key for each in given for key in each})
    return [{key: each.get(key) for key in keys} for each in given]


def _order(run: Run, settings: dict[str, Any]) -> tuple[Any, ...]:
    """The three models in the published order and then any others; within a model, by its settings."""
    known, name = [*published.MODELS], run.record.identity["model"]["target"].rpartition(".")[2]
    # Comparable whatever their types: numbers first, by value; then texts; then None.
    values = [(0, v, "") if isinstance(v, int | float) else (1 + (v is None), 0, str(v)) for v in settings.values()]
    return known.index(name) if name in known else len(known), run.record.title, values
