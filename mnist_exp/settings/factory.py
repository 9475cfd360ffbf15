"""From a config's ``_target_`` and arguments to a model, an optimizer, a scheduler.

A config is text that may come from anywhere, and calling whatever it names could run anything. So only
three kinds of class can be named: our models, and torch's optimizers and schedulers.
"""

import difflib
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from mnist_exp import models
from mnist_exp.errors import ConfigError

KINDS: dict[str, tuple[str, Any, type]] = {
    "model": ("mnist_exp.models", models, nn.Module),
    "optimizer": ("torch.optim", torch.optim, Optimizer),
    "scheduler": ("torch.optim.lr_scheduler", lr_scheduler, lr_scheduler.LRScheduler),
}
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
        built = build_optimizer(optimizer, build_model(model))
    schedule, _ = build_scheduler(scheduler, built, steps_per_epoch=1)
    built.step()  # without gradients, nothing changes
    # Some schedules check their arguments only at their first step; `_build` makes ConfigErrors of what they raise.
    _build("scheduler", lambda **_: schedule.step(), **_resolve("scheduler", scheduler)[1])


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
    module_name, module, base = KINDS[kind]
    target = settings.get("_target_")
    prefix, _, name = str(target).rpartition(".")
    cls = vars(module).get(name) if prefix == module_name else None
    if not (inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not name.startswith("_")):
        raise ConfigError(f"{kind}._target_={target}: must name a {kind} in {module_name}")
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
        if not _matches_annotation(value, str(known[key].annotation)):
            raise ConfigError(f"{kind}.{key}={value}: must be of type {_readable(known[key].annotation)}")
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{kind}.{key}={value}: must be finite")
    return cls, arguments


def _matches_annotation(value: Any, annotation: str) -> bool:
    """Whether a value read from YAML is of a type that the annotation, as text, names; torch itself rarely checks."""
    words = set(re.findall(r"\w+", annotation))
    if annotation.lower().removeprefix("typing.").startswith("tuple"):
        return isinstance(value, list | tuple)
    if value is None:
        return bool(words & {"None", "NoneType", "Optional", "_empty"})
    by_type = {bool: {"bool"}, int: {"int", "float"}, float: {"float"}, str: {"str", "Literal"}}
    accepted = by_type.get(type(value), {"tuple", "list", "Sequence", "Iterable"})
    return bool(words & (accepted | {"Any", "_empty"}))  # _empty: there is no annotation


def _readable(annotation: Any) -> str:
    return annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")


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
