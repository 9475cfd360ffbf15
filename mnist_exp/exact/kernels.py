"""The layers of the networks, forward and backward, with every sum in a fixed order.

Sixteen images lie side by side in a vector's lanes. Maps are ``[blocks, channels, rows, columns, 16]``, float32: a
block holds 16 images, and a sum for one image stays in its lane. Lanes without an image, at the end of the last block,
hold what an image of zeros gives; statistics leave them out, and their gradient is 0. Only gradients of weights add up
lanes: first over blocks, then the 16 as a tree (`lane_sum`).

A linear layer is a convolution over a map ``[blocks, 1, 1, features, 16]`` whose kernel is the whole map.

`G` outputs, a tile, are summed at once, so that their sums stay in registers. A tile that would pass the end is moved
back, and computes some outputs twice; so tiles are not part of the arithmetic, but the order within each sum is.

``gradient`` is that of the loss with respect to a layer's outputs, ``d`` to its inputs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_exp.exact.cache import jit
from mnist_exp.exact.simd import W, if_larger, load, madd, splat, store, transpose

Array = NDArray[Any]
F = np.float32
G = 6
"""Outputs summed at once. A vector takes two of AVX2's 16 registers: six sums take 12, and 4 remain for operands."""
SIX = (0,) * G
"""Only the length of such a tuple counts: numba compiles a kernel for each length, and can unroll its loops."""
K = 5
"""Rows and columns of a convolution's kernel."""
CODES = np.arange(5, dtype=np.float32)
"""Which of a pooled output's inputs is the largest, 0 to 3; 4 where ReLU is off."""
ZERO, ONE, LOWEST = np.zeros(G, np.float32), np.ones(1, np.float32), np.full(1, -np.inf, np.float32)


@jit
def to_blocks(images: Array, out: Array) -> None:
    """``[images, features]`` → ``[blocks, features, 16]``, the missing images zero."""
    count, features = images.shape
    for b in range(out.shape[0]):
        for start in range(0, features, W):
            if b * W + W <= count and start + W <= features:
                tile = load(images, b * W * features + start, features, W)
                store(out, (b * features + start) * W, W, transpose(tile))
            else:
                for lane in range(W):
                    i = b * W + lane
                    for f in range(start, min(features, start + W)):
                        out[b, f, lane] = images[i, f] if i < count else F(0)


@jit
def lane_sum(x: Array, at: int) -> Any:
    """The sum of the 16 elements from ``at``, as a tree; they are overwritten."""
    for half in (8, 4, 2, 1):
        for lane in range(half):
            x[at + lane] += x[at + lane + half]
    return x[at]


# ---- convolutions and linear layers ----------------------------------------------------------------------------------


def _sums(k: int | None, transposed: bool = False) -> Any:
    """A kernel for convolutions of k×k, whose loops the compiler can unroll, or as large as the map."""

    @jit
    def sums_of_products(x: Array, weight: Array, bias: Array, out: Array, tile: Any) -> None:
        blocks, channels, rows, columns, _ = x.shape
        outputs, k_rows, k_columns = len(bias), k or rows, k or columns
        taps, pixels = channels * k_rows * k_columns, (rows - k_rows + 1) * (columns - k_columns + 1)
        stride, step = (1, outputs) if transposed else (taps, 1)
        for start in range(0, outputs, len(tile)):
            o = min(start, outputs - len(tile))
            for b in range(blocks):
                to = (b * outputs + o) * pixels * W
                for row in range(rows - k_rows + 1):
                    for column in range(columns - k_columns + 1):
                        sums = splat(bias, o, 1, tile)
                        for c in range(channels):
                            for ky in range(k_rows):
                                at = (((b * channels + c) * rows + row + ky) * columns + column) * W
                                tap = o * stride + (c * k_rows + ky) * k_columns * step
                                for kx in range(k_columns):
                                    weights = splat(weight, tap + kx * step, stride, tile)
                                    sums = madd(sums, load(x, at + kx * W, 0, 1), weights)
                        store(out, to, pixels * W, sums)
                        to += W

    return sums_of_products


