import io
import itertools
import pickle
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import style
from PIL import Image

from mnist_exp.data import decoding, folders
from mnist_exp.errors import RunFolderError
from mnist_exp.report import figure_files, figures, tables
from mnist_exp.report.collect import collect
from mnist_exp.report.image_errors import GroupErrors, hardest_images, load_errors, load_images
from mnist_exp.report.table import Table, latex, markdown
from mnist_exp.runs.record import Record
from tests.report.conftest import (
    DIGITS,
    answer_with,
    answers,
    checksums_of_digits,
    forget_errors,
    read,
    write_digits,
    write_other,
    write_run,
)


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Two models of two seeds, four digits: 3, 3, 5, 5."""
    label = [3, 3, 5, 5]
    write_run(tmp_path, "lenet5", 0, archive=answer_with(label, [3, 8, 5, 6], [0.9, 0.8, 0.9, 0.7]))
    write_run(tmp_path, "lenet5", 1, archive=answer_with(label, [3, 8, 5, 5], [0.9, 0.6, 0.9, 0.5]))
    write_run(tmp_path, "mlp", 0, archive=answer_with(label, [3, 8, 6, 5], [0.9, 0.9, 0.5, 0.9]))
    write_run(tmp_path, "mlp", 1, archive=answer_with(label, [3, 5, 6, 5], [0.9, 0.8, 0.7, 0.9]))
    return tmp_path


def test_confusion_matrix_and_calibration_error_by_hand(by_hand: Path, tmp_path: Path) -> None:
    (lenet5, mlp), problems = load_errors(collect(by_hand))
    assert not problems
    expected = np.zeros((10, 10))
    expected[3, 3], expected[3, 8], expected[5, 5], expected[5, 6] = 1, 1, 1.5, 0.5
    assert np.array_equal(lenet5.confusion, expected)
    assert lenet5.errors.tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]
    assert mlp.labels.to_dict() == {1: 3, 2: 5}
    # Seed 0: bins (12/15, 13/15], … hold 0.9 twice, both right; 0.8 and 0.7 alone, both wrong.
    assert lenet5.calibration_errors[0] == pytest.approx((2 * 0.1 + 0.8 + 0.7) / 4, abs=1e-6)
    assert lenet5.calibration_errors[1] == pytest.approx((2 * 0.1 + 0.6 + 0.5) / 4, abs=1e-6)
    # A bin weighs right and wrong together.
    write_run(tmp_path / "bin", archive=answer_with([1, 1, 1, 1], [1, 1, 2, 2], [0.75] * 4))
    assert load_errors(collect(tmp_path / "bin"))[0][0].calibration_errors == pytest.approx([0.25])


def confused_pairs(found: Sequence[GroupErrors]) -> Table:
    table = tables.confused(found)
    assert table is not None
    return table


def rows(frame: pd.DataFrame, *columns: str) -> list[list[object]]:
    found: list[list[object]] = frame[[*columns]].to_numpy().tolist()
    return found


def test_error_tables_by_hand(by_hand: Path) -> None:
    found, _ = load_errors(collect(by_hand))
    confused = confused_pairs(found).data
    lenet5 = confused[confused["model"] == "LeNet5"]
    assert rows(lenet5, "label", "predicted", "digits", "share") == [["3", "8", 1, 0.5], ["5", "6", 0.5, 0.25]]
    (classes,) = tables.classes(found)
    assert rows(classes.data, "class_3", "class_5") == [[0.5, 0.75], [0.5, 0.5]]
    assert classes.cells["0"].tolist() == ["–", "–"]
    calibration = tables.calibration(found)
    assert calibration is not None and calibration.data["n"].tolist() == [2, 2]


def test_error_tables_tell_classes_by_their_names(tmp_path: Path) -> None:
    archive = answer_with([3, 3, 5, 5], [3, 4, 5, 3], [0.9] * 4)
    write_run(tmp_path, archive=archive)
    write_other(tmp_path, archive=archive)
    found, _ = load_errors(collect(tmp_path))
    long = ("Ankle boot " * 9).strip()
    other, digits = tables.classes(found)
    assert (other.name, other.title) == ("classes", "Accuracy of each class (fashion_mnist)")
    assert (digits.name, digits.title) == ("classes-2", "Accuracy of each class (mnist)")
    assert rows(other.cells, "Ankle boot", long, "3") == [["0.5000", "0.5000", "–"]]
    assert rows(other.data, "class_Ankle boot", f"class_{long}") == [[0.5, 0.5]]
    assert rows(digits.cells, "3", "5") == [["0.5000", "0.5000"]]
    confused = confused_pairs(found)
    named = [["Ankle boot", r"a\|b_c"], [long, "Ankle boot"]]
    assert rows(confused.cells, "Label", "Predicted") == [*named, ["3", "4"], ["5", "3"]]
    # Of GitHub's tables, a cell ends at a bar unless an odd number of backslashes stands before it.
    assert r"| Ankle boot | a\\\|b_c | 1.0 |" in markdown(confused.cells)
    assert "&lt;script>alert('title')&lt;/script> & [b]$x_1$ |" in markdown(other.cells)
    assert r"& Ankle boot & a\textbackslash |b\_c &" in latex(other)
    assert r"</script> \& [b]\$x\_1\$ & T-shirt/top &" in latex(other)


def test_confusion_matrix_tells_classes_by_names_that_fit(tmp_path: Path) -> None:
    write_other(tmp_path, archive=answer_with([3, 3, 5, 5], [3, 4, 4, 4], [0.9] * 4))
    (m,), _ = load_errors(collect(tmp_path))
    drawing = figures.confusion(m)
    assert r"Most frequent: Ankle boot Ankle" in drawing.description
    assert r"read as a\|b_c, 2.0 images per run." in drawing.description
    counts = drawing.data.set_index("label").loc["Ankle boot"].to_dict()
    assert {key: n for key, n in counts.items() if n} == {"predicted_Ankle boot": 1, r"predicted_a\|b_c": 1}
    with style.context(figure_files.STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = drawing.draw()
        figure.draw_without_rendering()
        (left, bottom), (right, top) = figure.bbox.min, figure.bbox.max
        for ticks in (figure.axes[0].get_xticklabels(), figure.axes[0].get_yticklabels()):
            assert [tick.get_text() for tick in ticks][:4] == ["<script>alert…", "T-shirt/top", "Trouser", "Ankle boot"]
            boxes = [tick.get_window_extent() for tick in ticks]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
            assert all(left <= b.x0 and b.x1 <= right and bottom <= b.y0 and b.y1 <= top for b in boxes)
        assert figure.axes[0].get_window_extent().width > figure.bbox.width / 2


def test_hardest_images_are_those_that_most_runs_of_every_model_get_wrong_first(by_hand: Path) -> None:
    found, _ = load_errors(collect(by_hand))
    first, second = hardest_images(found, 10)
    assert (first.index, first.label, first.by_all) == (1, 3, True)
    assert [(a.predicted, a.errors, a.runs) for a in first.answers] == [(8, 2, 2), (8, 2, 2)]
    assert [a.probability for a in first.answers] == pytest.approx([0.7, 0.9])
    assert (second.index, second.label, second.by_all) == (2, 5, False)
    # LeNet5 makes no error on it, so that only the MLP's tables say what its label is.
    assert [(a.predicted, a.errors) for a in second.answers] == [(5, 0), (6, 2)]
    assert second.answers[0].probability is None and second.answers[1].probability == pytest.approx(0.6)
    assert len(hardest_images(found, 1)) == 1


def test_without_predictions_npz_only_calibration_and_losses_are_lacking(tmp_path: Path) -> None:
    for model, seed in itertools.product(("lenet5", "mlp"), range(3)):
        write_run(tmp_path, model, seed, archive=answers(np.arange(100) % 10, 7 + 2 * seed + 5 * (model == "mlp")))

    def shown(found: Sequence[GroupErrors]) -> list[pd.DataFrame]:
        cells = [table.cells for table in (tables.comparison(*read(tmp_path)), confused_pairs(found))]
        return [each.drop(columns="Test loss", errors="ignore") for each in cells]

    before, _ = load_errors(collect(tmp_path))
    assert tables.calibration(before) is not None and before[0].losses is not None
    cells = shown(before)
    for file in tmp_path.glob("*/predictions.npz"):
        file.unlink()
    after, problems = load_errors(collect(tmp_path))
    assert not problems and tables.calibration(after) is None
    assert all(group.losses is None and not len(group.bins) for group in after)
    assert all(one.equals(other) for one, other in zip(cells, shown(after), strict=True))
    for folder in tmp_path.iterdir():  # without the other files, nothing is known of a run's errors; that is no problem
        forget_errors(folder)
    assert load_errors(collect(tmp_path)) == ([], [])


@pytest.mark.parametrize(
    ("model", "left", "said"),
    [
        ("lenet5", 1, "other images than the other seeds'"),
        ("mlp", 2, "it was evaluated on images with other labels than the runs of LeNet5"),
    ],
)
def test_errors_on_other_images_than_those_of_other_runs_are_named(
    model: str, left: int, said: str, tmp_path: Path
) -> None:
    write_run(tmp_path, archive=answers(np.arange(100) % 10, 10))
    write_run(tmp_path, model, seed=1, name="other", archive=answers(np.arange(1, 101) % 10, 10))
    found, (problem,) = load_errors(collect(tmp_path))
    assert (len([seed for each in found for seed in each.predictions]), problem.left_out) == (left, False)
    assert said in problem.reason


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("a pickle was run",))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


GOOD = answer_with([1, 2], [1, 3], [0.9, 0.8])
DAMAGED: dict[str, bytes | tuple[str, str, str]] = {
    "a pickle": pickle.dumps(Bomb()),
    "objects": npz(**(GOOD | {"label": np.array([Bomb()], dtype=object)})),
    "cut off": npz(**GOOD)[:-100],
    "lacks a part": npz(label=GOOD["label"]),
    "one dimension too many": npz(**(GOOD | {"label": [[1, 2]]})),
    "eleven classes": npz(**(GOOD | {"probabilities": np.zeros((2, 11))})),
    "labels are fractions": npz(**(GOOD | {"label": [1.5, 2]})),
    "NaN": npz(**(GOOD | {"probabilities": np.full((2, 10), np.nan)})),
    "other errors": npz(**answer_with([1, 2], [1, 4], [0.9, 0.8])),
    "no such image": ("mistakes.csv", "1,2,3,", "2,2,3,"),
    "no such class": ("mistakes.csv", "1,2,3,", "1,2,10,"),
    "no number": ("mistakes.csv", "1,2,3,", "1,x,3,"),
    "an error is missing": ("mistakes.csv", "1,2,3,0.8000\n", ""),
    "no such column": ("mistakes.csv", "predicted", "answer"),
    "another accuracy than the metrics'": ("classes.csv", "2,1,1\n", "2,2,1\n"),
    "nine classes": ("classes.csv", "9,0,0\n", ""),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_predictions_and_tables_of_errors_are_named_and_the_rest_reported(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, seed=1, archive=GOOD)
    folder, damage = write_run(tmp_path, name="bad", archive=GOOD), DAMAGED[kind]
    if isinstance(damage, bytes):
        (folder / "predictions.npz").write_bytes(damage)
    else:
        file, old, new = damage
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))
    (found,), (problem,) = load_errors(collect(tmp_path))
    assert [*found.predictions] == [1] and (problem.folder, problem.left_out) == ("bad", False)
    named = ("predictions.npz",) if isinstance(damage, bytes) else ("mistakes.csv", "classes.csv")
    assert any(name in problem.reason for name in named) and "\n" not in problem.reason


def test_predictions_that_are_not_those_of_the_run_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, name="bad", files={"predictions.npz": "0" * 64})
    found, (problem,) = load_errors(collect(tmp_path))
    assert not found and "predictions.npz is not the file that the run wrote" in problem.reason


def record(**data: Any) -> Record:
    protocol = {"train_split": "train", "eval_split": "test", "training_mode": "every_epoch"}
    identity = {"data": {"name": "mnist", **data}, "protocol": protocol}
    return Record(name="", title="", choices={}, identity=identity, config={}, data=checksums_of_digits())


MISSING = "the images that the runs were evaluated on are not in "


@pytest.mark.parametrize("folder", ["MNIST", "FashionMNIST"])
def test_pictures_are_those_that_the_run_recorded_whatever_the_dataset(folder: str, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=MISSING):
        load_images(tmp_path / "nowhere", record(), DIGITS)
    write_digits(tmp_path)
    (tmp_path / "MNIST").rename(tmp_path / folder)
    images = load_images(tmp_path, record(), DIGITS)
    assert images.shape == (DIGITS, 28, 28) and images[1, 0, 0] == 784 % 251
    path = tmp_path / folder / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=MISSING):
        load_images(tmp_path, record(), DIGITS)


def test_pictures_of_a_folder_are_what_training_decoded(tmp_path: Path) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    for number in range(3):
        for split in (train, test):
            split.mkdir(exist_ok=True)
            Image.new("L", (28, 28), 80 * number + (split == train)).save(split / f"{number}_7.png")
    folder = folders.scan_both(train, test)["test"]
    with pytest.raises(RunFolderError, match="decoded images are not in the data folder"):
        load_images(tmp_path, record(test_sha256=folder.sha256), 3)
    decoding.load(folder, tmp_path / decoding.CACHE)
    assert load_images(tmp_path, record(test_sha256=folder.sha256), 3)[:, 0, 0].tolist() == [0, 80, 160]
    (path,) = (tmp_path / decoding.CACHE).glob("*.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunFolderError, match="or are damaged"):
        load_images(tmp_path, record(test_sha256=folder.sha256), 3)
