import gzip
import io
import itertools
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mnist_exp.data import folders
from mnist_exp.report import figure_files, figures, tables
from mnist_exp.report.collect import collect
from mnist_exp.report.misclassified import Misclassified, gallery, load_images, load_misclassified
from mnist_exp.report.table import Table, latex, markdown
from mnist_exp.runs.results import mistakes
from tests.report.conftest import DIGITS, answer_with, answers, labels, read, write_digits, write_other, write_run


@pytest.fixture
def by_hand(tmp_path: Path) -> Path:
    """Two models of two seeds, four digits: 3, 3, 5, 5."""
    label = [3, 3, 5, 5]
    write_run(tmp_path, "lenet5", 0, archive=answer_with(label, [3, 8, 5, 6], [0.9, 0.8, 0.9, 0.7]))
    write_run(tmp_path, "lenet5", 1, archive=answer_with(label, [3, 8, 5, 5], [0.9, 0.6, 0.9, 0.5]))
    write_run(tmp_path, "mlp", 0, archive=answer_with(label, [3, 8, 6, 5], [0.9, 0.9, 0.5, 0.9]))
    write_run(tmp_path, "mlp", 1, archive=answer_with(label, [3, 5, 6, 5], [0.9, 0.8, 0.7, 0.9]))
    return tmp_path


def test_confusion_matrix_by_hand(by_hand: Path) -> None:
    (lenet5, mlp), problems = load_misclassified(collect(by_hand))
    assert not problems
    expected = np.zeros((10, 10))
    expected[3, 3], expected[3, 8], expected[5, 5], expected[5, 6] = 1, 1, 1.5, 0.5
    assert np.array_equal(lenet5.confusion, expected)
    assert lenet5.missed.tolist() == [0, 2, 0, 1]
    assert mlp.mostly_missed.tolist() == [False, True, True, False]


def test_calibration_error_by_hand(by_hand: Path) -> None:
    (lenet5, _), _ = load_misclassified(collect(by_hand))
    # Seed 0: bins (12/15, 13/15], … hold 0.9 twice, both right; 0.8 and 0.7 alone, both wrong.
    assert lenet5.calibration_errors[0] == pytest.approx((2 * 0.1 + 0.8 + 0.7) / 4, abs=1e-6)
    assert lenet5.calibration_errors[1] == pytest.approx((2 * 0.1 + 0.6 + 0.5) / 4, abs=1e-6)


def test_a_bin_weighs_right_and_wrong_together(tmp_path: Path) -> None:
    write_run(tmp_path, archive=answer_with([1, 1, 1, 1], [1, 1, 2, 2], [0.75] * 4))
    (m,), _ = load_misclassified(collect(tmp_path))
    assert m.calibration_errors == pytest.approx([0.25])


def confused_pairs(found: Sequence[Misclassified]) -> Table:
    table = tables.confused(found)
    assert table is not None
    return table


def test_error_tables_by_hand(by_hand: Path) -> None:
    found_wrong, _ = load_misclassified(collect(by_hand))
    confused = confused_pairs(found_wrong).data
    lenet5 = confused[confused["model"] == "LeNet5"][["label", "predicted", "digits", "share"]]
    assert lenet5.to_numpy().tolist() == [["3", "8", 1, 0.5], ["5", "6", 0.5, 0.25]]
    (classes,) = tables.classes(found_wrong)
    assert classes.data["class_3"].tolist() == [0.5, 0.5]
    assert classes.data["class_5"].tolist() == [0.75, 0.5]
    assert classes.cells["0"].tolist() == ["–", "–"]
    calibration = tables.calibration(found_wrong)
    assert calibration is not None
    assert calibration.data["n"].tolist() == [2, 2]


