"""The device that is chosen, and what is recorded of the machine."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mnist_exp import training
from mnist_exp.errors import ConfigError
from mnist_exp.machine import provenance
from mnist_exp.machine.determinism import PORTABLE, make_deterministic, why_not_portable
from mnist_exp.machine.parent import exit_when_parent_dies
from mnist_exp.settings.schema import DeviceConfig
from tests.conftest import MINUTES, python


@pytest.mark.parametrize(("cuda", "chosen"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_or_the_cpu_but_never_mps(cuda: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for device, expected in (("auto", chosen), ("mps", "mps"), ("cpu", "cpu")):
        assert make_deterministic(DeviceConfig(device)).type == expected
    torch.use_deterministic_algorithms(False)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="device=mps: PyTorch finds no such device on this machine; usable here: cpu"):
        make_deterministic(DeviceConfig("mps"))


def test_a_checkout_of_another_user_has_its_commit_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers, where Git refuses to read it: GIT_TEST_ASSUME_DIFFERENT_OWNER is Git's own way to test this."""
    (tmp_path / "mnist_exp").mkdir()
    (tmp_path / "mnist_exp" / "run.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    refused = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert "dubious ownership" in refused.stderr
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # a hook's
    assert provenance._git_state() == (commit, False)
    (tmp_path / "mnist_exp" / "run.py").write_text("pass")
    assert provenance._git_state() == (commit, True)


ARITHMETIC = """
import torch
from mnist_exp.machine.determinism import make_deterministic
from mnist_exp.settings.schema import DeviceConfig
from mnist_exp import training
from mnist_exp.errors import ConfigError
make_deterministic(DeviceConfig(arithmetic={first!r}))
print(torch.backends.cpu.get_cpu_capability())
try:
    make_deterministic(DeviceConfig(arithmetic={then!r}))
except ConfigError as error:
    print(error)
"""


def arithmetic(first: str, then: str, **environment: str) -> list[str]:
    known = {name: value for name, value in os.environ.items() if name not in PORTABLE} | environment
    return python("-c", ARITHMETIC.format(first=first, then=then), env=known, check=True).stdout.splitlines()


def test_the_environment_does_not_decide_the_arithmetic_and_a_process_keeps_it() -> None:
    hostile = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "SSE4_2"}
    native, said = arithmetic("native", "portable")
    assert "this process has computed with native arithmetic and cannot change it; use one command for each" in said
    assert arithmetic("native", "native", **hostile) == [native]
    if torch.cpu._is_avx2_supported():
        assert arithmetic("portable", "portable", **hostile) == ["AVX2"]


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="needs AVX2")
def test_portable_is_the_cpu_only() -> None:
    assert why_not_portable(torch.device("cpu")) is None
    assert why_not_portable(torch.device("cuda")) == "a GPU rounds in its own way"


def test_a_worker_whose_parent_died_while_it_started_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=dead.pid))
    exit_when_parent_dies.__wrapped__()
    assert ended.wait(MINUTES)


def test_metrics_need_no_float64_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has none: whatever is summed must have come to the CPU before."""
    called: list[str] = []

    def noting(name: str, method: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda tensor: (called.append(name), method(tensor))[1]  # type: ignore[func-returns-value]

    for name in ("cpu", "double"):
        monkeypatch.setattr(torch.Tensor, name, noting(name, getattr(torch.Tensor, name)))
    losses = [torch.tensor(1.0), torch.tensor(2.0)]
    assert training._mean_loss(losses, 96, 64, 1) == pytest.approx((64 * 1.0 + 32 * 2.0) / 96)
    assert called == ["cpu", "double"]
