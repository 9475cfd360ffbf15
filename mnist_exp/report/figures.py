"""The figures: what each shows, in lines, numbers and words. `mnist_exp.report.figure_files` writes them."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from mnist_exp.data.folders import DIGITS
from mnist_exp.report import published
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.estimates import Estimates
from mnist_exp.report.figure_files import MARKERS, PLAIN, Plot
from mnist_exp.report.image_errors import MAX_CLASSES, GroupErrors
from mnist_exp.report.predictions import BINS
from mnist_exp.report.search_figure import slices
from mnist_exp.report.statistics import FRACTION, Estimate, estimate
from mnist_exp.report.table import Row
from mnist_exp.runs.read import METRIC_NAMES, VALIDATION_NAMES
from mnist_exp.text import slug, unique

MAX_TOGETHER, MAX_ALONE = 8, 4
"""Groups in a section's figures, the most accurate ones; and groups that each have figures of their own."""
METRICS = (*METRIC_NAMES, *VALIDATION_NAMES)
MIN_PER_BIN = 5  # a bin of confidence with fewer images per run says nothing
MAX_CLASS_NAME, MAX_LABEL_LINE, MAX_INSIDE = 14, 44, 90
"""Characters that fit: of a class's name, of a line of an axis' label, and of all labels of a legend in a figure."""
LINE_INCHES = 0.18
UNITS = {"loss": "nats", "accuracy": "fraction"}
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 2, 2)))
POINT = {"ls": "none", "ms": 6}

Scores = dict[str, Estimate]
"""Label of a group → its mean score."""
Styles = dict[str, dict[str, Any]]
"""Label of a group → its colour, marker and line style, as matplotlib's arguments."""


def of_all(collection: Collection, estimates: Estimates, errors: Sequence[GroupErrors]) -> list[Plot]:
    """All figures of a report."""
    of_group = {section: [each for each in errors if each.group.section == section] for section in collection.sections}
    return [plot for key, mine in of_group.items() for plot in of_section(collection, estimates, key, mine)]


def of_section(collection: Collection, estimates: Estimates, section: str, errors: Sequence[GroupErrors]) -> list[Plot]:
    """All figures of a section; ``errors`` are its groups'."""
    groups = collection.in_section(section, most=MAX_TOGETHER)
    looks = zip(groups, sns.color_palette("colorblind"), MARKERS, DASHES, strict=False)
    styles: Styles = {group.label: {"color": color, "marker": m, "ls": dash} for group, color, m, dash in looks}
    few = groups if len(collection.in_section(section)) <= MAX_ALONE else []
    own = dict.fromkeys(metric for group in groups for metric in group.own_metrics)
    measured = {metric: [group for group in groups if group.final_values(metric)] for metric in METRICS}
    measured |= {metric: [group for group in groups if metric in group.own_metrics] for metric in own}
    scores = {group.label: estimates.means[group][group.selection_metric] for group in groups}
    plots = [
        overview(groups, scores, styles),
        *(curves(mine, metric, styles) for metric, mine in measured.items() if mine),
    ]
    plots += slices(section, collection.in_section(section))
    plots += [curves([g], metric, styles, alone=True) for metric, mine in measured.items() for g in mine if g in few]
    best = collection.in_section(section, most=MAX_ALONE)
    plots += [confusion(each) for each in errors if each.group in best]
    plots += reliability(section, [each for each in errors if each.group in groups and len(each.bins)], styles)
    plots.append(cost(groups, scores, estimates.costs, styles))
    names = unique([plot.name for plot in plots], "-{}")  # a group may be called "all"
    folder = collection.folders[section]
    return [replace(plot, name=f"{folder}/{name}") for plot, name in zip(plots, names, strict=True)]


def overview(groups: Sequence[Group], scores: Scores, styles: Styles) -> Plot:
    """The final score of every seed, with each group's mean and its interval."""
    score, section = groups[0].selection_metric, groups[0].section
    ends = [(group.label, seed, value) for group in groups for seed, value in group.final_values(score).items()]
    data = pd.DataFrame(ends, columns=["label", "seed", score])
    crosses = {g.label: published.table()[m]["test_accuracy"] for g in groups if (m := _published(g))}
    text = "Points are means with their 95 % interval, ticks are seeds"
    text += f"{'; crosses are the published values' if crosses else ''}. {_means(scores)}."
    draw = partial(_draw_overview, section, data, scores, crosses, styles)
    return Plot("overview", section, "overview", f"{_in_words(score)} after the last epoch", text, data, draw)


