"""How fast is it? Everything measured in one run on one machine: ``make bench``.

Baseline: the usual pipeline (digits as PNG files, torchvision's ImageFolder, which opens, resizes and
normalises each, a DataLoader with 4 workers; the same models, optimizer and batch size), with PyTorch's
default number of threads. Floor: the same model's forward, backward and optimizer step on one batch
already in memory. The tables go to ``outputs/reference/benchmark``.
"""

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from mnist_exp.machine.determinism import make_deterministic, tune_malloc
from mnist_exp.machine.fingerprint import PACKAGES, installed_version
from mnist_exp.machine.layout import use_fastest_layout
from mnist_exp.machine.provenance import provenance
from mnist_exp.report.published import MODELS
from mnist_exp.report.table import markdown
from mnist_exp.settings import factory
from mnist_exp.settings.schema import ARITHMETICS, SPLITS, DataConfig, DeviceConfig, default_data_root
from mnist_exp.training import TrainState, fit

BATCH = 64
EPOCHS = 20
REPEATS = 3
EPOCH_SECONDS = 5.0  # short epochs, which vary more, are repeated until they add up to as much
FLOOR_STEPS = 150
# In a process of its own: a child process inherits its parent's peak memory.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def output(words: list[str]) -> str:
    """What a command of this project prints."""
    done = subprocess.run(words, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"benchmark: {' '.join(words)} failed")
    return done.stdout


def in_new_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function of this file, JSON's values in and out, in a new process."""
    name = function.__name__
    code = f"import json; from scripts.benchmark import {name}; print(json.dumps({name}(*{arguments!r})))"
    return json.loads(output([sys.executable, "-c", code]))


def command(*words: str) -> tuple[float, float]:
    """Wall seconds and peak memory (GiB, of the largest process) of a Python command, from a cold process."""
    seconds, peak = output([sys.executable, "-c", MEASURE, sys.executable, *words]).split()
    return float(seconds), float(peak) / (2**30 if sys.platform == "darwin" else 2**20)  # macOS counts bytes


def usual_epoch(name: str, folder: str, device: str, threads: int | None = None) -> float:
    """Seconds of one epoch, training and evaluation, of the usual pipeline."""
    tune_malloc()  # the models need it, whoever trains them
    if threads:
        torch.set_num_threads(threads)
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


def new_state(name: str, device: str) -> TrainState:
    """An untrained model with its optimizer and schedule."""
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"}).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return TrainState(model, optimizer, scheduler, False, torch.Generator().manual_seed(0))


def floor_step(name: str, split: ImageSplit) -> float:
    """Seconds of a training step on one batch already in memory."""
    state = new_state(name, split.images.device.type)
    batch, labels = split.normalised(slice(0, BATCH)), split.labels[:BATCH]
    seconds = []
    with use_fastest_layout(state.model):
        for steps in (20, FLOOR_STEPS):  # the first ones warm up
            start = time.perf_counter()
            for _ in range(steps):
                loss = cross_entropy(state.model(batch), labels)
                state.optimizer.zero_grad()
                torch.autograd.backward(loss)
                state.optimizer.step()
            if batch.is_cuda:
                torch.cuda.synchronize()  # or what is still queued would not be counted
            seconds.append(time.perf_counter() - start)
    return seconds[-1] / FLOOR_STEPS


