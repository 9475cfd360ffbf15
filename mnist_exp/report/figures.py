"""The figures: each as SVG, PDF and PNG, with the numbers behind it as CSV; the same bytes every time."""

import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from mnist_exp.process import end_with_parent
from mnist_exp.report import published
from mnist_exp.report.collect import DIGITS, METRICS, VALIDATION, Collection, Group, slug
from mnist_exp.report.errors import BINS, Mistakes
from mnist_exp.report.statistics import summarise

TOGETHER, ALONE = 8, 4
"""A section's figures show at most so many groups, the most accurate; each has its own where there are few."""
FEW = 5
"""Digits a run below which a bin of confidence says nothing."""
LONGEST = 14
"""Characters of a class's name that a figure has room for."""
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

PLAIN = StrMethodFormatter("{x:,g}")

Looks = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn: what it is about, its file's name, what it shows in words, its numbers."""

    topic: str
    section: str
    file: str
    title: str
    description: str
    data: pd.DataFrame
    draw: Callable[[], Figure]

    @property
    def name(self) -> str:
        """The file's path below the report's folder, without its ending."""
        return f"{slug(self.section)}/{self.file}"


_pending: list[tuple[Drawing, Path]] = []


def write(drawings: Sequence[Drawing], folder: Path) -> list[str]:
    """Write figures in every format, and their numbers, below ``folder``; return the files' names."""
    _pending[:] = [(drawing, folder / drawing.name) for drawing in drawings]
    for _, path in _pending:
        path.parent.mkdir(parents=True, exist_ok=True)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    if workers > 1 and "fork" in multiprocessing.get_all_start_methods():
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, mp_context=fork, initializer=_start_worker) as pool:
            list(pool.map(_write, reversed(range(len(drawings)))))  # the slow ones are last
    else:
        for position in range(len(drawings)):
            _write(position)
    return [f"{drawing.name}.{kind}" for drawing in drawings for kind in (*METADATA, "csv")]


def _start_worker() -> None:
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    end_with_parent()


def _write(position: int) -> None:
    drawing, path = _pending[position]  # a forked worker has it already; functions can't be sent to it
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a title may hold any character
        figure = drawing.draw()
        if figure.get_layout_engine():  # laid out once, not once for each format
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        for kind, metadata in METADATA.items():
            figure.savefig(path.with_name(f"{path.name}.{kind}"), format=kind, metadata=metadata)
    drawing.data.to_csv(path.with_name(f"{path.name}.csv"), index=False, lineterminator="\n")


def of_section(
    collection: Collection, section: str, mistakes: Sequence[Mistakes], measured: list[dict[str, Any]]
) -> list[Drawing]:
    """All figures of a section; ``mistakes`` are its groups', ``measured`` is of `mnist_exp.report.cost`."""
    groups = collection.in_section(section, most=TOGETHER)
    palette = zip(sns.color_palette("colorblind"), MARKERS, DASHES, strict=False)
    looks = {g.label: {"color": c, "marker": m, "ls": d} for g, (c, m, d) in zip(groups, palette, strict=False)}
    few = groups if len(collection.in_section(section)) <= ALONE else []
    metrics = [metric for metric in (*METRICS, *VALIDATION) if groups[0].final(metric)]
    drawings = [overview(section, groups, looks), *(curves(section, groups, metric, looks) for metric in metrics)]
    drawings += [curves(section, [group], metric, looks, alone=True) for metric in metrics for group in few]
    best = collection.in_section(section, most=ALONE)
    drawings += [confusion(section, m) for m in mistakes if m.group in best]
    drawings += [reliability(section, [m for m in mistakes if m.group in groups], looks)] if mistakes else []
    return [
        *drawings,
        cost(section, groups, {row["model"]: row for row in measured if row["section"] == section}, looks),
    ]


