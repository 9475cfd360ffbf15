"""LeNet-5, after LeCun, Bottou, Bengio and Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998).

It follows section II.B with today's parts: ReLU for the scaled tanh, max-pooling for the trainable average, full
connections from S2 to C3, and a linear output layer.
"""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu


class LeNet5(nn.Module):
    """LeNet-5: 61,706 parameters for ten classes.

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

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        # machine/layout.py finds C1 and flatten by name.
        self.C1 = nn.Conv2d(1, 6, kernel_size=5)
        self.C3 = nn.Conv2d(6, 16, kernel_size=5)
        self.flatten = nn.Flatten()
        # A 5×5 convolution over a 5×5 map has one output position, so it is a fully connected layer, which
        # is a single matrix product. Its initial weights are the convolution's, draw for draw.
        self.C5 = nn.Linear(16 * 5 * 5, 120)
        self.F6 = nn.Linear(120, 84)
        self.output = nn.Linear(84, classes)

    def forward(self, digits: Tensor) -> Tensor:
        """Classify digits.

        Args:
            digits: float32, ``[N, 1, 32, 32]``, normalised.

        Returns:
            Logits, float32, ``[N, classes]``.
        """
        # ReLU and max-pooling commute; pooling first leaves ReLU a quarter of the work. The stride is written out,
        # since oneDNN's gradient of max-pooling does not take the kernel's size for it.
        maps = relu(max_pool2d(self.C1(digits), 2, 2))  # C1, S2
        maps = relu(max_pool2d(self.C3(maps), 2, 2))  # C3, S4
        features = relu(self.C5(self.flatten(maps)))
        features = relu(self.F6(features))
        logits: Tensor = self.output(features)
        return logits
