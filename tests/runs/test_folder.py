"""A run's folder: what is kept, what is refused, and what the next start makes of what it finds."""

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import SoftFileLease
from pytest import MonkeyPatch
from safetensors.torch import load_file

from mnist_exp import files, job, models
from mnist_exp.data.images import ImageSplit, stratified_split
from mnist_exp.errors import ConfigError, DivergedError, Interrupted, RunFolderError
from mnist_exp.runs import folder as run_folder
from mnist_exp.runs import lock
from mnist_exp.runs.record import RESULT_FILES, checksum
from mnist_exp.training import evaluate, fit
from tests.conftest import Capture, Execute, kill_after, results, started

MLP = ("model=mlp", "epochs=3")
VALIDATED = (*MLP, "data.validation_size=100")


def only_run(root: Path) -> Path:
    (folder,) = [path for path in (root / "runs").iterdir() if not path.name.startswith(".")]
    return folder


def record(root: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((only_run(root) / "run.json").read_text())
    return content


@pytest.fixture
def words(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The settings of the run that `stopped` stops and that `expected` lets be."""
    given: tuple[str, ...] = getattr(request, "param", MLP)
    return given


@pytest.fixture
def finished(execute: Execute, tmp_path: Path) -> Path:
    execute(*MLP)
    return tmp_path


@pytest.fixture
def stopped(execute: Execute, words: tuple[str, ...], tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """A run that was killed after two of its three epochs."""
    kill_after(2, execute, words, monkeypatch)
    return tmp_path


@pytest.fixture
def expected(execute: Execute, words: tuple[str, ...], tmp_path: Path) -> dict[str, bytes]:
    execute(*words, root=tmp_path / "undisturbed")
    return results(tmp_path / "undisturbed")


def test_a_finished_run_is_skipped(finished: Path, execute: Execute) -> None:
    before = {path: path.stat().st_mtime_ns for path in only_run(finished).rglob("*")}
    assert execute(*MLP).skipped
    assert {path: path.stat().st_mtime_ns for path in only_run(finished).rglob("*")} == before


@pytest.mark.parametrize("name", ["metrics.csv", "model.safetensors", "predictions.npz"])
def test_a_lost_or_damaged_result_is_made_again(name: str, finished: Path, execute: Execute) -> None:
    before, path = results(finished), only_run(finished) / name
    for content in (b"", b"garbage", None):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        assert not execute(*MLP).skipped
        assert results(finished) == before


def test_record_says_what_the_run_was_and_no_path(finished: Path) -> None:
    content: dict[str, Any] = record(finished)
    assert (content["status"], content["resumed"], content["parameters"]) == ("finished", 0, 62_930)
    assert content["multiply_accumulates"] == 1024 * 60 + 60 * 20 + 20 * 10
    assert content["provenance"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert content["provenance"]["threads"] == 1
    assert content["files"] == {name: checksum(only_run(finished) / name) for name in RESULT_FILES}
    assert str(Path.home()) not in json.dumps(content) and str(finished) not in json.dumps(content)


@pytest.mark.parametrize("words", [MLP, VALIDATED], indirect=True)
@pytest.mark.parametrize("epochs", [2, 1])
def test_a_stopped_run_goes_on_from_its_last_epoch_to_the_same_bytes(
    epochs: int, words: tuple[str, ...], expected: dict[str, bytes], stopped: Path, execute: Execute, capsys: Capture
) -> None:
    folder = only_run(stopped)
    if epochs == 1:
        (folder / "checkpoint.pt").unlink()  # as if killed between the two renames
    capsys.readouterr()
    assert not execute(*words).skipped
    assert f"resumes after epoch {epochs}" in capsys.readouterr().out
    assert results(stopped) == expected
    assert not (folder / "checkpoint.previous.pt").exists()


class Malicious:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("damage", ["half", "one bit", "pickle", "malicious zip", "other content", "folder", "both"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_used_or_none(
    damage: str, expected: dict[str, bytes], stopped: Path, execute: Execute, tmp_path: Path, capsys: Capture
) -> None:
    checkpoint, witness = only_run(stopped) / "checkpoint.pt", tmp_path / "witness"
    content = checkpoint.read_bytes()
    middle = len(content) // 2
    checkpoint.unlink()
    if damage == "folder":
        checkpoint.mkdir()
    elif damage == "malicious zip":
        torch.save({"training": Malicious(witness)}, checkpoint)
    elif damage == "other content":
        torch.save({"metrics": [1, 2]}, checkpoint)
    else:
        damaged = {"half": content[:middle], "pickle": pickle.dumps(Malicious(witness)), "both": b""}
        damaged["one bit"] = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        checkpoint.write_bytes(damaged[damage])
    if damage == "both":
        checkpoint.with_name("checkpoint.previous.pt").write_bytes(b"")
    capsys.readouterr()
    execute(*MLP)
    output, errors = capsys.readouterr()
    assert re.search(r"checkpoint\.pt was set aside as checkpoint\.pt\.damaged", errors)
    assert errors.count("was set aside") == 1 + (damage == "both")
    assert ("resumes after epoch 1" in output) == (damage != "both")
    assert results(stopped) == expected
    assert not witness.exists()


@pytest.mark.parametrize("content", ["", '{"format": 1}', "\x00\x01", pytest.param("[" * 9999, id="deep")])
def test_a_damaged_record_is_set_aside(content: str, finished: Path, execute: Execute, capsys: Capture) -> None:
    before = results(finished)
    (only_run(finished) / "run.json").write_text(content)
    execute(*MLP)
    assert re.search(r"run\.json was set aside as run\.json\.damaged: run\.json ", capsys.readouterr().err)
    assert results(finished) == before and record(finished)["status"] == "finished"


def test_a_record_of_a_later_version_is_refused(finished: Path, execute: Execute) -> None:
    path = only_run(finished) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(RunFolderError, match="format 2"):
        execute(*MLP)


@pytest.mark.parametrize("source", ["run.json", "checkpoint.pt"])
def test_a_folder_of_other_settings_is_refused_with_the_difference(
    source: str, execute: Execute, tmp_path: Path
) -> None:
    ours = Path(execute("model=mlp", "epochs=1").folder)
    other = execute("model=mlp", "epochs=1", "optimizer.lr=0.02", root=tmp_path / "other").folder
    (ours / "run.json").unlink()
    shutil.copy(Path(other) / source, ours / source)
    with pytest.raises(RunFolderError, match=r"optimizer\.lr: 0\.01 → 0\.02|optimizer\.lr: 0\.02 → 0\.01"):
        execute("model=mlp", "epochs=1")


def test_a_validation_split_adds_two_columns_and_is_what_a_run_scores(
    execute: Execute, tmp_path: Path, few_digits: tuple[ImageSplit, ImageSplit]
) -> None:
    """Of 600 digits, 100 are held out, by the seed; predictions stay those of the test digits."""
    outcome = execute(*VALIDATED, "seed=7")
    header, *rows = (only_run(tmp_path) / "metrics.csv").read_text().splitlines()
    plain = "epoch,train_loss,train_accuracy,test_loss,test_accuracy,learning_rate"
    assert header == f"{plain},validation_loss,validation_accuracy"
    last = dict(zip(header.split(","), map(float, rows[-1].split(",")), strict=True))
    assert record(tmp_path)["metrics"] == outcome.metrics == last
    assert outcome.selection_score == last["validation_accuracy"] != last["test_accuracy"]
    assert last["train_accuracy"] == round(last["train_accuracy"] * 500) / 500
    saved = np.load(only_run(tmp_path) / "predictions.npz", allow_pickle=False)
    assert (saved["label"] == saved["predicted"]).mean() == last["test_accuracy"]
    model = models.MLP()
    model.load_state_dict(load_file(only_run(tmp_path) / "model.safetensors"))
    _, held = stratified_split(few_digits[0], 100, seed=7)
    assert last["validation_accuracy"] == (evaluate(model, held).argmax(1) == held.labels).sum().item() / 100
    unvalidated = execute(*MLP)
    assert unvalidated.selection_score == unvalidated.metrics["test_accuracy"]
    assert (Path(unvalidated.folder) / "metrics.csv").read_text().startswith(f"{plain}\n1,")
    assert "validation_loss" not in (Path(unvalidated.folder) / "run.json").read_text()


def test_a_validation_split_that_cannot_be_is_told_in_a_sentence(execute: Execute, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="validation_size=600: with 600 images, some class would have none to"):
        execute("model=mlp", "data.validation_size=600")
    assert str(record(tmp_path)["reason"]).startswith("data.validation_size=600: with 600 images")


def test_a_diverged_run_fails_with_the_epoch_and_keeps_what_came_before(
    few_digits: object, execute: Execute, tmp_path: Path
) -> None:
    settings = ("model=mlp", "epochs=4", "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=1e9")
    with pytest.raises(DivergedError):
        execute(*settings)
    content = record(tmp_path)
    assert content["status"] == "failed" and "in epoch 3, step" in str(content["reason"])
    assert len((only_run(tmp_path) / "metrics.csv").read_text().splitlines()) == 1 + 2
    with pytest.raises(DivergedError):  # a failed run is run again, and fails again
        execute(*settings)


def test_weights_that_are_not_finite_are_no_result(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Max-pooling and ReLU can hide them from the loss."""

    def spoiling(state: Any, *images: Any, **settings: Any) -> Iterator[Any]:
        yield from fit(state, *images, **settings)
        with torch.no_grad():
            state.model.hidden1.weight[0, 0] = float("nan")

    monkeypatch.setattr(job, "fit", spoiling)
    with pytest.raises(DivergedError, match=r"the weights of hidden1.weight became nan or infinite; a smaller"):
        execute(*MLP)
    assert record(tmp_path)["status"] == "failed"


def test_overwrite_keeps_the_old_run_until_the_new_one_has_begun_well(
    finished: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, path = results(finished), only_run(finished) / "metrics.csv"

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(run_folder, "write_atomically", fail)
        execute(*MLP, "overwrite=true")
    assert results(finished) == before and record(finished)["status"] == "finished"
    with path.open() as old:  # while it is open, no new file can have its number
        assert not execute(*MLP, "overwrite=true").skipped
        assert path.stat().st_ino != os.fstat(old.fileno()).st_ino
    assert results(finished) == before
    assert [each.name for each in (finished / "runs").iterdir()] == [path.parent.name]


HOLD = """
import os, signal, sys
from filelock import SoftFileLease
lock = SoftFileLease(sys.argv[1], lease_duration=float(sys.argv[2]))
lock.acquire()
print("held", flush=True)
if sys.argv[3] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
lock.release()
"""


def holder(run: Path, *words: str) -> list[str]:
    """A process that takes a run's lock."""
    return [sys.executable, "-c", HOLD, str(run.with_name(f".{run.name}.lock")), str(lock.LEASE_SECONDS), *words]


def test_a_second_process_waits_for_the_first(
    finished: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with started(holder(only_run(finished), "wait"), stdin=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"

        def let_go(text: str, **_: object) -> None:
            """The holder ends once the second process says that it waits."""
            assert first.stdin is not None
            said.append(text)
            first.stdin.close()

        monkeypatch.setattr(lock, "print", let_go, raising=False)
        assert execute(*MLP).skipped
    assert len(said) == 1 and f"waiting for process {first.pid} on" in said[0]


@pytest.mark.parametrize("left", ["of a dead process", "on another machine", "empty"])
def test_a_lock_that_is_left_holds_nobody_back_for_long(
    left: str, finished: Path, execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that loses power may leave an empty one: its name on the disk, and not yet what was written to it."""
    path = only_run(finished).with_name(f".{only_run(finished).name}.lock")
    if left == "on another machine":
        monkeypatch.setattr(lock, "LEASE_SECONDS", 2.0)
    subprocess.run(holder(only_run(finished), "die"))
    known = path.read_text()
    if left == "on another machine":
        path.write_text("\n".join("host=another" if "host=" in line else line for line in known.split("\n")))
    elif left == "empty":
        path.write_text("")
        os.utime(path, (time.time() - lock.LEASE_SECONDS - 1,) * 2)
    assert execute(*MLP).skipped
    assert not path.exists()


def test_a_link_to_a_run_is_trained_anew_and_what_it_leads_to_is_left(finished: Path, execute: Execute) -> None:
    folder, elsewhere = only_run(finished), finished / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    assert not execute(*MLP, "overwrite=true").skipped
    assert not folder.is_symlink() and (elsewhere / "run.json").exists()
    assert [path.name for path in (finished / "runs").iterdir()] == [folder.name]


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    files.write_atomically(tmp_path / "file", b"old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_run_that_another_process_has_taken_over_is_left_to_it(
    finished: Path, monkeypatch: MonkeyPatch, execute: Execute
) -> None:
    """As after Ctrl-Z for a minute: nothing more is written, the other's record included."""
    before = results(finished)
    record_before = (only_run(finished) / "run.json").read_bytes()
    monkeypatch.setattr(SoftFileLease, "is_lock_held_by_us", False)
    with pytest.raises(RunFolderError, match="another process has taken this run over"):
        execute(*MLP, "overwrite=true")
    assert results(finished) == before and (only_run(finished) / "run.json").read_bytes() == record_before


def test_the_reason_of_a_lost_lock_is_said(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(SoftFileLease, "compromise", "lost")
    with pytest.raises(RunFolderError, match="since this one was stopped for too long"), lock.locked(tmp_path / "run"):
        raise Interrupted(signal.SIGINT)
