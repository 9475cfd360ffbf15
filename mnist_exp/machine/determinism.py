"""Fix what makes results vary, and find the device."""

import ctypes
import os
import platform

import torch

from mnist_exp.errors import ConfigError
from mnist_exp.settings.schema import DeviceConfig


def make_deterministic(config: DeviceConfig) -> torch.device:
    """Fix the number of threads and the choice of algorithms, and find the device.

    Raises:
        ConfigError: this machine has no such device.
    """
    device = _find_device(config.name)
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    # On a GPU some operations have no deterministic form; run.json says that nothing is promised there.
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # That also fills all new memory, in case somebody reads it before writing; nobody here does, and
    # it takes up to 4 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    tune_malloc()
    return device


def tune_malloc() -> None:
    """Have glibc keep the memory that a training step frees, for the next step.

    Otherwise it may return the memory to the system and request it anew in each step, page by page, and
    the system clears each page first: half of a LeNet5 step. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: smaller tensors are in the heap (32 MiB is the most allowed)
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: how much may be unused there


def _find_device(name: str) -> torch.device:
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":  # never MPS, where float64 is missing and nothing is as fast as these models on a CPU
        name = "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise ConfigError(f"device={name}: PyTorch finds no such device on this machine; usable here: {usable}")
    return torch.device(name)
