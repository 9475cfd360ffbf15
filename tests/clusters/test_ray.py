"""A sweep on a running Ray cluster, one of whose workers is killed, and the same bytes in the end."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import SoftFileLease

from tests.clusters import local_ray
from tests.clusters.conftest import SWEEP, RunningSweep
from tests.conftest import results

MISSING = local_ray.what_is_missing()
pytestmark = [pytest.mark.ray, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]


@pytest.fixture(scope="module")
def ray(service_folder: Path) -> Iterator[dict[str, str]]:
    with local_ray.running(service_folder) as environment:
        yield environment


def test_dead_workers_jobs_run_again_and_give_the_bytes_of_a_local_sweep(
    ray: dict[str, str], start: Callable[..., RunningSweep], expected: dict[str, bytes]
) -> None:
    sweep = start(ray, *SWEEP, "hydra/launcher=ray")
    for model, number in (("lenet5", signal.SIGKILL), ("lenet5r", signal.SIGTERM)):
        sweep.wait_for_an_epoch(model)
        os.kill(worker_of(sweep.run(model)), number)
    output = sweep.finish()
    assert "Jobs: 3 finished" in output
    assert [sweep.record(model)["resumed"] for model in ("lenet5", "lenet5r", "mlp")] == [1, 1, 0]
    assert results(sweep.folder / "outputs") == expected
    assert sweep.status().startswith("3 finished")


def worker_of(run: Path) -> int:
    owner = SoftFileLease(run.with_name(f".{run.name}.lock"), lease_duration=60).owner
    assert owner is not None
    return owner.pid
