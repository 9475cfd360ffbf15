"""Augmentations, a file for each: batches of normalised training images in, the same images changed at random out.

One is a module that is called with the images, float32, ``[N, 1, 32, 32]``, and a generator on the CPU, the only thing
that it may draw from, so that a run can be repeated and resumed.
"""

from mnist_exp.augment.rotate import Rotate
from mnist_exp.augment.shift import Shift

__all__ = ["Rotate", "Shift"]