def _draw_overview(
    section: str, data: pd.DataFrame, scores: Scores, crosses: dict[str, float], styles: Styles
) -> Figure:
    names = [textwrap.fill(label, MAX_LABEL_LINE) for label in scores]
    lines = [line for name in names for line in name.split("\n")]
    width, height = 3.4 + 0.07 * max(map(len, lines)), 0.9 + 0.28 * len(names) + 0.14 * len(lines)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes, score = figure.subplots(), data.columns[-1]
    ticks: dict[str, Any] = {"marker": "|", "color": "0.55", "size": 6, "linewidth": 0.8, "jitter": False}
    sns.stripplot(data, x=score, y="label", order=[*scores], ax=axes, **ticks)
    for place, (label, e) in enumerate(scores.items()):
        axes.errorbar(e.mean, place - 0.22, xerr=_error_bar(e), **styles[label] | POINT)
        axes.plot(crosses.get(label, np.nan), place - 0.22, "x", color="black", ms=6, mew=1.2)
    axes.set(xlabel=f"{score.replace('_', ' ')} (fraction)", ylabel="", ylim=(len(names) - 0.6, -0.6))
    axes.set_title(section, wrap=True)
    axes.set_yticks(range(len(names)), names)
    return figure


def curves(groups: Sequence[Group], metric: str, styles: Styles, *, alone: bool = False) -> Plot:
    """A metric against the epoch: one group, with the published curve, or several over each other."""
    runs = [(group.label, run) for group in groups for run in group.runs if metric in run.epochs]
    data = pd.concat([run.epochs[["epoch", metric]].assign(label=label, seed=run.record.seed) for label, run in runs])
    means = (
        data.groupby(["label", "epoch"], sort=False)[metric].mean().groupby("label", sort=False).agg(["first", "last"])
    )
    ends = "; ".join(f"{label} from {first:.4f} to {last:.4f}" for label, first, last in means.itertuples())
    text = f"Lines are means over the seeds, bands ± 1 standard deviation. First to last epoch: {ends}."
    title, topic, prefix = f"{_in_words(metric)} of all models", "curves", "all"
    if alone:
        (group,) = groups
        title, topic, prefix = f"{group.label}: {_in_words(metric).lower()}", "alone", group.slug
        if model := _published(group):
            reference = published.curves().set_index("model").loc[model, ["epoch", metric]]
            data = pd.concat([data, reference.assign(label="published")])
            text += " The published curve is dashed."
    draw = partial(_draw_curves, f"{title} ({groups[0].protocol})", data, metric, styles, alone)
    return Plot(topic, groups[0].section, f"{prefix}-{slug(metric)}", title, text, data, draw)


