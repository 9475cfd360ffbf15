"""The training loop against a plain one, and what it promises beside."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mnist_exp.data.images import ImageSplit
from mnist_exp.errors import DivergedError
from mnist_exp.machine.layout import use_fastest_layout
from mnist_exp.models import LeNet5Regularized
from mnist_exp.settings import factory
from mnist_exp.training import EpochResult, TrainState, evaluate, fit

SGD = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
Pair = tuple[ImageSplit, ImageSplit]


def start(
    model: str = "MLP", optimizer: dict[str, object] = SGD, scheduler: dict[str, object] = CONSTANT
) -> TrainState:
    torch.manual_seed(0)
    net = factory.build_model({"_target_": f"mnist_exp.models.{model}"})
    opt = factory.build_optimizer(optimizer, net)
    sched, each_batch = factory.build_scheduler(scheduler, opt, steps_per_epoch=10)
    return TrainState(net, opt, sched, each_batch, torch.Generator().manual_seed(0))


def run(training: TrainState, pair: Pair, epochs: int = 2, mode: str = "every_epoch") -> list[EpochResult]:
    return list(fit(training, *pair, epochs=epochs, batch_size=64, training_mode=mode))


@pytest.mark.parametrize("model", ["MLP", "LeNet5", "LeNet5Regularized"])
def test_two_epochs_equal_a_plain_loop(model: str, few_digits: Pair) -> None:
    train, test = few_digits
    ours = [epoch.metrics for epoch in run(start(model), few_digits)]

    torch.manual_seed(0)
    net = factory.build_model({"_target_": f"mnist_exp.models.{model}"})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    shuffle = torch.Generator().manual_seed(0)
    for metrics in ours:
        net.train()
        total, hits = 0.0, 0
        for chosen in torch.tensor_split(torch.randperm(600, generator=shuffle), tuple(range(64, 600, 64))):
            x = (train.images[chosen].float() / 255 - 0.1307) / 0.30812881
            with use_fastest_layout(net):
                logits = net(x)
            loss = cross_entropy(logits, train.labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(chosen)
            hits += int((logits.argmax(1) == train.labels[chosen]).sum())
        net.eval()
        with torch.no_grad():
            logits = net((test.images.float() / 255 - 0.1307) / 0.30812881)
        assert metrics.train_loss == pytest.approx(total / 600, rel=1e-4)
        assert metrics.train_accuracy == pytest.approx(hits / 600, abs=2.1 / 600)
        assert metrics.test_loss == pytest.approx(cross_entropy(logits, test.labels).item(), rel=1e-3)
        assert metrics.test_accuracy == pytest.approx(int((logits.argmax(1) == test.labels).sum()) / 600, abs=2.1 / 600)


def test_a_validation_split_is_measured_and_disturbs_nothing(few_digits: Pair) -> None:
    """Accuracies and losses of a validation split are those of the same digits as the evaluated split."""
    train, test = few_digits
    validation = ImageSplit(test.images[:250], test.labels[:250], test.mean, test.std)
    settings: Any = {"epochs": 2, "batch_size": 64, "training_mode": "every_epoch"}
    with_it = list(fit(start("LeNet5Regularized"), train, test, validation, **settings))
    as_test = list(fit(start("LeNet5Regularized"), train, validation, **settings))
    without = list(fit(start("LeNet5Regularized"), train, test, **settings))
    for epoch, other, plain in zip(with_it, as_test, without, strict=True):
        metrics = epoch.metrics.as_row()
        assert metrics.pop("validation_loss") == other.metrics.test_loss
        assert metrics.pop("validation_accuracy") == other.metrics.test_accuracy
        assert metrics == plain.metrics.as_row()
        assert torch.equal(epoch.logits, plain.logits)


def test_each_epoch_sees_every_digit_once_in_a_new_order(few_digits: Pair) -> None:
    seen: list[torch.Tensor] = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(1024, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(x.detach().flatten(1).sum(1).clone())
            logits: torch.Tensor = self.output(x.flatten(1))
            return logits

    training = start()
    training.model = Watching()
    run(training, few_digits)
    sizes = [len(batch) for batch in seen]
    assert sizes == [64] * 9 + [24] + [64] * 9 + [24]  # 600 digits, the last, smaller batch kept
    first, second = torch.cat(seen[:10]), torch.cat(seen[10:])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


@pytest.mark.parametrize(("mode", "frozen"), [("first_epoch", True), ("every_epoch", False)])
def test_training_mode_after_the_first_epoch(mode: str, frozen: bool, few_digits: Pair) -> None:
    """The published bug must stay one: from epoch 2 on, no batch statistics and no dropout."""
    training = start("LeNet5Regularized")
    epochs = fit(training, *few_digits, epochs=2, batch_size=64, training_mode=mode)
    model = training.model
    assert isinstance(model, LeNet5Regularized)
    statistics = model.N1.running_mean
    assert statistics is not None
    before = statistics.clone()
    next(epochs)
    after_first = statistics.clone()
    assert not torch.equal(before, after_first)  # epoch 1 trains with batch statistics in either mode

    dropped = []
    handle = model.dropout.register_forward_hook(
        lambda module, inputs, output: dropped.append(module.training and not torch.equal(inputs[0], output))
    )
    next(epochs)
    handle.remove()
    assert torch.equal(statistics, after_first) == frozen
    assert any(dropped) == (not frozen)


@pytest.mark.parametrize(("mode", "done"), [("every_epoch", 2), ("first_epoch", 1)])
def test_resuming_changes_nothing(mode: str, done: int, few_digits: Pair) -> None:
    """Resumed in mode ``first_epoch``, a model stays in evaluation mode."""
    whole = start("LeNet5Regularized")
    expected = [epoch.metrics for epoch in run(whole, few_digits, 4, mode)]

    first = start("LeNet5Regularized")
    run(first, few_digits, done, mode)
    state = first.state_dict()
    torch.manual_seed(99)  # another process starts with another generator
    second = start("LeNet5Regularized")
    torch.manual_seed(99)
    second.load_state_dict(state)
    assert [epoch.metrics for epoch in run(second, few_digits, 4, mode)] == expected[done:]
    for ours, theirs in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_generator_of_an_accelerator_is_in_the_checkpoint(
    few_digits: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of CUDA and MPS, which draw dropout's masks there. Their generators' interface is that of torch's own."""

    class Accelerator:
        state = torch.tensor([1, 2, 3], dtype=torch.uint8)

        def get_rng_state(self) -> torch.Tensor:
            return self.state.clone()

        def set_rng_state(self, state: torch.Tensor) -> None:
            self.state = state

    accelerator = Accelerator()
    monkeypatch.setattr(TrainState, "_accelerator", lambda self: accelerator)
    state = start().state_dict()
    accelerator.state = torch.zeros(3, dtype=torch.uint8)
    start().load_state_dict(state)
    assert accelerator.state.tolist() == [1, 2, 3]
    monkeypatch.undo()
    assert "device_generator" not in start().state_dict()  # the CPU's generator is torch's global one


