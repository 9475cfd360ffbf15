"""Components in files of somebody's own, outside the checkout: those of docs/extend.md, with every promise kept."""

import math
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from PIL import Image

from mnist_exp import run
from mnist_exp.api import read_runs
from mnist_exp.cli.verify import EQUAL, verify
from mnist_exp.errors import ConfigError, RunFolderError
from mnist_exp.inference.onnx_file import to_onnx
from mnist_exp.inference.trained import load_run
from mnist_exp.machine import fingerprint
from mnist_exp.report.build import build
from mnist_exp.report.collect import collect
from mnist_exp.runs.record import read_record
from mnist_exp.settings import components
from tests.conftest import SCRIPTS, Capture, Execute, kill_after, python, results
from tests.machine.test_fingerprint import forget

PROJECT = SCRIPTS.parent
PAGE = (PROJECT / "docs" / "extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# ((?:mine|conf)/\S+)\n(.*?)```", PAGE, re.DOTALL))
(COMMAND,) = re.findall(r"^python -m mnist_exp\.run -m (model=small_net,mlp .*)$", PAGE, re.MULTILINE)
OWN = ("model=small_net", "optimizer=lion", "scheduler=linear_decay", "loss=focal", "augment=noise", "clip_norm=1")


ODD = """
import numpy as np
import torch
from torch import nn
from mnist_exp.metrics import metric

@metric
def accuracy(logits, labels):
    return 0.5

@metric
def vector(logits, labels):
    return logits[0]

@metric
def fails(logits, labels):
    return 1 / 0

class Detached(nn.Module):
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits.detach(), labels)

class Global(nn.Module):
    def forward(self, images, generator):
        return images + float(np.random.rand())

class Needs(nn.Module):
    def __init__(self, width, classes=10):
        super().__init__()

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, images):
        return images, images

class Gelu(nn.Module):
    def __init__(self, act=nn.GELU, classes=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(1024, classes), act())

    def forward(self, images):
        return self.layers(images)
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's files, as they stand there, in a folder that PYTHONPATH names."""
    root = tmp_path_factory.mktemp("somewhere")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "mine" / "odd.py").write_text(ODD, encoding="utf-8")
    sys.path.insert(0, str(root))
    forget()
    yield root
    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    forget()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two hundred pictures of three classes, as settings."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(200):
        folder = root / ("train" if number % 4 else "test") / "abc"[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (28, 28))
        pixels[:, 9 * (number % 3) : 9 * (number % 3) + 9] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    words = (f"data.train_dir={root}/train", f"data.test_dir={root}/test", f"data.root={root}/data")
    return ["data=image_folder", *words, "epochs=2", "batch_size=10"]


