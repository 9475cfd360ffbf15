"""On a GPU: ``make gpu``. What needs none also runs on a CPU; the rest is skipped there, and says so."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mnist_exp.cli.verify import EQUAL, verify
from mnist_exp.data.images import ImageSplit
from mnist_exp.errors import ConfigError, failure_reason
from mnist_exp.inference.trained import load_run
from mnist_exp.machine.determinism import make_deterministic
from mnist_exp.report.collect import collect
from mnist_exp.settings import factory
from mnist_exp.training import TrainState, fit
from tests.conftest import Execute, command, kill_after, results, settings
from tests.report.conftest import write_run

pytestmark = pytest.mark.gpu
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="PyTorch finds no CUDA GPU on this machine")
MODELS = ("lenet5", "lenet5r", "mlp")
Digits = tuple[ImageSplit, ImageSplit]


def state_and_digits(model: str, device: str, digits: Digits) -> tuple[TrainState, list[ImageSplit]]:
    config = settings(f"model={model}", f"device={device}")
    there = make_deterministic(config.device)
    state = TrainState(**vars(factory.build(config, there, 6000, 10)))
    moved = [ImageSplit(d.images[:6000].to(there), d.labels[:6000].to(there), d.mean, d.std) for d in digits]
    return state, moved


@needs_gpu
@pytest.mark.parametrize("model", MODELS)
def test_no_step_waits_for_the_device(model: str, all_digits: Digits) -> None:
    """Of the first 90 steps of an epoch, each is only queued: to wait for one would be an error."""
    state, (train, evaluation) = state_and_digits(model, DEVICE, all_digits)
    list(fit(state, train, evaluation, epochs=1, batch_size=64, training_mode="every_epoch"))  # warms up

    def watched(done: int, steps: int, _: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if done < steps - 1 else "default")

    try:
        list(fit(state, train, evaluation, epochs=2, batch_size=64, training_mode="every_epoch", on_step=watched))
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Crossings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensors that an operation moves from one device to another."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        devices = {each.device.type for each in (found, *args) if isinstance(each, torch.Tensor) and each.ndim}
        self.count += len(devices) > 1
        return found


@needs_gpu  # on a CPU there is nowhere to cross to
@pytest.mark.parametrize("model", MODELS)
def test_no_tensor_crosses_in_a_step(model: str, all_digits: Digits) -> None:
    state, (train, evaluation) = state_and_digits(model, DEVICE, all_digits)
    seen = []
    with Crossings() as crossings:
        for _ in fit(
            state,
            train,
            evaluation,
            epochs=1,
            batch_size=64,
            training_mode="every_epoch",
            on_step=lambda *_: seen.append(crossings.count),
        ):
            pass
    assert len(seen) == 94 and seen[0] == seen[-1]


@needs_gpu
@pytest.mark.parametrize("model", MODELS)
def test_an_epoch_agrees_with_the_cpus(model: str, all_digits: Digits) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        state, (train, evaluation) = state_and_digits(model, device, all_digits)
        for layer in state.model.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0  # its masks are drawn on the device
        (epoch,) = fit(state, train, evaluation, epochs=1, batch_size=64, training_mode="every_epoch")
        losses.append((epoch.metrics.train_loss, epoch.metrics.test_loss))
    assert np.allclose(losses[0], losses[1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_two_runs_and_a_resumed_one_are_the_same(
    model: str, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"model={model}", "epochs=3", f"device={DEVICE}")
    for name in ("one", "two"):
        execute(*words, root=tmp_path / name)
    assert results(tmp_path / "one") == results(tmp_path / "two")
    kill_after(2, execute, words, monkeypatch)
    execute(*words)
    assert results(tmp_path) == results(tmp_path / "one") | results(tmp_path / "two")


@needs_gpu
def test_four_jobs_share_a_gpu(tmp_path: Path) -> None:
    words = ("-m", "model=mlp", "seed=0,1,2,3", "epochs=1", "device=cuda", "hydra.launcher.n_jobs=4")
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0 and "Jobs: 4 finished" in done.stdout, done.stdout + done.stderr


def test_a_gpu_that_is_too_small_is_told_in_a_sentence() -> None:
    error = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
    if HAS_GPU:
        with pytest.raises(torch.cuda.OutOfMemoryError) as caught:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        error = caught.value
    assert failure_reason(error) == "out of memory; use a smaller batch_size"


def test_one_gpu_of_several_is_chosen_in_the_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"device\.name=cuda:1: must be one of cpu, cuda, mps, auto"):
        settings("device.name=cuda:1")
    done = command("model=mlp", "device=cuda", cwd=tmp_path, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1 and done.stderr.startswith("mnist_exp: device=cuda: PyTorch finds no such device")


def test_what_comes_after_training(execute: Execute) -> None:
    run = Path(execute("model=lenet5r", "epochs=2", f"device={DEVICE}").folder)
    found = verify(run)
    assert found.verdict == EQUAL, found.details
    assert load_run(run).logits(np.zeros((2, 28, 28), np.uint8)).device.type == "cpu"
    record = pd.read_json(run / "run.json", typ="series")
    assert record["identity"]["device"]["type"] == DEVICE
    assert record["provenance"]["deterministic"] == record["provenance"]["portable"] == (DEVICE == "cpu")


def test_runs_of_cpu_and_gpu_are_never_averaged(tmp_path: Path) -> None:
    write_run(tmp_path, "mlp", seed=0)
    write_run(tmp_path, "mlp", seed=1, settings={"device.type": "cuda"})
    labels = [group.label for group in collect(tmp_path).groups]
    assert labels == ["Custom MLP, device=cpu", "Custom MLP, device=cuda"]
