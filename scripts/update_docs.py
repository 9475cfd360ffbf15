"""Bring README.md and docs/ up to date with the tracked results: ``make docs``.

What stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is made from ``outputs/reference``;
so are the report there and the figures in ``docs/figures``. A test checks that nothing is stale.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from mnist_exp.report import published, tables
from mnist_exp.report.collect import Collection, collect
from mnist_exp.report.statistics import Summary, summarise

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "outputs" / "reference"
DOCUMENTS = ("README.md", "docs/reproduction.md")
VARIANTS = {"avx2": "AVX2 instead of AVX-512", "threads2": "two threads instead of one"}
MARKER = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def side_by_side(collection: Collection) -> str:
    """What was published, beside what both protocols give."""
    rows = []
    for model, values in published.table().items():
        groups = {
            group.protocol: group
            for group in collection.groups
            if published.counterpart(group.record["identity"]) == model
        }
        row = {"Model": groups["standard"].label}
        for metric, name in (("test_loss", "loss"), ("test_accuracy", "accuracy")):
            row[f"Published {name}"] = f"{values[metric]:.3f}"
            row[f"Ours, published protocol: {name}"] = _cell(summarise(groups["published"].final(metric)))
            row[f"Ours, standard protocol: {name}"] = _cell(summarise(groups["standard"].final(metric)))
        rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def of_standard(collection: Collection) -> Collection:
    """The runs of the standard protocol alone, as `make sweep` gives."""
    return Collection(tuple(group for group in collection.groups if group.protocol == "standard"))


def elsewhere(reference: Path) -> str:
    """How far the last epoch's numbers moved under other arithmetic, largest difference of the models."""
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


def options() -> str:
    """What bf16 and torch.compile do to an epoch's time, and to the results of the same seeds."""
    ratios = pd.read_csv(REFERENCE / "benchmark" / "options.csv").set_index("what")
    runs = REFERENCE / "options"
    rows = []
    for option, key in (("bf16", "precision"), ("torch.compile", "compile")):
        for model, name in published.MODELS.items():
            changed = [path for path in runs.glob(f"{name}-*") if key in _identity(path)["device"]]
            usual = [next((REFERENCE / "runs").glob(f"{path.name.rpartition('-')[0]}-*")) for path in changed]
            row = {"Option": option, "Model": json.loads((changed[0] / "run.json").read_text())["title"]}
            time = ratios.loc[f"an epoch of {model}, {option} / default"]
            row["An epoch takes"] = f"{time['median']:.2f} × ({time['minimum']:.2f} to {time['maximum']:.2f})"
            row["Test accuracy"] = _cell(summarise([_last(path) for path in changed]))
            row["Default, same seeds"] = _cell(summarise([_last(path) for path in usual]))
            rows.append(row)
    return tables.markdown(pd.DataFrame(rows))


def _identity(run: Path) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))["identity"]
    return identity


def _last(run: Path) -> float:
    return float(pd.read_csv(run / "metrics.csv")["test_accuracy"].iloc[-1])


def made(collection: Collection) -> dict[str, str]:
    """Every table that a document may show, by name."""
    standard = of_standard(collection)
    found = {"side-by-side": side_by_side(collection)}
    found["elsewhere"] = elsewhere(REFERENCE)
    found["benchmark"] = (REFERENCE / "benchmark" / "targets.md").read_text(encoding="utf-8")
    found["options"] = options()
    made_tables = [tables.comparison(standard), tables.differences(standard)]
    made_tables += [tables.verdict(collection), tables.forensics(collection)]
    found |= {table.name: tables.markdown(table.cells) for table in made_tables if table}
    return found


def filled(text: str, contents: dict[str, str]) -> str:
    """A document with its tables as they should be."""
    return MARKER.sub(lambda match: f"{match[1]}{contents[match[2]]}{match[3]}", text)


def _cell(summary: Summary) -> str:
    return f"{summary.mean:.4f} ± {summary.std:.4f}" if summary.std is not None else f"{summary.mean:.4f}"


def main() -> int:
    """Write the documents, and the figures that they show."""
    contents = made(collect(REFERENCE / "runs"))
    for name in DOCUMENTS:
        path = PROJECT / name
        text = path.read_text(encoding="utf-8")
        path.write_text(filled(text, contents), encoding="utf-8")
        for figure in re.findall(r"\(([^)]*figures/[^)]+)\.svg\)", text):
            target = (path.parent / f"{figure}.svg").resolve()
            section, _, rest = target.stem.partition("--")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REFERENCE / "report" / section / f"{rest}.svg", target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
