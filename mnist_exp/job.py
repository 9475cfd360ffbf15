"""One run, from its settings to its finished folder. Knows no Hydra; its progress is shown by a `Display`.

`decide` says what to do with what is there already, `train_run` does it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mnist_exp.data import datasets, folders, images
from mnist_exp.data.folders import DIGITS, Folders
from mnist_exp.data.images import ImageSplit, RunImages
from mnist_exp.errors import DivergedError, Interrupted, RunFolderError, failure_reason
from mnist_exp.machine.determinism import make_deterministic, why_not_portable
from mnist_exp.machine.fingerprint import other_code, other_versions, present_code, present_versions
from mnist_exp.machine.provenance import provenance
from mnist_exp.runs import results
from mnist_exp.runs.checkpoint import History
from mnist_exp.runs.folder import RunFolder
from mnist_exp.runs.record import Record, selection_metric, utc_now
from mnist_exp.settings import factory
from mnist_exp.settings.components import KINDS, check_last_batch, component_identity, find_metrics
from mnist_exp.settings.identity import run_identity, run_name, settings_without_paths
from mnist_exp.settings.schema import AUTO, FOLDERS, Config, DataConfig
from mnist_exp.training import LEARNING_RATE_HINT, EpochResult, Metric, TrainState, evaluate, fit, predictions

_loaded: dict[str, Any] = {}
"""The ``images`` that this process loaded last, and their ``source``: a sweep's jobs reuse their processes."""


class Display(Protocol):
    """Shows one run's progress; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def resumed(self, epoch: int) -> None:
        """The run resumes after this many epochs."""

    def step(self, done: int, steps: int, loss: Tensor) -> None:
        """A training step of the current epoch is done."""

    def epoch(self, result: EpochResult) -> None:
        """An epoch is done and saved."""


@dataclass(frozen=True)
class RunResult:
    """The outcome of a run."""

    folder: str
    metrics: dict[str, float]
    """The last epoch's row of ``metrics.csv``, by column."""
    skipped: bool
    """Whether the run was already finished."""

    @property
    def selection_score(self) -> float:
        """The value of the metric to choose settings by."""
        return self.metrics[selection_metric(self.metrics)]


class Action(Enum):
    """What to do with a run."""

    SKIP = auto()
    CONTINUE = auto()
    """From its last checkpoint, or from the start where there is none."""
    RESTART = auto()
    """From the start, whatever there is."""


def decide(
    identity: Mapping[str, Any],
    finished: Record | None,
    history: History,
    code: Mapping[str, str],
    versions: Mapping[str, str | None],
    metrics: Iterable[str] = (),
    *,
    overwrite: bool = False,
    stale: str = "retrain",
) -> tuple[Action, str]:
    """What to do with a run, and why, for the user (empty where there is nothing to say).

    Args:
        identity: the run's identity.
        finished: its record, if it is finished and its results are there.
        history: what its checkpoint holds.
        code: the checksums of the present code.
        versions: the present versions of packages.
        metrics: the names of the metrics that are asked for, beside those that every run has.
        overwrite: train it anew in any case.
        stale: ``retrain`` a finished run of other code, or ``keep`` it.
    """
    if overwrite:
        return Action.RESTART, ""
    if finished:
        other = other_code(identity, code, finished.code)
        changed = other_versions(versions, (finished.provenance or {}).get("packages"))
        if not other:
            using = f", with {changed}" if changed else ""
            if lacking := [name for name in metrics if f"test_{name}" not in (finished.metrics or {})]:
                using += f", without {', '.join(lacking)}"
            return Action.SKIP, f"already finished{using}; skipped (overwrite=true trains it again)"
        if stale == "keep":
            return Action.SKIP, f"trained by other code: {other}; kept, since stale=keep"
        return Action.RESTART, f"trained by other code: {other}; training it anew"
    if history.training is not None:  # resuming must not mix two versions
        if other := other_code(identity, code, history.code):
            return Action.RESTART, f"interrupted under other code: {other}; training it from the start"
        if changed := other_versions(versions, history.packages):
            return Action.RESTART, f"interrupted under {changed}; training it from the start"
        own = {name.removeprefix("test_") for name in [{}, *history.metrics][-1] if name.startswith("test_")}
        if history.metrics and own - {"loss", "accuracy"} != {*metrics}:
            return Action.RESTART, "interrupted with other metrics; training it from the start"
    return Action.CONTINUE, ""


