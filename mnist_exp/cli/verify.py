"""Train stored runs again from their own records, and compare the bytes: ``make verify``.

Exit code 0: all equal. 1: a run came out differently, and nothing in its record explains it.
2: a run could not be compared. 3: numbers differ slightly, and so do library versions or the processor.
"""

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from mnist_exp.cli.messages import unreadable_reason
from mnist_exp.cli.progress import Lines
from mnist_exp.errors import ConfigError, DivergedError, RunFolderError
from mnist_exp.files import write_atomically
from mnist_exp.job import train_run
from mnist_exp.machine.fingerprint import EQUIVALENT, LIBRARIES, other_code, present_code, representative
from mnist_exp.machine.parent import exit_when_parent_dies
from mnist_exp.machine.provenance import PROJECT
from mnist_exp.runs.record import METRICS, RESULT_FILES, Record, checksum, read_record
from mnist_exp.settings.identity import IDENTITY_VERSION, diff_settings
from mnist_exp.settings.schema import Config, DataConfig, DeviceConfig, ProtocolConfig, default_data_root
from mnist_exp.text import printable

EQUAL, DIFFERENT, UNVERIFIED, CLOSE = range(4)
VERDICTS = ("equal, bit for bit", "DIFFERENT", "cannot be verified", "numerically close")
TOLERANCE = {"test_accuracy": 0.005, "test_loss": 0.02}  # measured: docs/reproduction.md, "Elsewhere"
ENVIRONMENT = ("platform", "cpu", "cpu_capability", "threads", "device")
"""What can change how arithmetic rounds, of all that is recorded."""
PROCESSOR = ("cpu", "cpu_capability")
"""Those of them that cannot, where arithmetic is portable."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one run."""

    name: str
    verdict: int
    details: list[str]


def verify(run: Path, train_dir: str | None = None, test_dir: str | None = None) -> Finding:
    """Train a run again, in a temporary folder, and compare the two; the others say where its PNG files are here."""
    exit_when_parent_dies()
    try:
        record = read_record(run)
        if record.status != "finished":
            raise RunFolderError(f"it is not finished ({record.status})")
        of_folders = record.identity["data"]["name"] == "png_folder"
        folders = {"train_dir": train_dir, "test_dir": test_dir} if of_folders else {}
        with tempfile.TemporaryDirectory() as temporary:
            result = train_run(_config(record, temporary, folders), record.choices, {}, Lines)
            return _compare(run, record, Path(result.folder))
    except DivergedError as error:  # which the stored run did not
        return Finding(run.name, DIFFERENT, [str(error)])
    except Exception as error:  # a record may hold anything
        return Finding(run.name, UNVERIFIED, [unreadable_reason(error)])


def _config(record: Record, output_root: str, folders: dict[str, Any]) -> Config:
    if record.identity.get("version") != IDENTITY_VERSION:
        raise ConfigError("made by another version of mnist_exp; only that version can repeat it")
    settings = dict(record.config)
    settings["device"] = DeviceConfig(**settings["device"] | {"name": record.identity["device"]["type"]})
    settings["data"] = DataConfig(**settings["data"], root=str(default_data_root()), **folders)
    settings["protocol"] = ProtocolConfig(**settings["protocol"])
    return Config(**settings, output_root=output_root)


def _compare(run: Path, record: Record, retrained: Path) -> Finding:
    again = read_record(retrained)
    if others := diff_settings(again.identity, record.identity):
        return Finding(run.name, DIFFERENT, [f"its data or settings differ: {', '.join(others)}"])
    stored = dict(record.files or {})  # of a file that was too large to be kept, this is all there is
    stored |= {name: checksum(run / name) for name in RESULT_FILES if (run / name).exists()}
    changed = [name for name in RESULT_FILES if checksum(retrained / name) != stored[name]]
    if not changed:
        return Finding(run.name, EQUAL, [])
    return _explain(run, record, again, retrained, changed)


