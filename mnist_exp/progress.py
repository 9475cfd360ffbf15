"""What a person sees of a run while it trains: a live bar on a terminal, else a line an epoch."""

import time
from typing import Protocol, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mnist_exp.messages import score
from mnist_exp.training import Epoch

REFRESH_SECONDS = 0.1


class Display(Protocol):
    """Shows one run's progress; a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def resumed(self, epoch: int) -> None:
        """The run goes on after this many epochs."""

    def step(self, done: int, steps: int, loss: Tensor) -> None:
        """A training step of the current epoch is done."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done and saved."""


class Lines:
    """A `Display` of a labelled line an epoch: for jobs side by side, and for output to a file."""

    def __init__(self, name: str, epochs: int) -> None:
        self._name, self._epochs = name, epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def resumed(self, epoch: int) -> None:
        self._print(f"goes on after epoch {epoch}")

    def step(self, done: int, steps: int, loss: Tensor) -> None: ...

    def epoch(self, epoch: Epoch) -> None:
        m, validation = epoch.metrics, ""
        if m.validation_loss is not None:
            validation = f"validation loss {m.validation_loss:.4f} accuracy {m.validation_accuracy:.4f}  "
        self._print(
            f"epoch {m.epoch:>{len(str(self._epochs))}}/{self._epochs}  "
            f"train loss {m.train_loss:.4f} accuracy {m.train_accuracy:.4f}  "
            f"{validation}test loss {m.test_loss:.4f} accuracy {m.test_accuracy:.4f}  "
            f"{epoch.train_seconds + epoch.eval_seconds:.1f} s"
        )

    def _print(self, text: str) -> None:
        print(f"{self._name}  {text}\n", end="", flush=True)  # one write, so that lines of jobs don't mix


class LiveBar:
    """A `Display` of a bar with loss, accuracy and the time left: for one run on a terminal."""

    def __init__(self, name: str, epochs: int) -> None:
        columns = BarColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn(), TextColumn("left")
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(name, total=epochs, status="loading the digits")
        self._name, self._epochs, self._finished, self._accuracy, self._shown = name, epochs, 0, "", 0.0

    def __enter__(self) -> Self:
        print(self._name)  # on a line of its own, or a terminal of 80 columns would have no room for the bar
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def resumed(self, epoch: int) -> None:
        self._finished = epoch
        self._bar.reset(self._task, completed=epoch, total=self._epochs)

    def step(self, done: int, steps: int, loss: Tensor) -> None:
        if time.monotonic() - self._shown < REFRESH_SECONDS:
            return
        self._shown = time.monotonic()
        status = f"epoch {self._finished + 1}/{self._epochs}  train loss {loss.item():.4f}{self._accuracy}"
        self._bar.update(self._task, completed=self._finished + done / steps, status=status)

    def epoch(self, epoch: Epoch) -> None:
        m = epoch.metrics
        self._finished = m.epoch
        self._accuracy = f"  {score(m.measured())}"
        status = f"epoch {m.epoch}/{self._epochs}  train loss {m.train_loss:.4f}{self._accuracy}"
        self._bar.update(self._task, completed=m.epoch, status=status)