def test_error_tables_tell_classes_by_their_names(tmp_path: Path) -> None:
    archive = answer_with([3, 3, 5, 5], [3, 4, 5, 3], [0.9] * 4)
    write_run(tmp_path, archive=archive)
    write_other(tmp_path, archive=archive)
    found_wrong, _ = load_misclassified(collect(tmp_path))
    long = ("Ankle boot " * 9).strip()
    other, digits = tables.classes(found_wrong)
    assert (other.name, other.title) == ("classes", "Accuracy of each class (fashion_mnist)")
    assert (digits.name, digits.title) == ("classes-2", "Accuracy of each class (mnist)")
    assert other.cells[["Data and protocol", "Ankle boot", long, "3"]].to_numpy().tolist() == [
        ["fashion_mnist, standard protocol", "0.5000", "0.5000", "–"]
    ]
    assert other.data[["class_Ankle boot", f"class_{long}"]].to_numpy().tolist() == [[0.5, 0.5]]
    assert digits.cells[["Data and protocol", "3", "5"]].to_numpy().tolist() == [
        ["mnist, standard protocol", "0.5000", "0.5000"]
    ]
    assert digits.data[["class_3", "class_5"]].to_numpy().tolist() == [[0.5, 0.5]]
    confused = confused_pairs(found_wrong)
    assert confused.cells[["Label", "Predicted"]].to_numpy().tolist() == [
        *[["Ankle boot", r"a\|b_c"], [long, "Ankle boot"]],
        *[["3", "4"], ["5", "3"]],
    ]
    # Of GitHub's tables, a cell ends at a bar unless an odd number of backslashes stands before it.
    assert r"| Ankle boot | a\\\|b_c | 1.0 |" in markdown(confused.cells)
    assert "&lt;script>alert('title')&lt;/script> & [b]$x_1$ |" in markdown(other.cells)
    assert r"& Ankle boot & a\textbackslash |b\_c &" in latex(other)
    assert r"</script> \& [b]\$x\_1\$ & T-shirt/top &" in latex(other)


def test_confusion_matrix_tells_classes_by_names_that_fit(tmp_path: Path) -> None:
    write_other(tmp_path, archive=answer_with([3, 3, 5, 5], [3, 4, 4, 4], [0.9] * 4))
    (m,), _ = load_misclassified(collect(tmp_path))
    drawing = figures.confusion("a section", m)
    assert r"Most frequent: Ankle boot Ankle" in drawing.description
    assert r"read as a\|b_c, 2.0 images per run." in drawing.description
    table = drawing.data.set_index("label")
    expected = {"predicted_Ankle boot": 1, r"predicted_a\|b_c": 1}  # and nothing else
    assert {key: n for key, n in table.loc["Ankle boot"].to_dict().items() if n} == expected
    with mpl.rc_context(figure_files.STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = drawing.draw()
        figure.draw_without_rendering()
        axes = figure.axes[0]
        for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert [tick.get_text() for tick in ticks][:4] == ["<script>alert…", "T-shirt/top", "Trouser", "Ankle boot"]
            boxes = [tick.get_window_extent() for tick in ticks]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
            for box in boxes:
                assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
                assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert axes.get_window_extent().width > figure.bbox.width / 2


def test_gallery_marks_what_all_models_miss(by_hand: Path) -> None:
    found_wrong, _ = load_misclassified(collect(by_hand))
    found = gallery(found_wrong, 10)
    assert [(miss.index, miss.label, miss.by_all) for miss in found] == [(1, 3, True), (2, 5, False)]
    assert [answer for _, answer, _ in found[0].predictions] == [8, 8]
    assert [p for *_, p in found[0].predictions] == pytest.approx([0.7, 0.9])
    assert next((answer, p) for _, answer, p in found[1].predictions) == (5, None)  # one of two runs is right
    assert len(gallery(found_wrong, 1)) == 1


def test_runs_without_predictions_have_no_errors_and_no_problem(tmp_path: Path) -> None:
    (write_run(tmp_path) / "predictions.npz").unlink()
    assert load_misclassified(collect(tmp_path)) == ([], [])


def keep_mistakes_alone(runs: Path) -> None:
    """As in the tracked reference: what the runs get wrong, but not their predictions."""
    for file in runs.glob("*/predictions.npz"):
        for name, content in mistakes(file.read_bytes()).items():
            (file.parent / name).write_bytes(content)
        file.unlink()


def test_mistakes_are_enough_for_every_table_matrix_and_gallery(tmp_path: Path) -> None:
    label = np.arange(100) % 10
    for model, seed, wrong in itertools.product(("lenet5", "mlp"), range(3), (7,)):
        count = wrong + 2 * seed + 5 * (model == "mlp")
        write_run(tmp_path, model, seed, accuracy=1 - count / 100, archive=answers(label, count))
    before, _ = load_misclassified(collect(tmp_path))
    estimates = read(tmp_path)
    tables_before = [tables.comparison(*estimates), tables.differences(*estimates)]
    keep_mistakes_alone(tmp_path)
    after, problems = load_misclassified(collect(tmp_path))
    assert not problems
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old.confusion, new.confusion) and np.array_equal(old.errors, new.errors)
        assert new.losses is None and not len(new.bins)
    told = [
        [(m.index, m.label, m.by_all, [a[1:] for a in m.predictions]) for m in gallery(x, 9)] for x in (before, after)
    ]
    assert told[0] == told[1] and len(told[0]) == 9
    for f in (confused_pairs, lambda m: tables.classes(m)[0]):
        pd.testing.assert_frame_equal(f(before).data, f(after).data)
    assert tables.calibration(after) is None
    estimates = read(tmp_path)
    tables_after = [tables.comparison(*estimates), tables.differences(*estimates)]
    for one, other in zip(tables_before, tables_after, strict=True):
        assert one is not None and other is not None and one.cells.equals(other.cells)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("mistakes.csv", "0,0,1,", "-1,0,1,"),
        ("mistakes.csv", "0,0,1,", "100,0,1,"),
        ("mistakes.csv", "0,0,1,", "0,1,1,"),
        ("mistakes.csv", "0,0,1,", "0,0,10,"),
        ("mistakes.csv", "0,0,1,", "0,x,1,"),
        ("mistakes.csv", "0,0,1,0.9000\n", ""),
        ("mistakes.csv", "predicted", "answer"),
        ("mistakes.csv", "index", "\0"),
        ("classes.csv", "0,10,1", "0,11,1"),
        ("classes.csv", "9,10,1\n", ""),
        ("classes.csv", "0,10,1", "0,10,2"),
    ],
)
def test_damaged_mistakes_are_named(file: str, old: str, new: str, tmp_path: Path) -> None:
    label = np.arange(100) % 10
    folder = write_run(tmp_path, name="bad", accuracy=0.9, archive=answers(label, 10))
    keep_mistakes_alone(tmp_path)
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    found, (problem,) = load_misclassified(collect(tmp_path))
    assert not found and (problem.folder, problem.left_out) == ("bad", False)
    assert "mistakes.csv" in problem.reason or "classes.csv" in problem.reason


