"""Which edits of the code make a run stale, tried on a copy of the package; and what a stale run becomes."""

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from pytest import MonkeyPatch

from mnist_exp import job
from mnist_exp.cli import verify
from mnist_exp.cli.status import describe_run
from mnist_exp.errors import ConfigError
from mnist_exp.machine import fingerprint
from mnist_exp.runs.record import read_record
from tests.conftest import Capture, Execute, kill_after, python, results

PROJECT = Path(__file__).parents[2]
MODELS = ("LeNet5", "LeNet5Regularized", "MLP")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """A copy of the package, whose code is taken for that of this process."""
    folder = tmp_path / "mnist_exp"
    shutil.copytree(PROJECT / "mnist_exp", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "PROJECT", tmp_path)
    monkeypatch.setattr(fingerprint, "EQUIVALENT", folder / "machine" / "equivalent_code.toml")
    forget()
    return folder


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Other tests see the package itself."""
    yield
    forget()


def forget() -> None:
    for cached in (fingerprint._checksum, fingerprint._local_code, fingerprint._parse, fingerprint._declared):
        cached.cache_clear()
    importlib.invalidate_caches()


def present_code(target: str) -> dict[str, str]:
    """The checksums of the code that a run of this model would have now."""
    forget()
    return fingerprint.present_code({"model": {"target": target}, "optimizer": {"target": "torch.optim.SGD"}})


def edit(package: Path, file: str, old: str, new: str) -> None:
    path = package / file
    text = path.read_text(encoding="utf-8")
    assert old in text, old
    path.write_text(text.replace(old, new), encoding="utf-8")
    forget()


ALL = set(MODELS)
EDITS: dict[str, tuple[str, str, str, set[str], str]] = {
    "a layer": ("models/mlp.py", "nn.Linear(32 * 32, 60)", "nn.Linear(32 * 32, 100)", {"MLP"}, "model"),
    "a class that others inherit from": ("models/lenet5.py", "(120, 84)", "(120, 80)", ALL - {"MLP"}, "model"),
    "the order in forward": ("models/mlp.py", "relu(self.hidden1(", "(self.hidden1(", {"MLP"}, "model"),
    "what a name stands for": ("models/mlp.py", "import relu", "import gelu as relu", {"MLP"}, "model"),
    "a default": ("models/lenet5_regularized.py", "dropout: float = 0.5", "dropout: float = 0.4", {MODELS[1]}, "model"),
    "the loss": ("training.py", "loss = state.loss(batch", "loss = 2 * state.loss(batch", ALL, "training"),
    "a message": ("training.py", "usually helps", "often helps", ALL, "training"),
    "what is drawn from the seed": ("settings/factory.py", "seed(config.seed)", "seed(1)", ALL, "training"),
    "normalisation": ("data/images.py", ".div_(255)", ".div_(256)", ALL, "data"),
    "folders of images": ("data/decoding.py", "Resampling.BILINEAR", "Resampling.NEAREST", ALL, "data"),
    "threads": ("machine/determinism.py", "set_num_threads(config.threads)", "set_num_threads(2)", ALL, "machine"),
    "memory layout": ("machine/layout.py", 'capability() == "AVX2"', 'capability() != "AVX2"', ALL, "machine"),
    "a comment": ("training.py", "# less work than", "# no more work than", set(), ""),
    "a docstring": ("training.py", "Leaves the model in evaluation mode.", "And nothing else.", set(), ""),
    "layout of the text": ("models/mlp.py", "nn.Linear(60, 20)", "nn.Linear(\n            60, 20)", set(), ""),
    "what decides and prints": ("job.py", "training it anew", "again", set(), ""),
    "what stores": ("runs/record.py", 'timespec="seconds"', 'timespec="minutes"', set(), ""),
    "what fetches": ("data/fetch.py", "TIMEOUT = 15", "TIMEOUT = 30", set(), ""),
    "what apologises": ("errors.py", "out of memory{amount}", "no memory{amount}", set(), ""),
    "another network": ("models/__init__.py", "import MLP\n", "import MLP\nimport mnist_exp.models.new\n", set(), ""),
}


@pytest.mark.parametrize(("file", "old", "new", "models", "part"), EDITS.values(), ids=EDITS)
def test_an_edit_changes_the_part_that_it_is_in_and_no_other(
    file: str, old: str, new: str, models: set[str], part: str, package: Path
) -> None:
    before = {model: present_code(f"mnist_exp.models.{model}") for model in MODELS}
    edit(package, file, old, new)
    for model, code in before.items():
        after = present_code(f"mnist_exp.models.{model}")
        assert {name for name in code if code[name] != after[name]} == ({part} if model in models else set())


IMPORTS = [
    ("from layers import gain", "layers.py"),
    ("import layers", "layers.py"),
    ("from layers import *", "layers.py"),
    ("from layers.inner import gain", "layers/inner.py"),
    ("import layers.inner", "layers/inner.py"),
    ("from layers import gain", "layers/inner.py"),
    ("from layers.deep.inner import gain", "layers/deep/inner.py"),
    ("from .layers import gain", "own/layers.py"),
    ("from . import layers", "own/layers.py"),
    ("from mnist_exp.layers import gain", "mnist_exp/layers.py"),
    ("def f():\n    from layers import gain", "layers.py"),
    ("try:\n    import layers\nexcept ImportError:\n    pass", "layers.py"),
    ("SIZES = 'layers.json'", "own/layers.json"),
]


@pytest.mark.parametrize(("line", "file"), IMPORTS)
def test_local_modules_are_followed_however_they_are_imported(
    line: str, file: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network in a package of its own, beside ours; its layers are in another one."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "nets.py").write_text(f"{line}\n\n\nclass Net: ...\n")
    (tmp_path / "own" / "other.py").write_text("class Other: ...\n")
    helper = tmp_path / file
    helper.parent.mkdir(parents=True, exist_ok=True)
    if file == "layers/inner.py":
        helper.with_name("__init__.py").write_text("from .inner import gain\n")
    codes = []
    for gain in (2, 3):
        helper.write_text(f"GAIN = {gain}")
        codes.append((present_code("own.nets.Net"), present_code("own.other.Other")))
    (before, other), (after, other_after) = codes
    assert {part for part in before if before[part] != after[part]} == {"model"} and other == other_after


def test_installed_packages_count_by_their_version(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "nets.py").write_text("import PIL.Image\nimport json\nimport yaml\n\n\nclass Net: ...\n")
    found = fingerprint.present_versions({"model": {"target": "nets.Net"}})
    assert [*found] == ["numpy", "pillow", "pyyaml", "torch", "torchvision"] or "PyYAML" in found
    assert found["torch"] == torch_version() and None not in found.values()
    assert "optimizer" not in present_code("nets.Net")  # torch.optim is torch's
    assert fingerprint.other_versions({"torch": "2", "numpy": "1"}, {"torch": "3"}) == "torch 3 (now 2)"


def test_what_pip_installed_into_a_folder_of_its_own_counts_by_its_version(
    tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    for module in ("theirs/nets.py", "theirs/__init__.py", "single.py"):
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "model" in present_code("theirs.nets.Net")
    fingerprint._local_code.cache_clear()
    fingerprint._is_of_pip.cache_clear()
    (tmp_path / "theirs-1.0.dist-info").mkdir()  # pip install --target
    for target in ("theirs.nets.Net", "theirs.Net", "single.Net"):
        assert "model" not in present_code(target)


def test_code_that_cannot_be_read_is_named(package: Path) -> None:
    edit(package, "models/mlp.py", "class MLP(", "class MLP((")
    with pytest.raises(ConfigError, match=r"mlp\.py, line \d+: "):
        present_code("mnist_exp.models.MLP")


MLP = ("model=mlp", "epochs=1")


def test_a_stale_run_is_trained_anew_or_kept(package: Path, execute: Execute, tmp_path: Path, capsys: Capture) -> None:
    name = Path(execute(*MLP).folder).name
    before = results(tmp_path)
    edit(package, "models/mlp.py", "nn.Linear(32 * 32, 60)", "nn.Linear(32 * 32, 100)")
    capsys.readouterr()
    assert execute(*MLP, "stale=keep").skipped
    assert capsys.readouterr().out == f"{name}: trained by other code: MLP; kept, since stale=keep\n"
    assert not execute(*MLP).skipped
    assert capsys.readouterr().out.splitlines()[0] == f"{name}: trained by other code: MLP; training it anew"
    assert execute(*MLP).skipped
    assert results(tmp_path) == before  # this process still has the code from before the edit


def test_damaged_declarations_are_named(package: Path, execute: Execute) -> None:
    run = Path(execute(*MLP).folder)
    fingerprint.EQUIVALENT.write_text("<<<<<<< HEAD")
    for whoever in (lambda: execute(*MLP), lambda: describe_run(run)):  # it is not the run that is damaged
        forget()
        with pytest.raises(ConfigError, match=r"equivalent_code.toml cannot be read: "):
            whoever()


def test_a_declared_change_makes_nothing_stale(package: Path, execute: Execute) -> None:
    run = Path(execute(*MLP).folder)
    edit(package, "training.py", "EVALUATION_BATCH = 250", "EVALUATION_BATCH = 500")
    record = read_record(run)
    before, changes = fingerprint.EQUIVALENT.read_text(encoding="utf-8"), verify.undeclared_changes([record])
    assert [part for part, *_ in changes] == ["training"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "EQUIVALENT", fingerprint.EQUIVALENT)
        verify.declare('larger "batches" \N{ROCKET}\n', changes)
    forget()
    assert not verify.undeclared_changes([record])
    assert execute(*MLP).skipped
    text = fingerprint.EQUIVALENT.read_text(encoding="utf-8")
    assert text.startswith(before) and text[len(before) :].count("[[change]]") == 1
    assert 'part = "training"' in text[len(before) :]
    edit(package, "training.py", "EVALUATION_BATCH = 500", "EVALUATION_BATCH = 700")
    assert not execute(*MLP).skipped


@pytest.mark.parametrize("pairs", [["ab", "ba"], ["ab", "ac"], ["ba", "bc"], ["ab", "bc", "ca"]])
def test_declarations_never_take_an_equivalence_away(pairs: list[str], package: Path) -> None:
    changes = "".join(f'[[change]]\npart = "data"\nold = "{old}"\nnew = "{new}"\n' for old, new in map(tuple, pairs))
    fingerprint.EQUIVALENT.write_text(changes)
    forget()
    assert len({fingerprint.canonical_checksum("data", each) for each in "".join(pairs)}) == 1
    assert fingerprint.canonical_checksum("data", "d") == "d" and fingerprint.canonical_checksum("model", "a") == "a"


@pytest.mark.parametrize(
    ("changed", "under"),
    [("code", "other code: MLP;"), ("versions", rf"numpy .*torch {torch.__version__[0]}\S* \(now 9.9\);")],
)
def test_a_killed_run_of_other_code_or_versions_starts_from_the_beginning(
    changed: str, under: str, package: Path, execute: Execute, tmp_path: Path, monkeypatch: MonkeyPatch, capsys: Capture
) -> None:
    words = ("model=mlp", "epochs=3")
    execute(*words, root=tmp_path / "fresh")
    kill_after(2, execute, words, monkeypatch)
    if changed == "code":
        edit(package, "models/mlp.py", "nn.Linear(60, 20)", "nn.Linear(60, 20, bias=False)")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        if changed == "versions":
            patch.setattr(job, "present_versions", lambda _: {"numpy": "9.9", "torch": "9.9"})
        run = Path(execute(*words).folder)
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(f"{run.name}: interrupted under {under} training it from the start", said[0])
    assert [line.partition("epoch ")[2][:3] for line in said[1:]] == ["1/3", "2/3", "3/3"]
    assert results(tmp_path) == results(tmp_path / "fresh")
    assert [start["from_epoch"] for start in read_record(run).starts] == [0]
    assert execute(*words).skipped  # a finished run of other versions is kept
    finished = "already finished, with numpy 9.9 (now " if changed == "versions" else "already finished; skipped"
    assert capsys.readouterr().out.startswith(f"{run.name}: {finished}")


def test_a_resumed_run_tells_its_whole_story(execute: Execute, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    words = ("model=mlp", "epochs=3")
    kill_after(2, execute, words, monkeypatch)
    record = read_record(Path(execute(*words).folder))
    assert [start["from_epoch"] for start in record.starts] == [0, 2] and record.resumed == 1
    for start in record.starts:
        assert start["code"] == record.code and start["packages"]["torch"] == torch_version()
        assert {"time", "git_commit", "git_dirty", "python", "cpu", "cpu_capability"} <= start.keys()


def torch_version() -> str:
    return str(torch.__version__).partition("+")[0]


@pytest.mark.slow
def test_the_same_command_after_an_edit_trains_all_runs_anew(tmp_path: Path, digits_root: Path) -> None:
    """Whole commands, in a checkout: three seeds, then an edited model and four; and with stale=keep."""
    project = tmp_path / "project"
    subprocess.run(["git", "clone", "-q", str(PROJECT), str(project)], check=True)
    words = ["git", "-C", str(PROJECT), "diff", "--name-only", "--diff-filter=d", "HEAD"]
    for name in subprocess.run(words, capture_output=True, text=True, check=True).stdout.split():
        shutil.copy(PROJECT / name, project / name)

    def run(*words: str) -> str:
        done = python(*words, cwd=project, env=os.environ | {"PYTHONPATH": str(project)})
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def reported() -> tuple[str, pd.DataFrame]:
        return run("scripts/report.py"), pd.read_csv(project / "outputs" / "report" / "comparison.csv")

    sweep = ("-m", "mnist_exp.run", "-m", "model=mlp", "epochs=2", "protocol=published", "hydra/launcher=basic")
    run(*sweep, "seed=0,1,2")
    path = project / "mnist_exp" / "models" / "mlp.py"
    wider = path.read_text().replace("32 * 32, 60)", "32 * 32, 100)").replace("nn.Linear(60, 20)", "nn.Linear(100, 20)")
    path.write_text(wider)
    said = run(*sweep, "seed=0,1,2,3", "stale=keep")
    assert "Jobs: 1 finished, 3 skipped" in said and said.count("MLP; kept, since stale=keep") == 3
    said, table = reported()
    assert "warning: Custom MLP: its 4 runs of one setting differ in the code of the model, the number of param" in said
    assert table[["parameters", "n"]].to_numpy().tolist() == [[62_930, 3], [104_730, 1]]
    assert len({*table["model"]}) == 2 and "parameters=62930" in table["model"][0]
    assert "Not averaged." in (project / "outputs" / "report" / "index.html").read_text()
    assert "3 stale, 1 finished" in run("scripts/status.py")

    said = run(*sweep, "seed=0,1,2,3")
    assert "Jobs: 3 finished, 1 skipped" in said
    assert said.count("trained by other code: MLP; training it anew") == 3
    said, table = reported()
    assert "warning" not in said
    assert table[["model", "parameters", "n"]].to_numpy().tolist() == [["Custom MLP", 104_730, 4]]
