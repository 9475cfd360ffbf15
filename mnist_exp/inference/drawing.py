"""The page to draw in: one HTML file with the models inside, which loads nothing."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib import resources

import torch
from torch import Tensor, nn

from mnist_exp.data.folders import DIGITS
from mnist_exp.inference.trained import UNSURE, TrainedModel
from mnist_exp.models import MLP, LeNet5, LeNet5Regularized

NETWORKS: dict[type[nn.Module], str] = {LeNet5: "lenet5", LeNet5Regularized: "lenet5", MLP: "mlp"}  # in network.js


def render(models: Sequence[TrainedModel]) -> str:
    """The page's text; it names the models that it cannot compute."""
    known = [model for model in models if type(model.model) in NETWORKS]
    others = ", ".join(html.escape(model.record.title) for model in models if model not in known)
    left_out = f'<p class="note">This page cannot compute: {others}.</p>\n' if others else ""
    data = json.dumps([_describe(model) for model in known]).replace("<", "\\u003c")
    script = "".join(map(_resource, ("preprocessing.js", "network.js", "draw.js")))
    text = _resource("draw.html").replace("{{ style }}", _resource("draw.css")).replace("{{ script }}", script)
    checksum = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("{{ script_hash }}", checksum).replace("{{ left_out }}", left_out)
    text = text.replace("{{ what }}", "digit" if all(model.classes == DIGITS for model in models) else "character")
    return text.replace("{{ models }}", data)


def fold(model: nn.Module) -> dict[str, Tensor]:
    """A model's weights, with any batch normalisation folded into the layer before it."""
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    if isinstance(model, LeNet5Regularized):
        for layer, norm in (("C1", model.N1), ("C3", model.N3), ("C5", model.N5)):
            own = {name: weights.pop(f"N{layer[1]}.{name}") for name in norm.state_dict()}
            factor = own["weight"] / torch.sqrt(own["running_var"] + norm.eps)
            weights[f"{layer}.bias"] = (weights[f"{layer}.bias"] - own["running_mean"]) * factor + own["bias"]
            kernel = weights[f"{layer}.weight"]
            weights[f"{layer}.weight"] = kernel * factor.reshape(-1, *[1] * (kernel.dim() - 1))
    return {name: tensor.float() for name, tensor in weights.items()}


def _describe(trained: TrainedModel) -> dict[str, object]:
    weights = torch.cat([tensor.flatten() for tensor in fold(trained.model).values()])
    mean, std = trained.normalisation
    return {
        "title": trained.record.title,
        "run": trained.record.name,
        "network": NETWORKS[type(trained.model)],
        "mean": mean,
        "std": std,
        "classes": trained.classes,
        "unsure": UNSURE,
        "weights": base64.b64encode(weights.numpy().astype("<f4").tobytes()).decode(),
    }


def _resource(name: str) -> str:
    return resources.files("mnist_exp.inference").joinpath(name).read_text(encoding="utf-8")
