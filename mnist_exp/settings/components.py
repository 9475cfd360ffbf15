"""Which classes and functions the settings may name, and the checks of their arguments, before any work starts.

A config is text that may come from anywhere, and calling whatever it names could run anything. So it may name a class
of the kind that is asked for, and a function that is declared as a metric; nothing else is ever called. To find it, its
module is imported, which runs that module's code: a config is to be trusted as far as the modules that it names.
"""

import contextlib
import copy
import difflib
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler

from mnist_exp.errors import ConfigError
from mnist_exp.files import PROJECT

KINDS: dict[str, tuple[type, str]] = {
    "model": (nn.Module, "mnist_exp.models.LeNet5"),
    "optimizer": (Optimizer, "torch.optim.SGD"),
    "scheduler": (lr_scheduler.LRScheduler, "torch.optim.lr_scheduler.StepLR"),
    "loss": (nn.Module, "torch.nn.CrossEntropyLoss"),
    "augment": (nn.Module, "mnist_exp.augment.Shift"),
}
"""Component → the class that its own must inherit from, and an example."""
UNSUITABLE = {
    "LBFGS": "it evaluates the loss several times a step",
    "SparseAdam": "it needs sparse gradients",
    "ReduceLROnPlateau": "it would choose the learning rate by the evaluation's result",
}
RENAMED: dict[str, str] = {}
"""In a fork with another name: the package's name in stored runs → its name now."""
RESERVED_ARGUMENTS = {"params", "optimizer", "steps_per_epoch", "last_epoch", "classes"}
"""For the factory, or for resuming, so a config cannot set them."""
NON_ARGUMENTS = {"model": {"_target_", "title"}, "scheduler": {"_target_", "interval"}}
"""Keys of a config group that are not arguments of its class; of the others, ``_target_``."""
INTERVALS = ("epoch", "step")


def component_identity(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The part of an identity that one config group decides: its class and all of its arguments.

    Those left out have the class's default, so that a library that changes a default changes the identity.

    Raises:
        ConfigError: the class cannot be named here, or does not take such an argument.
    """
    cls, arguments = resolve(kind, settings)
    parameters = inspect.signature(cls).parameters.items()
    given = {n: p.default for n, p in parameters if n not in RESERVED_ARGUMENTS and p.default is not p.empty}
    defaults = {name: _described(value) for name, value in given.items()}
    identity = {"target": settings["_target_"], **defaults, **arguments}
    if kind == "scheduler":
        identity["interval"] = interval(settings)
    return identity


def resolve(kind: str, settings: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The class that the settings name, and those of them that are its arguments, checked.

    Raises:
        ConfigError: as `component_identity`.
    """
    base, example = KINDS[kind]
    target = settings.get("_target_")
    if not isinstance(target, str):
        raise ConfigError(f"{kind}._target_ must name a class, such as {example}, not {target}")
    cls, name = import_name(f"{kind}._target_", target), target.rpartition(".")[2]
    if not (inspect.isclass(cls) and issubclass(cls, base) and cls is not base and not name.startswith("_")):
        wanted = f"a class that inherits from {base.__module__.removesuffix('.modules.module')}.{base.__qualname__}"
        raise ConfigError(f"{kind}._target_={target}: must name {wanted}, such as {example}")
    if name in UNSUITABLE:
        raise ConfigError(f"{kind}._target_={target}: cannot be used here, since {UNSUITABLE[name]}")
    arguments = {key: value for key, value in settings.items() if key not in NON_ARGUMENTS.get(kind, {"_target_"})}
    known = dict(inspect.signature(cls).parameters)
    for other in [each for each in known.values() if each.kind is each.VAR_KEYWORD]:  # **options: takes any
        known = dict.fromkeys(arguments, other) | known
    for key, value in arguments.items():
        if key not in known or key in RESERVED_ARGUMENTS:
            takes = [name for name in known if name not in RESERVED_ARGUMENTS]
            close = difflib.get_close_matches(key, takes, n=1)
            hint = f"did you mean {kind}.{close[0]}?" if close else f"it takes {', '.join(takes) or 'no settings'}"
            raise ConfigError(f"{kind}.{key}: {settings['_target_']} has no such setting; {hint}")
        annotation = known[key].annotation
        is_tensor = kind == "loss" and isinstance(value, list) and "Tensor" in str(annotation)
        if not is_tensor and not _matches(value, str(annotation)):
            wanted = annotation.__name__ if inspect.isclass(annotation) else str(annotation).replace("typing.", "")
            raise ConfigError(f"{kind}.{key}={value}: must be of type {wanted}")
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{kind}.{key}={value}: must be finite")
    rate: Any = arguments.get("lr")
    if kind == "optimizer" and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate > 0):
        raise ConfigError(f"optimizer.lr={rate}: the learning rate must be a number greater than 0")
    return cls, arguments


def import_name(key: str, target: str) -> Any:
    """What a dotted name stands for.

    Raises:
        ConfigError: its module cannot be imported, or has no such name.
    """
    prefix, _, name = target.rpartition(".")
    package, dot, rest = prefix.partition(".")
    prefix = RENAMED.get(package, package) + dot + rest
    if str(PROJECT) not in sys.path:  # a package beside mnist_exp/, wherever the command runs
        sys.path.append(str(PROJECT))
    try:
        known = vars(importlib.import_module(prefix)) if prefix else {}
    except Exception as error:  # of any kind: the module may be half written
        reason = f"{type(error).__name__}: {error}"
        advice = "; a package of your own is found beside mnist_exp/ or in PYTHONPATH"
        raise ConfigError(
            f"{key}={target}: {prefix} cannot be imported ({reason}){advice if isinstance(error, ImportError) else ''}"
        ) from error
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"{key}={target}: there is no {name} in {prefix or 'no module'}{hint}")
    return known[name]