def train_run(
    config: Config, choices: dict[str, str], extra_files: dict[str, str], make_display: Callable[[str, int], Display]
) -> RunResult:
    """Train a run, or resume it, in its own folder.

    Args:
        choices: the chosen option of each config group, for the folder's name and the report.
        extra_files: more files for the folder, by relative path.
        make_display: makes the progress display, from the run's name and its number of epochs.

    Raises:
        UserError: settings, data or a folder that cannot be used, or a training that diverged.
        Interrupted: a signal stopped it; finished epochs are kept.
    """
    device = make_deterministic(config.device)
    components = {kind: component_identity(kind, getattr(config, kind)) for kind in KINDS}
    scanned = scan_folders(config.data, config.protocol.train_split)
    classes = scanned["train"].classes if scanned else datasets.class_names(config.data.name)
    factory.dry_build(config, len(classes))
    metrics = find_metrics(config.metrics, len(classes))
    contents: dict[str, Any] = {f"{split}_sha256": each.sha256 for split, each in scanned.items()}
    if scanned and classes != DIGITS:
        contents["classes"] = classes
    identity = run_identity(config, components, device.type, contents)
    name = run_name(choices, identity)
    code, versions = present_code(identity), present_versions(identity)
    folder = RunFolder(Path(config.output_root) / "runs", name, identity)
    with folder.locked():
        record = folder.load_record()
        finished = record if record and folder.is_complete(record) else None
        history = History() if finished or config.overwrite else folder.load_history()
        action, why = decide(
            identity, finished, history, code, versions, metrics, overwrite=config.overwrite, stale=config.stale
        )
        if why:
            print(f"{name}: {why}", flush=True)
        if finished and finished.metrics and action is Action.SKIP:
            return RunResult(str(folder.final_path), finished.metrics, skipped=True)
        if action is Action.RESTART:
            history = History()
        history.code, history.packages = code, versions
        if record and action is Action.CONTINUE:
            record.resume()
        else:
            title, settings = str(config.model.get("title", choices["model"])), settings_without_paths(config)
            record = Record(name=name, title=title, choices=choices, identity=identity, config=settings)
            record.classes = None if classes == DIGITS else classes
        record.code = code
        folder.open_for_writing(record, extra_files, from_scratch=action is Action.RESTART)
        if config.device.arithmetic == "portable" and (reason := why_not_portable(device)):
            print(f"{name}: another machine may give other bytes: {reason}", flush=True)
        try:
            with make_display(name, config.epochs) as display:
                _train(config, device, scanned, metrics, folder, record, history, display)
        except BaseException as error:
            _record_failure(folder, record, history, error)
            raise
    return RunResult(str(folder.final_path), history.metrics[-1], skipped=False)


def scan_folders(config: DataConfig, train_split: str) -> Folders:
    """The two folders of ``data=image_folder``, read and checked; empty for other datasets."""
    if config.name not in FOLDERS:
        return {}
    return folders.scan_both(Path(str(config.train_dir)), Path(str(config.test_dir)), train_split, config.name)


def _train(
    config: Config,
    device: torch.device,
    scanned: Folders,
    metrics: Mapping[str, Metric],
    folder: RunFolder,
    record: Record,
    history: History,
    display: Display,
) -> None:
    data = _load_images(config, scanned, device)
    built = factory.build(config, device, len(data.train), len(record.class_names))
    state = TrainState(**vars(built))
    check_last_batch(state.model, data.train.normalised(slice(0, 1)), len(data.train), config.batch_size)
    record.data = data.checksums
    if AUTO in (config.data.mean, config.data.std):
        record.normalisation = {"mean": data.train.mean, "std": data.train.std}
    record.parameters = sum(parameter.numel() for parameter in state.model.parameters())
    record.multiply_accumulates = _multiply_accumulates(state.model, data.train)
    record.provenance = provenance(device, history.packages or {})
    if history.training is not None:
        state.load_state_dict(history.training)
        folder.write_tables(history)
        display.resumed(state.epoch)
    record.add_start(state.epoch)
    folder.write_record(record)

    logits = None
    for result in fit(
        state,
        data.train,
        data.evaluation,
        data.validation,
        epochs=config.epochs,
        batch_size=config.batch_size,
        training_mode=config.protocol.training_mode,
        clip_norm=config.clip_norm,
        metrics=metrics,
        on_step=display.step,
    ):
        history.add(result.metrics.as_row(), _timing(result, len(data.train)), state.state_dict())
        folder.save_epoch(history)
        display.epoch(result)
        logits = result.logits
    if logits is None:  # interrupted between its last epoch and its results
        logits = evaluate(state.model, data.evaluation)
    if broken := [name for name, tensor in state.model.state_dict().items() if not tensor.isfinite().all()]:
        raise DivergedError(f"the weights of {broken[0]} became nan or infinite; {LEARNING_RATE_HINT}")
    record.status, record.metrics, record.ended = "finished", history.metrics[-1], utc_now()
    found = predictions(logits, data.evaluation.labels)
    folder.finish(record, results.to_files(state.model.state_dict(), found))


def _load_images(config: Config, scanned: Folders, device: torch.device) -> RunImages:
    """The images of a run; those that this process loaded last, if they are of the same, unchanged files."""
    splits = (config.protocol.train_split, config.protocol.eval_split)
    settings = dataclasses.replace(config.data, validation_size=0)
    source = (settings, splits, device, [scanned[each].sha256 for each in scanned], datasets.file_states(config.data))
    if _loaded.get("source") != source:
        _loaded.clear()  # first, so that there is room for the others
        _loaded["images"] = images.load(config.data, scanned, splits, device)
        if datasets.file_states(config.data) == source[-1]:
            _loaded["source"] = source
    (train, evaluation), checksums = _loaded["images"]
    validation = None
    if config.data.validation_size:
        train, validation = images.stratified_split(train, config.data.validation_size, config.seed)
    return RunImages(train, evaluation, validation, checksums)


def _multiply_accumulates(model: torch.nn.Module, split: ImageSplit) -> int:
    """Of one forward pass per image; a multiply-accumulate is two floating-point operations."""
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(split.normalised(slice(0, 1)))
    return int(counter.get_total_flops()) // 2


def _timing(result: EpochResult, train_size: int) -> dict[str, float]:
    return {
        "epoch": result.metrics.epoch,
        "train_seconds": result.train_seconds,
        "eval_seconds": result.eval_seconds,
        "train_images_per_second": train_size / result.train_seconds,
    }


def _record_failure(folder: RunFolder, record: Record, history: History, error: BaseException) -> None:
    stopped = isinstance(error, Interrupted | SystemExit | BrokenPipeError)
    record.status = "interrupted" if stopped else "failed"
    record.reason = failure_reason(error)
    record.metrics = history.metrics[-1] if history.metrics else None
    record.ended = utc_now()
    # Two errors are expected. The disk is full: the record still says "running", but without a lock, so the next start
    # resumes. Or another process took the run over: then the record belongs to that one.
    with contextlib.suppress(OSError, RunFolderError):
        folder.write_record(record)
