"""Update README.md and docs/ from the tracked results: ``make docs``.

What is between ``<!-- table: NAME -->`` (or ``value``) and ``<!-- end -->`` is made from ``outputs/reference``;
so are the report there and the figures in ``docs/figures``. A test checks that nothing is out of date.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.report import published, tables
from mnist_exp.report.collect import Collection, Group, collect
from mnist_exp.report.estimates import Estimates, make_estimates
from mnist_exp.report.image_errors import load_errors
from mnist_exp.report.published import MODELS
from mnist_exp.report.table import Row, interval, markdown, mean_std
from mnist_exp.settings.identity import flatten
from mnist_exp.settings.schema import ARITHMETICS

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "outputs" / "reference"
DOCUMENTS = ("README.md", "docs/reproduction.md", "docs/performance.md", "docs/predict.md", "docs/search.md")
PROCESSORS = {"avx2": "without AVX-512", "avx512": "with AVX-512"}
VARIANTS = {"native": "native (AVX-512)", "threads2": "two threads instead of one"}
QUICK_EPOCHS = 3  # conf/experiment/quick.yaml
SWEEP_SEEDS = 3  # Makefile
LEARNED = 0.5  # a trial with a lower accuracy learned nothing
MARKER = re.compile(r"(<!-- (?:table|value): (\S+) -->\n?).*?(<!-- end -->)", re.DOTALL)


def side_by_side(collection: Collection, estimates: Estimates) -> Iterator[Row]:
    """What was published, beside what both protocols give."""
    rows = {(published.published_model(g.record.identity), g.protocol): row for g, row in _rows(collection, estimates)}
    for model, values in published.table().items():
        line = {"Model": rows[model, "standard"]["model"]}
        for metric, name in (("test_loss", "loss"), ("test_accuracy", "accuracy")):
            line[f"Published {name}"] = f"{values[metric]:.3f}"
            for protocol in ("published", "standard"):
                line[f"Ours, {protocol} protocol: {name}"] = mean_std(metric)(rows[model, protocol])
        yield line


def _rows(collection: Collection, estimates: Estimates) -> Iterator[tuple[Group, Row]]:
    """Each group with its row of the comparison."""
    rows = tables.comparison(collection, estimates).data.to_dict("records")
    for group, row in zip(collection.groups, rows, strict=True):
        yield group, {str(key): value for key, value in row.items()}


def summarise(runs: Path) -> pd.DataFrame:
    """What a table needs of runs that are not tracked themselves, a row for each group: settings, results, seconds."""
    collection = collect(runs)
    estimates = make_estimates(collection, load_errors(collection)[0])
    found = []
    for group, row in _rows(collection, estimates):
        times = [float(run.timing["train_seconds"].sum()) for run in group.runs if run.timing is not None]
        known = {"run": group.runs[0].folder.name, "title": group.record.title} | flatten(group.record.identity)
        found.append(known | row | {"train_seconds": pd.Series(times, dtype=float).median()})
    return pd.DataFrame(found)


def elsewhere(reference: Path) -> Iterator[Row]:
    """How much each model's last-epoch results change under other arithmetic."""
    for variant, name in VARIANTS.items():
        for row in _read(reference / "elsewhere" / f"{variant}.csv"):
            (stored,) = (reference / "runs").glob(f"{row['run'].rpartition('-')[0]}-*/metrics.csv")
            last = pd.read_csv(stored).iloc[-1]
            moved = {words: abs(row[metric] - last[metric]) for metric, words in tables.FINAL.items()}
            cells = {f"{words.capitalize()} differs by": f"{change:.4f}" for words, change in moved.items()}
            yield {"Arithmetic": name, "Model": row["title"]} | cells


def _read(path: Path) -> list[Row]:
    """What `summarise` found, from its file."""
    rows = pd.read_csv(path).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def arithmetic(folder: Path) -> Iterator[Row]:
    """What portable and native arithmetic cost, from the benchmark's tables."""
    for name, processor in PROCESSORS.items():
        measured = _medians(folder / f"{name}.csv")
        for kind in ARITHMETICS:
            found = {model: measured.get(f"ours: an epoch of {model}, {kind}") for model in MODELS}
            if None not in found.values():  # exact arithmetic was not measured everywhere
                epochs = {f"An epoch of {model}": f"{seconds:.2f} s" for model, seconds in found.items()}
                yield {"Processor": processor, "Arithmetic": kind} | epochs


def portable_cost(path: Path) -> str:
    """How many times as long as native arithmetic portable arithmetic takes."""
    return f"{_medians(path)['an epoch of all three: portable / native']:.2f}"


def _medians(path: Path) -> "pd.Series[float]":
    return pd.read_csv(path).set_index("what")["median"]


