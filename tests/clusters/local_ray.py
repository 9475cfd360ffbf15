"""A Ray cluster of this machine alone, on its loopback, started and stopped by its user."""

import contextlib
import importlib.util
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.clusters.services import free_ports, service, wait_for

RAY = Path(sys.executable).parent / "ray"


def what_is_missing() -> str | None:
    """Why Ray cannot be started here, or None where it can."""
    there = RAY.exists() and importlib.util.find_spec("hydra_plugins.hydra_ray_launcher")
    return None if there else "no Ray here: pip install -e '.[ray]'"


@contextlib.contextmanager
def running(folder: Path, cpus: int = 2) -> Iterator[dict[str, str]]:
    """``ray start --head`` with so many CPUs; yields the environment in which a driver finds it.

    The folder's path must be short, since Ray makes sockets in it.
    """
    port = free_ports(1)[0]
    environment = os.environ | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as there, Ray then keeps to the loopback
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ADDRESS": f"127.0.0.1:{port}",
    }
    words = [str(RAY), "start", "--head", "--block", f"--num-cpus={cpus}", "--include-dashboard=false"]
    words += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}"]
    words += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
    started = {key: value for key, value in environment.items() if key != "RAY_ADDRESS"}
    with service(words, folder, environment=started):
        output = folder / "ray.out"
        wait_for(lambda: "Ray runtime started" in output.read_text(), "ray start is ready", folder)
        yield environment
