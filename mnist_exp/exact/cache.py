"""Compiled kernels: where they are kept, and that one process compiles them."""

import atexit
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba

from mnist_exp.files import one_process_in


def _find_folder() -> Path:
    """The folder of the compiled kernels: one for each state of this package's files, Python, numba and processor.

    Numba itself notices only changes of the file that holds a kernel, not of those that it uses.
    """
    processor = numba.config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    versions = f"{platform.python_version()} {numba.__version__} {llvmlite.__version__}"
    key = hashlib.sha256(f"{__file__} {versions} {processor}".encode())  # numba, too, keeps them by the files' places
    for path in sorted(Path(__file__).parent.glob("*.py")):
        key.update(path.read_bytes())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = caches / "mnist_exp" / f"exact-{key.hexdigest()[:16]}"
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError:  # a home folder that cannot be written to; what others can write to would not be safe to load
        place = Path(tempfile.mkdtemp(prefix="mnist_exp-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


FOLDER = _find_folder()
numba.config.CACHE_DIR = str(FOLDER)
jit = numba.njit(cache=True, error_model="numpy", nogil=True)
"""A function is compiled when it is first called, or taken from the folder."""


def compile_once(call_all: Callable[[], None]) -> None:
    """Have all kernels compiled: by one process, while others wait; after that, they are loaded from the folder."""
    done = FOLDER / "complete"
    if done.exists():
        return
    with one_process_in(FOLDER):
        if not done.exists():
            print("compiling the kernels of device.arithmetic=exact, once on this kind of processor", flush=True)
            call_all()
            done.touch()
