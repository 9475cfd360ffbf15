"""How fast is it? Everything measured in one run on one machine: ``make bench``.

Baseline: the usual pipeline (digits as PNG files, a Dataset that opens, resizes and normalises each
image, a DataLoader with 4 workers). Floor: the same model's forward, backward and optimizer step on one
batch that is already there, nothing else. The table goes to ``outputs/reference/benchmark``.
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
from mnist_exp.config import DataConfig, DeviceConfig
from mnist_exp.datasets import PREFIX
from mnist_exp.download import ensure_mnist
from mnist_exp.report.tables import markdown
from mnist_exp.training import Digits, Training, fit

MODELS = {"LeNet5": "lenet5", "LeNet5Regularized": "lenet5r", "MLP": "mlp"}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "fused": True}
CONSTANT = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "factor": 1.0}
BATCH = 64
REPEATS = 3
FLOOR_STEPS = 150


@dataclass
class Row:
    """One line of the table: a quantity's repeats, and what it should be."""

    what: str
    unit: str
    values: list[float]
    target: str = ""

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)


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


def write_png(root: Path, folder: Path) -> None:
    """All digits as ``{number}_{label}.png``, a folder for each split."""
    files = ensure_mnist(root)
    for split, prefix in PREFIX.items():
        (folder / split).mkdir()
        images = torch.frombuffer(bytearray(files[f"{prefix}-images-idx3-ubyte"]), dtype=torch.uint8, offset=16)
        labels = files[f"{prefix}-labels-idx1-ubyte"][8:]
        for number, (image, label) in enumerate(zip(images.view(-1, 28, 28).numpy(), labels, strict=True)):
            Image.fromarray(image).save(folder / split / f"{number}_{label}.png")


def usual_epoch(name: str, folder: Path) -> float:
    """Seconds of one epoch, training and evaluation, of the usual pipeline."""
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train = DataLoader(PngDigits(folder / "train"), batch_size=BATCH, shuffle=True, num_workers=4)
    test = DataLoader(PngDigits(folder / "test"), batch_size=BATCH, num_workers=4)
    start = time.perf_counter()
    model.train()
    loss_sum = hits = 0.0
    for images, labels in train:
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
            logits = model(images)
            loss_sum += cross_entropy(logits, labels).item()
            hits += (logits.argmax(1) == labels).sum().item()
    return time.perf_counter() - start


def new_training(name: str) -> Training:
    """A model at its start, with what trains it."""
    torch.manual_seed(0)
    model = factory.build_model({"_target_": f"mnist_exp.models.{name}"})
    optimizer = factory.build_optimizer(SGD, model)
    scheduler, each_batch = factory.build_scheduler(CONSTANT, optimizer, 938)
    return Training(model, optimizer, scheduler, each_batch, torch.Generator().manual_seed(0))


def floor_step(name: str, digits: Digits) -> float:
    """Seconds of a training step on one batch that is already there."""
    training = new_training(name)
    images, labels = digits.normalised(slice(0, BATCH)), digits.labels[:BATCH]
    start = 0.0
    for step in range(FLOOR_STEPS + 20):
        if step == 20:
            start = time.perf_counter()
        loss = cross_entropy(training.model(images), labels)
        training.optimizer.zero_grad()
        torch.autograd.backward(loss)
        training.optimizer.step()
    return (time.perf_counter() - start) / FLOOR_STEPS


def our_epoch(name: str, train: Digits, test: Digits) -> tuple[float, float]:
    """Seconds of one epoch's training and of its evaluation."""
    (epoch,) = fit(new_training(name), train, test, epochs=1, batch_size=BATCH, training_mode="every_epoch")
    return epoch.train_seconds, epoch.eval_seconds


def command(root: Path, *arguments: str) -> tuple[float, float]:
    """Wall seconds and peak memory (GiB, of the largest process) of a command, from a cold process."""
    words = [sys.executable, *arguments, *([f"output_root={root}"] if "mnist_exp.run" in arguments else [])]
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"benchmark: {' '.join(words)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def sweep(root: Path, *overrides: str) -> float:
    """Wall seconds of a sweep."""
    return command(root, "-m", "mnist_exp.run", "-m", *overrides)[0]


