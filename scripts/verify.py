"""Train stored runs again from their own records, and compare the bytes: ``make verify``.

Exit code 0: all equal. 1: a run came out differently, and nothing that was recorded explains it.
2: a run could not be compared. 3: numbers differ, but so do versions or the processor, and they are
numerically close.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed

from mnist_exp import environment
from mnist_exp.config import Config, DataConfig, DeviceConfig, ProtocolConfig, differences
from mnist_exp.errors import DivergedError, UserError
from mnist_exp.job import execute
from mnist_exp.process import end_with_parent, leave
from mnist_exp.progress import Lines
from mnist_exp.run_folder import METRICS, REPRODUCIBLE, checksum

EQUAL, DIFFERENT, UNVERIFIED, CLOSE = range(4)
VERDICTS = {
    EQUAL: "equal, bit for bit",
    DIFFERENT: "DIFFERENT",
    UNVERIFIED: "can't be verified",
    CLOSE: "numerically close",
}
# Measured: see "What is promised" in the README.
TOLERANCE = {"test_accuracy": 0.005, "test_loss": 0.02}
# What can change how arithmetic rounds, of all that is recorded.
ENVIRONMENT = ("platform", "cpu", "cpu_capability", "threads", "device")
PACKAGES = ("torch", "torchvision", "numpy")


@dataclass(frozen=True)
class Finding:
    """What came of one run."""

    name: str
    verdict: int
    details: list[str]


def verify(folder: Path, data_root: str, *dirs: str | None) -> Finding:
    """Train the run of a folder again, in a fresh one, and compare; ``dirs`` are those of ``data=png_folder``."""
    end_with_parent()
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        stored = pd.read_csv(folder / METRICS)
        with tempfile.TemporaryDirectory() as temporary:
            outcome = execute(_settings(record, temporary, data_root, *dirs), record["choices"], {}, Lines)
            fresh = Path(outcome.folder)
            again = json.loads((fresh / "run.json").read_text(encoding="utf-8"))
            if others := differences(again["identity"], record["identity"]):
                return Finding(folder.name, DIFFERENT, [f"these are other data or settings: {', '.join(others)}"])
            changed = [name for name in REPRODUCIBLE if not _same(folder, fresh, name, record)]
            if not changed:
                return Finding(folder.name, EQUAL, [])
            return _explain(folder, record, again, stored, pd.read_csv(fresh / METRICS), changed)
    except DivergedError as error:  # which the stored run did not
        return Finding(folder.name, DIFFERENT, [str(error)])
    except UserError as error:
        return Finding(folder.name, UNVERIFIED, [str(error)])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Finding(folder.name, UNVERIFIED, [f"{type(error).__name__}: {error}"])


def _settings(record: dict[str, Any], output_root: str, *data: str | None) -> Config:
    settings = dict(record["config"])
    settings["device"] = DeviceConfig(**settings["device"] | {"name": record["identity"]["device"]["type"]})
    places: dict[str, Any] = {
        key: place for key, place in zip(("root", "train_dir", "test_dir"), data, strict=False) if place
    }
    settings["data"] = DataConfig(**settings["data"], **places)
    settings["protocol"] = ProtocolConfig(**settings["protocol"])
    return Config(**settings, output_root=output_root)


def _same(folder: Path, fresh: Path, name: str, record: dict[str, Any]) -> bool:
    """The stored file, or the checksum of one that was too large to be kept, against the fresh file."""
    stored = folder / name
    return checksum(fresh / name) == (checksum(stored) if stored.exists() else record["files"][name])


def _explain(
    folder: Path,
    record: dict[str, Any],
    again: dict[str, Any],
    stored: pd.DataFrame,
    new: pd.DataFrame,
    changed: list[str],
) -> Finding:
    details = [f"{', '.join(changed)} came out differently"]
    tampered = checksum(folder / METRICS) != record["files"][METRICS]
    if tampered:
        details.append(f"{METRICS} is not the file that the run wrote: it was changed afterwards")
    if stored.shape != new.shape or list(stored) != list(new):
        return Finding(folder.name, DIFFERENT, [*details, f"{METRICS} has other rows or columns"])
    unequal = (stored != new).to_numpy().nonzero()
    if len(unequal[0]):
        row, column = int(unequal[0][0]), str(stored.columns[unequal[1][0]])
        was, now = float(stored[column].iloc[row]), float(new[column].iloc[row])
        details.append(f"first difference: epoch {row + 1}, {column}: stored {was}, now {now}")
    far = {name: float((stored[name] - new[name]).abs().iloc[-1]) for name in TOLERANCE}
    details.append("largest difference after the last epoch: " + ", ".join(f"{n} {d:.2g}" for n, d in far.items()))
    explained = differences(_rounding(again), _rounding(record))
    details += [f"recorded and today's environment differ: {line}" for line in explained]
    if not explained and not tampered:
        details.append("the recorded environment is today's, so the code must give other numbers")
    close = bool(explained) and not tampered and all(far[name] <= limit for name, limit in TOLERANCE.items())
    return Finding(folder.name, CLOSE if close else DIFFERENT, details)


def _rounding(record: dict[str, Any]) -> dict[str, Any]:
    provenance = record["provenance"]
    chosen = {key: provenance[key] for key in ENVIRONMENT}
    return chosen | {package: provenance["packages"][package] for package in PACKAGES}


def _one_of_each_model(folders: list[Path]) -> list[Path]:
    first: dict[str, Path] = {}
    for folder in folders:
        first.setdefault(folder.name.partition("-")[0], folder)
    return list(first.values())


def main() -> int:
    """Verify the runs that were asked for, side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument("--all", action="store_true", help="all of the reference, not one run of each model")
    parser.add_argument("--reference", type=Path, default=environment.PROJECT / "outputs/reference/runs")
    parser.add_argument("--train-dir", help="of runs with data=png_folder: its images to train on")
    parser.add_argument("--test-dir", help="and to test on")
    arguments = parser.parse_args()
    folders = arguments.runs or sorted(path.parent for path in arguments.reference.glob("*/run.json"))
    if not arguments.runs and not arguments.all:
        folders = _one_of_each_model(folders)
    if not folders:
        print(f"verify: there is no run in {arguments.reference}", file=sys.stderr)
        return UNVERIFIED
    data = os.environ.get("MNIST_EXP_DATA") or "data", arguments.train_dir, arguments.test_dir
    try:
        findings = Parallel(n_jobs=-1, batch_size=1)(delayed(verify)(folder, *data) for folder in folders)
    except BrokenProcessPool:
        print(
            "verify: a process was killed (out of memory, perhaps); type the same command again", file=sys.stderr
        )
        return UNVERIFIED
    for finding in findings:
        print(f"{finding.name}: {VERDICTS[finding.verdict]}")
        for detail in finding.details:
            print(f"  {detail}")
    verdicts = {finding.verdict for finding in findings}
    return next(verdict for verdict in (DIFFERENT, UNVERIFIED, CLOSE, EQUAL) if verdict in verdicts)


if __name__ == "__main__":
    leave(main)
