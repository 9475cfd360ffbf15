"""One table, how its cells are written, and its files: CSV, Markdown and LaTeX."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp.report.statistics import IMAGES, SEEDS, Estimate

Row = dict[str, Any]
CellWriter = Callable[[Row], str]
"""Writes a cell from a table's row."""
MISSING = "–"
SECTION = "Data and protocol"
ESCAPES = str.maketrans({"\\": r"\\", "|": r"\|", "<": "&lt;"})
"""What would end a cell or begin a tag in Markdown."""
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "#$%&_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
"""What LaTeX would not print as it is; pandas does the same in cells."""


@dataclass(frozen=True)
class Table:
    """One table: its numbers as data, and its cells as a person reads them."""

    name: str
    title: str
    note: str
    """What a reader must know to read it rightly."""
    data: pd.DataFrame
    cells: pd.DataFrame


def make_table(name: str, title: str, note: str, rows: list[Row], columns: Mapping[str, CellWriter]) -> Table:
    """A table with a column for each head; the section's is left out where all rows share one section."""
    cells = pd.DataFrame({head: [write(row) for row in rows] for head, write in columns.items()}, dtype=object)
    if SECTION in cells and cells[SECTION].nunique() == 1:
        del cells[SECTION]
    return Table(name, title, note, pd.DataFrame(rows), cells)


def text(key: str) -> CellWriter:
    """What the row says, if it is known."""
    return lambda row: MISSING if pd.isna(row[key]) else str(row[key])


def number(key: str, spec: str, unit: str = "") -> CellWriter:
    """A number in this format, if it is known."""
    return lambda row: MISSING if pd.isna(row[key]) else f"{row[key]:{spec}}{unit}"


def mean_std(mean: str, std: str = "") -> CellWriter:
    """A mean ± its standard deviation, MEAN_std unless named; of a single seed, the value."""
    spread = std or f"{mean}_std"
    return lambda row: number(mean, ".4f")(row) + ("" if pd.isna(row[spread]) else f" ± {row[spread]:.4f}")


def span(name: str, spec: str = ".4f") -> CellWriter:
    """An interval, NAME_low to NAME_high, if it is known."""
    low, high = number(f"{name}_low", spec), number(f"{name}_high", spec)
    return lambda row: MISSING if low(row) == MISSING else f"{low(row)} to {high(row)}"


def median_span(name: str, spec: str) -> CellWriter:
    """A median, and the lowest and highest value, if they are known."""
    return lambda row: MISSING if pd.isna(row[name]) else f"{row[name]:{spec}} ({span(name, spec)(row)})"


def interval(name: str, spec: str = ".4f") -> CellWriter:
    """An interval, and what it is for where that is less than new seeds and new images together."""
    basis = f"{name}_interval_for"
    return lambda row: span(name, spec)(row) + (f" ({row[basis]} only)" if row[basis] in (SEEDS, IMAGES) else "")


def estimate_columns(name: str, e: Estimate) -> Row:
    """All that an estimate says."""
    row: Row = {name: e.mean, f"{name}_std": e.std, f"{name}_low": e.low, f"{name}_high": e.high}
    row |= {f"{name}_interval_for": e.basis, f"{name}_seeds_low": e.seeds_low, f"{name}_seeds_high": e.seeds_high}
    return row | {f"{name}_variance_seeds": e.seeds_variance, f"{name}_variance_images": e.images_variance}


def seeds_columns(name: str, e: Estimate) -> Row:
    """What an estimate says of new seeds alone."""
    return {name: e.mean, f"{name}_std": e.std, f"{name}_low": e.seeds_low, f"{name}_high": e.seeds_high}


def write_tables(tables: Sequence[Table], folder: Path) -> list[str]:
    """Write each table as CSV (numbers in full), Markdown and LaTeX (booktabs); return the files' names."""
    names = []
    for table in tables:
        for kind, content in (("csv", csv(table.data)), ("md", markdown(table.cells)), ("tex", latex(table))):
            names.append(f"{table.name}.{kind}")
            (folder / names[-1]).write_text(content, encoding="utf-8", newline="\n")
    return names


def csv(data: pd.DataFrame) -> str:
    """Data as CSV text: numbers in full, the same on every system."""
    return data.to_csv(index=False, lineterminator="\n")


def markdown(cells: pd.DataFrame) -> str:
    """A GitHub-flavoured Markdown table; numbers to the right."""
    lines = [list(cells.columns), ["---:" if right else "---" for right in numeric(cells)], *cells.to_numpy()]
    escaped = [[cell.translate(ESCAPES) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def latex(table: Table) -> str:
    """A LaTeX table with booktabs' rules."""
    columns = "".join("r" if right else "l" for right in numeric(table.cells))
    caption = f"{table.title}. {table.note}".translate(LATEX)
    body = table.cells.to_latex(index=False, escape=True, column_format=columns, caption=caption)
    return f"% \\usepackage{{booktabs}}\n{body}"


def numeric(cells: pd.DataFrame) -> list[bool]:
    """Which columns hold numbers."""
    return [all(cell[:1].isdigit() or cell[:1] in "+-–" for cell in cells[name]) for name in cells.columns]
