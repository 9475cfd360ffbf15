"""How fast is it? Everything measured in one run on one machine: ``make bench``.

Baseline: the usual pipeline (digits as PNG files, a Dataset that opens, resizes and normalises each
image, a DataLoader with 4 workers; the same models, optimizer and batch size), with as many threads as
PyTorch takes by itself. Floor: the same model's forward, backward and optimizer step on
one batch that is already there, nothing else. With ``--options``: what bf16 and torch.compile change.
The tables go to ``outputs/reference/benchmark``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from mnist_exp import datasets, environment, factory
from mnist_exp.acceleration import accelerate
from mnist_exp.config import DataConfig, DeviceConfig
from mnist_exp.report.published import MODELS
from mnist_exp.report.tables import markdown
from mnist_exp.training import Digits, Training, fit

SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "fused": True}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
BATCH = 64
EPOCHS = 20
REPEATS = 3
EPOCH_SECONDS = 5.0  # short epochs, which vary more, are repeated until they add up to as much
FLOOR_STEPS = 150
# In a process of its own: the memory of one that starts another counts as the other's, too.
MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
OPTIONS = {"bf16": DeviceConfig(precision="bf16"), "torch.compile": DeviceConfig(compile=True)}


@dataclass
class Row:
    """One line of a table: a quantity's repeats, and what it should be."""

    what: str
    unit: str
    values: list[float]
    target: str = ""

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)


class Rows(list[Row]):
    """A table that says each line as it comes."""

    def add(self, what: str, unit: str, values: list[float], target: str = "") -> Row:
        """Take a measurement down."""
        row = Row(what, unit, values, target)
        print(f"  {what}: {row.median:.4g} {unit}", flush=True)
        self.append(row)
        return row


class PngDigits(Dataset[tuple[Tensor, int]]):
    """The usual dataset: opens, resizes and normalises an image each time it is asked for one."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.iterdir())
        self.transform = Compose([Resize((32, 32)), ToTensor(), Normalize((0.1307,), (0.30812881,))])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        with Image.open(path) as image:
            return self.transform(image), int(path.stem.partition("_")[2])


def usual_epoch(name: str, folder: Path, device: torch.device) -> float:
    """Seconds of one epoch, training and evaluation, of the usual pipeline."""
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"}).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train = DataLoader(PngDigits(folder / "train"), batch_size=BATCH, shuffle=True, num_workers=4)
    test = DataLoader(PngDigits(folder / "test"), batch_size=BATCH, num_workers=4)
    start = time.perf_counter()
    model.train()
    loss_sum = hits = 0.0
    for images, labels in train:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = model(images)
        loss = cross_entropy(logits, labels)
        torch.autograd.backward(loss)
        optimizer.step()
        loss_sum += loss.item()
        hits += (logits.argmax(1) == labels).sum().item()
    model.eval()
    with torch.no_grad():
        for images, labels in test:
            images, labels = images.to(device), labels.to(device)
            logits = model(images)
            loss_sum += cross_entropy(logits, labels).item()
            hits += (logits.argmax(1) == labels).sum().item()
    return time.perf_counter() - start


def new_training(name: str, device: torch.device, options: DeviceConfig) -> Training:
    """A model at its start, with what trains it."""
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"}).to(device)
    optimizer = factory.build_optimizer(SGD, model)
    scheduler, each_batch = factory.build_scheduler(CONSTANT, optimizer, 938)
    accelerate(model, options, device)
    return Training(model, optimizer, scheduler, each_batch, torch.Generator().manual_seed(0))


def floor_step(name: str, digits: Digits, options: DeviceConfig) -> float:
    """Seconds of a training step on one batch that is already there."""
    training = new_training(name, digits.images.device, options)
    images, labels = digits.normalised(slice(0, BATCH)), digits.labels[:BATCH]
    start = 0.0
    for step in range(FLOOR_STEPS + 20):
        if step == 20:
            synchronize(images.device)
            start = time.perf_counter()
        loss = cross_entropy(training.model(images), labels)
        training.optimizer.zero_grad()
        torch.autograd.backward(loss)
        training.optimizer.step()
    synchronize(images.device)
    return (time.perf_counter() - start) / FLOOR_STEPS


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def our_epoch(training: Training, train: Digits, test: Digits) -> tuple[float, float]:
    """Seconds of the next epoch's training and of its evaluation."""
    epochs = training.epoch + 1
    (epoch,) = fit(training, train, test, epochs=epochs, batch_size=BATCH, training_mode="every_epoch")
    return epoch.train_seconds, epoch.eval_seconds


