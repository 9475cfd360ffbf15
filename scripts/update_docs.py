"""Update README.md and docs/ from the tracked results: ``make docs``.

What is between ``<!-- table: NAME -->`` and ``<!-- end -->`` is made from ``outputs/reference``;
so are the report there and the figures in ``docs/figures``. A test checks that nothing is out of date.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mnist_exp.report import formats, published, tables
from mnist_exp.report.collect import Collection, Group, collect
from mnist_exp.report.estimates import Estimates, make_estimates
from mnist_exp.report.formats import Row, interval, mean_std
from mnist_exp.report.misclassified import load_misclassified
from mnist_exp.report.published import MODELS
from mnist_exp.settings.schema import ARITHMETICS

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "outputs" / "reference"
DOCUMENTS = ("README.md", "docs/reproduction.md", "docs/performance.md", "docs/usage.md")
VARIANTS = {"native": "native (AVX-512)", "threads2": "two threads instead of one"}
QUICK_EPOCHS = 3  # conf/experiment/quick.yaml
MARKER = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


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


def elsewhere(reference: Path) -> Iterator[Row]:
    """How much each model's last-epoch results change under other arithmetic."""
    for variant, name in VARIANTS.items():
        for path in sorted((reference / "elsewhere" / variant).glob("*/metrics.csv")):
            prefix = path.parent.name.rpartition("-")[0]
            (stored,) = (reference / "runs").glob(f"{prefix}-*/metrics.csv")
            moved = (pd.read_csv(path) - pd.read_csv(stored)).iloc[-1].abs()
            row = {"Arithmetic": name, "Model": json.loads((path.parent / "run.json").read_text())["title"]}
            for metric, words in tables.FINAL.items():
                row[f"{words.capitalize()} differs by"] = f"{moved[metric]:.4f}"
            yield row


def arithmetic(path: Path) -> Iterator[Row]:
    """What portable and native arithmetic cost, from the benchmark's table."""
    measured = pd.read_csv(path).set_index("what")["median"]
    for kind in ARITHMETICS:
        epochs = {f"An epoch of {model}": f"{measured[f'ours: an epoch of {model}, {kind}']:.2f} s" for model in MODELS}
        whole = measured[f"usual / ours, the whole sweep, {kind}"]
        yield {"Arithmetic": kind} | epochs | {"`make sweep` against the usual pipeline": f"{whole:.1f} times as fast"}


COVERAGE = {
    "holds": "interval for new seeds and new digits holds",
    "seeds_alone_holds": "interval over seeds alone holds",
    "rejects": "test finds a difference that is not there",
}


def coverage(path: Path) -> Iterator[Row]:
    """How often intervals hold, a column for each number of seeds (`scripts/coverage.py`)."""
    for what, part in pd.read_csv(path).groupby("what", sort=False):
        for key in (key for key in COVERAGE if key in part and part[key].notna().any()):
            shares = {
                f"n = {n}": f"{100 * share:.1f} %" if share == share else "–"
                for n, share in zip(part["n"], part[key], strict=True)
            }
            yield {"Of": str(what), "How often the": COVERAGE[key]} | shares


def quick(collection: Collection, estimates: Estimates) -> Iterator[Row]:
    """The models in the few epochs of `experiment=quick`."""
    for group, row in _rows(collection, estimates):
        known = group.record.identity
        if known["epochs"] == QUICK_EPOCHS and known["device"]["arithmetic"] == "portable":
            line = {"Model": group.record.title, "Epochs": str(QUICK_EPOCHS), "Test loss": mean_std("test_loss")(row)}
            yield line | _accuracy_cells(row)


def time_to_accuracy(collection: Collection, estimates: Estimates) -> Iterator[Row]:
    """LeNet5's test accuracy, and how long its training took, for each arithmetic and number of epochs."""
    lines = []
    for group, row in _rows(collection, estimates):
        known = group.record.identity
        if known["model"]["target"].endswith(".LeNet5"):
            times = [float(run.timing["train_seconds"].sum()) for run in group.runs if run.timing is not None]
            line = {"Arithmetic": known["device"]["arithmetic"], "Epochs": str(known["epochs"])}
            line |= {"Training (s)": f"{pd.Series(times).median():.1f}"} | _accuracy_cells(row)
            lines.append(line | {"Mean ≥ 0.990": "yes" if row["test_accuracy"] >= 0.99 else "no"})
    yield from sorted(lines, key=lambda line: (line["Arithmetic"] != "portable", int(line["Epochs"])))


def _accuracy_cells(row: Row) -> Row:
    cells = {"Test accuracy": mean_std("test_accuracy")(row)}
    return cells | {"95 % interval of the mean accuracy": interval("test_accuracy")(row), "n": str(row["n"])}


def render_tables(collection: Collection) -> dict[str, str]:
    """Every table that a document may show, by name."""
    estimates = make_estimates(collection, load_misclassified(collection)[0])
    standard = Collection(tuple(group for group in collection.groups if group.protocol == "standard"))
    shown = [tables.comparison(standard, estimates), tables.differences(standard, estimates)]
    shown += [tables.verdict(collection, estimates), tables.forensics(collection, estimates)]
    few = collect(REFERENCE / "quick" / "runs")
    of_few = make_estimates(few, load_misclassified(few)[0])
    cells: dict[str, Iterator[Row] | pd.DataFrame] = {
        "quick": quick(few, of_few),
        "time-to-accuracy": time_to_accuracy(few, of_few),
        "side-by-side": side_by_side(collection, estimates),
        "elsewhere": elsewhere(REFERENCE),
        "coverage-simulated": coverage(REFERENCE / "coverage" / "simulated.csv"),
        "coverage-real": coverage(REFERENCE / "coverage" / "real.csv"),
        "arithmetic": arithmetic(REFERENCE / "benchmark" / "benchmark.csv"),
        "pictures": pd.read_csv(REFERENCE / "inference" / "pictures.csv", dtype=str).fillna("–"),
    }
    cells |= {table.name: table.cells for table in shown if table}
    written = {"benchmark": (REFERENCE / "benchmark" / "targets.md").read_text(encoding="utf-8")}
    return written | {name: formats.markdown(pd.DataFrame(each)) for name, each in cells.items()}


def fill_markers(text: str, contents: dict[str, str]) -> str:
    """A document with its tables as they should be."""
    return MARKER.sub(lambda match: f"{match[1]}{contents[match[2]]}{match[3]}", text)


def main() -> int:
    """Write the documents, and the figures that they show."""
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
