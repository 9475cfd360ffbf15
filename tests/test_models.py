"""The models against a plain reading of the table of layers."""

import contextlib
import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mnist_exp import models
from mnist_exp import training as training_loop
from mnist_exp.data.images import ImageSplit
from mnist_exp.machine.layout import _put_on as put_on
from mnist_exp.machine.layout import use_fastest_layout

HAS_ONEDNN = torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()  # type: ignore[no-untyped-call]
CAPABILITIES = {"blocked": "AVX512", "columns": "AVX2"}
COUNTS = {"LeNet5": 61_706, "LeNet5Regularized": 61_990, "MLP": 62_930}


class PlainLeNet5(nn.Module):
    """The table of layers, word for word: convolutions throughout, ReLU before pooling."""

    def __init__(self, *, regularized: bool) -> None:
        super().__init__()
        norm = nn.BatchNorm2d if regularized else nn.Identity
        self.C1, self.N1 = nn.Conv2d(1, 6, 5), norm(6)
        self.C3, self.N3 = nn.Conv2d(6, 16, 5), norm(16)
        self.C5, self.N5 = nn.Conv2d(16, 120, 5), norm(120)
        self.F6 = nn.Linear(120, 84)
        self.dropout = nn.Dropout(0.5 if regularized else 0.0)
        self.output = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.MaxPool2d(2)(nn.ReLU()(self.N1(self.C1(x))))
        x = nn.MaxPool2d(2)(nn.ReLU()(self.N3(self.C3(x))))
        x = nn.ReLU()(self.N5(self.C5(x))).flatten(1)
        out: Tensor = self.output(self.dropout(nn.ReLU()(self.F6(x))))
        return out


