"""Legends that do not cover the data."""

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MAX_INSIDE = 90
"""Characters of all labels together that fit between the lines of a figure."""
LINE_INCHES = 0.18


def add_legend(figure: Figure, axes: Axes) -> None:
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
