"""Make the report of all finished runs, tables, figures and page: ``make report``."""

import argparse
import dataclasses
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_exp.process import leave
from mnist_exp.report import cost, errors, figures, page, tables
from mnist_exp.report.collect import collect, why

MANIFEST = ".report-files"
"""Names what a report has written, so that the next one can take away what it no longer has."""


def main(arguments: list[str] | None = None) -> int:
    """Read the runs, write the report, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/report"), help="where to write (%(default)s)")
    data = Path(os.environ.get("MNIST_EXP_DATA") or "data")
    parser.add_argument("--data", type=Path, default=data, help="folder of the digits, for pictures (%(default)s)")
    options = parser.parse_args(arguments)

    try:
        collection = collect(options.runs) if options.runs.is_dir() else None
    except OSError as error:
        print(f"report: {options.runs} {why(error)}", file=sys.stderr)
        return 1
    mistakes, damaged = errors.analyse(collection) if collection else ([], [])
    if collection:
        collection = dataclasses.replace(collection, problems=(*collection.problems, *damaged))
        for problem in collection.problems:
            kind = "left out" if problem.left_out else "in part"
            print(f"{kind}: {problem.folder} {problem.reason}", file=sys.stderr)
    if not collection or not collection.groups:
        print(f"report: there is no finished run in {options.runs}. Train some first: make sweep", file=sys.stderr)
        return 1

    measured = cost.measure(collection)
    made = [tables.comparison(collection), tables.cost(measured)]
    made += [t for t in (f(collection) for f in (tables.verdict, tables.forensics, tables.differences)) if t]
    if mistakes:
        made += [tables.confused(mistakes), *tables.classes(mistakes), tables.calibration(mistakes)]
    drawings = []
    for section in collection.sections:
        mine = [m for m in mistakes if m.group.section == section]
        drawings += figures.of_section(collection, section, mine, measured)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        files = tables.write(made, options.out) + figures.write(drawings, options.out)
        text = page.render(collection, made, drawings, mistakes, options.out, options.data)
        (options.out / "index.html").write_text(text, encoding="utf-8", newline="\n")
        _remove_stale(options.out, [*files, "index.html"])
    except OSError as error:
        print(f"report: {error.filename or options.out} can't be written: {error.strerror}", file=sys.stderr)
        return 1
    except BrokenProcessPool:
        again = "type the same command again"
        print(f"report: a process that draws was killed (out of memory, perhaps); {again}", file=sys.stderr)
        return 1
    terminal = Console()
    console = Console(width=None if terminal.is_terminal else 160, markup=False, emoji=False, highlight=False)
    for table in (t for t in made if t.name in ("comparison", "verdict", "forensics", "differences")):
        _print(table, console)
    print(f"{len(made)} tables and {len(drawings)} figures; see {options.out / 'index.html'}")
    return 0


def _remove_stale(out: Path, files: list[str]) -> None:
    """Remove what an earlier report wrote and this one did not; other files are none of ours."""
    manifest = out / MANIFEST
    earlier = manifest.read_text(encoding="utf-8", errors="replace").splitlines() if manifest.is_file() else []
    for name in sorted(set(earlier) - set(files), reverse=True):
        path = out / name
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts and path.is_file():
            path.unlink()
            if path.parent != out and not any(path.parent.iterdir()):
                path.parent.rmdir()
    manifest.write_text("".join(f"{name}\n" for name in sorted(files)), encoding="utf-8", newline="\n")


def _print(table: tables.Table, console: Console) -> None:
    shown = Table(*table.cells.columns, title=table.title, title_justify="left", caption=table.note)
    for row in table.cells.itertuples(index=False):
        shown.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(shown)


if __name__ == "__main__":
    leave(main)
