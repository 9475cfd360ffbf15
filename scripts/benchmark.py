"""How fast is it? Everything measured in one run on one machine: ``make bench``.

Baseline: the published program's way, which is the usual one (a process for each model; digits as PNG files, which
torchvision's ImageFolder opens, resizes and normalises one by one; a DataLoader with 4 workers; PyTorch's default
number of threads). Models, optimizer and batch size are ours. Floor: the same model's forward, backward and optimizer
step on one batch already in memory. The table goes to ``outputs/reference/benchmark``, under the name of the
processor's instructions. Targets are ratios of what is measured here, so that they hold on any machine.
"""

import argparse
import contextlib
import functools
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.data.images import ImageSplit, load
from mnist_exp.files import PROJECT
from mnist_exp.machine.determinism import make_deterministic
from mnist_exp.machine.fingerprint import PACKAGES, installed_version
from mnist_exp.machine.layout import use_fastest_layout
from mnist_exp.machine.provenance import provenance
from mnist_exp.report import figures
from mnist_exp.report.collect import collect
from mnist_exp.report.estimates import make_estimates
from mnist_exp.report.image_errors import load_errors
from mnist_exp.report.published import MODELS
from mnist_exp.settings import factory
from mnist_exp.settings.schema import ARITHMETICS, SPLITS, Config, DataConfig, DeviceConfig, default_data_root
from mnist_exp.training import TrainState, fit

BATCH = 64
TRAIN_SIZE = 60_000
EPOCHS = 20
REPEATS = 3
EPOCH_SECONDS = 5.0  # short epochs, which vary more, are repeated until they add up to as much
FLOOR_STEPS = 100
SHORT_JOBS = 20
TWO = "hydra.launcher.n_jobs=2"
DRAW = """
import pickle, sys; from pathlib import Path; from mnist_exp.report import figure_files
figure_files.write(pickle.loads(Path(sys.argv[1]).read_bytes()), Path(sys.argv[2]))
"""
# In a process of its own: a child process inherits its parent's peak memory.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def new_process() -> ProcessPoolExecutor:
    """A new process that calls functions of this file."""
    return ProcessPoolExecutor(1, get_context("spawn"))


def command(*words: str) -> tuple[float, float]:
    """Wall seconds and peak memory (GiB, of the largest process) of a Python command, from a cold process."""
    measured = [sys.executable, "-c", MEASURE, sys.executable, *words]
    done = subprocess.run(measured, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"benchmark: {' '.join(words)} failed")
    seconds, peak = done.stdout.split()
    return float(seconds), float(peak) / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes


def usual_epoch(name: str, folder: str, device: str) -> float:
    """Seconds of one epoch, training and evaluation, the published program's way."""
    set_start_method(None, force=True)  # of the loader's workers: the system's usual one, not that of this process
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"}).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    transform = Compose([Resize((32, 32)), ToTensor(), Normalize((0.1307,), (0.30812881,))])
    train, test = (ImageFolder(f"{folder}/{split}", transform, loader=Image.open) for split in SPLITS)
    loaders = [DataLoader(train, BATCH, shuffle=True, num_workers=4), DataLoader(test, BATCH, num_workers=4)]
    start = time.perf_counter()
    loss_sum = hits = 0.0
    for training, loader in zip((True, False), loaders, strict=True):
        model.train(training)
        with torch.set_grad_enabled(training):
            for images, labels in loader:
                images, labels = images.to(device), labels.to(device)
                logits = model(images)
                loss = cross_entropy(logits, labels)
                if training:
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    optimizer.step()
                loss_sum += loss.item()  # read back after each step, as such loops usually do
                hits += (logits.argmax(1) == labels).sum().item()
    return time.perf_counter() - start


def new_state(name: str, config: Config) -> TrainState:
    """An untrained model with its optimizer and schedule."""
    config.model = {"_target_": f"mnist_exp.models.{name}"}
    config.optimizer = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "fused": True}
    config.scheduler = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
    return TrainState(**vars(factory.build(config, torch.device(config.device.name), TRAIN_SIZE, 10)))


def floor_step(name: str, config: Config, split: ImageSplit) -> float:
    """Seconds of a training step on one batch already in memory."""
    state = new_state(name, config)
    batch, labels = split.normalised(slice(0, BATCH)), split.labels[:BATCH]
    seconds = []
    with use_fastest_layout(state.model):
        for steps in (20, FLOOR_STEPS):  # the first ones warm up
            start = time.perf_counter()
            for _ in range(steps):
                loss = state.loss(state.model(batch), labels)
                state.optimizer.zero_grad()
                torch.autograd.backward(loss)
                state.optimizer.step()
            if batch.is_cuda:
                torch.cuda.synchronize()  # or what is still queued would not be counted
            seconds.append(time.perf_counter() - start)
    return seconds[-1] / FLOOR_STEPS


@functools.cache
def prepare(data_root: str, device: str, arithmetic: str) -> tuple[Config, ImageSplit, ImageSplit]:
    """Settings, training and test images, once in a process."""
    config = Config(device=DeviceConfig(name=device, arithmetic=arithmetic), data=DataConfig(root=data_root))
    (train, test), _ = load(config.data, {}, SPLITS, make_deterministic(config.device))
    return config, train, test


