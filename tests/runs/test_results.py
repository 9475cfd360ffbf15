import io

import numpy as np
import torch
from safetensors.torch import load

from mnist_exp.runs.results import to_files
from mnist_exp.training import predictions


def test_results_by_hand() -> None:
    logits = torch.tensor([[0.0] * 10] * 4)
    logits[0, 3] = logits[1, 4] = logits[3, 9] = 2.0  # a probability of e² / (e² + 9) = 0.4509
    logits[2, 1] = 30.0
    shared = torch.arange(6.0).reshape(2, 3)
    files = to_files({"first": shared, "tied": shared.T}, predictions(logits, torch.tensor([3, 3, 1, 1])))
    with np.load(io.BytesIO(files["predictions.npz"])) as archive:
        assert archive["predicted"].tolist() == [3, 4, 1, 9] and archive["label"].tolist() == [3, 3, 1, 1]
        assert archive["probabilities"].dtype == np.float32 and archive["label"].dtype == np.uint8
    assert files["mistakes.csv"] == b"index,label,predicted,probability\n1,3,4,0.4509\n3,1,9,0.4509\n"
    rows = ["0,0,0", "1,2,1", "2,0,0", "3,2,1", *(f"{label},0,0" for label in range(4, 10))]
    assert files["classes.csv"].decode().splitlines() == ["label,images,wrong", *rows]
    assert torch.equal(load(files["model.safetensors"])["tied"], shared.T)
