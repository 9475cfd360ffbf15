"""The real digits, fetched once, and ways to run the program on all or a few of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import settings as hypothesis_settings
from omegaconf import DictConfig

from mnist_exp import job
from mnist_exp.cli.hydra_internals import CONFIG_FOLDER, GROUPS, to_config
from mnist_exp.cli.progress import Lines
from mnist_exp.data import datasets, images
from mnist_exp.data.images import ImageSplit
from mnist_exp.machine.determinism import make_deterministic
from mnist_exp.runs.folder import RunFolder
from mnist_exp.settings.schema import Config, DeviceConfig
from tests.faults import results as results

# Before anything is computed here; tests that start commands leave it to them.
make_deterministic(DeviceConfig())
torch.use_deterministic_algorithms(False)
# The same examples wherever tests run.
hypothesis_settings.register_profile("repeatable", derandomize=True, database=None)
hypothesis_settings.load_profile("repeatable")

SCRIPTS = Path(__file__).parents[1] / "scripts"
FEW = 600
MINUTES = 300
"""Seconds after which something that should happen will not."""
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LONGEST = ("test_run", "test_faults", "test_folders")
Execute = Callable[..., job.RunResult]
Capture = pytest.CaptureFixture[str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the two processes that share the tests end together."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def usual_process() -> None:
    """What tests start inherits signals and environment: not as a shell or an earlier `run.main` left them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.pop("HYDRA_FULL_ERROR", None)


@pytest.fixture(scope="session", autouse=True)
def digits_root() -> Path:
    """The folder with the real digits; commands that tests start find it in their environment."""
    root = Path(os.environ.get("MNIST_EXP_DATA", Path(__file__).parent.parent / "data")).absolute()
    mnist_files(root)
    os.environ["MNIST_EXP_DATA"] = str(root)
    return root


def mnist_files(root: Path) -> dict[str, bytes]:
    """The contents of the four files; they are fetched where one is missing."""
    datasets.load("mnist", root, ())
    return {name: (root / "MNIST" / "raw" / name).read_bytes() for name in NAMES}


@pytest.fixture(scope="session")
def all_digits(digits_root: Path) -> tuple[ImageSplit, ImageSplit]:
    """The 60,000 and the 10,000."""
    config = settings()
    digits, _ = images.load(config.data, {}, ("train", "test"), torch.device("cpu"))
    return digits[0], digits[1]


@pytest.fixture
def few_digits(
    all_digits: tuple[ImageSplit, ImageSplit], monkeypatch: pytest.MonkeyPatch
) -> tuple[ImageSplit, ImageSplit]:
    """The first 600 real digits of each split, in the place of all, wherever the program loads them."""
    train, test = (ImageSplit(d.images[:FEW], d.labels[:FEW], d.mean, d.std) for d in all_digits)
    by_split = {"train": train, "test": test}

    def load(
        _config: Any, _scanned: Any, splits: tuple[str, ...], _device: Any
    ) -> tuple[tuple[ImageSplit, ...], dict[str, str]]:
        return tuple(by_split[split] for split in splits), {}

    monkeypatch.setattr(images, "load", load)
    monkeypatch.setattr(job, "_loaded", {})
    return train, test


@pytest.fixture
def execute(few_digits: object, tmp_path: Path) -> Iterator[Execute]:
    """Run one job in this process, on few digits, into ``tmp_path``."""

    def run(*overrides: str, root: Path = tmp_path) -> job.RunResult:
        config = settings(f"output_root={root}", *overrides)
        return job.train_run(config, choices(*overrides), {".hydra/config.yaml": "seed: 0\n"}, Lines)

    yield run
    torch.use_deterministic_algorithms(False)


def kill_after(epochs: int, execute: Execute, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a run, which is killed when it would save one epoch more."""
    save, done = RunFolder.save_epoch, iter(range(99))

    class KilledError(BaseException): ...

    def save_some(*arguments: object) -> None:
        if next(done) == epochs:
            raise KilledError
        save(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(RunFolder, "save_epoch", save_some)
        patch.setattr(job, "_record_failure", lambda *_: None)
        execute(*words)


def settings(*overrides: str) -> Config:
    """The settings as the command line would compose them."""
    return to_config(composed(*overrides))


def choices(*overrides: str) -> dict[str, str]:
    """The chosen option of each group."""
    chosen = composed(*overrides, return_hydra_config=True).hydra.runtime.choices
    return {group: str(chosen[group]) for group in GROUPS}


def composed(*overrides: str, folder: Path = CONFIG_FOLDER, return_hydra_config: bool = False) -> DictConfig:
    """What Hydra makes of a folder of settings and a command line."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        config: DictConfig = compose("config", list(overrides), return_hydra_config)
        return config


def command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python -m mnist_exp.run`` as a person would."""
    return python("-m", "mnist_exp.run", *arguments, **options)


def python(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=2 * MINUTES, **options)


@contextlib.contextmanager
def started(words: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process group of its own, of which nothing is left, whatever the test that started it does."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    with subprocess.Popen(words, start_new_session=True, **pipes) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for an event, and not for a time; a test fails if it has not happened after `MINUTES`."""
    deadline = time.monotonic() + MINUTES
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.1)