def our_epochs(name: str, data_root: str, device: str, arithmetic: str) -> list[tuple[float, float, float]]:
    """Of epochs in turn with the floor: seconds of a step there, seconds of the epoch, its training / its steps."""
    make_deterministic(DeviceConfig(name=device, arithmetic=arithmetic))
    (train, test), _ = load(DataConfig(root=data_root), {}, SPLITS, torch.device(device))
    measured: list[tuple[float, float, float]] = []
    while len(measured) <= REPEATS or sum(seconds for _, seconds, _ in measured[1:]) < EPOCH_SECONDS:
        before = floor_step(name, train)
        state = new_state(name, device)
        (epoch,) = fit(state, train, test, epochs=1, batch_size=BATCH, training_mode="every_epoch")
        floor = (before + floor_step(name, train)) / 2
        ratio = epoch.train_seconds / (floor * -(-len(train) // BATCH))
        measured.append((floor, epoch.train_seconds + epoch.eval_seconds, ratio))
    return measured[1:]  # the first one warms caches and clocks up


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
        print(f"  {what}: {row['median']:.4g} {unit}", flush=True)
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

    def timing(self, place: str) -> "pd.Series[float]":
        """The last row of ``timing.csv`` of the only run in that place."""
        (path,) = (self.scratch / place).glob("runs/*/timing.csv")
        return pd.read_csv(path).iloc[-1]


def measure_usual(bench: Bench) -> dict[str, float]:
    """Seconds of an epoch of each model in the usual pipeline, and of the MLP's with one thread."""
    print("the usual pipeline", flush=True)
    png = str(bench.scratch / "png")
    command("scripts/export_png.py", png, "--layout", "folder", "--root", bench.data_root)
    usual = {}
    for name, threads in (*((name, None) for name in MODELS), ("MLP", 1)):  # whose workers then have the cores
        what = f"{name}, one thread" if threads else name
        seconds = in_new_process(usual_epoch, name, png, bench.device, threads)
        usual[what] = bench.add(f"usual pipeline: an epoch of {what}", "s", [seconds])
    return usual


def measure_epochs(bench: Bench, usual: dict[str, float]) -> None:
    """Our epochs of each model in turn with the floor, and the MLP's compared with the usual pipeline's."""
    print("the floor, and our epochs in turn with it", flush=True)
    seconds = dict.fromkeys(ARITHMETICS, 0.0)
    for name, arithmetic in itertools.product(MODELS, ARITHMETICS):
        measured = in_new_process(our_epochs, name, bench.data_root, bench.device, arithmetic)
        floors, epochs, ratios = map(list, zip(*measured, strict=True))
        what = f"{name}, {arithmetic}"
        bench.add(f"floor: a step of {what}", "ms", [1e3 * floor for floor in floors])
        seconds[arithmetic] += bench.add(f"ours: an epoch of {what}", "s", epochs)
        bench.add(f"an epoch's training of {what} / its steps at the floor", "×", ratios, "≤ 1.10")
        if name == "MLP" and usual:
            bench.add(f"usual / ours, an epoch of {what}", "×", [usual["MLP"] / each for each in epochs], "≥ 25")
            bench.add("… usual with one thread", "×", [usual["MLP, one thread"] / each for each in epochs])
    ratio = seconds["portable"] / seconds["native"]
    bench.add("an epoch of all three: portable / native", "×", [ratio], "≤ 1.15")


def measure_commands(bench: Bench, usual: dict[str, float]) -> None:
    """Whole commands: the sweep with its report, a short run, the imports, memory, the report."""
    sweep = ("-m", f"model={','.join(MODELS.values())}")
    work = EPOCHS * sum(usual[name] for name in MODELS)
    bench.add(f"usual pipeline: the work of a sweep ({EPOCHS} × one epoch of each)", "s", [work])
    for arithmetic, target in zip(ARITHMETICS, ("≥ 7.5", "≥ 9"), strict=True):
        words = (*sweep, "seed=0", f"epochs={EPOCHS}", f"device.arithmetic={arithmetic}")
        whole = bench.run(arithmetic, *words)[0] + bench.report(arithmetic)
        bench.add(f"ours: make sweep SEEDS=0 and make report, cold, {arithmetic}", "s", [whole])
        bench.add(f"usual / ours, the whole sweep, {arithmetic}", "×", [work / whole], target)

    # Trains on 10,000 digits, so that little of the time is the epoch's.
    startup, peaks = [], []
    for repeat in range(REPEATS):
        wall, peak = bench.run(f"start{repeat}", "model=lenet5r", "epochs=1", "protocol=published")
        epoch = bench.timing(f"start{repeat}")
        startup.append(wall - epoch["train_seconds"] - epoch["eval_seconds"])
        peaks.append(peak)
    bench.add("a command without its epochs: start, digits, results", "s", startup, "≤ 5")
    imports = [command("-c", "import mnist_exp.run, mnist_exp.job")[0] for _ in range(REPEATS)]
    bench.add("… of which imports", "s", imports, "≤ 3.5")
    bench.add("peak memory of a job", "GiB", peaks, "≤ 1.0")
    bench.run("nine", *sweep, "seed=0,1,2", "epochs=1")
    bench.add("the report of nine runs", "s", [bench.report("nine") for _ in range(REPEATS)], "≤ 5")


def measure_growth(bench: Bench) -> None:
    """How time and memory grow with jobs, seeds and batch size."""
    pair = ("-m", "model=lenet5", "seed=0,1", "epochs=8")
    walls = [bench.run(f"jobs{jobs}", *pair, f"hydra.launcher.n_jobs={jobs}")[0] for jobs in (1, 2)]
    bench.add("two jobs of LeNet5, one after the other / in parallel", "×", [walls[0] / walls[1]], "≥ 1.8")
    for seeds in (1, 2, 4, 8):
        wall, peak = bench.run(f"seeds{seeds}", "-m", "model=mlp", f"seed=range(0,{seeds})", "epochs=3")
        bench.add(f"sweep of MLP, 3 epochs, seeds: {seeds}", "s", [wall])
        bench.add("… peak memory of the largest process", "GiB", [peak])
    for batch in (16, 64, 256, 1024, 4096):
        _, peak = bench.run(f"batch{batch}", "model=lenet5", "epochs=1", "protocol=published", f"batch_size={batch}")
        speed = [bench.timing(f"batch{batch}")["train_images_per_second"]]
        bench.add(f"training LeNet5 on 10,000 digits, batches of {batch}", "images/s", speed)
        bench.add("… peak memory", "GiB", [peak])


def write(rows: list[dict[str, Any]], path: Path, described: dict[str, Any]) -> None:
    """The table as CSV and Markdown, and the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path.with_suffix(".csv"), index=False, float_format="%.5g")
    path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    machine = (
        f"{described['cpu']}, {described['cores']} cores, {described['cpu_capability']}; {described['device']}; "
        f"Python {described['python']}, PyTorch {described['packages']['torch']}, {described['system']}."
    )
    path.with_suffix(".md").write_text(f"{table(rows)}\n{machine}\n", encoding="utf-8")
    if described["device"] == "cpu":  # what the documents show
        targets = table([row for row in rows if row["target"]])
        path.with_name("targets.md").write_text(f"{targets}\n{machine}\n", encoding="utf-8")


def table(rows: list[dict[str, Any]]) -> str:
    """The table for a person."""
    lines = []
    for row in rows:
        median = f"{row['median']:,.0f}" if row["median"] >= 1000 else f"{row['median']:.3g}"
        spread = f"{row['minimum']:.3g} to {row['maximum']:.3g}" if row["n"] > 1 else "measured once"
        lines.append((row["what"], f"{median} {row['unit']}", spread, row["target"]))
    return markdown(pd.DataFrame(lines, columns=["What", "Median", "Spread", "Target"]))


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROJECT / "outputs/reference/benchmark", help="for the tables")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--short", action="store_true", help="only epochs and steps, in some minutes; write no table")
    arguments = parser.parse_args()
    path = arguments.out / ("benchmark" if arguments.device == "cpu" else f"benchmark-{arguments.device}")
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), str(default_data_root().absolute()), arguments.device)
        if arguments.short:
            measure_epochs(bench, {})
            return 0
        usual = measure_usual(bench)
        measure_epochs(bench, usual)
        measure_commands(bench, usual)
        measure_growth(bench)
    device = torch.device(arguments.device)
    where = provenance(device, {name: installed_version(name) for name in PACKAGES})
    write(bench.rows, path, where | {"cores": os.cpu_count(), "system": platform.system()})
    print(f"{table(bench.rows)}\nthe table is in {path}.*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
