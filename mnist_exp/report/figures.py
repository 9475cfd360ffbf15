"""The figures: each as SVG, PDF and PNG, with the numbers behind it as CSV; the same bytes every time."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_exp.report import published
from mnist_exp.report.collect import METRICS, Collection, Group, slug
from mnist_exp.report.errors import BINS, Mistakes
from mnist_exp.report.statistics import summarise

TOGETHER, ALONE = 8, 4
"""A section's figures show at most so many groups, the most accurate; each has its own where there are few."""
UNITS = {"loss": "nats", "accuracy": "fraction"}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2, 2, 2)))
# No date, no version, no random identifiers: the same runs give the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
STYLE = mpl.rc_params_from_file(str(published.file("report.mplstyle")), use_default_template=False)

Looks = dict[str, Any]


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn: its name (a relative path), what it shows in words, its numbers."""

    topic: str
    section: str
    name: str
    title: str
    description: str
    data: pd.DataFrame
    draw: Callable[[], Figure]


_pending: list[tuple[Drawing, Path]] = []


def write(drawings: Sequence[Drawing], folder: Path) -> list[str]:
    """Write figures in every format, and their numbers, below ``folder``; return the files' names."""
    _pending[:] = [(drawing, folder / drawing.name) for drawing in drawings]
    for _, path in _pending:
        path.parent.mkdir(parents=True, exist_ok=True)
    workers = min(len(drawings), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for position in range(len(drawings)):
            _write(position)
    else:
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            pool.map(_write, range(len(drawings)), chunksize=1)
    return [f"{drawing.name}.{kind}" for drawing in drawings for kind in (*METADATA, "csv")]


def _write(position: int) -> None:
    drawing, path = _pending[position]  # a forked worker has it already; functions can't be sent to it
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a title may hold any character
        figure = drawing.draw()
        for kind, metadata in METADATA.items():
            figure.savefig(path.with_name(f"{path.name}.{kind}"), format=kind, metadata=metadata)
    drawing.data.to_csv(path.with_name(f"{path.name}.csv"), index=False, lineterminator="\n")


def of_section(
    collection: Collection, section: str, mistakes: Sequence[Mistakes], measured: list[dict[str, Any]]
) -> list[Drawing]:
    """All figures of a section; ``mistakes`` are its groups', ``measured`` is of `mnist_exp.report.cost`."""
    drawings = [overview(collection, section), *curves(collection, section)]
    best = collection.in_section(section, most=ALONE)
    drawings += [confusion(m) for m in mistakes if m.group in best]
    drawings += [reliability(collection, section, mistakes)] if mistakes else []
    return drawings + [d for d in [cost(collection, section, measured)] if d]


def overview(collection: Collection, section: str) -> Drawing:
    """The final test accuracy of every seed, with each group's mean and its interval."""
    groups, looks = _shown(collection, section)
    rows = [(g.label, run.seed, value) for g in groups for run, value in zip(g.runs, g.final("test_accuracy"), strict=True)]
    text = "; ".join(_mean_in_words(group) for group in groups)

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 0.8 + 0.42 * len(groups)), layout="constrained")
        axes = figure.subplots()
        for place, group in enumerate(groups):
            values = group.final("test_accuracy")
            axes.plot(values, [place + 0.22] * len(values), "|", color="0.55", markersize=6, markeredgewidth=0.8)
            _point(axes, summarise(values), place, looks[group.label], vertical=False)
            if model := _published(group):
                value = published.table()[model]["test_accuracy"]
                axes.plot(value, place, "x", color="black", markersize=6, markeredgewidth=1.2)
        axes.set(xlabel="test accuracy (fraction)", ylim=(len(groups) - 0.5, -0.5), title=section)
        axes.set_yticks(range(len(groups)), [group.label for group in groups])
        return figure

    crosses = "; crosses are the published values" if any(map(_published, groups)) else ""
    return Drawing(
        "overview",
        section,
        f"{slug(section)}/overview",
        "Test accuracy after the last epoch",
        f"Points are means with their 95 % interval, ticks are seeds{crosses}. {text}.",
        pd.DataFrame(rows, columns=["label", "seed", "test_accuracy"]),
        draw,
    )


def curves(collection: Collection, section: str) -> list[Drawing]:
    """For each metric: all groups over each other, and, where there are few, each alone."""
    groups, looks = _shown(collection, section)
    everything = collection.in_section(section)
    drawings = []
    for metric in METRICS:
        drawings.append(_curve(f"{slug(section)}/all-", section, groups, everything, metric, looks))
        if len(everything) <= ALONE:
            names = [(f"{slug(section)}/{group.slug}-", group) for group in groups]
            drawings += [_curve(name, section, [group], [group], metric, looks) for name, group in names]
    return drawings


