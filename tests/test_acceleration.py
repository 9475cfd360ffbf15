"""bfloat16 and ``torch.compile``: other numbers, but near; and only where they are asked for."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from mnist_exp import models
from mnist_exp.acceleration import accelerate
from mnist_exp.config import DeviceConfig
from mnist_exp.environment import COMPILERS
from mnist_exp.training import Digits
from tests.conftest import Execute

CPU = torch.device("cpu")
BF16 = DeviceConfig(precision="bf16")
COMPILE = DeviceConfig(compile=True)
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler here")


def outputs(name: str, config: DeviceConfig, digits: Digits) -> tuple[Tensor, list[Tensor]]:
    """Logits and gradients of one training step of 64 digits."""
    torch.manual_seed(0)
    model = getattr(models, name)()
    accelerate(model, config, CPU)
    torch.manual_seed(1)  # one dropout mask
    logits = model(digits.normalised(slice(0, 64)))
    torch.autograd.backward(cross_entropy(logits, digits.labels[:64]))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return logits, [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_the_defaults_leave_a_model_as_it_is() -> None:
    model = models.MLP()
    before = dict(vars(model))
    accelerate(model, DeviceConfig(), CPU)
    assert vars(model) == before


@pytest.mark.parametrize("name", ["LeNet5", "LeNet5Regularized", "MLP"])
def test_bf16_rounds_to_eight_bits_and_no_worse(name: str, few_digits: tuple[Digits, Digits]) -> None:
    exact, exact_gradients = outputs(name, DeviceConfig(), few_digits[0])
    logits, gradients = outputs(name, BF16, few_digits[0])
    assert logits.dtype == torch.float32 and not torch.equal(logits, exact)
    assert (logits - exact).abs().max() < 0.03 * exact.abs().max()  # a few roundings of 2**-8 each
    rough, fine = (torch.cat([g.flatten() for g in each]) for each in (gradients, exact_gradients))
    assert (rough - fine).norm() < 0.15 * fine.norm()  # rounding makes ties, and max-pooling takes either


@needs_compiler
def test_compiled_models_compute_the_same_to_rounding(few_digits: tuple[Digits, Digits]) -> None:
    exact, exact_gradients = outputs("MLP", DeviceConfig(), few_digits[0])
    logits, gradients = outputs("MLP", COMPILE, few_digits[0])
    torch.testing.assert_close(logits, exact, rtol=1e-4, atol=1e-5)
    for mine, other in zip(gradients, exact_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["LeNet5", "LeNet5Regularized", "MLP"])
def test_the_compiler_reads_a_whole_model(name: str, few_digits: tuple[Digits, Digits]) -> None:
    explained = torch._dynamo.explain(getattr(models, name)())(few_digits[0].normalised(slice(0, 64)))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_run_in_bf16_has_a_folder_and_numbers_of_its_own(execute: Execute) -> None:
    usual = execute("model=mlp", "epochs=2")
    rough = execute("model=mlp", "epochs=2", "device.precision=bf16")
    assert usual.folder != rough.folder
    assert usual.metrics["test_loss"] != rough.metrics["test_loss"]
    assert rough.metrics["test_loss"] == pytest.approx(usual.metrics["test_loss"], rel=0.05)


@needs_compiler
def test_a_compiled_run_has_a_folder_of_its_own_and_keeps_the_names_of_its_weights(execute: Execute) -> None:
    usual = execute("model=mlp", "epochs=2")
    compiled = execute("model=mlp", "epochs=2", "device.compile=true")
    assert usual.folder != compiled.folder
    weights = [load_file(Path(outcome.folder) / "model.safetensors") for outcome in (usual, compiled)]
    assert weights[0].keys() == weights[1].keys()
    assert compiled.metrics["test_loss"] == pytest.approx(usual.metrics["test_loss"], rel=1e-3)
