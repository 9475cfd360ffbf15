"""Exact arithmetic: kernels against float64, whole runs, and what it refuses (make extras, then pytest -m exact)."""

import copy
import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mnist_exp import models
from mnist_exp.errors import ConfigError
from mnist_exp.machine.fingerprint import EXACT, present_code
from mnist_exp.settings.exactness import check_exact
from scripts.update_docs import REFERENCE
from tests.conftest import SCRIPTS, command, python, results, settings, started, wait_until

HAS_NUMBA = importlib.util.find_spec("numba") is not None
if HAS_NUMBA:
    from tests.exact import steps
    from tests.exact.steps import batch
needs_numba = pytest.mark.skipif(not HAS_NUMBA, reason="needs the extra exact (make extras)")
exact = [pytest.mark.exact, needs_numba]
NETWORKS = (models.LeNet5, models.LeNet5Regularized, models.MLP)


def gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, loss: nn.Module) -> tuple[Any, list[Any]]:
    logits = model(images)
    torch.autograd.backward(loss(logits, labels))
    return logits.detach().double(), [parameter.grad.double() for parameter in model.parameters()]  # type: ignore[union-attr]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda each: each.__name__)
@pytest.mark.parametrize(("images", "classes", "training"), [(64, 10, True), (33, 62, True), (20, 3, False)])
class TestAStep:
    pytestmark = exact

    def test_is_as_near_to_float64_as_torchs(
        self, network: type[nn.Module], images: int, classes: int, training: bool
    ) -> None:
        from mnist_exp.exact.network import initialise, put_on
        from mnist_exp.exact.training import CrossEntropyLoss

        model = network(classes=classes)
        initialise(model, 1)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        model.train(training)
        usual, right = copy.deepcopy(model), copy.deepcopy(model).double()
        pixels, labels = batch(images, classes)
        smoothed = nn.CrossEntropyLoss(label_smoothing=0.1)
        expected = gradients(right, pixels.double(), labels, smoothed)
        torchs = gradients(usual, pixels, labels, smoothed)
        with put_on(model):
            ours = gradients(model, pixels, labels, CrossEntropyLoss(label_smoothing=0.1))

        def errors(found: tuple[Any, list[Any]]) -> list[float]:
            # Of a bias before a normalisation, the gradient is 0; so errors are relative to the largest one.
            largest = max(each.norm() for each in expected[1])
            of_gradients = [(a - b).norm() / max(b.norm(), 1e-2 * largest) for a, b in zip(found[1], expected[1])]  # noqa: B905
            return [float((found[0] - expected[0]).norm() / expected[0].norm()), *map(float, of_gradients)]

        assert all(mine <= max(3 * theirs, 2e-6) for mine, theirs in zip(errors(ours), errors(torchs), strict=True))
        for a, b in zip(model.buffers(), right.buffers(), strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.exact
@needs_numba
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("SGD", {"momentum": 0.9, "weight_decay": 0.01}), ("SGD", {}), ("AdamW", {"weight_decay": 0.1, "eps": 1e-6})],
)
def test_optimizers_do_what_torchs_do(name: str, arguments: dict[str, float]) -> None:
    from mnist_exp.exact import training

    start = torch.linspace(-1, 1, 1000)
    ours, theirs = start.clone().requires_grad_(), start.double().requires_grad_()
    mine = getattr(training, name)([ours], lr=0.05, **arguments)
    other = getattr(torch.optim, name)([theirs], lr=0.05, **arguments)
    for step in range(5):
        ours.grad = torch.sin(start * (step + 1))
        theirs.grad = ours.grad.double()
        mine.step()
        other.step()
    assert torch.allclose(ours.double(), theirs, rtol=0, atol=1e-6)
    kept = [[*each.state_dict()["state"].get(0, {})] for each in (mine, other)]
    assert kept[0] == kept[1]  # so that checkpoints are alike