def our_epoch(name: str, data_root: str, device: str, arithmetic: str) -> tuple[float, float, float]:
    """Seconds of a step at the floor, before and after an epoch; seconds of the epoch; its training / its steps."""
    config, train, test = prepare(data_root, device, arithmetic)
    before = floor_step(name, config, train)
    state = new_state(name, config)
    (epoch,) = fit(state, train, test, epochs=1, batch_size=BATCH, training_mode="every_epoch")
    floor = (before + floor_step(name, config, train)) / 2
    ratio = epoch.train_seconds / (floor * -(-len(train) // BATCH))
    return floor, epoch.train_seconds + epoch.eval_seconds, ratio


def has_exact(device: str) -> bool:
    """Whether exact arithmetic can be measured: it needs numba, and is for the CPU."""
    return device == "cpu" and find_spec("numba") is not None


@dataclass
class Bench:
    """What is measured, where, and the table so far."""

    scratch: Path  # takes runs and PNG files
    data_root: str
    device: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, what: str, unit: str, values: list[float], target: str = "") -> float:
        """Add and print a quantity's repeats, and what it should be; their median, the figure to quote."""
        row = {"what": what, "median": statistics.median(values), "minimum": min(values), "maximum": max(values)}
        print(f"  {what}: {row['median']:.4g} {unit}{f' (target {target})' if target else ''}", flush=True)
        self.rows.append(row | {"n": len(values), "unit": unit, "target": target})
        return statistics.median(values)

    def run(self, place: str, *overrides: str) -> tuple[float, float]:
        """Wall seconds and peak memory of one run, or of a sweep with ``-m`` among the overrides."""
        places = (f"output_root={self.scratch / place}", f"data.root={self.data_root}")
        return command("-m", "mnist_exp.run", *overrides, *places, f"device={self.device}")

    def report(self, place: str) -> float:
        """Wall seconds of the report of the runs in that place."""
        folder = self.scratch / place
        return command("scripts/report.py", "--runs", f"{folder}/runs", "--out", f"{folder}/report")[0]

    def timings(self, place: str) -> list["pd.Series[float]"]:
        """The last row of ``timing.csv`` of each run in that place."""
        return [pd.read_csv(path).iloc[-1] for path in (self.scratch / place).glob("runs/*/timing.csv")]


def measure_usual(bench: Bench) -> dict[str, float]:
    """Seconds of an epoch of each model, the published program's way."""
    print("the published program's way", flush=True)
    png = str(bench.scratch / "png")
    command("scripts/export_png.py", png, "--layout", "folder", "--root", bench.data_root)
    seconds = {}
    for name in MODELS:
        with new_process() as process:
            epoch = process.submit(usual_epoch, name, png, bench.device).result()
        seconds[name] = bench.add(f"published way: an epoch of {name}", "s", [epoch])
    return seconds


def measure_epochs(bench: Bench, usual: dict[str, float]) -> None:
    """Our epochs, those of each arithmetic in turn and in a process of its own, beside the published program's way."""
    print("the floor, and our epochs in turn with it", flush=True)
    kinds = [kind for kind in ARITHMETICS if kind != "exact" or has_exact(bench.device)]
    totals = dict.fromkeys(kinds, 0.0)
    with contextlib.ExitStack() as stack:
        processes = {kind: stack.enter_context(new_process()) for kind in kinds}
        for name in MODELS:
            measured: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds}
            first = measured[kinds[0]]
            while len(first) < REPEATS or sum(epoch for _, epoch, _ in first) < EPOCH_SECONDS:
                for kind, process in processes.items():
                    job = process.submit(our_epoch, name, bench.data_root, bench.device, kind)
                    measured[kind].append(job.result())
            seconds = {kind: [epoch for _, epoch, _ in rows] for kind, rows in measured.items()}
            for kind in kinds:
                what = f"{name}, {kind}"
                bench.add(f"floor: a step of {what}", "ms", [1e3 * floor for floor, _, _ in measured[kind]])
                totals[kind] += bench.add(f"ours: an epoch of {what}", "s", seconds[kind])
                if kind != "exact":
                    target = "≤ 1.10" if name == "MLP" else "≤ 1.05"
                    ratios = [ratio for _, _, ratio in measured[kind]]
                    bench.add(f"an epoch's training of {what} / its steps at the floor", "×", ratios, target)
                if usual:
                    ratios = [usual[name] / each for each in seconds[kind]]
                    bench.add(f"published way / ours, an epoch of {what}", "×", ratios)
            for kind in ("portable", "native") if "exact" in kinds else ():
                ratios = [ours / other for ours, other in zip(seconds["exact"], seconds[kind], strict=True)]
                target = "" if kind == "native" else "≤ 0.50" if name == "MLP" else "≤ 0.40"
                bench.add(f"an epoch of {name}: exact / {kind}", "×", ratios, target)
    bench.add("an epoch of all three: portable / native", "×", [totals["portable"] / totals["native"]])


