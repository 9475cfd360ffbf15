"""Hydra as this program starts it: on every Python, from every folder, with flags anywhere."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mnist_exp import run
from mnist_exp.cli import hydra_internals
from mnist_exp.cli.hydra_internals import CONFIG_FOLDER, _path_word, to_config
from tests.conftest import SCRIPTS, command, composed, python, results

PYTHON_3_14 = """
import argparse

def _check_help(self, action):  # as in Python 3.14's argparse
    if action.help and hasattr(self, "_get_formatter"):
        try:
            self._get_formatter()._expand_help(action)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError("badly formed help string") from error

def add_argument(self, *args, **kwargs):
    action = original(self, *args, **kwargs)
    self._check_help(action)
    return action

original = argparse._ActionsContainer.add_argument
if not hasattr(argparse._ActionsContainer, "_check_help"):
    argparse._ActionsContainer.add_argument = add_argument
    argparse._ActionsContainer._check_help = _check_help
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["model=mlp", "--cfg", "job"], ["-sc", "install=bash"], ["-sc", "query=bash"], ["--hydra-help"]],
)
def test_python_3_14_checks_help_texts_and_hydra_has_one_that_is_no_string(
    arguments: list[str], tmp_path: Path
) -> None:
    code = f"{PYTHON_3_14}\nfrom mnist_exp.run import main\nmain()\n"
    environment = os.environ | {"COMP_LINE": "mnist-exp model="}
    done = python("-c", code, *arguments, cwd=tmp_path, env=environment)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "--cfg" not in arguments or "mnist_exp.models.MLP" in done.stdout


def test_of_jobs_that_differ_only_in_their_seeds_one_is_composed_before_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    composed_jobs: list[list[str]] = []
    monkeypatch.setattr(hydra_internals, "_compose_all", lambda _, jobs: composed_jobs.extend(jobs))
    seeds = ("0", "1", "12", "x", "1.5", "-1")
    jobs = [[f"model={model}", f"seed={seed}", "epochs=1"] for model in ("lenet5", "mlp") for seed in seeds]
    hydra_internals._compose_some(None, [*jobs, ["model=mlp", "seed=0", "epochs=2"]])  # type: ignore[arg-type]
    kinds = [(job[0][6:], job[1][5:], job[2][7:]) for job in composed_jobs]
    of_one_model = ["12", "x", "1.5", "-1"]
    assert kinds == [(model, seed, "1") for model in ("lenet5", "mlp") for seed in of_one_model] + [("mlp", "0", "2")]


def test_a_single_run_that_changes_its_folder_writes_where_a_sweep_does(tmp_path: Path) -> None:
    words = ("model=mlp", "protocol=published", "epochs=1")
    done = command(*words, "hydra.job.chdir=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(results(tmp_path / "outputs")) == 3
    again = command(*words, cwd=tmp_path)
    assert "already finished; skipped" in again.stdout


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_root: Path) -> Path:
    """A home folder with the digits in it, and another folder to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "digits").symlink_to(digits_root)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.setenv("MNIST_EXP_DATA", "~/digits")
    return tmp_path / "home"


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_tilde_is_the_home_folder_in_every_path(sweep: list[str], home: Path) -> None:
    words = ("model=mlp", "protocol=published", "epochs=1", "output_root=~/results")
    done = command(*sweep, *words, cwd=home.parent / "work")
    assert done.returncode == 0, done.stderr
    assert len(results(home / "results")) == 3
    assert list((home.parent / "work").iterdir()) == []
    done = python(SCRIPTS / "download.py", cwd=home.parent / "work")
    assert f"mnist is in {home / 'digits'}, checked" in done.stdout


@pytest.mark.parametrize("text", ["2026_11_25", "1.50", "1e5", "true", "null", " x", "x "])
def test_a_path_that_looks_like_a_number_or_a_word_of_yaml_is_kept_as_it_is(text: str) -> None:
    assert to_config(composed(_path_word(f"output_root={text}"))).output_root == text
    assert _path_word(f"seed={text}") == f"seed={text}" and _path_word("output_root=a,b") == "output_root=a,b"


CHANGED = {
    "seed": 3,
    "epochs": 1,
    "batch_size": 32,
    "output_root": "elsewhere",
    "overwrite": True,
    "stale": "keep",
    "optimizer": {"lr": 0.5},
    "loss": {"label_smoothing": 0.1},
    "augment": {"_target_": "mnist_exp.augment.Shift"},
    "clip_norm": 2.0,
    "metrics": ["macro_f1"],
    "device": {"threads": 2},
    "data": {"validation_size": 7, "mean": 0.5},
    "protocol": {"train_split": "test", "eval_split": "train"},
}


@pytest.mark.parametrize("key", CHANGED)
def test_an_experiment_overrides_every_setting_and_the_command_line_overrides_it(key: str, tmp_path: Path) -> None:
    shutil.copytree(CONFIG_FOLDER, tmp_path / "conf")
    text = "# @package _global_\ndefaults:\n  - override /model: mlp\n" + OmegaConf.to_yaml({key: CHANGED[key]})
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
    config = vars(to_config(composed("experiment=mine", folder=tmp_path / "conf")))
    usual = vars(to_config(composed("model=mlp")))
    value = CHANGED[key]
    if isinstance(value, dict):
        found = config[key] if isinstance(config[key], dict) else vars(config[key])
        assert {name: found[name] for name in value} == value
    else:
        assert config[key] == value != usual[key]
        back = to_config(
            composed(
                "experiment=mine", f"{key}={'null' if usual[key] is None else usual[key]}", folder=tmp_path / "conf"
            )
        )
        assert vars(back)[key] == usual[key]
    assert config["model"] == usual["model"]


def test_every_root_key_is_tried_in_an_experiment() -> None:
    from mnist_exp.settings.schema import Config

    assert {*vars(Config)["__dataclass_fields__"]} == {*CHANGED, "model", "scheduler"}


def test_an_installed_package_has_its_settings_with_it(tmp_path: Path) -> None:
    """What ``pip install .`` puts into an environment, without installing it."""
    project = CONFIG_FOLDER.parent
    site = tmp_path / "site"
    words = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-compile"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(project), str(source)], check=True)
    subprocess.run([*words, "--target", str(site), str(source)], check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import mnist_exp.run; print(mnist_exp.run.__file__); mnist_exp.run.main()"
    done = python("-c", code, "model=mlp", "protocol=published", "epochs=1", cwd=tmp_path, env=environment)
    assert done.stdout.startswith(str(site)) and done.returncode == 0, done.stderr
    assert len(results(tmp_path / "outputs")) == 3


def test_settings_that_are_missing_are_no_fault_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hydra_internals, "CONFIG_FOLDER", tmp_path / "gone")
    with pytest.raises(SystemExit):
        run.main()
    said = f"mnist_exp: the folder of settings is missing: {tmp_path / 'gone'}; install mnist_exp again\n"
    assert capfd.readouterr().err == said
