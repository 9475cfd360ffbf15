"""Other images and other numbers of classes, from training to the report, prediction and verification."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image

from mnist_exp import job
from mnist_exp.cli.progress import Lines
from mnist_exp.cli.verify import EQUAL, verify
from mnist_exp.data import folders, images
from mnist_exp.data.datasets import class_names
from mnist_exp.data.images import mean_and_std
from mnist_exp.inference.drawing import render
from mnist_exp.inference.onnx_file import to_onnx
from mnist_exp.inference.trained import load_run
from mnist_exp.models import MLP
from mnist_exp.report import build
from mnist_exp.runs.record import read_record
from tests.conftest import SCRIPTS, choices, python, settings
from tests.data.test_datasets import idx

PROJECT = SCRIPTS.parent
KINDS = ("disc", "Bar, tall", "none")


def photograph(kind: str, seed: int) -> Image.Image:
    """Of one kind of thing, in a colour, on noise, 40 × 50."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (50, 40, 3)).astype(np.uint8)
    y, x = np.mgrid[:50, :40] - rng.integers(15, 25, 2)[:, None, None]
    shape = {"disc": x**2 + y**2 < 90, "Bar, tall": abs(x) < 4, "none": np.zeros(x.shape, bool)}[kind]
    pixels[shape] = rng.integers(150, 256, 3)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    for number in range(240):
        split, kind = "train" if number % 4 else "test", KINDS[number % 3]
        folder = root / split / (kind.upper() if split == "test" else kind)
        folder.mkdir(parents=True, exist_ok=True)
        photograph(kind, number).save(folder / f"{number}.jpg")
    return root


def train(root: Path, *overrides: str) -> Path:
    words = [f"output_root={root}", "epochs=8", "batch_size=16", *overrides]
    return Path(job.train_run(settings(*words), choices(*words), {}, Lines).folder)


def in_folders(root: Path) -> list[str]:
    return ["data=image_folder", f"data.train_dir={root}/train", f"data.test_dir={root}/test", f"data.root={root}/data"]


@pytest.fixture(scope="module")
def trained(photographs: Path) -> dict[str, Path]:
    """A run of each model on the photographs, by model."""
    words = [*in_folders(photographs), "data.mean=auto", "data.std=auto", "optimizer.lr=0.05"]
    return {model: train(photographs / "out", f"model={model}", *words) for model in ("lenet5r", "mlp")}


def test_a_folder_of_three_kinds_is_learnt_and_recorded(trained: dict[str, Path], photographs: Path) -> None:
    names = ["Bar, tall", "disc", "none"]
    pixels = []
    for path in folders.scan_both(photographs / "train", photographs / "test")["train"].paths:
        image = Image.open(photographs / "train" / path).convert("L").resize((32, 32), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(image) / 255)
    for folder in trained.values():
        record = read_record(folder)
        assert record.metrics and record.metrics["test_accuracy"] > 0.8
        assert record.classes == record.identity["data"]["classes"] == names
        assert record.identity["data"]["mean"] == "auto"
        assert record.normalisation == pytest.approx({"mean": np.mean(pixels), "std": np.std(pixels)})
        assert pd.read_csv(folder / "classes.csv")["images"].tolist() == [20, 20, 20]
    weights = load_run(trained["mlp"]).model.state_dict()
    assert weights["output.weight"].shape == (3, 20)


def test_what_comes_after_training_knows_the_classes(trained: dict[str, Path], photographs: Path) -> None:
    model = load_run(trained["mlp"])
    right = 0
    for path in sorted((photographs / "test").glob("*/*.jpg")):
        (answer, probability), *others = model.predict(path)
        right += answer.casefold() == path.parent.name.casefold()
        assert len(others) == 2 and probability + sum(share for _, share in others) == pytest.approx(1)
    predictions = pd.read_csv(trained["mlp"] / "mistakes.csv")
    assert right == 60 - len(predictions)
    file = onnx.load_from_string(to_onnx(model))
    assert {p.key: p.value for p in file.metadata_props}["classes"] == "Bar, tall, disc, none"
    assert file.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 32
    seen = np.stack([model.prepare(Image.open(path)) for path in sorted((photographs / "test").glob("*/*.jpg"))])
    (logits,) = onnx.reference.ReferenceEvaluator(file).run(None, {"images": seen})
    assert np.allclose(logits, model.logits(seen), atol=1e-4)
    done = python("scripts/predict.py", "--run", trained["mlp"], sorted((photographs / "test").glob("*/*.jpg"))[0])
    assert re.search(r"(Bar, tall|disc|none) +[\d.]+ %", done.stdout)