def benchmark(path: Path, *, only_sweep: bool = False) -> Iterator[Row]:
    """The benchmark's ratios, and what has a target; or only the sweep beside the published program's way."""
    for row in pd.read_csv(path).fillna("").to_dict("records"):
        of_sweep = "make sweep" in row["what"] or "all three (" in row["what"]
        if of_sweep if only_sweep else row["target"] or row["unit"] == "×":
            line = {"What": row["what"], "Median": f"{row['median']:.3g} {row['unit']}"}
            if row["median"] >= 1000:
                line["Median"] = f"{row['median']:,.0f} {row['unit']}"
            spread = f"{row['minimum']:.3g} to {row['maximum']:.3g}" if row["n"] > 1 else "measured once"
            yield line if only_sweep else line | {"Spread": spread, "Target": row["target"]}


def machine(path: Path) -> str:
    """What a benchmark was measured on."""
    told = json.loads(path.read_text(encoding="utf-8"))
    return (
        f"{told['cpu']}, {told['cores']} cores, {told['cpu_capability']}, Python {told['python']}, "
        f"PyTorch {told['packages']['torch']}, {told['system']}"
    )


COVERAGE = {
    "holds": "interval for new seeds and new digits holds",
    "seeds_alone_holds": "interval over seeds alone holds",
    "rejects": "test finds a difference that is not there",
    "rejects_at_1_percent": "… at the 1 % level",
    "rejects_at_0.1_percent": "… at the 0.1 % level",
}


def coverage(path: Path) -> Iterator[Row]:
    """How often intervals hold and tests err, lowest to highest of all questions (`scripts/interval_coverage.py`)."""
    found = pd.read_csv(path)
    for key in (key for key in COVERAGE if key in found):
        row = {"How often the": COVERAGE[key]}
        for n, part in found.groupby("n"):
            low, high = 100 * part[key].min(), 100 * part[key].max()
            row[f"n = {n}"] = f"{low:.1f} to {high:.1f} %" if low == low else "–"
        yield row


def seed_pairs(path: Path) -> Iterator[Row]:
    """How many intervals of two seeds hold what ten seeds say (`scripts/interval_coverage.py`)."""
    for row in pd.read_csv(path).to_dict("records"):
        line = {"Difference between": str(row["what"]), "Protocol": str(row["protocol"])}
        yield line | {
            "Intervals that hold": f"{row['hold']} of {row['pairs']}",
            "Smallest p": f"{row['smallest_p']:.2g}",
        }


def quick(rows: list[Row]) -> Iterator[Row]:
    """The models in the few epochs of `experiment=quick`."""
    for row in rows:
        if row["epochs"] == QUICK_EPOCHS and row["device.arithmetic"] == "portable":
            line = {"Model": row["title"], "Epochs": str(QUICK_EPOCHS), "Test loss": mean_std("test_loss")(row)}
            yield line | _accuracy_cells(row)


def augmented(rows: list[Row], *, trials: bool = False) -> Iterator[Row]:
    """Models trained with augmentation: what a search tried (``trials``), or with what it chose."""
    for row in rows:
        kind = str(row["augment.target"]).rpartition(".")[2]
        amount = row["augment.pixels" if kind == "Shift" else "augment.degrees"]
        unit = "°" if kind == "Rotate" else " pixel" if amount == 1 else " pixels"
        line = {"Model": row["title"], "Augmentation": f"{kind} by up to {amount:.0f}{unit}"}
        line["Learning rate"] = f"{row['optimizer.lr']:g}"
        if not trials:
            yield line | _accuracy_cells(row)
        elif row["validation_accuracy"] > LEARNED:
            smoothing = row.get("loss.label_smoothing", 0)
            line["Label smoothing"] = f"{0 if pd.isna(smoothing) else smoothing:g}"
            yield line | {"Validation accuracy": f"{row['validation_accuracy']:.4f}"}


def exact_bytes(path: Path) -> Iterator[Row]:
    """On which processors exact arithmetic gave which weights (`tests.exact.processors`)."""
    rows = _read(path)
    for row in rows:
        told = {name: "the same" if row[name] == rows[0][name] else "others" for name in row if name != "processor"}
        yield {"Processor": row["processor"]} | (told if row is not rows[0] else {name: row[name] for name in told})


def exact_runs(rows: list[Row], collection: Collection, estimates: Estimates) -> Iterator[Row]:
    """Ten seeds of each model with exact arithmetic, beside the portable ones."""
    portable = {group.record.title: row for group, row in _rows(collection, estimates) if group.protocol == "standard"}
    for row in rows:
        other = portable[row["title"]]
        line = {"Model": row["title"], "Exact: test loss": mean_std("test_loss")(row)}
        line |= {"Exact: test accuracy": mean_std("test_accuracy")(row)}
        line |= {"Portable: test loss": mean_std("test_loss")(other)}
        line |= {"Portable: test accuracy": mean_std("test_accuracy")(other)}
        yield line | {"95 % interval of its mean": interval("test_accuracy")(other), "n": str(row["n"])}


def time_to_accuracy(rows: list[Row]) -> Iterator[Row]:
    """LeNet5's test accuracy, and how long its training took, for each arithmetic and number of epochs."""
    of_lenet5 = [row for row in rows if row["model.target"].endswith(".LeNet5")]
    for row in sorted(of_lenet5, key=lambda row: (row["device.arithmetic"] != "portable", row["epochs"])):
        line = {"Arithmetic": row["device.arithmetic"], "Epochs": str(row["epochs"])}
        line |= {"Training (s)": f"{row['train_seconds']:.1f}"} | _accuracy_cells(row)
        yield line | {"Mean ≥ 0.990": "yes" if row["test_accuracy"] >= 0.99 else "no"}


