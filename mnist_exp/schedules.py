"""Learning-rate schedules of our own."""

import math

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    """Up in a line, and then down along half a cosine (Loshchilov and Hutter, 2017), step by step.

    Args:
        epochs: of the whole run.
        steps_per_epoch: given by the program to every schedule that has such an argument.
        warmup: the share of all steps in which the rate grows.
        final: the share of the highest rate at the end.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        epochs: int,
        steps_per_epoch: int,
        warmup: float = 0.1,
        final: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if not (0 <= warmup < 1 and 0 <= final <= 1):
            raise ValueError("warmup must be from 0 to less than 1, and final from 0 to 1")
        self.steps, self.warmup, self.final = epochs * steps_per_epoch, warmup, final
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group of parameters in the next step."""
        step, rising = self.last_epoch, self.warmup * self.steps
        if step < rising:
            factor = (step + 1) / (rising + 1)
        else:
            down = min((step - rising) / max(self.steps - rising, 1), 1)
            factor = self.final + (1 - self.final) * (1 + math.cos(math.pi * down)) / 2
        return [rate * factor for rate in self.base_lrs]
