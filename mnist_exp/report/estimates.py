"""Every group's and every pair's estimates, from the metrics of their runs and from what these get wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.misclassified import Misclassified, same_images
from mnist_exp.report.statistics import FRACTION, LOSS, Comparison, Estimate, Measured, compare

BOUNDS = {"validation_accuracy": FRACTION, "test_accuracy": FRACTION, "test_loss": LOSS}
"""The metrics that are estimated, with their bounds."""


@dataclass(frozen=True)
class Estimates:
    """All that the report says of means and of differences."""

    means: dict[Group, dict[str, Estimate]]
    """Group → metric → estimate."""
    comparisons: dict[str, list[Comparison]]
    """Of every pair of groups of a section, by their score."""


def make_estimates(collection: Collection, misclassified: Sequence[Misclassified]) -> Estimates:
    """Analyse each section's runs together."""
    means: dict[Group, dict[str, Estimate]] = {}
    comparisons = {}
    for section in collection.sections:
        groups = collection.in_section(section)
        mine = [m for m in misclassified if m.group.section == section]
        measured = {metric: _measure(metric, groups, mine) for metric in BOUNDS}
        for group in groups:
            means[group] = {metric: each.mean(group.label) for metric, each in measured.items()}
        comparisons[section] = compare(measured[groups[0].selection_metric], measured["test_loss"])
    return Estimates(means, comparisons)


def _measure(metric: str, groups: Sequence[Group], misclassified: Sequence[Misclassified]) -> Measured:
    """A section's metric; what its runs get wrong is left out where a group has other images than the first."""
    by_image = {}
    for m in misclassified:
        values = {"test_accuracy": -m.errors, "test_loss": m.losses}.get(metric)
        if values is not None and len(m.labels) > 1 and same_images(m.labels, misclassified[0].labels):
            by_image[m.group.label] = dict(zip(m.answers, values, strict=True))
    return Measured({group.label: group.final_values(metric) for group in groups}, by_image, BOUNDS[metric])