def find_metrics(names: Iterable[str], classes: int) -> dict[str, Callable[[Tensor, Tensor], float]]:
    """The functions that `metrics` names, by their own names, each tried.

    Raises:
        ConfigError: one of them is not declared as a metric or gives no number, or its name is taken.
    """
    found: dict[str, Callable[[Tensor, Tensor], float]] = {}
    labels = torch.arange(4 * classes) % classes
    logits = torch.randn(len(labels), classes, generator=torch.Generator().manual_seed(0))
    for given in names:
        function = import_name("metrics", given if "." in given else f"mnist_exp.metrics.{given}")
        if not (inspect.isfunction(function) and getattr(function, "is_metric", False) is True):
            raise ConfigError(f"metrics={given}: must name a function with the decorator mnist_exp.metrics.metric")
        if (name := function.__name__) in ("loss", "accuracy") or found.setdefault(name, function) is not function:
            raise ConfigError(f"metrics={given}: there is another metric called {name}; rename this one")
        try:
            float(function(logits, labels))
        except Exception as error:  # of any kind: it is somebody's code
            reason = f"({type(error).__name__}: {error})"
            raise ConfigError(f"metrics={given}: logits [N, classes] and labels [N] give no number {reason}") from error
    return found


def without_defaults(kind: str, identity: dict[str, Any]) -> dict[str, Any]:
    """The settings of a component that an identity holds; those with the class's default are left to the class.

    A default that is no JSON value, such as a function, is only described in an identity.
    """
    cls = import_name(f"{kind}._target_", identity["target"])
    known = inspect.signature(cls).parameters
    kept = {
        k: v for k, v in identity.items() if k != "target" and (k not in known or _described(known[k].default) != v)
    }
    return {"_target_": identity["target"], **kept}


def _described(default: Any) -> Any:
    """A default argument as a JSON value, the same in every process."""
    if isinstance(default, list | tuple):
        return [_described(each) for each in default]
    is_finite = isinstance(default, float) and math.isfinite(default)
    is_finite = isinstance(default, float) and math.isfinite(default)
    if default is None or isinstance(default, bool | int | str) or is_finite:
        return default
    if isinstance(default, dict):
        return {str(key): _described(value) for key, value in default.items()}
    if inspect.isclass(default) or inspect.isroutine(default):
        return f"{default.__module__}.{default.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(default))


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
    """When a schedule advances: after each ``epoch``, or after each ``step``; one that counts steps must say it."""
    counts_steps = "steps_per_epoch" in inspect.signature(import_name("scheduler", settings["_target_"])).parameters
    given = settings.get("interval", None if counts_steps else "epoch")
    if given not in INTERVALS:
        raise ConfigError(f"scheduler.interval={given}: must be one of {', '.join(INTERVALS)}")
    return str(given)


@contextlib.contextmanager
def as_config_error(kind: str, arguments: dict[str, Any]) -> Iterator[None]:
    """Raise a ConfigError that names the arguments, instead of what a class raises for values that it cannot use."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError, AttributeError, LookupError) as error:
        own = {key: value for key, value in arguments.items() if key not in RESERVED_ARGUMENTS and key != "_target_"}
        given = " ".join(f"{kind}.{key}={value}" for key, value in own.items())
        raise ConfigError(f"{given or kind}: {error}") from error


def check_shapes(model: nn.Module, target: str, classes: int) -> None:
    """Raise a ConfigError unless two images give a tensor of two rows of a logit for each class."""
    images = torch.zeros(2, 1, 32, 32)
    try:
        with torch.inference_mode():
            logits = copy.deepcopy(model).eval()(images)
            found = [*logits.shape] if isinstance(logits, Tensor) else type(logits).__name__
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"model: {target} cannot use images of shape {[*images.shape]}: {reason}") from error
    if found != (wanted := [2, classes]):
        advice = "" if "classes" in inspect.signature(type(model)).parameters else "; have it take an argument classes"
        raise ConfigError(
            f"model: {target} gives {found} for images of shape {[*images.shape]}; {wanted} is needed{advice}"
        )


def check_loss(loss: nn.Module, settings: dict[str, Any], classes: int) -> None:
    """Raise a ConfigError unless it is a mean over images, without weights that nothing would train."""
    logits = torch.linspace(-1, 1, 2 * classes).reshape(2, classes).requires_grad_()
    labels = torch.tensor([0, classes - 1])
    with as_config_error("loss", settings):
        one, twice = loss(logits, labels), loss(logits.repeat(2, 1), labels.repeat(2))
        if not (isinstance(one, Tensor) and one.ndim == 0 and torch.allclose(one, twice, rtol=1e-4)):
            raise ValueError("for logits [N, classes] and labels [N] it must give one number, a mean over images")
        if not one.requires_grad:
            raise ValueError("its result has no gradient: it was computed without autograd, or was detached")
        if any(True for _ in loss.parameters()):
            raise ValueError("it has weights of its own, which nothing trains")


def check_augment(augment: nn.Module, settings: dict[str, Any]) -> None:
    """Raise a ConfigError unless it turns images and a generator into images, and draws from nothing else."""
    images = torch.linspace(-1, 3, 8 * 32 * 32).reshape(8, 1, 32, 32)
    with as_config_error("augment", settings), torch.random.fork_rng(devices=[]):
        found, again = (augment(images.clone(), torch.Generator().manual_seed(0)) for _ in range(2))
        if not isinstance(found, Tensor) or found.shape != images.shape or found.dtype != images.dtype:
            raise ValueError("it must give images of the shape and type that it gets, float32, [N, 1, 32, 32]")
        if not torch.equal(found, again):
            raise ValueError("with equal generators it gives different images; it must draw from its generator only")


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
