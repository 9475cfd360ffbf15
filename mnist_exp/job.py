"""One run, from its settings to its finished folder. Knows no Hydra."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mnist_exp import datasets, environment, factory, folders
from mnist_exp.acceleration import accelerate
from mnist_exp.config import Config, identity, run_name
from mnist_exp.errors import Interrupted
from mnist_exp.folders import Folders
from mnist_exp.messages import reason
from mnist_exp.progress import Display
from mnist_exp.run_folder import History, RunFolder, new_record
from mnist_exp.training import Digits, Training, evaluate, fit


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    folder: str
    metrics: dict[str, float]
    """The last epoch's row of ``metrics.csv``, by column."""
    skipped: bool

    @property
    def score(self) -> float:
        """What settings are to be chosen by: the validation accuracy, where digits were held out for it."""
        return self.metrics.get("validation_accuracy", self.metrics["test_accuracy"])


def execute(
    config: Config, choices: dict[str, str], extra_files: dict[str, str], display: Callable[[str, int], Display]
) -> Outcome:
    """Train what the settings say, or what is still missing of it, into its own folder.

    Args:
        config: the settings.
        choices: the chosen option of each config group, for the folder's name and the report.
        extra_files: more files for the folder, by relative path.
        display: makes what shows progress, from the run's name and its number of epochs.

    Raises:
        UserError: settings, digits or a folder that can't be used, or a training that diverged.
        Interrupted: a signal stopped it; what was finished is kept.
    """
    device = environment.prepare(config.device)
    components = {kind: factory.describe(kind, getattr(config, kind)) for kind in factory.KINDS}
    factory.check(config.model, config.optimizer, config.scheduler)
    scanned: Folders = {}
    if config.data.name == "png_folder":
        train_dir, test_dir = Path(str(config.data.train_dir)), Path(str(config.data.test_dir))
        scanned = folders.scan_both(train_dir, test_dir, config.protocol.train_split)
    contents = {f"{split}_sha256": folder.sha256 for split, folder in scanned.items()}
    run_identity = identity(config, components, device.type, contents)
    name = run_name(choices, run_identity)
    folder = RunFolder(Path(config.output_root) / "runs", name, run_identity)
    with folder.locked():
        record = folder.record()
        if record and folder.is_complete(record) and not config.overwrite:
            print(f"{name}: already finished; skipped (overwrite=true trains it anew)", flush=True)
            return Outcome(str(folder.final_path), record["metrics"], skipped=True)
        history = History() if config.overwrite else folder.load_history()
        if record is None or config.overwrite:
            title = str(config.model.get("title", choices["model"]))
            record = new_record(name, run_identity, choices, title, _recordable(config))
        else:
            record.update(status="running", reason=None, ended=None, resumed=record["resumed"] + 1)
        folder.begin(record, extra_files, anew=config.overwrite)
        try:
            with display(name, config.epochs) as shown:
                _train(config, scanned, device, folder, history, record, shown)
        except BaseException as error:
            _record_end(folder, record, error, history)
            raise
    return Outcome(str(folder.final_path), record["metrics"], skipped=False)


def _train(
    config: Config,
    scanned: Folders,
    device: torch.device,
    folder: RunFolder,
    history: History,
    record: dict[str, Any],
    display: Display,
) -> None:
    protocol = config.protocol
    (train, evaluation), record["data"] = datasets.load(
        config.data, scanned, (protocol.train_split, protocol.eval_split), device
    )
    if names := datasets.classes(config.data.name):
        record["classes"] = names
    validation = None
    if config.data.validation_size:
        train, validation = datasets.hold_out(train, config.data.validation_size, config.seed)
    training = _start(config, device, len(train))
    record["parameters"] = sum(parameter.numel() for parameter in training.model.parameters())
    record["multiply_accumulates"] = _multiply_accumulates(training.model, train)
    record["provenance"] = environment.describe(device)
    accelerate(training.model, config.device, device)
    if history.training is not None:
        training.load_state_dict(history.training)
        folder.write_rows(history)
        display.resumed(training.epoch)
    folder.write_record(record)

    logits = None
    for epoch in fit(
        training,
        train,
        evaluation,
        validation,
        epochs=config.epochs,
        batch_size=config.batch_size,
        training_mode=protocol.training_mode,
        on_step=display.step,
    ):
        folder.save_epoch(history, training.state_dict(), epoch, len(train))
        display.epoch(epoch)
        logits = epoch.logits
    if logits is None:  # stopped between its last epoch and its results
        logits = evaluate(training.model, evaluation)
    record.update(status="finished", metrics=history.metrics[-1], ended=environment.now())
    folder.finish(record, training.model.state_dict(), logits, evaluation.labels)


def _start(config: Config, device: torch.device, train_size: int) -> Training:
    # One seed, two streams: torch's global generator draws the weights and then dropout's masks, the
    # other the order of the digits. So runs of one seed see the digits in one order, whatever the model.
    torch.manual_seed(config.seed)
    model = factory.build_model(config.model).to(device)
    optimizer = factory.build_optimizer(config.optimizer, model)
    steps_per_epoch = -(-train_size // config.batch_size)
    scheduler, each_batch = factory.build_scheduler(config.scheduler, optimizer, steps_per_epoch)
    return Training(model, optimizer, scheduler, each_batch, torch.Generator().manual_seed(config.seed))


def _multiply_accumulates(model: torch.nn.Module, digits: Digits) -> int:
    """Of one digit's way through the model; a multiply-accumulate is two floating-point operations."""
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(digits.normalised(slice(0, 1)))
    return int(counter.get_total_flops()) // 2


def _recordable(config: Config) -> dict[str, Any]:
    """The settings without paths, which say nothing about numbers but may name a person."""
    settings = dataclasses.asdict(config)
    del settings["output_root"], settings["overwrite"]
    for key in ("root", "train_dir", "test_dir"):
        del settings["data"][key]
    return settings


def _record_end(folder: RunFolder, record: dict[str, Any], error: BaseException, history: History) -> None:
    stopped = isinstance(error, Interrupted | SystemExit | BrokenPipeError)
    record.update(
        status="interrupted" if stopped else "failed",
        reason=reason(error),
        metrics=history.metrics[-1] if history.metrics else None,
        ended=environment.now(),
    )
    # Where even this can't be written (a full disk), the record still says "running", and the next
    # start goes on all the same: nobody holds the lock.
    with contextlib.suppress(OSError):
        folder.write_record(record)
