"""The three networks: images in, logits out (the loss includes the softmax).

LeNet-5 follows LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document
Recognition" (1998), section II.B, with today's parts: ReLU for the scaled tanh, max-pooling for the
trainable average, full connections from S2 to C3, and a linear output layer.

Every layer has PyTorch's default initialisation.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d, relu


class LeNet5(nn.Module):
    """LeNet-5: 61,706 parameters.

    ===== =========================================== =========== ==========
    layer                                             output      parameters
    ===== =========================================== =========== ==========
    C1    convolution 5×5, ReLU                       6 × 28 × 28        156
    S2    max-pooling 2×2                             6 × 14 × 14          0
    C3    convolution 5×5, ReLU                       16 × 10 × 10     2,416
    S4    max-pooling 2×2                             16 × 5 × 5           0
    C5    convolution 5×5, ReLU                       120             48,120
    F6    linear, ReLU                                84              10,164
    out   linear                                      10                 850
    ===== =========================================== =========== ==========
    """

    def __init__(self) -> None:
        super().__init__()
        # Set only by `training.use_blocked_layout`; neither changes a number. blocked_layout: the feature maps from C1
        # to S4 are in oneDNN's layout. columns: C1 is a 5×1 convolution over five shifted copies of the digits.
        self.blocked_layout = self.columns = False
        self.C1 = nn.Conv2d(1, 6, kernel_size=5)
        self.C3 = nn.Conv2d(6, 16, kernel_size=5)
        # A 5×5 convolution over a 5×5 map has one output position, so it is a fully connected layer, which
        # is a single matrix product. Its initial weights are the convolution's, draw for draw.
        self.C5 = nn.Linear(16 * 5 * 5, 120)
        self.F6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, 10)

    def forward(self, digits: Tensor) -> Tensor:
        """Classify digits.

        Args:
            digits: float32, ``[N, 1, 32, 32]``, normalised.

        Returns:
            Logits, float32, ``[N, 10]``.
        """
        # ReLU and max-pooling commute; pooling first leaves ReLU a quarter of the work.
        maps = relu(max_pool2d(self.first_maps(digits, self.blocked_layout), 2, 2))  # C1, S2
        maps = relu(max_pool2d(self.C3(maps), 2, 2))  # C3, S4
        features = relu(self.C5(_flatten(maps)))
        features = relu(self.F6(features))
        logits: Tensor = self.output(features)
        return logits

    def first_maps(self, digits: Tensor, blocked: bool) -> Tensor:
        """C1: float32, ``[N, 1, 32, 32]`` → ``[N, 6, 28, 28]``, in oneDNN's layout where ``blocked``."""
        if not (blocked and self.columns):
            maps: Tensor = self.C1(digits.to_mkldnn() if blocked else digits)
            return maps
        # The same sums, with each column of the kernel as an input channel of its own: five copies of the digits, each
        # a column further right, and kernels of 5×1. With one channel, oneDNN's weight gradient is slow under AVX2.
        shifted = digits.squeeze(1).unfold(2, 28, 1).transpose(1, 2)  # [N, 5, 32, 28]
        return conv2d(shifted.to_mkldnn(), self.C1.weight.transpose(1, 3), self.C1.bias)


def _flatten(maps: Tensor) -> Tensor:
    """Maps, ``[N, C, H, W]``, as features, ``[N, C × H × W]``; out of oneDNN's layout where they are in it."""
    return (maps.to_dense() if maps.is_mkldnn else maps).flatten(1)


class LeNet5Regularized(LeNet5):
    """LeNet-5 with batch normalisation before each convolution's ReLU, and dropout: 61,990 parameters.

    Batch normalisation (Ioffe and Szegedy, 2015) adds 2 × (6 + 16 + 120) = 284 parameters to
    `LeNet5`'s; dropout (Srivastava et al., 2014) lies between F6's ReLU and the output.
    """

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.N1 = nn.BatchNorm2d(6)
        self.N3 = nn.BatchNorm2d(16)
        self.N5 = nn.BatchNorm1d(120)
        self.dropout = nn.Dropout(dropout)

    def forward(self, digits: Tensor) -> Tensor:
        """Classify digits, as `LeNet5.forward`."""
        # oneDNN has no gradient of batch normalisation in evaluation mode, in which protocol=published trains.
        blocked = self.blocked_layout and (self.training or not torch.is_grad_enabled())
        maps = relu(max_pool2d(self.N1(self.first_maps(digits, blocked)), 2, 2))  # C1, S2
        maps = relu(max_pool2d(self.N3(self.C3(maps)), 2, 2))  # C3, S4
        features = relu(self.N5(self.C5(_flatten(maps))))
        features = self.dropout(relu(self.F6(features)))
        logits: Tensor = self.output(features)
        return logits


class MLP(nn.Module):
    """A multilayer perceptron of about LeNet-5's size: 1024 → 60 → 20 → 10, 62,930 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(32 * 32, 60)
        self.hidden2 = nn.Linear(60, 20)
        self.output = nn.Linear(20, 10)

    def forward(self, digits: Tensor) -> Tensor:
        """Classify digits, as `LeNet5.forward`."""
        features = relu(self.hidden1(digits.flatten(1)))
        features = relu(self.hidden2(features))
        logits: Tensor = self.output(features)
        return logits
