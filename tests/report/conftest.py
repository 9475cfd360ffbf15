"""Run folders made by hand: small, plausible, and as damaged as a test wants them."""

import hashlib
import json
import struct
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnist_exp.report.collect import Collection, collect
from mnist_exp.report.estimates import Estimates, make_estimates
from mnist_exp.report.image_errors import load_errors
from mnist_exp.runs.results import to_files
from scripts import report

Archive = dict[str, NDArray[Any]]
"""The arrays of a predictions.npz."""
ROOT = Path(__file__).parents[2]
DIGITS = 200
MODELS = {
    "lenet5": ("LeNet5", "LeNet5", 61_706, 416_520, 0.97),
    "lenet5r": ("LeNet5_regularized", "LeNet5Regularized", 61_990, 416_520, 0.98),
    "mlp": ("Custom MLP", "MLP", 62_930, 62_840, 0.94),
}
SGD: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "fused": True, "dampening": 0, "weight_decay": 0, "nesterov": False}
SGD |= {"maximize": False, "foreach": None, "differentiable": False}
CONSTANT = {"factor": 1, "total_iters": 5, "interval": "epoch"}
PROTOCOLS = {
    "standard": {"train_split": "train", "eval_split": "test", "training_mode": "every_epoch"},
    "published": {"train_split": "test", "eval_split": "train", "training_mode": "first_epoch"},
    "swapped": {"train_split": "test", "eval_split": "train", "training_mode": "every_epoch"},
}


def labels() -> NDArray[np.int64]:
    """The labels of the digits that all made-up runs are evaluated on."""
    return np.arange(DIGITS) % 10


def answer_with(label: list[int], answer: list[int], confidence: list[float]) -> Archive:
    """Predictions whose answer has the given probability, and whose other classes share the rest."""
    c = np.array(confidence)
    probabilities = np.repeat((1 - c)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(len(c)), answer] = c
    whole = {"label": np.array(label, np.uint8), "predicted": np.array(answer, np.uint8)}
    return {**whole, "probabilities": probabilities.astype(np.float32)}


def answers(label: NDArray[Any], errors: int) -> Archive:
    """Answers of which the first so many are the next class."""
    answer = np.where(np.arange(len(label)) < errors, (label + 1) % 10, label)
    return answer_with(label.tolist(), answer.tolist(), [0.91] * len(label))


def made_up_answers(errors: int, seed: int) -> Archive:
    """Answers to the made-up digits, of which so many are the next class: the first two, and others by chance."""
    order = np.r_[:2, 2 + np.random.default_rng(seed).permutation(DIGITS - 2)]
    shuffled = answers(labels()[order], errors)
    return {key: array[np.argsort(order)] for key, array in shuffled.items()}


def write_run(
    runs: Path,
    model: str = "lenet5",
    seed: int = 0,
    protocol: str = "standard",
    *,
    epochs: int = 3,
    accuracy: float | None = None,
    validation: float | None = None,
    settings: dict[str, Any] | None = None,
    archive: Archive | None = None,
    **fields: Any,
) -> Path:
    """Write a finished run's folder.

    Args:
        accuracy: the last one; without an archive, its errors are written only if `DIGITS` can have so many.
        validation: the last accuracy on 5,000 digits that are then held out.
        settings: replace single values of the identity, by dotted path.
        archive: of predictions.npz, and so of mistakes.csv and classes.csv.
        fields: replace those of the record; the name is the folder's.
    """
    title, target, parameters, operations, level = MODELS[model]
    if archive is None:
        random = np.random.default_rng([seed, *model.encode()])
        errors = DIGITS * (1 - (level if accuracy is None else accuracy)) + (accuracy is None) * random.integers(0, 3)
        archive = made_up_answers(round(errors), seed) if abs(errors - round(errors)) < 1e-6 else None
    if accuracy is None:
        assert archive is not None
        accuracy = float(np.mean(archive["label"] == archive["predicted"]))
    identity: dict[str, Any] = {
        "version": 3,
        "model": {"target": f"mnist_exp.models.{target}"},
        "optimizer": {"target": "torch.optim.SGD", **SGD},
        "scheduler": {"target": "torch.optim.lr_scheduler.ConstantLR", **CONSTANT},
        "device": {"type": "cpu", "threads": 1, "arithmetic": "portable"},
        "data": {"name": "mnist", "mean": 0.1307, "std": 0.30812881},
        "protocol": dict(PROTOCOLS[protocol]),
        "seed": seed,
        "epochs": epochs,
        "batch_size": 64,
    }
    if validation is not None:
        identity["data"]["validation_size"] = 5000
    for path, value in (settings or {}).items():
        *groups, key = path.split(".")
        reduce(dict.__getitem__, groups, identity)[key] = value
    fields.setdefault("name", f"{model}-{protocol}-seed{seed}-{len(list(runs.glob('*'))):03}")
    folder = runs / str(fields["name"])
    folder.mkdir(parents=True)
    _write_tables(folder, epochs, accuracy, validation, seed)
    if archive is not None:
        for name, content in to_files({}, {key: torch.from_numpy(array) for key, array in archive.items()}).items():
            if name != "model.safetensors":
                (folder / name).write_bytes(content)
    record: dict[str, Any] = {"format": 1, "status": "finished", "reason": None, "title": title, "identity": identity}
    record |= {"choices": {"model": model}, "metrics": {"test_accuracy": accuracy}, "data": checksums_of_digits()}
    record |= {"config": identity, "parameters": parameters, "multiply_accumulates": operations, "resumed": 0}
    record |= {"started": "2024-05-01T10:00:00+00:00", "ended": "2024-05-01T10:01:00+00:00"}
    record["provenance"] = {"git_commit": "0" * 40, "cpu": "Some CPU", "device": "cpu", "threads": 1}
    record["files"] = {"metrics.csv": hashlib.sha256((folder / "metrics.csv").read_bytes()).hexdigest()}
    (folder / "run.json").write_text(json.dumps(record | fields), encoding="utf-8")
    return folder