def test_mistakes_of_other_images_than_the_predictions_are_named(tmp_path: Path) -> None:
    label = np.arange(100) % 10
    write_run(tmp_path, name="bad", seed=1, accuracy=0.9, archive=answers(label, 10))
    keep_mistakes_alone(tmp_path)
    write_run(tmp_path, accuracy=0.9, archive=answers(label[::-1], 10))
    (found,), (problem,) = load_misclassified(collect(tmp_path))
    assert len(found.predictions) == 1 and "other images than the other seeds'" in problem.reason


def test_runs_that_get_nothing_wrong_are_read_from_either_file(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path, seed=seed, accuracy=1, archive=answers(np.arange(100) % 10, 0))
    for _ in range(2):
        (found,), problems = load_misclassified(collect(tmp_path))
        assert not problems and not found.errors.any() and not gallery([found], 9)
        assert found.confusion.tolist() == (10 * np.eye(10)).tolist()
        keep_mistakes_alone(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("a pickle was run",))


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("label", "predicted", "probabilities"):
            archive.writestr(f"{name}.npy", pickle.dumps(Bomb()))
    return buffer.getvalue()


def giant() -> bytes:
    """An array that says it has 10¹³ rows."""
    buffer, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "|u1", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("label", "predicted", "probabilities"):
            archive.writestr(f"{name}.npy", array.getvalue())
    return buffer.getvalue()


GOOD = answer_with([1, 2], [1, 3], [0.9, 0.8])
DAMAGED = {
    "empty": b"",
    "no archive": b"PK" + b"\0" * 50,
    "a pickle": pickle.dumps(Bomb()),
    "pickles in an archive": bomb(),
    "objects": npz(**(GOOD | {"label": np.array([Bomb()], dtype=object)})),
    "giant": giant(),
    "cut off": npz(**GOOD)[:-100],
    "lacks a part": npz(label=GOOD["label"]),
    "one dimension too many": npz(**(GOOD | {"label": [[1, 2]]})),
    "no digits": npz(label=np.zeros(0, int), predicted=np.zeros(0, int), probabilities=np.zeros((0, 10))),
    "too few answers": npz(**(GOOD | {"predicted": [1]})),
    "eleven classes": npz(**(GOOD | {"probabilities": np.zeros((2, 11))})),
    "class 10": npz(**(GOOD | {"predicted": [1, 10]})),
    "negative label": npz(**(GOOD | {"label": [1, -1]})),
    "labels are fractions": npz(**(GOOD | {"label": [1.5, 2]})),
    "NaN": npz(**(GOOD | {"probabilities": np.full((2, 10), np.nan)})),
    "no probabilities": npz(**(GOOD | {"probabilities": np.full((2, 10), 3.0)})),
    "text": npz(**(GOOD | {"probabilities": np.full((2, 10), "x")})),
    "other digits": npz(**answer_with([5, 6], [5, 6], [0.9, 0.9])),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_predictions_are_named_and_the_rest_reported(tmp_path: Path, kind: str) -> None:
    write_run(tmp_path, seed=0, archive=GOOD)
    (write_run(tmp_path, seed=1, name="bad") / "predictions.npz").write_bytes(DAMAGED[kind])
    (found,), (problem,) = load_misclassified(collect(tmp_path))
    assert len(found.predictions) == 1
    assert (problem.folder, problem.left_out) == ("bad", False)
    assert "predictions.npz" in problem.reason and "\n" not in problem.reason


def test_predictions_that_are_not_those_of_the_run_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, name="bad", change=lambda record: record["files"].update({"predictions.npz": "0" * 64}))
    found, (problem,) = load_misclassified(collect(tmp_path))
    assert not found and "SHA-256 is not the recorded one" in problem.reason


