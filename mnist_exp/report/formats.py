"""One table, how its cells are written, and its files: CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp.report.statistics import IMAGES, SEEDS, Estimate

Row = dict[str, Any]
MISSING = "–"
SECTION = "Data and protocol"
ESCAPES = str.maketrans({"\\": r"\\", "|": r"\|", "<": "&lt;"})
"""What would end a cell or begin a tag in Markdown."""


@dataclass(frozen=True)
class Table:
    """One table: its numbers as data, and its cells as a person reads them."""

    name: str
    title: str
    note: str
    """What a reader must know to read it rightly."""
    data: pd.DataFrame
    cells: pd.DataFrame


def make_table(name: str, title: str, note: str, rows: list[Row], cells: list[dict[str, str]]) -> Table:
    """A table of these rows; a section that all of them share needs no column."""
    text = pd.DataFrame(cells, dtype=object)
    if SECTION in text and text[SECTION].nunique() == 1:
        del text[SECTION]
    return Table(name, title, note, pd.DataFrame(rows), text)


def number(value: float | None, spec: str, unit: str = "") -> str:
    """A number in this format, if it is known."""
    return MISSING if pd.isna(value) else f"{value:{spec}}{unit}"


def mean_std(e: Estimate) -> str:
    """A mean ± its standard deviation; of a single seed, the value."""
    return number(e.mean, ".4f") + ("" if pd.isna(e.std) else f" ± {e.std:.4f}")


def span(low: float, high: float, spec: str = ".4f") -> str:
    """An interval, if it is known."""
    return MISSING if pd.isna(low) else f"{low:{spec}} to {high:{spec}}"


def interval(e: Estimate, spec: str = ".4f") -> str:
    """An interval, and what it is for where that is less than new seeds and new images together."""
    return span(e.low, e.high, spec) + (f" ({e.basis} only)" if e.basis in (SEEDS, IMAGES) else "")


def estimate_columns(name: str, e: Estimate) -> Row:
    """All that an estimate says."""
    row: Row = {name: e.mean, f"{name}_std": e.std, f"{name}_low": e.low, f"{name}_high": e.high}
    row |= {f"{name}_interval_for": e.basis, f"{name}_seeds_low": e.seeds_low, f"{name}_seeds_high": e.seeds_high}
    return row | {f"{name}_variance_seeds": e.seeds_variance, f"{name}_variance_images": e.images_variance}


def seeds_columns(name: str, e: Estimate) -> Row:
    """What an estimate says of new seeds alone."""
    return {name: e.mean, f"{name}_std": e.std, f"{name}_low": e.seeds_low, f"{name}_high": e.seeds_high}


def write(tables: Sequence[Table], folder: Path) -> list[str]:
    """Write each table as CSV (numbers in full), Markdown and LaTeX (booktabs); return the files' names."""
    files = {
        f"{table.name}.{kind}": text
        for table in tables
        for kind, text in (("csv", csv(table.data)), ("md", markdown(table.cells)), ("tex", latex(table)))
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return list(files)


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
    caption = f"{table.title}. {table.note}".replace("%", r"\%")
    text = table.cells.to_latex(index=False, escape=True, column_format=columns, caption=caption)
    return f"% \\usepackage{{booktabs}}\n{text}"


def numeric(cells: pd.DataFrame) -> list[bool]:
    """Which columns hold numbers."""
    return [all(cell[:1].isdigit() or cell[:1] in "+-–" for cell in cells[name]) for name in cells.columns]
