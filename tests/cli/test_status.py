"""``make status`` on folders in every state that a run and a sweep can be in."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from mnist_exp.cli import status
from mnist_exp.runs import lock
from mnist_exp.runs.lock import is_live
from mnist_exp.runs.record import Record
from mnist_exp.runs.sweeps import SweepFolder
from mnist_exp.settings.identity import IDENTITY_VERSION
from tests.conftest import MINUTES, SCRIPTS, python, started, wait_until

SCRIPT = SCRIPTS / "status.py"
HEAD = "epoch,train_seconds,eval_seconds,train_images_per_second\n"
TIMING = HEAD + "1,99,99,1\n" + "".join(f"{epoch},8,2,1\n" for epoch in range(2, 7))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where ``python scripts/status.py`` looks for runs in ``tmp_path``."""
    folder = tmp_path / "outputs" / "runs"
    folder.mkdir(parents=True)
    return folder


def make(runs: Path, name: str, state: str, epoch: int = 6, reason: str | None = None, *overrides: str) -> Path:
    """A run's folder after so many of twenty epochs."""
    folder = runs / name
    (folder / ".hydra").mkdir(parents=True)
    protocol = {"train_split": "train", "eval_split": "test", "training_mode": "every_epoch"}
    identity: dict[str, Any] = {"version": IDENTITY_VERSION, "model": {"target": "MLP"}, "data": {"name": "mnist"}}
    identity |= {"protocol": protocol, "seed": 0, "epochs": 20}
    record = Record(name=name, title="MLP", choices={}, identity=identity, config={}, status=state, reason=reason)
    record.parameters, record.metrics = 1, {"test_accuracy": 0.98764}
    (folder / "run.json").write_bytes(record.to_json())
    rows = "".join(f"{n + 1},0.1,0.9,0.1,0.9,0.01\n" for n in range(epoch))
    head = "epoch,train_loss,train_accuracy,test_loss,test_accuracy,learning_rate\n"
    (folder / "metrics.csv").write_text(head + rows)
    (folder / "timing.csv").write_text(TIMING)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in overrides) or "[]\n")
    return folder


def change(path: Path, **values: Any) -> None:
    """Replace values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def held(run: Path) -> SoftFileLease:
    """The lock of a run that is alive."""
    return SoftFileLease(run.with_name(f".{run.name}.lock"), lease_duration=lock.LEASE_SECONDS)


def plan(
    runs: Path,
    time_of_it: str,
    model: str,
    seeds: int,
    results: dict[int, Any] | None = None,
    refused: str | None = None,
) -> Path:
    """A sweep's folder, with the results of some of its jobs."""
    folder = runs.parent / "sweeps" / time_of_it
    (folder / "jobs").mkdir(parents=True)
    SweepFolder(folder).write_plan([[f"model={model}", f"seed={seed}"] for seed in range(seeds)], refused)
    for number, result in (results or {}).items():
        (folder / "jobs" / f"{number}.json").write_text(json.dumps(result))
    return folder


