"""Epochs of training and evaluation, and what they measured. Knows no disk, no config, no display."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_exp.errors import DivergedError

CLASSES = 10
EVALUATION_BATCH = 250
"""Digits evaluated at once: large enough to waste no time between batches, small enough for the cache."""
BLOCK = 1024
"""Digits gathered and normalised at once, before they are cut into batches."""
ADVICE = "a smaller optimizer.lr usually helps"

OnStep = Callable[[int, int, Tensor], None]
"""Called after each training step with the steps done, the steps of the epoch, and the batch's loss."""


@dataclass(frozen=True)
class Digits:
    """A split of a dataset, on the device that trains.

    ``images`` are uint8, ``[N, 1, 32, 32]``; ``labels`` int64, ``[N]``. Pixels are normalised when
    they are used: ``(pixel / 255 - mean) / std``.
    """

    images: Tensor
    labels: Tensor
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.labels)

    def normalised(self, index: Tensor | slice) -> Tensor:
        """The digits at ``index`` as the models expect them: float32, ``[n, 1, 32, 32]``.

        The arithmetic is that of torchvision's ``ToTensor`` and ``Normalize``, bit for bit.
        """
        # index_select takes whole digits; ``images[tensor]`` goes pixel by pixel and takes six times as long.
        images = self.images[index] if isinstance(index, slice) else self.images.index_select(0, index)
        return images.float().div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Metrics:
    """One epoch's row of ``metrics.csv``. Losses are means over digits; accuracies are fractions."""

    epoch: int
    train_loss: float
    """Running: over the epoch, while the weights change."""
    train_accuracy: float
    test_loss: float
    """Over the evaluated split, after the epoch."""
    test_accuracy: float
    learning_rate: float
    """Of the epoch's last step."""
    validation_loss: float | None = None
    """Over the digits held out of training, after the epoch; None where there are none."""
    validation_accuracy: float | None = None

    def measured(self) -> dict[str, float]:
        """The metrics that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its metrics, its cost, and the evaluated digits' logits, ``[N, 10]``."""

    metrics: Metrics
    train_seconds: float
    eval_seconds: float
    logits: Tensor


@dataclass
class Training:
    """All that changes while a model trains, and so all that resuming needs."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scheduler_steps_each_batch: bool
    shuffle: Generator
    """Draws each epoch's order of the training digits. On the CPU, whatever the device."""
    epoch: int = 0
    """Epochs finished."""

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
        if torch.cuda.is_available():
            state["cuda_generator"] = torch.cuda.get_rng_state()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called, torch's global generators included."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["generator"])
        if "cuda_generator" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda_generator"])
        self.epoch = state["epoch"]


def fit(
    training: Training,
    train: Digits,
    evaluation: Digits,
    validation: Digits | None = None,
    *,
    epochs: int,
    batch_size: int,
    training_mode: str,
    on_step: OnStep | None = None,
) -> Iterator[Epoch]:
    """Train until ``epochs`` epochs are done, yielding after each; `Training` then holds its end state.

    Args:
        training: where to start from; changed in place.
        train: the digits to train on, shuffled anew each epoch; the last, smaller batch is kept.
        evaluation: the digits to evaluate on after each epoch.
        validation: digits held out of training, evaluated likewise; only `Metrics` tells of them.
        epochs: the number of epochs at which to stop, those already done included.
        batch_size: digits a training step.
        training_mode: ``every_epoch``, or ``first_epoch`` to leave the model in evaluation mode from
            the first evaluation on, as the published experiment did.
        on_step: called after each training step.

    Raises:
        DivergedError: a batch's loss, or an evaluation's, is NaN or infinite.
    """
    while training.epoch < epochs:
        training.epoch += 1
        start = time.perf_counter()
        training.model.train(training_mode == "every_epoch" or training.epoch == 1)
        train_loss, train_accuracy, learning_rate = _train_epoch(training, train, batch_size, on_step)
        middle = time.perf_counter()
        logits, test_loss, test_accuracy = _measure(training, evaluation)
        held_out = (None, None) if validation is None else _measure(training, validation)[1:]
        metrics = Metrics(
            epoch=training.epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            learning_rate=learning_rate,
            validation_loss=held_out[0],
            validation_accuracy=held_out[1],
        )
        yield Epoch(metrics, middle - start, time.perf_counter() - middle, logits)


def evaluate(model: nn.Module, digits: Digits) -> Tensor:
    """Logits of all digits, float32, ``[N, 10]``. Leaves the model in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        # Written to one place: small tensors kept between the large ones of each batch would scatter the
        # memory, which took 400 MB more.
        logits = torch.empty(len(digits), CLASSES, device=digits.labels.device)
        for start in range(0, len(digits), EVALUATION_BATCH):
            batch = slice(start, start + EVALUATION_BATCH)
            logits[batch] = model(digits.normalised(batch))
        return logits


def _measure(training: Training, digits: Digits) -> tuple[Tensor, float, float]:
    logits = evaluate(training.model, digits)
    loss = float(cross_entropy(logits.double(), digits.labels))
    if not math.isfinite(loss):
        raise DivergedError(f"the evaluation loss became {loss} after epoch {training.epoch}; {ADVICE}")
    return logits, loss, _accuracy(logits, digits.labels)


def _train_epoch(
    training: Training, digits: Digits, batch_size: int, on_step: OnStep | None
) -> tuple[float, float, float]:
    model, optimizer = training.model, training.optimizer
    order = torch.randperm(len(digits), generator=training.shuffle).to(digits.labels.device)
    labels = digits.labels[order]
    # Read once, at the epoch's end: a number asked for in between would make a GPU wait.
    losses: list[Tensor] = []
    logits: list[Tensor] = []
    learning_rate = 0.0
    steps = -(-len(digits) // batch_size)
    for images, targets in _batches(digits, order, labels, batch_size):
        batch_logits = model(images)
        loss = cross_entropy(batch_logits, targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        learning_rate = optimizer.param_groups[0]["lr"]
        if training.scheduler_steps_each_batch:
            training.scheduler.step()
        losses.append(loss.detach())
        logits.append(batch_logits.detach())
        if on_step is not None:
            on_step(len(losses), steps, losses[-1])
    if not training.scheduler_steps_each_batch:
        training.scheduler.step()

    batch_losses = torch.stack(losses).double()
    finite = batch_losses.isfinite()
    if not finite.all():
        step = int(finite.logical_not().nonzero()[0])
        raise DivergedError(
            f"the training loss became {batch_losses[step].item()} in epoch {training.epoch}, step {step + 1} "
            f"of {steps}; {ADVICE}"
        )
    sizes = torch.full_like(batch_losses, batch_size)
    sizes[-1] = len(digits) - batch_size * (steps - 1)
    mean_loss = float((batch_losses * sizes).sum() / len(digits))
    return mean_loss, _accuracy(torch.cat(logits), labels), float(learning_rate)


def _batches(digits: Digits, order: Tensor, labels: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    block = batch_size * max(1, BLOCK // batch_size)
    for start in range(0, len(order), block):
        images = digits.normalised(order[start : start + block])
        targets = labels[start : start + block]
        yield from zip(torch.split(images, batch_size), torch.split(targets, batch_size), strict=True)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return int((logits.argmax(dim=1) == labels).sum()) / len(labels)
