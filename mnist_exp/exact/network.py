"""The three networks as layers that compute with the kernels, put on from outside.

The networks' own code stays as it is, and says what is computed; its logits are compared with the kernels' before.
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_exp.errors import ConfigError
from mnist_exp.exact import kernels
from mnist_exp.exact.kernels import SIX, Array, F, G, K
from mnist_exp.exact.simd import W

DRAWS = 2**24
"""Initial weights and dropout's masks are made from random integers below this, which torch draws alike everywhere."""
REFUSED = "device.arithmetic=exact: {} {}; use device.arithmetic=portable"


@contextlib.contextmanager
def put_on(model: Any) -> Iterator[None]:
    """Within this context, a network that was checked computes with the kernels."""
    layers = layers_of(model)
    model.forward = lambda images: Network.apply(images, layers, layers[0].parameters[0])
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # fit says which loss is not finite
            yield
    finally:
        del model.forward


@torch.no_grad()
def check(model: nn.Module) -> None:
    """Raise a ConfigError unless a network's own code gives the same logits, in either mode: somebody may edit it."""
    tried, digits = copy.deepcopy(model), torch.linspace(-1, 3, 3 * 32 * 32).reshape(3, 1, 32, 32)
    try:
        layers = layers_of(tried)
        for training, dropout in ((False, 0.0), (True, 0.0), (True, 1.0)):
            for part in tried.train(training).modules():
                if isinstance(part, nn.Dropout):
                    part.p = dropout
            if not torch.allclose(tried(digits), Network.apply(digits, layers, digits), rtol=1e-3, atol=1e-3):
                raise ValueError("the logits differ")
    except ValueError as error:
        why = "was edited, and computes something else than the kernels in mnist_exp/exact"
        raise ConfigError(REFUSED.format(type(model).__name__, why)) from error