convolve, multiply, multiply_transposed = _sums(K), _sums(None), _sums(None, transposed=True)
"""``convolve(x, weight, bias, out, tile)``: y[o] = bias[o] + Σ over channels, rows and columns of the kernel, in this
order, of weight × x. ``tile`` is as long as a tile (`SIX`): shorter where there are fewer outputs. ``multiply`` is the
same for linear layers. ``multiply_transposed`` takes their gradient for x and gives that of their inputs,
d[f] = Σ over outputs o of weight[o, f] × gradient[o]."""


@jit
def convolve_backward(weight: Array, gradient: Array, d: Array) -> None:
    """d[c, row, column] = Σ over o, ky, kx of weight[o, c, ky, kx] × gradient[o, row − ky, column − kx].

    In this order; terms outside the map are left out.
    """
    blocks, channels, size, _, _ = d.shape
    outputs, k, side = len(weight), K, size - K + 1
    for start in range(0, channels, G):
        c = min(start, channels - G)
        for b in range(blocks):
            for row in range(size):
                for column in range(size):
                    sums = splat(ZERO, 0, 0, G)
                    for o in range(outputs):
                        for ky in range(max(0, row - side + 1), min(k, row + 1)):
                            at = (((b * outputs + o) * side + row - ky) * side + column) * W
                            tap = ((o * channels + c) * k + ky) * k
                            for kx in range(max(0, column - side + 1), min(k, column + 1)):
                                weights = splat(weight, tap + kx, k * k, G)
                                sums = madd(sums, load(gradient, at - kx * W, 0, 1), weights)
                    store(d, (((b * channels + c) * size + row) * size + column) * W, size * size * W, sums)


