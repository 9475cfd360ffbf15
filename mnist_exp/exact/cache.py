"""Compiled kernels: where they are kept, and that one process compiles them."""

import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import llvmlite
import llvmlite.binding
import numba

from mnist_exp.files import one_process_in

T = TypeVar("T", bound=Callable[..., object])


@functools.cache
def folder() -> Path:
    """The folder of the compiled kernels: one for each state of this room's files, Python, numba and kind of processor.

    Numba itself notices only changes of the file that holds a kernel, not of those that it uses.
    """
    processor = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    versions = (platform.python_version(), numba.__version__, llvmlite.__version__)
    key = hashlib.sha256(" ".join((*versions, processor)).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        key.update(path.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = caches / "mnist_exp" / f"exact-{key.hexdigest()[:16]}"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home folder that cannot be written to; what others can write to would not be safe to load
        place = Path(tempfile.mkdtemp(prefix="mnist_exp-"))
    return place


def jit(function: T) -> T:
    """Compile a kernel when it is first called, or take it from the folder."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder())
    try:
        compiled: T = numba.njit(cache=True, error_model="numpy", nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
    return compiled


def compile_once(call_all: Callable[[], None]) -> None:
    """Have all kernels compiled: by one process, while others wait; after that, they are loaded from the folder."""
    done = folder() / "complete"
    if done.exists():
        return
    with one_process_in(folder()):
        if not done.exists():
            print("compiling the kernels of device.arithmetic=exact, once on this kind of processor", flush=True)
            call_all()
            done.touch()
