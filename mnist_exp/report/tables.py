"""The tables: their rows, and the files made of them: CSV, Markdown and LaTeX.

How rows are written into cells is in `mnist_exp.report.columns`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mnist_exp.report import published
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.columns import LAYOUTS, Column, Row
from mnist_exp.report.crossed import Crossed, multiply
from mnist_exp.report.estimates import Estimates
from mnist_exp.report.misclassified import Misclassified
from mnist_exp.report.runs import DIGITS
from mnist_exp.report.statistics import (
    FRACTION,
    PER,
    Comparison,
    Estimate,
    estimate,
    in_prediction_interval,
    sentence,
    summarise,
    z_score,
)
from mnist_exp.report.text import printable

FINAL = {"test_loss": "test loss", "test_accuracy": "test accuracy"}
FORENSIC_ORDER = ("published", "swapped splits only", "evaluation mode after epoch 1 only", "standard")
PAIRS_IN_WORDS = 66
"""More pairs than those of 12 groups are not all put into words."""
NOT_CHOSEN = ("version", "device", "data", "protocol", "seed")
"""Of an identity, what is not chosen for the sake of accuracy."""
MAX_CONFUSED = 5
"""Pairs of classes listed for each model."""
ESCAPES = str.maketrans({"\\": r"\\", "|": r"\|", "<": "&lt;"})
"""What would end a cell or begin a tag in Markdown."""

Rows = list[Row]


@dataclass(frozen=True)
class Table:
    """One table: its numbers as data, and its cells as a person reads them."""

    name: str
    title: str
    note: str
    """What a reader must know to read it rightly."""
    data: pd.DataFrame
    cells: pd.DataFrame


def write(tables: Sequence[Table], folder: Path) -> list[str]:
    """Write each table as CSV (numbers in full), Markdown and LaTeX (booktabs); return the files' names."""
    files = {
        f"{table.name}.{kind}": text
        for table in tables
        for kind, text in (("csv", csv(table.data)), ("md", markdown(table.cells)), ("tex", latex(table)))
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return list(files)


def comparison(collection: Collection, estimates: Estimates) -> Table:
    """The comparison table: a row for each group of runs."""
    rows = []
    by_test = _chosen_by_test_digits(collection)
    for group in collection.groups:
        row: Row = {"model": group.label, "section": group.section, "protocol": group.protocol, "n": len(group.runs)}
        row |= {"parameters": group.record.parameters}
        row |= _both_intervals("test_loss", estimates.of(group, "test_loss"))
        row |= _both_intervals("test_accuracy", estimates.of(group, "test_accuracy"))
        if any(other.selection_metric == "validation_accuracy" for other in collection.groups):
            row |= _over_seeds("validation_accuracy", group.final_values("validation_accuracy"))
        rows.append(row | ({"chosen_by": "test digits" if group in by_test else None} if by_test else {}))
    return _table("comparison", rows)


def verdict(collection: Collection) -> Table | None:
    """Is what was published reproduced? None where no run repeats it."""
    rows = []
    for group, model in _counterparts(collection, ("standard", "published")):
        for metric, name in FINAL.items():
            s = summarise(group.final_values(metric), fraction=metric == "test_accuracy")
            value = published.table()[model][metric]
            answer = {True: "reproduced", False: "not reproduced", None: "not enough seeds"}[
                in_prediction_interval(s, value)
            ]
            row: Row = {"protocol": group.protocol, "model": group.label, "metric": name}
            row |= {"mean": s.mean, "std": s.std}
            row |= {"n": s.n, "interval_low": s.run_low, "interval_high": s.run_high}
            rows.append(row | {"published": value, "verdict": answer})
    return _table("verdict", rows) if rows else None


def forensics(collection: Collection) -> Table | None:
    """How far the published values lie from each combination of the two slips; None without the half-ways."""
    rows: Rows = []
    for group, model in _counterparts(collection, FORENSIC_ORDER):
        row: Row = {"protocol": group.protocol, "model": group.label, "n": len(group.runs)}
        row["splits_swapped"] = "yes" if group.protocol in FORENSIC_ORDER[:2] else "no"
        row["evaluation_mode"] = "yes" if group.protocol in FORENSIC_ORDER[:3:2] else "no"
        for metric in FINAL:
            s, value = summarise(group.final_values(metric)), published.table()[model][metric]
            row |= {metric: s.mean, f"{metric}_std": s.std, f"{metric}_published": value}
            row[f"{metric}_deviations"] = z_score(s, value)
        rows.append(row)
    half_way = set(FORENSIC_ORDER[1:3]) & {row["protocol"] for row in rows}
    return _table("forensics", rows) if half_way else None


def differences(collection: Collection, estimates: Estimates) -> Table | None:
    """Every pair of groups within a section, compared by their score; None where there is no pair."""
    rows = []
    scores = {group.selection_metric for group in collection.groups}
    for section in collection.sections:
        pairs = estimates.comparisons[section]
        (best,) = collection.in_section(section, most=1)
        for c in pairs:
            in_words = len(pairs) <= PAIRS_IN_WORDS or best.label in (c.first, c.second)
            row = {"section": section} | _comparison_row(c) | {"words": sentence(c) if in_words else ""}
            rows.append(row | ({} if scores == {"test_accuracy"} else {"score": best.selection_metric}))
    return _table("differences", rows, [row for row in rows if row["words"]]) if rows else None


def _comparison_row(c: Comparison) -> Row:
    """The numbers of a comparison; the first's errors less the second's are negative where it is more accurate."""
    row: Row = {"first": c.first, "second": c.second, "n": c.difference.n}
    row |= _both_intervals("difference", c.difference)
    row |= {"errors_per_10000": -PER * c.difference.mean, "p_holm": c.p_value, "probability_of_winning": c.wins}
    return row | (_both_intervals("loss_difference", c.loss) if c.loss else {})


def classes(misclassified: Sequence[Misclassified]) -> list[Table]:
    """The accuracy of each class: a table for all groups whose classes have the same names."""
    rows = []
    for m in misclassified:
        row: Row = {"section": m.group.section, "model": m.group.label}
        for label in range(10):
            row |= _both_intervals(f"class_{label}", _share_of_class(m, label))
        rows.append(row)
    whole, names = _table("classes", rows), [m.group.classes for m in misclassified]
    parts: list[Table] = []
    for own in dict.fromkeys(names):
        here = [other == own for other in names]
        heads = dict(zip(DIGITS, own, strict=True))
        heads |= {key: f"class_{heads[key[6]]}{key[7:]}" for key in whole.data.columns if key.startswith("class_")}
        file, title = whole.name, whole.title
        if len({*names}) > 1:
            of = [m.group.record.identity["data"]["name"] for m in misclassified if m.group.classes == own]
            file += f"-{len(parts) + 1}" if parts else ""
            title += f" ({printable(', '.join(dict.fromkeys(of)))})"
        data, cells = (frame[here].rename(columns=heads) for frame in (whole.data, whole.cells))
        parts.append(Table(file, title, whole.note, data, cells))
    return parts


def _share_of_class(m: Misclassified, label: int, answer: int | None = None) -> Estimate:
    """The share of a class's images that get this wrong answer, or the right one."""
    images = int(m.answers[0].counts[label])
    chosen = [(a.label == label) & (a.predicted == answer if answer is not None else True) for a in m.answers]
    values = [float(mine.sum()) / images if images else math.nan for mine in chosen]
    marks = m.marks([a.index[mine] for a, mine in zip(m.answers, chosen, strict=True)])
    crossed = Crossed(*multiply(marks[:, marks.any(axis=0)]), images) if images > 1 else None
    return estimate([1 - value if answer is None else value for value in values], crossed, FRACTION)


def confused(misclassified: Sequence[Misclassified]) -> Table:
    """The pairs of classes that each group confuses most often."""
    rows = []
    for m in misclassified:
        wrong = m.confusion * (1 - np.eye(10))
        for place in np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]:
            label, answer = divmod(int(place), 10)
            if wrong[label, answer]:
                row: Row = {"section": m.group.section, "model": m.group.label}
                row |= {"label": m.group.classes[label], "predicted": m.group.classes[answer]}
                share, images = _share_of_class(m, label, answer), float(m.confusion[label].sum())
                row |= _both_intervals("digits", share.times(images))
                rows.append(row | {"share": share.mean})
    return _table("confused", rows)


