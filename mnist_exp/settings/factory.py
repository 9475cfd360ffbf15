"""From a config's ``_target_`` and arguments to a model, an optimizer, a scheduler.

A config is text that may come from anywhere, and calling whatever it names could run anything. So only
three kinds of class can be named: our models, and torch's optimizers and schedulers.
"""

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, nn
from torch.optim import Optimizer, lr_scheduler

from mnist_exp.errors import ConfigError
from mnist_exp.settings.schema import Config

KINDS: dict[str, tuple[str, type]] = {
    "model": ("mnist_exp.models", nn.Module),
    "optimizer": ("torch.optim", Optimizer),
    "scheduler": ("torch.optim.lr_scheduler", lr_scheduler.LRScheduler),
}
"""Component → the module that its class must be in, and the class that it must inherit from."""
UNSUITABLE = {
    "LBFGS": "it evaluates the loss several times a step",
    "SparseAdam": "it needs sparse gradients",
    "ReduceLROnPlateau": "it would choose the learning rate by the evaluation's result",
}
RESERVED_ARGUMENTS = {"params", "optimizer", "steps_per_epoch", "last_epoch"}
"""Set by the factory itself, so a config cannot set them."""
NON_ARGUMENTS = {"model": {"_target_", "title"}, "optimizer": {"_target_"}, "scheduler": {"_target_", "interval"}}
"""Keys of a config group that are not arguments of its class."""
INTERVALS = ("epoch", "step")


@dataclass(frozen=True)
class Components:
    """What a run trains, and by what."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: lr_scheduler.LRScheduler
    step_scheduler_per_batch: bool
    """Whether the schedule advances after each step, or after each epoch."""
    shuffle: Generator
    """Draws the order of the training images."""


def build(config: Config, device: torch.device, train_size: int) -> Components:
    """All components of a run that trains on ``train_size`` images."""
    # One seed, two generators: torch's global one draws the initial weights and then dropout's masks; a separate one
    # draws the order of the images, so that runs of one seed see them in the same order, whatever the model.
    torch.manual_seed(config.seed)
    model = build_model(config.model).to(device)
    optimizer = build_optimizer(config.optimizer, model)
    steps_per_epoch = -(-train_size // config.batch_size)
    scheduler, per_batch = build_scheduler(config.scheduler, optimizer, steps_per_epoch)
    return Components(model, optimizer, scheduler, per_batch, Generator().manual_seed(config.seed))


def component_identity(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The part of an identity that one config group decides: its class and all of its arguments.

    Those left out have the class's default, so that a library that changes a default changes the identity.

    Raises:
        ConfigError: the class cannot be named here, or does not take such an argument.
    """
    cls, arguments = _resolve(kind, settings)
    parameters = inspect.signature(cls).parameters.items()
    defaults = {n: p.default for n, p in parameters if n not in RESERVED_ARGUMENTS and p.default is not p.empty}
    identity = {"target": settings["_target_"], **defaults, **arguments}
    if kind == "scheduler":
        identity["interval"] = _interval(settings)
    return identity


def dry_build(model: dict[str, Any], optimizer: dict[str, Any], scheduler: dict[str, Any]) -> None:
    """Build all three and take a step, so that a wrong setting is found before any work starts.

    Raises:
        ConfigError: the first setting that cannot be used.
    """
    with torch.random.fork_rng():
        net = build_model(model)
        _check_shapes(net.eval(), model["_target_"])
        built = build_optimizer(optimizer, net)
    schedule, _ = build_scheduler(scheduler, built, steps_per_epoch=1)
    built.step()  # without gradients, nothing changes
    # Some schedules check their arguments only at their first step; `_build` makes ConfigErrors of what they raise.
    _build("scheduler", lambda **_: schedule.step(), **_resolve("scheduler", scheduler)[1])


def _check_shapes(model: nn.Module, target: str) -> None:
    """Raise a ConfigError unless two images give two rows of a logit for each class."""
    images = torch.zeros(2, 1, 32, 32)
    try:
        with torch.inference_mode():
            found = [*model(images).shape]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model: {target} cannot use images of shape {[*images.shape]}: {reason}") from error
    if found != [2, 10]:
        raise ConfigError(f"model: {target} gives {found} for images of shape {[*images.shape]}; [2, 10] is needed")


