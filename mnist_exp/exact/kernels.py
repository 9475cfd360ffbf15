"""The layers of the networks, forward and backward, with every sum in a fixed order.

Images lie side by side in the vectors' lanes. Maps are ``[blocks, channels, rows, columns, 16]`` and features
``[blocks, features, 16]``, float32: a block holds 16 images, and a layer's sum for one of them never meets another
lane's. Lanes without an image, at the end of the last block, hold zeros, and have the gradient 0. Only gradients of
weights add up lanes: first over blocks, then the 16 as a tree (`lane_sum`).

A tile of `G` outputs is summed at once, for their registers. One that would pass the end is moved back, and computes
some outputs twice; so tiles are not part of the arithmetic, but the order within each sum is.

``gradient`` is that of the loss with respect to a layer's outputs, ``d`` to its inputs.
"""

import numpy as np

from mnist_exp.exact.blocks import Array, F, lane_sum
from mnist_exp.exact.cache import jit
from mnist_exp.exact.simd import W, load, madd, pick, splat, store, transpose, zeros

G = 6
"""Outputs summed at once: as many vectors as fit into the 16 registers of AVX2, two a vector, with what they need."""
ONE = np.ones(1, np.float32)
OFF = F(4)
"""The code of a pooled output at which ReLU is off; 0 to 3 say which of the four inputs is the largest."""


# ---- convolutions 5×5 ------------------------------------------------------------------------------------------------


