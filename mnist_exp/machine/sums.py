"""What the loop computes of logits and losses itself; with exact arithmetic, in an order that is fixed."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from mnist_exp.machine.determinism import is_exact


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """The mean over images, in float64, of logits, float32, ``[N, classes]``, and labels, int64, ``[N]``."""
    if is_exact():
        from mnist_exp.exact import numbers

        return float(numbers.cross_entropy(logits.numpy(), labels.numpy(), 0.0, torch.empty_like(logits).numpy()))
    return float(functional.cross_entropy(logits.cpu().double(), labels.cpu()))  # MPS has no float64


def softmax(logits: Tensor) -> Tensor:
    """Probabilities, float32, ``[N, classes]``."""
    if is_exact():
        from mnist_exp.exact import numbers

        found = torch.empty_like(logits)
        numbers.softmax(logits.numpy(), found.numpy())
        return found
    return logits.softmax(dim=1)


def total(values: Tensor) -> float:
    """The sum of numbers, float64."""
    return math.fsum(values.tolist()) if is_exact() else float(values.sum())
