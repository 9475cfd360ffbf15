"""The three networks as chains of kernels, put on from outside.

The networks' own code stays as it is, and says what is computed; it is compared with the kernels before they are used.
"""

import contextlib
import copy
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mnist_exp.errors import ConfigError
from mnist_exp.exact import kernels
from mnist_exp.exact.blocks import Array, to_blocks, to_rows
from mnist_exp.exact.kernels import G
from mnist_exp.exact.simd import W

Named = list[tuple[str, str | None]]
LAYERS: dict[str, tuple[Named, Named]] = {
    "lenet5.LeNet5": ([("C1", None), ("C3", None)], [("C5", None), ("F6", None), ("output", None)]),
    "lenet5_regularized.LeNet5Regularized": (
        [("C1", "N1"), ("C3", "N3")],
        [("C5", "N5"), ("F6", None), ("output", None)],
    ),
    "mlp.MLP": ([], [("hidden1", None), ("hidden2", None), ("output", None)]),
}
"""Network in `mnist_exp.models` → its convolutions and its linear layers, each with its normalisation. Dropout is
before the last one. (By name: their files need not count as code of this room.)"""
DRAWS = 2**24
_checked: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


@contextlib.contextmanager
def put_on(model: Any) -> Iterator[None]:
    """Within this context, a network computes with the kernels.

    Raises:
        ConfigError: its own code computes something else.
    """
    if model not in _checked:
        check(model)
        _checked.add(model)
    chain, parameters = chain_of(model), _parameters(model)

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = _Network.apply(images, chain, *parameters)
        return logits

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def initialise(model: nn.Module, seed: int) -> None:
    """PyTorch's default initial weights, uniform within ±1 / √(inputs of a unit), drawn as integers.

    ``torch.manual_seed`` is called anew, so that dropout's masks do not depend on how many numbers were drawn before.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters():
                drawn = torch.randint(DRAWS, parameter.shape, generator=generator).numpy()
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(((2 * drawn / DRAWS - 1) * bound).astype(np.float32)))
    torch.manual_seed(seed)


class _Network(torch.autograd.Function):
    """A whole network as one function of its images and parameters."""

    @staticmethod
    def forward(context: Any, images: Tensor, chain: "Chain", *parameters: Tensor) -> Tensor:
        context.chain, context.trace = chain, []
        return torch.from_numpy(chain.forward(images.detach().numpy(), context.trace))

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        found = context.chain.backward(gradient.contiguous().numpy(), context.trace)
        return (None, None, *map(torch.from_numpy, found))


class Layer:
    """A convolution or linear layer with its normalisation; the arrays are the parameters' own memory."""

    def __init__(self, layer: Any, norm: Any) -> None:
        self.weight, self.bias, self.norm = _array(layer.weight), _array(layer.bias), norm
        self.identity = np.repeat(np.array([[0], [1], [1], [0]], np.float32), len(self.bias), axis=1)
        if norm is not None:
            self.gamma, self.beta = _array(norm.weight), _array(norm.bias)
            self.running = _array(norm.running_mean), _array(norm.running_var)

    def normalisation(self, y: Array, count: int) -> Array:
        """What `kernels.normalisation` finds of ``y``."""
        if (norm := self.norm) is None:
            return self.identity
        found, y = np.empty_like(self.identity), y.reshape(*y.shape[:2], -1, W)
        parameters = self.gamma, self.beta, *self.running
        kernels.normalisation(y, count, norm.training, norm.eps, norm.momentum, *parameters, found)
        if norm.training:
            norm.num_batches_tracked += 1
        return found

    def normalise_backward(self, statistics: Array, y: Array, count: int, d: Array) -> list[Array]:
        """Replace the gradient ``d`` of the normalised maps by that of ``y``; return those of γ and β."""
        if self.norm is None:
            return []
        of_gamma, of_beta = np.empty((2, len(self.gamma)), np.float32)
        shape = (*y.shape[:2], -1, W)
        kernels.normalise_backward(
            y.reshape(shape), count, self.norm.training, statistics, d.reshape(shape), of_gamma, of_beta
        )
        return [of_gamma, of_beta]


