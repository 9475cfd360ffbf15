"""Other arithmetic for speed, where it is asked for: bfloat16, and ``torch.compile``."""

import torch
from torch import Tensor, nn

from mnist_exp.config import DeviceConfig


def accelerate(model: nn.Module, config: DeviceConfig, device: torch.device) -> None:
    """Have the model compute as ``device.precision`` and ``device.compile`` say, in place.

    Its weights stay float32, and so do its logits. The defaults leave it as it is.
    """
    if config.precision == "fp32" and not config.compile:
        return
    forward = model.forward
    if config.precision == "bf16":
        forward = torch.autocast(device.type, torch.bfloat16)(forward)
    if config.compile:
        # On a GPU, one launch of a CUDA graph replaces those of each operation.
        forward = torch.compile(forward, mode="reduce-overhead" if device.type == "cuda" else "default")

    def accelerated(digits: Tensor) -> Tensor:
        # A copy even of float32: a CUDA graph writes each batch's logits to one place.
        logits: Tensor = forward(digits)
        return logits.to(torch.float32, copy=True)

    model.forward = accelerated