def overview(section: str, groups: list[Group], looks: Looks) -> Drawing:
    """The final score of every seed, with each group's mean and its interval."""
    score, name = groups[0].score, groups[0].score.replace("_", " ")
    ends = {group: group.final(score) for group in groups}
    data = [(g.label, run.seed, value) for g in groups for run, value in zip(g.runs, ends[g], strict=True)]
    values = {g: published.table()[m]["test_accuracy"] for g in groups if (m := _published(g))}

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 0.8 + 0.42 * len(groups)), layout="constrained")  # for labels of any length
        axes = figure.subplots()
        for place, group in enumerate(groups):
            axes.plot(ends[group], [place + 0.22] * len(ends[group]), "|", color="0.55", ms=6, mew=0.8)
            axes.errorbar(xerr=_bar(group), y=place, x=np.mean(ends[group]), **_marker(looks, group))
            axes.plot(values.get(group, np.nan), place, "x", color="black", ms=6, mew=1.2)
        axes.set(xlabel=f"{name} (fraction)", ylim=(len(groups) - 0.5, -0.5))
        axes.set_title(section, wrap=True)
        axes.set_yticks(range(len(groups)), [group.label for group in groups])
        return figure

    text = "Points are means with their 95 % interval, ticks are seeds"
    text += f"{'; crosses are the published values' if values else ''}. {_means(groups)}."
    frame = pd.DataFrame(data, columns=["label", "seed", score])
    title = f"{name.capitalize()} after the last epoch"
    return Drawing("overview", section, "overview", title, text, frame, draw)


def curves(section: str, groups: list[Group], metric: str, looks: Looks, *, alone: bool = False) -> Drawing:
    """A metric against the epoch: one group, with the published curve, or several over each other."""
    name, unit = metric.replace("train", "training").replace("_", " "), UNITS[metric.rpartition("_")[2]]
    runs = [(group.label, run) for group in groups for run in group.runs]
    data = pd.concat([run.epochs[["epoch", metric]].assign(label=label, seed=run.seed) for label, run in runs])
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
            epochs, look = range(1, len(mean) + 1), looks[group.label]
            if len(group.runs) > 1:
                std = values[group].std(axis=0, ddof=1)
                axes.fill_between(epochs, mean - std, mean + std, color=look["color"], alpha=0.2, lw=0)
            look = look | (
                {"ls": "-", "label": f"mean, n = {len(group.runs)}"} if alone else {"label": group.label}
            )
            axes.plot(epochs, mean, **look)
        if reference is not None:
            axes.plot(reference["epoch"], reference[metric], "--", color="0.25", label="published", zorder=3)
        later = np.concatenate([mean[1:] for mean in means.values()])
        if not alone and len(later) >= 4 * len(groups):
            # The first epoch may leave the frame, where it would squash all later ones together.
            margin = 0.05 * np.ptp(later) or 0.01
            axes.set_ylim(later.min() - margin, later.max() + margin)
        axes.set(xlabel="epoch", ylabel=f"{name} ({unit})", title=f"{title} ({groups[0].protocol})")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
        return figure

    ends = "; ".join(f"{group.label} from {mean[0]:.4f} to {mean[-1]:.4f}" for group, mean in means.items())
    text = f"Lines are means over the seeds, bands ± 1 standard deviation. First to last epoch: {ends}."
    text += "" if reference is None else " The published curve is dashed."
    prefix = groups[0].slug if alone else "all"
    return Drawing("alone" if alone else "curves", section, f"{prefix}-{slug(metric)}", title, text, data, draw)


def confusion(section: str, m: Mistakes) -> Drawing:
    """A group's confusion matrix, mean over its runs; colour shows the mistakes alone."""
    share = 100 * m.confusion / np.maximum(m.confusion.sum(axis=1, keepdims=True), 1)
    wrong, diagonal = m.confusion * (1 - np.eye(10)), np.eye(10, dtype=bool)
    names, (label, answer) = m.group.classes, divmod(int(wrong.argmax()), 10)
    ticks = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]

    def draw() -> Figure:
        # Digits fit between the usual margins; of names, each figure makes its own.
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

    text = (
        f"Images by label and prediction, mean of {len(m.confusions)} runs; colour shows mistakes. Most frequent: "
    )
    text += f"{names[label]} taken for {names[answer]}, {wrong[label, answer]:.1f} images a run."
    data = pd.DataFrame(m.confusion, columns=[f"predicted_{name}" for name in names]).assign(label=names)
    title = f"{m.group.label}: confusion matrix"
    return Drawing("errors", section, f"{m.group.slug}-confusion", title, text, data, draw)