def on_path(mine: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{mine}{os.pathsep}{PROJECT}"}


@pytest.fixture(scope="module")
def swept(mine: Path, digits: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's command was run, in reused processes: two networks, one of them of one's own."""
    place = tmp_path_factory.mktemp("place")
    words = [word.strip("'") for word in COMMAND.split()]
    words = ["-m", "mnist_exp.run", "-m", "--config-dir", str(mine / "conf"), *words, *digits]
    done = python(*words, cwd=place, env=on_path(mine))
    assert done.returncode == 0 and "2 finished" in done.stdout, done.stdout + done.stderr
    done = python(*words, cwd=place, env=on_path(mine))
    assert "2 skipped" in done.stdout, done.stdout + done.stderr
    return place


def test_a_sweep_has_the_metrics_as_columns_and_in_the_report(swept: Path, mine: Path) -> None:
    for script in ("report.py", "status.py"):
        done = python(SCRIPTS / script, cwd=swept, env=on_path(mine))
        assert done.returncode == 0, done.stderr
    assert "stale" not in done.stdout
    table = pd.read_csv(swept / "outputs/report/comparison.csv")
    assert set(table["model"]) == {"Small net", "Custom MLP"}
    assert table["test_macro_f1"].between(0, 1).all() and (table["test_top3"] == 1).all()  # of three classes
    assert list((swept / "outputs/report").glob("*/all-test-top3.svg"))
    (group,) = [group for group in collect(swept / "outputs/runs").groups if group.label == "Small net"]
    assert group.own_metrics == ["test_macro_f1", "test_top3"]


def test_an_archive_is_checked_where_it_is_unpacked(swept: Path, mine: Path, digits: list[str], tmp_path: Path) -> None:
    for name in ("one.zip", "two.zip"):
        done = python(SCRIPTS / "archive.py", "--out", tmp_path / name, cwd=swept, env=on_path(mine))
        assert done.returncode == 0, done.stderr
    assert "2 runs" in done.stdout
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        archive.extractall(tmp_path / "there")
    there = tmp_path / "there"
    page = (there / "CHECK.md").read_text(encoding="utf-8")
    (name,) = re.findall(r"make verify RUNS=(\S+)", page)
    named = ("LICENSE", "CITATION.cff", "requirements.lock", "mine/lion.py", "outputs/report/index.html", "SHA256SUMS")
    assert all((there / name).is_file() for name in named)
    folders = [f"--{word.partition('.')[2].replace('_', '-')}" for word in digits[1:3]]
    done = python(there / "scripts/verify.py", there / name, *folders, cwd=there)
    assert "equal, bit for bit" in done.stdout, done.stdout + done.stderr
    missing = python(SCRIPTS / "archive.py", "--runs", tmp_path, cwd=swept)
    assert missing.returncode == 1 and "has no finished runs; train some" in missing.stderr


@pytest.fixture
def own(mine: Path, execute: Execute) -> Execute:
    """Run a job with the page's components, in this process."""

    def execute_own(*words: str, **options: Any) -> Any:
        return execute(*words, f"hydra.searchpath=[file://{mine}/conf]", "epochs=3", **options)

    return execute_own


def test_killed_and_resumed_verified_predicted_exported(
    own: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(*OWN, "metrics=[macro_f1,mine.metrics.top3]", root=tmp_path / "whole")
    kill_after(1, own, (*OWN, "metrics=[macro_f1,mine.metrics.top3]"), monkeypatch)
    result = own(*OWN, "metrics=[macro_f1,mine.metrics.top3]")
    assert results(tmp_path / "whole") == results(tmp_path)
    record = read_record(Path(result.folder))
    assert record.resumed == 1 and record.identity["optimizer"]["target"] == "mine.lion.Lion"
    assert {*(record.code or {})} >= {"model", "optimizer", "scheduler", "loss", "augment"}
    found = verify(Path(result.folder))
    assert found.verdict == EQUAL, found.details
    model = load_run(result.folder)
    assert onnx.load_from_string(to_onnx(model)).graph.node
    assert model.logits(np.zeros((1, 28, 28), np.uint8)).shape == (1, 10)


def test_other_metrics_start_an_interrupted_run_anew_and_leave_a_finished_one(
    own: Execute, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_after(1, own, OWN, monkeypatch)
    own(*OWN, "metrics=[macro_f1]")
    assert "interrupted with other metrics; training it from the start" in capsys.readouterr().out
    assert own(*OWN, "metrics=[macro_f1]").skipped and own(*OWN).skipped
    assert own(*OWN, "metrics=[mine.metrics.top3]").skipped
    assert "already finished, without top3; skipped (overwrite=true" in capsys.readouterr().out


USES = {"small_net": "model", "lion": "optimizer", "linear_decay": "scheduler", "focal": "loss", "noise": "augment"}


@pytest.mark.parametrize("file", [*USES, "metrics"])
def test_an_edit_makes_stale_exactly_what_uses_it(file: str, mine: Path, own: Execute) -> None:
    record = read_record(Path(own(*OWN).folder))
    path = mine / "mine" / f"{file}.py"
    text = path.read_text(encoding="utf-8")
    usual = {"model": {"target": "mnist_exp.models.LeNet5"}, "optimizer": {"target": "torch.optim.SGD"}}
    before = fingerprint.present_code(usual)
    try:
        path.write_text(text + "\n\nEDITED = True\n", encoding="utf-8")
        forget()
        other = fingerprint.other_code(record.identity, fingerprint.present_code(record.identity), record.code)
        names = {"model": "SmallNet", "optimizer": "Lion", "scheduler": "LinearDecay", "loss": "FocalLoss"}
        assert other == (names | {"augment": "Noise"}).get(USES.get(file, ""), "")
        assert fingerprint.present_code(usual) == before
    finally:
        path.write_text(text, encoding="utf-8")
        forget()


def test_a_component_of_an_installed_package_counts_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for lion-pytorch, laid out as pip installs it."""
    site = tmp_path / "site-packages"
    (site / "lion_pytorch").mkdir(parents=True)
    (site / "lion_pytorch" / "__init__.py").write_text(FILES["mine/lion.py"], encoding="utf-8")
    info = site / "lion_pytorch-0.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lion-pytorch\nVersion: 0.2.3\n")
    (info / "top_level.txt").write_text("lion_pytorch\n")
    monkeypatch.syspath_prepend(site)
    forget()
    identity = {"optimizer": components.component_identity("optimizer", {"_target_": "lion_pytorch.Lion", "lr": 0.1})}
    assert identity["optimizer"]["beta2"] == 0.99
    assert "optimizer" not in fingerprint.present_code(identity)
    versions = fingerprint.present_versions(identity)
    assert versions["lion-pytorch"] == "0.2.3"
    assert fingerprint.other_versions(versions | {"lion-pytorch": "0.3"}, versions) == "lion-pytorch 0.2.3 (now 0.3)"


def test_the_pages_program_works_as_pasted(mine: Path, digits: list[str], tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(from mnist_exp\.api.*?)```", PAGE, re.DOTALL)
    assert len(program.strip().splitlines()) <= 8
    more = [*digits, f"hydra.searchpath=[file://{mine}/conf]"]
    program = program.replace('"epochs=1"]', f'"epochs=1", *{more!r}]')
    done = python("-c", program, cwd=tmp_path, env=on_path(mine))
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^\d +Small net +[48] +0 +[\d.]+$", done.stdout, re.MULTILINE)) == 2, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model._target_=mine.nowhere.Net"], "mine.nowhere cannot be imported .*found beside mnist_exp/ or in"),
        (["model._target_=mine.small_net.SmalNet"], "there is no SmalNet in mine.small_net; did you mean SmallNet"),
        (["model._target_=os.system"], "must name a class that inherits from torch.nn.Module, such as"),
        (["model._target_=null"], "model._target_ must name a class, such as mnist_exp.models.LeNet5, not None"),
        (["optimizer._target_=mine.small_net.SmallNet"], "a class that inherits from torch.optim.optimizer.Optimizer"),
        (["metrics=[os.system]"], "metrics=os.system: must name a function with the decorator"),
        (["metrics=[macro_f]"], "there is no macro_f in mnist_exp.metrics; did you mean macro_f1"),
        (["metrics=[mine.odd.accuracy]"], "metrics=mine.odd.accuracy: there is another metric called accuracy"),
        (["metrics=[mine.odd.vector]"], r"metrics=mine.odd.vector: logits .* give no number "),
        (["metrics=[mine.odd.fails]"], r"metrics=mine.odd.fails: logits .* give no number \(ZeroDivisionError"),
        (
            ["loss._target_=torch.nn.Linear", "~loss.label_smoothing", "+loss.in_features=10", "+loss.out_features=1"],
            "loss",
        ),
        (["loss=cross_entropy", "+loss.reduction=sum"], "it must give one number, a mean over images"),
        (["loss._target_=mine.odd.Detached", "~loss.label_smoothing"], "loss: its result has no gradient"),
        (["augment._target_=torch.nn.Flatten"], "augment: "),
        (["augment._target_=mine.odd.Global"], "augment: with equal generators it gives different images"),
        (["model._target_=mine.odd.Needs"], r"^model: .* missing 1 required positional argument: 'width'"),
        (["model._target_=mine.odd.Pair"], r"gives tuple for images .*; \[2, 10\] is needed"),
        (["clip_norm=0"], "clip_norm=0.0: must be a number greater than 0, or null"),
        (["scheduler=warmup_cosine", "scheduler.warmup=2"], "warmup must be from 0 to less than 1"),
        (["scheduler=linear_decay", "~scheduler.interval"], "scheduler.interval=None: must be one of epoch, step"),
    ],
)
def test_what_is_no_component_is_refused_in_a_sentence(words: list[str], message: str, own: Execute) -> None:
    with pytest.raises(ConfigError, match=message):
        own(*words)


def test_defaults_that_are_no_json_have_a_name_in_the_identity(mine: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self, act: Any = torch.nn.GELU, sizes: Any = (1, 2), limit: float = math.inf, **_: Any) -> None:
            super().__init__()

    sys.modules["mine.small_net"].Net = Net  # type: ignore[attr-defined]
    found = components.component_identity("model", {"_target_": "mine.small_net.Net", "depth": 3})
    assert found["act"] == "torch.nn.modules.activation.GELU" and found["sizes"] == [1, 2]
    assert found["limit"] == "inf" and found["depth"] == 3


def test_a_network_whose_default_is_a_class_is_loaded_again(own: Execute) -> None:
    folder = Path(own("model._target_=mine.odd.Gelu").folder)
    assert read_record(folder).identity["model"]["act"] == "torch.nn.modules.activation.GELU"
    assert load_run(folder).logits(np.zeros((1, 28, 28), np.uint8)).shape == (1, 10)
    assert verify(folder).verdict == EQUAL


def test_runs_with_and_without_a_metric_are_in_one_report(own: Execute, tmp_path: Path) -> None:
    own("model=mlp", "metrics=[macro_f1]", "seed=0")
    own("model=mlp", "seed=1")
    own("model=small_net", "metrics=[mine.metrics.top3]")
    own("model=small_net", "optimizer=lion", "metrics=[macro_f1]")
    build(tmp_path / "runs", tmp_path / "report", tmp_path)
    table = pd.read_csv(tmp_path / "report" / "comparison.csv").set_index("model")
    assert [label for label in table.index if table["test_macro_f1"][label] > 0] == [
        label for label in table.index if "Lion" in label
    ]  # of the MLP, only one of two seeds has the metric
    assert table["test_top3"].notna().sum() == 1
    with pytest.raises(RunFolderError, match="there is no such folder of runs"):
        read_runs(tmp_path / "nowhere")


def test_a_run_whose_file_is_gone_is_stale(own: Execute, mine: Path) -> None:
    record = read_record(Path(own(*OWN).folder))
    path = mine / "mine" / "noise.py"
    text = path.read_text(encoding="utf-8")
    try:
        path.unlink()
        forget()
        present = fingerprint.present_code(record.identity)
        assert fingerprint.other_code(record.identity, present, record.code) == "Noise"
    finally:
        path.write_text(text, encoding="utf-8")
        forget()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("metrics=macro_f1", "mnist_exp: metrics=macro_f1: write a list, in brackets: metrics=[macro_f1]"),
        ("model.widht=4", "mnist_exp: there is no setting model.widht; "),
        ("optimizer.momentun=4", "mnist_exp: there is no setting optimizer.momentun; did you mean optimizer.momentum?"),
        ("model.classes=4", "mnist_exp: there is no setting model.classes; it follows from the data"),
    ],
)
def test_a_slip_on_the_command_line_gets_one_sentence(word: str, message: str, capsys: Capture) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["run", word])
        run.main()
    assert end.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(message)
