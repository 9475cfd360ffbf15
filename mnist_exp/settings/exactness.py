"""What exact arithmetic covers; the rest is refused before any work starts."""

import importlib.util
from typing import Any

from mnist_exp.errors import ConfigError
from mnist_exp.settings import components
from mnist_exp.settings.schema import Config

MODELS = ("LeNet5", "LeNet5Regularized", "MLP")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"nesterov": False, "dampening": 0, "maximize": False},
    "AdamW": {"amsgrad": False, "maximize": False},
}
"""Class of torch.optim → the only values of arguments that are covered."""
LOSS = {"weight": None, "ignore_index": -100, "reduction": "mean"}


def check_exact(config: Config) -> None:
    """Check that the settings are covered, and that what it needs is installed.

    Raises:
        ConfigError: something is not.
    """

    def refuse(what: str, covered: str) -> ConfigError:
        return ConfigError(
            f"device.arithmetic=exact does not cover {what}: it covers {covered}; device.arithmetic=portable covers all"
        )

    device = config.device
    if device.name != "cpu" or device.threads != 1:
        raise refuse(f"device.name={device.name} device.threads={device.threads}", "one thread of the CPU")
    model, optimizer, loss = (str(each["_target_"]) for each in (config.model, config.optimizer, config.loss))
    network = components.import_name("model", model)
    package = str(__package__).partition(".")[0]
    if not (network.__module__.startswith(f"{package}.models.") and network.__name__ in MODELS):
        raise refuse(f"model._target_={model}", f"{', '.join(MODELS)} of mnist_exp.models")
    if optimizer not in (f"torch.optim.{each}" for each in OPTIMIZERS):
        raise refuse(f"optimizer._target_={optimizer}", f"torch.optim's {' and '.join(OPTIMIZERS)}")
    if loss != "torch.nn.CrossEntropyLoss":
        raise refuse(f"loss._target_={loss}", "torch.nn.CrossEntropyLoss")
    for group, settings, only in (
        ("optimizer", config.optimizer, OPTIMIZERS[optimizer.rpartition(".")[2]]),
        ("loss", config.loss, LOSS),
    ):
        for key, value in only.items():
            if settings.get(key, value) != value:
                raise refuse(f"{group}.{key}={settings[key]}", f"{key}={value}")
    if config.clip_norm is not None:
        raise refuse(f"clip_norm={config.clip_norm}", "gradients as they are")
    if config.augment["_target_"] != "torch.nn.Identity":
        raise refuse(f"augment._target_={config.augment['_target_']}", "images as they are")
    if not importlib.util.find_spec("numba"):
        raise ConfigError("device.arithmetic=exact needs numba, which is not installed; install it with: make extras")
