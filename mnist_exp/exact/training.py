"""Loss and optimizers with a fixed computation; their arguments and states stay torch's.

numpy's +, −, ×, ÷ and square root of single elements are IEEE 754's, and so the same on every processor.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_exp.exact import network, numbers
from mnist_exp.exact.cache import compile_once
from mnist_exp.exact.kernels import Array, F


def make_exact(model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, seed: int) -> None:
    """Initialise a model, and have its optimizer and its loss compute with the kernels.

    Raises:
        ConfigError: the model's own code computes something else than the kernels.
    """
    compile_once(_call_all)
    network.check(model)
    network.initialise(model, seed)
    for part in (optimizer, loss):
        part.__class__ = STAND_INS[type(part)]


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """The mean cross-entropy of logits, float32, ``[N, classes]``, with label smoothing."""

    def forward(self, logits: Tensor, labels: Tensor) -> Any:
        return _Loss.apply(logits, labels, self.label_smoothing)


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        context.gradient = torch.empty_like(logits)
        loss = numbers.cross_entropy(logits.numpy(), labels.numpy(), float(smoothing), context.gradient.numpy())
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return context.gradient * gradient, None, None


class SGD(torch.optim.SGD):
    """v = momentum × v + (g + decay × w);  w = w − rate × v."""

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group, state, w, g in _parameters(self):
            v = _array(state, "momentum_buffer", w) if group["momentum"] else np.zeros_like(w)
            flat = w.reshape(-1), g.reshape(-1), v.reshape(-1)
            numbers.sgd(*flat, float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]))


class AdamW(torch.optim.AdamW):
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019)."""

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group, state, w, g in _parameters(self):
            rate, decay, (beta1, beta2) = float(group["lr"]), float(group["weight_decay"]), map(float, group["betas"])
            state["step"] = state.get("step", torch.tensor(0.0)) + 1
            count = int(state["step"])
            mean, square = _array(state, "exp_avg", w), _array(state, "exp_avg_sq", w)
            mean *= F(beta1)
            mean += F(1 - beta1) * g
            square *= F(beta2)
            square += F(1 - beta2) * (g * g)
            root = np.sqrt(square) / F(np.sqrt(1 - _power(beta2, count)))
            w *= F(1 - rate * decay)
            w -= F(rate / (1 - _power(beta1, count))) * (mean / (root + F(group["eps"])))


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], Any, Array, Array]]:
    """The group, the state, the weights and the gradient of each parameter that has one."""
    for group in optimizer.param_groups:
        for each in group["params"]:
            if each.grad is not None:
                yield group, optimizer.state[each], each.detach().numpy(), each.grad.numpy()


def _array(state: dict[str, Any], name: str, like: Array) -> Any:
    """A tensor of an optimizer's state, at first zeros."""
    if state.get(name) is None:
        state[name] = torch.zeros(like.shape)
    return state[name].numpy()


def _power(base: float, exponent: int) -> float:
    """base^exponent by multiplications, which every processor rounds alike."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


STAND_INS: dict[Any, type] = {each.__base__: each for each in (CrossEntropyLoss, SGD, AdamW)}
"""torch's class → ours."""


def _call_all() -> None:
    """Call every kernel, with each kind of arguments that training has."""
    model = nn.Module()
    model.C1, model.N1, model.C3 = nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 5)
    model.F6, model.output = nn.Linear(150, 16), nn.Linear(16, 10)
    layers = network.layers_of(model)
    logits = network.Network.apply(torch.zeros(2, 1, 32, 32), layers, model.C1.weight)
    torch.autograd.backward(CrossEntropyLoss()(logits, torch.tensor([0, 1])))
    numbers.softmax(logits.detach().numpy(), np.empty((2, 10), F))
    numbers.sgd(*np.zeros((3, 1), F), 0.0, 0.0, 0.0)