def _draw_curves(title: str, data: pd.DataFrame, metric: str, styles: Styles, alone: bool) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    ours = data[data["seed"].notna()]
    for label, part in ours.groupby("label", sort=False):
        style = {"mew": 0, "err_kws": {"alpha": 0.2, "lw": 0}, "label": label, **styles[str(label)]}
        style |= {"ls": "-", "label": f"mean, n = {part['seed'].nunique()}"} if alone else {}
        sns.lineplot(part, x="epoch", y=metric, errorbar="sd", ax=axes, **style)
    if len(reference := data[data["seed"].isna()]):
        axes.plot(reference["epoch"], reference[metric], "--", color="0.25", label="published", zorder=3)
    later = ours[ours["epoch"] > 1].groupby(["label", "epoch"])[metric].mean()
    if not alone and len(later) >= 4 * ours["label"].nunique():
        # The first epoch may be outside the frame: it would compress all later ones.
        margin = 0.05 * np.ptp(later) or 0.01
        axes.set_ylim(later.min() - margin, later.max() + margin)
    unit = "".join(f" ({unit})" for ending, unit in UNITS.items() if metric.endswith(ending))
    axes.set(xlabel="epoch", ylabel=f"{_in_words(metric).lower()}{unit}", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _add_legend(figure, axes)
    return figure


def confusion(errors: GroupErrors) -> Plot:
    """A group's confusion matrix, mean over its runs; colour shows the errors alone."""
    group, size = errors.group, len(errors.counts)
    off_diagonal = errors.confusion * (1 - np.eye(size))
    text = f"Images by label and prediction, mean of {len(errors.predictions)} runs; colour shows the errors."
    if off_diagonal.any():
        label, predicted = divmod(int(off_diagonal.argmax()), size)
        text += f" Most frequent: {group.classes[label]} read as {group.classes[predicted]}, "
        text += f"{off_diagonal[label, predicted]:.1f} images per run."
    data = pd.DataFrame(errors.confusion, columns=[f"predicted_{name}" for name in group.classes])
    shown = np.sort(np.argsort(-(off_diagonal.sum(axis=0) + off_diagonal.sum(axis=1)), kind="stable")[:MAX_CLASSES])
    if len(shown) < size:
        text += f" Of {size} classes, the {len(shown)} with the most errors are shown; the CSV file has all."
    of_shown = errors.confusion[np.ix_(shown, shown)], errors.counts[shown], [group.classes[i] for i in shown]
    count = f", {len(shown)} of {size} classes" if len(shown) < size else ""
    draw = partial(_draw_confusion, f"{group.label} ({group.protocol}{count})", *of_shown)
    title, name = f"{group.label}: confusion matrix", f"{group.slug}-confusion"
    return Plot("errors", group.section, name, title, text, data.assign(label=group.classes), draw)


def _draw_confusion(title: str, matrix: Any, counts: Any, names: Sequence[str]) -> Figure:
    # Digits fit between the usual margins; names need margins of their own.
    larger = max(len(names) / 10, 1)
    figure = Figure(figsize=(4.8 * larger, 4.2 * larger), layout=None if names == DIGITS else "constrained")
    axes = figure.subplots()
    share = 100 * matrix * (1 - np.eye(len(names))) / np.maximum(counts[:, None], 1)
    cells = [[f"{x:.0f}" if x >= 10 or x == 0 else f"{x:.1f}" for x in row] for row in matrix]
    ticks = [name if len(name) <= MAX_CLASS_NAME else f"{name[: MAX_CLASS_NAME - 1]}…" for name in names]
    bar = {"label": "share of the label's images (%)", "shrink": 0.8}
    look = {"cmap": "Blues", "vmin": 0, "vmax": share.max() or 1, "square": True, "linewidths": 0.5, "cbar_kws": bar}
    sns.heatmap(share, annot=np.array(cells), fmt="", annot_kws={"size": 6.5}, xticklabels=ticks, yticklabels=ticks,
                ax=axes, **look)  # fmt: skip
    axes.set(xlabel="predicted class", ylabel="label", title=title)
    axes.tick_params(length=0, rotation=0)
    axes.tick_params("x", rotation=90 if max(map(len, ticks)) > 3 else 0)
    return figure


def reliability(section: str, errors: Sequence[GroupErrors], styles: Styles) -> list[Plot]:
    """Accuracy against confidence, over the runs of each group together; none where all bins have too few images."""
    rows = []
    for each in errors:
        images, confidence, right = each.bins.sum(axis=0)
        for i in np.flatnonzero(images >= MIN_PER_BIN * len(each.bins)):
            e = estimate([run[2, i] / run[0, i] for run in each.bins if run[0, i]], None, FRACTION)
            point = {"confidence": confidence[i] / images[i], "accuracy": right[i] / images[i]}
            point |= {"low": e.low, "high": e.high, "images_per_run": images[i] / len(each.bins)}
            rows.append({"label": each.group.label, "bin": i + 1} | point)
    if not rows:
        return []
    text = f"On the diagonal, confidence equals accuracy; bars are 95 % intervals over the seeds; {BINS} bins, "
    text += f"without those of fewer than {MIN_PER_BIN} images per run. Expected calibration error: "
    text += "; ".join(f"{each.group.label} {np.mean(each.calibration_errors):.4f}" for each in errors)
    draw = partial(_draw_reliability, section, data := pd.DataFrame(rows), styles)
    return [Plot("errors", section, "reliability", "Reliability diagram", f"{text}.", data, draw)]


def _draw_reliability(section: str, data: pd.DataFrame, styles: Styles) -> Figure:
    figure = Figure(figsize=(4.8, 4.2))
    axes, below = figure.subplots(2, height_ratios=(3, 1), sharex=True, gridspec_kw={"left": 0.18})
    axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
    for label, part in data.groupby("label", sort=False):
        bars = np.abs([part["accuracy"] - part["low"], part["high"] - part["accuracy"]])
        axes.errorbar("confidence", "accuracy", bars, data=part, elinewidth=0.8, label=label, **styles[str(label)])
        below.plot("confidence", "images_per_run", data=part, **styles[str(label)])
    axes.set(ylabel="accuracy (fraction)", ylim=(-0.02, 1.02), title=f"Reliability ({section})")
    below.set(xlabel="confidence (probability of the answer)", ylabel="images per run", yscale="log")
    below.yaxis.set(major_formatter=PLAIN, minor_formatter=NullFormatter())
    _add_legend(figure, axes)
    return figure


def cost(groups: Sequence[Group], scores: Scores, costs: dict[Group, Row], styles: Styles) -> Plot:
    """Accuracy against arithmetic and against time."""
    section, score = groups[0].section, groups[0].selection_metric
    data = pd.DataFrame([{score: group.mean_score} | costs[group] for group in groups])
    text = f"Bars are 95 % intervals of the mean. {_means(scores)}."
    draw = partial(_draw_cost, section, data, scores, styles)
    return Plot("cost", section, "cost", "Accuracy against cost", text, data, draw)


def _draw_cost(section: str, data: pd.DataFrame, scores: Scores, styles: Styles) -> Figure:
    figure, score = Figure(figsize=(6.8, 3.2)), data.columns[0]
    sides = {"multiply_accumulates": "multiply-accumulates per image", "epoch_seconds": "seconds per epoch"}
    for axes, (key, words) in zip(figure.subplots(1, 2, sharey=True), sides.items(), strict=True):
        for x, y, (label, e) in zip(data[key], data[score], scores.items(), strict=True):
            axes.errorbar(x, y, _error_bar(e), label=label, **styles[label] | POINT)
        wide = max(data[key]) > 3 * min(data[key])  # false for NaN
        axes.set(xlabel=words, xscale="log" if wide else "linear")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(4))
        axes.xaxis.set(major_formatter=PLAIN, minor_formatter=NullFormatter())
    _add_legend(figure, axes)
    figure.axes[0].set_ylabel(f"{score.replace('_', ' ')} (fraction)")
    figure.suptitle(f"Accuracy against cost ({section})", size=10)
    return figure


