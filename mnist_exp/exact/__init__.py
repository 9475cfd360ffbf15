"""Exact arithmetic: the same bytes on every processor, whatever its instructions (``device.arithmetic=exact``).

`kernels` has the layers with all sums in a fixed order, `numbers` the loss, `network` puts the layers on the three
networks, `training` stands in for torch's loss and optimizers. Needs the extra ``exact`` (numba). Only
`mnist_exp.machine` and `mnist_exp.settings` know of this package.
"""