@dataclass
class Bench:
    """What is measured, where."""

    scratch: Path
    """Takes runs and PNG files."""
    data_root: Path
    device: torch.device

    def command(self, place: str, *arguments: str) -> tuple[float, float]:
        """Wall seconds and peak memory (GiB, of the largest process) of a command, from a cold process."""
        words = [sys.executable, *arguments]
        if "mnist_exp.run" in arguments:
            words += [f"output_root={self.scratch / place}", f"device={self.device.type}"]
            words += [f"data.root={self.data_root}"]
        measured = subprocess.run([sys.executable, "-c", MEASURE, *words], stdout=subprocess.PIPE, text=True)
        if measured.returncode:
            raise SystemExit(f"benchmark: {' '.join(words)} failed")
        seconds, kilobytes = measured.stdout.split()
        return float(seconds), float(kilobytes) / 2**20

    def run(self, place: str, *overrides: str) -> tuple[float, float]:
        """Wall seconds and peak memory of one run, or of a sweep with ``-m`` among the overrides."""
        return self.command(place, "-m", "mnist_exp.run", *overrides)

    def report(self, place: str) -> float:
        """Wall seconds of the report of the runs in that place."""
        script, folder = Path(__file__).parent / "report.py", self.scratch / place
        return self.command(place, str(script), "--runs", f"{folder}/runs", "--out", f"{folder}/report")[0]

    def timing(self, place: str) -> pd.DataFrame:
        """``timing.csv`` of the only run in that place."""
        (path,) = (self.scratch / place).glob("runs/*/timing.csv")
        return pd.read_csv(path)


