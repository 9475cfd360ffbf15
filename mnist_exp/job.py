"""One run, from its settings to its finished folder. Knows no Hydra; its progress is shown by a `Display`."""

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mnist_exp.data import folders, images
from mnist_exp.data.folders import Folders
from mnist_exp.data.images import ImageSplit
from mnist_exp.errors import ConfigError, DivergedError, Interrupted, RunFolderError, failure_reason
from mnist_exp.machine.determinism import make_deterministic, why_not_portable
from mnist_exp.machine.fingerprint import LIBRARIES, other_code, other_versions, present_code
from mnist_exp.machine.provenance import installed_version, provenance
from mnist_exp.runs import results
from mnist_exp.runs.checkpoint import History
from mnist_exp.runs.folder import RunFolder
from mnist_exp.runs.record import Record, selection_metric, utc_now
from mnist_exp.settings import factory
from mnist_exp.settings.identity import run_identity, run_name, settings_of_numbers
from mnist_exp.settings.schema import Config, DataConfig
from mnist_exp.training import LEARNING_RATE_HINT, EpochResult, TrainState, evaluate, fit


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
    components = {kind: factory.component_identity(kind, getattr(config, kind)) for kind in factory.KINDS}
    factory.dry_build(config.model, config.optimizer, config.scheduler)
    scanned = scan_folders(config.data, config.protocol.train_split)
    contents = {f"{split}_sha256": each.sha256 for split, each in scanned.items()}
    identity = run_identity(config, components, device.type, contents)
    name = run_name(choices, identity)
    folder = RunFolder(Path(config.output_root) / "runs", name, identity)
    code, versions = present_code(identity), {library: installed_version(library) for library in LIBRARIES}
    with folder.locked():
        record = folder.load_record()
        from_scratch = config.overwrite
        if record and record.metrics and folder.is_complete(record) and not from_scratch:
            if _keep_finished_run(record, versions, config.stale):
                return RunResult(str(folder.final_path), record.metrics, skipped=True)
            from_scratch = True
        history = History() if from_scratch else folder.load_history()
        if _must_restart(name, identity, history, versions):
            from_scratch, history = True, History()
        history.code, history.packages = code, versions
        if record is None or from_scratch:
            title, settings = str(config.model.get("title", choices["model"])), settings_of_numbers(config)
            record = Record(name=name, title=title, choices=choices, identity=identity, config=settings)
        else:
            record.resume()
        record.code = code
        folder.open_for_writing(record, extra_files, from_scratch=from_scratch)
        if config.device.arithmetic == "portable" and (reason := why_not_portable(device)):
            print(f"{name}: another machine may give other bytes: {reason}", flush=True)
        try:
            with make_display(name, config.epochs) as display:
                _train(config, device, scanned, _Output(folder, record, history, display))
        except BaseException as error:
            _record_failure(folder, record, history, error)
            raise
    return RunResult(str(folder.final_path), history.metrics[-1], skipped=False)


def _keep_finished_run(record: Record, versions: dict[str, str | None], stale: str) -> bool:
    """Return whether a finished run is kept, and print why."""
    other = other_code(record.identity, record.code)
    changed = other_versions(versions, (record.provenance or {}).get("packages"))
    said = "already finished; skipped (overwrite=true trains it again)"
    if other and stale == "retrain":
        said = f"trained by other code: {other}; training it anew"
    elif other:
        said = f"trained by other code: {other}; kept, since stale=keep"
    elif changed:
        said = f"already finished, with {changed}; skipped (overwrite=true trains it again)"
    print(f"{record.name}: {said}", flush=True)
    return not other or stale == "keep"


def _must_restart(name: str, identity: dict[str, Any], history: History, versions: dict[str, str | None]) -> bool:
    """Return whether resuming would mix two versions of the code or of a library, and print which."""
    if history.training is None:
        return False
    other, changed = other_code(identity, history.code), other_versions(versions, history.packages)
    if other or changed:
        by = f"other code: {other}" if other else changed
        print(f"{name}: interrupted under {by}; training it from the start", flush=True)
    return bool(other or changed)


def scan_folders(config: DataConfig, train_split: str) -> Folders:
    """The two folders of ``data=png_folder``, read and checked; empty for other datasets."""
    if config.name != "png_folder":
        return {}
    return folders.scan_both(Path(str(config.train_dir)), Path(str(config.test_dir)), train_split)


@dataclass
class _Output:
    """Where a run's results go."""

    folder: RunFolder
    record: Record
    history: History
    display: Display


