import itertools
import json
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from mnist_exp.machine import fingerprint
from mnist_exp.report.collect import Collection, collect
from mnist_exp.settings.identity import identity_hash
from mnist_exp.text import printable, slug
from tests.report.conftest import write_run


def test_runs_that_differ_in_their_seed_alone_are_one_group(tmp_path: Path) -> None:
    for seed in (2, 0, 10):
        write_run(tmp_path, seed=seed)
    (group,) = collect(tmp_path).groups
    assert group.label == "LeNet5"
    assert [run.record.seed for run in group.runs] == [0, 2, 10]
    assert group.section == "mnist, standard protocol"


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("optimizer.lr", [0.1, 0.001, 0.01], ["lr=0.001", "lr=0.01", "lr=0.1"]),
        ("optimizer.target", ["torch.optim.SGD", "torch.optim.Adam"], ["optimizer=Adam", "optimizer=SGD"]),
        ("batch_size", [128, 64], ["batch_size=64", "batch_size=128"]),
        ("model.dropout", [0.5, 0.1], ["dropout=0.1", "dropout=0.5"]),
        ("device.type", ["cuda", "cpu"], ["device=cpu", "device=cuda"]),
        ("version", [1, 2], ["version=1", "version=2"]),
    ],
)
def test_a_sweep_gives_a_row_each_labelled_by_what_differs(
    tmp_path: Path, key: str, values: list[Any], words: list[str]
) -> None:
    for value, seed in itertools.product(values, (0, 1)):
        write_run(tmp_path, seed=seed, settings={key: value})
    groups = collect(tmp_path).groups
    assert [group.label for group in groups] == [f"LeNet5, {word}" for word in words]
    assert all(len(group.runs) == 2 for group in groups)
    assert len({group.slug for group in groups}) == len(words)


def named(module: str) -> dict[str, Any]:
    return {"title": "<모델>", "settings": {"model.target": f"{module}.Net"}}


@pytest.mark.parametrize(
    ("mlp", "lenet5", "labels", "slugs"),
    [
        ({"settings": {"model.hidden": 60}}, {}, ["LeNet5", "Custom MLP"], ["lenet5", "custom-mlp"]),
        (*[{"title": "Net"}] * 2, ["Net, model=LeNet5", "Net, model=MLP"], ["net-model-lenet5", "net-model-mlp"]),
        (
            named("b"),
            named("a"),
            ["<모델>, model=Net", "<모델>, model=Net (2)"],
            ["모델-model-net", "모델-model-net-2"],
        ),
    ],
)
def test_models_are_told_apart_by_their_titles_or_else_by_their_names(
    mlp: dict[str, Any], lenet5: dict[str, Any], labels: list[str], slugs: list[str], tmp_path: Path
) -> None:
    write_run(tmp_path, "mlp", **mlp)
    write_run(tmp_path, "lenet5", **lenet5)
    groups = collect(tmp_path).groups
    assert ([group.label for group in groups], [group.slug for group in groups]) == (labels, slugs)


def test_two_settings_of_one_short_name_are_written_in_full(tmp_path: Path) -> None:
    for ours in (1, 3):
        write_run(tmp_path, settings={"optimizer.gamma": ours, "scheduler.gamma": ours + 1})
    labels = [group.label for group in collect(tmp_path).groups]
    assert labels == [f"LeNet5, optimizer.gamma={ours}, scheduler.gamma={ours + 1}" for ours in (1, 3)]


def test_other_protocols_and_other_data_are_other_sections(tmp_path: Path) -> None:
    for protocol in ("swapped", "published", "standard"):
        write_run(tmp_path, protocol=protocol)
    folders: list[Any] = [{"name": "png_folder", "train_sha256": digit * 64, "test_sha256": "c" * 64} for digit in "ab"]
    for key, value in (("data.mean", 0.5), ("data.name", "fashion"), ("data", folders[0]), ("data", folders[1])):
        write_run(tmp_path, settings={key: value})
    collection = collect(tmp_path)
    assert sorted(collection.sections) == [
        "fashion, standard protocol",
        "mnist, published protocol",
        "mnist, standard protocol, mean=0.1307",
        "mnist, standard protocol, mean=0.5",
        "mnist, swapped splits only protocol",
        "png_folder, standard protocol, train_sha256=aaaaaaaa",
        "png_folder, standard protocol, train_sha256=bbbbbbbb",
    ]
    assert [group.label for group in collection.groups] == ["LeNet5"] * 7


def test_a_validation_split_is_told_whatever_else_there_is(tmp_path: Path) -> None:
    write_run(tmp_path, validation=0.9)
    assert collect(tmp_path).sections == ("mnist, standard protocol, validation_size=5000",)
    write_run(tmp_path, validation=0.9, settings={"data.mean": 0.5})
    write_run(tmp_path, settings={"data.mean": 0.5})
    assert set(collect(tmp_path).sections) == {
        "mnist, standard protocol, mean=0.1307, validation_size=5000",
        "mnist, standard protocol, mean=0.5, validation_size=5000",
        "mnist, standard protocol, mean=0.5",
    }