class Chain:
    """A network's layers, and how they are computed one after another."""

    def __init__(self, convolutions: list[Layer], linear: list[Layer], dropout: Any = None) -> None:
        self.convolutions, (*self.hidden, self.output), self.dropout = convolutions, linear, dropout
        self.outputs = len(self.output.bias)

    @np.errstate(invalid="ignore", over="ignore")  # fit says which loss is not finite
    def forward(self, images: Array, trace: list[Any]) -> Array:
        """Logits, ``[N, classes]``; what the gradient needs is added to ``trace``."""
        count, blocks = len(images), -(-len(images) // W)
        x = np.empty((blocks, 1, *images.shape[2:], W), np.float32)
        to_blocks(images.reshape(count, -1), x.reshape(blocks, -1, W))
        for layer in self.convolutions:
            outputs, side = len(layer.bias), x.shape[2] - 4
            y = np.empty((blocks, outputs, side, side, W), np.float32)
            kernels.convolve(x, layer.weight, layer.bias, y)
            statistics = layer.normalisation(y, count)
            pooled, codes = np.empty((2, blocks, outputs, side // 2, side // 2, W), np.float32)
            kernels.pool(y, statistics[2], statistics[3], pooled, codes)
            trace.append((x, y, codes, statistics))
            x = pooled
        x = x.reshape(blocks, -1, W)
        for layer in self.hidden:
            y, out = np.empty((2, blocks, len(layer.bias), W), np.float32)
            kernels.multiply(x, layer.weight, layer.bias, y)
            statistics = layer.normalisation(y, count)
            kernels.rectify(y, statistics[2], statistics[3], out)
            trace.append((x, y, out, statistics))
            x = out
        mask = self._dropout_mask(count, x.shape)
        if mask is not None:
            x = x * mask
        # With fewer outputs than a tile has, it is filled with zeros.
        lacking = max(0, G - self.outputs)
        weight, bias = self.output.weight, self.output.bias
        if lacking:
            weight, bias = np.pad(weight, ((0, lacking), (0, 0))), np.pad(bias, (0, lacking))
        y = np.empty((blocks, len(weight), W), np.float32)
        kernels.multiply(x, weight, bias, y)
        trace.append((x, mask, weight, count))
        logits = np.empty((count, len(weight)), np.float32)
        to_rows(y, logits)
        return np.ascontiguousarray(logits[:, : self.outputs])

    @np.errstate(invalid="ignore", over="ignore")
    def backward(self, gradient: Array, trace: list[Any]) -> list[Array]:
        """The gradient of each parameter, from that of the logits."""
        x, mask, weight, count = trace.pop()
        g, d = np.empty((len(x), len(weight), W), np.float32), np.empty(x.shape, np.float32)
        if len(weight) > self.outputs:
            gradient = np.pad(gradient, ((0, 0), (0, len(weight) - self.outputs)))
        to_blocks(gradient, g)
        of_weight, of_bias = np.empty(weight.shape, np.float32), np.empty(len(weight), np.float32)
        kernels.multiply_backward(x, weight, g, True, d, of_weight, of_bias)
        found = [[of_weight[: self.outputs], of_bias[: self.outputs]]]
        if mask is not None:
            d *= mask
        for layer in reversed(self.hidden):
            x, y, out, statistics = trace.pop()
            g = np.empty(y.shape, np.float32)
            kernels.rectify_backward(d, out, g)
            of_norm = layer.normalise_backward(statistics, y, count, g)
            needs_d = bool(trace)  # there is a layer before it
            d = np.empty(x.shape if needs_d else (0, 0, W), np.float32)
            of_weight, of_bias = np.empty_like(layer.weight), np.empty_like(layer.bias)
            kernels.multiply_backward(x, layer.weight, g, needs_d, d, of_weight, of_bias)
            found.append([of_weight, of_bias, *of_norm])
        for layer in reversed(self.convolutions):
            x, y, codes, statistics = trace.pop()
            g = np.empty(y.shape, np.float32)
            kernels.pool_backward(d.reshape(codes.shape), codes, g)
            of_norm = layer.normalise_backward(statistics, y, count, g)
            needs_d = bool(trace)
            d = np.empty(x.shape if needs_d else (0, 0, 0, 0, W), np.float32)
            of_weight, of_bias = np.empty_like(layer.weight), np.empty_like(layer.bias)
            kernels.convolve_backward(x, layer.weight, g, needs_d, d, of_weight, of_bias)
            found.append([of_weight, of_bias, *of_norm])
        return [each for of_layer in reversed(found) for each in of_layer]

    def _dropout_mask(self, count: int, shape: tuple[int, ...]) -> Array | None:
        """1 / (1 − p) for the features that are kept, else 0; None where none are dropped."""
        if self.dropout is None or not self.dropout.training or self.dropout.p == 0:
            return None
        keep = 1.0 - self.dropout.p
        drawn = torch.randint(DRAWS, (count, shape[1])).numpy() < keep * DRAWS
        mask = np.empty(shape, np.float32)
        to_blocks((drawn * (1 / max(keep, 1 / DRAWS))).astype(np.float32), mask)
        return mask


def _array(tensor: Tensor) -> Array:
    return tensor.detach().numpy()


def _layers(model: Any) -> tuple[Named, Named]:
    return LAYERS[f"{type(model).__module__}.{type(model).__name__}".partition(".models.")[2]]


def chain_of(model: nn.Module) -> Chain:
    """A network's layers as a chain."""
    parts = dict(model.named_children())
    convolutions, linear = ([Layer(parts[n], norm and parts[norm]) for n, norm in each] for each in _layers(model))
    return Chain(convolutions, linear, parts.get("dropout"))


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    """All parameters, in the order of `Chain.backward`."""
    convolutions, linear = _layers(model)
    names = [name for pair in (*convolutions, *linear) for name in filter(None, pair)]
    return [model.get_parameter(f"{name}.{what}") for name in names for what in ("weight", "bias")]


def check(model: nn.Module) -> None:
    """Raise a ConfigError unless a network's own code gives the same logits, in either mode: somebody may edit it."""
    tried = copy.deepcopy(model)
    chain = chain_of(tried)
    digits = torch.linspace(-1, 3, 3 * 32 * 32).reshape(3, 1, 32, 32)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for training in (False, True):
            for layer in tried.train(training).modules():
                if isinstance(layer, nn.Dropout):
                    layer.eval()
            usual = tried(digits)
            if not np.allclose(usual.numpy(), chain.forward(digits.numpy(), []), rtol=1e-3, atol=1e-3):
                raise ConfigError(
                    f"device.arithmetic=exact: {type(model).__name__} was edited, and computes something else than the "
                    "kernels in mnist_exp/exact; use device.arithmetic=portable"
                )
