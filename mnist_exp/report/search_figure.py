"""The figure of a search: validation accuracy by each setting that was searched."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mnist_exp.report.collect import Group
from mnist_exp.report.figure_files import MARKERS, PLAIN, Plot
from mnist_exp.report.labels import is_determined_by, short_name, shown_value

MIN_TRIALS = 5  # fewer settings that were validated are no search
SEARCHED = ("optimizer", "scheduler", "batch_size")


def slices(section: str, trials: Sequence[Group]) -> list[Plot]:
    """Each trial's validation accuracy against each setting that was searched; none without a search."""
    keys, score = _searched([trial.settings for trial in trials]), "validation_accuracy"
    if len(trials) < MIN_TRIALS or not keys or trials[0].selection_metric != score:
        return []
    rows = [{"model": t.record.title, **{key: t.settings[key] for key in keys}, score: t.mean_score} for t in trials]
    data, best = pd.DataFrame(rows, dtype=object), max(trials, key=lambda trial: trial.mean_score)
    settings = ", ".join(f"{short_name(key)}={shown_value(key, best.settings[key])}" for key in keys)
    text = f"A point is a trial; of {len(trials)}, those of the lowest quarter may be below the frame. "
    text += f"Best: {best.record.title} with {settings}, {best.mean_score:.4f}."
    draw = partial(_draw_slices, section, data, keys)
    return [Plot("overview", section, "slices", "Validation accuracy by setting", text, data, draw)]


def _draw_slices(section: str, data: pd.DataFrame, keys: Sequence[str]) -> Figure:
    figure, scores = Figure(figsize=(1 + 2 * len(keys), 3), layout="constrained"), data["validation_accuracy"]
    for axes, key in zip(figure.subplots(1, len(keys), sharey=True, squeeze=False)[0], keys, strict=True):
        numeric = all(isinstance(value, int | float | None) for value in data[key])
        words = pd.Series([shown_value(key, value) for value in data[key]], dtype=object)
        xs = data[key].astype(float) if numeric else words
        for (title, part), marker in zip(data.groupby("model", sort=False), MARKERS, strict=False):
            axes.plot(xs[part.index], scores[part.index], marker, ms=5, alpha=0.7, label=title)
        if numeric and 0 < 10 * np.nanmin(xs) <= np.nanmax(xs):
            axes.set_xscale("log")
            axes.xaxis.set(major_formatter=PLAIN, minor_formatter=NullFormatter())
        axes.set_xlabel(short_name(key))
        if not numeric:
            axes.margins(x=0.4)
            axes.tick_params("x", labelsize=6.5)
    # Trials that learn nothing would compress all others.
    best, lowest = scores.max(), float(scores.quantile(1 / 4))
    margin = 0.1 * (best - lowest) or 0.01
    axes.set_ylim(lowest - margin, best + margin)
    figure.axes[0].set_ylabel("validation accuracy (fraction)")
    if data["model"].nunique() > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(f"{len(data)} trials ({section})", size=10)
    return figure


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