def reliability(section: str, mistakes: Sequence[Mistakes], looks: Looks) -> Drawing:
    """Accuracy against confidence, over the runs of each group together."""
    rows = []
    for m in mistakes:
        digits, confidence, right = m.bins.sum(axis=0)
        for i in np.flatnonzero(digits >= FEW * len(m.bins)):
            s = summarise([run[2, i] / run[0, i] for run in m.bins if run[0, i]])
            point = {"confidence": confidence[i] / digits[i], "accuracy": right[i] / digits[i]}
            point |= {"low": s.mean_low, "high": s.mean_high, "digits_a_run": digits[i] / len(m.bins)}
            rows.append({"label": m.group.label, "bin": i + 1} | point)
    data = pd.DataFrame(rows)

    def draw() -> Figure:
        figure = Figure(figsize=(4.8, 4.2))
        axes, below = figure.subplots(2, height_ratios=(3, 1), sharex=True, gridspec_kw={"left": 0.18})
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        for label, part in data.groupby("label", sort=False):
            mean, look = part["accuracy"].to_numpy(float), looks[str(label)]
            bars = np.abs([mean - part["low"].to_numpy(float), part["high"].to_numpy(float) - mean])
            axes.errorbar(part["confidence"], mean, bars, elinewidth=0.8, label=label, **look)
            below.plot(part["confidence"], part["digits_a_run"], **look)
        axes.set(ylabel="accuracy (fraction)", ylim=(-0.02, 1.02), title=f"Reliability ({section})")
        below.set(xlabel="confidence (probability of the answer)", ylabel="images a run", yscale="log")
        below.yaxis.set_major_formatter(PLAIN)
        axes.legend()
        return figure

    text = f"On the diagonal, confidence is right; bars are 95 % intervals over the seeds; {BINS} bins, but for "
    text += f"those of fewer than {FEW} images a run. Expected calibration error: "
    text += "; ".join(f"{m.group.label} {np.mean(m.calibration_errors):.4f}" for m in mistakes)
    return Drawing("errors", section, "reliability", "Reliability diagram", f"{text}.", data, draw)


def cost(section: str, groups: list[Group], measured: dict[str, dict[str, Any]], looks: Looks) -> Drawing:
    """Accuracy against arithmetic and against time."""
    sides = {"multiply_accumulates": "multiply-accumulates a digit", "epoch_seconds": "seconds an epoch"}

    def draw() -> Figure:
        figure = Figure(figsize=(6.8, 3.2))
        for axes, (key, label) in zip(figure.subplots(1, 2, sharey=True), sides.items(), strict=True):
            for group in groups:
                x = np.nan if measured[group.label][key] is None else measured[group.label][key]
                axes.errorbar(x, group.level, _bar(group), label=group.label, **_marker(looks, group))
            axes.set(xlabel=label, xscale="log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(PLAIN)
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend()
        figure.axes[0].set_ylabel(f"{groups[0].score.replace('_', ' ')} (fraction)")
        figure.suptitle(f"Accuracy against cost ({section})", size=10)
        return figure

    data = pd.DataFrame([{g.score: np.mean(g.final(g.score))} | measured[g.label] for g in groups])
    text = f"Bars are 95 % intervals of the mean. {_means(groups)}."
    return Drawing("cost", section, "cost", "Accuracy against cost", text, data, draw)


def _marker(looks: Looks, group: Group) -> dict[str, Any]:
    return looks[group.label] | {"ls": "none", "ms": 6}


def _bar(group: Group) -> list[list[float]] | None:
    """The way from the mean score to the ends of its interval."""
    s = summarise(group.final(group.score))
    return None if s.mean_low is None or s.mean_high is None else [[s.mean - s.mean_low], [s.mean_high - s.mean]]


def _means(groups: list[Group]) -> str:
    summaries = [summarise(group.final(group.score)) for group in groups]
    spans = ["" if s.mean_low is None else f" ({s.mean_low:.4f} to {s.mean_high:.4f})" for s in summaries]
    return "; ".join(f"{g.label} {s.mean:.4f}{i}" for g, s, i in zip(groups, summaries, spans, strict=True))


def _published(group: Group) -> str | None:
    """The published model that may be drawn beside this group."""
    return published.counterpart(group.record["identity"]) if group.protocol == "published" else None
