"""What the user sees of a run while it trains: a live bar on a terminal, otherwise a line per epoch."""

import time
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mnist_exp.cli.messages import format_accuracy
from mnist_exp.training import EpochResult

REFRESH_SECONDS = 0.1


class Lines:
    """A `mnist_exp.job.Display` of one labelled line per epoch: for parallel jobs, and for output to a file."""

    def __init__(self, name: str, epochs: int) -> None:
        self._name, self._epochs = name, epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def resumed(self, epoch: int) -> None:
        self._print(f"resumes after epoch {epoch}")

    def step(self, done: int, steps: int, loss: Tensor) -> None: ...

    def epoch(self, result: EpochResult) -> None:
        m, validation = result.metrics, ""
        if m.validation_loss is not None:
            validation = f"validation loss {m.validation_loss:.4f} accuracy {m.validation_accuracy:.4f}  "
        self._print(
            f"epoch {m.epoch:>{len(str(self._epochs))}}/{self._epochs}  "
            f"train loss {m.train_loss:.4f} accuracy {m.train_accuracy:.4f}  "
            f"{validation}test loss {m.test_loss:.4f} accuracy {m.test_accuracy:.4f}  "
            f"{result.train_seconds + result.eval_seconds:.1f} s"
        )

    def _print(self, text: str) -> None:
        print(f"{self._name}  {text}\n", end="", flush=True)  # one write, so that lines of jobs do not mix


class LiveBar:
    """A `mnist_exp.job.Display` of a bar with loss, accuracy and the time left: for one run on a terminal."""

    def __init__(self, name: str, epochs: int) -> None:
        columns = BarColumn(), TextColumn("{task.fields[status]}"), TimeRemainingColumn(), TextColumn("left")
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(name, total=epochs, status="loading the images")
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
        self._show(self._finished + done / steps, self._finished + 1, loss.item())

    def epoch(self, result: EpochResult) -> None:
        m = result.metrics
        self._finished, self._accuracy = m.epoch, f"  {format_accuracy(m.as_row())}"
        self._show(m.epoch, m.epoch, m.train_loss)

    def _show(self, completed: float, epoch: int, loss: float) -> None:
        status = f"epoch {epoch}/{self._epochs}  train loss {loss:.4f}{self._accuracy}"
        self._bar.update(self._task, completed=completed, status=status)
