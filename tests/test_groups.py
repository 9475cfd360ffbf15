"""The losses, augmentations, schedules and metrics that are there, against what they are by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, nn

from mnist_exp.augment import Rotate, Shift
from mnist_exp.data.images import ImageSplit
from mnist_exp.metrics import macro_f1
from mnist_exp.runs.record import read_record
from mnist_exp.schedules import WarmupCosine
from mnist_exp.settings import factory
from mnist_exp.settings.identity import run_name
from mnist_exp.training import TrainState, fit
from tests.conftest import SCRIPTS, Execute, choices, kill_after, results, settings
from tests.settings.test_settings import identify

REFERENCE = SCRIPTS.parent / "outputs" / "reference" / "runs"


def test_a_shift_moves_whole_images_by_whole_pixels_evenly() -> None:
    images = torch.arange(2000 * 64, dtype=torch.float32).reshape(2000, 1, 8, 8)
    moved = Shift(2)(images, Generator().manual_seed(0))
    found = np.zeros((5, 5), int)
    for before, after in zip(images.numpy()[:, 0], moved.numpy()[:, 0], strict=True):
        padded = np.pad(before, 2, mode="edge")
        ((row, column),) = [(r, c) for r in range(5) for c in range(5) if (padded[r : r + 8, c : c + 8] == after).all()]
        found[row, column] += 1
    assert found.min() > 40  # 80 of each are expected; 40 is 4.6 standard deviations below
    assert torch.equal(moved, Shift(2)(images, Generator().manual_seed(0)))


def test_a_rotation_is_pillows() -> None:
    picture = Image.new("L", (32, 32))
    picture.paste(200, (8, 12, 26, 17))
    images = torch.from_numpy(np.array(picture, np.float32)).expand(40, 1, 32, 32)
    turned = Rotate(30.0)(images, Generator().manual_seed(1))
    angles = []
    for each in turned:
        errors = [
            np.abs(np.asarray(picture.rotate(angle, Image.Resampling.BILINEAR), float) - each[0].numpy()).mean()
            for angle in range(-34, 35, 2)
        ]
        assert min(errors) < 2
        angles.append(2 * int(np.argmin(errors)) - 34)
    assert -30 <= min(angles) < -15 and 15 < max(angles) <= 30


def test_a_warmup_rises_to_the_rate_and_falls_to_the_end() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = WarmupCosine(optimizer, epochs=10, steps_per_epoch=20, warmup=0.1, final=0.01)
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert np.allclose(rates[:20], 0.5 * np.arange(1, 21) / 21)
    assert rates[20] == 0.5 and rates[110] == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    assert np.all(np.diff(rates[20:]) < 0) and rates[199] == pytest.approx(0.005, abs=1e-4)


def test_macro_f1_is_the_mean_of_the_classes() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 1, 1, 3]), torch.tensor([0, 0, 1, 1, 2, 0])
    # Class 0: precision 2/3, recall 2/3; class 1: 1/2 and 1/2; class 2 is never right, class 3 never found.
    assert macro_f1(nn.functional.one_hot(predicted, 4).float(), labels) == pytest.approx((2 / 3 + 1 / 2 + 0 + 0) / 4)


def weights_after_a_step(clip_norm: float | None, loss: nn.Module | None = None) -> torch.Tensor:
    layer = nn.Linear(1024, 10, bias=False)
    nn.init.zeros_(layer.weight)
    model = nn.Sequential(nn.Flatten(), layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    state = TrainState(model, optimizer, schedule, False, Generator().manual_seed(0), loss or nn.CrossEntropyLoss())
    images = torch.full((4, 1, 32, 32), 255, dtype=torch.uint8)
    split = ImageSplit(images, torch.tensor([0, 0, 0, 0]), 0.0, 1.0)
    list(fit(state, split, split, epochs=1, batch_size=4, training_mode="every_epoch", clip_norm=clip_norm))
    return layer.weight.detach()


def test_a_long_gradient_is_scaled_to_the_norm() -> None:
    free = weights_after_a_step(None)
    # All pixels are 1, so each weight of class 0 has the gradient 1/10 - 1, those of the others 1/10.
    assert torch.allclose(free, torch.tensor([0.9, *[-0.1] * 9])[:, None].expand(10, 1024))
    norm = math.sqrt(1024 * (0.9**2 + 9 * 0.1**2))
    assert torch.allclose(weights_after_a_step(2.0), free * 2 / norm, rtol=1e-4)
    assert torch.equal(weights_after_a_step(100.0), free)


def test_label_smoothing_is_by_its_formula() -> None:
    smooth = weights_after_a_step(None, factory.build_loss(settings("loss.label_smoothing=0.2").loss))
    assert torch.allclose(smooth[:, 0], torch.tensor([0.82 - 0.1, *[0.02 - 0.1] * 9]))


def test_a_list_of_weights_becomes_a_tensor() -> None:
    loss = factory.build_loss({"_target_": "torch.nn.CrossEntropyLoss", "weight": [1.0, 3]})
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    logits[1, 1] = 1.0
    by_hand = (math.log(2) + 3 * (math.log(1 + math.e) - 1)) / 4
    assert float(loss(logits, labels)) == pytest.approx(by_hand)


@pytest.mark.parametrize("option", ["shift", "rotate"])
def test_an_augmented_run_is_resumed_bit_for_bit(
    option: str, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=mlp", "epochs=3", f"augment={option}", "scheduler=warmup_cosine", "clip_norm=1")
    whole, folder = tmp_path / "whole", tmp_path
    execute(*words, root=whole)
    kill_after(2, execute, words, monkeypatch)
    execute(*words)
    assert results(whole) == results(folder) and len(results(whole)) == 3
    execute("model=mlp", "epochs=3", "scheduler=warmup_cosine", "clip_norm=1", root=folder / "plain")
    assert results(folder / "plain") != results(whole)


def test_stored_runs_keep_their_names_and_neutral_settings_add_nothing() -> None:
    names = {path.name for path in REFERENCE.iterdir()}
    for model in ("lenet5", "lenet5r", "mlp"):
        for more in ((), ("loss=cross_entropy", "augment=none", "clip_norm=null", "loss.label_smoothing=0")):
            words = (f"model={model}", *more)
            assert run_name(choices(*words), identify(settings(*words))) in names
    plain = identify(settings())
    for word in ("loss.label_smoothing=0.1", "loss=multi_margin", "augment=shift", "clip_norm=5"):
        assert identify(settings(word)) != plain
    assert identify(settings("metrics=[macro_f1]")) == plain


def test_a_checkpoint_from_before_there_were_losses_is_resumed(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("model=mlp", "epochs=3")
    execute(*words, root=tmp_path / "whole")
    usual = TrainState.state_dict
    monkeypatch.setattr(TrainState, "state_dict", lambda state: {k: v for k, v in usual(state).items() if k != "loss"})
    kill_after(2, execute, words, monkeypatch)
    execute(*words)
    (folder,) = (tmp_path / "runs").iterdir()
    assert read_record(folder).resumed == 1 and results(tmp_path / "whole") == results(tmp_path)