def plain(name: str) -> nn.Module:
    if name == "MLP":
        layers = [nn.Flatten(), nn.Linear(1024, 60), nn.ReLU(), nn.Linear(60, 20), nn.ReLU(), nn.Linear(20, 10)]
        return nn.Sequential(*layers)
    return PlainLeNet5(regularized=name == "LeNet5Regularized")


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    assert sum(p.numel() for p in getattr(models, name)().parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_one_seed_draws_the_same_initial_weights_as_the_plain_model(name: str) -> None:
    torch.manual_seed(3)
    ours = getattr(models, name)()
    torch.manual_seed(3)
    theirs = plain(name)
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        assert torch.equal(mine.flatten(), other.flatten())


@pytest.mark.parametrize("layout", ["plain", "blocked", "columns"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", COUNTS)
def test_same_logits_and_gradients_as_the_plain_model(
    name: str, training: bool, layout: str, few_digits: tuple[ImageSplit, ImageSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, labels = few_digits[0].normalised(slice(0, 64)), few_digits[0].labels[:64]
    summed = name == "LeNet5Regularized" and training and layout != "plain"
    if summed:
        # oneDNN's batch normalisation adds up a channel's 50,176 values in float32 one after the other. Where most
        # are equal, as a digit's background is, each addition is rounded the same way: an error of 1e-4.
        digits = digits + torch.randn(digits.shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = getattr(models, name)().train(training), plain(name).train(training)
    copy_weights(ours, theirs)
    outputs = []
    for model in (ours, theirs):
        laid = model is ours and layout != "plain" and HAS_ONEDNN and name != "MLP"
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: CAPABILITIES.get(layout))
        torch.manual_seed(0)  # one dropout mask for both
        with put_on(model) if laid else contextlib.nullcontext():
            logits = model(digits)
            torch.autograd.backward(cross_entropy(logits, labels))
        outputs.append(logits)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=5e-5 if summed else 1e-5)
    for mine, other in zip(weights(ours), weights(theirs), strict=True):
        assert mine.grad is not None and other.grad is not None
        torch.testing.assert_close(mine.grad.flatten(), other.grad.flatten(), rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not HAS_ONEDNN, reason="oneDNN has no blocked layout here")
@pytest.mark.parametrize("count", [64, 32, 1])
def test_columns_change_no_byte(
    count: int, few_digits: tuple[ImageSplit, ImageSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, labels = few_digits[0].normalised(slice(0, count)), few_digits[0].labels[:count]
    torch.manual_seed(0)
    start, found = models.LeNet5(), []
    for layout in ("blocked", "columns"):
        model = copy.deepcopy(start)
        with monkeypatch.context() as patch:
            patch.setattr(torch.backends.cpu, "get_cpu_capability", partial(CAPABILITIES.get, layout))
            with put_on(model):
                logits = model(batch)
                torch.autograd.backward(cross_entropy(logits, labels))
        found.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    assert len(found[0]) == 11
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))


@pytest.mark.parametrize("name", COUNTS)
def test_outside_the_loop_a_model_is_an_ordinary_module(
    name: str, few_digits: tuple[ImageSplit, ImageSplit], tmp_path: Path
) -> None:
    """Hooks see dense tensors, which can be indexed, saved and turned into NumPy arrays; so do other tools."""
    model = getattr(models, name)().eval()
    batch = few_digits[0].normalised(slice(0, 8))
    assert torch.equal(torch.jit.script(model)(batch), model(batch))
    training_loop.evaluate(model, few_digits[1])  # the loop leaves nothing behind
    seen: list[Tensor] = []
    for layer in model.children():
        layer.register_forward_hook(lambda module, inputs, output: seen.extend([*inputs, output]))
    logits = model(batch)
    assert len(seen) >= 6
    for tensor in seen:
        assert tensor.layout == torch.strided and tensor[0].detach().numpy().size
    torch.save(seen, tmp_path / "seen.pt")
    for each in model.children():
        each._forward_hooks.clear()
    for tool in (torch.jit.trace(model, batch), torch.jit.script(model), torch.export.export(model, (batch,)).module()):  # type: ignore[no-untyped-call]
        assert torch.equal(tool(batch), logits)
    other = getattr(models, name)()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(batch), logits)


def test_in_the_loop_maps_are_blocked_where_the_processor_has_it(few_digits: tuple[ImageSplit, ImageSplit]) -> None:
    model = models.LeNet5()
    layouts: list[torch.layout] = []
    model.C3.register_forward_hook(lambda module, inputs, output: layouts.append(output.layout))
    training_loop.evaluate(model, few_digits[1])
    assert {*layouts[-3:]} == {torch._mkldnn if HAS_ONEDNN else torch.strided}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("layer", "edited"),
    [
        ("C1", nn.Conv2d(1, 6, 5, padding_mode="reflect")),
        ("C1", nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(1, 6, 7))),
        ("C3", nn.Sequential(nn.Conv2d(6, 16, 5), nn.Hardshrink())),
        ("flatten", nn.Sequential(nn.Flatten())),
    ],
)
def test_an_edited_model_computes_what_it_says(
    layer: str, edited: nn.Module, few_digits: tuple[ImageSplit, ImageSplit]
) -> None:
    """Where oneDNN cannot do it, or would do something else, the layout is left alone."""
    model = models.LeNet5().eval()
    setattr(model, layer, edited)
    digits = few_digits[0].normalised(slice(0, 8))
    expected = model(digits)
    with use_fastest_layout(model):
        logits = model(digits)
        torch.autograd.backward(logits.sum())
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def test_logits_are_not_probabilities(few_digits: tuple[ImageSplit, ImageSplit]) -> None:
    logits = models.LeNet5()(few_digits[0].normalised(slice(0, 8)))
    assert logits.shape == (8, 10) and logits.dtype == torch.float32
    assert not torch.allclose(logits.sum(dim=1), torch.ones(8))


def weights(model: nn.Module) -> list[nn.Parameter]:
    """Parameters by the order of the layers, whatever order they were made in."""
    named = dict(model.named_parameters())
    return [named[name] for name in sorted(named)]


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for mine, other in zip(weights(source), weights(target), strict=True):
            other.copy_(mine.reshape(other.shape))
