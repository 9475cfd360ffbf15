"""Figures as files: each as SVG, PDF and PNG, with the numbers behind it as CSV; the same bytes every time."""

import functools
import gc
import itertools
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import font_manager, style
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from mnist_exp.machine.parent import exit_when_parent_dies
from mnist_exp.report.table import csv

# No date, no version, no random identifiers: the same runs give the same bytes.
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}
STYLE = ["default", str(Path(__file__).with_name("report.mplstyle"))]
"""Over matplotlib's defaults, whatever the user's matplotlibrc says."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
PLAIN = StrMethodFormatter("{x:,g}")
"""What the ticks of an axis show."""
OTHER_SCRIPTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Droid Sans Fallback", "WenQuanYi Zen Hei"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
)
"""Fonts for what DejaVu Sans does not have; those that are installed are used."""


@dataclass(frozen=True)
class Plot:
    """A figure to be drawn: its topic, its name, what it shows in words, its numbers."""

    topic: str
    section: str
    name: str
    """The path of its files below the report's folder, without their endings."""
    title: str
    description: str
    data: pd.DataFrame
    draw: Callable[[], Figure]
    """Can be pickled, to be drawn by another process."""


def write(plots: Sequence[Plot], folder: Path) -> list[str]:
    """Write figures in every format, and their numbers, below ``folder``; return the files' names."""
    for path in (folder / plot.name for plot in plots):
        path.parent.mkdir(parents=True, exist_ok=True)
    last_first = plots[::-1]  # the slow ones are last
    try:
        # A forked process need not import anything; forking is safe on Linux alone.
        workers, fork = len(os.sched_getaffinity(0)), multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(workers, mp_context=fork, initializer=_start_worker)
    except (AttributeError, OSError, ImportError, NotImplementedError):  # another system, or no usable /dev/shm
        missing = [_write(plot, folder) for plot in last_first]
    else:
        with pool:
            missing = list(pool.map(_write, last_first, itertools.repeat(folder)))
    if any(missing):
        print(
            "warning: no font here has all characters of the titles, so boxes stand for some of them in the figures; "
            "install one that has them, such as Noto Sans CJK",
            file=sys.stderr,
        )
    return [f"{plot.name}.{kind}" for plot in plots for kind in (*METADATA, "csv")]


def _start_worker() -> None:
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    exit_when_parent_dies()


def _write(plot: Plot, folder: Path) -> bool:
    """Write one figure; return whether its text has characters that no font has."""
    path = folder / plot.name
    installed = [name for name in OTHER_SCRIPTS if name in _font_names()]
    with (
        style.context([*STYLE, {"font.family": ["DejaVu Sans", *installed]}]),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        figure = plot.draw()
        if figure.get_layout_engine():  # laid out once, not once for each format
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        for kind, metadata in METADATA.items():
            figure.savefig(path.with_name(f"{path.name}.{kind}"), format=kind, metadata=metadata)
    path.with_name(f"{path.name}.csv").write_text(csv(plot.data), encoding="utf-8", newline="\n")
    return any("missing from" in str(each.message) for each in said)


@functools.cache
def _font_names() -> set[str]:
    return set(font_manager.get_font_names())
