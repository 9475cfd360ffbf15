"""The whole report: tables, figures and page, written beside the old one and then put in its place."""

import dataclasses
import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mnist_exp.report import figure_files, figures, page, tables
from mnist_exp.report.collect import Collection, collect
from mnist_exp.report.estimates import make_estimates
from mnist_exp.report.image_errors import load_errors
from mnist_exp.report.table import Table, write_tables

MANIFEST = ".report-files"
"""Names the files of a report, so that the next one can remove those that it does not have."""


@dataclass(frozen=True)
class Report:
    """What a report was made of, and what it shows."""

    collection: Collection
    tables: list[Table]
    figures: int


def build(runs: Path, out: Path, data: Path) -> Report:
    """Read the runs and write their report; without a finished run, nothing is written.

    Args:
        runs: the folder of the run folders.
        out: where to write.
        data: the folder of the datasets, for pictures.

    Raises:
        OSError: ``runs`` cannot be read, or ``out`` cannot be written; the old report is then unchanged.
    """
    collection = collect(runs)
    errors, damaged = load_errors(collection)
    collection = dataclasses.replace(collection, problems=(*collection.problems, *damaged))
    if not collection.groups:
        return Report(collection, [], 0)
    estimates = make_estimates(collection, errors)
    of_both = (tables.comparison, tables.verdict, tables.forensics, tables.differences)
    made = [make(collection, estimates) for make in of_both] + [tables.cost(estimates)]
    made += [tables.confused(errors), *tables.classes(errors), tables.calibration(errors)]
    shown = [table for table in made if table]
    plots = figures.of_all(collection, estimates, errors)
    new = out / ".new"
    try:
        new.mkdir(parents=True, exist_ok=True)
        files = write_tables(shown, new) + figure_files.write(plots, new)
        text = page.render(collection, estimates, shown, plots, errors, new, data)
        (new / "index.html").write_text(text, encoding="utf-8", newline="\n")
        _replace(out, new, [*files, "index.html"])
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Report(collection, shown, len(plots))


def _replace(out: Path, new: Path, files: list[str]) -> None:
    """Move the new report's files into place, and remove those that only the old one had."""
    manifest = out / MANIFEST
    earlier = manifest.read_text(encoding="utf-8", errors="replace").splitlines() if manifest.is_file() else []
    (new / MANIFEST).write_text("".join(f"{name}\n" for name in sorted(files)), encoding="utf-8", newline="\n")
    for target in (out / name for name in [*files, MANIFEST]):  # before any is replaced
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(target))
        if target.parent.exists() and not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "cannot be written to", str(target.parent))
    for name in [*files, MANIFEST]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(out / name)  # takes no room on the disk
    for name in sorted(set(earlier) - set(files), reverse=True):
        path = out / name
        if name and not Path(name).is_absolute() and ".." not in Path(name).parts and path.is_file():
            path.unlink()
            if path.parent != out and not any(path.parent.iterdir()):
                path.parent.rmdir()
