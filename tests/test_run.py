"""The command, as a person types it: messages, sweeps, launchers, and what it leaves on the disk."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

from mnist_exp import run
from mnist_exp.cli import hydra_internals
from mnist_exp.cli import sweep as sweep_module
from mnist_exp.errors import ConfigError
from mnist_exp.report import tables
from mnist_exp.report.collect import collect
from mnist_exp.report.estimates import make_estimates
from mnist_exp.runs.sweeps import SweepFolder
from tests.conftest import MINUTES, SCRIPTS, command, python, results, started, wait_until

MODELS = "model=lenet5,lenet5r,mlp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("epochz=1", "there is no setting epochz; did you mean epochs?"),
        ("-m +epoch=1 seed=0,1", "there is no setting epoch; did you mean epochs?"),
        ("+data.validation_sise=50", "there is no setting data.validation_sise; did you mean data.validation_size?"),
        ("+protocol.foo=1", "there is no setting protocol.foo; protocol has train_split, eval_split, training_mode"),
        ("+model.foo=1", "model.foo: mnist_exp.models.LeNet5 has no such setting"),
        ("+optimizer.momentm=0.9", "torch.optim.SGD has no such setting; did you mean optimizer.momentum?"),
        ("optimizer.dampening=0.1", "an argument that conf/ does not list needs a plus: +optimizer.dampening=…"),
        ("~scheduler", "scheduler cannot be left out; set scheduler=…, one of constant, cosine, onecycle, step"),
        ("optimizer=null", "a config group takes the name of one option, such as model=mlp"),
        ("optimizer=sgdd", "optimizer=sgdd: there is no such optimizer; there are: adam, adamw, rmsprop, sgd"),
        ("--config-name train", "--config-name train: there is no such config; leave the flag out"),
        ("--config-path nowhere", "Primary config module 'mnist_exp.nowhere' not found. Leave --config-path out"),
        ("optimizer.lr=interval(0.1,1)", "interval(…) is for sweepers that choose values themselves; list the values"),
        ("hydra/launcher=slurm -m", "there is no such hydra/launcher; there are: basic, joblib, ray"),
        ("data.root=/x,y", "For one value with a comma in it, write \"data.root='/x,y'\""),
        ("seed=range(0,3)", "seed=range(0,3) has several values; add -m to run each of them"),
        ("model=lenet5r batch_size=101 protocol=published", "batch_size=101: the last batch of 10,000 training images"),
        ("model=lenet5r data.validation_size=31", "needs two); batch_size=63 works"),
        ("output_root=~nobody-here/x", "output_root=~nobody-here/x: there is no such user here; write the full path"),
        ("epochs=abc", "epochs=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("data.validation_size=0.1", "data.validation_size=0.1: Value '0.1' of type 'float' could not be conv"),
        *((word, f"{word}: must be at least 1") for word in ("epochs=0", "batch_size=0", "device.threads=0")),
        ("data.validation_size=-1", "data.validation_size=-1: must be at least 0"),
        ("device.threads=100000", "device.threads=100000: must be at least 1, and at most 1024"),
        ("seed=-1", "seed=-1: a seed must be between 0 and 4294967295"),
        ("optimizer=adam optimizer.betas=[0.9,nan]", "optimizer.betas=[0.9, nan]: must be finite"),
        ("optimizer.lr=-0.1", "optimizer.lr=-0.1: the learning rate must be a number greater than 0"),
        ("optimizer.lr=[1", "cannot be read"),
        ("optimizer.fused=abc", "optimizer.fused=abc: must be of type bool"),
        ("optimizer._target_=torch.optim.LBFGS", "cannot be used here"),
        ("scheduler.interval=day", "scheduler.interval=day: must be one of epoch, step"),
        ("device.arithmetic=fast", "device.arithmetic=fast: must be one of portable, native"),
        ("scheduler=step scheduler.step_size=0", "scheduler.step_size=0"),
        ("model=lenet5r model.dropout=2", "dropout probability has to be between 0 and 1"),
        ("protocol.train_split=test", "must be evaluated on images that it was not trained on"),
        ("data=png_folder data.train_dir=a", "data=png_folder needs data.test_dir=…"),
        ("data.train_dir=a", "data.train_dir=a: only data=image_folder reads folders"),
        ("-m ++device.arithmetic=native,portable epochs=1", "one sweep has one arithmetic; start a sweep for each"),
        ("-m seed=range(5,5)", "the sweep has no job: a range(…) or glob(…) in the command stands for nothing"),
        ("-m hydra.launcher.nope=1 seed=0,1", "no setting hydra.launcher.nope; --cfg hydra shows what there is"),
        ("-m hydra.launcher.pre_dispatch=nope seed=0,1", "hydra.launcher: 'nope' is not a valid"),
        ("output_root=FILE", "FILE"),
    ],
)
def test_a_mistake_gets_one_sentence(
    arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", *arguments.split()])
    with pytest.raises(SystemExit) as exit:
        run.main()
    output, errors = capfd.readouterr()
    assert exit.value.code == 1
    assert errors.startswith("mnist_exp: ") and message in errors and len(errors.splitlines()) == 1, errors
    assert "Traceback" not in output + errors
    assert "lenet5r" in arguments or not (tmp_path / "outputs" / "runs").exists()


@pytest.mark.parametrize(
    "path",
    ["/josé/train", "新加卷/训练", "im (1)", "epoch=3/t", "it's/a", "a,b/c", 'say "hi"', "$HOME/[x]{y}", "50% & more"],
)
def test_what_is_printed_for_a_path_of_any_characters_can_be_pasted(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def said(word: str) -> str:
        monkeypatch.setattr(sys, "argv", ["run", "data=png_folder", word, "data.test_dir=there"])
        os.environ.pop("HYDRA_FULL_ERROR", None)
        with pytest.raises(SystemExit):
            run.main()
        return capfd.readouterr().err

    first = said(f"data.train_dir={path}")
    assert path != "/josé/train" or first.endswith("write \"data.train_dir='/josé/train'\"\n")
    if "write " in first:
        printed = ["bash", "-c", f"printf %s {first.strip().partition('write ')[2]}"]
        first = said(subprocess.run(printed, capture_output=True, text=True).stdout)
    assert first == f"mnist_exp: {path} is missing; name a folder of images\n"


def test_a_stored_runs_own_settings_are_no_config(sweep: tuple[Path, str], tmp_path: Path) -> None:
    folder = next((sweep[0] / "runs").glob("mlp-*")) / ".hydra"
    done = command("--config-path", str(folder), "--config-name", "config", cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "pass the entries of its .hydra/overrides.yaml" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory so")
def test_too_large_a_batch_is_said_in_a_sentence(tmp_path: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (7 * 2**30, 7 * 2**30))

    done = command("model=lenet5", "epochs=1", "batch_size=60000", cwd=tmp_path, preexec_fn=limited)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    sentence = r"out of memory \([\d.]+ GB requested\); use a smaller batch_size"
    assert re.fullmatch(f"mnist_exp: {sentence}\n", done.stderr)
    (path,) = tmp_path.glob("outputs/runs/*/run.json")
    assert re.fullmatch(sentence, json.loads(path.read_text())["reason"])


def test_make_runs_the_goals_in_their_order(tmp_path: Path) -> None:
    """``make -j4 sweep report`` must not report before there are runs."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(Path(__file__).parent.parent / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\ncase "$*" in *report*) ;; *) sleep 1;; esac\necho "$*" >> calls\n')
    python.chmod(0o755)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.ready"):
        (tmp_path / name).write_text(f"{tmp_path}\n")  # .venv knows its folder
    subprocess.run(["make", "-j4", "sweep", "report"], cwd=tmp_path, check=True, capture_output=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "mnist_exp.run" in calls[0] and "report.py" in calls[1]


def test_help_is_for_our_users_and_quick(tmp_path: Path) -> None:
    shown = command("--help", cwd=tmp_path).stdout
    for words in ("model: lenet5, lenet5r, mlp", "seed=range(0,10)", "experiment=reproduce", "overwrite=false"):
        assert words in shown
    probe = "import sys, mnist_exp.run; sys.exit('torch' in sys.modules)"
    assert python("-c", probe).returncode == 0


def test_bash_completes_settings(tmp_path: Path) -> None:
    """What the tab key does: the function that Hydra installs, called as bash calls it."""
    script = """
        eval "$(mnist-exp -sc install=bash)"
        COMP_LINE='mnist-exp model=' COMP_POINT=16 COMP_CWORD=1 COMP_WORDS=(mnist-exp model=)
        hydra_bash_completion
        echo "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["model=lenet5", "model=lenet5r", "model=mlp"], done.stderr


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A real sweep of the three models on all the digits, one epoch, jobs side by side."""
    folder = tmp_path_factory.mktemp("sweep")
    done = command("-m", MODELS, "epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "outputs", done.stdout


def test_a_sweep_writes_what_the_design_lists(sweep: tuple[Path, str]) -> None:
    root, output = sweep
    folders = sorted((root / "runs").iterdir())
    models = ("lenet5", "lenet5r", "mlp")
    assert [f.name.split("-seed0-")[0] for f in folders] == [f"{model}-standard-sgd" for model in models]
    for folder, parameters, least in zip(folders, (61_706, 61_990, 62_930), (0.97, 0.97, 0.93), strict=True):
        assert {path.name for path in folder.iterdir()} == {
            *("metrics.csv", "timing.csv", "run.json", "checkpoint.pt", "model.safetensors", "predictions.npz"),
            *("mistakes.csv", "classes.csv", ".hydra"),
        }
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished" and record["parameters"] == parameters
        accuracy = record["metrics"]["test_accuracy"]
        text = (folder / "metrics.csv").read_text()
        assert text.startswith("epoch,train_loss,train_accuracy,test_loss,test_accuracy,learning_rate\n1,")
        assert folder.name in output
        saved = np.load(folder / "predictions.npz", allow_pickle=False)
        assert accuracy == (saved["label"] == saved["predicted"]).mean() >= least
        assert saved["probabilities"].shape == (10_000, 10)
        assert np.allclose(saved["probabilities"].sum(axis=1), 1, atol=1e-5)
        assert all(np.isfinite(tensor).all() for tensor in load_file(folder / "model.safetensors").values())
    assert output.count("epoch 1/1") == 3 and "Jobs: 3 finished" in output and "\x1b[" not in output


def test_one_after_the_other_gives_the_same_bytes_in_another_folder(sweep: tuple[Path, str], tmp_path: Path) -> None:
    words = ("model=mlp,lenet5r", "-m", "epochs=1", "hydra/launcher=basic", f"output_root={tmp_path / 'another place'}")
    done = command(*words, cwd=tmp_path)  # flags may stand between settings
    assert done.returncode == 0, done.stderr
    found = results(tmp_path / "another place")
    assert len(found) == 6 and found.items() <= results(sweep[0]).items()


def test_the_same_command_again_skips_what_is_finished(sweep: tuple[Path, str]) -> None:
    before = results(sweep[0])
    done = command("-m", "model=mlp.yaml,lenet5", "epochs=1", "seed=0,0", cwd=sweep[0].parent)
    assert done.returncode == 0 and done.stdout.count("already finished; skipped") == 4, done.stdout
    assert results(sweep[0]) == before


def test_one_failing_job_stops_no_other(tmp_path: Path) -> None:
    tmp_path /= "jürgen's [1] ☃"  # where Hydra has to be told of the folder in its own quotes
    tmp_path.mkdir()
    words = ("-m", "model=mlp", "epochs=1", "hydra.sweep.dir=sweep")
    done = command(*words, "optimizer.lr=0.01,1e9,-1", cwd=tmp_path)
    assert [path.name for path in tmp_path.parent.iterdir()] == [tmp_path.name]
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "Jobs: 1 finished, 2 failed" in done.stdout
    assert "in epoch 1, step" in done.stdout and "greater than 0" in done.stdout
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/run.json")]
    assert sorted(record["status"] for record in records) == ["failed", "finished"]
    # A second sweep in the same folder reports only its own jobs.
    again = command(*words, cwd=tmp_path)
    assert again.returncode == 0 and "Jobs: 1 skipped;" in again.stdout, again.stdout


@pytest.mark.parametrize(
    ("number", "code", "everybody"),
    [
        (signal.SIGINT, 130, True),  # Ctrl-C
        (signal.SIGINT, 130, False),
        (signal.SIGTERM, 143, True),  # a scheduler, which sends it to all processes of a job
        (signal.SIGTERM, 143, False),  # kill
        (signal.SIGKILL, -9, False),  # out of memory
    ],
)
def test_a_signal_stops_a_sweep_and_leaves_no_process(number: int, code: int, everybody: bool, tmp_path: Path) -> None:
    """More jobs than cores, and no other program to be found: minimal images have neither ps nor pgrep."""
    words = [sys.executable, "-m", "mnist_exp.run", "-m", "model=mlp", "seed=range(0,8)", "epochs=2000"]
    with started(words, cwd=tmp_path, env=os.environ | {"PATH": ""}) as process:
        wait_until(lambda: len(list(tmp_path.glob("outputs/runs/*/metrics.csv"))) == 2)
        workers = psutil.Process(process.pid).children(recursive=True)
        (os.killpg if everybody else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=MINUTES)
        assert process.returncode == code
        line = f"mnist_exp: stopped by {signal.Signals(number).name}; finished epochs are kept. "
        assert number == signal.SIGKILL or errors == f"\n{line}Repeat the command to resume\n"
        assert psutil.wait_procs(workers, timeout=MINUTES)[1] == []
    for path in tmp_path.glob("outputs/runs/*/run.json"):
        assert json.loads(path.read_text())["status"] in ("interrupted", "running")


def test_a_sweep_with_a_validation_split_scores_and_is_ranked_by_it(tmp_path: Path) -> None:
    log = "+hydra.callbacks.log={_target_: hydra.experimental.callbacks.LogJobReturnCallback}"
    words = ("model=mlp", "data.validation_size=5000", "epochs=1", "optimizer.lr=0.0003,0.03")
    done = command("-m", *words, "hydra/launcher=basic", log, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracies = {}
    for path in tmp_path.glob("outputs/runs/*/metrics.csv"):
        rate = json.loads((path.parent / "run.json").read_text())["identity"]["optimizer"]["lr"]
        last = pd.read_csv(path).iloc[-1]
        accuracies[rate] = accuracy = last["validation_accuracy"]
        assert accuracy != last["test_accuracy"] and accuracy == round(accuracy * 5000) / 5000
        assert f"return value: {accuracy}" in done.stdout
        assert f"finished, validation accuracy {accuracy:.4f}" in done.stdout
    collection = collect(tmp_path / "outputs" / "runs")
    table = tables.comparison(collection, make_estimates(collection, [])).cells
    assert table["Model"].tolist() == ["Custom MLP, lr=0.03", "Custom MLP, lr=0.0003"]
    assert table["Validation accuracy"].tolist() == [f"{accuracies[rate]:.4f}" for rate in (0.03, 0.0003)]


def test_the_report_of_a_real_sweep(sweep: tuple[Path, str]) -> None:
    done = python(SCRIPTS / "report.py", cwd=sweep[0].parent)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(sweep[0] / "report" / "comparison.csv").set_index("model")
    expected = {}
    for path in (sweep[0] / "runs").glob("*/metrics.csv"):
        title = json.loads((path.parent / "run.json").read_text())["title"]
        expected[title] = pd.read_csv(path)["test_accuracy"].iloc[-1]
    assert table["test_accuracy"].to_dict() == expected and table["n"].tolist() == [1, 1, 1]
    assert {*expected} == {"LeNet5", "LeNet5_regularized", "Custom MLP"}
    for extension in ("png", "svg"):
        assert len(list((sweep[0] / "report").rglob(f"*.{extension}"))) >= 16


@pytest.mark.parametrize(
    ("data", "said"),
    [("data", "make sweep"), ("~nobody-here/x", "MNIST_EXP_DATA=~nobody-here/x: there is no such user here")],
)
def test_a_report_that_cannot_be_made_says_why(data: str, said: str, tmp_path: Path) -> None:
    done = python(SCRIPTS / "report.py", cwd=tmp_path, env=os.environ | {"MNIST_EXP_DATA": data})
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"# @package _global_\nepochs: one\n", "Value 'one' of type 'str' could not be converted to Integer"),
        (b"# @package _global_\nepoch: 1\n", "there is no setting epoch; did you mean epochs?"),
        (b"epochs: 1\n", "the first line must be: # @package _global_"),
        (b"defaults:\n  - override /model: mlp\n", "Its first line must be: # @package _global_"),
        (b"# @package _global_\n- a\n", "Cannot merge DictConfig with ListConfig"),
        (b"\xff\xfe", "a file of settings is not valid YAML"),
    ],
)
def test_what_is_wrong_with_an_experiment_is_said(content: bytes, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_bytes(content)
    done = command("--config-dir", str(tmp_path / "conf"), "experiment=mine", cwd=tmp_path)
    assert done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_schedule_by_milestones_needs_only_a_config_file(tmp_path: Path) -> None:
    folder = tmp_path / "conf" / "scheduler"
    folder.mkdir(parents=True)
    (folder / "steps.yaml").write_text("_target_: torch.optim.lr_scheduler.MultiStepLR\nmilestones: [1]\n")
    words = ("--config-dir", str(tmp_path / "conf"), "model=mlp", "protocol=published")
    done = command(*words, "scheduler=steps", "epochs=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.glob("outputs/runs/*/metrics.csv")
    assert pd.read_csv(metrics)["learning_rate"].tolist() == pytest.approx([0.01, 0.001])
    short = command(*words, "scheduler=onecycle", "scheduler.epochs=1", "epochs=2", cwd=tmp_path)
    assert short.returncode == 1 and "the schedule is shorter than the training" in short.stderr
    assert "Traceback" not in short.stderr


def test_a_refused_sweep_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    for name in ("0.json", "mine.json"):
        (tmp_path / "jobs" / name).write_text("{}")
    assert command("-m", "hydra.sweep.dir=.", "+nope=1", cwd=tmp_path).returncode == 1
    assert len([*(tmp_path / "jobs").iterdir()]) == 2


@pytest.mark.parametrize(
    ("error", "refused"), [(ConfigError("no such model"), "no such model"), (BrokenProcessPool("killed"), None)]
)
def test_jobs_wait_for_nothing_only_if_a_repeated_command_must_fail_too(
    error: Exception, refused: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [["output_root=a-\udcff"], ["seed=1"]]  # not UTF-8, as a folder's name may be

    def fail(_: object) -> None:
        sweep_module.started.append(SweepFolder(tmp_path))
        SweepFolder(tmp_path).write_plan(jobs)
        raise error

    monkeypatch.setattr(hydra_internals, "start", fail)
    with pytest.raises(SystemExit) as exit:
        run.main()
    plan = SweepFolder(tmp_path).read_plan()
    assert exit.value.code == 1 and (plan.jobs, plan.refused) == (jobs, refused)


def test_a_sweep_without_results_fails(tmp_path: Path) -> None:
    done = command("-m", "model=mlp", "hydra.launcher.pre_dispatch=0", cwd=tmp_path)
    assert done.returncode == 1 and "Jobs: 1 not finished" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_lose_no_result(tmp_path: Path) -> None:
    words = f"{sys.executable} -m mnist_exp.run -m model=mlp protocol=published epochs=1 <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", words], cwd=tmp_path, timeout=MINUTES).returncode == 0
    assert json.loads(next(tmp_path.glob("outputs/runs/*/run.json")).read_text())["status"] == "finished"
