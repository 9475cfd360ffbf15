"""Checkpoints: a run's training state, with the rows of its tables so far, in one file."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class History:
    """What is known of a run so far: its rows and, unless it starts from scratch, its training state."""

    metrics: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``metrics.csv``, one per epoch, by column."""
    timing: list[dict[str, float]] = field(default_factory=list)
    """Rows of ``timing.csv``."""
    training: dict[str, Any] | None = None
    """`mnist_exp.training.TrainState.state_dict`."""
    code: dict[str, str] | None = None
    """The code that trained it so far (`mnist_exp.machine.fingerprint`)."""
    packages: dict[str, str | None] | None = None
    """The versions that trained it so far."""

    def add(self, metrics: dict[str, float], timing: dict[str, float], training: dict[str, Any]) -> None:
        """Add an epoch: its rows, and the state after it."""
        self.metrics.append(metrics)
        self.timing.append(timing)
        self.training = training


def to_bytes(identity: dict[str, Any], history: History) -> bytes:
    """The checkpoint file of a run with this identity."""
    buffer = io.BytesIO()
    torch.save({"identity": json.dumps(identity), **vars(history)}, buffer)
    return buffer.getvalue()


def read(path: Path) -> tuple[dict[str, Any], History]:
    """A checkpoint's identity and history.

    Raises:
        Exception: of any kind, where the file is damaged or is not a checkpoint.
    """
    # PyTorch ignores the archive's own checksums when it reads, so a flipped bit would go unnoticed.
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"the checksum of {broken} does not match")
    content = torch.load(path, map_location="cpu", weights_only=True)
    identity = json.loads(content.pop("identity"))
    if content["training"]:
        content["training"].setdefault("loss", {})  # as before there were losses with a state
    return identity, History(**content)
