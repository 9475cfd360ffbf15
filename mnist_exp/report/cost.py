"""What a group of runs costs: size, arithmetic and time."""

import math

import pandas as pd

from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.formats import MISSING, SECTION, Row, Table, make_table, number
from mnist_exp.report.runs import TIMES
from mnist_exp.report.text import printable


def measure(collection: Collection) -> list[Row]:
    """A row for each group: its size, its times in seconds, and what they were measured on.

    Times are medians over the runs, with the lowest and the highest, of each run's median epoch. What no
    run has measured is NaN.
    """
    rows = []
    for group in collection.groups:
        row: Row = {"section": group.section, "model": group.label, "parameters": group.record.parameters}
        row["multiply_accumulates"] = group.record.multiply_accumulates or math.nan
        medians = [run.timing[[*TIMES]].median() for run in group.runs if run.timing is not None]
        row |= _spread("epoch_seconds", [float(m["train_seconds"] + m["eval_seconds"]) for m in medians])
        row |= _spread("images_per_second", [float(m["train_images_per_second"]) for m in medians])
        rows.append(row | {"timed_runs": len(medians), "machine": _machines(group)})
    return rows


def table(measured: list[Row]) -> Table:
    """The table of what `measure` found."""
    cells = [
        {
            SECTION: row["section"],
            "Model": row["model"],
            "Parameters": number(row["parameters"], ","),
            "Multiply-accumulates per image": number(row["multiply_accumulates"], ","),
            "Seconds per epoch": _spread_cell(row, "epoch_seconds", ".2f"),
            "Images per second": _spread_cell(row, "images_per_second", ",.0f"),
            "Measured on": row["machine"],
        }
        for row in measured
    ]
    note = (
        "Multiply-accumulates of one forward pass per image. Seconds per epoch are training and evaluation "
        "together, images per second training alone: the median epoch of each run, and of these the median (lowest to "
        "highest run). Runs that shared a machine with other work are slower."
    )
    return make_table("cost", "Cost", note, measured, cells)


def _spread(name: str, values: list[float]) -> Row:
    found = pd.Series(values, dtype=float)
    return {name: found.median(), f"{name}_low": found.min(), f"{name}_high": found.max()}


def _spread_cell(row: Row, key: str, spec: str) -> str:
    if pd.isna(row[key]):
        return MISSING
    return f"{row[key]:{spec}} ({row[f'{key}_low']:{spec}} to {row[f'{key}_high']:{spec}})"


def _machines(group: Group) -> str:
    found = set()
    for run in group.runs:
        if provenance := run.record.provenance:
            device, threads = provenance.get("device"), provenance.get("threads")
            chip = provenance.get("cpu") if device == "cpu" else device
            found.add(printable(f"{chip}, {threads} thread{'' if threads == 1 else 's'}"))
    return "; ".join(sorted(found)) or "not recorded"
