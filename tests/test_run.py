"""The command, as a person types it: messages, sweeps, launchers, and what it leaves on the disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from mnist_exp import run
from mnist_exp.report import tables
from mnist_exp.report.collect import collect
from tests.conftest import command, results

MODELS = "model=lenet5,lenet5r,mlp"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("epochz=1", "there is no setting epochz; did you mean epochs?"),
        ("optimizer.momentm=0.9", "there is no setting optimizer.momentm; did you mean optimizer.momentum?"),
        ("+optimizer.momentm=0.9", "torch.optim.SGD has no such setting; it takes lr, momentum,"),
        ("epochs=abc", "epochs=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("epochs=1.5", "could not be converted to Integer"),
        ("epochs=0", "epochs=0: must be at least 1"),
        ("batch_size=100000000000000000000", "must be at least 1, and at most 2147483647"),
        ("device.threads=100000", "device.threads=100000: must be at least 1, and at most 1024"),
        ("optimizer.weight_decay=inf", "optimizer.weight_decay=inf: must be finite"),
        ("optimizer=adam optimizer.betas=[0.9,nan]", "optimizer.betas=[0.9, nan]: must be finite"),
        ("--config-name=nope", "nope: there is no such config"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("seed=-1", "seed=-1: a seed must be between 0 and 4294967295"),
        ("seed=0,1", "seed=0,1 is several values; add -m"),
        ("optimizer.lr=-0.1", "optimizer.lr=-0.1: the learning rate must be a number greater than 0"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be finite"),
        ("optimizer.lr=abc", "optimizer.lr=abc: must be of type float"),
        ("optimizer.lr=[1", "cannot be read"),
        ("optimizer.fused=abc", "optimizer.fused=abc: must be of type bool"),
        ("optimizer=sgdd", "optimizer=sgdd: there is no such optimizer; there are: adam, adamw, rmsprop, sgd"),
        ("optimizer._target_=torch.optim.LBFGS", "cannot be used here"),
        ("model._target_=os.system", "must name a model in mnist_exp.models"),
        ("scheduler=step scheduler.step_size=0", "scheduler.step_size=0"),
        ("scheduler.interval=day", "scheduler.interval=day: must be one of epoch, step"),
        ("model=lenet5r model.dropout=2", "dropout probability has to be between 0 and 1"),
        ("device=cuda", "device=cuda: PyTorch finds no such device"),
        ("device.threads=0", "device.threads=0: must be at least 1"),
        ("device.precision=bf16", "there is no setting device.precision"),
        ("protocol.train_split=test", "must be evaluated on images that it was not trained on"),
        ("data.validation_size=-1", "data.validation_size=-1: must be at least 0"),
        ("data.validation_size=0.1", "data.validation_size=0.1: Value '0.1' of type 'float' could not be conv"),
        ("data=png_folder", "data=png_folder needs data.train_dir=…"),
        ("data=png_folder data.train_dir=a", "data=png_folder needs data.test_dir=…"),
        ("data.train_dir=a", "data.train_dir=a: only data=png_folder reads folders"),
        ("data=png_folder data.train_dir=a data.test_dir=b", "a is missing; name a folder of PNG files"),
        ("output_root=FILE", "FILE"),
        ("data.root=FILE", "FILE"),
    ],
)
def test_a_mistake_gets_one_sentence(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if "cuda" in arguments:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    (tmp_path / "FILE").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run", *arguments.split()])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as exit:
        run.main()
    del os.environ["HYDRA_FULL_ERROR"]
    output, errors = capfd.readouterr()
    assert exit.value.code == 1
    assert errors.startswith("mnist_exp: ") and message in errors and len(errors.splitlines()) == 1, errors
    assert "Traceback" not in output + errors
    assert "data.root" in arguments or not (tmp_path / "outputs" / "runs").exists()


def test_help_is_for_our_users_and_quick(tmp_path: Path) -> None:
    shown = command("--help", cwd=tmp_path).stdout
    for words in ("model: lenet5, lenet5r, mlp", "seed=range(0,10)", "experiment=reproduce", "overwrite=false"):
        assert words in shown
    probe = "import sys, mnist_exp.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe]).returncode == 0


def test_cfg_and_completion_work_as_hydras_users_know_them(tmp_path: Path) -> None:
    shown = command("model=mlp", "--cfg", "job", cwd=tmp_path)
    assert "mnist_exp.models.MLP" in shown.stdout and shown.returncode == 0


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
    assert [f.name.split("-seed0-")[0] for f in folders] == [
        f"{model}-standard-sgd" for model in ("lenet5", "lenet5r", "mlp")
    ]
    for folder, parameters, least in zip(folders, (61_706, 61_990, 62_930), (0.97, 0.97, 0.93), strict=True):
        assert {path.name for path in folder.iterdir()} == {
            *("metrics.csv", "timing.csv", "run.json", "checkpoint.pt", "model.safetensors", "predictions.npz"),
            ".hydra",
        }
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished" and record["parameters"] == parameters
        assert record["metrics"]["test_accuracy"] >= least
        text = (folder / "metrics.csv").read_text()
        assert text.startswith("epoch,train_loss,train_accuracy,test_loss,test_accuracy,learning_rate\n1,")
        assert folder.name in output
    assert output.count("epoch 1/1") == 3 and "Jobs: 3 finished" in output and "\x1b[" not in output


def test_accuracy_is_the_share_of_right_predictions(sweep: tuple[Path, str]) -> None:
    import numpy as np
    from safetensors.numpy import load_file

    for folder in (sweep[0] / "runs").iterdir():
        saved = np.load(folder / "predictions.npz", allow_pickle=False)
        accuracy = pd.read_csv(folder / "metrics.csv")["test_accuracy"].iloc[-1]
        assert accuracy == (saved["label"] == saved["predicted"]).mean()
        assert saved["probabilities"].shape == (10_000, 10)
        assert np.allclose(saved["probabilities"].sum(axis=1), 1, atol=1e-5)
        weights = load_file(folder / "model.safetensors")
        assert all(np.isfinite(tensor).all() for tensor in weights.values())


def test_one_after_the_other_gives_the_same_bytes_in_another_folder(sweep: tuple[Path, str], tmp_path: Path) -> None:
    other = tmp_path / "another place"
    reordered = "model=mlp,lenet5r"
    done = command("-m", reordered, "epochs=1", "hydra/launcher=basic", f"output_root={other}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(results(other)) == 6 and results(other).items() <= results(sweep[0]).items()


def test_the_same_command_again_skips_what_is_finished(sweep: tuple[Path, str]) -> None:
    before = results(sweep[0])
    done = command("-m", "model=mlp,lenet5", "epochs=1", "seed=0,0", cwd=sweep[0].parent)
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
    # A second sweep in the same folder tells of its own jobs only.
    again = command(*words, cwd=tmp_path)
    assert again.returncode == 0 and "Jobs: 1 skipped;" in again.stdout, again.stdout


@pytest.mark.parametrize(
    ("number", "code", "everybody"),
    [
        (signal.SIGINT, 130, True),  # Ctrl-C
        (signal.SIGTERM, 143, True),  # a scheduler, which tells all processes of a job
        (signal.SIGTERM, 143, False),  # kill
        (signal.SIGKILL, -9, False),  # out of memory
    ],
)
def test_a_signal_stops_a_sweep_and_leaves_no_process(number: int, code: int, everybody: bool, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mnist_exp.run", "-m", "model=mlp", "seed=0,1", "epochs=2000"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("outputs/runs/*/metrics.csv"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    (os.killpg if everybody else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert number == signal.SIGKILL or "Repeat the command to resume" in errors
    deadline = time.monotonic() + 10
    while group_is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_is_alive(process.pid)
    for path in tmp_path.glob("outputs/runs/*/run.json"):
        assert json.loads(path.read_text())["status"] in ("interrupted", "running")


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    states = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout.split()
    return any(not state.startswith("Z") for state in states)


def test_a_sweep_with_a_validation_split_scores_and_is_ranked_by_it(tmp_path: Path) -> None:
    log = "+hydra.callbacks.log={_target_: hydra.experimental.callbacks.LogJobReturnCallback}"
    words = ("model=mlp", "data.validation_size=5000", "epochs=1", "optimizer.lr=0.0003,0.03")
    done = command("-m", *words, "hydra/launcher=basic", log, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    finals = {}
    for path in tmp_path.glob("outputs/runs/*/metrics.csv"):
        rate = json.loads((path.parent / "run.json").read_text())["identity"]["optimizer"]["lr"]
        finals[rate] = pd.read_csv(path).iloc[-1]
        accuracy = finals[rate]["validation_accuracy"]
        assert accuracy != finals[rate]["test_accuracy"] and accuracy == round(accuracy * 5000) / 5000
        assert f"return value: {accuracy}" in done.stdout
        assert f"finished, validation accuracy {accuracy:.4f}" in done.stdout
    table = tables.comparison(collect(tmp_path / "outputs" / "runs")).cells
    assert table["Model"].tolist() == ["Custom MLP, lr=0.03", "Custom MLP, lr=0.0003"]
    assert table["Validation accuracy"].tolist() == [f"{finals[r]['validation_accuracy']:.4f}" for r in (0.03, 0.0003)]


def test_the_report_of_a_real_sweep(sweep: tuple[Path, str]) -> None:
    script = Path(__file__).parent.parent / "scripts" / "report.py"
    done = subprocess.run([sys.executable, str(script)], cwd=sweep[0].parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(sweep[0] / "report" / "comparison.csv")
    for _, row in table.iterrows():
        (metrics,) = [
            pd.read_csv(path)
            for path in (sweep[0] / "runs").glob("*/metrics.csv")
            if json.loads((path.parent / "run.json").read_text())["title"] == row["model"]
        ]
        assert row["test_accuracy"] == metrics["test_accuracy"].iloc[-1]
        assert row["n"] == 1
    assert set(table["model"]) == {"LeNet5", "LeNet5_regularized", "Custom MLP"}
    for extension in ("png", "svg"):
        assert len(list((sweep[0] / "report").rglob(f"*.{extension}"))) >= 16


def test_a_report_of_nothing_says_what_to_type(tmp_path: Path) -> None:
    script = Path(__file__).parent.parent / "scripts" / "report.py"
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "make sweep" in done.stderr and "Traceback" not in done.stderr


def test_a_sweep_without_results_fails(tmp_path: Path) -> None:
    done = command("-m", "model=mlp", "hydra.launcher.pre_dispatch=0", cwd=tmp_path)
    assert done.returncode == 1 and "Jobs: 1 without a result" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def test_closed_streams_lose_no_result(tmp_path: Path) -> None:
    words = f"{sys.executable} -m mnist_exp.run -m model=mlp protocol=published epochs=1 <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", words], cwd=tmp_path, timeout=120).returncode == 0
    assert json.loads(next(tmp_path.glob("outputs/runs/*/run.json")).read_text())["status"] == "finished"
