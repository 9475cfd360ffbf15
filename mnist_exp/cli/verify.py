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

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

from mnist_exp.cli.messages import job_failure_reason
from mnist_exp.cli.progress import Lines
from mnist_exp.errors import ChangedFileError, ConfigError, DivergedError
from mnist_exp.files import PROJECT, write_atomically
from mnist_exp.job import train_run
from mnist_exp.machine.fingerprint import EQUIVALENT, canonical_checksum, other_code, present_code
from mnist_exp.machine.parent import exit_when_parent_dies
from mnist_exp.runs.read import Run, read_finished_run
from mnist_exp.runs.record import RESULT_FILES, Record, read_record
from mnist_exp.settings.identity import IDENTITY_VERSION, diff_settings
from mnist_exp.settings.schema import FOLDERS, Config, DataConfig, DeviceConfig, ProtocolConfig, default_data_root
from mnist_exp.text import printable

EQUAL, DIFFERENT, UNVERIFIED, CLOSE = range(4)
VERDICTS = ("equal, bit for bit", "DIFFERENT", "cannot be verified", "numerically close")
TOLERANCE = {"test_accuracy": 0.005, "test_loss": 0.02}  # measured: docs/reproduction.md, "Elsewhere"
ENVIRONMENT = ("platform", "cpu", "cpu_capability", "threads", "device")
"""What can change how arithmetic rounds, of all that is recorded."""
ROUNDING = ("torch", "numpy")
"""The packages that can."""
PROCESSOR = ("cpu", "cpu_capability")
"""Those of them that cannot, where arithmetic is portable."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one run."""

    name: str
    verdict: int
    details: list[str]


def verify(folder: Path, train_dir: str | None = None, test_dir: str | None = None) -> Finding:
    """Train a run again, in a temporary folder, and compare the two.

    Args:
        folder: the run's.
        train_dir: of a run with ``data=image_folder``, where its training images are now.
        test_dir: and its test images.
    """
    exit_when_parent_dies()
    try:
        run = read_finished_run(folder)
        of_folders = run.record.identity["data"]["name"] in FOLDERS
        folders = {"train_dir": train_dir, "test_dir": test_dir} if of_folders else {}
        with tempfile.TemporaryDirectory() as temporary:
            result = train_run(_config(run.record, temporary, folders), run.record.choices, {}, Lines)
            return _compare(run, read_finished_run(Path(result.folder)))
    except (DivergedError, ChangedFileError) as error:  # the stored run did not diverge
        return Finding(folder.name, DIFFERENT, [str(error)])
    except Exception as error:  # a record may hold anything
        return Finding(folder.name, UNVERIFIED, [job_failure_reason(error)])


def _config(record: Record, output_root: str, folders: dict[str, Any]) -> Config:
    if record.identity.get("version") != IDENTITY_VERSION:
        raise ConfigError("made by another version of mnist_exp; only that version can repeat it")
    settings = dict(record.config)
    settings["device"] = DeviceConfig(**settings["device"] | {"name": record.identity["device"]["type"]})
    settings["data"] = DataConfig(**settings["data"], root=str(default_data_root()), **folders)
    settings["protocol"] = ProtocolConfig(**settings["protocol"])
    return Config(**settings, output_root=output_root)


def _compare(run: Run, again: Run) -> Finding:
    name, record = run.folder.name, run.record
    if others := diff_settings(again.record.identity, record.identity):
        return Finding(name, DIFFERENT, [f"its data or settings differ: {', '.join(others)}"])
    for file in RESULT_FILES:  # one that was too large to be kept is known by its checksum
        if (run.folder / file).exists():
            run.read(file)
    changed = [file for file in RESULT_FILES if (again.record.files or {})[file] != (record.files or {}).get(file)]
    return _explain(run, again, changed) if changed else Finding(name, EQUAL, [])


def _explain(run: Run, again: Run, changed: list[str]) -> Finding:
    """What differs and why, where it is known."""
    details = [f"{', '.join(changed)} came out differently"]
    stored, new = run.epochs, again.epochs
    unequal = (stored != new).to_numpy().nonzero()
    if len(unequal[0]):
        row, column = int(unequal[0][0]), str(stored.columns[unequal[1][0]])
        was, now = float(stored[column].iloc[row]), float(new[column].iloc[row])
        details.append(f"first difference: epoch {row + 1}, {column}: stored {was}, now {now}")
    far = {name: float((stored[name] - new[name]).abs().iloc[-1]) for name in TOLERANCE}
    details.append("difference after the last epoch: " + ", ".join(f"{n} {d:.2g}" for n, d in far.items()))
    code = run.record.code
    if other := other_code(run.record.identity, present_code(run.record.identity), code) if code else "":
        details.append(f"the code is not the one that made the run: {other}")
    explained = diff_settings(_rounding(again.record), _rounding(run.record))
    details += [f"recorded and present environment differ: {line}" for line in explained]
    if not (explained or other):
        details.append("nothing that is recorded explains it")
    close = bool(explained) and not other and all(far[name] <= limit for name, limit in TOLERANCE.items())
    return Finding(run.folder.name, CLOSE if close else DIFFERENT, details)


def undeclared_changes(records: list[Record]) -> set[tuple[str, str, str]]:
    """How the present code differs from that of these runs: part, old checksum, new checksum."""
    return {
        (part, old, new)
        for record in records
        for part, new in present_code(record.identity).items()
        if (old := (record.code or {}).get(part)) and canonical_checksum(part, old) != canonical_checksum(part, new)
    }


def declare(what: str, changes: set[tuple[str, str, str]]) -> None:
    """Note that these changes leave all numbers alone."""
    text = json.dumps(printable(what), ensure_ascii=False)  # is TOML, too
    known = EQUIVALENT.read_text(encoding="utf-8")
    for part, old, new in sorted(changes):
        known += f'\n[[change]]\nwhat = {text}\npart = "{part}"\nold = "{old}"\nnew = "{new}"\n'
    write_atomically(EQUIVALENT, known.encode())


def _rounding(record: Record) -> dict[str, Any]:
    """The part of a record's provenance that can change how arithmetic rounds."""
    provenance = record.provenance or {}
    packages = {name: provenance["packages"][name] for name in ROUNDING if name in provenance["packages"]}
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
    parser.add_argument("--train-dir", help="training images of runs with data=image_folder")
    parser.add_argument("--test-dir", help="test images of runs with data=image_folder")
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
