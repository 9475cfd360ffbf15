"""Where a run was made: commit, package versions, processor and device, as JSON values for ``run.json``."""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mnist_exp.files import PROJECT
from mnist_exp.machine.determinism import why_not_portable
from mnist_exp.machine.fingerprint import installed_version

PACKAGES = ("hydra-core", "omegaconf", "mnist-exp")
"""Packages whose versions are recorded, beside those that can change a number."""
CODE = ("mnist_exp", "conf", "requirements.lock", "pyproject.toml")
"""What can change a number; a changed README does not make a run's code uncertain."""
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
"""Variables that lead to another repository, as hooks set them."""


def provenance(device: torch.device, versions: Mapping[str, str | None]) -> dict[str, Any]:
    """Commit, versions (those given, and some more), processor and threads: JSON values, no paths."""
    commit, dirty = _git_state()
    return {
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "packages": {**versions} | {name: installed_version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "deterministic": device.type == "cpu",
        "portable": why_not_portable(device) is None,
    }


def _git_state() -> tuple[str | None, bool | None]:
    """The project's commit and whether its code differs from it; None outside a checkout of it."""

    def git(*arguments: str) -> str:
        # A checkout may belong to another user, as in containers; Git would refuse to read it.
        command = ["git", "-c", "safe.directory=*", "-C", str(PROJECT), *arguments]
        here = {key: value for key, value in os.environ.items() if key not in GIT_PLACES}
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30, env=here).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "mnist_exp/run.py")  # not just inside somebody else's checkout
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