def test_verify_finds_them_equal(trained: dict[str, Path], photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_EXP_DATA", str(photographs / "data"))
    for folder in trained.values():
        found = verify(folder, str(photographs / "train"), str(photographs / "test"))
        assert found.verdict == EQUAL, found.details


@pytest.fixture(scope="module")
def emnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in the format of EMNIST's largest split: of each of the 62 classes a pattern, with noise."""
    root, rng = tmp_path_factory.mktemp("emnist"), np.random.default_rng(0)
    patterns = rng.random((62, 7, 7)) < 0.4
    for split, each in (("train", 12), ("test", 4)):
        labels = np.repeat(np.arange(62), each).astype(np.uint8)
        pixels = np.kron(patterns[labels] * 200, np.ones((4, 4))) + rng.integers(0, 50, (len(labels), 28, 28))
        raw = root / "EMNIST" / "raw"
        raw.mkdir(parents=True, exist_ok=True)
        (raw / f"emnist-byclass-{split}-images-idx3-ubyte").write_bytes(idx(pixels.astype(np.uint8)))
        (raw / f"emnist-byclass-{split}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root


def test_sixty_two_classes_and_folders_in_one_report(
    emnist: Path, trained: dict[str, Path], photographs: Path, tmp_path: Path
) -> None:
    words = ["data=emnist_byclass", f"data.root={emnist}", "data.validation_size=100"]
    runs = [train(photographs / "out", f"model={model}", *words) for model in ("lenet5", "mlp")]
    names = class_names("emnist_byclass")
    assert read_record(runs[0]).class_names == names and "classes" not in read_record(runs[0]).identity["data"]
    build.build(photographs / "out" / "runs", tmp_path, emnist)
    page = (tmp_path / "index.html").read_text()
    assert "Of 62 classes, the 20 with the most errors" in page and "Bar, tall" in page
    classes = pd.read_csv(tmp_path / "classes.csv")
    assert {f"class_{name}" for name in names} <= {column.removesuffix("_mean") for column in classes.columns}
    (matrix,) = tmp_path.glob("emnist*/custom-mlp-confusion.csv")
    assert pd.read_csv(matrix).shape == (62, 63)
    drawn = render([load_run(run) for run in runs])
    assert "Draw a character" in drawn and json.dumps(names) in drawn


def test_a_process_keeps_its_images_until_a_file_changes(
    emnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], images.load

    def counted(*arguments: Any) -> Any:
        loads.append(arguments)
        return load(*arguments)

    monkeypatch.setattr(images, "load", counted)
    monkeypatch.setattr(job, "_loaded", {})
    words = ["model=mlp", "epochs=1", "data=emnist_byclass", f"data.root={emnist}"]
    alone = (train(tmp_path / "alone", *words, "seed=1") / "model.safetensors").read_bytes()
    train(tmp_path, *words, "seed=0")
    again = (train(tmp_path, *words, "seed=1") / "model.safetensors").read_bytes()
    assert len(loads) == 1 and again == alone
    train(tmp_path, *words, "data.std=0.5")
    train(tmp_path, *words, "protocol=published")
    assert len(loads) == 3
    os.utime(emnist / "EMNIST" / "raw" / "emnist-byclass-test-labels-idx1-ubyte")
    train(tmp_path, *words, "protocol=published", "seed=2")
    assert len(loads) == 4


def test_the_number_of_classes_is_no_setting(tmp_path: Path) -> None:
    done = python("-m", "mnist_exp.run", "+model.classes=3", "epochs=1", cwd=tmp_path)
    assert done.returncode == 1 and "model.classes: mnist_exp.models.LeNet5 has no such setting" in done.stderr


def test_a_model_that_cannot_have_other_classes_is_told(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ten(MLP):
        def __init__(self) -> None:
            super().__init__()

    monkeypatch.setattr(sys.modules["mnist_exp.models"], "Ten", Ten, raising=False)
    with pytest.raises(Exception, match=r"gives \[2, 10\] .* \[2, 3\] is needed; have it take an argument classes"):
        train(photographs / "out", "model=mlp", "model._target_=mnist_exp.models.Ten", *in_folders(photographs))


def test_means_are_exact_and_of_the_training_images() -> None:
    import torch

    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (7, 1, 32, 32)).astype(np.uint8))
    mean, std = mean_and_std(pixels)
    assert mean == pytest.approx(pixels.double().mean().item() / 255, rel=1e-14)
    assert std == pytest.approx(pixels.double().std(correction=0).item() / 255, rel=1e-14)
    with pytest.raises(Exception, match="all pixels of the training images are alike"):
        mean_and_std(torch.zeros_like(pixels))


RECIPES = re.findall(r"```python\n(import numpy.*?)```", (PROJECT / "docs" / "data.md").read_text("utf-8"), re.DOTALL)


def test_the_recipes_for_csv_and_npz_files_work(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (24, 28, 28)).astype(np.uint8), np.arange(24) % 10
    for name, recipe in zip(("kaggle", "keras"), RECIPES, strict=True):
        assert len(recipe.strip().splitlines()) <= 11  # ten and a blank one
        place = tmp_path / name
        place.mkdir()
        table = np.column_stack([labels, pixels.reshape(24, -1)])
        np.savetxt(place / "train.csv", table, "%d", ",", header="label,…", comments="")
        np.savez(place / "mnist.npz", x_train=pixels[6:], y_train=labels[6:], x_test=pixels[:6], y_test=labels[:6])
        done = python("-c", recipe, cwd=place)
        assert done.returncode == 0, done.stderr
        both = folders.scan_both(place / name / "train", place / name / "test")
        held_out = range(6) if name == "keras" else range(0, 24, 6)
        assert both["test"].labels.tolist() == [int(labels[number]) for number in held_out]
        assert len(both["train"].paths) == 24 - len(held_out)
        number = both["test"].paths[1]
        shown = np.asarray(Image.open(place / name / "test" / number))
        assert np.array_equal(shown, pixels[held_out[1]])