def _write_tables(folder: Path, epochs: int, accuracy: float, validation: float | None, seed: int) -> None:
    rows = ["epoch,train_loss,train_accuracy,test_loss,test_accuracy,learning_rate"]
    rows[0] += ",validation_loss,validation_accuracy" if validation is not None else ""
    times = ["epoch,train_seconds,eval_seconds,train_images_per_second"]
    for epoch in range(1, epochs + 1):
        value = accuracy - 0.01 * (epochs - epoch)
        rows.append(f"{epoch},{0.3 / epoch!r},{value - 0.005!r},{1.2 - value!r},{value!r},0.01")
        if validation is not None:
            rows[-1] += f",{1.3 - value!r},{validation - 0.02 * (epochs - epoch)!r}"
        times.append(f"{epoch},{5.0 + seed / 10!r},1.0,{60000 / (5.0 + seed / 10)!r}")
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "timing.csv").write_text("\n".join(times) + "\n", encoding="utf-8")


def forget_errors(folder: Path) -> None:
    """As a run whose errors nobody knows."""
    for name in ("predictions.npz", "mistakes.csv"):
        (folder / name).unlink(missing_ok=True)


def digits_files() -> dict[str, bytes]:
    """The pictures and labels that made-up runs are evaluated on, in MNIST's format."""
    pixels = np.arange(DIGITS * 28 * 28) % 251
    images = struct.pack(">4B3I", 0, 0, 8, 3, DIGITS, 28, 28) + pixels.astype(np.uint8).tobytes()
    told = struct.pack(">4BI", 0, 0, 8, 1, DIGITS) + labels().astype(np.uint8).tobytes()
    return {"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": told}


def checksums_of_digits() -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in digits_files().items()}


def write_digits(root: Path) -> None:
    """Write these files where a dataset's are."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, content in digits_files().items():
        (raw / name).write_bytes(content)


def read(runs: Path) -> tuple[Collection, Estimates]:
    """The runs of a folder, and what can be said of them."""
    collection = collect(runs)
    return collection, make_estimates(collection, load_errors(collection)[0])


def write_other(runs: Path, model: str = "lenet5", seed: int = 0, protocol: str = "standard", **more: Any) -> Path:
    """Write a finished run's folder, of images that are no digits."""
    return write_run(runs, model, seed, protocol, settings={"data.name": "fashion_mnist"}, classes=NAMES, **more)


EVIL = "<script>alert('title')</script> & [b]$x_1$"
NAMES = [EVIL, "T-shirt/top", "Trouser", "Ankle boot", r"a\|b_c", "Ankle boot " * 9, "x" * 99, "_bag", "3", "반지"]
"""Of classes: some as they are, some as bad as they can be."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole report, of three models and of folders that are damaged: its folder is ``report``."""
    place = tmp_path_factory.mktemp("site")
    runs = place / "runs"
    for model in MODELS:
        for seed in range(3):
            write_run(runs, model, seed, title=EVIL if model == "mlp" else MODELS[model][0])
    write_run(runs, seed=9, name="empty-metrics").joinpath("metrics.csv").write_text("")
    (runs / "stray").mkdir()
    (runs / "note.txt").write_text("hello")
    unfinished = "</li><img src=x onerror=alert(1)>\n\x1b[31mred"
    write_run(runs, seed=8, name="failed", status="failed", reason=unfinished)
    write_run(runs, seed=7, name="no-timing", settings={"batch_size": 32})
    (runs / "no-timing" / "timing.csv").write_bytes(b"\xff\xfe\0")
    write_digits(place / "data")
    (place / "report").mkdir()
    (place / "report" / "draw.html").touch()  # as make draw does
    arguments = ["--runs", str(runs), "--out", str(place / "report"), "--data", str(place / "data")]
    assert report.main(arguments) == 0
    return place