def initialise(model: nn.Module, seed: int) -> None:
    """PyTorch's default initial weights, uniform within ±1 / √(inputs of a unit), drawn as integers.

    ``torch.manual_seed`` is called anew, so that dropout's masks do not depend on how many numbers were drawn before.

    Raises:
        ConfigError: the network has other initial weights, which would be lost.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            for parameter in layer.parameters():
                least = 0.5 * bound if parameter is layer.weight else 0.0  # the largest of a few biases may be small
                if not least < float(parameter.detach().abs().max()) < 1.001 * bound:
                    why = "has initial weights of its own, which would be replaced"
                    raise ConfigError(REFUSED.format(type(model).__name__, why))
                drawn = torch.randint(DRAWS, parameter.shape, generator=generator).numpy()
                parameter.data = torch.from_numpy(((2 * drawn / DRAWS - 1) * bound).astype(F))
    torch.manual_seed(seed)


class Network(torch.autograd.Function):
    """A network as one function of its images. Its backward pass sets the parameters' gradients itself.

    Torch calls that only if an input needs a gradient, so one of the parameters is an input.
    """

    @staticmethod
    def forward(context: Any, images: Tensor, layers: "list[Layer]", _: Tensor) -> Tensor:
        """Logits, ``[N, classes]``, of images, float32, ``[N, 1, 32, 32]``."""
        context.layers, count = layers, len(images)
        x = _blocks(images.numpy().reshape(count, -1)).reshape(-1, *images.shape[1:], W)
        for layer in layers:
            x = layer.forward(x, count)
        logits = x.reshape(*x.shape[:2], W).swapaxes(1, 2).reshape(len(x) * W, -1)
        return torch.from_numpy(logits[:count].copy())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[None, None, None]:
        """From the gradient of the logits."""
        d = _blocks(gradient.numpy())[:, :, None, None]
        for layer in reversed(context.layers):
            d = layer.backward(d, len(gradient), layer is not context.layers[0])
        return None, None, None


class Layer:
    """A convolution or a linear layer, with what comes before it (dropout) and after it (normalisation, pooling, ReLU).

    A network's last layer has nothing after it. Weights are the parameters' own memory. Maps and gradients have the
    same memory in every step, so a forward pass has to be followed by its backward pass, if any, before the next one.
    """

    def __init__(self, layer: Any, norm: Any, dropout: Any = None, is_last: bool = False) -> None:
        self.norm, self.dropout, self.is_last, self.is_linear = norm, dropout, is_last, isinstance(layer, nn.Linear)
        self.parameters = [*layer.parameters(), *(norm.parameters() if norm else ())]
        self.weight, self.bias, *affine = (parameter.detach().numpy() for parameter in self.parameters)
        self.gradients = [torch.empty_like(parameter) for parameter in self.parameters]
        self.gradient_arrays = [gradient.numpy() for gradient in self.gradients]
        self.statistics = np.repeat(np.array([[0], [1], [1], [0]], F), len(self.bias), axis=1)  # without normalisation
        if norm:
            running = norm.running_mean.numpy(), norm.running_var.numpy()
            self.settings = norm.eps, norm.momentum, tuple(affine), running
        self.tile, self.window, self.shape = (0,) * min(G, len(self.bias)), (0,) if self.is_linear else (0, 0), ()

    def allocate(self, shape: Any) -> None:
        """Allocate maps for inputs of a shape.

        Raises:
            ValueError: the kernels do not have layers of such a size.
        """
        if self.is_linear:
            fits = self.weight.shape[1] == shape[3] >= W
        else:
            fits = self.weight.shape[1:] == (shape[1], K, K) and len(self.bias) >= G and len(self.bias) % 2 == 0
        if not fits:
            raise ValueError(f"no kernel takes weights {self.weight.shape} and maps {shape}")
        blocks, outputs, side = shape[0], len(self.bias), 1 if self.is_linear else shape[2] - K + 1
        half = side // len(self.window)
        self.shape, self.d, self.no_bias = shape, _empty(*shape), np.zeros(shape[3], F)
        self.y, self.g = _empty(blocks, outputs, side, side, W), _empty(blocks, outputs, side, side, W)
        self.out, self.codes = _empty(blocks, outputs, half, half, W), _empty(blocks, outputs, half, half, W)

    def forward(self, x: Array, count: int) -> Array:
        """Maps of ``count`` images from maps."""
        if self.is_linear:
            x = x.reshape(len(x), 1, 1, -1, W)
        if x.shape != self.shape:
            self.allocate(x.shape)
        self.x, self.mask = x, None
        if self.dropout is not None and self.dropout.training and self.dropout.p:
            keep = 1.0 - self.dropout.p
            kept = torch.randint(DRAWS, (count, x.shape[3])).numpy() < keep * DRAWS
            self.mask = _blocks(kept * F(1 / max(keep, 1 / DRAWS))).reshape(x.shape)
            self.x = x * self.mask
        weigh = kernels.multiply if self.is_linear else kernels.convolve
        weigh(self.x, self.weight, self.bias, self.y, self.tile)
        if self.is_last:
            return self.y
        if self.norm:
            kernels.normalisation(self.y, count, self.norm.training, *self.settings, self.statistics)
            self.norm.num_batches_tracked += self.norm.training
        kernels.pool(self.y, self.statistics, self.window, self.out, self.codes)
        return self.out

    def backward(self, gradient: Array, count: int, needs_d: bool) -> Array:
        """The gradient of the inputs, where it is needed; those of the parameters are set."""
        of_weight, of_bias, *of_affine = self.gradient_arrays
        g = gradient if self.is_last else self.g
        if not self.is_last:
            kernels.pool_backward(gradient, self.codes, self.window, g)
        if self.norm:
            kernels.normalise_backward(self.y, count, self.norm.training, self.statistics, g, *of_affine)
        kernels.bias_gradient(g, of_bias)
        if self.is_linear:
            kernels.weight_gradient(self.x, g, of_weight, self.tile)
        else:
            kernels.kernel_gradient(self.x, g, of_weight)
        if needs_d and self.is_linear:
            kernels.multiply_transposed(g.reshape(len(g), 1, 1, -1, W), self.weight, self.no_bias, self.d, SIX)
        elif needs_d:
            kernels.convolve_backward(self.weight, g, self.d)
        for parameter, of_parameter in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = of_parameter
        return self.d if self.mask is None else self.d * self.mask


def layers_of(model: Any) -> list[Layer]:
    """A network's layers: C1 is normalised by N1, and dropout comes before the last one."""
    parts = dict(model.named_children())
    *before, last = (name for name, part in parts.items() if isinstance(part, nn.Conv2d | nn.Linear))
    layers = [Layer(parts[name], parts.get("N" + name[1:])) for name in before]
    return [*layers, Layer(parts[last], None, parts.get("dropout"), is_last=True)]


def _empty(*shape: int) -> Array:
    """An array that starts at a multiple of 64 bytes, as torch's memory does.

    Otherwise vectors would lie across two lines of the cache, and kernels take up to 1.6 times as long.
    """
    return torch.empty(shape).numpy()


def _blocks(rows: Array) -> Array:
    """Of a row for each image, ``[N, features]``: ``[blocks, features, 16]``."""
    blocks = _empty(-(-len(rows) // W), rows.shape[1], W)
    kernels.to_blocks(np.ascontiguousarray(rows), blocks)
    return blocks