def build_model(settings: dict[str, Any]) -> nn.Module:
    """A freshly initialised model; its weights come from torch's global generator."""
    cls, arguments = _resolve("model", settings)
    model: nn.Module = _build("model", cls, **arguments)
    return model


def build_optimizer(settings: dict[str, Any], model: nn.Module) -> Optimizer:
    """The optimizer over all of the model's parameters."""
    cls, arguments = _resolve("optimizer", settings)
    learning_rate = arguments.get("lr")
    if isinstance(learning_rate, bool) or not isinstance(learning_rate, int | float) or not learning_rate > 0:
        raise ConfigError(f"optimizer.lr={learning_rate}: the learning rate must be a number greater than 0")
    optimizer: Optimizer = _build("optimizer", cls, model.parameters(), **arguments)
    return optimizer


def build_scheduler(
    settings: dict[str, Any], optimizer: Optimizer, steps_per_epoch: int
) -> tuple[lr_scheduler.LRScheduler, bool]:
    """The learning-rate schedule, and whether it advances after each step rather than each epoch."""
    cls, arguments = _resolve("scheduler", settings)
    if "steps_per_epoch" in inspect.signature(cls).parameters:
        arguments["steps_per_epoch"] = steps_per_epoch
    scheduler: lr_scheduler.LRScheduler = _build("scheduler", cls, optimizer, **arguments)
    return scheduler, _interval(settings) == "step"


def _resolve(kind: str, settings: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class that the settings name, and those of them that are its arguments, checked."""
    module_name, base = KINDS[kind]
    target = settings.get("_target_")
    prefix, _, name = str(target).rpartition(".")
    is_inside = prefix == module_name or prefix.startswith(f"{module_name}.")
    try:
        cls = vars(importlib.import_module(prefix)).get(name) if is_inside else None
    except Exception as error:  # of any kind: the module may be half written
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{kind}._target_={target}: {prefix} cannot be imported ({reason})") from error
    if not (inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not name.startswith("_")):
        raise ConfigError(f"{kind}._target_={target}: must name one of the {kind}s in {module_name}")
    if name in UNSUITABLE:
        raise ConfigError(f"{kind}._target_={target}: cannot be used here, since {UNSUITABLE[name]}")
    arguments = {key: value for key, value in settings.items() if key not in NON_ARGUMENTS[kind]}
    known = inspect.signature(cls).parameters
    for key, value in arguments.items():
        if key not in known or key in RESERVED_ARGUMENTS:
            takes = [name for name in known if name not in RESERVED_ARGUMENTS]
            close = difflib.get_close_matches(key, takes, n=1)
            hint = f"did you mean {kind}.{close[0]}?" if close else f"it takes {', '.join(takes) or 'no settings'}"
            raise ConfigError(f"{kind}.{key}: {settings['_target_']} has no such setting; {hint}")
        annotation = known[key].annotation
        if not _matches(value, str(annotation)):
            wanted = annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")
            raise ConfigError(f"{kind}.{key}={value}: must be of type {wanted}")
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{kind}.{key}={value}: must be finite")
    return cls, arguments


def _matches(value: Any, annotation: str) -> bool:
    """Whether a value read from YAML is of a type that the annotation, as text, names; torch itself rarely checks."""
    words = set(re.findall(r"\w+", annotation))
    if annotation.lower().removeprefix("typing.").startswith("tuple"):
        return isinstance(value, list | tuple)
    if value is None:
        return bool(words & {"None", "NoneType", "Optional", "_empty"})
    by_type = {bool: {"bool"}, int: {"int", "float"}, float: {"float"}, str: {"str", "Literal"}}
    accepted = by_type.get(type(value), {"tuple", "list", "Sequence", "Iterable"})
    return bool(words & (accepted | {"Any", "_empty"}))  # _empty: there is no annotation


def _build(kind: str, cls: Callable[..., Any], *args: Any, **arguments: Any) -> Any:
    try:
        return cls(*args, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError, IndexError) as error:
        given = " ".join(f"{kind}.{key}={value}" for key, value in arguments.items())
        raise ConfigError(f"{given or kind}: {error}") from error


def _interval(settings: dict[str, Any]) -> str:
    interval = settings.get("interval", "epoch")
    if interval not in INTERVALS:
        raise ConfigError(f"scheduler.interval={interval}: must be one of {', '.join(INTERVALS)}")
    return str(interval)
