"""Exact arithmetic on other processors, emulated: ``python -m tests.exact.processors`` writes the table of the docs.

Kernels are compiled here for each processor, since to compile them there takes minutes, and then run there.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pandas as pd

from mnist_exp.files import PROJECT

PACKAGES = Path(numpy.__file__).parents[1]
X86 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+64bit"
AVX2 = f"{X86},+avx,+avx2,+fma,+bmi,+bmi2,+f16c,+lzcnt,+movbe"
PROCESSORS = {
    "this processor": ("", "", ""),
    "Intel Haswell (2013)": ("Haswell", "haswell", AVX2),
    "Intel Nehalem (2008)": ("Nehalem", "nehalem", X86),
}
"""Processor → QEMU's name of it, LLVM's, and its instructions."""
ARM64 = "ARM64 (Neoverse N1)"
ARM64_PYTHON = "ARM64_PYTHON"
"""The variable with a command that runs Python on an emulated aarch64, with this project's packages."""


def command_of(processor: str) -> tuple[list[str], dict[str, str]] | None:
    """What runs Python there, and the environment that it needs; None where it can't be had."""
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{PACKAGES}"}
    python = [str(Path(sys.executable).resolve())]
    if processor == ARM64:
        there = os.environ.get(ARM64_PYTHON)
        return ([there], environment | {"PYTHONPATH": str(PROJECT)}) if there else None
    emulated, name, instructions = PROCESSORS[processor]
    if not emulated:
        return python, environment
    environment |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": instructions}
    qemu = shutil.which("qemu-x86_64-static")
    return ([qemu, "-cpu", emulated, *python], environment) if qemu else None


def checksums_on(processor: str, cache: Path) -> dict[str, str] | None:
    """What `tests.exact.steps` prints there; None where the processor can't be had."""
    if not (found := command_of(processor)):
        return None
    command, environment = found
    environment["XDG_CACHE_HOME"] = str(cache)
    words = ["-m", "tests.exact.steps"]
    if len(command) > 1:  # compile here first
        subprocess.run([command[-1], *words], cwd=PROJECT, env=environment, check=True, capture_output=True)
    done = subprocess.run([*command, *words], cwd=PROJECT, env=environment, check=True, capture_output=True, text=True)
    checksums: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return checksums


def _rows(cache: Path) -> Iterator[dict[str, str]]:
    for processor in (*PROCESSORS, ARM64):
        print(processor, flush=True)
        if found := checksums_on(processor, cache):
            yield {"processor": processor} | found


if __name__ == "__main__":
    path = PROJECT / "outputs/reference/exact/bytes.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(_rows(Path.home() / ".cache" / "mnist_exp-emulated")).to_csv(path, index=False)
