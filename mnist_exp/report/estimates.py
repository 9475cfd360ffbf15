"""Every group's and every pair's estimates, from the metrics of their runs and from what these get wrong."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.crossed import Products, multiply
from mnist_exp.report.misclassified import Misclassified, same_images
from mnist_exp.report.statistics import (
    FRACTION,
    LOSS,
    Comparison,
    Estimate,
    Values,
    compare,
    difference_of_losses,
    estimate,
)

EVALUATED = {"test_accuracy": FRACTION, "test_loss": LOSS}
"""The metrics of the images that a run's answers are about, with their bounds."""


@dataclass(frozen=True)
class Estimates:
    """All that the report says of means and of differences."""

    by_group: dict[Group, dict[str, Estimate]]
    comparisons: dict[str, list[Comparison]]
    """Of every pair of groups of a section, by their score."""

    def of(self, group: Group, metric: str) -> Estimate:
        """The mean of a group's metric."""
        return self.by_group[group][metric]


def make_estimates(collection: Collection, misclassified: Sequence[Misclassified]) -> Estimates:
    """Analyse each section's runs together."""
    by_group: dict[Group, dict[str, Estimate]] = {}
    comparisons = {}
    for section in collection.sections:
        groups = collection.in_section(section)
        products = _products([m for m in misclassified if m.group.section == section])
        for group in groups:
            seeds = [run.record.seed for run in group.runs]
            by_group[group] = {
                "validation_accuracy": estimate(group.final_values("validation_accuracy"), None, FRACTION)
            }
            for metric, bounds in EVALUATED.items():
                known = products.get(metric)
                crossed = known.of(group.label, seeds) if known else None
                by_group[group][metric] = estimate(group.final_values(metric), crossed, bounds)
        score = groups[0].selection_metric
        losses = _values(groups, "test_loss")
        comparisons[section] = [
            dataclasses.replace(c, loss=difference_of_losses(losses, products.get("test_loss"), c.first, c.second))
            for c in compare(_values(groups, score), products.get(score))
        ]
    return Estimates(by_group, comparisons)


def _values(groups: Sequence[Group], metric: str) -> Values:
    return {
        group.label: dict(zip((run.record.seed for run in group.runs), group.final_values(metric), strict=True))
        for group in groups
    }


def _products(misclassified: Sequence[Misclassified]) -> dict[str, Products]:
    """Metric → the products of the values of the section's images; groups with other images are left out."""
    alike = [m for m in misclassified if same_images(m.label, misclassified[0].label)]
    found = {}
    for metric in EVALUATED:
        values = [(m, m.errors if metric == "test_accuracy" else m.losses) for m in alike]
        known = [(m, rows) for m, rows in values if rows is not None]
        if known:
            names = [(m.group.label, run.record.seed) for m, _ in known for run in m.runs]
            sums, products = multiply(np.concatenate([rows for _, rows in known]))
            places = {name: row for row, name in enumerate(names)}
            found[metric] = Products(places, sums, products, len(alike[0].label))
    return found
