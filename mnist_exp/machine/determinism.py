"""Make computation deterministic (instructions, threads, algorithms), and find the device."""

import ctypes
import os
import platform

import torch

from mnist_exp.errors import ConfigError
from mnist_exp.settings.schema import DeviceConfig

PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
"""What PyTorch's three libraries read once, before they first compute, so that all processors with AVX2 round alike.

MKL's AVX2 branch would be faster, but on processors of other makes MKL silently takes another branch.
"""
LIBRARY_SETTINGS = ("ATEN_CPU_", "ONEDNN_", "DNNL_", "MKL_")
"""Prefixes of the environment variables that could make these libraries compute differently."""
_arithmetic_in_use: str | None = None
"""The arithmetic that this process has used."""


def make_deterministic(config: DeviceConfig) -> torch.device:
    """Fix the processor's instructions, the number of threads and the choice of algorithms, and find the device.

    Call it before PyTorch computes anything in this process.

    Raises:
        ConfigError: this machine has no such device, or this process has used the other arithmetic.
    """
    _fix_arithmetic(config.arithmetic)
    device = _find_device(config.name)
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    # On a GPU some operations have no deterministic form; run.json says that nothing is promised there.
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # `use_deterministic_algorithms` also fills new tensors, in case they are read before they are written. Nothing here
    # does that, and filling takes up to 4 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    tune_malloc()
    return device


def why_not_portable(device: torch.device) -> str | None:
    """Why a run's bytes may differ on another processor with AVX2; None where they don't."""
    if _arithmetic_in_use == "native":
        return "device.arithmetic is native"
    if is_exact():
        return None
    if device.type != "cpu":
        return "a GPU rounds in its own way"
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return "this processor has no AVX2 and FMA (Intel since 2013, AMD since 2015)"
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return "this PyTorch is built without MKL or oneDNN"
    return None


def is_exact() -> bool:
    """Whether this process computes with the kernels of `mnist_exp.exact`."""
    return _arithmetic_in_use == "exact"


def _fix_arithmetic(arithmetic: str) -> None:
    """Have PyTorch's libraries use the same instructions on all processors, or the fastest of this one."""
    global _arithmetic_in_use
    if _arithmetic_in_use is None:
        for name in list(os.environ):
            if name.startswith(LIBRARY_SETTINGS) and not name.endswith("_VERBOSE"):
                del os.environ[name]
        if arithmetic != "native" and torch.cpu._is_avx2_supported():
            os.environ.update(PORTABLE)
        _arithmetic_in_use = arithmetic
    if _arithmetic_in_use != arithmetic:
        raise ConfigError(
            f"device.arithmetic={arithmetic}: this process has computed with {_arithmetic_in_use} arithmetic and "
            "cannot change it; use one command for each arithmetic"
        )


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
    if name == "auto":  # never MPS: it has no float64, and models this small run faster on a CPU
        name = "cuda" if available["cuda"] else "cpu"
    if not available[name]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise ConfigError(f"device={name}: PyTorch finds no such device on this machine; usable here: {usable}")
    return torch.device(name)