@pytest.mark.exact
@needs_numba
def test_exponential_logarithm_and_softmax_are_right() -> None:
    from mnist_exp.exact import numbers

    for x in np.linspace(-700, 0, 5001):
        assert numbers.exp(x) == pytest.approx(math.exp(x), rel=5e-15)
    for x in np.geomspace(1, 1e6, 5001):
        assert numbers.log(x) == pytest.approx(math.log(x), rel=5e-15, abs=5e-16)
    logits = (np.random.RandomState(0).randn(50, 7) * 20).astype(np.float32)
    found = np.empty_like(logits)
    numbers.softmax(logits, found)
    assert np.allclose(found, torch.from_numpy(logits).double().softmax(1).numpy(), rtol=1e-6)
    labels, gradient = np.arange(50) % 7, np.empty_like(logits)
    loss = cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    assert numbers.cross_entropy(logits, labels, 0.0, gradient) == pytest.approx(float(loss), rel=1e-13)


@pytest.mark.exact
@needs_numba
@pytest.mark.parametrize("network", NETWORKS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_layer_hides_what_is_not_finite(network: type[nn.Module], value: float) -> None:
    from mnist_exp.exact.network import put_on

    for name, _ in network().named_parameters():
        model = network()
        model.train()
        with put_on(model), torch.no_grad():
            model.get_parameter(name).view(-1)[0] = value
            assert not model(batch(20, 10)[0]).isfinite().all(), name


@pytest.mark.exact
@needs_numba
@pytest.mark.parametrize("network", NETWORKS, ids=lambda each: each.__name__)
def test_memory_that_is_used_again_holds_nothing_of_the_step_before(network: type[nn.Module]) -> None:
    from mnist_exp.exact.network import put_on

    model = network().eval()  # without dropout's draws
    batches = [batch(count, 10, seed=count) for count in (64, 33, 64, 17)]

    def step(images: torch.Tensor, labels: torch.Tensor) -> list[bytes]:
        found = gradients(model, images, labels, nn.CrossEntropyLoss())
        return [each.numpy().tobytes() for each in (found[0], *found[1])]

    with put_on(model):
        one_after_another = [step(*each) for each in batches]
    for each, found in zip(batches, one_after_another, strict=True):
        with put_on(model):
            assert step(*each) == found


def twice_the_digits(model: Any) -> None:
    usual = model.forward
    model.forward = lambda digits: usual(digits * 2)


def dropout_elsewhere(model: Any) -> None:
    model.F6, model.dropout = nn.Sequential(model.dropout, model.F6), nn.Identity()


def other_sizes(model: Any) -> None:
    model.F6, model.output = nn.Linear(120, 12), nn.Linear(12, 10)  # fewer than a vector has


def odd_maps(model: Any) -> None:
    model.C1, model.N1, model.C3 = nn.Conv2d(1, 7, 5), nn.BatchNorm2d(7), nn.Conv2d(7, 16, 5)


def strides(model: Any) -> None:
    model.C1.stride, model.C5 = (2, 2), nn.Linear(16, 120)


def another_name(model: Any) -> None:
    model.drop = model.dropout
    del model.dropout
    type(model).dropout = property(lambda self: self.drop)


@pytest.mark.exact
@needs_numba
@pytest.mark.parametrize("edit", [twice_the_digits, dropout_elsewhere, other_sizes, odd_maps, strides, another_name])
def test_a_network_that_was_edited_is_refused(edit: Callable[[Any], None]) -> None:
    from mnist_exp.exact.network import check

    class Edited(models.LeNet5Regularized):
        pass

    model = Edited()
    check(model)
    edit(model)
    with pytest.raises(ConfigError, match=r"Edited was edited.*device\.arithmetic=portable"):
        check(model)


@pytest.mark.exact
@needs_numba
def test_initial_weights_of_ones_own_are_refused() -> None:
    from mnist_exp.exact.network import initialise

    for reset in (nn.init.kaiming_normal_, nn.init.zeros_, nn.init.xavier_uniform_):
        model = models.MLP()
        reset(model.hidden2.weight)
        with pytest.raises(ConfigError, match=r"MLP has initial weights of its own.*device\.arithmetic=portable"):
            initialise(model, 0)


@pytest.mark.exact
@needs_numba
def test_the_bytes_are_those_of_other_processors_and_versions() -> None:
    """A numba or LLVM that changes a bit fails here; `tests.exact.processors` wrote the file."""
    stored = pd.read_csv(REFERENCE / "exact" / "bytes.csv", dtype=str).set_index("processor")
    assert len(stored) >= 3 and stored.nunique().tolist() == [1, 1, 1]
    torch.manual_seed(123)  # has no influence
    assert steps.checksums() == stored.iloc[0].to_dict()


@pytest.mark.exact
@needs_numba
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    words = ["model=lenet5r", "epochs=3", "protocol=published", "device.arithmetic=exact"]
    with started([sys.executable, "-m", "mnist_exp.run", *words], cwd=tmp_path):
        wait_until(lambda: bool([*tmp_path.glob("outputs/runs/*/metrics.csv")]))
    resumed = command(*words, cwd=tmp_path)
    assert resumed.returncode == 0 and "resum" in resumed.stdout, resumed.stdout + resumed.stderr
    (tmp_path / "whole").mkdir()
    assert command(*words, cwd=tmp_path / "whole").returncode == 0
    assert results(tmp_path / "outputs") == results(tmp_path / "whole/outputs")
    (run,) = tmp_path.glob("outputs/runs/*")
    verified = python(SCRIPTS / "verify.py", run, cwd=tmp_path)
    assert (verified.returncode, verified.stdout.splitlines()[-1]) == (0, f"{run.name}: equal, bit for bit")


def test_no_script_hides_an_installed_module() -> None:
    """Of the folder's files, ``import`` finds those first: numba asks for a package that was called as one of them."""
    from importlib.metadata import packages_distributions

    assert not {path.stem for path in SCRIPTS.glob("[!_]*.py")} & {*packages_distributions(), "coverage"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("device.threads=2", "device.name=cpu device.threads=2: it covers one thread of the CPU"),
        ("device=auto", "device.name=auto device.threads=1"),
        ("model._target_=torchvision.models.AlexNet", "model._target_=torchvision.models.AlexNet: it covers LeNet5, "),
        ("optimizer=rmsprop", "optimizer._target_=torch.optim.RMSprop: it covers torch.optim's SGD and AdamW"),
        ("optimizer.nesterov=true", "optimizer.nesterov=True: it covers nesterov=False"),
        ("loss=multi_margin", "loss._target_=torch.nn.MultiMarginLoss"),
        ("clip_norm=1", "clip_norm=1.0: it covers gradients as they are"),
        ("augment=shift", "augment._target_=mnist_exp.augment.Shift: it covers images as they are"),
    ],
)
def test_what_is_not_covered_is_refused(words: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_exact(settings("device.arithmetic=exact", words))
    assert str(caught.value).startswith("device.arithmetic=exact does not cover ") and told in str(caught.value)
    assert str(caught.value).endswith("device.arithmetic=portable covers all")


def test_without_numba_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs numba, which is not installed; install it with: make extras"):
        check_exact(settings("device.arithmetic=exact"))


def test_the_kernels_count_for_runs_with_exact_arithmetic_only() -> None:
    def parts(arithmetic: str) -> set[str]:
        target = {"target": "mnist_exp.models.MLP"}
        return {*present_code({"model": target, "device": {"arithmetic": arithmetic}})}

    assert parts("exact") - parts("portable") == {"exact"}
    rooms = {path.stem for path in (Path(models.__file__).parents[1] / "exact").glob("*.py")} - {"__init__"}
    assert {name.rpartition(".")[2] for name in EXACT} == rooms
