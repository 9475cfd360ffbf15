"""How fast is it? Everything measured in one run on one machine: ``make bench``.

Baseline: the usual pipeline (digits as PNG files, a Dataset that opens, resizes and normalises each
image, a DataLoader with 4 workers; the same models, optimizer and batch size), with PyTorch's default
number of threads. Floor: the same model's forward, backward and optimizer step on one batch already in
memory. The tables go to ``outputs/reference/benchmark``.
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

from mnist_exp.data.images import ImageSplit, load
from mnist_exp.machine.determinism import make_deterministic, tune_malloc
from mnist_exp.machine.provenance import PROJECT, provenance
from mnist_exp.report.formats import markdown
from mnist_exp.report.published import MODELS
from mnist_exp.settings import factory
from mnist_exp.settings.schema import DataConfig, DeviceConfig, default_data_root
from mnist_exp.training import TrainState, fit, use_blocked_layout

SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "fused": True}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
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
    """A table that prints each row as it is added."""

    def add(self, what: str, unit: str, values: list[float], target: str = "") -> Row:
        """Add a measurement."""
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


def new_state(name: str, device: torch.device) -> TrainState:
    """An untrained model with its optimizer and schedule."""
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"}).to(device)
    optimizer = factory.build_optimizer(SGD, model)
    scheduler, per_batch = factory.build_scheduler(CONSTANT, optimizer, 938)
    return TrainState(model, optimizer, scheduler, per_batch, torch.Generator().manual_seed(0))


def floor_step(name: str, split: ImageSplit) -> float:
    """Seconds of a training step on one batch already in memory."""
    state = new_state(name, split.images.device)
    batch, labels = split.normalised(slice(0, BATCH)), split.labels[:BATCH]
    start = 0.0
    with use_blocked_layout(state.model):
        for step in range(FLOOR_STEPS + 20):
            if step == 20:
                synchronize(batch.device)
                start = time.perf_counter()
            loss = cross_entropy(state.model(batch), labels)
            state.optimizer.zero_grad()
            torch.autograd.backward(loss)
            state.optimizer.step()
    synchronize(batch.device)
    return (time.perf_counter() - start) / FLOOR_STEPS


def synchronize(device: torch.device) -> None:
    """Wait for all work queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def our_epoch(state: TrainState, train: ImageSplit, test: ImageSplit) -> tuple[float, float]:
    """Seconds of the next epoch's training and of its evaluation."""
    epochs = state.epoch + 1
    (epoch,) = fit(state, train, test, epochs=epochs, batch_size=BATCH, training_mode="every_epoch")
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


def measure_usual(bench: Bench, rows: Rows) -> tuple[dict[str, float], float]:
    """Seconds of an epoch of each model in the usual pipeline, and of the MLP's with one thread."""
    print("the usual pipeline", flush=True)
    tune_malloc()  # the models need it, whoever trains them
    png = bench.scratch / "png"
    bench.command("", str(Path(__file__).parent / "export_png.py"), str(png), "--root", str(bench.data_root))
    usual = {}
    for name in MODELS:
        seconds = [usual_epoch(name, png, bench.device)]
        usual[name] = rows.add(f"usual pipeline: an epoch of {name}", "s", seconds).median
    torch.set_num_threads(1)  # its workers then have the cores to themselves
    alone = [usual_epoch("MLP", png, bench.device)]
    return usual, rows.add("usual pipeline: an epoch of MLP, one thread", "s", alone).median