def measure(scratch: Path, data_root: Path) -> list[Row]:
    """All rows; the scratch folder takes runs and PNG files."""
    (train, test), _ = datasets.load(DataConfig(root=str(data_root)), ("train", "test"), torch.device("cpu"))
    rows: list[Row] = []

    def add(what: str, unit: str, values: list[float], target: str = "") -> Row:
        rows.append(Row(what, unit, values, target))
        print(f"  {what}: {rows[-1].median:.3g} {unit}", flush=True)
        return rows[-1]

    print("the usual pipeline", flush=True)
    png = scratch / "png"
    png.mkdir()
    write_png(data_root, png)
    usual = {name: add(f"usual pipeline: an epoch of {name}", "s", [usual_epoch(name, png)]) for name in MODELS}

    print("the floor, and our epochs in turn with it", flush=True)
    ours = {}
    for name in MODELS:
        pairs = [(floor_step(name, train), our_epoch(name, train, test)) for _ in range(REPEATS)]
        add(f"floor: a step of {name}", "ms", [1e3 * floor for floor, _ in pairs])
        ours[name] = add(f"ours: an epoch of {name}", "s", [sum(epoch) for _, epoch in pairs])
        ratios = [epoch[0] / (floor * -(-len(train) // BATCH)) for floor, epoch in pairs]
        add(f"ratio: training epoch of {name} / floor × its steps", "×", ratios, "≤ 1.10")
    add("ratio: usual / ours, an epoch of MLP", "×", [usual["MLP"].median / v for v in ours["MLP"].values], "≥ 25")

    print("whole commands", flush=True)
    whole = [sweep(scratch / "whole", f"model={','.join(MODELS.values())}", "seed=0")]
    script = Path(__file__).parent / "report.py"
    runs = ("--runs", str(scratch / "whole/runs"), "--out", str(scratch / "report"))
    whole[0] += command(scratch, str(script), *runs)[0]
    add("ours: make sweep SEEDS=0 and make report, cold", "s", whole)
    work = 20 * sum(row.median for row in usual.values())
    add("usual pipeline: the same work (20 × one epoch of each)", "s", [work])
    add("ratio: usual / ours, the whole sweep", "×", [work / whole[0]], "≥ 8")

    starts = []
    memory = []
    for repeat in range(REPEATS):
        place = scratch / f"start-{repeat}"
        wall, peak = command(place, "-m", "mnist_exp.run", "model=lenet5r", "epochs=1")
        (timing,) = place.glob("runs/*/timing.csv")
        starts.append(wall - float(pd.read_csv(timing)[["train_seconds", "eval_seconds"]].to_numpy().sum()))
        memory.append(peak)
    add("a command without its epochs (start, digits, results)", "s", starts, "≤ 5")
    imports = "import mnist_exp.run, mnist_exp.job"
    add("… of which imports", "s", [command(scratch, "-c", imports)[0] for _ in range(REPEATS)], "≤ 3.5")
    add("peak memory of a job", "GiB", memory, "≤ 1.0")
    make_nine_runs(scratch)
    nine = ("--runs", str(scratch / "nine/runs"), "--out", str(scratch / "nine/report"))
    add("report of nine runs", "s", [command(scratch, str(script), *nine)[0] for _ in range(REPEATS)], "≤ 5")

    print("how it grows", flush=True)
    pair = ("model=lenet5", "seed=0,1", "epochs=3")
    alone = sweep(scratch / "jobs1", *pair, "hydra.launcher.n_jobs=1")
    both = sweep(scratch / "jobs2", *pair, "hydra.launcher.n_jobs=2")
    add("two jobs of LeNet5, one after the other / side by side", "×", [alone / both], "≥ 1.8")
    for seeds in (1, 2, 4, 8):
        overrides = ("model=mlp", f"seed=range(0,{seeds})", "epochs=5")
        add(f"sweep of MLP, {seeds} seeds, 5 epochs", "s", [sweep(scratch / f"seeds{seeds}", *overrides)])
    for batch in (16, 64, 256, 1024, 4096):
        place = scratch / f"batch{batch}"
        _, peak = command(place, "-m", "mnist_exp.run", "model=lenet5", "epochs=1", f"batch_size={batch}")
        (timing,) = place.glob("runs/*/timing.csv")
        add(f"LeNet5, batches of {batch}: training", "images/s", list(rate(timing)))
        add(f"LeNet5, batches of {batch}: peak memory", "GiB", [peak])
    return rows


def rate(timing: Path) -> list[float]:
    """Images per second of each epoch."""
    values: list[float] = pd.read_csv(timing)["train_images_per_second"].tolist()
    return values


def make_nine_runs(scratch: Path) -> None:
    """Three runs of each model; what the report takes does not depend on how well they are trained."""
    sweep(scratch / "nine", "model=lenet5,lenet5r,mlp", "seed=0,1,2", "epochs=1", "protocol=published")


def write(rows: list[Row], folder: Path, described: dict[str, Any]) -> None:
    """The table as CSV and Markdown, and the machine it was measured on."""
    folder.mkdir(parents=True, exist_ok=True)
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
    data.to_csv(folder / "benchmark.csv", index=False)
    (folder / "machine.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    (folder / "benchmark.md").write_text(table(data, described), encoding="utf-8")


def table(data: pd.DataFrame, described: dict[str, Any]) -> str:
    """The table for a person, with the machine below it."""
    records: list[dict[str, Any]] = [dict(row) for _, row in data.fillna("").iterrows()]
    cells = pd.DataFrame(
        {
            "What": row["what"],
            "Median": f"{row['median']:,.4g} {row['unit']}",
            "Spread": f"{row['minimum']:.3g} to {row['maximum']:.3g}" if row["n"] > 1 else "measured once",
            "Target": row["target"],
        }
        for row in records
    )
    packages = described["packages"]
    machine = f"{described['cpu']}, {described['cores']} cores, {described['cpu_capability']}; Python "
    machine += f"{described['python']}, PyTorch {packages['torch']}, {described['system']}."
    return f"{markdown(cells)}\n{machine}\n"


def main() -> int:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = environment.PROJECT / "outputs" / "reference" / "benchmark"
    parser.add_argument("--out", type=Path, default=default, help="where the table goes")
    arguments = parser.parse_args()
    device = environment.prepare(DeviceConfig(name="cpu"))
    described = environment.describe(device) | {"cores": os.cpu_count(), "system": platform.system()}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(Path(temporary), Path(os.environ.get("MNIST_EXP_DATA", "data")))
    write(rows, arguments.out, described)
    print((arguments.out / "benchmark.md").read_text(encoding="utf-8"))
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
