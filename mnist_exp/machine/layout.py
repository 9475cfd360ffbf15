"""What makes a network fast, put on it from outside: another memory layout, or the kernels of exact arithmetic.

With AVX, a LeNet's feature maps are held in oneDNN's blocked layout from C1 to its Flatten: as many channels side by
side as fit into a vector register, 8 or 16. Otherwise they would be converted before and after each layer, a fifth of a
training step. Where 8 fit (AVX2), C1 is also computed from five shifted copies of the digits, which changes no bit.
"""

import contextlib
import copy
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from mnist_exp.machine.determinism import is_exact

_known: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()
"""Whether each model can use the layout."""


@contextlib.contextmanager
def use_fastest_layout(model: nn.Module) -> Iterator[None]:
    """Within this context, a model with layers named as LeNet5's computes in oneDNN's layout, where it can.

    With exact arithmetic, it computes with the kernels of `mnist_exp.exact`.
    """
    if is_exact():
        from mnist_exp.exact.network import put_on

        with put_on(model):
            yield
        return
    if model not in _known:
        _known[model] = _can_use(model)
    with _put_on(model) if _known[model] else contextlib.nullcontext():
        yield


def _can_use(model: nn.Module) -> bool:
    """Whether the model trains in this layout and has the same logits: somebody may have edited its layers."""
    first, flatten, parameter = getattr(model, "C1", None), getattr(model, "flatten", None), next(model.parameters())
    if not (isinstance(first, nn.Conv2d) and isinstance(flatten, nn.Flatten) and parameter.dtype == torch.float32):
        return False
    has_layout = torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()  # type: ignore[no-untyped-call]
    if not has_layout or parameter.device.type != "cpu":
        return False
    digits = torch.linspace(-1, 3, 2 * 32 * 32).reshape(2, 1, 32, 32)
    tried = copy.deepcopy(model).eval()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            usual = tried(digits)
            with _put_on(tried):
                is_same = torch.allclose(tried(digits), usual, rtol=1e-3, atol=1e-3)
                with torch.enable_grad():
                    torch.autograd.backward(tried.train()(digits).sum())
        except RuntimeError:  # oneDNN has no such operation
            return False
    return is_same


@contextlib.contextmanager
def _put_on(model: Any) -> Iterator[None]:
    """Within this context, C1 gives maps in the layout, and Flatten takes them out of it."""
    first, usual = model.C1, model.C1.forward
    columns = torch.backends.cpu.get_cpu_capability() == "AVX2"
    normalises = any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())

    def first_maps(digits: Tensor) -> Tensor:
        """C1: float32, ``[N, 1, 32, 32]`` → ``[N, 6, 28, 28]``."""
        maps: Tensor
        # oneDNN has no gradient of batch normalisation in evaluation mode, in which protocol=published trains.
        if normalises and not model.training and torch.is_grad_enabled():
            maps = usual(digits)
            return maps
        if not columns:
            maps = usual(digits.to_mkldnn())
            return maps
        # The same sums, with each column of the kernel as an input channel of its own: five copies of the digits, each
        # a column further right, and kernels of 5×1. With one channel, oneDNN's weight gradient is slow under AVX2.
        shifted = digits.squeeze(1).unfold(2, 28, 1).transpose(1, 2)  # [N, 5, 32, 28]
        return conv2d(shifted.to_mkldnn(), first.weight.transpose(1, 3), first.bias)

    def to_dense(_: nn.Module, maps: tuple[Tensor]) -> tuple[Tensor]:
        return (maps[0].to_dense() if maps[0].is_mkldnn else maps[0],)

    hook = model.flatten.register_forward_pre_hook(to_dense)
    first.forward = first_maps
    try:
        yield
    finally:
        del first.forward
        hook.remove()
