"""The tables: as data (CSV), for a README (Markdown) and for a paper (LaTeX)."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mnist_exp.report import published
from mnist_exp.report.collect import Collection
from mnist_exp.report.statistics import Summary, compare, deviations, in_words, reproduced, summarise

FINAL = {"test_loss": "test loss", "test_accuracy": "test accuracy"}
FORENSIC_ORDER = ("published", "swapped splits only", "evaluation mode after epoch 1 only", "standard")


@dataclass(frozen=True)
class Table:
    """One table: its numbers as data, and its cells as a person reads them."""

    name: str
    title: str
    note: str
    """What a reader must know to read it rightly."""
    data: pd.DataFrame
    cells: pd.DataFrame


def write(tables: list[Table], folder: Path) -> None:
    """Write each table as CSV (numbers in full), Markdown and LaTeX (booktabs)."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        table.data.to_csv(folder / f"{table.name}.csv", index=False, lineterminator="\n")
        (folder / f"{table.name}.md").write_text(markdown(table.cells), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(latex(table), encoding="utf-8")


def comparison(collection: Collection) -> Table:
    """The comparison table: a row for each group of runs."""
    data, cells = [], []
    for group in collection.groups:
        loss, accuracy = (summarise(group.final(metric)) for metric in FINAL)
        data.append(
            {
                "model": group.label,
                "data": group.record["identity"]["data"]["name"],
                "protocol": group.protocol,
                "parameters": group.record["parameters"],
                **_columns("test_loss", loss),
                **_columns("test_accuracy", accuracy),
                "n": loss.n,
            }
        )
        cells.append(
            {
                "Model": group.label,
                "Protocol": group.protocol,
                "Parameters": f"{group.record['parameters']:,}",
                "Test loss": _mean_std(loss),
                "Test accuracy": _mean_std(accuracy),
                "95 % interval of the mean accuracy": _interval(accuracy.mean_low, accuracy.mean_high),
                "n": str(loss.n),
            }
        )
    return Table(
        "comparison",
        "Comparison",
        "The last epoch's result: mean ± standard deviation over n seeds. No epoch was chosen by its accuracy.",
        pd.DataFrame(data),
        pd.DataFrame(cells),
    )


def verdict(collection: Collection) -> Table | None:
    """Is what was published reproduced? None where no run repeats it."""
    table = published.table()
    data, cells = [], []
    for group in collection.groups:
        model = published.counterpart(group.record["identity"])
        if model is None or group.protocol not in ("published", "standard"):
            continue
        for metric, name in FINAL.items():
            summary = summarise(group.final(metric))
            value = table[model][metric]
            inside = reproduced(summary, value)
            answer = {True: "reproduced", False: "not reproduced", None: "not enough seeds"}[inside]
            data.append(
                {
                    "protocol": group.protocol,
                    "model": model,
                    "metric": metric,
                    "mean": summary.mean,
                    "std": summary.std,
                    "n": summary.n,
                    "interval_low": summary.run_low,
                    "interval_high": summary.run_high,
                    "published": value,
                    "verdict": answer,
                }
            )
            cells.append(
                {
                    "Protocol": group.protocol,
                    "Model": group.label,
                    "Metric": name,
                    "Ours": _mean_std(summary),
                    "n": str(summary.n),
                    "95 % prediction interval": _interval(summary.run_low, summary.run_high),
                    "Published": f"{value:.3f}",
                    "Verdict": answer,
                }
            )
    note = (
        "The published run is one run, so the question is where one more run of ours would fall: the prediction "
        "interval of one new run (Student's t, n - 1 degrees of freedom), not the narrower interval of the mean. "
        "The published value was rounded to three decimals; it counts as inside if any value that rounds to it is."
    )
    return Table("verdict", "Is the published result reproduced?", note, *_frames(data, cells)) if data else None


def forensics(collection: Collection) -> Table | None:
    """How far the published values lie from each combination of the two slips; None without the half-ways."""
    table = published.table()
    data, cells = [], []
    for protocol in FORENSIC_ORDER:
        for group in collection.groups:
            model = published.counterpart(group.record["identity"])
            if model is None or group.protocol != protocol:
                continue
            row: dict[str, object] = {"protocol": protocol, "model": model, "n": len(group.runs)}
            cell = {"Splits swapped": _yes("swapped" in protocol or protocol == "published")}
            cell |= {"Evaluation mode after epoch 1": _yes(protocol in (FORENSIC_ORDER[0], FORENSIC_ORDER[2]))}
            cell |= {"Model": group.label, "n": str(len(group.runs))}
            for metric, name in FINAL.items():
                summary, value = summarise(group.final(metric)), table[model][metric]
                distance = deviations(summary, value)
                row |= {metric: summary.mean, f"{metric}_std": summary.std, f"{metric}_published": value}
                row |= {f"{metric}_deviations": distance}
                cell |= {f"{name.capitalize()}": _mean_std(summary), f"Published {name}": f"{value:.3f}"}
                cell |= {f"Away, {name}": "" if distance is None else f"{distance:+.1f} SD"}
            data.append(row)
            cells.append(cell)
    if not {"swapped splits only", "evaluation mode after epoch 1 only"} & {str(row["protocol"]) for row in data}:
        return None
    note = (
        "How many standard deviations (SD) of our runs the published value lies from their mean, for each "
        "combination of the two slips. LeNet5 and the MLP have neither dropout nor batch normalisation, so the "
        "second slip can't change them."
    )
    return Table("forensics", "Which slip explains the published numbers?", note, *_frames(data, cells))


def differences(collection: Collection) -> Table | None:
    """Every pair of groups within a section, compared by test accuracy; None where there is no pair."""
    data, cells = [], []
    for section in collection.sections:
        values = {
            group.label: dict(zip(group.seeds, group.final("test_accuracy"), strict=True))
            for group in collection.in_section(section)
        }
        for c in compare(values):
            row = {"section": section, "first": c.first, "second": c.second, "n": c.n}
            row |= {"difference": c.difference, "low": c.low, "high": c.high, "p_holm": c.p_value}
            data.append(row)
            cells.append({"Section": section, "What the seeds say": in_words(c)})
    note = (
        "Test accuracy, paired by seed: two runs of one seed see the digits in the same order. Points are "
        "percentage points; 95 % bootstrap interval of the mean difference (BCa); two-sided permutation test, "
        "Holm-corrected over the pairs of a section."
    )
    return Table("differences", "Differences between models", note, *_frames(data, cells)) if data else None


def markdown(cells: pd.DataFrame) -> str:
    """A GitHub-flavoured Markdown table; numbers to the right."""
    header, *rows = [list(cells.columns), *cells.astype(str).to_numpy().tolist()]
    numeric = [all(row[i][:1].isdigit() or row[i][:1] in "+-" for row in rows) for i in range(len(header))]
    lines = [header, ["---:" if right else "---" for right in numeric], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def latex(table: Table) -> str:
    """A LaTeX table with booktabs' rules."""
    header, *rows = [list(table.cells.columns), *table.cells.astype(str).to_numpy().tolist()]
    body = "".join("    " + " & ".join(map(_escape, row)) + r" \\" + "\n" for row in rows)
    return (
        "% \\usepackage{booktabs}\n\\begin{table}\n  \\centering\n"
        f"  \\caption{{{_escape(table.title)}. {_escape(table.note)}}}\n"
        f"  \\begin{{tabular}}{{{'l' * len(header)}}}\n    \\toprule\n"
        f"    {' & '.join(map(_escape, header))} \\\\\n    \\midrule\n{body}    \\bottomrule\n"
        "  \\end{tabular}\n\\end{table}\n"
    )


def _frames(data: list[dict[str, object]], cells: list[dict[str, str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    return pd.DataFrame(data), pd.DataFrame(cells)


def _columns(metric: str, s: Summary) -> dict[str, float | None]:
    return {metric: s.mean, f"{metric}_std": s.std, f"{metric}_low": s.mean_low, f"{metric}_high": s.mean_high}


def _mean_std(s: Summary) -> str:
    return f"{s.mean:.4f}" if s.std is None else f"{s.mean:.4f} ± {s.std:.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "needs 2 seeds" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _yes(condition: bool) -> str:
    return "yes" if condition else "no"


def _escape(text: str) -> str:
    special: dict[str, str] = {c: f"\\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "×": r"$\times$", "<": r"\textless{}", ">": r"\textgreater{}"}
    return "".join(special.get(character, character) for character in text)
