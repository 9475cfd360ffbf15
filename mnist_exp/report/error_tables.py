"""The tables of what the runs get wrong: each class's accuracy, confused pairs of classes, calibration."""

import math
from collections.abc import Sequence

import numpy as np

from mnist_exp.report import formats
from mnist_exp.report.crossed import Crossed
from mnist_exp.report.formats import SECTION, Row, Table, make_table
from mnist_exp.report.misclassified import Misclassified
from mnist_exp.report.runs import DIGITS
from mnist_exp.report.statistics import FRACTION, Estimate, estimate
from mnist_exp.report.text import printable

MAX_CONFUSED = 5
"""Pairs of classes listed for each model."""


def confused(misclassified: Sequence[Misclassified]) -> Table | None:
    """The pairs of classes that each group confuses most often; None where nothing is wrong."""
    rows, cells = [], []
    for m in misclassified:
        group, wrong = m.group, m.confusion * (1 - np.eye(10))
        for place in np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]:
            label, answer = divmod(int(place), 10)
            if not wrong[label, answer]:
                break
            share = _share_of_class(m, label, answer)
            images = share.times(float(m.confusion[label].sum()))
            row: Row = {"section": group.section, "model": group.label}
            row |= {"label": group.classes[label], "predicted": group.classes[answer]}
            rows.append(row | formats.estimate_columns("digits", images) | {"share": share.mean})
            cell = {SECTION: group.section, "Model": group.label}
            cell |= {"Label": group.classes[label], "Predicted": group.classes[answer]}
            cell |= {
                "Images per run": formats.number(images.mean, ".1f"),
                "95 % interval": formats.interval(images, ".1f"),
            }
            cells.append(cell | {"Share of the label": formats.number(share.mean, ".2%")})
    note = (
        "The five most frequent of each model: images per run, as mean and 95 % interval for new seeds and new images, "
        "and their share of all images with that label. Intervals of fewer than ten images are rough."
    )
    return make_table("confused", "Pairs most often confused", note, rows, cells) if rows else None


def classes(misclassified: Sequence[Misclassified]) -> list[Table]:
    """The accuracy of each class: a table for all groups whose classes have the same names."""
    rows, cells = [], []
    for m in misclassified:
        shares = {label: _share_of_class(m, int(label)) for label in DIGITS}
        row: Row = {"section": m.group.section, "model": m.group.label}
        for label, share in shares.items():
            row |= formats.estimate_columns(f"class_{label}", share)
        rows.append(row)
        cell = {SECTION: m.group.section, "Model": m.group.label}
        cells.append(cell | {label: formats.mean_std(share) for label, share in shares.items()})
    note = (
        "The share of each class's images that are recognised: mean ± standard deviation over the seeds. The CSV file "
        "has both 95 % intervals."
    )
    whole = make_table("classes", "Accuracy of each class", note, rows, cells)
    all_names = [m.group.classes for m in misclassified]
    parts: list[Table] = []
    for names in dict.fromkeys(all_names):
        heads = dict(zip(DIGITS, names, strict=True))
        heads |= {key: f"class_{heads[key[6]]}{key[7:]}" for key in whole.data.columns if key.startswith("class_")}
        file, title = whole.name, whole.title
        if len({*all_names}) > 1:
            of = [m.group.record.identity["data"]["name"] for m in misclassified if m.group.classes == names]
            file += f"-{len(parts) + 1}" if parts else ""
            title += f" ({printable(', '.join(dict.fromkeys(of)))})"
        here = [other == names for other in all_names]
        data, text = (frame[here].rename(columns=heads) for frame in (whole.data, whole.cells))
        parts.append(Table(file, title, note, data, text))
    return parts


def _share_of_class(m: Misclassified, label: int, answer: int | None = None) -> Estimate:
    """The share of a class's images that get this wrong answer, or the right one."""
    images = int(next(iter(m.answers.values())).counts[label])
    chosen = [
        (a.wrong_label == label) & (a.wrong_answer == answer if answer is not None else True)
        for a in m.answers.values()
    ]
    values = [float(mine.sum()) / images if images else math.nan for mine in chosen]
    marks = m.marks([a.wrong_index[mine] for a, mine in zip(m.answers.values(), chosen, strict=True)])
    crossed = Crossed.of(marks[:, marks.any(axis=0)], images) if images > 1 else None
    return estimate([1 - value if answer is None else value for value in values], crossed, FRACTION)


def calibration(misclassified: Sequence[Misclassified]) -> Table | None:
    """The expected calibration error of each group; None where no run has its predictions.npz."""
    rows, cells = [], []
    for m in (m for m in misclassified if len(m.bins)):
        e = estimate(m.calibration_errors, None, FRACTION)
        rows.append({"section": m.group.section, "model": m.group.label, "n": e.n} | formats.seeds_columns("ece", e))
        cell = {SECTION: m.group.section, "Model": m.group.label, "Calibration error": formats.mean_std(e)}
        cells.append(cell | {"95 % interval of the mean": formats.span(e.low, e.high), "n": str(e.n)})
    note = (
        "Expected calibration error over 15 equal bins of confidence (Guo et al. 2017): how far, on average, the "
        "probability of an answer is from the share of right answers. Mean ± standard deviation and interval over the "
        "seeds."
    )
    return make_table("calibration", "Calibration", note, rows, cells) if rows else None
