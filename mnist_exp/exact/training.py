"""Loss and optimizers whose computation is the kernels'; their arguments and states stay torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mnist_exp.exact import network, numbers
from mnist_exp.exact.blocks import Array
from mnist_exp.exact.cache import compile_once


def make_exact(model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, seed: int) -> None:
    """Initialise a model, and have its optimizer and its loss compute with the kernels."""
    with torch.random.fork_rng(devices=[]):
        compile_once(_call_all)
    network.initialise(model, seed)
    for part in (optimizer, loss):
        part.__class__ = STAND_INS[type(part)]


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """The mean cross-entropy of logits, float32, ``[N, classes]``, with label smoothing."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = _Loss.apply(logits, labels, self.label_smoothing)
        return loss


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        context.gradient = torch.empty_like(logits)
        loss = numbers.cross_entropy(
            logits.detach().numpy(), labels.numpy(), float(smoothing), context.gradient.numpy()
        )
        return torch.tensor(loss, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return context.gradient * gradient, None, None


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum and weight decay."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if group["momentum"] and state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                velocity = state["momentum_buffer"] if group["momentum"] else torch.zeros_like(parameter)
                arrays = (_flat(parameter), _flat(parameter.grad), _flat(velocity))
                numbers.sgd(*arrays, float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]))


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        for group in self.param_groups:
            rate, (beta1, beta2) = float(group["lr"]), map(float, group["betas"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                count = int(state["step"])
                constants = np.array(
                    [
                        1 - rate * float(group["weight_decay"]),
                        1 - _power(beta1, count),
                        np.sqrt(1 - _power(beta2, count)),
                        group["eps"],
                    ]
                )
                arrays = (_flat(parameter), _flat(parameter.grad), _flat(state["exp_avg"]), _flat(state["exp_avg_sq"]))
                numbers.adamw(*arrays, rate, beta1, beta2, constants)


def _flat(tensor: Tensor) -> Array:
    return tensor.detach().numpy().reshape(-1)


def _power(base: float, exponent: int) -> float:
    """base^exponent by multiplications, which every processor rounds alike."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


STAND_INS: dict[type, type] = {each.__mro__[1]: each for each in (CrossEntropyLoss, SGD, AdamW)}
"""torch's class → ours."""


def _call_all() -> None:
    """Call every kernel, with each kind of arguments that training has."""
    convolutions = [network.Layer(nn.Conv2d(1, 6, 5), nn.BatchNorm2d(6)), network.Layer(nn.Conv2d(6, 16, 5), None)]
    linear = [network.Layer(nn.Linear(400, 16), None), network.Layer(last := nn.Linear(16, 10), None)]
    chain, trace = network.Chain(convolutions, linear), list[Any]()
    logits = torch.from_numpy(chain.forward(np.zeros((2, 1, 32, 32), np.float32), trace)).requires_grad_()
    torch.autograd.backward(CrossEntropyLoss()(logits, torch.tensor([0, 1])))
    chain.backward(logits.grad.numpy(), trace)  # type: ignore[union-attr]
    last.weight.grad = torch.zeros_like(last.weight)
    for optimizer in (SGD([last.weight], momentum=0.5), AdamW([last.weight])):
        optimizer.step()
    numbers.softmax(logits.detach().numpy(), np.empty((2, 10), np.float32))
