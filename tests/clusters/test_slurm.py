"""Sweeps on a real SLURM: cancelled, timed out, preempted, queued again, and the same bytes in the end."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clusters import local_slurm
from tests.clusters.conftest import SWEEP, RunningSweep
from tests.conftest import results

MISSING = local_slurm.what_is_missing()
pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]
Start = Callable[..., RunningSweep]


@pytest.fixture(scope="module")
def slurm(service_folder: Path) -> Iterator[dict[str, str]]:
    with local_slurm.running(service_folder) as environment:
        yield environment


def test_cancelled_and_timed_out_jobs_go_on_and_give_the_bytes_of_a_local_sweep(
    slurm: dict[str, str], start: Start, expected: dict[str, bytes]
) -> None:
    sweep = start(slurm, *SWEEP, "hydra/launcher=submitit_slurm")

    sweep.wait_for_an_epoch("lenet5")
    array = job_id(sweep)
    slurm_command(slurm, "scancel", f"{array}_0")
    sweep.wait_for(lambda: state(slurm, f"{array}_0") == "CANCELLED", "SLURM has cancelled a job")
    sweep.wait_for(lambda: re.search(r"lenet5-\S+ +interrupted +[1-5]/6", sweep.status()), "the job is dead")
    slurm_command(slurm, "scontrol", "requeue", f"{array}_0")

    sweep.wait_for_an_epoch("lenet5r")
    # What SLURM does before a job's time is up.
    slurm_command(slurm, "scancel", "--signal=USR2", f"{array}_1")

    output = sweep.finish()
    assert "Jobs: 3 finished" in output
    assert [sweep.record(model)["resumed"] for model in ("lenet5", "lenet5r", "mlp")] == [1, 1, 0]
    assert results(sweep.folder / "outputs") == expected
    assert sweep.status().startswith("3 finished")


def test_a_preempted_job_goes_on(slurm: dict[str, str], start: Start) -> None:
    sweep = start(slurm, "-m", "model=mlp", "epochs=5000", "hydra/launcher=submitit_slurm")
    sweep.wait_for_an_epoch("mlp")
    # It takes both CPUs, so SLURM warns our job with SIGTERM, kills it when its time of grace is over (it
    # looks twice a minute), and queues it again.
    slurm_command(slurm, "sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    metrics = sweep.run("mlp") / "metrics.csv"
    sweep.wait_for(lambda: re.search(r"mlp-\S+ +interrupted ", sweep.status()), "SLURM has killed the job")
    before = metrics.read_bytes()
    sweep.wait_for(lambda: len(metrics.read_bytes()) > len(before), "the job goes on")
    assert metrics.read_bytes().startswith(before) and sweep.record("mlp")["resumed"] == 1
    slurm_command(slurm, "scancel", "--partition=main")


def test_a_job_that_finds_no_digits_says_how_to_fetch_them(slurm: dict[str, str], start: Start, tmp_path: Path) -> None:
    # As on a node that does not see the digits' disk.
    absent = tmp_path / "absent"
    there = f"hydra.launcher.setup=['export MNIST_EXP_DATA={absent}']"
    output = start(slurm, "-m", "model=mlp", "epochs=1", "hydra/launcher=submitit_slurm", there).finish(code=1)
    assert f"finds no MNIST in {absent}" in output and f"python scripts/download.py {absent}" in output
    assert "Jobs: 1 failed" in output and not list(tmp_path.glob("outputs/runs/*"))


def slurm_command(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout


def state(environment: dict[str, str], job: str) -> str:
    shown = slurm_command(environment, "scontrol", "show", "job", job)
    match = re.search(r"JobState=(\w+)", shown)
    assert match is not None, shown
    return match[1]


def job_id(sweep: RunningSweep) -> str:
    (folder,) = sweep.folder.glob("outputs/sweeps/*/.submitit/*_0")
    return folder.name.partition("_")[0]