def measure_epochs(bench: Bench, rows: Rows) -> Row:
    """Our epochs against the floor, in turn; the row of the MLP's epochs is returned."""
    make_deterministic(DeviceConfig(name=bench.device.type))
    data = DataConfig(root=str(bench.data_root))
    (train, test), _ = load(data, {}, ("train", "test"), bench.device)
    print("the floor, and our epochs in turn with it", flush=True)
    our_epoch(new_state("MLP", bench.device), train, test)  # warms caches and clocks up
    ours = {}
    for name in MODELS:
        floors: list[float] = []
        epochs: list[tuple[float, float]] = []
        ratios: list[float] = []
        while len(epochs) < REPEATS or sum(map(sum, epochs)) < EPOCH_SECONDS:
            before = floor_step(name, train)
            epochs.append(our_epoch(new_state(name, bench.device), train, test))
            floors.append((before + floor_step(name, train)) / 2)
            ratios.append(epochs[-1][0] / (floors[-1] * -(-len(train) // BATCH)))
        rows.add(f"floor: a step of {name}", "ms", [1e3 * floor for floor in floors])
        ours[name] = rows.add(f"ours: an epoch of {name}", "s", [sum(epoch) for epoch in epochs])
        rows.add(f"an epoch's training of {name} / its steps at the floor", "×", ratios, "≤ 1.10")
    return ours["MLP"]


def measure_commands(bench: Bench, rows: Rows, usual: dict[str, float]) -> None:
    """Whole commands: the sweep with its report, a short run, the imports, memory, the report."""
    print("whole commands", flush=True)
    sweep = ("-m", f"model={','.join(MODELS.values())}")
    whole = bench.run("whole", *sweep, "seed=0", f"epochs={EPOCHS}")[0] + bench.report("whole")
    rows.add("ours: make sweep SEEDS=0 and make report, cold", "s", [whole])
    work = EPOCHS * sum(usual.values())
    rows.add(f"usual pipeline: the same work ({EPOCHS} × one epoch of each)", "s", [work])
    rows.add("usual / ours, the whole sweep", "×", [work / whole], "≥ 8")

    # Trains on 10,000 digits, so that little of the time is the epoch's.
    short = [bench.run(f"start{i}", "model=lenet5r", "epochs=1", "protocol=published") for i in range(REPEATS)]
    trained = [bench.timing(f"start{i}")[["train_seconds", "eval_seconds"]].to_numpy().sum() for i in range(REPEATS)]
    startup = [wall - float(seconds) for (wall, _), seconds in zip(short, trained, strict=True)]
    rows.add("a command without its epochs: start, digits, results", "s", startup, "≤ 5")
    imports = ("-c", "import mnist_exp.run, mnist_exp.job")
    rows.add("… of which imports", "s", [bench.command("", *imports)[0] for _ in range(REPEATS)], "≤ 3.5")
    rows.add("peak memory of a job", "GiB", [peak for _, peak in short], "≤ 1.0")
    bench.run("nine", *sweep, "seed=0,1,2", "epochs=1")
    rows.add("the report of nine runs", "s", [bench.report("nine") for _ in range(REPEATS)], "≤ 5")


def measure_growth(bench: Bench, rows: Rows) -> None:
    """How time and memory grow with jobs, seeds and batch size."""
    print("how it grows", flush=True)
    pair = ("-m", "model=lenet5", "seed=0,1", "epochs=8")
    walls = [bench.run(f"jobs{jobs}", *pair, f"hydra.launcher.n_jobs={jobs}")[0] for jobs in (1, 2)]
    rows.add("two jobs of LeNet5, one after the other / in parallel", "×", [walls[0] / walls[1]], "≥ 1.8")
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


def measure(bench: Bench) -> Rows:
    """All that ``make bench`` prints."""
    rows = Rows()
    usual, alone = measure_usual(bench, rows)
    mlp = measure_epochs(bench, rows)
    rows.add("usual / ours, an epoch of MLP", "×", [usual["MLP"] / seconds for seconds in mlp.values], "≥ 25")
    rows.add("… usual with one thread", "×", [alone / seconds for seconds in mlp.values])
    measure_commands(bench, rows, usual)
    measure_growth(bench, rows)
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
    default = PROJECT / "outputs" / "reference" / "benchmark"
    parser.add_argument("--out", type=Path, default=default, help="where the tables go")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    path = arguments.out / ("benchmark" if arguments.device == "cpu" else f"benchmark-{arguments.device}")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary), default_data_root().absolute(), torch.device(arguments.device))
        rows = measure(bench)
    described = provenance(bench.device) | {"cores": os.cpu_count(), "system": platform.system()}
    write(rows, path, described)
    print(path.with_suffix(".md").read_text(encoding="utf-8"))
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes; the table is in {path}.*")
    return 0


if __name__ == "__main__":
    sys.exit(main())
