"""From a config's ``_target_`` and arguments to objects: a model, an optimizer, a schedule, a loss, an augmentation."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_exp.settings import components
from mnist_exp.settings.exactness import check_exact
from mnist_exp.settings.schema import Config

AUGMENT_SEED = 0x5EED  # any number but 0


@dataclass(frozen=True)
class Components:
    """What a run trains, and by what."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    step_scheduler_per_batch: bool
    """Whether the schedule advances after each step, or after each epoch."""
    shuffle: Generator
    """Draws the order of the training images."""
    loss: nn.Module
    augment: nn.Module | None
    draws: Generator
    """What the augmentation draws from."""


def build(config: Config, device: torch.device, train_size: int, classes: int) -> Components:
    """All components of a run that trains on ``train_size`` images."""
    # One seed, three generators: torch's global one draws the initial weights and then dropout's masks; a separate one
    # draws the order of the images, so that runs of one seed see them in the same order, whatever the model; and the
    # augmentation's is seeded otherwise, or its numbers would be those of the order.
    torch.manual_seed(config.seed)
    model = build_model(config.model, classes).to(device)
    optimizer, loss = build_optimizer(config.optimizer, model), build_loss(config.loss).to(device)
    if config.device.arithmetic == "exact":
        from mnist_exp.exact.training import make_exact  # numba need not be installed

        make_exact(model, optimizer, loss, config.seed)
    steps_per_epoch = math.ceil(train_size / config.batch_size)
    scheduler, per_batch = build_scheduler(config.scheduler, optimizer, steps_per_epoch)
    shuffle, draws = (Generator().manual_seed(s) for s in (config.seed, (config.seed + AUGMENT_SEED) % 2**32))
    augment = build_augment(config.augment, device)
    return Components(model, optimizer, scheduler, per_batch, shuffle, loss, augment, draws)


def build_model(settings: dict[str, Any], classes: int = 10) -> nn.Module:
    """A freshly initialised model, if it can for that many classes; its weights come from torch's global generator."""
    cls, arguments = components.resolve("model", settings)
    if "classes" in inspect.signature(cls).parameters:
        arguments["classes"] = classes
    with components.as_config_error("model", arguments):
        model: nn.Module = cls(**arguments)
    return model


def build_optimizer(settings: dict[str, Any], model: nn.Module) -> Optimizer:
    """The optimizer over all of the model's parameters."""
    cls, arguments = components.resolve("optimizer", settings)
    with components.as_config_error("optimizer", arguments):
        optimizer: Optimizer = cls(model.parameters(), **arguments)
    return optimizer


def build_scheduler(settings: dict[str, Any], optimizer: Optimizer, steps_per_epoch: int) -> tuple[LRScheduler, bool]:
    """The learning-rate schedule, and whether it advances after each step rather than each epoch."""
    cls, arguments = components.resolve("scheduler", settings)
    if "steps_per_epoch" in inspect.signature(cls).parameters:
        arguments["steps_per_epoch"] = steps_per_epoch
    with components.as_config_error("scheduler", arguments):
        scheduler: LRScheduler = cls(optimizer, **arguments)
    return scheduler, components.interval(settings) == "step"


def build_loss(settings: dict[str, Any]) -> nn.Module:
    """The loss; lists of numbers become tensors where it takes tensors, such as a weight for each class."""
    cls, arguments = components.resolve("loss", settings)
    known = inspect.signature(cls).parameters
    for key, value in arguments.items():
        if isinstance(value, list) and "Tensor" in str(known[key].annotation):
            arguments[key] = torch.tensor(value, dtype=torch.float32)
    with components.as_config_error("loss", arguments):
        loss: nn.Module = cls(**arguments)
    return loss


def build_augment(settings: dict[str, Any], device: torch.device) -> nn.Module | None:
    """The augmentation; None where there is none."""
    cls, arguments = components.resolve("augment", settings)
    if cls is nn.Identity:
        return None
    with components.as_config_error("augment", arguments):
        augment: nn.Module = cls(**arguments).to(device)
    return augment


def dry_build(config: Config, classes: int = 10) -> None:
    """Build everything and take a step, so that a wrong setting is found before any work starts.

    Raises:
        ConfigError: the first setting that cannot be used.
    """
    if config.device.arithmetic == "exact":
        check_exact(config)
    with torch.random.fork_rng():
        net = build_model(config.model, classes)
        components.check_shapes(net, config.model["_target_"], classes)
        built = build_optimizer(config.optimizer, net)
        components.check_loss(build_loss(config.loss), config.loss, classes)
        if augment := build_augment(config.augment, torch.device("cpu")):
            components.check_augment(augment, config.augment)
    schedule, _ = build_scheduler(config.scheduler, built, steps_per_epoch=1)
    with components.as_config_error("optimizer", components.resolve("optimizer", config.optimizer)[1]):
        built.step()  # without gradients, nothing changes
    with components.as_config_error("scheduler", components.resolve("scheduler", config.scheduler)[1]):
        schedule.step()  # some schedules check their arguments only here
