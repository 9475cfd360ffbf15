import io

import numpy as np
import torch

from mnist_exp.runs.results import mistakes, to_files


def test_mistakes_by_hand() -> None:
    logits = torch.tensor([[0.0] * 10] * 4)
    logits[0, 3] = logits[1, 4] = logits[3, 9] = 2.0  # a probability of e² / (e² + 9) = 0.4509
    logits[2, 1] = 30.0
    files = to_files({}, logits, torch.tensor([3, 3, 1, 1]))
    with np.load(io.BytesIO(files["predictions.npz"])) as archive:
        assert archive["predicted"].tolist() == [3, 4, 1, 9]
    found = mistakes(files["predictions.npz"])
    assert found["mistakes.csv"] == b"index,label,predicted,probability\n1,3,4,0.4509\n3,1,9,0.4509\n"
    rows = ["0,0,0", "1,2,1", "2,0,0", "3,2,1", *(f"{label},0,0" for label in range(4, 10))]
    assert found["classes.csv"].decode().splitlines() == ["label,images,wrong", *rows]
