"""The training loop: epochs of training and evaluation, and what they measured.

`fit` is the place to start. Knows no disk, no config, no display.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_exp.data.images import ImageSplit
from mnist_exp.errors import DivergedError
from mnist_exp.machine import sums
from mnist_exp.machine.layout import use_fastest_layout

EVALUATION_BATCH = 250
"""Images evaluated at once: large enough to waste no time between batches, small enough for the cache."""
GATHER_SIZE = 1024
"""Images gathered and normalised at once, before they are cut into batches."""
LEARNING_RATE_HINT = "a smaller optimizer.lr usually helps"

Metric = Callable[[Tensor, Tensor], float]
"""Of an evaluation's logits, float32, ``[N, classes]``, and labels, int64, ``[N]``."""
OnStep = Callable[[int, int, Tensor], None]
"""Called after each training step with the steps done, the steps of the epoch, and the batch's loss."""


@dataclass(frozen=True)
class Metrics:
    """One epoch's row of ``metrics.csv``. Losses are means over images; accuracies are fractions."""

    epoch: int
    train_loss: float
    """Mean over the epoch's images, each batch before its step."""
    train_accuracy: float
    test_loss: float
    """Over the evaluated split, after the epoch: the test split, unless the protocol swaps the two."""
    test_accuracy: float
    learning_rate: float
    """Of the epoch's last step."""
    validation_loss: float | None = None
    """Over the images held out of training, after the epoch; None where there are none."""
    validation_accuracy: float | None = None
    more: dict[str, float] = field(default_factory=dict)
    """What other metrics of the evaluations are called in the row, and their values."""

    def as_row(self) -> dict[str, float]:
        """The metrics by name, without those that were not measured."""
        row = {name: value for name, value in vars(self).items() if value is not None and name != "more"}
        return row | self.more


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch: its metrics, its cost, and the evaluated images' logits, ``[N, classes]``."""

    metrics: Metrics
    train_seconds: float
    eval_seconds: float
    logits: Tensor


