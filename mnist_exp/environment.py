"""The machine a run is on: made deterministic, and described."""

import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from mnist_exp.config import DeviceConfig
from mnist_exp.errors import ConfigError

PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "mnist-exp")
COMPILERS = ("c++", "g++", "clang++")
PROJECT = Path(__file__).resolve().parent.parent
# What can change a number; a changed README does not make a run's code uncertain.
CODE = ("mnist_exp", "conf", "requirements.lock", "pyproject.toml")


def prepare(config: DeviceConfig) -> torch.device:
    """Fix what makes results vary (threads, the choice of algorithms), and find the device.

    Raises:
        ConfigError: this machine has no such device, or no C++ compiler where ``torch.compile`` needs one.
    """
    device = _find_device(config.name)
    if config.compile:
        _require_compiler()
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(config.threads)
    # On a GPU some operations have no deterministic form; run.json says that nothing is promised there.
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # That also fills all new memory, in case somebody reads it before writing; nobody here does, and
    # it takes up to 4 % of a training step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Have glibc keep what a training step frees, for the next.

    By itself it may give the memory back and ask for it anew in each step, page by page, and the system
    clears each page first: half of a LeNet5 step. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: tensors below it lie in the heap (32 MiB is the most allowed)
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD: how much may lie unused there


def describe(device: torch.device) -> dict[str, Any]:
    """What a reader needs to judge whether numbers should come out the same: JSON values, no paths."""
    commit, dirty = _git_state()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "deterministic": device.type == "cpu",
    }


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _find_device(name: str) -> torch.device:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if not available[name]:
        usable = ", ".join(kind for kind, there in available.items() if there)
        raise ConfigError(f"device={name}: PyTorch sees no such device on this machine; usable here: {usable}")
    return torch.device(name)


def _require_compiler() -> None:
    named = os.environ.get("CXX")
    if not any(shutil.which(compiler) for compiler in ([named] if named else COMPILERS)):
        raise ConfigError(
            f"device.compile=true: torch.compile needs a C++ compiler, and there is none here "
            f"({named or ', '.join(COMPILERS)}); install one, or name yours in the environment variable CXX"
        )


def _git_state() -> tuple[str | None, bool | None]:
    """The project's commit and whether its code differs from it; None outside a checkout of it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(PROJECT), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "mnist_exp/environment.py")  # not just inside somebody else's
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
