"""The figures: each as SVG, PDF and PNG, with the numbers behind it as CSV; the same bytes every time."""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mnist_exp.report import published
from mnist_exp.report.collect import METRICS, Collection, Group, slug

FORMATS = ("svg", "pdf", "png")
TITLES = {
    "train_loss": "training loss",
    "train_accuracy": "training accuracy",
    "test_loss": "test loss",
    "test_accuracy": "test accuracy",
}
AXES = {
    "train_loss": "training loss (nats)",
    "train_accuracy": "training accuracy (fraction)",
    "test_loss": "test loss (nats)",
    "test_accuracy": "test accuracy (fraction)",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PALETTE = "colorblind"
# No date, no version, no random identifiers: the same runs give the same bytes.
METADATA = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
STYLE: Any = {
    "figure.figsize": (4.8, 3.4),
    "figure.constrained_layout.use": True,
    "savefig.dpi": 300,
    "svg.hashsalt": "mnist_exp",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


@dataclass(frozen=True)
class Drawing:
    """A figure ready to be written: its name (a relative path), what it shows in words, its numbers."""

    name: str
    title: str
    description: str
    figure: Figure
    data: pd.DataFrame


def write(drawings: list[Drawing], folder: Path) -> None:
    """Write figures in every format, and their numbers, below ``folder``: side by side where possible."""
    workers = min(len(drawings), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        for drawing in drawings:
            _write(drawing, folder)
        return
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.starmap(_write, [(drawing, folder) for drawing in drawings], chunksize=1)


def _write(drawing: Drawing, folder: Path) -> None:
    path = folder / drawing.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        drawing.figure.draw_without_rendering()
        drawing.figure.set_layout_engine("none")  # laid out once, not once for each format
        for kind in FORMATS:
            drawing.figure.savefig(path.with_name(f"{path.name}.{kind}"), format=kind, metadata=METADATA[kind])
    drawing.data.to_csv(path.with_name(f"{path.name}.csv"), index=False, lineterminator="\n")


def curves(collection: Collection, section: str) -> list[Drawing]:
    """For each metric: every group alone, then all of them over each other."""
    groups = collection.in_section(section)
    epochs = collection.epochs(section)
    styles = _styles(groups)
    drawings = []
    with mpl.rc_context(STYLE):
        for metric in METRICS:
            drawings += [_alone(group, epochs, metric, styles) for group in groups]
            drawings.append(_together(section, groups, epochs, metric, styles))
    return drawings


def _alone(
    group: Group, epochs: pd.DataFrame, metric: str, styles: dict[str, tuple[tuple[float, ...], str]]
) -> Drawing:
    rows = epochs[epochs["label"] == group.label]
    colour, marker = styles[group.label]
    figure, axes = _axes(metric)
    _draw(axes, rows, metric, colour, marker, _of_seeds(group))
    data = rows[["label", "seed", "epoch", metric]]
    reference = published.counterpart(group.record["identity"]) if group.protocol == "published" else None
    if reference:
        curve = published.curves().query("model == @reference")
        axes.plot(curve["epoch"], curve[metric], "--", color="0.25", label="published", zorder=3)
        data = pd.concat([data, curve.assign(label="published")[["label", "epoch", metric]]], ignore_index=True)
    axes.set_title(f"{group.label}: {TITLES[metric]} ({group.protocol})")
    axes.legend()
    last = rows[rows["epoch"] == rows["epoch"].max()][metric]
    return Drawing(
        name=f"{slug(group.section)}/{group.slug}-{slug(metric)}",
        title=f"{group.label}: {TITLES[metric]}",
        description=f"Line over {rows['epoch'].max()} epochs; the last epoch's mean is {last.mean():.4f}"
        + (", with the published curve dashed." if reference else "."),
        figure=figure,
        data=data,
    )


def _together(
    section: str,
    groups: list[Group],
    epochs: pd.DataFrame,
    metric: str,
    styles: dict[str, tuple[tuple[float, ...], str]],
) -> Drawing:
    figure, axes = _axes(metric)
    for group in groups:
        _draw(axes, epochs[epochs["label"] == group.label], metric, *styles[group.label], group.label)
    _zoom(axes, epochs, metric)
    axes.set_title(f"{TITLES[metric].capitalize()} ({section})")
    axes.legend()
    last = epochs[epochs["epoch"] == epochs.groupby("label")["epoch"].transform("max")]
    ends = last.groupby("label", sort=False)[metric].mean()
    return Drawing(
        name=f"{slug(section)}/all-{slug(metric)}",
        title=f"{TITLES[metric].capitalize()} of all models",
        description="Lines with the band of their seeds; the last epoch's means are "
        + ", ".join(f"{label} {value:.4f}" for label, value in ends.items())
        + ".",
        figure=figure,
        data=epochs[["label", "seed", "epoch", metric]],
    )


def _axes(metric: str) -> tuple[Figure, Axes]:
    figure = Figure()
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.set_ylabel(AXES[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, axes


def _draw(axes: Axes, rows: pd.DataFrame, metric: str, colour: tuple[float, ...], marker: str, label: str) -> None:
    sns.lineplot(
        data=rows,
        x="epoch",
        y=metric,
        errorbar="sd",
        color=colour,
        marker=marker,
        markeredgewidth=0,
        label=label,
        ax=axes,
    )
    axes.set_ylabel(AXES[metric])


def _zoom(axes: Axes, epochs: pd.DataFrame, metric: str) -> None:
    """Let the first epoch leave the frame, where it would squash all later ones together."""
    later = epochs[epochs["epoch"] > 1][metric]
    if len(later) and epochs["epoch"].max() >= 5:
        margin = 0.05 * (later.max() - later.min())
        axes.set_ylim(later.min() - margin, later.max() + margin)


def _styles(groups: list[Group]) -> dict[str, tuple[tuple[float, ...], str]]:
    colours = (
        sns.color_palette(PALETTE, max(3, len(groups))) if len(groups) <= 10 else sns.husl_palette(len(groups))
    )
    return {group.label: (colours[i], MARKERS[i % len(MARKERS)]) for i, group in enumerate(groups)}


def _of_seeds(group: Group) -> str:
    n = len(group.runs)
    return "1 seed" if n == 1 else f"mean of {n} seeds, band: ± 1 standard deviation"