def measure_commands(bench: Bench, usual: dict[str, float]) -> None:
    """Whole commands: the sweep, a short run, the imports, memory, many short jobs, the report."""
    print("whole commands", flush=True)
    models = f"model={','.join(MODELS.values())}"
    work = EPOCHS * sum(usual.values())
    bench.add(f"published way: {EPOCHS} epochs of all three (extrapolated from one epoch of each)", "s", [work])
    whole, _ = bench.run("sweep", "-m", models, "seed=0", f"epochs={EPOCHS}")
    bench.add("ours: make sweep SEEDS=0", "s", [whole])
    bench.add("published way / make sweep SEEDS=0", "×", [work / whole])
    if has_exact(bench.device):
        exact, _ = bench.run("exact", "-m", models, "seed=0", f"epochs={EPOCHS}", "device.arithmetic=exact")
        bench.add("make sweep SEEDS=0: exact / portable", "×", [exact / whole])

    # Trains on 10,000 digits, so that little of the time is the epoch's.
    startup, peaks = [], []
    for repeat in range(REPEATS):
        wall, peak = bench.run(f"start{repeat}", "model=lenet5r", "epochs=1", "protocol=published")
        (epoch,) = bench.timings(f"start{repeat}")
        startup.append(wall - epoch["train_seconds"] - epoch["eval_seconds"])
        peaks.append(peak)
    imports = statistics.median(command("-c", "import torch")[0] for _ in range(REPEATS))
    bench.add("a command without its epochs: start, digits, results", "s", startup)
    bench.add("a command without its epochs / import torch", "×", [each / imports for each in startup], "≤ 3.1")
    bench.add("peak memory of a job", "GiB", peaks, "≤ 1.0")

    walls = {}
    for seeds in (2, SHORT_JOBS):
        walls[seeds], peak = bench.run(f"seeds{seeds}", "-m", "model=mlp", f"seed=range(0,{seeds})", "epochs=1", TWO)
        bench.add(f"one epoch of {seeds} MLPs, two at a time", "s", [walls[seeds]])
        bench.add("… peak memory of the largest process", "GiB", [peak])
    epochs = [each["train_seconds"] + each["eval_seconds"] for each in bench.timings(f"seeds{SHORT_JOBS}")]
    beyond = 2 * (walls[SHORT_JOBS] - walls[2]) / (SHORT_JOBS - 2) - statistics.mean(epochs)
    bench.add("a job beyond its epoch, where the process has had one before", "s", [beyond], "≤ 0.3")

    bench.run("nine", "-m", models, "seed=0,1,2", "epochs=1", "protocol=published")  # on 10,000 digits
    walls_of_report = [bench.report("nine") for _ in range(REPEATS)]
    collection = collect(bench.scratch / "nine/runs")
    errors, _ = load_errors(collection)
    plots = bench.scratch / "plots"
    plots.write_bytes(pickle.dumps(figures.of_all(collection, make_estimates(collection, errors), errors)))
    alone = statistics.median(command("-c", DRAW, str(plots), str(bench.scratch / "drawn"))[0] for _ in range(REPEATS))
    bench.add("the report of nine runs", "s", walls_of_report)
    bench.add("the report / drawing its figures alone", "×", [wall / alone for wall in walls_of_report], "≤ 1.5")


def measure_growth(bench: Bench) -> None:
    """How time and memory grow with jobs and batch size."""
    print("growth", flush=True)
    pair = ("-m", "model=lenet5", "seed=0,1", "epochs=1")
    walls = [bench.run(f"jobs{jobs}", *pair, f"hydra.launcher.n_jobs={jobs}")[0] for jobs in (1, 2)]
    bench.add("two jobs of LeNet5, one after the other / in parallel", "×", [walls[0] / walls[1]])
    for batch in (16, 256, 4096):
        _, peak = bench.run(f"batch{batch}", "model=lenet5", "epochs=1", "protocol=published", f"batch_size={batch}")
        speed = [each["train_images_per_second"] for each in bench.timings(f"batch{batch}")]
        bench.add(f"training LeNet5 on 10,000 digits, batches of {batch}", "images/s", speed)
        bench.add("… peak memory", "GiB", [peak])


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROJECT / "outputs/reference/benchmark", help="for the tables")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--short", action="store_true", help="only epochs and steps, in some minutes; write no table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), str(default_data_root().absolute()), arguments.device)
        if arguments.short:
            measure_epochs(bench, {})
            return 0
        usual = measure_usual(bench)
        measure_epochs(bench, usual)
        measure_commands(bench, usual)
        measure_growth(bench)
    where = provenance(torch.device(arguments.device), {name: installed_version(name) for name in PACKAGES})
    where |= {"cores": os.cpu_count(), "system": platform.system()}
    kind = "cuda" if arguments.device == "cuda" else str(where["cpu_capability"]).lower()
    path = arguments.out / f"{kind}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(bench.rows).to_csv(path, index=False, float_format="%.5g")
    path.with_suffix(".json").write_text(json.dumps(where, indent=2) + "\n", encoding="utf-8")
    print(f"the table is {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