def _curve(
    prefix: str, section: str, groups: list[Group], everything: list[Group], metric: str, looks: dict[str, Looks]
) -> Drawing:
    runs = [(group, run) for group in everything for run in group.runs]
    data = pd.concat([run.epochs[["epoch", metric]].assign(label=g.label, seed=run.seed) for g, run in runs])
    means = {group.label: np.mean([run.epochs[metric] for run in group.runs], axis=0) for group in groups}
    references = {}
    name = metric.replace("train", "training").replace("_", " ")
    alone = prefix.rpartition("/")[2] != "all-"
    title = f"{groups[0].label}: {name}" if alone else f"{name.capitalize()} of all models"
    if alone and (model := _published(groups[0])):
        references = {"published": published.curves().set_index("model").loc[model]}
        data = pd.concat([data, references["published"][["epoch", metric]].assign(label="published")])

    def draw() -> Figure:
        figure = Figure()
        axes = figure.subplots()
        for group in groups:
            values = np.array([run.epochs[metric] for run in group.runs])
            mean, epochs = means[group.label], group.runs[0].epochs["epoch"]
            if len(values) > 1:
                std = values.std(axis=0, ddof=1)
                colour = looks[group.label]["color"]
                axes.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
            axes.plot(
                epochs, mean, **looks[group.label], label=f"mean, n = {len(values)}" if alone else group.label
            )
        for label, curve in references.items():
            axes.plot(curve["epoch"], curve[metric], "--", color="0.25", label=label, zorder=3)
        later = np.concatenate([mean[1:] for mean in means.values()])
        if not alone and len(later) >= 4 * len(groups):
            # The first epoch may leave the frame, where it would squash all later ones together.
            margin = 0.05 * np.ptp(later) or 0.01
            axes.set_ylim(later.min() - margin, later.max() + margin)
        axes.set(xlabel="epoch", ylabel=f"{name} ({UNITS[metric.rpartition('_')[2]]})")
        axes.set_title(f"{title} ({section})" if not alone else f"{title} ({groups[0].protocol})", wrap=True)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return figure

    ends = "; ".join(f"{label} from {mean[0]:.4f} to {mean[-1]:.4f}" for label, mean in means.items())
    text = (
        f"Lines are means over the seeds, bands ± 1 standard deviation. From the first epoch to the last: {ends}."
    )
    text += " The published curve is dashed." if references else ""
    topic = "each model alone" if alone else "curves"
    return Drawing(topic, section, f"{prefix}{slug(metric)}", title, text, data, draw)


def confusion(m: Mistakes) -> Drawing:
    """A group's confusion matrix, mean over its runs; colour shows the mistakes alone."""
    share = 100 * m.confusion / np.maximum(m.confusion.sum(axis=1, keepdims=True), 1)
    wrong = m.confusion * (1 - np.eye(10))
    label, answer = divmod(int(wrong.argmax()), 10)

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 4.2), layout="constrained")
        axes = figure.subplots()
        text = np.array([[f"{x:.0f}" if x >= 10 or x == 0 else f"{x:.1f}" for x in row] for row in m.confusion])
        bar = {"label": "share of the label's digits (%)", "shrink": 0.8}
        sns.heatmap(
            share, mask=np.eye(10, dtype=bool), annot=text, fmt="", annot_kws={"size": 6.5}, cmap="Blues",
            linewidths=0.5, square=True, cbar_kws=bar, ax=axes, vmin=0,
        )  # fmt: skip
        for digit in range(10):
            axes.text(
                digit + 0.5, digit + 0.5, text[digit, digit], ha="center", va="center", size=6.5, color="0.35"
            )
        axes.set(xlabel="predicted class", ylabel="label", title=f"{m.group.label} ({m.group.protocol})")
        axes.tick_params(length=0, rotation=0)
        return figure

    return Drawing(
        "errors",
        m.group.section,
        f"{slug(m.group.section)}/{m.group.slug}-confusion",
        f"{m.group.label}: confusion matrix",
        f"Digits by label and prediction, mean of {len(m.confusions)} runs; colour shows mistakes. Most frequent: "
        f"{label} taken for {answer}, {wrong[label, answer]:.1f} digits a run.",
        pd.DataFrame(m.confusion, columns=[f"predicted_{i}" for i in range(10)]).assign(label=range(10)),
        draw,
    )


