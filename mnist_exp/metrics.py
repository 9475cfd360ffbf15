"""Metrics that settings may name, beside loss and accuracy: ``metrics=[macro_f1]``.

A metric is a function of an evaluation's logits, float32, ``[N, classes]``, and labels, int64, ``[N]``, that is
declared with `metric`. It becomes columns of ``metrics.csv``, a column of the table and a curve. One of your own is
named by its module: ``metrics=[my_package.my_metrics.top3]``.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def metric(function: Callable[[Tensor, Tensor], float]) -> Callable[[Tensor, Tensor], float]:
    """Declare a function as a metric: only such functions may be named in settings."""
    function.is_metric = True  # type: ignore[attr-defined]
    return function


@metric
def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """The mean over classes of F1, the harmonic mean of precision and recall; 0 for a class that is never found."""
    classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    hits = torch.bincount(labels[predicted == labels], minlength=classes)
    sizes = torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)
    return float((2 * hits / sizes.clamp(min=1)).double().mean())
