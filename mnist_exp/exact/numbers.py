"""Softmax, cross-entropy and the optimizers' updates, from operations that every processor rounds alike.

IEEE 754 fixes +, −, ×, ÷ and the square root. It does not fix e^x and ln x, so they are computed here.
"""

import math
from typing import Any

import numpy as np

from mnist_exp.exact.blocks import Array, F
from mnist_exp.exact.cache import jit

TAYLOR = tuple(1 / math.factorial(i) for i in range(13, -1, -1))


@jit
def exp(x: float) -> Any:
    """e^x for x ≤ 0, in float64, to about 1e-15: 2^k e^r with x = k ln 2 + r, and e^r by its Taylor series."""
    if x != x:
        return x
    if x < -700.0:
        return 0.0
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10  # ln 2 in two parts
    e = 0.0
    for coefficient in TAYLOR:
        e = e * r + coefficient
    power, factor, left = 1.0, 0.5, int(-k)
    while left > 0:
        if left & 1:
            power *= factor
        factor *= factor
        left >>= 1
    return e * power


@jit
def log(x: float) -> Any:
    """ln x for x ≥ 1, in float64, to about 1e-15: x = 2^n y, and ln y = 2 artanh((y − 1) / (y + 1)) by its series."""
    if not x < 1e300:  # or NaN
        return x
    n = 0
    while x > 1.5:
        x *= 0.5
        n += 1
    t = (x - 1.0) / (x + 1.0)
    total = 0.0
    for i in range(25, 0, -2):
        total = total * (t * t) + 1.0 / i
    return n * 0.6931471805599453 + 2.0 * t * total


@jit
def shares_of(logits: Array, image: int, shares: Array) -> Any:
    """Write the softmax of an image's logits, in float64, and return ln Σ e^logit. NaN stays NaN."""
    top = np.float64(logits[image, 0])
    for c in range(1, len(shares)):
        value = np.float64(logits[image, c])
        top = value if (value > top) | (value != value) else top
    total = 0.0
    for c in range(len(shares)):
        shares[c] = exp(np.float64(logits[image, c]) - top)
        total += shares[c]
    for c in range(len(shares)):
        shares[c] /= total
    return log(total) + top


@jit
def cross_entropy(logits: Array, labels: Array, smoothing: float, gradient: Array) -> Any:
    """The mean over images of −Σ q[c] ln p[c], in float64, and its gradient (p − q) / images.

    p is the softmax of the logits, ``[images, classes]``; q is 1 − smoothing for the label, and smoothing spread over
    all classes.
    """
    images, classes = logits.shape
    shares = np.empty(classes, np.float64)
    spread = smoothing / classes
    loss = 0.0
    for i in range(images):
        normaliser = shares_of(logits, i, shares)
        for c in range(classes):
            wanted = spread + (1.0 - smoothing if c == labels[i] else 0.0)
            gradient[i, c] = F((shares[c] - wanted) / images)
            if wanted != 0.0:
                loss += wanted * (normaliser - np.float64(logits[i, c]))
    return loss / images


@jit
def softmax(logits: Array, out: Array) -> None:
    """Probabilities of logits, ``[images, classes]``."""
    shares = np.empty(logits.shape[1], np.float64)
    for i in range(len(logits)):
        shares_of(logits, i, shares)
        for c in range(len(shares)):
            out[i, c] = F(shares[c])


@jit
def sgd(weight: Array, gradient: Array, velocity: Array, rate: float, momentum: float, decay: float) -> None:
    """v = momentum × v + (g + decay × w);  w = w − rate × v. All arrays flat."""
    r, m, d = F(rate), F(momentum), F(decay)
    for i in range(weight.size):
        velocity[i] = m * velocity[i] + (gradient[i] + d * weight[i])
        weight[i] = weight[i] - r * velocity[i]


@jit
def adamw(
    weight: Array,
    gradient: Array,
    mean: Array,
    square: Array,
    rate: float,
    beta1: float,
    beta2: float,
    constants: Array,
) -> None:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019). All arrays flat.

    constants: 1 − rate × decay, 1 − beta1^t, √(1 − beta2^t), ε; float64.
    """
    keep, step, root, epsilon = F(constants[0]), F(rate / constants[1]), F(constants[2]), F(constants[3])
    b1, c1, b2, c2 = F(beta1), F(1.0 - beta1), F(beta2), F(1.0 - beta2)
    for i in range(weight.size):
        mean[i] = b1 * mean[i] + c1 * gradient[i]
        square[i] = b2 * square[i] + c2 * (gradient[i] * gradient[i])
        weight[i] = keep * weight[i] - step * (mean[i] / (np.sqrt(square[i]) / root + epsilon))
