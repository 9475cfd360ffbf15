"""Random rotations."""

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import affine_grid, grid_sample


class Rotate(nn.Module):
    """Each image turned about its centre by up to so many degrees; bilinear, and what comes in repeats the edge."""

    def __init__(self, degrees: float = 10.0) -> None:
        super().__init__()
        self.degrees = degrees

    def forward(self, images: Tensor, generator: Generator) -> Tensor:
        """Rotate images, float32, ``[N, 1, H, W]``."""
        turns = 2 * torch.rand(len(images), dtype=torch.float64, generator=generator) - 1
        angles = torch.deg2rad(self.degrees * turns)
        cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
        matrices = torch.stack([cosine, -sine, zero, sine, cosine, zero], dim=1).reshape(-1, 2, 3)
        grid = affine_grid(matrices.float().to(images.device), list(images.shape), align_corners=False)
        return grid_sample(images, grid, padding_mode="border", align_corners=False)
