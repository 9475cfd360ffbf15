"""The figures: what each shows, in lines, numbers and words. `mnist_exp.report.figure_files` writes them."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from mnist_exp.report import published
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.estimates import Estimates
from mnist_exp.report.figure_files import Plot
from mnist_exp.report.image_errors import GroupErrors
from mnist_exp.report.labels import is_determined_by, short_name, shown_value
from mnist_exp.report.predictions import BINS
from mnist_exp.report.runs import DIGITS, METRIC_NAMES, VALIDATION_NAMES
from mnist_exp.report.statistics import FRACTION, Estimate, estimate
from mnist_exp.report.table import Row
from mnist_exp.text import slug, unique

MAX_TOGETHER, MAX_ALONE = 8, 4
"""Groups in a section's figures, the most accurate ones; and groups that each have figures of their own."""
MIN_TRIALS = 5
"""Fewer settings that were validated are no search."""
SEARCHED = ("optimizer", "scheduler", "batch_size")
MIN_PER_BIN = 5
"""A bin of confidence with fewer images per run says nothing."""
MAX_CLASS_NAME = 14
"""Characters of a class's name that fit into a figure."""
MAX_LABEL_LINE = 44
"""Characters of a line of an axis' label."""
MAX_INSIDE = 90
"""Characters of all labels of a legend together that fit between the lines of a figure."""
LINE_INCHES = 0.18
UNITS = {"loss": "nats", "accuracy": "fraction"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 2, 2)))
PLAIN = StrMethodFormatter("{x:,g}")

Styles = dict[str, dict[str, Any]]


def of_section(
    collection: Collection, estimates: Estimates, section: str, misclassified: Sequence[GroupErrors]
) -> list[Plot]:
    """All figures of a section; ``misclassified`` are its groups'."""
    groups = collection.in_section(section, most=MAX_TOGETHER)
    palette = zip(sns.color_palette("colorblind"), MARKERS, DASHES, strict=False)
    styles = {g.label: {"color": c, "marker": m, "ls": d} for g, (c, m, d) in zip(groups, palette, strict=False)}
    few = groups if len(collection.in_section(section)) <= MAX_ALONE else []
    metrics = [metric for metric in (*METRIC_NAMES, *VALIDATION_NAMES) if groups[0].final_values(metric)]
    scores = {group: estimates.means[group][group.selection_metric] for group in groups}
    plots = [overview(section, scores, styles), *(curves(section, groups, metric, styles) for metric in metrics)]
    plots += slices(section, collection.in_section(section))
    plots += [curves(section, [group], metric, styles, alone=True) for metric in metrics for group in few]
    best = collection.in_section(section, most=MAX_ALONE)
    plots += [confusion(section, m) for m in misclassified if m.group in best]
    calibrated = [m for m in misclassified if m.group in groups and len(m.bins)]
    plots += reliability(section, calibrated, styles)
    plots.append(cost(section, scores, estimates.costs, styles))
    names = unique([plot.name for plot in plots], "-{}")  # a group may be called "all"
    folder = collection.folders[section]
    return [replace(plot, name=f"{folder}/{name}") for plot, name in zip(plots, names, strict=True)]


def overview(section: str, scores: dict[Group, Estimate], styles: Styles) -> Plot:
    """The final score of every seed, with each group's mean and its interval."""
    groups = [*scores]
    score, name = groups[0].selection_metric, groups[0].selection_metric.replace("_", " ")
    ends = {group: group.final_values(score) for group in groups}
    data = [(group.label, seed, value) for group in groups for seed, value in ends[group].items()]
    values = {g: published.table()[m]["test_accuracy"] for g in groups if (m := _published(g))}

    def draw() -> Figure:
        names = [textwrap.fill(group.label, MAX_LABEL_LINE) for group in groups]
        lines = [line for name in names for line in name.split("\n")]
        width = 3.4 + 0.07 * max(map(len, lines))
        height = 0.9 + 0.42 * len(groups) + 0.14 * (len(lines) - len(groups))
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        for place, group in enumerate(groups):
            axes.plot([*ends[group].values()], [place + 0.22] * len(ends[group]), "|", color="0.55", ms=6, mew=0.8)
            axes.errorbar(xerr=_error_bar(scores[group]), y=place, x=scores[group].mean, **_marker(styles, group))
            axes.plot(values.get(group, np.nan), place, "x", color="black", ms=6, mew=1.2)
        axes.set(xlabel=f"{name} (fraction)", ylim=(len(groups) - 0.5, -0.5))
        axes.set_title(section, wrap=True)
        axes.set_yticks(range(len(groups)), names)
        return figure

    text = "Points are means with their 95 % interval, ticks are seeds"
    text += f"{'; crosses are the published values' if values else ''}. {_means(scores)}."
    frame = pd.DataFrame(data, columns=["label", "seed", score])
    title = f"{name.capitalize()} after the last epoch"
    return Plot("overview", section, "overview", title, text, frame, draw)


