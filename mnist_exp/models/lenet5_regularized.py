"""LeNet-5 with batch normalisation (Ioffe and Szegedy, 2015) and dropout (Srivastava et al., 2014)."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from mnist_exp.models.lenet5 import LeNet5


class LeNet5Regularized(LeNet5):
    """LeNet-5 with batch normalisation after C1, C3 and C5, and dropout: 61,990 parameters.

    Batch normalisation adds 2 × (6 + 16 + 120) = 284 parameters to `LeNet5`'s; dropout lies between F6's ReLU and the
    output.
    """

    def __init__(self, dropout: float = 0.5, classes: int = 10) -> None:
        super().__init__(classes)
        self.N1 = nn.BatchNorm2d(6)
        self.N3 = nn.BatchNorm2d(16)
        self.N5 = nn.BatchNorm1d(120)
        self.dropout = nn.Dropout(dropout)

    def forward(self, digits: Tensor) -> Tensor:
        """Classify digits, as `LeNet5.forward`."""
        maps = relu(max_pool2d(self.N1(self.C1(digits)), 2, 2))  # C1, S2
        maps = relu(max_pool2d(self.N3(self.C3(maps)), 2, 2))  # C3, S4
        features = relu(self.N5(self.C5(self.flatten(maps))))
        features = self.dropout(relu(self.F6(features)))
        logits: Tensor = self.output(features)
        return logits
