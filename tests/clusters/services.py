"""Services of other people's that a test starts, waits for and stops."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path


@contextlib.contextmanager
def service(
    words: Sequence[str], folder: Path, user: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the end of the block; then it is ended by its process id, with what it started.

    What it prints goes to ``folder``, in a file of its name.
    """
    with (folder / f"{Path(words[0]).name}.out").open("wb") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, user=user, env=environment, cwd="/", start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(ready: Callable[[], object], what: str, logs: Path, seconds: float = 300) -> None:
    """Return once ``ready()`` is true.

    Raises:
        TimeoutError: it took too long; with the last lines of the logs in a folder.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            paths = [path for path in sorted(logs.rglob("*")) if path.suffix in (".out", ".log")]
            tails = [f"{path}:\n{path.read_text(errors='replace')[-1500:]}" for path in paths]
            raise TimeoutError("\n".join([f"waited {seconds:.0f} s in vain until {what}", *tails]))
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens to."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