def curves(section: str, groups: list[Group], metric: str, styles: Styles, *, alone: bool = False) -> Plot:
    """A metric against the epoch: one group, with the published curve, or several over each other."""
    name, unit = metric.replace("train", "training").replace("_", " "), UNITS[metric.rpartition("_")[2]]
    runs = [(group.label, run) for group in groups for run in group.runs]
    data = pd.concat([run.epochs[["epoch", metric]].assign(label=label, seed=run.record.seed) for label, run in runs])
    values = {group: np.array([run.epochs[metric] for run in group.runs]) for group in groups}
    means = {group: array.mean(axis=0) for group, array in values.items()}
    reference = None
    if alone and (model := _published(groups[0])):
        reference = published.curves().set_index("model").loc[model, ["epoch", metric]]
        data = pd.concat([data, reference.assign(label="published")])
    title = f"{groups[0].label}: {name}" if alone else f"{name.capitalize()} of all models"

    def draw() -> Figure:
        figure = Figure()
        axes = figure.subplots()
        for group, mean in means.items():
            epochs, style = range(1, len(mean) + 1), styles[group.label]
            if len(group.runs) > 1:
                std = values[group].std(axis=0, ddof=1)
                axes.fill_between(epochs, mean - std, mean + std, color=style["color"], alpha=0.2, lw=0)
            style = style | ({"ls": "-", "label": f"mean, n = {len(group.runs)}"} if alone else {"label": group.label})
            axes.plot(epochs, mean, **style)
        if reference is not None:
            axes.plot(reference["epoch"], reference[metric], "--", color="0.25", label="published", zorder=3)
        later = np.concatenate([mean[1:] for mean in means.values()])
        if not alone and len(later) >= 4 * len(groups):
            # The first epoch may be outside the frame: it would compress all later ones.
            margin = 0.05 * np.ptp(later) or 0.01
            axes.set_ylim(later.min() - margin, later.max() + margin)
        axes.set(xlabel="epoch", ylabel=f"{name} ({unit})", title=f"{title} ({groups[0].protocol})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _add_legend(figure, axes)
        return figure

    ends = "; ".join(f"{group.label} from {mean[0]:.4f} to {mean[-1]:.4f}" for group, mean in means.items())
    text = f"Lines are means over the seeds, bands ± 1 standard deviation. First to last epoch: {ends}."
    text += "" if reference is None else " The published curve is dashed."
    prefix = groups[0].slug if alone else "all"
    return Plot("alone" if alone else "curves", section, f"{prefix}-{slug(metric)}", title, text, data, draw)


def slices(section: str, trials: list[Group]) -> list[Plot]:
    """Each trial's validation accuracy against each setting that was searched; none without a search."""
    keys, score = _searched([trial.settings for trial in trials]), "validation_accuracy"
    if len(trials) < MIN_TRIALS or not keys or trials[0].selection_metric != score:
        return []
    rows = [{"model": t.record.title, **{key: t.settings[key] for key in keys}, score: t.mean_score} for t in trials]
    data = pd.DataFrame(rows, dtype=object)
    best, lowest = max(trials, key=lambda trial: trial.mean_score), float(data[score].quantile(1 / 4))
    said = ", ".join(f"{short_name(key)}={shown_value(key, best.settings[key])}" for key in keys)

    def draw() -> Figure:
        figure = Figure(figsize=(1 + 2 * len(keys), 3), layout="constrained")
        for axes, key in zip(figure.subplots(1, len(keys), sharey=True, squeeze=False)[0], keys, strict=True):
            numeric = all(isinstance(value, int | float | None) for value in data[key])
            words = pd.Series([shown_value(key, value) for value in data[key]], dtype=object)
            xs = data[key].astype(float) if numeric else words
            for (title, part), marker in zip(data.groupby("model", sort=False), MARKERS, strict=False):
                axes.plot(xs[part.index], part[score], marker, ms=5, alpha=0.7, label=title)
            if numeric and 0 < 10 * np.nanmin(xs) <= np.nanmax(xs):
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(PLAIN)
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(short_name(key))
            if not numeric:
                axes.margins(x=0.4)
                axes.tick_params("x", labelsize=6.5)
        # Trials that learn nothing would compress all others.
        margin = 0.1 * (best.mean_score - lowest) or 0.01
        axes.set_ylim(lowest - margin, best.mean_score + margin)
        figure.axes[0].set_ylabel("validation accuracy (fraction)")
        if data["model"].nunique() > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(f"{len(trials)} trials ({section})", size=10)
        return figure

    text = f"A point is a trial; of {len(trials)}, those of the lowest quarter may be below the frame. "
    text += f"Best: {best.record.title} with {said}, {best.mean_score:.4f}."
    return [Plot("overview", section, "slices", "Validation accuracy by setting", text, data, draw)]


def confusion(section: str, m: GroupErrors) -> Plot:
    """A group's confusion matrix, mean over its runs; colour shows the misclassified alone."""
    share = 100 * m.confusion / np.maximum(m.confusion.sum(axis=1, keepdims=True), 1)
    wrong, diagonal = m.confusion * (1 - np.eye(10)), np.eye(10, dtype=bool)
    names, (label, answer) = m.group.classes, divmod(int(wrong.argmax()), 10)
    ticks = [name if len(name) <= MAX_CLASS_NAME else f"{name[: MAX_CLASS_NAME - 1]}…" for name in names]

    def draw() -> Figure:
        # Digits fit between the usual margins; names need margins of their own.
        figure = Figure(figsize=(4.8, 4.2), layout=None if m.group.classes == DIGITS else "constrained")
        axes = figure.subplots()
        cells = np.array([[f"{x:.0f}" if x >= 10 or x == 0 else f"{x:.1f}" for x in row] for row in m.confusion])
        bar, small = {"label": "share of the label's images (%)", "shrink": 0.8}, {"size": 6.5}
        shared: Any = {"annot": cells, "fmt": "", "square": True, "linewidths": 0.5, "vmin": 0, "ax": axes}
        shared |= {"xticklabels": ticks, "yticklabels": ticks}
        sns.heatmap(share, mask=diagonal, cmap="Blues", cbar_kws=bar, annot_kws=small, **shared)
        grey = {**small, "color": "0.35"}
        sns.heatmap(share, mask=~diagonal, cmap=["white"], cbar=False, annot_kws=grey, **shared)
        axes.set(xlabel="predicted class", ylabel="label", title=f"{m.group.label} ({m.group.protocol})")
        axes.tick_params(length=0, rotation=0)
        axes.tick_params("x", rotation=90 if max(map(len, ticks)) > 3 else 0)
        return figure

    text = f"Images by label and prediction, mean of {len(m.predictions)} runs; colour shows the errors."
    if wrong.any():
        text += f" Most frequent: {names[label]} read as {names[answer]}, {wrong[label, answer]:.1f} images per run."
    data = pd.DataFrame(m.confusion, columns=[f"predicted_{name}" for name in names]).assign(label=names)
    title = f"{m.group.label}: confusion matrix"
    return Plot("errors", section, f"{m.group.slug}-confusion", title, text, data, draw)


def reliability(section: str, misclassified: Sequence[GroupErrors], styles: Styles) -> list[Plot]:
    """Accuracy against confidence, over the runs of each group together; none where all bins have too few images."""
    rows = []
    for m in misclassified:
        images, confidence, right = m.bins.sum(axis=0)
        for i in np.flatnonzero(images >= MIN_PER_BIN * len(m.bins)):
            e = estimate([run[2, i] / run[0, i] for run in m.bins if run[0, i]], None, FRACTION)
            point = {"confidence": confidence[i] / images[i], "accuracy": right[i] / images[i]}
            point |= {"low": e.low, "high": e.high, "images_per_run": images[i] / len(m.bins)}
            rows.append({"label": m.group.label, "bin": i + 1} | point)
    if not rows:
        return []
    data = pd.DataFrame(rows)

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 4.2))
        axes, below = figure.subplots(2, height_ratios=(3, 1), sharex=True, gridspec_kw={"left": 0.18})
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        for label, part in data.groupby("label", sort=False):
            mean, style = part["accuracy"].to_numpy(float), styles[str(label)]
            bars = np.abs([mean - part["low"].to_numpy(float), part["high"].to_numpy(float) - mean])
            axes.errorbar(part["confidence"], mean, bars, elinewidth=0.8, label=label, **style)
            below.plot(part["confidence"], part["images_per_run"], **style)
        axes.set(ylabel="accuracy (fraction)", ylim=(-0.02, 1.02), title=f"Reliability ({section})")
        below.set(xlabel="confidence (probability of the answer)", ylabel="images per run", yscale="log")
        below.yaxis.set_major_formatter(PLAIN)
        _add_legend(figure, axes)
        return figure

    text = f"On the diagonal, confidence equals accuracy; bars are 95 % intervals over the seeds; {BINS} bins, "
    text += f"without those of fewer than {MIN_PER_BIN} images per run. Expected calibration error: "
    text += "; ".join(f"{m.group.label} {np.mean(m.calibration_errors):.4f}" for m in misclassified)
    return [Plot("errors", section, "reliability", "Reliability diagram", f"{text}.", data, draw)]


