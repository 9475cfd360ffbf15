"""Six training steps of each network with exact arithmetic, and the checksums of their weights, as JSON.

``python -m tests.exact.steps``. The images are made of integers, so that nothing else has to be equal.
"""

import hashlib
import json

import numpy as np
import torch

from mnist_exp import models
from mnist_exp.exact.network import initialise, put_on
from mnist_exp.exact.training import SGD, AdamW, CrossEntropyLoss


def batch(images: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Made-up images and labels."""
    numbers = np.random.RandomState(seed)
    pixels = (numbers.randint(0, 4096, (images, 1, 32, 32)) / 1024 - 1.0).astype(np.float32)
    return torch.from_numpy(pixels), torch.from_numpy(numbers.randint(0, classes, images))


def checksums() -> dict[str, str]:
    """Network → the first 16 digits of the SHA-256 of its weights after three steps of SGD and three of AdamW."""
    found = {}
    for network in (models.LeNet5, models.LeNet5Regularized, models.MLP):
        model = network()
        initialise(model, 7)
        loss = CrossEntropyLoss()
        sgd = SGD(model.parameters(), lr=0.05, momentum=0.9)
        adamw = AdamW(model.parameters(), lr=0.001, weight_decay=0.01)
        with put_on(model):
            for step in range(6):
                model.train(step != 4)  # protocol=published trains in evaluation mode
                images, labels = batch(20, 10, seed=step)
                for parameter in model.parameters():
                    parameter.grad = None
                torch.autograd.backward(loss(model(images), labels))
                (adamw if step % 2 else sgd).step()
        weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
        found[network.__name__] = hashlib.sha256(weights).hexdigest()[:16]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(checksums()))
