"""Which edits of the code make a run stale: each is tried on a real run, of a copy of the package."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from mnist_exp import job
from mnist_exp.errors import ConfigError
from mnist_exp.machine import fingerprint, syntax
from mnist_exp.runs.record import read_record
from tests.conftest import Execute, kill_after, results

RUN = ("model=lenet5r", "epochs=1")
PROJECT = Path(__file__).parents[2]
REPLACE = tuple[str, str, str]

# The lines of the table in docs/usage.md, and an edit for each: file, old text, new text.
STALE: dict[str, REPLACE] = {
    "a layer of its model": ("models.py", "self.N3 = nn.BatchNorm2d(16)", "self.N3 = nn.BatchNorm2d(16, eps=1e-3)"),
    "a layer of a class that its model inherits from": (
        "models.py",
        "nn.Linear(120, 84)",
        "nn.Linear(120, 84, bias=False)",
    ),
    "a default value, or a constant that is used": ("models.py", "dropout: float = 0.5", "dropout: float = 0.4"),
    "the order of operations in `forward`": (
        "models.py",
        "self.dropout(relu(self.F6(features)))",
        "relu(self.dropout(self.F6(features)))",
    ),
    "which function a name stands for": ("models.py", "max_pool2d, relu", "avg_pool2d as max_pool2d, relu"),
    "the loss": (
        "training.py",
        "loss = cross_entropy(batch_logits, targets)",
        "loss = 2 * cross_entropy(batch_logits, targets)",
    ),
    "the size of evaluation batches": ("training.py", "EVALUATION_BATCH = 250", "EVALUATION_BATCH = 500"),
    "when the schedule steps": (
        "training.py",
        "if not state.step_scheduler_per_batch:",
        "if state.step_scheduler_per_batch:",
    ),
    "what is drawn from the seed": ("job.py", "torch.manual_seed(config.seed)", "torch.manual_seed(config.seed + 1)"),
    "which split is trained on": ("job.py", "(train, evaluation), checksums", "(evaluation, train), checksums"),
    "how pixels are normalised": ("data/images.py", ".div_(255)", ".div_(256)"),
    "how images are resized": ("data/images.py", "antialias=True", "antialias=False"),
    "how files are parsed": ("data/idx.py", '0x08: ">u1"', '0x08: ">i1"'),
    "how an optimizer or a schedule is built": (
        "settings/factory.py",
        '"steps_per_epoch"] = steps_per_epoch',
        '"steps_per_epoch"] = 2 * steps_per_epoch',
    ),
    "how the machine is made deterministic": (
        "machine/determinism.py",
        "set_num_threads(config.threads)",
        "set_num_threads(2)",
    ),
    "what a module does when it is imported": (
        "__init__.py",
        "__version__",
        "import torch\n\ntorch.nn.Linear.bias = None\n__version__",
    ),
    "how results become files": ("runs/results.py", "logits.softmax(dim=1)", "logits.double().softmax(dim=1)"),
}
FRESH: dict[str, REPLACE] = {
    "comments": ("models.py", "        # ReLU and max-pooling commute;", "        # They commute;"),
    "docstrings": ("training.py", "Leaves the model in evaluation mode.", "And nothing else."),
    "layout: line breaks, quotes, parentheses": ("models.py", "unparse", ""),
    "type annotations": (
        "training.py",
        "def _accuracy(logits: Tensor, labels: Tensor) -> float:",
        "def _accuracy(logits, labels):",
    ),
    "a new class beside its model": (
        "models.py",
        "class MLP(nn.Module):",
        "class New(nn.Module):\n    pass\n\n\nclass MLP(nn.Module):",
    ),
    "another model": ("models.py", "nn.Linear(32 * 32, 60)", "nn.Linear(32 * 32, 100)"),
    "the text of an error": ("training.py", "the training loss became", "the loss of training became"),
    "a constant that only an error's text uses": (
        "training.py",
        "a smaller optimizer.lr usually helps",
        "lower the rate",
    ),
    "what is printed": ("job.py", "training it anew", "again"),
    "what is recorded about a run": ("runs/record.py", 'timespec="seconds"', 'timespec="minutes"'),
    "the report": ("report/figures.py", "MAX_TOGETHER, MAX_ALONE = 8, 4", "MAX_TOGETHER, MAX_ALONE = 9, 5"),
    "messages, progress and signals": ("cli/messages.py", "repeat the command to resume", "once more"),
    "where files are fetched from (their contents are checked)": ("data/fetch.py", "TIMEOUT = 15", "TIMEOUT = 30"),
    "how folders of PNG files are read, for runs on other data": (
        "data/folders.py",
        "Image.Resampling.BILINEAR",
        "Image.Resampling.NEAREST",
    ),
    "which settings are refused": ("settings/factory.py", '"SparseAdam": "it needs sparse gradients",', ""),
    "the meaning of a setting, in words": ("settings/schema.py", "Where the arithmetic happens.", "Where."),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, whose code is taken for that of this process."""
    folder = tmp_path / "mnist_exp"
    shutil.copytree(syntax.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(syntax, "PACKAGE", folder)
    monkeypatch.setattr(fingerprint, "EQUIVALENT", folder / "machine" / "equivalent_code.toml")
    forget()
    return folder


@pytest.fixture(autouse=True)
def forgotten() -> object:
    """Other tests see the package itself."""
    yield
    forget()


def forget() -> None:
    syntax.parse_module.cache_clear()
    fingerprint._declared.cache_clear()


def present_code(model: str, data: str = "mnist") -> dict[str, str]:
    """The checksums of the code that a run of this model would have now."""
    return fingerprint.present_code({"model": {"target": f"mnist_exp.models.{model}"}, "data": {"name": data}})


def edit(package: Path, file: str, old: str, new: str) -> None:
    path = package / file
    text = path.read_text(encoding="utf-8")
    if old == "unparse":
        path.write_text(ast.unparse(ast.parse(text)), encoding="utf-8")
    else:
        assert old in text, old
        path.write_text(text.replace(old, new), encoding="utf-8")
    forget()


def test_code_that_cannot_be_read_is_named(package: Path) -> None:
    edit(package, "models.py", "class MLP(", "class MLP((")
    with pytest.raises(ConfigError, match=r"models\.py, line \d+: "):
        present_code("MLP")


@pytest.mark.parametrize("what", STALE)
def test_what_makes_a_run_stale(
    what: str, package: Path, execute: Execute, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(*RUN)
    before = results(tmp_path)
    edit(package, *STALE[what])
    capsys.readouterr()
    assert not execute(*RUN).skipped
    said = capsys.readouterr().out.splitlines()[0]
    assert re.search(r"-seed0-[0-9a-f]{8}: trained by other code: .*; training it anew$", said)
    assert execute(*RUN).skipped
    assert results(tmp_path) == before  # this process still has the code from before the edit


@pytest.mark.parametrize("what", FRESH)
def test_what_does_not_make_a_run_stale(what: str, package: Path, execute: Execute) -> None:
    execute(*RUN)
    edit(package, *FRESH[what])
    assert execute(*RUN).skipped


def test_the_documented_table_is_the_tested_one() -> None:
    text = (PROJECT / "docs" / "usage.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (stale|not stale) \|$", text, re.MULTILINE)
    assert [what for what, verdict in rows if verdict == "stale"] == [*STALE]
    assert [what for what, verdict in rows if verdict == "not stale"] == [*FRESH]


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("models.py", "nn.Linear(32 * 32, 60)", "nn.Linear(32 * 32, 100)", "MLP"),
        ("training.py", "EVALUATION_BATCH = 250", "EVALUATION_BATCH = 500", "the training loop"),
        ("data/images.py", ".div_(255)", ".div_(256)", "data loading"),
        ("machine/determinism.py", "set_num_threads(config.threads)", "set_num_threads(2)", "the machine's settings"),
    ],
)
def test_the_part_that_differs_is_named(
    file: str, old: str, new: str, part: str, package: Path, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    execute("model=mlp", "epochs=1")
    edit(package, file, old, new)
    assert execute("model=mlp", "epochs=1", "stale=keep").skipped
    assert capsys.readouterr().out.endswith(f": trained by other code: {part}; kept, since stale=keep\n")


def test_folders_of_images_depend_on_how_they_are_read(package: Path) -> None:
    before = present_code("MLP", data="png_folder")
    edit(package, "data/folders.py", "Image.Resampling.BILINEAR", "Image.Resampling.NEAREST")
    after = present_code("MLP", data="png_folder")
    assert {part for part in before if before[part] != after[part]} == {"data"}


HELPERS: list[tuple[str, Callable[[str], str]]] = [
    ("from mnist_exp.layers import gain", str),
    ("from .layers import gain", str),
    ("from mnist_exp.layers import *", str),
    ("from mnist_exp import layers", lambda text: text.replace("gain(", "layers.gain(")),
    ("from mnist_exp import layers", lambda text: text.replace("gain(", "getattr(layers, 'gain')(")),
]


@pytest.mark.parametrize(("line", "use"), HELPERS, ids=[*"abcde"])
def test_a_helper_in_another_module_is_followed(line: str, use: Callable[[str], str], package: Path) -> None:
    edit(package, "models.py", "import torch\n", f"import torch\n{line}\n")
    edit(package, "models.py", "relu(self.hidden1(", use("gain(") + "relu(self.hidden1(")
    edit(
        package,
        "models.py",
        "digits.flatten(1)))\n        features = relu(self.hidden2",
        "digits.flatten(1))))\n        features = relu(self.hidden2",
    )
    layers = package / "layers.py"
    layers.write_text("FACTOR = 2\n\n\ndef gain(x):\n    return FACTOR * x\n")
    before = present_code("MLP")
    forget()
    layers.write_text("FACTOR = 3\n\n\ndef gain(x):\n    # a comment\n    return FACTOR * x\n")
    assert present_code("MLP")["model"] != before["model"]


USES = {
    "re-exported class": (
        "models.py",
        "import torch\n",
        "import torch\nfrom mnist_exp.layers import Net as MLP2\n",
        "MLP2",
    ),
    "imported in a function": (
        "models.py",
        "        self.hidden2 =",
        "        from mnist_exp.layers import FACTOR\n        FACTOR\n        self.hidden2 =",
        "MLP",
    ),
    "dotted": (
        "models.py",
        "        self.hidden2 =",
        "        mnist_exp.layers.gain(1)\n        self.hidden2 =",
        "MLP",
    ),
    "in a try": (
        "models.py",
        "import torch\n",
        "import torch\ntry:\n    from mnist_exp.layers import gain\nexcept ImportError:\n    gain = None\n",
        "MLP",
    ),
    "a statement of the module": (
        "models.py",
        "import torch\n",
        "import torch\nfrom mnist_exp import layers\n\nfor each in (1, 2):\n    layers.gain(each)\n",
        "MLP",
    ),
}


@pytest.mark.parametrize("how", USES)
def test_helpers_are_followed_however_they_are_reached(how: str, package: Path) -> None:
    file, old, new, name = USES[how]
    edit(package, file, old, new)
    if how == "dotted":
        edit(package, file, "import torch\n", "import mnist_exp.layers\nimport torch\n")
    if how == "in a try":
        edit(package, file, "self.hidden2 = ", "gain(1); self.hidden2 = ")
    (package / "layers").mkdir()
    (package / "layers" / "__init__.py").write_text("from .inner import *\n")
    inner = package / "layers" / "inner.py"
    text = "FACTOR = 2\n\n\ndef gain(x):\n    return FACTOR * x\n\n\nclass Net:\n    size = FACTOR\n"
    inner.write_text(text)
    forget()
    before = present_code(name)
    inner.write_text(text.replace("FACTOR = 2", "FACTOR = 3"))
    forget()
    after = present_code(name)
    assert after["model"] != before["model"]


@pytest.mark.parametrize("line", ["import mnist_exp.layers", "from mnist_exp import layers  # noqa: F401"])
@pytest.mark.parametrize("file", ["models.py", "__init__.py", "data/__init__.py"])
def test_modules_imported_for_what_they_do_are_followed(line: str, file: str, package: Path) -> None:
    if file == "models.py":
        edit(package, file, "import torch\n", f"import torch\n{line}\n")
    else:
        (package / file).write_text(f"{line}\n")
    layers = package / "layers.py"
    layers.write_text("import torch\n\ntorch.nn.Linear.reset = 1\n")
    forget()
    before = present_code("MLP")
    layers.write_text("import torch\n\ntorch.nn.Linear.reset = 2\n")
    forget()
    assert present_code("MLP") != before


def test_a_constant_behind_two_stars_is_followed(package: Path) -> None:
    edit(package, "models.py", "import torch\n", "import torch\nfrom mnist_exp.layers import *\n")
    edit(package, "models.py", BEFORE_MLP, f"class Two(nn.Module):\n    factor = FACTOR\n\n\n{BEFORE_MLP}")
    (package / "layers.py").write_text("from mnist_exp.inner import *\n")
    (package / "inner.py").write_text("FACTOR = 2\n")
    forget()
    before = present_code("Two")
    (package / "inner.py").write_text("FACTOR = 3\n")
    forget()
    assert present_code("Two")["model"] != before["model"]


def test_a_file_of_numbers_beside_a_model_is_part_of_it(package: Path) -> None:
    edit(package, "models.py", BEFORE_MLP, f"{BEFORE_MLP[:-4]}Gain:\n    file = 'gain.json'\n\n\n{BEFORE_MLP}")
    (package / "gain.json").write_text("1")
    forget()
    before = present_code("Gain")
    (package / "gain.json").write_text("2")
    forget()
    assert present_code("Gain")["model"] != before["model"]


BEFORE_MLP = "class MLP("
C5 = "        features = relu(self.C5"
EDITS: list[tuple[str, str, str, bool]] = [
    ("models.py", BEFORE_MLP, f"for model in (LeNet5,):\n    model.forward = None\n\n\n{BEFORE_MLP}", True),
    ("models.py", BEFORE_MLP, f"_ = setattr(LeNet5, 'forward', None)\n\n\n{BEFORE_MLP}", True),
    (
        "models.py",
        BEFORE_MLP,
        f"if True:\n    def forward(x):\n        y = x\n        return y\n\n\n{BEFORE_MLP}",
        True,
    ),
    ("models.py", BEFORE_MLP, f"if __name__ == '__main__':\n    LeNet5()\n\n\n{BEFORE_MLP}", False),
    ("models.py", BEFORE_MLP, f"if TYPE_CHECKING:\n    import io\n\n\n{BEFORE_MLP}", False),
    ("models.py", C5, f"        if self.__class__.__name__ == 'LeNet5':\n            maps = 2 * maps\n{C5}", True),
    ("models.py", BEFORE_MLP, f"if TYPE_CHECKING:\n    S = 1\nelse:\n    torch.nn.S = 2\n\n\n{BEFORE_MLP}", True),
    ("models.py", BEFORE_MLP, f"A, B = 1, 2\n\n\n{BEFORE_MLP}", False),
    ("models.py", C5, f"        logger.info('here')\n{C5}", False),
    ("models.py", C5, f"        print(torch.rand(1))\n{C5}", True),
    ("models.py", C5, f"        print('here')\n{C5}", False),
    ("models.py", C5, f"        self.print(maps)\n{C5}", True),
    ("models.py", "logits: Tensor = self.output(features)", "logits = self.output(features)", False),
    ("training.py", "NUM_CLASSES = 10", "NUM_CLASSES: int = 10", False),
    ("__init__.py", "__version__", "import torch\n\ntorch.set_default_dtype(torch.float64)\n__version__", True),
    ("job.py", "    _check_last_batch(state.", "    state.model.train()\n    _check_last_batch(state.", True),
    ("job.py", "train_size / result.train_seconds", "1", True),
    ("runs/results.py", "writer.writerows(rows)", "writer.writerows(rows[1:])", True),
    ("runs/folder.py", "self.final_path = runs / name", "self.final_path = runs / str(name)", False),
    ("data/idx.py", 'raise DataError(f"a file', 'raise ValueError(f"a file', True),
]


@pytest.mark.parametrize(("file", "old", "new", "stale"), EDITS)
def test_less_common_edits(file: str, old: str, new: str, stale: bool, package: Path) -> None:
    before = present_code("LeNet5")
    edit(package, file, old, new)
    assert (present_code("LeNet5") != before) == stale


def test_damaged_declarations_are_named(package: Path, execute: Execute) -> None:
    from mnist_exp.cli.status import read_run

    run = Path(execute("model=mlp", "epochs=1").folder)
    fingerprint.EQUIVALENT.write_text("<<<<<<< HEAD")
    forget()
    with pytest.raises(ConfigError, match=r"equivalent_code.toml cannot be read: "):
        execute("model=mlp", "epochs=1")
    with pytest.raises(ConfigError, match=r"equivalent_code.toml cannot be read: "):
        read_run(run)  # it is not the run that is damaged


def test_a_declared_change_makes_nothing_stale(package: Path, execute: Execute) -> None:
    from mnist_exp.cli import verify

    run = Path(execute(*RUN).folder)
    edit(package, "training.py", "EVALUATION_BATCH = 250", "EVALUATION_BATCH = 500")
    record = read_record(run)
    before, changes = fingerprint.EQUIVALENT.read_text(encoding="utf-8"), verify.undeclared_changes([record])
    assert [part for part, *_ in changes] == ["training"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "EQUIVALENT", fingerprint.EQUIVALENT)
        verify.declare('larger "batches" \N{ROCKET}\n', changes)
    forget()
    assert not verify.undeclared_changes([record])
    assert execute(*RUN).skipped
    text = fingerprint.EQUIVALENT.read_text(encoding="utf-8")
    assert text.startswith(before) and text[len(before) :].count("[[change]]") == 1
    assert 'part = "training"' in text[len(before) :]
    edit(package, "training.py", "EVALUATION_BATCH = 500", "EVALUATION_BATCH = 700")
    assert not execute(*RUN).skipped


@pytest.mark.parametrize("pairs", [["ab", "ba"], ["ab", "ac"], ["ba", "bc"], ["ab", "bc", "ca"]])
def test_declarations_never_take_an_equivalence_away(pairs: list[str], package: Path) -> None:
    changes = "".join(f'[[change]]\npart = "data"\nold = "{old}"\nnew = "{new}"\n' for old, new in map(tuple, pairs))
    fingerprint.EQUIVALENT.write_text(changes)
    forget()
    assert len({fingerprint.representative("data", each) for each in "".join(pairs)}) == 1
    assert fingerprint.representative("data", "d") == "d" and fingerprint.representative("model", "a") == "a"


def test_only_few_files_are_parsed() -> None:
    """A run may spend 50 ms on it; a test must not depend on speed, so this one counts files."""
    forget()
    present_code("LeNet5Regularized")
    assert syntax.parse_module.cache_info().misses <= 14


def test_a_killed_run_whose_layer_was_changed_starts_from_the_beginning(
    package: Path, execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=mlp", "epochs=3")
    execute(*words, root=tmp_path / "fresh")
    kill_after(2, execute, words, monkeypatch)
    edit(package, "models.py", "nn.Linear(60, 20)", "nn.Linear(60, 20, bias=False)")
    capsys.readouterr()
    run = Path(execute(*words).folder)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{run.name}: interrupted under other code: MLP; training it from the start"
    assert [line.partition("epoch ")[2][:3] for line in said[1:]] == ["1/3", "2/3", "3/3"]
    assert results(tmp_path) == results(tmp_path / "fresh")
    assert [start["from_epoch"] for start in read_record(run).starts] == [0]


def test_a_killed_run_of_other_versions_starts_from_the_beginning_and_a_finished_one_keep_finished_run(
    execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model=mlp", "epochs=3")
    kill_after(2, execute, words, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(job, "installed_version", lambda name: "9.9")
        run = Path(execute(*words).folder)
        said = capsys.readouterr().out
        assert f"{run.name}: interrupted under torch {torch_version()} (now 9.9), numpy " in said
        assert "training it from the start" in said and "1/3" in said
    assert execute(*words).skipped  # its provenance has the true versions
    assert capsys.readouterr().out == f"{run.name}: already finished; skipped (overwrite=true trains it again)\n"
    monkeypatch.setattr(job, "installed_version", lambda name: "9.9")
    assert execute(*words).skipped
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{run.name}: already finished, with torch {torch_version()} (now 9.9), numpy ")
    assert line.endswith("; skipped (overwrite=true trains it again)")


def test_a_resumed_run_tells_its_whole_story(execute: Execute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    for name in subprocess.run(
        ["git", "-C", str(PROJECT), "diff", "--name-only", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.split():
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, project / name)

    def run(script: str, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, *script.split(), *words],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    words = ("-m", "model=mlp", "epochs=2", "protocol=published", "hydra/launcher=basic")
    run("-m mnist_exp.run", *words, "seed=0,1,2")
    path = project / "mnist_exp" / "models.py"
    wider = path.read_text().replace("32 * 32, 60)", "32 * 32, 100)").replace("nn.Linear(60, 20)", "nn.Linear(100, 20)")
    path.write_text(wider)
    said = run("-m mnist_exp.run", *words, "seed=0,1,2,3", "stale=keep")
    assert "Jobs: 1 finished, 3 skipped" in said and said.count("MLP; kept, since stale=keep") == 3
    said = run("scripts/report.py")
    assert "warning: Custom MLP: its 4 runs of one setting differ in the code of the model, the number of param" in said
    table = pd.read_csv(project / "outputs" / "report" / "comparison.csv")
    assert table[["parameters", "n"]].to_numpy().tolist() == [[62_930, 3], [104_730, 1]]
    assert len({*table["model"]}) == 2 and "parameters=62930" in table["model"][0]
    assert "Not averaged." in (project / "outputs" / "report" / "index.html").read_text()
    assert "3 stale, 1 finished" in run("scripts/status.py")

    said = run("-m mnist_exp.run", *words, "seed=0,1,2,3")
    assert "Jobs: 3 finished, 1 skipped" in said
    assert said.count("trained by other code: MLP; training it anew") == 3
    assert "warning" not in run("scripts/report.py")
    table = pd.read_csv(project / "outputs" / "report" / "comparison.csv")
    assert table[["model", "parameters", "n"]].to_numpy().tolist() == [["Custom MLP", 104_730, 4]]
