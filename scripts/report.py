"""Make the report of all finished runs (tables, figures and page): ``make report``."""

import argparse
import errno
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.errors import UserError
from mnist_exp.report.build import build
from mnist_exp.report.table import Table
from mnist_exp.runs.record import RECORD
from mnist_exp.settings.schema import default_data_root

PRINTED = ("comparison", "verdict", "forensics", "differences")


def main(arguments: list[str] | None = None) -> int:
    """Write the report, and print its main tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="where to write (%(default)s)")
    data = default_data_root()
    parser.add_argument("--data", type=Path, default=data, help="folder of the images, for pictures (%(default)s)")
    options = parser.parse_args(arguments)
    none = f"there are no finished runs in {options.runs}. Train some first: make sweep"
    if (options.runs / RECORD).is_file():
        none = f"{options.runs} is a run; name the folder that it is in"
    if not options.runs.is_dir():
        raise UserError(none)
    if options.out.resolve() == options.runs.resolve():
        raise UserError(f"{options.out} is the folder of the runs; name another one for the report (--out)")
    try:
        report = build(options.runs, options.out, options.data)
    except OSError as error:
        if error.filename == str(options.runs):
            raise UserError(f"{options.runs} cannot be read: {error.strerror}") from error
        what = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the folder, or set another one"
        raise UserError(
            f"{error.filename or options.out}: {error.strerror}; {what} (--out), then repeat the command. "
            "The report that was there is unchanged"
        ) from error
    except BrokenProcessPool as error:
        raise UserError("a drawing process was killed (out of memory, perhaps); repeat the command") from error
    for line in report.collection.remarks:
        print(line, file=sys.stderr)
    if not report.collection.groups:
        raise UserError(none)
    terminal = Console()
    console = Console(width=None if terminal.is_terminal else 160, markup=False, emoji=False, highlight=False)
    for table in (table for table in report.tables if table.name in PRINTED):
        _print(table, console)
    print(f"{len(report.tables)} tables and {report.figures} figures; see {options.out / 'index.html'}")
    return 0


def _print(table: Table, console: Console) -> None:
    shown = rich_table.Table(*table.cells.columns, title=table.title, title_justify="left", caption=table.note)
    for row in table.cells.itertuples(index=False):
        shown.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(shown)


if __name__ == "__main__":
    run_script(main)