@jit
def kernel_gradient(x: Array, gradient: Array, out: Array) -> None:
    """dw[o, c, ky, kx] = Σ over images, rows and columns of gradient[o, row, column] × x[c, row + ky, column + kx].

    There is an even number of outputs; taps are padded to a multiple of three.
    """
    blocks, channels, size, _, _ = x.shape
    outputs, side, taps = len(out), size - K + 1, channels * K * K
    threes = -(-taps // 3)  # a tile is three taps of two outputs, as many sums as G
    offsets = np.zeros(threes * 3, np.int64)
    for t in range(taps):
        offsets[t] = ((t // (K * K) * size + t // K % K) * size + t % K) * W
    at_once = 1 if size > 16 else side  # so many rows that what they read fits into the cache
    sums = np.zeros((outputs // 2 * threes, G, W), np.float32)
    for b in range(blocks):
        for top in range(0, side, at_once):
            for tile in range(len(sums)):
                o, t = tile // threes * 2, tile % threes * 3
                total = load(sums, tile * G * W, W, G)
                for row in range(top, top + at_once):
                    for column in range(side):
                        at = ((b * channels * size + row) * size + column) * W
                        p0, p1, p2 = at + offsets[t], at + offsets[t + 1], at + offsets[t + 2]
                        pixels = load(x, p0, 0, 1)[0], load(x, p1, 0, 1)[0], load(x, p2, 0, 1)[0]
                        to = (((b * outputs + o) * side + row) * side + column) * W
                        total = madd(total, load(gradient, to, side * side * W, 2), pixels)
                store(sums, tile * G * W, W, total)
    flat_sums, flat_out = sums.ravel(), out.reshape(outputs, taps)
    for o in range(outputs):
        for t in range(taps):
            flat_out[o, t] = lane_sum(flat_sums, ((o // 2 * threes + t // 3) * G + o % 2 * 3 + t % 3) * W)


@jit
def weight_gradient(x: Array, gradient: Array, out: Array, tile: Any) -> None:
    """dw[o, f] = Σ over images, in order, of gradient[o] × x[f], for a linear layer."""
    outputs, features = out.shape
    blocks = x.shape[0]
    rows = np.empty((blocks * W, W), np.float32)  # of 16 features, which lie side by side here, rather than images
    for start in range(0, features, W):
        f = min(start, features - W)
        for b in range(blocks):
            store(rows, b * W * W, W, transpose(load(x, (b * features + f) * W, W, W)))
        for first in range(0, outputs, len(tile)):
            o = min(first, outputs - len(tile))
            sums = splat(ZERO, 0, 0, tile)
            for b in range(blocks):
                for lane in range(W):
                    factors = splat(gradient, (b * outputs + o) * W + lane, W, tile)
                    sums = madd(sums, load(rows, (b * W + lane) * W, 0, 1), factors)
            store(out, o * features + f, features, sums)


@jit
def bias_gradient(gradient: Array, out: Array) -> None:
    """db[o] = Σ over images, rows and columns of gradient[o]."""
    blocks, outputs, rows, columns, _ = gradient.shape
    pixels, lanes = rows * columns, np.empty(W, np.float32)
    for o in range(outputs):
        total = splat(ZERO, 0, 0, 1)
        for b in range(blocks):
            for p in range(pixels):
                total = madd(total, load(gradient, ((b * outputs + o) * pixels + p) * W, 0, 1), splat(ONE, 0, 0, 1))
        store(lanes, 0, 0, total)
        out[o] = lane_sum(lanes, 0)


# ---- max-pooling and ReLU --------------------------------------------------------------------------------------------


@jit
def pool(y: Array, statistics: Array, window: Any, out: Array, codes: Array) -> None:
    """ReLU of the largest of each window of scale[c] × y + shift[c], and which one it is; NaN counts as the largest.

    Scale and shift are rows 2 and 3 of ``statistics`` (`normalisation`). ``window`` is as long as the window is wide
    (`SIX`): 2, or 1 in linear layers.
    """
    blocks, channels, rows, columns, _ = out.shape
    zero, off, wide = splat(ZERO, 0, 0, 1), splat(CODES, 4, 0, 1), len(window)
    for line in range(blocks * channels * rows):
        c = line // rows % channels
        scale, shift = splat(statistics, 2 * channels + c, 0, 1), splat(statistics, 3 * channels + c, 0, 1)
        for column in range(columns):
            best, code = splat(LOWEST, 0, 0, 1), zero
            for i in range(wide):
                for j in range(wide):
                    at = ((line * wide + i) * columns + column) * wide + j
                    value = madd(shift, load(y, at * W, 0, 1), scale)
                    code = if_larger(value, best, splat(CODES, 2 * i + j, 0, 1), code)
                    best = if_larger(value, best, value, best)
            to = (line * columns + column) * W
            store(codes, to, 0, if_larger(best, zero, code, off))
            store(out, to, 0, if_larger(best, zero, best, zero))


@jit
def pool_backward(gradient: Array, codes: Array, window: Any, d: Array) -> None:
    """The gradient goes to the largest of a window; where ReLU is off, to none."""
    blocks, channels, rows, columns, _ = codes.shape
    zero, wide = splat(ZERO, 0, 0, 1), len(window)
    for line in range(blocks * channels * rows):
        for column in range(columns):
            at = (line * columns + column) * W
            code, value = load(codes, at, 0, 1), load(gradient, at, 0, 1)
            for i in range(wide):
                for j in range(wide):
                    this = splat(CODES, 2 * i + j, 0, 1)
                    of_this = if_larger(code, this, zero, if_larger(this, code, zero, value))
                    store(d, (((line * wide + i) * columns + column) * wide + j) * W, 0, of_this)


# ---- batch normalisation ---------------------------------------------------------------------------------------------


@jit
def normalisation(
    y: Array, count: int, training: bool, eps: float, momentum: float, affine: Any, running: Any, statistics: Array
) -> None:
    """Find mean, inverse = 1 / √(variance + ε), scale = γ × inverse and shift = β − mean × scale, ``[4, channels]``.

    In training mode, mean and variance are those of the ``count`` images of y: Σ y / n and Σ (y − mean)² / n; and
    running = (1 − momentum) × running + momentum × new, where the new variance is Σ (y − mean)² / (n − 1). Otherwise
    they are the running ones.
    """
    blocks, channels, rows, columns, _ = y.shape
    pixels, n = rows * columns, count * rows * columns
    live, sums, minus = np.zeros(blocks * W, np.float32), np.empty(W, np.float32), np.empty(1, np.float32)
    live[:count] = F(1)
    for c in range(channels):
        moments = [running[0][c], running[1][c]]
        if training:
            minus[0] = F(0)
            for i in range(2):  # Σ y first, then Σ (y − mean)²
                total = splat(ZERO, 0, 0, 1)
                for b in range(blocks):
                    for p in range(pixels):
                        value = load(y, ((b * channels + c) * pixels + p) * W, 0, 1)
                        value = madd(value, splat(minus, 0, 0, 1), splat(ONE, 0, 0, 1))
                        present = madd(splat(ZERO, 0, 0, 1), value, load(live, b * W, 0, 1))
                        total = madd(total, present, value if i else splat(ONE, 0, 0, 1))
                store(sums, 0, 0, total)
                moments[i] = F(np.float64(lane_sum(sums, 0)) / n)
                minus[0] = -moments[0]
                new = F(momentum) * (moments[i] * F(n / (n - 1)) if i else moments[i])
                running[i][c] = F((1 - momentum) * np.float64(running[i][c]) + np.float64(new))
        statistics[0, c], statistics[1, c] = moments[0], F(1 / np.sqrt(np.float64(moments[1]) + eps))
        statistics[2, c] = affine[0][c] * statistics[1, c]
        statistics[3, c] = affine[1][c] - statistics[0, c] * statistics[2, c]


@jit
def normalise_backward(
    y: Array, count: int, training: bool, statistics: Array, g: Array, of_gamma: Array, of_beta: Array
) -> None:
    """The gradient of γ x̂ + β with x̂ = (y − mean) × inverse; ``statistics`` is that of `normalisation`.

    With g the gradient of the outputs, over n = count × pixels values of a channel:
    dβ = Σ g, dγ = Σ g x̂, and dy = γ × inverse × (g − Σ g / n − x̂ Σ g x̂ / n), which replaces ``g``; in evaluation
    mode, where mean and variance do not depend on y, dy = γ × inverse × g.
    """
    blocks, channels, rows, columns, _ = y.shape
    pixels, n = rows * columns, count * rows * columns
    live, sums, a = np.zeros(blocks * W, np.float32), np.empty(2 * W, np.float32), np.empty(5, np.float32)
    live[:count] = F(1)
    for c in range(channels):
        a[0], a[1] = statistics[1, c], -statistics[0, c] * statistics[1, c]  # x̂ = a[0] y + a[1]
        totals = splat(ZERO, 0, 0, 2)
        for b in range(blocks):  # first over its pixels, then over blocks: fewer roundings of each term
            of_block = splat(ZERO, 0, 0, 2)
            for p in range(pixels):
                at = ((b * channels + c) * pixels + p) * W
                normalised = madd(splat(a, 1, 0, 1), load(y, at, 0, 1), splat(a, 0, 0, 1))
                of_block = madd(of_block, load(g, at, 0, 1), (splat(ONE, 0, 0, 1)[0], normalised[0]))
            totals = madd(totals, splat(ONE, 0, 0, 1), of_block)
        store(sums, 0, W, totals)
        of_beta[c], of_gamma[c] = lane_sum(sums, 0), lane_sum(sums, W)
        a[2] = statistics[2, c]
        a[3] = a[4] = F(0)  # dy = a[2] g + a[3] y + a[4]
        if training:
            slope = F(-np.float64(of_gamma[c]) / n)
            a[3] = a[2] * slope * a[0]
            a[4] = a[2] * (F(-np.float64(of_beta[c]) / n) + slope * a[1])
        for b in range(blocks):
            for p in range(pixels):
                at = ((b * channels + c) * pixels + p) * W
                value = madd(splat(a, 4, 0, 1), load(y, at, 0, 1), splat(a, 3, 0, 1))
                value = madd(value, load(g, at, 0, 1), splat(a, 2, 0, 1))
                store(g, at, 0, madd(splat(ZERO, 0, 0, 1), value, load(live, b * W, 0, 1)))
