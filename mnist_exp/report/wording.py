"""Comparisons in sentences that a student understands."""

import math

from mnist_exp.report.statistics import IMAGES, SEEDS, Comparison, Estimate

CAVEATS = {
    IMAGES: ("new images for these two trained networks", "it says nothing about other seeds"),
    SEEDS: ("new seeds on these very images", "it says nothing about other images"),
}
"""What an interval is for, and what it leaves open."""
TWO_SEEDS = "two seeds say little about others"
PER = 10_000
"""Images that errors are counted in."""


def sentence(c: Comparison) -> str:
    """A comparison of accuracies in a sentence that a student understands."""
    d = c.difference
    if math.isnan(c.p_value):
        few = "they share no seed" if not d.n else f"{_seeds(d.n)}, and no file says which images they get wrong"
        return f"{c.first} and {c.second}: nothing can be said ({few})."
    if d.mean < 0:
        return sentence(c.reversed())
    test = "McNemar's test, " if d.basis == IMAGES else ""
    p = f"p = {c.p_value:.2g}" if c.p_value >= 0.001 else "p < 0.001"
    words = f"{c.first} is more accurate than {c.second}: "
    if not c.significant:
        words = f"{c.first} and {c.second} cannot be told apart: {c.first} makes "
        p += " after Holm's correction" if d.low > 0 else ""  # else the interval would seem to contradict it
    words += f"{_span(d)}; {_seeds(d.n)}, {test}{p}."
    if d.basis in CAVEATS:
        words += " That is about {}; {}.".format(*CAVEATS[d.basis])
    elif d.n == 2:
        words += f" {TWO_SEEDS.capitalize()}."
    if math.isnan(c.wins):
        return words
    return f"{words} A new run of {c.first} beats a new run of {c.second} with a probability of {_percent(c.wins)}."


def winner_sentence(means: dict[str, float], comparisons: list[Comparison]) -> str:
    """Which group is the most accurate, and by how much, in a sentence.

    ``means`` is label → mean accuracy, ``comparisons`` are of all pairs of the labels.
    """
    first, *others = sorted(means, key=lambda label: -means[label])
    of = f"{first} ({100 * means[first]:.2f} %)"
    if not others:
        return f"{of} is the only one here."
    against = {c.second: c for c in [*comparisons, *(c.reversed() for c in comparisons)] if c.first == first}
    second = against[others[0]].difference
    better = [label for label in others if against[label].significant and against[label].difference.mean < 0]
    if better:  # each mean is over all seeds of a group, a difference over those that both have
        return f"{of} has the highest mean, but on the seeds that both have, {better[0]} is more accurate."
    if means[first] == means[others[0]]:
        return f"{of} and {others[0]} are equally accurate."
    if math.isnan(second.low):
        return f"{of} comes first, but nothing says whether that is more than chance."
    span = f"{_span(second)} than {others[0]}"
    only = f"; {CAVEATS[second.basis][1]}" if second.basis in CAVEATS else f"; {TWO_SEEDS}" if second.n == 2 else ""
    alike = [label for label in others if not against[label].significant]
    if not alike:
        return f"{of} wins, with {span}{only}."
    named = alike[0] if len(alike) == 1 else f"{alike[0]} and {len(alike) - 1} more"
    return f"{of} comes first, with {span}, but cannot be told apart from {named}{only}."


def _span(d: Estimate) -> str:
    """The interval of a difference of accuracies, in errors."""
    low, high = PER * d.low, PER * d.high
    if high < 0:
        return f"{-high:.1f} to {-low:.1f} more errors per {PER:,} images"
    least = f"{low:.1f}" if low >= 0 else f"{-low:.1f} more"
    return f"{least} to {high:.1f} fewer errors per {PER:,} images"


def _seeds(n: int) -> str:
    return f"n = {n} seed{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return "more than 99 %" if share > 0.99 else "less than 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
