"""What users did in their second hour: two checkouts, two commands in one process, odd sweeps, odd environments."""

import os
import shutil
from pathlib import Path

import pytest
from matplotlib.font_manager import get_font_names
from omegaconf import OmegaConf

from mnist_exp import files
from mnist_exp.cli.sweep import check_sweep
from mnist_exp.errors import ConfigError
from mnist_exp.text import slug
from tests.conftest import SCRIPTS, python
from tests.report.conftest import write_run

PROJECT = SCRIPTS.parent


def test_a_script_runs_the_code_of_its_checkout(tmp_path: Path) -> None:
    for folder in ("mnist_exp", "scripts"):
        shutil.copytree(PROJECT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "mnist_exp" / "cli" / "status.py"
    path.write_text(path.read_text().replace("The state of all runs", "The other checkout's runs"))
    assert "The other checkout's runs" in python(tmp_path / "scripts" / "status.py", "--help", cwd=PROJECT).stdout
    for script in (tmp_path / "scripts").glob("[a-z]*.py"):
        assert "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))" in script.read_text(), script.name


TWICE = """
import sys
from hydra.plugins.sweeper import Sweeper
check = Sweeper.validate_batch_is_legal
from mnist_exp.run import main

def run(*words):
    sys.argv = ["mnist_exp", *words]
    try:
        main()
    except SystemExit as end:
        print("exit", end.code, flush=True)

run("-m", "model=mlp", "epochs=1", "protocol=published", "hydra/launcher=basic")
run("model=mlp", "epochs=1", "protocol=published")
run("model=vgg")
assert Sweeper.validate_batch_is_legal is check  # another Hydra program in this process is checked as ever
"""


def test_two_commands_in_one_process_know_nothing_of_each_other(tmp_path: Path) -> None:
    done = python("-c", TWICE, cwd=tmp_path)
    first, second, third, *_ = done.stdout.split("exit ")
    assert "Jobs: 1 finished" in first and "Jobs:" not in second + third and "already finished" in second
    assert done.stdout.endswith("exit 1\n")
    assert done.stderr == "mnist_exp: model=vgg: there is no such model; there are: lenet5, lenet5r, mlp\n"


@pytest.mark.parametrize(
    ("hydra", "jobs", "message"),
    [
        ({}, [["experiment=quick"], ["experiment=search"]], "an experiment is a sweep of its own; use one command"),
        ({}, [["device.arithmetic=native"], ["+device.arithmetic=portable"]], "one sweep has one arithmetic"),
        ({"sweeper": {"storage": "sqlite:///x.db"}}, [], "a search has no storage, since its runs are its memory"),
        ({"launcher": {"backend": "threading"}}, [], "leave backend and prefer out"),
        (
            {},
            [["model=lenet5", "model.dropout=0.1"], ["model=lenet5r", "model.dropout=0.1"]],
            "model=lenet5 has no setting model.dropout, which model=lenet5r has; use one command for each, such as "
            "-m model=lenet5r model.dropout=",
        ),
    ],
)
def test_a_sweep_over_what_one_command_has_once_is_refused(
    hydra: dict[str, dict[str, str]], jobs: list[list[str]], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_sweep(OmegaConf.create({"hydra": {"sweeper": {}, "launcher": {}} | hydra}), jobs)
    assert message in str(caught.value)


def test_a_disk_that_refuses_to_flush_folders_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shares of VirtualBox and CIFS: EINVAL for folders, not for files."""
    flush = os.fsync

    def refuse(number: int) -> None:
        if os.path.isdir(f"/dev/fd/{number}"):  # noqa: PTH112
            raise OSError(22, "Invalid argument")
        flush(number)

    monkeypatch.setattr(os, "fsync", refuse)
    files.write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_users_matplotlibrc_changes_no_byte(tmp_path: Path) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.bbox: tight\naxes.facecolor: red\n")
    for out, environment in (("plain", {}), ("theirs", {"MATPLOTLIBRC": str(tmp_path)})):
        words = (SCRIPTS / "report.py", "--runs", tmp_path / "runs", "--out", tmp_path / out)
        done = python(*words, cwd=tmp_path, env=os.environ | environment)
        assert done.returncode == 0, done.stderr
    contents = [
        {path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
        for out in ("plain", "theirs")
    ]
    assert contents[0] == contents[1] and len(contents[0]) > 20


def test_titles_of_any_script_name_files_and_a_font_that_lacks_them_is_said(tmp_path: Path) -> None:
    assert slug("데이터, Größe 2") == "데이터-größe-2" and len(slug("字" * 90).encode()) <= 200
    write_run(tmp_path / "runs", title="데이터")
    done = python(SCRIPTS / "report.py", "--runs", tmp_path / "runs", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0 and list(tmp_path.glob("out/*/데이터-confusion.svg"))
    has_font = any("CJK" in name for name in get_font_names())
    assert done.stderr.count("warning: no font here has all characters") == int(not has_font)