def test_groups_evaluated_on_other_images_are_named(tmp_path: Path) -> None:
    write_run(tmp_path, accuracy=0.9, archive=answers(np.arange(100) % 10, 10))
    write_run(tmp_path, "mlp", accuracy=0.9, archive=answers(np.arange(1, 101) % 10, 10), name="mlp")
    found, (problem,) = load_misclassified(collect(tmp_path))
    assert len(found) == 2 and (problem.folder, problem.left_out) == ("mlp", False)
    assert problem.reason == "was evaluated on images with other labels than the runs of LeNet5"


def test_pictures_are_those_of_the_split(tmp_path: Path) -> None:
    write_digits(tmp_path)
    images = load_images(tmp_path, {"name": "mnist"}, "test", labels().astype(np.int64))
    assert images.shape == (DIGITS, 28, 28)
    assert images[1, 0, 0] == 784 % 251
    raw = tmp_path / "MNIST" / "raw"
    for path in list(raw.iterdir()):
        (raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(load_images(tmp_path, {"name": "mnist"}, "test", labels().astype(np.int64)), images)


@pytest.mark.parametrize(
    "kind", ["missing", "cut off", "other labels", "folder", "bad gzip", "labels instead", "too few"]
)
def test_without_the_digits_there_are_no_pictures(tmp_path: Path, kind: str) -> None:
    label = labels().astype(np.int64)
    raw = tmp_path / "MNIST" / "raw"
    if kind != "missing":
        write_digits(tmp_path)
    file = raw / "t10k-images-idx3-ubyte"
    if kind == "cut off":
        file.write_bytes(file.read_bytes()[:-1])
    if kind == "labels instead":
        file.write_bytes((raw / "t10k-labels-idx1-ubyte").read_bytes())
    if kind == "too few":
        file.write_bytes(struct.pack(">4i", 0x803, 2, 28, 28) + bytes(2 * 28 * 28))
    if kind in ("folder", "bad gzip"):
        file.unlink()
    if kind == "folder":
        file.mkdir()
    if kind == "bad gzip":
        (raw / f"{file.name}.gz").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"the images (of the test split|cannot be read)"):
        load_images(tmp_path, {"name": "mnist"}, "test", label[::-1] if kind == "other labels" else label)


def test_pictures_of_other_data_lie_elsewhere(tmp_path: Path) -> None:
    write_digits(tmp_path)
    (tmp_path / "MNIST").rename(tmp_path / "FashionMNIST")
    label = labels().astype(np.int64)
    assert load_images(tmp_path, {"name": "fashion_mnist"}, "test", label)[1, 0, 0] == 784 % 251
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte is missing"):
        load_images(tmp_path, {"name": "mnist"}, "test", label)
    with pytest.raises(ValueError, match="there are no images of emnist to read"):
        load_images(tmp_path, {"name": "emnist"}, "test", label)


def test_pictures_of_a_folder_are_what_training_decoded(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("L", (28, 28), 80 * number).save(tmp_path / f"{number}_7.png")
    folder = folders.scan(tmp_path)
    label = np.array([7, 7, 7])
    for checksum in (folder.sha256, "0" * 64, "../data", None):
        with pytest.raises(ValueError, match="decoded images are not in the data folder"):
            load_images(tmp_path, {"name": "png_folder", "test_sha256": checksum}, "test", label)
    folders.load(folder, tmp_path / folders.CACHE)
    images = load_images(tmp_path, {"name": "png_folder", "test_sha256": folder.sha256}, "test", label)
    assert images[:, 0, 0].tolist() == [0, 80, 160]
    (path,) = (tmp_path / folders.CACHE).glob("*.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="decoded images are not in the data folder, or damaged"):
        load_images(tmp_path, {"name": "png_folder", "test_sha256": folder.sha256}, "test", label)