def calibration(misclassified: Sequence[Misclassified]) -> Table | None:
    """The expected calibration error of each group; None where no run has its predictions.npz."""
    misclassified = [m for m in misclassified if len(m.bins)]
    rows = [{"section": m.group.section, "model": m.group.label, "n": len(m.bins)} for m in misclassified]
    errors = [_over_seeds("ece", m.calibration_errors) for m in misclassified]
    return _table("calibration", [row | error for row, error in zip(rows, errors, strict=True)]) if rows else None


def cost(measured: Rows) -> Table:
    """What each group costs, from `mnist_exp.report.cost.measure`."""
    return _table("cost", measured)


def csv(data: pd.DataFrame) -> str:
    """Data as CSV text: numbers in full, the same on every system."""
    return data.to_csv(index=False, lineterminator="\n")


def markdown(cells: pd.DataFrame) -> str:
    """A GitHub-flavoured Markdown table; numbers to the right."""
    lines = [list(cells.columns), ["---:" if right else "---" for right in numeric(cells)], *cells.to_numpy()]
    escaped = [[cell.translate(ESCAPES) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def latex(table: Table) -> str:
    """A LaTeX table with booktabs' rules."""
    columns = "".join("r" if right else "l" for right in numeric(table.cells))
    caption = f"{table.title}. {table.note}".replace("%", r"\%")
    text = table.cells.to_latex(index=False, escape=True, column_format=columns, caption=caption)
    return f"% \\usepackage{{booktabs}}\n{text}"


def numeric(cells: pd.DataFrame) -> list[bool]:
    """Which columns hold numbers."""
    return [all(cell[:1].isdigit() or cell[:1] in "+-–" for cell in cells[name]) for name in cells.columns]


def _table(name: str, rows: Rows, shown: Rows | None = None) -> Table:
    """A table of these rows, or with the cells of only those ``shown``."""
    shown, layout = rows if shown is None else shown, LAYOUTS[name]
    present = {key for key in layout.notes_on if any(key in row for row in shown)}
    columns = [column for column in layout.columns if _is_needed(column, shown, present, layout.notes_on)]
    note = " ".join([layout.note, *(text for key, text in layout.notes_on.items() if key in present)])
    cells = pd.DataFrame(
        [[column.cell(row) for column in columns] for row in shown],
        columns=[column.head for column in columns],
        dtype=object,
    )
    return Table(name, layout.title, note, pd.DataFrame(rows), cells)


def _is_needed(column: Column, shown: Rows, present: set[str], optional: Mapping[str, str]) -> bool:
    """Whether some row has the column's key; a section that all rows share needs no column."""
    if column.key == "section":
        return len({row.get("section") for row in shown}) > 1
    return column.key in present or column.key not in optional


def _chosen_by_test_digits(collection: Collection) -> list[Group]:
    """The groups beside which there are other settings of their model, not all of them validated anywhere."""
    choices = {group: _choice(group) for group in collection.groups}
    validated = {choice for group, choice in choices.items() if group.selection_metric == "validation_accuracy"}
    rivals: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for group, choice in choices.items():
        rivals.setdefault((group.section, choice[0]), set()).add(choice)
    here = {group: rivals[group.section, choice[0]] for group, choice in choices.items()}
    return [group for group in here if len(here[group]) > 1 and not here[group] <= validated]


def _choice(group: Group) -> tuple[str, str]:
    """What a choice of settings is made for (a model, its data and protocol), and the settings."""
    known = group.record.identity
    given = [known["model"]["target"], known["data"] | {"validation_size": 0}, known["protocol"]]
    settings = {key: value for key, value in known.items() if key not in NOT_CHOSEN}
    return json.dumps(given, sort_keys=True), json.dumps(settings, sort_keys=True)


def _counterparts(collection: Collection, protocols: Sequence[str]) -> list[tuple[Group, str]]:
    """The groups that repeat a published model, by protocol, each with that model's name."""
    pairs = [(g, name) for g in collection.groups if (name := published.published_model(g.record.identity))]
    return [pair for protocol in protocols for pair in pairs if pair[0].protocol == protocol]


def _over_seeds(name: str, values: Sequence[float]) -> dict[str, float | None]:
    s = summarise(values, fraction=True)
    return {name: s.mean, f"{name}_std": s.std, f"{name}_low": s.mean_low, f"{name}_high": s.mean_high}


def _both_intervals(name: str, e: Estimate) -> Row:
    row: Row = {name: e.mean, f"{name}_std": e.std, f"{name}_low": e.low, f"{name}_high": e.high}
    row |= {f"{name}_interval_for": e.basis, f"{name}_seeds_low": e.seeds_low, f"{name}_seeds_high": e.seeds_high}
    return row | {f"{name}_variance_seeds": e.seeds_variance, f"{name}_variance_images": e.images_variance}