def test_the_best_of_a_section_are_those_of_the_highest_validation_accuracy(tmp_path: Path) -> None:
    for rate, validation in enumerate((0.95, 0.97, 0.96), 1):
        settings = {"optimizer.lr": rate}
        write_run(tmp_path, accuracy=0.9 - rate / 100, validation=validation, settings=settings)
    collection = collect(tmp_path)
    best = collection.in_section(collection.sections[0], most=2)
    assert [group.label for group in best] == ["LeNet5, lr=2", "LeNet5, lr=3"]


Damage = Callable[[Path], None]


def overwrite(name: str, change: Callable[[bytes], bytes]) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None  # type: ignore[return-value]


def as_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def record(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "run.json").read_text())
        for path, value in changes.items():
            *groups, key = path.split("__")
            branch = reduce(dict.__getitem__, groups, content)
            branch[key] = value
            if value is ...:
                del branch[key]
        (folder / "run.json").write_text(json.dumps(content))

    return damage


def metrics(change: Callable[[str], str]) -> Damage:
    def damage(folder: Path) -> None:
        record(files=None)(folder)
        (folder / "metrics.csv").write_text(change((folder / "metrics.csv").read_text()))

    return damage


DAMAGED: dict[str, tuple[Damage, str]] = {
    "half-written row": (metrics(lambda text: text[:-12]), "metrics.csv is damaged"),
    "half-written number": (metrics(lambda text: text[:-2]), "metrics.csv is damaged: it is cut off"),  # 0.0, not 0.01
    "fewer epochs": (metrics(lambda text: text[: text.index("\n3,") + 1]), "metrics.csv has 2 of 3 epochs"),
    "epochs in disorder": (metrics(lambda text: text.replace("\n1,", "\n7,")), "does not have one row for each epoch"),
    "no number": (metrics(lambda text: text.replace("0.3,", "nan,")), "has a value that is not a finite number"),
    "words": (metrics(lambda text: text.replace("0.3,", "much,")), "could not convert string to float: 'much'"),
    "missing column": (metrics(lambda text: text.replace("test_loss", "x")), "metrics.csv has no column test_loss"),
    "no validation": (record(identity__data__validation_size=50), "metrics.csv has no column validation_loss, valid"),
    "other metrics": (
        overwrite("metrics.csv", lambda _: b"epoch\n1\n"),
        "metrics.csv is not the file that the run wrote, by its SHA-256 in run.json; delete it and repeat the run's",
    ),
    "metrics is a folder": (as_folder("metrics.csv"), "metrics.csv cannot be read: Is a directory"),
    "no record": (as_folder("run.json"), "there is no file run.json in the folder"),
    "half a record": (overwrite("run.json", lambda content: content[:-30]), "run.json is damaged"),
    "deep record": (overwrite("run.json", lambda _: b"[" * 100_000), "run.json is damaged"),
    "NaN in record": (record(parameters=float("nan")), "NaN is not JSON"),
    "list": (overwrite("run.json", lambda _: b"[]"), "format None"),
    "failed": (record(status="failed", reason="out of memory"), "not finished (failed: out of memory)"),
    "no seed": (record(identity__seed=...), "run.json lacks what every run has: 'seed'"),
    "epochs are a fraction": (record(identity__epochs=3.0), "a seed or a number of epochs that is no whole number"),
    "title is a number": (record(title=5), "run.json has a title of another type than runs write: 5"),
    "provenance is a list": (record(provenance=[1]), "run.json has a provenance of another type"),
    "a class twice": (record(classes=[*"abcdefghia"]), "run.json has classes that are not different names"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_run_is_named_and_the_rest_reported(tmp_path: Path, kind: str) -> None:
    damage, words = DAMAGED[kind]
    write_run(tmp_path, seed=0)
    damage(write_run(tmp_path, seed=1, name="bad", accuracy=0.97))
    collection = collect(tmp_path)
    assert [len(group.runs) for group in collection.groups] == [1]
    (problem,) = collection.problems
    assert (problem.folder, problem.left_out) == ("bad", True)
    assert words in problem.reason
    assert problem.reason == printable(problem.reason)


@pytest.mark.parametrize(
    "damage",
    [as_folder("timing.csv"), overwrite("timing.csv", lambda x: x[:-3]), overwrite("timing.csv", lambda _: b"\xff")],
)
def test_a_run_without_its_timing_is_reported_all_the_same(tmp_path: Path, damage: Damage) -> None:
    damage(write_run(tmp_path))
    collection = collect(tmp_path)
    assert collection.groups[0].runs[0].timing is None
    (problem,) = collection.problems
    assert not problem.left_out and "timing.csv" in problem.reason


def test_classes_have_the_names_that_the_record_gives_them(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_run(tmp_path, "lenet5r", classes=None)
    write_run(tmp_path, "mlp", classes=["T-shirt/top", " Ankle\n boot\x1b", *"abcdefgh"])
    collection = collect(tmp_path)
    assert not collection.problems
    assert [group.classes for group in collection.groups] == [
        *[("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")] * 2,
        ("T-shirt/top", "Ankle boot\N{REPLACEMENT CHARACTER}", *"abcdefgh"),
    ]


@pytest.mark.parametrize("edited", ["identity", "folder"])
def test_an_identity_that_was_edited_is_named_and_left_out(edited: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path, name="draft")
    identity = json.loads((folder / "run.json").read_text())["identity"]
    folder = folder.rename(tmp_path / f"lenet5-standard-sgd-seed0-{identity_hash(identity)}")
    record(name=folder.name)(folder)
    assert len(collect(tmp_path).groups) == 1
    if edited == "identity":
        record(identity__seed=1)(folder)
    else:
        folder.rename(tmp_path / "lenet5-standard-sgd-seed1-01234567")
    collection = collect(tmp_path)
    assert not collection.groups
    assert "are not those that the run's name stands for" in collection.problems[0].reason


@pytest.mark.parametrize(
    ("change", "label", "words"),
    [
        ({"code": {"model": "f", "training": "b"}}, "code=f", "the code of the model"),
        ({"code": {"model": "a", "training": "f"}}, "code=f", "the code of the training loop"),
        ({"provenance": {"packages": {"torch": "1.0"}, "portable": True}}, "torch=1.0", "the version of torch"),
        (
            {"provenance": {"packages": {"torch": "2.0"}, "portable": False}},
            "portable=False",
            "whether their bytes are",
        ),
        ({"parameters": 5}, "parameters=5", "the number of parameters"),
    ],
)
def test_runs_of_other_code_versions_or_size_are_never_averaged(
    change: dict[str, Any], label: str, words: str, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {
        "code": {"model": "a", "training": "b"},
        "provenance": {"packages": {"torch": "2.0"}, "portable": True},
    }
    for seed in range(3):
        write_run(tmp_path, seed=seed, **usual)
    assert not collect(tmp_path).warnings
    write_run(tmp_path, seed=3, **usual | change)
    collection = collect(tmp_path)
    assert sorted(len(group.runs) for group in collection.groups) == [1, 3]
    assert f"LeNet5, {label}" in [group.label for group in collection.groups]
    (warning,) = collection.warnings
    assert warning.startswith(f"LeNet5: its 4 runs of one setting differ in {words}")
    assert ", so they are in separate rows" in warning


def test_runs_of_code_that_was_declared_equivalent_are_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_declared", lambda: {("model", "a" * 16): "b" * 16})
    for seed, digit in enumerate("aab"):
        write_run(tmp_path, seed=seed, code={"model": digit * 16})
    collection = collect(tmp_path)
    assert [len(group.runs) for group in collection.groups] == [3] and not collection.warnings


def test_two_folders_of_one_identity_are_never_both_counted(tmp_path: Path) -> None:
    for name, accuracy in (("a", 0.9), ("b", 0.9), ("c", 0.5)):
        write_run(tmp_path, name=name, accuracy=accuracy)
    collection = collect(tmp_path)
    assert [run.folder.name for run in collection.groups[0].runs] == ["a"]
    assert [(p.folder, p.reason) for p in collection.problems] == [
        ("b", "it has the settings and seed of a, and the same numbers"),
        ("c", "it has the settings and seed of a, and other numbers"),
    ]


def test_stray_folders_and_files_are_named_and_hidden_ones_passed_over(tmp_path: Path) -> None:
    for name in ("stray", "odd\nname"):
        (tmp_path / name).mkdir()
    for name in ("note.txt", ".x.lock"):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to("loop")
    collection = collect(tmp_path)
    assert [p.folder for p in collection.problems] == ["loop", "note.txt", "odd name", "stray"]
    assert collection.groups == Collection().groups
    with pytest.raises(OSError, match="No such file"):
        collect(tmp_path / "nowhere")


def test_words_become_safe_names() -> None:
    assert slug("LeNet5_regularized, lr=0.01") == "lenet5-regularized-lr-0.01"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("<모델>!") == "모델" and slug("<>") == "unnamed"
    assert len(slug("x" * 500)) == 80 and slug("모" * 500) == "모" * 66  # of three bytes each, of which 200 may be
    assert printable("a\n b\x1b[31m") == "a b\N{REPLACEMENT CHARACTER}[31m"