def test_a_loss_that_is_not_finite_is_named_with_epoch_and_step(few_digits: Pair) -> None:
    with pytest.raises(DivergedError, match=r"became (nan|inf) in epoch 1, step \d+ of 10"):
        run(start(optimizer=SGD | {"lr": 1e6}), few_digits)


def test_an_evaluation_that_is_not_finite_is_named(few_digits: Pair) -> None:
    training = start()

    def spoil(done: int, steps: int, loss: torch.Tensor) -> None:
        if done == steps:
            with torch.no_grad():
                next(training.model.parameters()).fill_(math.nan)

    with pytest.raises(DivergedError, match="evaluation loss became nan after epoch 1"):
        list(fit(training, *few_digits, epochs=1, batch_size=64, training_mode="every_epoch", on_step=spoil))


def test_learning_rates_of_each_schedule(few_digits: Pair) -> None:
    def rates(scheduler: dict[str, object]) -> list[float]:
        return [e.metrics.learning_rate for e in run(start(scheduler=scheduler), few_digits, epochs=4)]

    prefix = "torch.optim.lr_scheduler."
    assert rates(CONSTANT) == [0.05] * 4
    assert rates({"_target_": prefix + "StepLR", "step_size": 2}) == pytest.approx([0.05, 0.05, 0.005, 0.005])
    cosine = [0.025 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert rates({"_target_": prefix + "CosineAnnealingLR", "T_max": 4}) == pytest.approx(cosine)
    onecycle = rates({"_target_": prefix + "OneCycleLR", "max_lr": 0.05, "epochs": 4, "interval": "step"})
    assert onecycle[1] < 0.05 and onecycle[-1] == pytest.approx(0.05 / 25 / 1e4)  # down to torch's final_div_factor


def test_evaluation_leaves_evaluation_mode_and_no_gradients(few_digits: Pair) -> None:
    training = start("LeNet5Regularized")
    logits = evaluate(training.model, few_digits[1])
    assert logits.shape == (600, 10) and not logits.requires_grad and not training.model.training
