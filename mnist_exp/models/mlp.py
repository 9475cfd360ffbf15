"""A multilayer perceptron of about LeNet-5's size."""

from torch import Tensor, nn
from torch.nn.functional import relu


class MLP(nn.Module):
    """1024 → 60 → 20 → 10 units, or as many as classes: 62,930 parameters."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(32 * 32, 60)
        self.hidden2 = nn.Linear(60, 20)
        self.output = nn.Linear(20, classes)

    def forward(self, digits: Tensor) -> Tensor:
        """Classify digits, as `LeNet5.forward`."""
        features = relu(self.hidden1(digits.flatten(1)))
        features = relu(self.hidden2(features))
        logits: Tensor = self.output(features)
        return logits
