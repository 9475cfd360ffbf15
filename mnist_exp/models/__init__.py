"""The networks, a file for each: images in, logits out (the loss includes the softmax).

Every layer has PyTorch's default initialisation.
"""

from mnist_exp.models.lenet5 import LeNet5
from mnist_exp.models.lenet5_regularized import LeNet5Regularized
from mnist_exp.models.mlp import MLP

__all__ = ["MLP", "LeNet5", "LeNet5Regularized"]
