"""Update README.md and docs/ from the tracked results: ``make docs``.

What is between ``<!-- table: NAME -->`` and ``<!-- end -->`` is made from ``outputs/reference``;
so are the report there and the figures in ``docs/figures``. A test checks that nothing is out of date.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd

from mnist_exp.report import published, tables
from mnist_exp.report.collect import Collection, collect
from mnist_exp.report.estimates import make_estimates
from mnist_exp.report.misclassified import load_misclassified
from mnist_exp.report.statistics import Summary, summarise

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "outputs" / "reference"
DOCUMENTS = ("README.md", "docs/reproduction.md", "docs/performance.md", "docs/usage.md")
VARIANTS = {"avx2": "AVX2 instead of AVX-512", "threads2": "two threads instead of one"}
MARKER = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def side_by_side(collection: Collection) -> str:
    """What was published, beside what both protocols give."""
    rows = []
    for model, values in published.table().items():
        groups = {
            group.protocol: group
            for group in collection.groups
            if published.published_model(group.record.identity) == model
        }
        row = {"Model": groups["standard"].label}
        for metric, name in (("test_loss", "loss"), ("test_accuracy", "accuracy")):
            row[f"Published {name}"] = f"{values[metric]:.3f}"
            row[f"Ours, published protocol: {name}"] = _cell(summarise(groups["published"].final_values(metric)))
            row[f"Ours, standard protocol: {name}"] = _cell(summarise(groups["standard"].final_values(metric)))
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def of_standard(collection: Collection) -> Collection:
    """The runs of the standard protocol alone, as `make sweep` gives."""
    return Collection(tuple(group for group in collection.groups if group.protocol == "standard"))


def elsewhere(reference: Path) -> str:
    """How much each model's last-epoch results change under other arithmetic."""
    rows = []
    for variant, name in VARIANTS.items():
        for path in sorted((reference / "elsewhere" / variant).glob("*/metrics.csv")):
            prefix = path.parent.name.rpartition("-")[0]
            (stored,) = (reference / "runs").glob(f"{prefix}-*/metrics.csv")
            moved = (pd.read_csv(path) - pd.read_csv(stored)).iloc[-1].abs()
            title = json.loads((path.parent / "run.json").read_text())["title"]
            rows.append(
                {
                    "Arithmetic": name,
                    "Model": title,
                    "Test loss differs by": f"{moved['test_loss']:.4f}",
                    "Test accuracy differs by": f"{moved['test_accuracy']:.4f}",
                }
            )
    return tables.markdown(pd.DataFrame(rows))


COVERAGE = {
    "holds": "interval for new seeds and new digits holds",
    "seeds_alone_holds": "interval over seeds alone holds",
    "rejects": "test finds a difference that is not there",
}


def coverage(path: Path) -> str:
    """How often intervals hold, a column for each number of seeds (`scripts/coverage.py`)."""
    counted = pd.read_csv(path)
    rows = []
    for what, part in counted.groupby("what", sort=False):
        for key in (key for key in COVERAGE if key in part and part[key].notna().any()):
            shares = {
                f"n = {n}": f"{100 * share:.1f} %" if share == share else "–"
                for n, share in zip(part["n"], part[key], strict=True)
            }
            rows.append({"Of": what, "How often the": COVERAGE[key]} | shares)
    return tables.markdown(pd.DataFrame(rows))


def render_tables(collection: Collection) -> dict[str, str]:
    """Every table that a document may show, by name."""
    standard = of_standard(collection)
    found = {"side-by-side": side_by_side(collection)}
    found["elsewhere"] = elsewhere(REFERENCE)
    found["coverage-simulated"] = coverage(REFERENCE / "coverage" / "simulated.csv")
    found["coverage-real"] = coverage(REFERENCE / "coverage" / "real.csv")
    found["benchmark"] = (REFERENCE / "benchmark" / "targets.md").read_text(encoding="utf-8")
    found["pictures"] = tables.markdown(pd.read_csv(REFERENCE / "inference" / "pictures.csv", dtype=str))
    estimates = make_estimates(standard, load_misclassified(standard)[0])
    rendered = [tables.comparison(standard, estimates), tables.differences(standard, estimates)]
    rendered += [tables.verdict(collection), tables.forensics(collection)]
    found |= {table.name: tables.markdown(table.cells) for table in rendered if table}
    return found


def fill_markers(text: str, contents: dict[str, str]) -> str:
    """A document with its tables as they should be."""
    return MARKER.sub(lambda match: f"{match[1]}{contents[match[2]]}{match[3]}", text)


def _cell(summary: Summary) -> str:
    return f"{summary.mean:.4f} ± {summary.std:.4f}" if summary.std is not None else f"{summary.mean:.4f}"


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
