"""The ONNX files: alone, small, the same twice, and with PyTorch's answers."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnist_exp.inference.onnx_file import to_onnx
from mnist_exp.inference.trained import TrainedModel
from mnist_exp.runs.record import checksum
from tests.inference.conftest import REFERENCE

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

ROOT = Path(__file__).parents[2]
Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(scope="module")
def files(models: list[TrainedModel]) -> list[bytes]:
    return [to_onnx(model) for model in models]


def run(content: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = onnxruntime.InferenceSession(content).run(["logits"], {"images": images})[0]
    return logits


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_answers_are_pytorchs(count: int, models: list[TrainedModel], files: list[bytes], digits: Digits) -> None:
    for model, content in zip(models, files, strict=True):
        logits = np.concatenate([run(content, images) for images in np.split(digits[0][:count], 10)])
        expected = model.logits(digits[0][:count]).numpy()
        assert np.abs(logits - expected).max() < 1e-4
        assert np.array_equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_of_any_size(size: int, files: list[bytes], digits: Digits) -> None:
    assert run(files[0], digits[0][:size]).shape == (size, 10)


def test_what_is_in_the_file(models: list[TrainedModel], files: list[bytes]) -> None:
    for model, content in zip(models, files, strict=True):
        assert len(content) <= 280_000
        assert all(part.encode() not in content for part in (str(ROOT), "site-packages", ".py", str(Path.home())))
        stored = onnx.load_model_from_string(content)
        onnx.checker.check_model(stored, full_check=True)
        # The oldest onnxruntime that reads this is 1.18, as docs/predict.md says (1.17.3 refuses, by trial).
        assert (stored.ir_version, [each.version for each in stored.opset_import]) == (10, [20])
        known = {each.key: each.value for each in stored.metadata_props}
        assert known["run"] == model.record.name
        (weights,) = REFERENCE.glob(f"runs/{model.record.name}/model.safetensors")
        assert known["weights_sha256"] == checksum(weights)
        assert (float(known["mean"]), float(known["std"])) == (0.1307, 0.30812881)
        assert known["classes"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


def test_the_command_writes_the_same_bytes_and_one_file(files: list[bytes], tmp_path: Path) -> None:
    (folder,) = REFERENCE.glob("runs/lenet5-standard-sgd-seed0-*")
    words = [sys.executable, str(ROOT / "scripts" / "export_onnx.py"), str(folder), "--out", str(tmp_path / "m.onnx")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    answers = "its answers are PyTorch's; onnxruntime 1.18 or newer reads it"
    assert done.stdout == f"{tmp_path / 'm.onnx'}: {len(files[0]):,} bytes; {answers}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == files[0]


def test_without_the_packages_a_sentence_says_what_to_install(monkeypatch: Any, models: list[TrainedModel]) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(Exception, match="onnxscript is not installed; run: pip install onnx onnxscript"):
        to_onnx(models[0])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pytorchs_other_tools_take_a_loaded_model(models: list[TrainedModel], tmp_path: Path) -> None:
    digits, file = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)), tmp_path / "old.onnx"
    for trained in models:
        expected = trained.model(digits).detach()
        torch.onnx.export(trained.model, (digits,), file, input_names=["images"], dynamo=False)
        (old,) = onnxruntime.InferenceSession(file).run(None, {"images": digits.numpy()})
        mapped = torch.vmap(lambda one, model=trained.model: model(one[None])[0])(digits)
        for found in (torch.from_numpy(old), mapped):
            torch.testing.assert_close(found.detach(), expected, atol=1e-4, rtol=0)
