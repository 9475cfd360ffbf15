"""Add finished runs to MLflow or TensorBoard: ``python scripts/track.py mlflow|tensorboard``.

A run is added with its settings and every epoch's metrics; so is the report, with its tables and its page,
where ``make report`` has made one. Repeat the command to add what is new and replace what was made anew.
"""

import argparse
import os
import shutil
import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.errors import UserError
from mnist_exp.files import one_process_in
from mnist_exp.report.collect import Collection, collect
from mnist_exp.runs.record import METRICS, checksum
from mnist_exp.settings.identity import flatten
from mnist_exp.text import printable

OUTPUTS = Path("outputs")
CHUNK = 100  # the most settings that MLflow's server accepts at once
MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each run
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # with its usual 7, an absent server takes minutes
}


@dataclass(frozen=True)
class Item:
    """What becomes one run in a tracker: a run of ours, or the report."""

    name: str
    """The key; a run's ends in the hash of its identity."""
    files: list[Path]
    """To be stored with it. If the first one's content is stored, so is all of the item."""
    settings: dict[str, Any] = field(default_factory=dict)
    values: list[tuple[int, str, float]] = field(default_factory=list)
    """Of each epoch and each metric."""
    started: str | None = None
    ended: str | None = None


class MLflow:
    """The server that ``MLFLOW_TRACKING_URI`` names, or else a SQLite file."""

    def __init__(self) -> None:
        for key, value in MLFLOW_SETTINGS.items():
            os.environ.setdefault(key, value)
        import mlflow

        self.look, artifacts, folder = os.environ.get("MLFLOW_TRACKING_URI"), None, OUTPUTS / "mlflow"
        if not (uri := self.look):
            folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{folder}/mlflow.db", (folder.absolute() / "artifacts").as_uri()
            self.look = f"mlflow ui --backend-store-uri {uri}"
        self.types, self.client = mlflow.entities, mlflow.MlflowClient(uri)
        known = self.client.get_experiment_by_name("mnist_exp")
        if known and known.lifecycle_stage == "deleted":
            words = f"mlflow experiments restore --experiment-id {known.experiment_id}"
            raise UserError(f"the MLflow experiment mnist_exp was deleted; to restore it: {words}")
        self.experiment = known.experiment_id if known else self.client.create_experiment("mnist_exp", artifacts)
        runs = self.client.search_runs([self.experiment], max_results=50_000)
        self.runs = {run.data.tags.get("key"): run for run in runs}

    def stored(self, item: Item) -> str | None:
        """The checksum of the item's first file, if it is stored."""
        run = self.runs.get(item.name)
        return run.data.tags["checksum"] if run and run.info.status == "FINISHED" else None

    def add(self, item: Item) -> None:
        """Store an item, in the place of an older one of its name."""
        if item.name in self.runs:
            self.client.delete_run(self.runs[item.name].info.run_id)
        tags, ended = {"key": item.name, "checksum": checksum(item.files[0])}, _milliseconds(item.ended)
        run = self.client.create_run(self.experiment, _milliseconds(item.started), tags, item.name).info.run_id
        metrics = [self.types.Metric(key, x, ended, epoch) for epoch, key, x in item.values]
        settings = [self.types.Param(key, str(value)) for key, value in item.settings.items()]
        for start in range(0, max(len(metrics), len(settings)), CHUNK):
            self.client.log_batch(run, metrics[start : start + CHUNK], settings[start : start + CHUNK])
        for file in item.files:
            self.client.log_artifact(run, str(file))
        self.client.set_terminated(run, end_time=ended)


class TensorBoard:
    """A folder for each item, with its event files."""

    look = f"tensorboard --logdir {OUTPUTS / 'tensorboard'}"

    def __init__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter, summary

        self.writer, self.summary = SummaryWriter, summary

    def stored(self, item: Item) -> str | None:
        file = OUTPUTS / "tensorboard" / item.name / item.files[0].name
        return checksum(file) if file.is_file() else None

    def add(self, item: Item) -> None:
        folder = OUTPUTS / "tensorboard" / item.name
        new = folder.with_name(f".{item.name}.new")
        for old in (folder, new):
            shutil.rmtree(old, ignore_errors=True)
        with self.writer(new) as writer:
            settings = {key: x if isinstance(x, int | float | str) else str(x) for key, x in item.settings.items()}
            results = {key: x for _, key, x in item.values}
            for summary in self.summary.hparams(settings, results) if settings else ():
                writer.file_writer.add_summary(summary)
            for epoch, key, x in item.values:  # as 32 bits: TensorBoard's fast loader would not show 64
                writer.add_scalar(key, x, epoch)
            for file in item.files:
                shutil.copy(file, new)
                if file.suffix == ".md":
                    writer.add_text(file.stem, file.read_text(encoding="utf-8", errors="replace"))
        new.rename(folder)


def _milliseconds(time: str | None) -> int:
    """An ISO time, or else the present one, in milliseconds since 1970."""
    return int(1000 * (datetime.fromisoformat(time) if time else datetime.now()).timestamp())


def main(arguments: list[str] | None = None) -> int:
    """Add what the tracker does not have, and say how to look at it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    trackers: dict[str, type[MLflow | TensorBoard]] = {"mlflow": MLflow, "tensorboard": TensorBoard}
    parser.add_argument("tracker", choices=trackers)
    parser.add_argument("--runs", type=Path, default=OUTPUTS / "runs", help="folder of the runs (%(default)s)")
    options = parser.parse_args(arguments)
    collection = collect(options.runs) if options.runs.is_dir() else Collection()
    for line in collection.remarks:
        print(line, file=sys.stderr)
    if not collection.groups:
        raise UserError(f"there are no finished runs in {options.runs}. Train some first: make sweep")
    items = []
    for run in (run for group in collection.groups for run in group.runs):
        settings, rows = run.record.choices | flatten(run.record.config), run.epochs.to_dict("records")
        values = [(int(row["epoch"]), str(key), float(x)) for row in rows for key, x in row.items() if key != "epoch"]
        files, (started, ended) = [run.folder / METRICS], (run.record.started, run.record.ended)
        items.append(Item(printable(run.folder.name), files, settings, values, started, ended))
    if (page := options.runs.parent / "report" / "index.html").is_file():
        items.append(Item("report", [page, *sorted(page.parent.glob("*.md"))]))
    OUTPUTS.mkdir(exist_ok=True)
    try:
        with one_process_in(OUTPUTS):  # or two would both add everything
            tracker = trackers[options.tracker]()
            new = [item for item in items if tracker.stored(item) != checksum(item.files[0])]
            for item in new:
                tracker.add(item)
    except ImportError as error:
        needed = f"an extra is needed: pip install -e '.[{options.tracker}]'"
        raise UserError(f"{str(error).splitlines()[0]}; {needed}") from error
    except Exception as error:
        if type(error).__name__ != "MlflowException":
            raise
        raise UserError(str(error).splitlines()[0]) from error
    print(f"{len(new)} of {len(items)} added; the others were there. To look at them: {tracker.look}")
    return 0


if __name__ == "__main__":
    run_script(main)