def sweep_minutes(collection: Collection) -> str:
    """How long `make sweep` trains on two cores: the times of the tracked runs that it consists of, halved."""
    runs = [run for group in collection.groups if group.protocol == "standard" for run in group.runs]
    tables_of_times = [run.timing for run in runs if run.timing is not None and run.record.seed < SWEEP_SEEDS]
    seconds = sum(float(table[["train_seconds", "eval_seconds"]].to_numpy().sum()) for table in tables_of_times)
    return f"{seconds / 2 / 60:.0f}"


def _accuracy_cells(row: Row) -> Row:
    cells = {"Test accuracy": mean_std("test_accuracy")(row)}
    return cells | {"95 % interval of the mean accuracy": interval("test_accuracy")(row), "n": str(row["n"])}


def render_tables(collection: Collection) -> dict[str, str]:
    """Every table that a document may show, by name."""
    estimates = make_estimates(collection, load_errors(collection)[0])
    standard = Collection(tuple(group for group in collection.groups if group.protocol == "standard"))
    shown = [tables.comparison(standard, estimates), tables.differences(standard, estimates)]
    shown += [tables.verdict(collection, estimates), tables.forensics(collection, estimates)]
    few = _read(REFERENCE / "quick.csv")
    cells: dict[str, Iterator[Row] | pd.DataFrame] = {
        "quick": quick(few),
        "augmented": augmented(_read(REFERENCE / "augmented.csv")),
        "augment-trials": augmented(_read(REFERENCE / "augment-search.csv"), trials=True),
        "exact-bytes": exact_bytes(REFERENCE / "exact" / "bytes.csv"),
        "exact-runs": exact_runs(_read(REFERENCE / "exact" / "runs.csv"), collection, estimates),
        "time-to-accuracy": time_to_accuracy(few),
        "side-by-side": side_by_side(collection, estimates),
        "elsewhere": elsewhere(REFERENCE),
        "coverage-simulated": coverage(REFERENCE / "coverage" / "simulated.csv"),
        "coverage-real": coverage(REFERENCE / "coverage" / "real.csv"),
        "coverage-pairs": seed_pairs(REFERENCE / "coverage" / "pairs.csv"),
        "arithmetic": arithmetic(REFERENCE / "benchmark"),
        "benchmark": benchmark(REFERENCE / "benchmark" / "avx2.csv"),
        "speed": benchmark(REFERENCE / "benchmark" / "avx2.csv", only_sweep=True),
        "pictures": pd.read_csv(REFERENCE / "inference" / "pictures.csv", dtype=str).fillna("–"),
    }
    cells |= {table.name: table.cells for table in shown if table}
    written = {"sweep-minutes": sweep_minutes(collection), "machine": machine(REFERENCE / "benchmark" / "avx2.json")}
    for name in PROCESSORS:
        written[f"portable-cost-{name}"] = portable_cost(REFERENCE / "benchmark" / f"{name}.csv")
    return written | {name: markdown(pd.DataFrame(each)) for name, each in cells.items()}


def fill_markers(text: str, contents: dict[str, str]) -> str:
    """A document with its tables as they should be."""
    return MARKER.sub(lambda match: f"{match[1]}{contents[match[2]]}{match[3]}", text)


def photograph(page: Path, out: Path, size: str) -> None:
    """A picture of the top of a page, ``WIDTH,HEIGHT``, where there is a Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print(f"there is no Chromium here, so {out.name} stays as it is")
        return
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += [f"--user-data-dir={folder}", f"--window-size={size}", "--virtual-time-budget=2000"]
        done = subprocess.run(
            [chromium, *flags, f"--screenshot={out}", page.as_uri()], capture_output=True, timeout=120
        )
        done.check_returncode()
    Image.open(out).convert("P", palette=Image.Palette.ADAPTIVE).save(out, optimize=True)


def main() -> int:
    """Write the documents, and the figures that they show; or a summary of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summarise", nargs=2, type=Path, metavar=("RUNS", "FILE"), help="runs, as a table's CSV file")
    if given := parser.parse_args().summarise:
        summarise(given[0]).to_csv(given[1], index=False, lineterminator="\n")
        return 0
    contents = render_tables(collect(REFERENCE / "runs"))
    for name in DOCUMENTS:
        path = PROJECT / name
        text = path.read_text(encoding="utf-8")
        path.write_text(fill_markers(text, contents), encoding="utf-8")
        for figure in re.findall(r"\(([^)]*figures/[^)]+)\.svg\)", text):
            target = (path.parent / f"{figure}.svg").resolve()
            section, _, rest = target.stem.partition("--")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REFERENCE / "report" / section / f"{rest}.svg", target)
    photograph(REFERENCE / "report" / "index.html", PROJECT / "docs" / "figures" / "report.png", "1280,860")
    return 0


if __name__ == "__main__":
    sys.exit(main())
