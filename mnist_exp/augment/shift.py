"""Random shifts."""

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import pad


class Shift(nn.Module):
    """Each image moved by whole pixels, up to so many in either direction; what comes in repeats the image's edge."""

    def __init__(self, pixels: int = 2) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, images: Tensor, generator: Generator) -> Tensor:
        """Shift images, float32, ``[N, 1, H, W]``."""
        count, _, height, width = images.shape
        offsets = torch.randint(0, 2 * self.pixels + 1, (2, count, 1), generator=generator).to(images.device)
        rows = offsets[0] + torch.arange(height, device=images.device)
        columns = offsets[1] + torch.arange(width, device=images.device)
        padded = pad(images, [self.pixels] * 4, mode="replicate")
        image = torch.arange(count, device=images.device)
        return padded[image[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