def cost(section: str, scores: dict[Group, Estimate], costs: dict[Group, Row], styles: Styles) -> Plot:
    """Accuracy against arithmetic and against time."""
    groups = [*scores]
    sides = {"multiply_accumulates": "multiply-accumulates per image", "epoch_seconds": "seconds per epoch"}

    def draw() -> Figure:
        figure = Figure(figsize=(6.8, 3.2))
        for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), sides.items(), strict=True):
            xs = [costs[group][key] for group in groups]
            for x, group in zip(xs, groups, strict=True):
                axes.errorbar(
                    x, group.mean_score, _error_bar(scores[group]), label=group.label, **_marker(styles, group)
                )
            wide = max(xs) > 3 * min(xs)  # false for NaN
            axes.set(xlabel=label, xscale="log" if wide else "linear")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(4))
            axes.xaxis.set_major_formatter(PLAIN)
            axes.xaxis.set_minor_formatter(NullFormatter())
        _add_legend(figure, axes)
        figure.axes[0].set_ylabel(f"{groups[0].selection_metric.replace('_', ' ')} (fraction)")
        figure.suptitle(f"Accuracy against cost ({section})", size=10)
        return figure

    data = pd.DataFrame([{g.selection_metric: g.mean_score} | costs[g] for g in groups])
    text = f"Bars are 95 % intervals of the mean. {_means(scores)}."
    return Plot("cost", section, "cost", "Accuracy against cost", text, data, draw)


