"""The published experiment: its table, its curves, and which of our runs repeat it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

MODELS = {"LeNet5": "lenet5", "LeNet5Regularized": "lenet5r", "MLP": "mlp"}
SETTINGS = {
    "data": {"name": "mnist", "mean": 0.1307, "std": 0.30812881},
    "epochs": 20,
    "batch_size": 64,
    "optimizer": {"target": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "dampening": 0, "weight_decay": 0}
    | {"nesterov": False, "maximize": False, "differentiable": False},
    "scheduler": {"target": "torch.optim.lr_scheduler.ConstantLR", "factor": 1, "total_iters": 5, "interval": "epoch"},
}
"""What the publication says about its training, and the defaults that it left as they are, as an identity has them."""
_TABLE, _CURVES = (Path(__file__).with_name(f"published_{name}.csv") for name in ("table", "curves"))
SPEED_ONLY = {"fused", "foreach"}


def table() -> dict[str, dict[str, float]]:
    """The published comparison table: our name of the model → metric → value."""
    rows = pd.read_csv(_TABLE).set_index("model")
    return {str(model): {str(k): float(v) for k, v in row.items() if k != "title"} for model, row in rows.iterrows()}


def curves() -> pd.DataFrame:
    """The published curves: one row per model and epoch."""
    return pd.read_csv(_CURVES)


def published_model(identity: Mapping[str, Any]) -> str | None:
    """The published model that a run repeats, seed and protocol apart; None for any other run."""
    for key, expected in SETTINGS.items():
        found = identity.get(key)
        if isinstance(found, Mapping):
            found = {name: value for name, value in found.items() if name not in SPEED_ONLY}
        if found != expected:
            return None
    model = dict(identity["model"])
    name = MODELS.get(str(model.pop("target")).rpartition(".")[2])
    return name if model in ({}, {"dropout": 0.5}) else None
