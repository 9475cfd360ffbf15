"""Which classes the settings may name, and the checks of their arguments, before any work starts.

A config is text that may come from anywhere, and calling whatever it names could run anything. So only
three kinds of class can be named: our models, and torch's optimizers and schedulers.
"""

import contextlib
import copy
import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from mnist_exp.errors import ConfigError

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
RESERVED_ARGUMENTS = {"params", "optimizer", "steps_per_epoch", "last_epoch", "classes"}
"""For the factory, or for resuming, so a config cannot set them."""
NON_ARGUMENTS = {"model": {"_target_", "title"}, "optimizer": {"_target_"}, "scheduler": {"_target_", "interval"}}
"""Keys of a config group that are not arguments of its class."""
INTERVALS = ("epoch", "step")


def component_identity(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The part of an identity that one config group decides: its class and all of its arguments.

    Those left out have the class's default, so that a library that changes a default changes the identity.

    Raises:
        ConfigError: the class cannot be named here, or does not take such an argument.
    """
    cls, arguments = resolve(kind, settings)
    parameters = inspect.signature(cls).parameters.items()
    defaults = {n: p.default for n, p in parameters if n not in RESERVED_ARGUMENTS and p.default is not p.empty}
    identity = {"target": settings["_target_"], **defaults, **arguments}
    if kind == "scheduler":
        identity["interval"] = interval(settings)
    return identity


def resolve(kind: str, settings: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class that the settings name, and those of them that are its arguments, checked.

    Raises:
        ConfigError: as `component_identity`.
    """
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
    rate: Any = arguments.get("lr")
    if kind == "optimizer" and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0):
        raise ConfigError(f"optimizer.lr={rate}: the learning rate must be a number greater than 0")
    return cls, arguments


def _matches(value: Any, annotation: str) -> bool:
    """Whether a value from YAML is of a type in the annotation's text (``float | Tensor``); torch rarely checks."""
    words = set(re.findall(r"\w+", annotation))
    if annotation.lower().removeprefix("typing.").startswith("tuple"):
        return isinstance(value, list | tuple)
    if value is None:
        return bool(words & {"None", "NoneType", "Optional", "_empty"})
    by_type = {bool: {"bool"}, int: {"int", "float"}, float: {"float"}, str: {"str", "Literal"}}
    accepted = by_type.get(type(value), {"tuple", "list", "Sequence", "Iterable"})  # else it is a list
    return bool(words & (accepted | {"Any", "_empty"}))  # _empty: there is no annotation


def interval(settings: dict[str, Any]) -> str:
    """When a schedule advances: after each ``epoch``, or after each ``step``."""
    given = settings.get("interval", "epoch")
    if given not in INTERVALS:
        raise ConfigError(f"scheduler.interval={given}: must be one of {', '.join(INTERVALS)}")
    return str(given)


@contextlib.contextmanager
def as_config_error(kind: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Raise a ConfigError that names the arguments, instead of what a class raises for values that it cannot use."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError, IndexError) as error:
        given = " ".join(f"{kind}.{key}={value}" for key, value in arguments.items())
        raise ConfigError(f"{given or kind}: {error}") from error


def check_shapes(model: nn.Module, target: str, classes: int) -> None:
    """Raise a ConfigError unless two images give two rows of a logit for each class."""
    images = torch.zeros(2, 1, 32, 32)
    try:
        with torch.inference_mode():
            found = [*copy.deepcopy(model).eval()(images).shape]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model: {target} cannot use images of shape {[*images.shape]}: {reason}") from error
    if found != (wanted := [2, classes]):
        advice = "" if "classes" in inspect.signature(type(model)).parameters else "; have it take an argument classes"
        raise ConfigError(
            f"model: {target} gives {found} for images of shape {[*images.shape]}; {wanted} is needed{advice}"
        )


def check_last_batch(model: nn.Module, image: Tensor, count: int, batch_size: int) -> None:
    """Raise a ConfigError if the last batch of ``count`` images has a single one, which the model cannot train on."""

    def leaves_one(size: int) -> bool:
        return count % size == 1 or size == 1

    if not leaves_one(batch_size):
        return
    try:
        with torch.random.fork_rng(), torch.no_grad():
            copy.deepcopy(model).train()(image)
    except ValueError as error:
        nearest = sorted(range(2, 2 * count), key=lambda size: abs(size - batch_size))
        better = next((size for size in nearest if not leaves_one(size)), None)
        advice = f"batch_size={better} works" if better else "add images"
        which = "every batch" if batch_size == 1 else "the last batch"
        raise ConfigError(
            f"batch_size={batch_size}: {which} of {count:,} training images would have only one, and "
            f"{type(model).__name__} cannot train on one (batch normalisation needs two); {advice}"
        ) from error