@jit
def convolve(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """y[o] = bias[o] + Σ over channels, rows and columns of the kernel, in this order, of weight × x."""
    blocks, channels, size, _, _ = x.shape
    outputs, side = weight.shape[0], size - 4
    taps = channels * 25
    turned = np.empty((taps, outputs), np.float32)  # the weights of a tile beside each other
    flat = weight.reshape(outputs, taps)
    for o in range(outputs):
        for t in range(taps):
            turned[t, o] = flat[o, t]
    for b in range(blocks):
        for start in range(0, outputs, G):
            o = min(start, outputs - G)
            for row in range(side):
                for column in range(side):
                    sums = splat(bias, o, 1, G)
                    for c in range(channels):
                        for ky in range(5):
                            at = (((b * channels + c) * size + row + ky) * size + column) * W
                            weights = (c * 5 + ky) * 5 * outputs + o
                            for kx in range(5):
                                pixels = load(x, at + kx * W, 0, 1)
                                sums = madd(sums, pixels, splat(turned, weights + kx * outputs, 1, G))
                    store(out, (((b * outputs + o) * side + row) * side + column) * W, side * side * W, sums)


@jit
def convolve_backward(
    x: Array, weight: Array, gradient: Array, needs_d: bool, d: Array, weight_gradient: Array, bias_gradient: Array
) -> None:
    """The weights' gradient is Σ over images, rows, columns of gradient × x, shifted; d is Σ of weight × gradient."""
    blocks, channels, size, _, _ = x.shape
    outputs, side, taps = weight.shape[0], size - 4, channels * 25
    padded = -(-taps // 3) * 3  # taps are taken by threes
    offsets = np.empty(padded, np.int64)
    for t in range(padded):
        u = min(t, taps - 1)
        offsets[t] = ((u // 25 * size + u // 5 % 5) * size + u % 5) * W
    turned = np.empty((outputs, 25, channels), np.float32)
    flat = weight.reshape(outputs, channels, 25)
    for o in range(outputs):
        for c in range(channels):
            for t in range(25):
                turned[o, t, c] = flat[o, c, t]
    rows_at_once = 1 if size > 16 else side  # what they read fits into the cache
    sums, bias_sums = np.zeros((outputs, padded, W), np.float32), np.zeros((outputs, W), np.float32)
    for b in range(blocks):
        first, here = b * channels * size * size * W, b * outputs * side * side * W
        for o in range(outputs):
            total = load(bias_sums, o * W, 0, 1)
            for p in range(side * side):
                total = madd(total, load(gradient, here + (o * side * side + p) * W, 0, 1), splat(ONE, 0, 0, 1))
            store(bias_sums, o * W, 0, total)
        for top in range(0, side, rows_at_once):
            for o in range(0, outputs, 2):
                for t in range(0, padded, 3):
                    p0, p1, p2 = first + offsets[t], first + offsets[t + 1], first + offsets[t + 2]
                    tile0 = load(sums, (o * padded + t) * W, W, 3)
                    tile1 = load(sums, ((o + 1) * padded + t) * W, W, 3)
                    for row in range(top, top + rows_at_once):
                        for column in range(side):
                            q = (row * size + column) * W
                            at = here + ((o * side + row) * side + column) * W
                            pixels = (load(x, p0 + q, 0, 1)[0], load(x, p1 + q, 0, 1)[0], load(x, p2 + q, 0, 1)[0])
                            tile0 = madd(tile0, load(gradient, at, 0, 1), pixels)
                            tile1 = madd(tile1, load(gradient, at + side * side * W, 0, 1), pixels)
                    store(sums, (o * padded + t) * W, W, tile0)
                    store(sums, ((o + 1) * padded + t) * W, W, tile1)
        if needs_d:
            for row in range(size):
                for column in range(size):
                    for start in range(0, channels, G):
                        c = min(start, channels - G)
                        tile = zeros(G)
                        for o in range(outputs):
                            for ky in range(max(0, row - side + 1), min(5, row + 1)):
                                at = here + ((o * side + row - ky) * side + column) * W
                                for kx in range(max(0, column - side + 1), min(5, column + 1)):
                                    weights = splat(turned, (o * 25 + ky * 5 + kx) * channels + c, 1, G)
                                    tile = madd(tile, load(gradient, at - kx * W, 0, 1), weights)
                        store(d, first + ((c * size + row) * size + column) * W, size * size * W, tile)
    flat_sums, flat_bias, flat_gradient = sums.ravel(), bias_sums.ravel(), weight_gradient.reshape(outputs, taps)
    for o in range(outputs):
        bias_gradient[o] = lane_sum(flat_bias, o * W)
        for t in range(taps):
            flat_gradient[o, t] = lane_sum(flat_sums, (o * padded + t) * W)


# ---- normalisation, max-pooling 2×2, ReLU ----------------------------------------------------------------------------


@jit
def normalisation(
    y: Array,
    count: int,
    training: bool,
    eps: float,
    momentum: float,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_variance: Array,
    found: Array,
) -> None:
    """Find mean, inverse = 1 / √(variance + ε), scale = γ × inverse and shift = β − mean × scale, ``[4, channels]``.

    In training mode, mean and variance are those of the ``count`` images of y, ``[blocks, channels, pixels, 16]``:
    Σ y / n and Σ (y − mean)² / n; the running ones follow them. Otherwise they are the running ones.
    """
    blocks, channels, pixels, _ = y.shape
    live, sums, minus = np.zeros(blocks * W, np.float32), np.empty(W, np.float32), np.empty(1, np.float32)
    live[:count] = F(1)
    n = count * pixels
    for c in range(channels):
        mean, variance = running_mean[c], running_variance[c]
        if training:
            total = zeros(1)
            for b in range(blocks):
                for p in range(pixels):
                    total = madd(total, load(y, ((b * channels + c) * pixels + p) * W, 0, 1), load(live, b * W, 0, 1))
            store(sums, 0, 0, total)
            mean = F(np.float64(lane_sum(sums, 0)) / n)
            minus[0] = -mean
            total = zeros(1)
            for b in range(blocks):
                for p in range(pixels):
                    value = load(y, ((b * channels + c) * pixels + p) * W, 0, 1)
                    centred = madd(value, splat(minus, 0, 0, 1), splat(ONE, 0, 0, 1))
                    total = madd(total, madd(zeros(1), centred, load(live, b * W, 0, 1)), centred)
            store(sums, 0, 0, total)
            variance = F(np.float64(lane_sum(sums, 0)) / n)
            for running, new in ((running_mean, mean), (running_variance, variance * F(n / (n - 1)))):
                running[c] = F((1 - momentum) * np.float64(running[c]) + np.float64(F(momentum) * new))
        inverse = F(1 / np.sqrt(np.float64(variance) + eps))
        found[0, c], found[1, c], found[2, c] = mean, inverse, gamma[c] * inverse
        found[3, c] = beta[c] - mean * found[2, c]


@jit
def pool(y: Array, scale: Array, shift: Array, out: Array, codes: Array) -> None:
    """ReLU of the largest of each 2×2 of scale[c] × y + shift[c], and which one it is; NaN counts as the largest."""
    blocks, channels, side, _, _ = y.shape
    scaled = np.empty((2, side, W), np.float32)
    for b in range(blocks):
        for c in range(channels):
            for row in range(side // 2):
                for i in range(2 * side):
                    value = load(y, (((b * channels + c) * side + 2 * row) * side + i) * W, 0, 1)
                    store(scaled, i * W, 0, madd(splat(shift, c, 0, 1), value, splat(scale, c, 0, 1)))
                for column in range(side // 2):
                    for lane in range(W):
                        best, code = scaled[0, 2 * column, lane], F(0)
                        value = scaled[0, 2 * column + 1, lane]
                        is_larger = (value > best) | (value != value)
                        best, code = (value if is_larger else best), (F(1) if is_larger else code)
                        value = scaled[1, 2 * column, lane]
                        is_larger = (value > best) | (value != value)
                        best, code = (value if is_larger else best), (F(2) if is_larger else code)
                        value = scaled[1, 2 * column + 1, lane]
                        is_larger = (value > best) | (value != value)
                        best, code = (value if is_larger else best), (F(3) if is_larger else code)
                        codes[b, c, row, column, lane] = OFF if best <= F(0) else code
                        out[b, c, row, column, lane] = F(0) if best <= F(0) else best


@jit
def pool_backward(gradient: Array, codes: Array, d: Array) -> None:
    """The gradient goes to the largest of the four; where ReLU is off, to none."""
    blocks, channels, half, _, _ = gradient.shape
    for b in range(blocks):
        for c in range(channels):
            for row in range(half):
                for column in range(half):
                    at = (((b * channels + c) * half + row) * half + column) * W
                    code, value = load(codes, at, 0, 1), load(gradient, at, 0, 1)
                    to = (((b * channels + c) * 2 * half + 2 * row) * 2 * half + 2 * column) * W
                    store(d, to, 0, pick(code, 0, value))
                    store(d, to + W, 0, pick(code, 1, value))
                    store(d, to + 2 * half * W, 0, pick(code, 2, value))
                    store(d, to + 2 * half * W + W, 0, pick(code, 3, value))


@jit
def rectify(y: Array, scale: Array, shift: Array, out: Array) -> None:
    """ReLU of scale[f] × y + shift[f], for features; NaN stays."""
    blocks, features, _ = y.shape
    for b in range(blocks):
        for f in range(features):
            at = (b * features + f) * W
            store(out, at, 0, madd(splat(shift, f, 0, 1), load(y, at, 0, 1), splat(scale, f, 0, 1)))
            for lane in range(W):
                if out[b, f, lane] <= F(0):
                    out[b, f, lane] = F(0)


@jit
def rectify_backward(gradient: Array, out: Array, d: Array) -> None:
    """The gradient where ReLU's output is not 0."""
    flat_gradient, flat_out, flat_d = gradient.reshape(-1), out.reshape(-1), d.reshape(-1)
    for i in range(flat_d.size):
        flat_d[i] = F(0) if flat_out[i] == F(0) else flat_gradient[i]


@jit
def normalise_backward(
    y: Array, count: int, training: bool, found: Array, d: Array, d_gamma: Array, d_beta: Array
) -> None:
    """The gradient of γ x̂ + β with x̂ = (y − mean) × inverse; ``found`` is that of `normalisation`.

    With g the gradient of the outputs, in ``d``, over n = count × pixels values of a channel:
    dβ = Σ g, dγ = Σ g x̂, and dy = γ × inverse × (g − Σ g / n − x̂ Σ g x̂ / n), which replaces ``d``; in evaluation
    mode, where mean and variance do not depend on y, dy = γ × inverse × g.
    """
    blocks, channels, pixels, _ = y.shape
    live, sums, a = np.zeros(blocks * W, np.float32), np.empty(W, np.float32), np.empty(5, np.float32)
    live[:count] = F(1)
    for c in range(channels):
        a[0], a[1] = found[1, c], -found[0, c] * found[1, c]  # x̂ = a[0] y + a[1]
        of_beta, of_gamma = zeros(1), zeros(1)
        for b in range(blocks):  # first over a block's pixels, then over blocks: fewer roundings
            for_beta, for_gamma = zeros(1), zeros(1)
            for p in range(pixels):
                at = ((b * channels + c) * pixels + p) * W
                value = load(d, at, 0, 1)
                normalised = madd(splat(a, 1, 0, 1), load(y, at, 0, 1), splat(a, 0, 0, 1))
                for_beta = madd(for_beta, value, splat(ONE, 0, 0, 1))
                for_gamma = madd(for_gamma, value, normalised)
            of_beta = madd(of_beta, for_beta, splat(ONE, 0, 0, 1))
            of_gamma = madd(of_gamma, for_gamma, splat(ONE, 0, 0, 1))
        store(sums, 0, 0, of_beta)
        d_beta[c] = lane_sum(sums, 0)
        store(sums, 0, 0, of_gamma)
        d_gamma[c] = lane_sum(sums, 0)
        a[2] = found[2, c]
        a[3] = a[4] = F(0)  # dy = a[2] g + a[3] y + a[4]
        if training:
            slope = F(-np.float64(d_gamma[c]) / (count * pixels))
            a[3] = a[2] * slope * a[0]
            a[4] = a[2] * (F(-np.float64(d_beta[c]) / (count * pixels)) + slope * a[1])
        for b in range(blocks):
            for p in range(pixels):
                at = ((b * channels + c) * pixels + p) * W
                value = madd(splat(a, 4, 0, 1), load(y, at, 0, 1), splat(a, 3, 0, 1))
                value = madd(value, load(d, at, 0, 1), splat(a, 2, 0, 1))
                store(d, at, 0, madd(zeros(1), value, load(live, b * W, 0, 1)))


# ---- linear layers ---------------------------------------------------------------------------------------------------


@jit
def multiply(x: Array, weight: Array, bias: Array, out: Array) -> None:
    """y[o] = bias[o] + Σ over features, in order, of weight[o, f] × x[f]."""
    outputs, features = weight.shape
    for start in range(0, outputs, G):
        o = min(start, outputs - G)
        for b in range(x.shape[0]):
            sums = splat(bias, o, 1, G)
            for f in range(features):
                sums = madd(sums, load(x, (b * features + f) * W, 0, 1), splat(weight, o * features + f, features, G))
            store(out, (b * outputs + o) * W, W, sums)


@jit
def multiply_backward(
    x: Array, weight: Array, gradient: Array, needs_d: bool, d: Array, weight_gradient: Array, bias_gradient: Array
) -> None:
    """The weights' gradient is Σ over images, in order, of gradient × x; d[f] = Σ over outputs of weight × gradient."""
    outputs, features = weight.shape
    blocks = x.shape[0]
    if needs_d:
        for start in range(0, features, G):
            f = min(start, features - G)
            for b in range(blocks):
                sums = zeros(G)
                for o in range(outputs):
                    weights = splat(weight, o * features + f, 1, G)
                    sums = madd(sums, load(gradient, (b * outputs + o) * W, 0, 1), weights)
                store(d, (b * features + f) * W, W, sums)
    rows = np.empty((blocks * W, W), np.float32)  # of 16 features, which lie side by side here, rather than images
    for start in range(0, features, W):
        f = min(start, features - W)
        for b in range(blocks):
            store(rows, b * W * W, W, transpose(load(x, (b * features + f) * W, W, 16)))
        for first in range(0, outputs, G):
            o = min(first, outputs - G)
            sums = zeros(G)
            for b in range(blocks):
                for lane in range(W):
                    factors = splat(gradient, (b * outputs + o) * W + lane, W, G)
                    sums = madd(sums, load(rows, (b * W + lane) * W, 0, 1), factors)
            store(weight_gradient, o * features + f, features, sums)
    lanes = np.zeros(W, np.float32)
    for o in range(outputs):
        for lane in range(W):
            lanes[lane] = gradient[0, o, lane]
        for b in range(1, blocks):
            for lane in range(W):
                lanes[lane] += gradient[b, o, lane]
        bias_gradient[o] = lane_sum(lanes, 0)
