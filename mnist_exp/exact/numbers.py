"""Softmax and cross-entropy, from operations that every processor rounds alike.

IEEE 754 fixes +, −, ×, ÷ and the square root. It does not fix e^x and ln x, so they are computed here.
"""

import math
from typing import Any

import numpy as np

from mnist_exp.exact.cache import jit
from mnist_exp.exact.kernels import Array, F

TAYLOR = tuple(1 / math.factorial(i) for i in range(13, -1, -1))


@jit
def exp(x: float) -> Any:
    """e^x for x ≤ 0, in float64, to about 1e-15: 2^k e^r with x = k ln 2 + r, and e^r by its Taylor series."""
    if not x >= -700.0:
        return x if x != x else 0.0
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10  # ln 2 in two parts
    e = 0.0
    for coefficient in TAYLOR:
        e = e * r + coefficient
    return math.ldexp(e, int(k))


@jit
def log(x: float) -> Any:
    """ln x for x ≥ 1, in float64, to about 1e-15: x = 2^n y, and ln y = 2 artanh((y − 1) / (y + 1)) by its series."""
    y, n = math.frexp(x)
    if y <= 0.75:
        y, n = 2.0 * y, n - 1
    t = (y - 1.0) / (y + 1.0)
    total = 0.0
    for i in range(25, 0, -2):
        total = total * (t * t) + 1.0 / i
    return n * 0.6931471805599453 + 2.0 * t * total


@jit
def shares_of(logits: Array, image: int, shares: Array) -> Any:
    """Write the softmax of an image's logits, in float64, and return ln Σ e^logit. NaN stays NaN."""
    top, total = np.float64(logits[image].max()), 0.0
    for c in range(len(shares)):
        shares[c] = exp(np.float64(logits[image, c]) - top)
        total += shares[c]
    shares /= total
    return log(total) + top


@jit
def softmax(logits: Array, out: Array) -> None:
    """Probabilities of logits, ``[images, classes]``."""
    shares = np.empty(logits.shape[1], np.float64)
    for i in range(len(logits)):
        shares_of(logits, i, shares)
        out[i] = shares


@jit
def cross_entropy(logits: Array, labels: Array, smoothing: float, gradient: Array) -> Any:
    """The mean over images of −Σ q[c] ln p[c], in float64, and its gradient (p − q) / images.

    p is the softmax of the logits, ``[images, classes]``; q is 1 − smoothing for the label, and smoothing spread over
    all classes.
    """
    images, classes = logits.shape
    shares = np.empty(classes, np.float64)
    loss = 0.0
    for i in range(images):
        normaliser = shares_of(logits, i, shares)
        for c in range(classes):
            wanted = smoothing / classes + (1.0 - smoothing if c == labels[i] else 0.0)
            gradient[i, c] = F((shares[c] - wanted) / images)
            if wanted != 0.0:
                loss += wanted * (normaliser - np.float64(logits[i, c]))
    return loss / images


@jit
def sgd(weight: Array, gradient: Array, velocity: Array, rate: float, momentum: float, decay: float) -> None:
    """v = momentum × v + (g + decay × w);  w = w − rate × v. All arrays flat."""
    r, m, d = F(rate), F(momentum), F(decay)
    for i in range(weight.size):
        velocity[i] = m * velocity[i] + (gradient[i] + d * weight[i])
        weight[i] = weight[i] - r * velocity[i]
