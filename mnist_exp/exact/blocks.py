"""Images side by side, sixteen to a block: into that layout, out of it, and sums over its lanes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_exp.exact.cache import jit
from mnist_exp.exact.simd import W, load, store, transpose

Array = NDArray[Any]
F = np.float32


@jit
def to_blocks(images: Array, out: Array) -> None:
    """``[images, features]`` → ``[blocks, features, 16]``, the missing images zero."""
    count, features = images.shape
    for b in range(out.shape[0]):
        for start in range(0, features, W):
            if b * W + W <= count and start + W <= features:
                tile = load(images, b * W * features + start, features, 16)
                store(out, (b * features + start) * W, W, transpose(tile))
            else:
                for lane in range(W):
                    i = b * W + lane
                    for f in range(start, min(features, start + W)):
                        out[b, f, lane] = images[i, f] if i < count else F(0)


@jit
def to_rows(blocks: Array, out: Array) -> None:
    """``[blocks, features, 16]`` → ``[images, features]``."""
    count, features = out.shape
    for b in range(blocks.shape[0]):
        for start in range(0, features, 16):
            for lane in range(min(W, count - b * W)):
                for f in range(start, min(features, start + 16)):
                    out[b * W + lane, f] = blocks[b, f, lane]


@jit
def lane_sum(x: Array, at: int) -> Any:
    """The sum of the 16 elements from ``at``, as a tree; they are overwritten."""
    half = W // 2
    while half:
        for lane in range(half):
            x[at + lane] += x[at + lane + half]
        half //= 2
    return x[at]
