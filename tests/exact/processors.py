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
HERE = "this processor"
PROCESSORS = {"Intel Haswell (2013)": ("Haswell", "haswell", AVX2), "Intel Nehalem (2008)": ("Nehalem", "nehalem", X86)}
"""Processor → QEMU's name of it, LLVM's, and its instructions."""
ARM64 = "ARM64 (Neoverse N1)"
ARM64_PYTHON = "ARM64_PYTHON"
"""The variable with a command that runs Python on an emulated aarch64; `tests/exact/arm64.sh` makes one."""
COMPILE = "from mnist_exp.exact import training; training.compile_once(training._call_all)"


def command_of(processor: str, cache: Path) -> tuple[list[str], dict[str, str]] | None:
    """What runs Python there, and the environment that it needs; None where it can't be had.

    Kernels are in ``cache``, compiled.
    """
    python = [str(Path(sys.executable).resolve())]
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}{os.pathsep}{PACKAGES}", "XDG_CACHE_HOME": str(cache)}
    if processor == HERE:
        return python, environment
    if processor == ARM64:
        there = os.environ.get(ARM64_PYTHON)
        return ([there], environment | {"PYTHONPATH": str(PROJECT)}) if there else None
    emulated, name, instructions = PROCESSORS[processor]
    if not (qemu := shutil.which("qemu-x86_64-static")):
        return None
    environment |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": instructions}
    subprocess.run([*python, "-c", COMPILE], env=environment, check=True, capture_output=True)
    return [qemu, "-cpu", emulated, *python], environment


def _rows(cache: Path) -> Iterator[dict[str, str]]:
    for processor in (HERE, *PROCESSORS, ARM64):
        print(processor, flush=True)
        if found := command_of(processor, cache):
            command, environment = found
            words = [*command, "-m", "tests.exact.steps"]
            done = subprocess.run(words, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True)
            yield {"processor": processor} | json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    path = PROJECT / "outputs/reference/exact/bytes.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(_rows(Path.home() / ".cache" / "mnist_exp-emulated")).to_csv(path, index=False)
