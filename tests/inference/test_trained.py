"""Runs become models that predict, and ``scripts/predict.py`` shows what they answer."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mnist_exp.errors import DataError, RunFolderError
from mnist_exp.inference.trained import TrainedModel, load_each_model, load_run
from mnist_exp.runs.record import checksum, read_record
from tests.inference.conftest import REFERENCE, TITLES

ROOT = Path(__file__).parents[2]
RUNS = REFERENCE / "runs"
NO_PICTURE = "The file is not a picture that can be read here; save it as PNG or JPEG."
Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]


def predict(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--runs", str(RUNS), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, **options)


@pytest.fixture
def album(tmp_path: Path, digits: Digits) -> Path:
    """A folder of three digits (7, 2, 1), and of files that show none."""
    folder = tmp_path / "album"
    folder.mkdir()
    for place in range(3):
        Image.fromarray(255 - digits[0][place]).save(folder / f"{place}.png")
    Image.new("L", (90, 90), 255).save(folder / "blank.png")
    Image.fromarray(np.hstack([digits[0][0], digits[0][1]])).save(folder / "two.png")
    whole = (folder / "0.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not read")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "more.png").mkdir()
    Image.fromarray(255 - digits[0][3]).save(folder / "more.png" / "deeper.ppm")
    return folder


def test_the_tracked_weights_are_the_tracked_runs(models: list[TrainedModel]) -> None:
    assert [model.record.title for model in models] == TITLES
    weights = sorted(RUNS.glob("*/model.safetensors"))
    assert len(weights) == 3
    for path in weights:
        record = read_record(path.parent)
        assert record.seed == 0
        assert (record.files or {})["model.safetensors"] == checksum(path)


def test_they_are_as_accurate_as_when_they_were_trained(models: list[TrainedModel], digits: Digits) -> None:
    for model in models:
        accuracy = float((model.logits(digits[0]).argmax(dim=1).numpy() == digits[1]).mean())
        assert model.record.metrics is not None
        assert accuracy == pytest.approx(model.record.metrics["test_accuracy"], abs=1e-4)


def test_a_folder_is_read_and_what_cannot_be_is_reported(album: Path, tmp_path: Path) -> None:
    done = predict(album, "--json", "--save-seen", tmp_path / "seen")
    assert done.returncode == 1
    found = {Path(each["image"]).name: each for each in json.loads(done.stdout)}
    for name, digit in (("0.png", "7"), ("1.png", "2"), ("2.png", "1"), ("deeper.ppm", "0")):
        assert [answer["model"] for answer in found[name]["answers"]] == TITLES
        for answer in found[name]["answers"]:
            assert answer["top"][0]["class"] == digit
            assert answer["top"][0]["probability"] >= answer["top"][1]["probability"]
            assert answer["unsure"] == (answer["top"][0]["probability"] < 0.9)
    assert {name: each["error"] for name, each in found.items() if "error" in each} == {
        "blank.png": "The picture is blank.",
        "cut.png": "The file cannot be read: image file is truncated.",
        "empty.png": NO_PICTURE,
        "phone.heic": NO_PICTURE,
        "two.png": "The picture has more than one digit, or something else; crop it to one digit.",
    }
    assert done.stderr.count("\n") == 5
    assert f"predict: {album / 'blank.png'}: The picture is blank.\n" in done.stderr
    again = json.loads(predict(tmp_path / "seen", "--json").stdout)
    read = sorted(name for name, each in found.items() if "answers" in each)
    assert [each["answers"] for each in again] == [found[name]["answers"] for name in read]


def test_one_image_from_standard_input_by_one_run(digits: Digits) -> None:
    buffer = io.BytesIO()
    Image.fromarray(digits[0][0]).save(buffer, "PNG")
    run = next(RUNS.glob("mlp-standard-sgd-seed0-*")).name
    words = [sys.executable, str(ROOT / "scripts" / "predict.py"), "--runs", str(RUNS), "--run", run, "-"]
    done = subprocess.run(words, input=buffer.getvalue(), capture_output=True, timeout=300, check=False)
    assert done.returncode == 0
    assert re.fullmatch(r"standard input\n  Custom MLP  7 +[0-9.]+ %   [0-9] +[0-9.]+ %\n", done.stdout.decode())


def test_wrong_names_are_reported(tmp_path: Path) -> None:
    done = predict("x" * 300, tmp_path, "nothing\udcff.png", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert [each["image"] for each in found] == ["x" * 300, str(tmp_path), "nothing\udcff.png"]
    said = [
        "The file cannot be read: File name too long.",
        "The folder has no pictures.",
        "The file cannot be read: No such",
    ]
    assert all(each["error"].startswith(words) for each, words in zip(found, said, strict=True))
    done = predict("nothing.png", "--run", "none")
    assert done.stderr == f"predict: {RUNS / 'none'}: there is no such run; make status lists them\n"
    with pytest.raises(RunFolderError, match="make sweep"):
        load_each_model(tmp_path)


def test_damaged_runs_are_reported(tmp_path: Path) -> None:
    run = shutil.copytree(next(RUNS.glob("mlp-standard-sgd-seed0-*")), tmp_path / "run")
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")
    with pytest.raises(RunFolderError, match="is not the file that the run wrote"):
        load_run(run)
    with pytest.raises(RunFolderError, match="there is no such run"):
        load_run(run / "run.json")
    (run / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"run: model\.safetensors cannot be read: No such file"):
        load_run(run)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "failed"}))
    with pytest.raises(RunFolderError, match=r"is not finished \(failed\)"):
        load_run(run)
    (run / "run.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
        load_run(run)


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path, "mlp", lambda record: record["identity"]["data"].update(std=0))
    with pytest.raises(RunFolderError, match=r"the settings in run\.json are not those that the run's name stands for"):
        load_run(folder)


@pytest.mark.parametrize("classes", [["a"], 5, [["x"]] * 10, ["a"] * 10])
def test_classes_that_are_no_names_are_refused(classes: object, tmp_path: Path) -> None:
    folder = copied(tmp_path, "mlp", lambda record: record.update(classes=classes))
    with pytest.raises(RunFolderError, match=r"run\.json has (classes that are not|a classes of another)"):
        load_run(folder)


def test_a_title_controls_no_terminal(tmp_path: Path) -> None:
    folder = copied(tmp_path, "mlp", lambda record: record.update(title="\x1b[31mNet"))
    assert load_run(folder).record.title == "\ufffd[31mNet"


def test_models_of_one_title_are_told_apart(tmp_path: Path) -> None:
    for name in ("lenet5", "mlp"):
        copied(tmp_path, name, lambda record: record.update(title="Net"))
    assert [model.record.title for model in load_each_model(tmp_path)] == ["Net, LeNet5", "Net, MLP"]


def copied(runs: Path, model: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a tracked run, its record changed."""
    (run,) = (path.parent for path in RUNS.glob(f"{model}-standard-sgd-seed0-*/model.safetensors"))
    shutil.copytree(run, runs / model)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change(record)
    (runs / model / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return runs / model


def test_of_each_model_the_lowest_seed_and_the_longest_training(tmp_path: Path) -> None:
    stored = next(RUNS.glob("mlp-standard-sgd-seed0-*"))
    for name, seed, epochs, protocol in (
        ("a", 3, 20, "train"),
        ("b", 1, 2, "train"),
        ("c", 1, 20, "train"),
        ("d", 0, 20, "test"),
    ):
        run = shutil.copytree(stored, tmp_path / name)
        record = json.loads((run / "run.json").read_text())
        record["identity"] |= {"seed": seed, "epochs": epochs}
        record["identity"]["protocol"]["train_split"] = protocol
        (run / "run.json").write_text(json.dumps(record | {"name": name}))
    assert [model.record.name for model in load_each_model(tmp_path)] == ["c"]


def test_other_data_are_only_resized_and_have_their_names(tmp_path: Path, digits: Digits) -> None:
    run = shutil.copytree(next(RUNS.glob("lenet5-standard-sgd-seed0-*")), tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["identity"]["data"]["name"] = "fashion_mnist"
    names = [f"garment {label}" for label in range(10)]
    (run / "run.json").write_text(json.dumps(record | {"classes": names, "name": "another"}))
    model = load_run(run)
    seen = model.prepare(Image.fromarray(digits[0][0]))
    assert seen.shape == (32, 32)
    assert model.rank(seen)[0][0] == "garment 7"
    with pytest.raises(DataError, match=r"^The picture cannot be converted to grey"):
        model.prepare(Image.new("LAB", (40, 40)))
    expected = load_run(next(RUNS.glob("lenet5-standard-sgd-seed0-*"))).logits(digits[0][:1])
    assert np.array_equal(model.logits(seen[None]).numpy(), expected.numpy())


def test_images_are_bytes_of_any_strides(models: list[TrainedModel], digits: Digits) -> None:
    for wrong in (digits[0][:2] / 255, digits[0][0], digits[0][:2, :0], [digits[0][0]], None):
        with pytest.raises(ValueError, match=r"images must be uint8, \[N, H, W\], not "):
            models[0].logits(wrong)  # type: ignore[arg-type]
    assert models[0].logits(digits[0][:2, ::-1]).shape == (2, 10)


def test_the_three_lines_of_the_documentation_work(tmp_path: Path, digits: Digits) -> None:
    text = (ROOT / "docs" / "predict.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(from mnist_exp\.inference.*?)```", text, re.DOTALL)
    Image.fromarray(digits[0][0]).save(tmp_path / "photo.jpg")
    run = next(RUNS.glob("lenet5-standard-sgd-seed0-*"))
    program = re.sub(r"outputs/runs/lenet5-standard-sgd-seed0-\w+", run.as_posix(), lines)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[('7', 0.99")