def shown(tmp_path: Path, *arguments: str) -> list[str]:
    done = python(SCRIPT, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


def row(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith(name)]
    return line[len(name) :].split(maxsplit=3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_that_finds_no_room_is_told_in_a_line(runs: Path, tmp_path: Path) -> None:
    make(runs, "done", "finished", 20)
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, str(SCRIPT)]
        done = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr == "status: [Errno 28] No space left on device\n"


def test_each_state_is_told_apart(runs: Path, tmp_path: Path) -> None:
    make(runs, "done", "finished", 20)
    metrics = {"test_accuracy": 0.98, "validation_accuracy": 0.97}
    change(make(runs, "held-out", "finished", 20) / "run.json", metrics=metrics)
    alive = make(runs, "alive", "running")
    make(runs, "killed", "running")
    make(runs, "stopped", "interrupted", 3, "stopped by SIGINT")
    make(runs, "bad", "failed", 0, "the training loss became nan \x1b[31m\u202e")  # which controls no terminal
    old = make(runs, "old", "interrupted", 3) / "run.json"
    change(old, identity=json.loads(old.read_text())["identity"] | {"version": IDENTITY_VERSION - 1})
    with held(alive):
        lines = shown(tmp_path)
    assert lines[0] == "1 running, 1 failed, 3 interrupted, 2 finished"
    # Fourteen epochs are left, of ten seconds each as the last five were.
    assert row(lines, "alive") == ["running", "6/20", "2", "min"]
    assert row(lines, "killed")[:2] == ["interrupted", "6/20"] and status.GONE in " ".join(lines)
    assert row(lines, "stopped") == ["interrupted", "3/20", "stopped", "by SIGINT"]
    assert row(lines, "old")[:2] == ["interrupted", "3/20"] and status.EARLIER in " ".join(lines)
    assert row(lines, "bad")[0] == "failed" and "loss became nan \ufffd[31m\ufffd" in " ".join(lines)
    assert not any(line.startswith("done") for line in lines)
    lines = shown(tmp_path, "--all")
    assert row(lines, "done") == ["finished", "20/20", "test", "accuracy 0.9876"]
    assert row(lines, "held-out") == ["finished", "20/20", "validation", "accuracy 0.9700"]


def test_a_run_that_is_trained_anew_is_running(runs: Path, tmp_path: Path) -> None:
    again = make(runs, "again", "finished", 20)
    make(runs, ".again.new", "running", 0)
    assert shown(tmp_path)[0] == "1 finished"  # nobody holds it: its next start removes what lies beside it
    with held(again):
        lines = shown(tmp_path)
    assert lines[0] == "1 running" and row(lines, "again")[:2] == ["running", "0/20"]


@pytest.mark.parametrize(
    ("host", "process", "age", "alive"),
    [
        (socket.gethostname(), os.getpid(), 0, True),
        (socket.gethostname(), 2**22 + 1, 0, False),  # more than Linux ever counts to
        ("elsewhere", 1, 0, True),
        ("elsewhere", 1, 61, False),
    ],
    ids=["here", "gone", "elsewhere", "silent"],  # a process's number would differ between the tests' processes
)
def test_a_holder_is_alive_here_by_its_process_and_elsewhere_by_its_heartbeat(
    host: str, process: int, age: float, alive: bool, tmp_path: Path
) -> None:
    path = tmp_path / ".run.lock"
    with held(tmp_path / "run"):
        first, *lines = path.read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines) | {"host": host, "pid": str(process)}
    path.write_text("\n".join([first, *(f"{key}={value}" for key, value in fields.items())]) + "\n")
    os.utime(path, (time.time() - age,) * 2)
    assert is_live(tmp_path / "run") is alive
    assert not is_live(tmp_path / "none")


def test_jobs_without_a_folder_wait_or_failed_before_they_had_one(runs: Path, tmp_path: Path) -> None:
    make(runs, "first", "finished", 20, None, "model=mlp", "seed=0")
    make(runs, "second", "interrupted", 2, "stopped by its launcher", "model=mlp", "seed=1")
    failed = {"status": "failed", "reason": "out of luck"}
    skipped = {"status": "skipped"}  # of a run that was started by other words
    odd: dict[int, Any] = {6: [], 7: {}, 8: {"status": "failed", "reason": [1]}}
    plan(runs, "2", "mlp", 9, {1: {"status": "stopped"}, 2: failed, 3: skipped, **odd})
    plan(runs, "1", "lenet5", 2)  # was given up
    lines = shown(tmp_path)
    assert lines[0] == "2 failed, 1 interrupted, 4 waiting, 1 finished"
    assert row(lines, "model=mlp seed=2") == ["failed", "out", "of", "luck"]
    assert row(lines, "model=mlp seed=8") == ["failed", "[1]"]
    assert all(row(lines, f"model=mlp seed={seed}") == ["waiting"] for seed in (4, 5, 6, 7))
    assert lines[-1] == status.IDLE


def test_an_older_sweep_that_is_still_running_has_jobs_that_wait(runs: Path, tmp_path: Path) -> None:
    alive = make(runs, "alive", "running", 1, None, "model=lenet5", "seed=0")
    plan(runs, "1", "lenet5", 2)
    plan(runs, "2", "mlp", 1)
    with held(alive):
        lines = shown(tmp_path)
    assert lines[0] == "1 running, 2 waiting"
    assert row(lines, "model=lenet5 seed=1") == row(lines, "model=mlp seed=0") == ["waiting"]


