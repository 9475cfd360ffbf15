"""Make the comparison table and the plots of all finished runs: ``make report``."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mnist_exp.report import figures, tables
from mnist_exp.report.collect import collect


def main() -> int:
    """Read the runs, write the report, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="where to write (%(default)s)")
    arguments = parser.parse_args()

    collection = collect(arguments.runs)
    for name, reason in collection.problems:
        print(f"left out: {name} {reason}", file=sys.stderr)
    if not collection.groups:
        print(
            f"report: there is no finished run in {arguments.runs}. Train some first: make sweep", file=sys.stderr
        )
        return 1
    made = [tables.comparison(collection)]
    made += [t for t in (f(collection) for f in (tables.verdict, tables.forensics, tables.differences)) if t]
    drawings = [drawing for section in collection.sections for drawing in figures.curves(collection, section)]
    try:
        tables.write(made, arguments.out)
        figures.write(drawings, arguments.out)
    except OSError as error:
        print(f"report: {error.filename or arguments.out} can't be written: {error.strerror}", file=sys.stderr)
        return 1
    terminal = Console()
    for table in made:
        _print(table, Console(width=None if terminal.is_terminal else 160))
    print(f"{len(made)} tables and {len(drawings)} figures lie in {arguments.out}")
    return 0


def _print(table: tables.Table, console: Console) -> None:
    shown = Table(*table.cells.columns, title=table.title, title_justify="left", caption=table.note)
    for row in table.cells.astype(str).itertuples(index=False):
        shown.add_row(*row)
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