@dataclass
class TrainState:
    """All that changes while a model trains, and so all that resuming needs."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    step_scheduler_per_batch: bool
    shuffle: Generator
    """Draws each epoch's order of the training images. On the CPU, whatever the device."""
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)
    """Of logits and labels, a mean over images."""
    augment: nn.Module | None = None
    """Called with a batch of normalised training images and `draws`; returns as many."""
    draws: Generator = field(default_factory=Generator)
    """On the CPU, whatever the device."""
    epoch: int = 0
    """The epoch that was started last; whenever `fit` yields, the number of finished epochs."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and containers of them: what ``torch.load(weights_only=True)`` accepts."""
        state = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "shuffle": self.shuffle.get_state(),
            "generator": torch.get_rng_state(),
        }
        if accelerator := self._accelerator():
            state["device_generator"] = accelerator.get_rng_state()
        if self.augment is not None:
            state |= {"augment": self.augment.state_dict(), "draws": self.draws.get_state()}
        return state | {"loss": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, torch's global generators included."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["generator"])
        if accelerator := self._accelerator():
            accelerator.set_rng_state(state["device_generator"])
        if self.augment is not None:
            self.augment.load_state_dict(state["augment"])
            self.draws.set_state(state["draws"])
        self.loss.load_state_dict(state["loss"])
        self.epoch = state["epoch"]

    def _accelerator(self) -> Any:
        """The module with the generator of the model's device; None for the CPU, whose generator is global."""
        return {"cuda": torch.cuda, "mps": torch.mps}.get(next(self.model.parameters()).device.type)


def fit(
    state: TrainState,
    train: ImageSplit,
    evaluation: ImageSplit,
    validation: ImageSplit | None = None,
    *,
    epochs: int,
    batch_size: int,
    training_mode: str,
    clip_norm: float | None = None,
    metrics: Mapping[str, Metric] | None = None,
    on_step: OnStep | None = None,
) -> Iterator[EpochResult]:
    """Train until ``epochs`` epochs are done, and yield the result of each.

    Args:
        state: where to start from; changed in place.
        train: the images to train on, shuffled anew each epoch; the last, smaller batch is kept.
        evaluation: the images to evaluate on after each epoch.
        validation: images held out of training, evaluated likewise; they affect `Metrics` only.
        epochs: the number of epochs at which to stop, those already done included.
        batch_size: images per training step.
        training_mode: ``every_epoch``, or ``first_epoch`` to leave the model in evaluation mode from
            the first evaluation on, as the published experiment did.
        clip_norm: the largest norm of the gradient, to which a longer one is scaled.
        metrics: by name, more metrics of each evaluation.
        on_step: called after each training step.

    Raises:
        DivergedError: a batch's loss, or an evaluation's, is NaN or infinite.
    """
    while state.epoch < epochs:
        state.epoch += 1
        start = time.perf_counter()
        state.model.train(training_mode == "every_epoch" or state.epoch == 1)
        train_loss, train_accuracy, learning_rate = _train_epoch(state, train, batch_size, clip_norm, on_step)
        middle = time.perf_counter()
        logits, test_loss, test_accuracy = _evaluate_metrics(state, evaluation)
        more = _more_metrics("test", metrics, logits, evaluation.labels)
        validation_loss = validation_accuracy = None
        if validation is not None:
            held_out, validation_loss, validation_accuracy = _evaluate_metrics(state, validation)
            more |= _more_metrics("validation", metrics, held_out, validation.labels)
        measured = Metrics(
            epoch=state.epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            learning_rate=learning_rate,
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            more=more,
        )
        yield EpochResult(measured, middle - start, time.perf_counter() - middle, logits)


def evaluate(model: nn.Module, images: ImageSplit) -> Tensor:
    """Logits of all images, float32, ``[N, classes]``. Leaves the model in evaluation mode."""
    model.eval()
    with use_fastest_layout(model), torch.inference_mode():
        # Written to one tensor: small ones kept between the large ones of each batch would fragment the
        # memory, which took 400 MB more.
        logits = torch.empty(0)
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = slice(start, start + EVALUATION_BATCH)
            found = model(images.normalised(batch))
            if not start:
                logits = found.new_empty(len(images), found.shape[1])
            logits[batch] = found
        return logits


def predictions(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What ``predictions.npz`` holds of the evaluated images, on the CPU.

    Args:
        logits: float32, ``[N, classes]``.
        labels: int64, ``[N]``.

    Returns:
        ``label`` and ``predicted``, ``[N]``, uint8 (int16 for more than 256 classes), and ``probabilities``, float32,
        ``[N, classes]``.
    """
    integer = torch.uint8 if logits.shape[1] <= 256 else torch.int16
    found = {"label": labels.to(integer), "predicted": logits.argmax(dim=1).to(integer)}
    found["probabilities"] = sums.softmax(logits)
    return {name: tensor.cpu() for name, tensor in found.items()}


def _evaluate_metrics(state: TrainState, images: ImageSplit) -> tuple[Tensor, float, float]:
    logits = evaluate(state.model, images)
    loss = sums.cross_entropy(logits, images.labels)
    if not math.isfinite(loss):
        raise DivergedError(f"the evaluation loss became {loss} after epoch {state.epoch}; {LEARNING_RATE_HINT}")
    return logits, loss, _accuracy(logits, images.labels)


def _more_metrics(split: str, metrics: Mapping[str, Metric] | None, logits: Tensor, labels: Tensor) -> dict[str, float]:
    found = {f"{split}_{name}": float(metric(logits, labels)) for name, metric in (metrics or {}).items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise DivergedError(f"the metric {name} is {value}; it must be a finite number")
    return found


def _train_epoch(
    state: TrainState, images: ImageSplit, batch_size: int, clip_norm: float | None, on_step: OnStep | None
) -> tuple[float, float, float]:
    """Train for one epoch; return the mean loss, the accuracy, and the last step's learning rate."""
    optimizer, parameters, labels_device = state.optimizer, list(state.model.parameters()), images.labels.device
    order = torch.randperm(len(images), generator=state.shuffle).to(labels_device)
    labels = images.labels[order]
    # Kept as tensors until the epoch's end: reading a number in each step would make a GPU wait.
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    learning_rate = 0.0
    steps = math.ceil(len(images) / batch_size)
    with use_fastest_layout(state.model):
        for batch, targets in _batches(images, order, labels, batch_size):
            if state.augment is not None:
                batch = state.augment(batch, state.draws)
            batch_logits = state.model(batch)
            loss = state.loss(batch_logits, targets)
            for parameter in parameters:  # less work than optimizer.zero_grad()
                parameter.grad = None
            torch.autograd.backward(loss)  # loss.backward(), but with types
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            learning_rate = optimizer.param_groups[0]["lr"]
            if state.step_scheduler_per_batch:
                state.scheduler.step()
            losses.append(loss.detach())
            logits.append(batch_logits.detach())
            if on_step is not None:
                on_step(len(losses), steps, losses[-1])
    if not state.step_scheduler_per_batch:
        state.scheduler.step()
    return (
        _mean_loss(losses, len(images), batch_size, state.epoch),
        _accuracy(torch.cat(logits), labels),
        float(learning_rate),
    )


def _mean_loss(losses: list[Tensor], count: int, batch_size: int, epoch: int) -> float:
    """The mean over images of the batches' mean losses; the last batch may be smaller."""
    batch_losses = torch.stack(losses).cpu().double()
    finite = batch_losses.isfinite()
    if not finite.all():
        step = int(finite.logical_not().nonzero()[0])
        raise DivergedError(
            f"the training loss became {batch_losses[step].item()} in epoch {epoch}, step {step + 1} "
            f"of {len(losses)}; {LEARNING_RATE_HINT}"
        )
    sizes = torch.full_like(batch_losses, batch_size)
    sizes[-1] = count - batch_size * (len(losses) - 1)
    return sums.total(batch_losses * sizes) / count


def _batches(images: ImageSplit, order: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    block = batch_size * max(1, GATHER_SIZE // batch_size)
    for start in range(0, len(order), block):
        gathered = images.normalised(order[start : start + block])
        targets = labels[start : start + block]
        yield from zip(torch.split(gathered, batch_size), torch.split(targets, batch_size), strict=True)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return int((logits.argmax(dim=1) == labels).sum()) / len(labels)