def _searched(settings: list[Mapping[str, Any]]) -> list[str]:
    """The settings of an optimizer, a schedule or the batches that differ and that no other implies."""
    found = []
    for key in (key for key in settings[0] if key.partition(".")[0] in SEARCHED):
        class_of = f"{key.partition('.')[0]}.target"
        implied = is_determined_by(key, [class_of, "epochs"] if key != class_of else [], settings)
        # OneCycleLR's max_lr, for example, which conf/ sets to the learning rate.
        is_the_rate = key != "optimizer.lr" and all(each[key] in (None, each.get("optimizer.lr")) for each in settings)
        found += [] if implied or is_the_rate else [key]
    return found


def _marker(styles: Styles, group: Group) -> dict[str, Any]:
    return styles[group.label] | {"ls": "none", "ms": 6}


def _error_bar(e: Estimate) -> list[list[float]] | None:
    """The distances from the mean score to the ends of its interval."""
    return None if np.isnan(e.low) else [[e.mean - e.low], [e.high - e.mean]]


def _means(scores: dict[Group, Estimate]) -> str:
    spans = ["" if np.isnan(e.low) else f" ({e.low:.4f} to {e.high:.4f}, for {e.basis})" for e in scores.values()]
    return "; ".join(f"{g.label} {e.mean:.4f}{i}" for (g, e), i in zip(scores.items(), spans, strict=True))


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