def _explain(run: Path, record: Record, again: Record, retrained: Path, changed: list[str]) -> Finding:
    """What differs and why, where it is known."""
    details = [f"{', '.join(changed)} came out differently"]
    tampered = checksum(run / METRICS) != (record.files or {})[METRICS]
    if tampered:
        details.append(f"{METRICS} is not the file that the run wrote: it was changed afterwards")
    stored, new = pd.read_csv(run / METRICS), pd.read_csv(retrained / METRICS)
    if stored.shape != new.shape or list(stored) != list(new):
        return Finding(run.name, DIFFERENT, [*details, f"{METRICS} has other rows or columns"])
    unequal = (stored != new).to_numpy().nonzero()
    if len(unequal[0]):
        row, column = int(unequal[0][0]), str(stored.columns[unequal[1][0]])
        was, now = float(stored[column].iloc[row]), float(new[column].iloc[row])
        details.append(f"first difference: epoch {row + 1}, {column}: stored {was}, now {now}")
    far = {name: float((stored[name] - new[name]).abs().iloc[-1]) for name in TOLERANCE}
    details.append("difference after the last epoch: " + ", ".join(f"{n} {d:.2g}" for n, d in far.items()))
    if other := other_code(record.identity, record.code) if record.code else "":
        details.append(f"the code is not the one that made the run: {other}")
    explained = diff_settings(_rounding(again), _rounding(record))
    details += [f"recorded and present environment differ: {line}" for line in explained]
    if not (explained or tampered or other):
        details.append("nothing that is recorded explains it")
    close = bool(explained) and not (tampered or other) and all(far[name] <= limit for name, limit in TOLERANCE.items())
    return Finding(run.name, CLOSE if close else DIFFERENT, details)


def undeclared_changes(records: list[Record]) -> set[tuple[str, str, str]]:
    """How the present code differs from that of these runs: part, old checksum, new checksum."""
    return {
        (part, record.code[part], new)
        for record in records
        if record.code
        for part, new in present_code(record.identity).items()
        if representative(part, record.code[part]) != representative(part, new)
    }


def declare(what: str, changes: set[tuple[str, str, str]]) -> None:
    """Note that these changes leave all numbers alone."""
    text = json.dumps("".join(c if c.isprintable() else " " for c in what), ensure_ascii=False)  # is TOML, too
    known = EQUIVALENT.read_text(encoding="utf-8")
    for part, old, new in sorted(changes):
        known += f'\n[[change]]\nwhat = {text}\npart = "{part}"\nold = "{old}"\nnew = "{new}"\n'
    write_atomically(EQUIVALENT, known.encode())


def _rounding(record: Record) -> dict[str, Any]:
    """The part of a record's provenance that can change how arithmetic rounds."""
    provenance = record.provenance or {}
    packages = {package: provenance["packages"][package] for package in LIBRARIES}
    portable = provenance.get("portable", False)
    return {key: provenance[key] for key in ENVIRONMENT if not (portable and key in PROCESSOR)} | packages


def main() -> int:
    """Verify the given runs in parallel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--all", action="store_true", help="verify all reference runs, not just one per model")
    parser.add_argument("--reference", type=Path, default=PROJECT / "outputs/reference/runs")
    parser.add_argument(
        "--declare", metavar="WHAT", help="if all are equal, note that this change of the code is harmless"
    )
    parser.add_argument("--train-dir", help="training images of runs with data=png_folder")
    parser.add_argument("--test-dir", help="test images of runs with data=png_folder")
    arguments = parser.parse_args()
    runs = [run.absolute() for run in arguments.runs]  # "." has no name
    runs = runs or sorted(path.parent for path in arguments.reference.glob("*/run.json"))
    if not arguments.runs and not arguments.all:
        runs = [*{run.name.partition("-")[0]: run for run in reversed(runs)}.values()]  # the first of each model
    if not runs:
        print(f"verify: there are no runs in {arguments.reference}", file=sys.stderr)
        return UNVERIFIED
    records = {}
    for run in runs:
        with contextlib.suppress(Exception):  # `verify` will say what is wrong with it
            records[run] = read_record(run)
    # Of the code that is about to run, whatever is edited meanwhile.
    changes = undeclared_changes([*records.values()]) if arguments.declare else set()
    folders = (arguments.train_dir, arguments.test_dir)
    try:
        findings: list[Finding] = []
        devices = {run: str(record.identity.get("device")) for run, record in records.items()}
        for _, group in itertools.groupby(sorted(runs, key=lambda run: devices.get(run, "")), devices.get):
            if findings:  # a process keeps its arithmetic
                get_reusable_executor().shutdown()
            findings += Parallel(n_jobs=-1, batch_size=1)(delayed(verify)(run, *folders) for run in group)
    except BrokenProcessPool:
        print("verify: a process was killed (out of memory, perhaps); repeat the command", file=sys.stderr)
        return UNVERIFIED
    for finding in findings:
        print(f"{printable(finding.name)}: {VERDICTS[finding.verdict]}")
        for detail in finding.details:
            print(f"  {printable(detail)}")
    verdicts = {finding.verdict for finding in findings}
    if arguments.declare and verdicts == {EQUAL}:
        declare(arguments.declare, changes)
        print(f"new entries in {EQUIVALENT.name}: {len(changes)}; commit that file")
    return next(verdict for verdict in (DIFFERENT, UNVERIFIED, CLOSE, EQUAL) if verdict in verdicts)