def reliability(collection: Collection, section: str, mistakes: Sequence[Mistakes]) -> Drawing:
    """Accuracy against confidence, over the runs of each group together."""
    groups, looks = _shown(collection, section)
    shown = [m for m in mistakes if m.group in groups]
    rows = []
    for m in shown:
        digits, confidence, right = m.bins.sum(axis=0)
        for i in np.flatnonzero(digits):
            each = m.bins[m.bins[:, 0, i] > 0]
            s = summarise(each[:, 2, i] / each[:, 0, i])
            spread = {"low": s.mean_low, "high": s.mean_high, "digits_a_run": digits[i] / len(m.bins)}
            point = {"confidence": confidence[i] / digits[i], "accuracy": right[i] / digits[i]}
            rows.append({"label": m.group.label, "bin": i + 1} | point | spread)
    data = pd.DataFrame(rows)

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 4.2), layout="constrained")
        axes, below = figure.subplots(2, height_ratios=(3, 1), sharex=True)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        for label, part in data.groupby("label", sort=False):
            look = looks[str(label)]
            ends = [
                (part["accuracy"] - part["low"]).clip(lower=0),
                (part["high"] - part["accuracy"]).clip(lower=0),
            ]
            axes.errorbar(part["confidence"], part["accuracy"], ends, elinewidth=0.8, label=label, **look)
            below.plot(part["confidence"], part["digits_a_run"], **look)
        axes.set(ylabel="accuracy (fraction)", ylim=(-0.02, 1.02), title=f"Reliability ({section})")
        below.set(xlabel="confidence (probability of the answer)", ylabel="digits a run", yscale="log")
        axes.legend()
        return figure

    errors = "; ".join(f"{m.group.label} {np.mean(m.calibration_errors):.4f}" for m in shown)
    text = f"Points on the diagonal are calibrated; bars are 95 % intervals over the seeds; {BINS} bins."
    name = f"{slug(section)}/reliability"
    text += f" Expected calibration error: {errors}."
    return Drawing("errors", section, name, "Reliability diagram", text, data, draw)


def cost(collection: Collection, section: str, measured: list[dict[str, Any]]) -> Drawing | None:
    """Accuracy against arithmetic and against time; None where no run has either."""
    groups, looks = _shown(collection, section)
    sides = {"multiply_accumulates": "multiply-accumulates a digit", "epoch_seconds": "seconds an epoch"}
    data = pd.DataFrame([row for row in measured if row["section"] == section])
    sides = {key: label for key, label in sides.items() if data[key].notna().any()}
    if not sides:
        return None
    means = [summarise(group.final("test_accuracy")) for group in collection.in_section(section)]
    data = data.assign(
        test_accuracy=[s.mean for s in means], low=[s.mean_low for s in means], high=[s.mean_high for s in means]
    )
    rows = data.set_index("model")

    def draw() -> Figure:
        figure = Figure(figsize=(3 * len(sides) + 0.8, 3.2), layout="constrained")
        for axes, (key, label) in zip(np.atleast_1d(figure.subplots(1, len(sides), sharey=True)), sides.items()):
            for group in groups:
                if not np.isnan(x := rows.loc[group.label, key]):
                    _point(axes, summarise(group.final("test_accuracy")), x, looks[group.label], label=group.label)
            axes.set(xlabel=label, xscale="log")
        axes.legend()
        figure.axes[0].set_ylabel("test accuracy (fraction)")
        figure.suptitle(f"Accuracy against cost ({section})", size=10)
        return figure

    text = "; ".join(_mean_in_words(group) for group in groups)
    text = f"Bars are 95 % intervals of the mean. {text}."
    return Drawing("cost", section, f"{slug(section)}/cost", "Accuracy against cost", text, data, draw)


def _point(axes: Axes, s: Any, place: float, look: Looks, *, vertical: bool = True, label: str = "") -> None:
    bar = None if s.mean_low is None else [[s.mean - s.mean_low], [s.mean_high - s.mean]]
    look = look | {"linestyle": "none", "markersize": 6}
    if vertical:
        axes.errorbar(place, s.mean, yerr=bar, label=label, **look)
    else:
        axes.errorbar(s.mean, place, xerr=bar, label=label, **look)


def _shown(collection: Collection, section: str) -> tuple[list[Group], dict[str, Looks]]:
    """The groups that a section's figures show, and the colour, marker and dashes of each."""
    groups = collection.in_section(section, most=TOGETHER)
    looks = zip(sns.color_palette("colorblind"), MARKERS, DASHES, strict=False)
    names = ("color", "marker", "linestyle")
    return groups, {g.label: dict(zip(names, look, strict=True)) for g, look in zip(groups, looks, strict=False)}


def _published(group: Group) -> str | None:
    """The published model that may be drawn beside this group."""
    return published.counterpart(group.record["identity"]) if group.protocol == "published" else None


def _mean_in_words(group: Group) -> str:
    s = summarise(group.final("test_accuracy"))
    interval = "" if s.mean_low is None else f" ({s.mean_low:.4f} to {s.mean_high:.4f})"
    return f"{group.label} {s.mean:.4f}{interval}"
