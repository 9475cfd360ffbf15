import hashlib
import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load

from mnist_exp.runs.results import to_files, to_npz
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


@pytest.mark.parametrize("old", [False, True])
def test_predictions_are_the_same_bytes_with_every_python(old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11.2, which Debian 12 has, wrote the sizes of an entry twice, and no version with 64-bit ones."""
    header_now = zipfile.ZipInfo.FileHeader

    def header_before(entry: zipfile.ZipInfo, zip64: bool | None = None) -> bytes:
        versions = entry.create_version, entry.extract_version
        header = bytearray(header_now(entry, zip64))
        entry.create_version, entry.extract_version = versions
        header[4], header[18:26] = versions[1], 2 * entry.file_size.to_bytes(4, "little")
        return bytes(header)

    if old:
        monkeypatch.setattr(zipfile.ZipInfo, "FileHeader", header_before)
    found = to_npz({"label": np.arange(5), "predicted": np.ones((2, 3), np.float32)})
    # Of what numpy.savez wrote with Python 3.11.7, 3.13.5 and 3.14.10.
    assert hashlib.sha256(found).hexdigest()[:16] == "e6088057c4964643"