def _train(config: Config, device: torch.device, scanned: Folders, output: _Output) -> None:
    folder, record, history = output.folder, output.record, output.history
    train, evaluation, validation, record.data = _load_images(config, device, scanned)
    record.classes = images.class_names(config.data.name)
    state = _build_state(config, device, len(train))
    _check_last_batch(state.model, train, config.batch_size)
    record.parameters = sum(parameter.numel() for parameter in state.model.parameters())
    record.multiply_accumulates = _multiply_accumulates(state.model, train)
    record.provenance = provenance(device)
    if history.training is not None:
        state.load_state_dict(history.training)
        folder.write_tables(history)
        output.display.resumed(state.epoch)
    record.add_start(state.epoch)
    folder.write_record(record)

    logits = None
    for result in fit(
        state,
        train,
        evaluation,
        validation,
        epochs=config.epochs,
        batch_size=config.batch_size,
        training_mode=config.protocol.training_mode,
        on_step=output.display.step,
    ):
        _append_epoch(history, result, len(train), state)
        folder.save_epoch(history)
        output.display.epoch(result)
        logits = result.logits
    if logits is None:  # interrupted between its last epoch and its results
        logits = evaluate(state.model, evaluation)
    if broken := [name for name, tensor in state.model.state_dict().items() if not tensor.isfinite().all()]:
        raise DivergedError(f"the weights of {broken[0]} became nan or infinite; {LEARNING_RATE_HINT}")
    record.status, record.metrics, record.ended = "finished", history.metrics[-1], utc_now()
    folder.finish(record, results.to_files(state.model.state_dict(), logits, evaluation.labels))


def _load_images(
    config: Config, device: torch.device, scanned: Folders
) -> tuple[ImageSplit, ImageSplit, ImageSplit | None, dict[str, str]]:
    """What a run trains on, evaluates on and validates on, and the checksums of the files."""
    splits = (config.protocol.train_split, config.protocol.eval_split)
    (train, evaluation), checksums = images.load(config.data, scanned, splits, device)
    validation = None
    if config.data.validation_size:
        train, validation = images.stratified_split(train, config.data.validation_size, config.seed)
    return train, evaluation, validation, checksums


def _build_state(config: Config, device: torch.device, train_size: int) -> TrainState:
    # One seed, two generators: torch's global one draws the initial weights and then dropout's masks; a separate one
    # draws the order of the images, so that runs of one seed see them in the same order, whatever the model.
    torch.manual_seed(config.seed)
    model = factory.build_model(config.model).to(device)
    optimizer = factory.build_optimizer(config.optimizer, model)
    steps_per_epoch = -(-train_size // config.batch_size)
    scheduler, per_batch = factory.build_scheduler(config.scheduler, optimizer, steps_per_epoch)
    return TrainState(model, optimizer, scheduler, per_batch, torch.Generator().manual_seed(config.seed))


def _check_last_batch(model: torch.nn.Module, train: ImageSplit, batch_size: int) -> None:
    """Raise a ConfigError if the last batch has one image and the model cannot train on one."""

    def leaves_one(size: int) -> bool:
        return len(train) % size == 1 or size == 1 or len(train) == 1

    if not leaves_one(batch_size):
        return
    try:
        with torch.random.fork_rng(), torch.no_grad():
            copy.deepcopy(model).train()(train.normalised(slice(0, 1)))
    except ValueError as error:
        nearest = sorted(range(2, 2 * len(train)), key=lambda size: abs(size - batch_size))
        better = next((size for size in nearest if not leaves_one(size)), None)
        advice = f"batch_size={better} works" if better else "add images"
        which = "every batch" if batch_size == 1 else "the last batch"
        raise ConfigError(
            f"batch_size={batch_size}: {which} of {len(train):,} training images would have only one, and "
            f"{type(model).__name__} cannot train on one (batch normalisation needs two); {advice}"
        ) from error


def _multiply_accumulates(model: torch.nn.Module, split: ImageSplit) -> int:
    """Of one forward pass per image; a multiply-accumulate is two floating-point operations."""
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(split.normalised(slice(0, 1)))
    return int(counter.get_total_flops()) // 2


def _append_epoch(history: History, result: EpochResult, train_size: int, state: TrainState) -> None:
    history.metrics.append(result.metrics.as_row())
    history.timing.append(
        {
            "epoch": result.metrics.epoch,
            "train_seconds": result.train_seconds,
            "eval_seconds": result.eval_seconds,
            "train_images_per_second": train_size / result.train_seconds,
        }
    )
    history.training = state.state_dict()


def _record_failure(folder: RunFolder, record: Record, history: History, error: BaseException) -> None:
    stopped = isinstance(error, Interrupted | SystemExit | BrokenPipeError)
    record.status = "interrupted" if stopped else "failed"
    record.reason = failure_reason(error)
    record.metrics = history.metrics[-1] if history.metrics else None
    record.ended = utc_now()
    # Where even this cannot be written (a full disk), the record still says "running", and the next start resumes all
    # the same: nobody holds the lock. Or else another process holds it, and the record is that one's.
    with contextlib.suppress(OSError, RunFolderError):
        folder.write_record(record)