def measure(bench: Bench) -> Rows:
    """All that ``make bench`` prints."""
    rows = Rows()
    print("the usual pipeline", flush=True)
    environment.keep_freed_memory()  # the models need it, whoever trains them
    png = bench.scratch / "png"
    bench.command("", str(Path(__file__).parent / "export_png.py"), str(png), "--root", str(bench.data_root))
    usual = {}
    for name in MODELS:
        usual[name] = rows.add(
            f"usual pipeline: an epoch of {name}", "s", [usual_epoch(name, png, bench.device)]
        ).median
    torch.set_num_threads(1)  # its workers then have the cores to themselves
    alone = rows.add(
        "usual pipeline: an epoch of MLP, one thread", "s", [usual_epoch("MLP", png, bench.device)]
    ).median

    environment.prepare(DeviceConfig(name=bench.device.type))
    data = DataConfig(root=str(bench.data_root))
    (train, test), _ = datasets.load(data, {}, ("train", "test"), bench.device)
    print("the floor, and our epochs in turn with it", flush=True)
    our_epoch(new_training("MLP", bench.device, DeviceConfig()), train, test)  # warms caches and clocks up
    ours = {}
    for name in MODELS:
        floors: list[float] = []
        epochs: list[tuple[float, float]] = []
        ratios: list[float] = []
        while len(epochs) < REPEATS or sum(map(sum, epochs)) < EPOCH_SECONDS:
            before = floor_step(name, train, DeviceConfig())
            epochs.append(our_epoch(new_training(name, bench.device, DeviceConfig()), train, test))
            floors.append((before + floor_step(name, train, DeviceConfig())) / 2)
            ratios.append(epochs[-1][0] / (floors[-1] * -(-len(train) // BATCH)))
        rows.add(f"floor: a step of {name}", "ms", [1e3 * floor for floor in floors])
        ours[name] = rows.add(f"ours: an epoch of {name}", "s", [sum(epoch) for epoch in epochs])
        rows.add(f"an epoch's training of {name} / its steps at the floor", "×", ratios, "≤ 1.10")
    rows.add("usual / ours, an epoch of MLP", "×", [usual["MLP"] / v for v in ours["MLP"].values], "≥ 25")
    rows.add("… usual with one thread", "×", [alone / v for v in ours["MLP"].values])

    print("whole commands", flush=True)
    whole = bench.run("whole", "-m", f"model={','.join(MODELS.values())}", "seed=0", f"epochs={EPOCHS}")[0]
    whole += bench.report("whole")
    rows.add("ours: make sweep SEEDS=0 and make report, cold", "s", [whole])
    work = EPOCHS * sum(usual.values())
    rows.add(f"usual pipeline: the same work ({EPOCHS} × one epoch of each)", "s", [work])
    rows.add("usual / ours, the whole sweep", "×", [work / whole], "≥ 8")

    # Trains on 10,000 digits, so that little of the time is the epoch's.
    short = [bench.run(f"start{i}", "model=lenet5r", "epochs=1", "protocol=published") for i in range(REPEATS)]
    trained = [
        bench.timing(f"start{i}")[["train_seconds", "eval_seconds"]].to_numpy().sum() for i in range(REPEATS)
    ]
    rows.add(
        "a command without its epochs: start, digits, results",
        "s",
        [wall - float(seconds) for (wall, _), seconds in zip(short, trained, strict=True)],
        "≤ 5",
    )
    imports = ("-c", "import mnist_exp.run, mnist_exp.job")
    rows.add("… of which imports", "s", [bench.command("", *imports)[0] for _ in range(REPEATS)], "≤ 3.5")
    rows.add("peak memory of a job", "GiB", [peak for _, peak in short], "≤ 1.0")
    bench.run("nine", "-m", f"model={','.join(MODELS.values())}", "seed=0,1,2", "epochs=1")
    rows.add("the report of nine runs", "s", [bench.report("nine") for _ in range(REPEATS)], "≤ 5")

    print("how it grows", flush=True)
    pair = ("-m", "model=lenet5", "seed=0,1", "epochs=8")
    walls = [bench.run(f"jobs{jobs}", *pair, f"hydra.launcher.n_jobs={jobs}")[0] for jobs in (1, 2)]
    rows.add("two jobs of LeNet5, one after the other / side by side", "×", [walls[0] / walls[1]], "≥ 1.8")
    for seeds in (1, 2, 4, 8):
        wall, peak = bench.run(f"seeds{seeds}", "-m", "model=mlp", f"seed=range(0,{seeds})", "epochs=3")
        rows.add(f"sweep of MLP, 3 epochs, seeds: {seeds}", "s", [wall])
        rows.add("… peak memory of the largest process", "GiB", [peak])
    for batch in (16, 64, 256, 1024, 4096):
        few = ("model=lenet5", "epochs=1", "protocol=published", f"batch_size={batch}")
        _, peak = bench.run(f"batch{batch}", *few)
        speed = float(bench.timing(f"batch{batch}")["train_images_per_second"].iloc[0])
        rows.add(f"training LeNet5 on 10,000 digits, batches of {batch}", "images/s", [speed])
        rows.add("… peak memory", "GiB", [peak])
    return rows


def measure_options(bench: Bench) -> Rows:
    """What each option does to an epoch's time, in turn with the default."""
    environment.prepare(DeviceConfig(name=bench.device.type))
    data = DataConfig(root=str(bench.data_root))
    (train, test), _ = datasets.load(data, {}, ("train", "test"), bench.device)
    rows = Rows()
    for name in MODELS:
        settings = {"fp32": DeviceConfig()} | OPTIONS
        trainings = {option: new_training(name, bench.device, config) for option, config in settings.items()}
        first = {option: sum(our_epoch(training, train, test)) for option, training in trainings.items()}
        laps = [
            {option: sum(our_epoch(training, train, test)) for option, training in trainings.items()}
            for _ in range(REPEATS)
        ]
        for option in OPTIONS:
            ratios = [lap[option] / lap["fp32"] for lap in laps]
            rows.add(f"an epoch of {name}, {option} / default", "×", ratios)
        later = statistics.median(lap["torch.compile"] for lap in laps)
        rows.add(f"… compiling {name}, once a run", "s", [first["torch.compile"] - later])
    return rows


def write(rows: list[Row], path: Path, described: dict[str, Any]) -> None:
    """The table as CSV and Markdown, and the machine it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pd.DataFrame(
        {
            "what": [row.what for row in rows],
            "median": [row.median for row in rows],
            "minimum": [min(row.values) for row in rows],
            "maximum": [max(row.values) for row in rows],
            "n": [len(row.values) for row in rows],
            "unit": [row.unit for row in rows],
            "target": [row.target for row in rows],
        }
    )
    data.to_csv(path.with_suffix(".csv"), index=False, float_format="%.5g")
    path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(f"{table(data)}\n{machine(described)}\n", encoding="utf-8")
    targets = data[data["target"] != ""]
    if len(targets) and described["device"] == "cpu":  # what the README shows
        path.with_name("targets.md").write_text(f"{table(targets)}\n{machine(described)}\n", encoding="utf-8")


def table(data: pd.DataFrame) -> str:
    """The table for a person."""
    records: list[dict[str, Any]] = [dict(row) for _, row in data.fillna("").iterrows()]
    cells = pd.DataFrame(
        {
            "What": row["what"],
            "Median": f"{number(row['median'])} {row['unit']}",
            "Spread": f"{row['minimum']:.3g} to {row['maximum']:.3g}" if row["n"] > 1 else "measured once",
            "Target": row["target"],
        }
        for row in records
    )
    return markdown(cells if any(cells["Target"]) else cells.drop(columns="Target"))


def number(value: float) -> str:
    """Three digits or more, and no powers of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine(described: dict[str, Any]) -> str:
    """What it was measured on."""
    return (
        f"{described['cpu']}, {described['cores']} cores, {described['cpu_capability']}; {described['device']}; "
        f"Python {described['python']}, PyTorch {described['packages']['torch']}, {described['system']}."
    )


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = environment.PROJECT / "outputs" / "reference" / "benchmark"
    parser.add_argument("--out", type=Path, default=default, help="where the tables go")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--options", action="store_true", help="measure bf16 and torch.compile instead")
    arguments = parser.parse_args()
    name = "options" if arguments.options else "benchmark"
    path = arguments.out / (name if arguments.device == "cpu" else f"{name}-{arguments.device}")
    data_root = Path(os.environ.get("MNIST_EXP_DATA") or "data").absolute()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), data_root, torch.device(arguments.device))
        rows = measure_options(bench) if arguments.options else measure(bench)
    described = environment.describe(bench.device) | {"cores": os.cpu_count(), "system": platform.system()}
    write(rows, path, described)
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes; the table lies in {path}.*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
