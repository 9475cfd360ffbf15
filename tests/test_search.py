"""A search of six trials, some of which diverge: killed and finished, it is the search that nothing stopped."""

import csv
import importlib.util
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mnist_exp.runs.record import read_record
from tests.conftest import SCRIPTS, command, python, results, started, wait_until

MISSING = importlib.util.find_spec("optuna") is None
needs_optuna = pytest.mark.skipif(MISSING, reason="no Optuna here: pip install -e '.[search]'")

SEARCH = [
    *("experiment=search", "model=mlp", "protocol=published", "epochs=1", "hydra.sweeper.n_trials=6"),
    # Two trials at random, four from what is known of those before them; the largest rates diverge.
    *("hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.n_startup_trials=2"),
    "optimizer.lr=tag(log, interval(0.001, 100))",
]


def statuses(root: Path) -> dict[str, str]:
    """Run → how it ended, or that it has not."""
    paths = (root / "outputs" / "runs").glob("[!.]*/run.json")
    return {path.parent.name: read_record(path.parent).status for path in paths}


def validation_accuracy(run: Path) -> float:
    with (run / "metrics.csv").open(newline="") as file:
        return float([*csv.DictReader(file)][-1]["validation_accuracy"])


@pytest.mark.search
@needs_optuna
def test_a_search_that_was_killed_proposes_the_same_trials_and_finishes(tmp_path: Path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    done = command(*SEARCH, cwd=undisturbed)
    assert done.returncode == 0, done.stderr
    ended = statuses(undisturbed)
    finished = [name for name, status in ended.items() if status == "finished"]
    failed = [name for name, status in ended.items() if status == "failed"]
    assert len(finished) + len(failed) == 6 and finished and failed
    assert f"Jobs: {len(finished)} finished, {len(failed)} failed" in done.stdout
    assert len(re.findall("job . failed: the training loss became", done.stdout)) == len(failed)
    (best,) = undisturbed.glob("outputs/sweeps/*/optimization_results.yaml")
    scores = [validation_accuracy(undisturbed / "outputs" / "runs" / name) for name in finished]
    assert OmegaConf.load(best).best_value == max(scores)

    with started([sys.executable, "-m", "mnist_exp.run", *SEARCH], cwd=killed) as process:
        wait_until(lambda: "finished" in statuses(killed).values() or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = command(*SEARCH, cwd=killed)
    assert done.returncode == 0 and "already finished; skipped" in done.stdout, done.stderr
    assert statuses(killed) == ended
    assert results(killed / "outputs") == results(undisturbed / "outputs")
    shown = python(SCRIPTS / "status.py", check=True, cwd=killed).stdout
    assert shown.startswith(f"{len(failed)} failed, {len(finished)} finished")


@pytest.mark.search
@needs_optuna
def test_a_search_in_which_nothing_learns_says_so(tmp_path: Path) -> None:
    done = command(*SEARCH[:-1], "optimizer.lr=1e30", "hydra.sweeper.n_trials=2", cwd=tmp_path)
    assert done.returncode == 1
    assert "mnist_exp: no trial of the search has finished" in done.stderr and "Traceback" not in done.stderr
    assert "Jobs: 2 failed" in done.stdout


@pytest.mark.skipif(not MISSING, reason="Optuna is here")
def test_without_the_extra_it_is_one_sentence(tmp_path: Path) -> None:
    done = command("experiment=search", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "mnist_exp: an extra is needed: pip install -e '.[search]'\n"
