"""What the report estimates: each group's means, the difference of each pair of groups, and each group's cost."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.image_errors import GroupErrors
from mnist_exp.report.statistics import ANY, FRACTION, LOSS, Comparison, Estimate, Measured, compare
from mnist_exp.report.table import Row
from mnist_exp.runs.read import TIMES
from mnist_exp.text import printable

BOUNDS = {"validation_accuracy": FRACTION, "test_accuracy": FRACTION, "test_loss": LOSS}
"""The metrics that are estimated, with their bounds."""


@dataclass(frozen=True)
class Estimates:
    """All that the report says of means, of differences and of costs."""

    means: dict[Group, dict[str, Estimate]]
    """Group → metric → estimate."""
    comparisons: dict[str, list[Comparison]]
    """Section → all pairs of its groups, compared by their selection metric."""
    costs: dict[Group, Row]
    """Each group's size, its times in seconds, and what they were measured on."""


def make_estimates(collection: Collection, errors: Sequence[GroupErrors]) -> Estimates:
    """Analyse each section's runs together."""
    means, comparisons = {}, {}
    for section in collection.sections:
        groups = collection.in_section(section)
        mine = [each for each in errors if each.group.section == section]
        own = [metric for group in collection.groups for metric in group.own_metrics]
        measured = {metric: _measure(metric, groups, mine) for metric in (*BOUNDS, *own)}
        for group in groups:
            means[group] = {metric: each.mean(group.label) for metric, each in measured.items()}
        comparisons[section] = compare(measured[groups[0].selection_metric], measured["test_loss"])
    return Estimates(means, comparisons, {group: _cost(group) for group in collection.groups})


def _measure(metric: str, groups: Sequence[Group], errors: Sequence[GroupErrors]) -> Measured:
    """A section's metric; values by image only of the groups that were evaluated on the same images as the first."""
    by_image = {}
    for each in errors:
        values = {"test_accuracy": -each.errors, "test_loss": each.losses}.get(metric)
        if values is not None and each.images > 1 and each.same_images(errors[0]):
            by_image[each.group.label] = dict(zip(each.predictions, values, strict=True))
    known = {group.label: metric in BOUNDS or metric in group.own_metrics for group in groups}
    of_seeds = {group.label: group.final_values(metric) if known[group.label] else {} for group in groups}
    return Measured(of_seeds, by_image, BOUNDS.get(metric, ANY))


def _cost(group: Group) -> Row:
    """Times are medians over the runs, with the lowest and the highest, of each run's median epoch; NaN is unknown."""
    row: Row = {"section": group.section, "model": group.label, "parameters": group.record.parameters}
    row["multiply_accumulates"] = group.record.multiply_accumulates or math.nan
    medians = [run.timing[[*TIMES]].median() for run in group.runs if run.timing is not None]
    row |= _spread("epoch_seconds", [float(m["train_seconds"] + m["eval_seconds"]) for m in medians])
    row |= _spread("images_per_second", [float(m["train_images_per_second"]) for m in medians])
    return row | {"timed_runs": len(medians), "machine": _machines(group)}


def _spread(name: str, values: list[float]) -> Row:
    found = pd.Series(values, dtype=float)
    return {name: found.median(), f"{name}_low": found.min(), f"{name}_high": found.max()}


def _machines(group: Group) -> str:
    found = set()
    for run in group.runs:
        if provenance := run.record.provenance:
            device, threads = provenance.get("device"), provenance.get("threads")
            chip = provenance.get("cpu") if device == "cpu" else device
            found.add(printable(f"{chip}, {threads} thread{'' if threads == 1 else 's'}"))
    return "; ".join(sorted(found)) or "not recorded"