def _error_bar(e: Estimate) -> list[list[float]] | None:
    """The distances from the mean score to the ends of its interval."""
    return None if np.isnan(e.low) else [[e.mean - e.low], [e.high - e.mean]]


def _means(scores: Scores) -> str:
    spans = ["" if np.isnan(e.low) else f" ({e.low:.4f} to {e.high:.4f}, for {e.basis})" for e in scores.values()]
    return "; ".join(f"{label} {e.mean:.4f}{span}" for (label, e), span in zip(scores.items(), spans, strict=True))


def _in_words(metric: str) -> str:
    return metric.replace("train", "training").replace("_", " ").capitalize()


def _published(group: Group) -> str | None:
    """The published model that may be drawn beside this group."""
    return published.published_model(group.record.identity) if group.protocol == "published" else None


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Add a legend of the axes' lines: inside, or below the axes where long labels would cover the data."""
    handles, labels = axes.get_legend_handles_labels()
    if sum(map(len, labels)) <= MAX_INSIDE:
        axes.legend()
        return
    width, height = figure.get_size_inches()
    wrapped = [textwrap.fill(label, int(12 * width)) for label in labels]
    below = 0.25 + LINE_INCHES * sum(1 + label.count("\n") for label in wrapped)
    bottom, top = figure.subplotpars.bottom * height + below, height + below - (1 - figure.subplotpars.top) * height
    figure.set_size_inches(width, height + below)
    figure.subplots_adjust(bottom=bottom / (height + below), top=top / (height + below))
    figure.legend(handles, wrapped, loc="lower center")
