"""The published experiment: its table, its curves, and which of our runs repeat it."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import pandas as pd

MODELS = {"LeNet5": "lenet5", "LeNet5Regularized": "lenet5r", "MLP": "mlp"}
SETTINGS = {
    "data": {"name": "mnist", "mean": 0.1307, "std": 0.30812881},
    "epochs": 20,
    "batch_size": 64,
    "optimizer": {"target": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9},
    "scheduler": {"target": "torch.optim.lr_scheduler.ConstantLR", "factor": 1, "interval": "epoch"},
}
"""Everything that the publication says about its training, as an identity records it."""
NEUTRAL: dict[str, dict[str, Any]] = {
    "optimizer": {"dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False, "differentiable": False},
    "scheduler": {"total_iters": 5},
    "model": {"dropout": 0.5},
}
"""Defaults of PyTorch's and ours that the published training agrees with; `scheduler.factor` is 1."""
SPEED_ONLY = {"fused", "foreach"}


def table() -> dict[str, dict[str, float]]:
    """The published comparison table: our name of the model → metric → value."""
    rows = pd.read_csv(resource("published_table.csv")).set_index("model")
    return {str(model): {str(k): float(v) for k, v in row.items() if k != "title"} for model, row in rows.iterrows()}


def curves() -> pd.DataFrame:
    """The published curves: one row per model and epoch."""
    return pd.read_csv(resource("published_curves.csv"))


def published_model(identity: Mapping[str, Any]) -> str | None:
    """The published model that a run repeats, seed and protocol apart; None for any other run."""
    for key, expected in SETTINGS.items():
        found = identity.get(key)
        if (_telling(key, found) if isinstance(found, Mapping) else found) != expected:
            return None
    model = _telling("model", identity["model"])
    name = MODELS.get(str(model.pop("target")).rpartition(".")[2])
    return name if not model else None


def _telling(group: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A group of an identity without what does not matter here."""
    neutral = NEUTRAL.get(group, {})
    return {k: v for k, v in found.items() if k not in SPEED_ONLY and not (k in neutral and neutral[k] == v)}


def resource(name: str) -> Any:
    """A data file of this package."""
    return files("mnist_exp.report").joinpath(name)