def test_damaged_folders_are_named_and_hide_nothing(runs: Path, tmp_path: Path) -> None:
    make(runs, "good", "interrupted", 1, "stopped by SIGINT")
    (runs / "empty").mkdir()
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "run.json")  # to read it would be to wait for ever
    for name, content in (("torn", '{"status": "run'), ("odd", '["status"]'), ("deep", "[" * 100_000)):
        (make(runs, name, "running") / "run.json").write_text(content)
    (make(runs, "binary", "finished") / "metrics.csv").write_bytes(b"\xff\x00\xfe")
    (make(runs, "gone", "finished", 20) / "metrics.csv").unlink()
    make(runs, "cut", "finished", 12)
    make(runs, "other", "asleep")
    make(runs, "mlp-standard-sgd-seed0-00000000", "finished", 20)  # its settings were edited
    (make(runs, "bare", "interrupted") / ".hydra" / "overrides.yaml").write_text("{")
    (plan(runs, "1", "mlp", 1) / "jobs.json").write_text('{"jobs": 3')
    lines = shown(tmp_path)
    assert lines[0] == "11 damaged, 2 interrupted"
    for name in ("pipe", "torn", "odd", "deep", "binary", "other", "sweeps/1"):
        assert row(lines, name)[0] == "damaged", name
    for name, reason in (
        ("empty", "there is no file run.json in the folder"),
        ("gone", "metrics.csv cannot be read: No such file"),
        ("cut", "metrics.csv has 12 of 20 epochs"),
        ("mlp-", "are not those that the run's name stands for"),
    ):
        assert reason in " ".join(row(lines, name)), name


def test_jobs_of_a_refused_sweep_wait_for_nothing(runs: Path, tmp_path: Path) -> None:
    make(runs, "done", "finished", 20)
    plan(runs, "1", "vgg", 2, refused="model=vgg: there is no such model")
    assert shown(tmp_path) == ["1 finished"]


def test_the_newest_sweep_is_the_one_started_last_whatever_its_time_zone(runs: Path, tmp_path: Path) -> None:
    """A folder is named by local time: Auckland's noon comes before Los Angeles' morning."""
    for name, model, at in (("2026-11-28_12-00", "mlp", "27T23:00"), ("2026-11-28_09-00", "lenet5", "28T17:00")):
        change(plan(runs, name, model, 1) / "jobs.json", started=f"2026-11-{at}:00+00:00")
    lines = shown(tmp_path)
    assert lines[0] == "1 waiting" and "model=lenet5" in " ".join(lines)


def test_a_long_list_is_cut_short(runs: Path, tmp_path: Path) -> None:
    plan(runs, "1", "mlp", 100)
    lines = shown(tmp_path)
    assert lines[0] == "100 waiting" and any(line.startswith("… and 80 more") for line in lines)
    assert len(shown(tmp_path, "--all")) > 100


def test_no_run_at_all_says_what_to_type(tmp_path: Path) -> None:
    done = python(SCRIPT, cwd=tmp_path)
    assert done.returncode == 1 and "make sweep" in done.stderr and "Traceback" not in done.stderr


def test_watching_follows_a_real_sweep(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = ("model=mlp", "protocol=published", "epochs=9999", "seed=0,1", "hydra/launcher=basic")
    with (
        log.open("w") as output,
        started([sys.executable, str(SCRIPT), "--watch"], cwd=tmp_path, stdout=output) as watch,
        started([sys.executable, "-m", "mnist_exp.run", "-m", *settings], cwd=tmp_path) as sweep,
    ):
        wait_until(lambda: "1 running, 1 waiting" in log.read_text())
        sweep.send_signal(signal.SIGINT)
        sweep.communicate(timeout=MINUTES)
        wait_until(lambda: "1 interrupted, 1 waiting" in log.read_text())
        watch.send_signal(signal.SIGINT)
        assert watch.wait(timeout=MINUTES) == 0
