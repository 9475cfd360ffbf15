"""The tables: each function makes a table's rows (numbers), and says how cells (text) are written from them."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mnist_exp.report import published
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.crossed import Crossed
from mnist_exp.report.estimates import Estimates
from mnist_exp.report.misclassified import Misclassified
from mnist_exp.report.runs import DIGITS
from mnist_exp.report.statistics import FRACTION, LOSS, Estimate, estimate, holds_rounded, prediction_interval, z_score
from mnist_exp.report.table import (
    SECTION,
    Row,
    Table,
    estimate_columns,
    interval,
    make_table,
    mean_std,
    median_span,
    number,
    seeds_columns,
    span,
    text,
)
from mnist_exp.report.wording import PER, sentence
from mnist_exp.text import printable

FINAL = {"test_loss": "test loss", "test_accuracy": "test accuracy"}
FORENSIC_ORDER = ("published", "swapped splits only", "evaluation mode after epoch 1 only", "standard")
MAX_CONFUSED = 5
"""Pairs of classes listed for each model."""
PAIRS_IN_WORDS = 66
"""More pairs than those of 12 groups are not all put into words."""
NOT_CHOSEN = ("version", "device", "data", "protocol", "seed")
"""Of an identity, what is not chosen for the sake of accuracy."""


def comparison(collection: Collection, estimates: Estimates) -> Table:
    """The comparison table: a row for each group of runs."""
    rows = []
    by_test = _chosen_by_test_digits(collection)
    validated = any(group.selection_metric == "validation_accuracy" for group in collection.groups)
    for group in collection.groups:
        means = estimates.means[group]
        row: Row = {"model": group.label, "section": group.section, "protocol": group.protocol, "n": len(group.runs)}
        row |= {"parameters": group.record.parameters}
        for metric in FINAL:
            row |= estimate_columns(metric, means[metric])
        if validated:
            row |= seeds_columns("validation_accuracy", means["validation_accuracy"])
        if by_test:
            row["chosen_by"] = "test digits" if group in by_test else None
        rows.append(row)
    columns = {"Model": text("model"), SECTION: text("section"), "Parameters": number("parameters", ",")}
    columns |= {"Validation accuracy": mean_std("validation_accuracy")} if validated else {}
    columns |= {name.capitalize(): mean_std(metric) for metric, name in FINAL.items()}
    columns |= {"95 % interval of the mean accuracy": interval("test_accuracy"), "n": text("n")}
    columns |= {"Settings chosen by": text("chosen_by")} if by_test else {}
    note = (
        "The last epoch's result: mean ± standard deviation over n seeds. No epoch was chosen by its accuracy. The "
        "interval is for new seeds and new images together (crossed analysis of variance, Satterthwaite's degrees of "
        "freedom; of one run Wilson's, for new images only). The CSV file also has the interval for new seeds on these "
        "very images (Student's t), and what seeds and images each add to the variance of the mean."
    )
    if validated:
        note += " Where images were held out of training to validate on, rows are ranked by validation accuracy, best "
        note += "first."
    if by_test:
        note += " “Test digits”: several settings of this model were tried, and only their test accuracy says which is "
        note += "best, so the best looks better than it is; to choose fairly, run them all with "
        note += "data.validation_size=5000."
    return make_table("comparison", "Comparison", note, rows, columns)


def verdict(collection: Collection, estimates: Estimates) -> Table | None:
    """Is what was published reproduced? None where no run repeats it."""
    rows = []
    for group, model in _counterparts(collection, ("standard", "published")):
        for metric, name in FINAL.items():
            e, value = estimates.means[group][metric], published.table()[model][metric]
            low, high = prediction_interval(e, FRACTION if metric == "test_accuracy" else LOSS)
            answer = "reproduced" if holds_rounded((low, high), value) else "not reproduced"
            if not e.std > 0:  # one seed, or seeds that agree by chance: accuracies are multiples of one image
                low, high, answer = math.nan, math.nan, "not enough seeds"
            row: Row = {"protocol": group.protocol, "model": group.label, "metric": name}
            row |= {"mean": e.mean, "std": e.std, "n": e.n, "interval_low": low, "interval_high": high}
            rows.append(row | {"published": value, "verdict": answer})
    columns = {"Protocol": text("protocol"), "Model": text("model"), "Metric": text("metric")}
    columns |= {"Ours": mean_std("mean", "std"), "n": text("n"), "95 % prediction interval": span("interval")}
    columns |= {"Published": number("published", ".3f"), "Verdict": text("verdict")}
    note = (
        "The published run is one run, so the question is where one more run of ours would fall: the prediction "
        "interval of one new run (Student's t, n - 1 degrees of freedom), not the narrower interval of the mean. The "
        "published value was rounded to three decimals; it counts as inside if any value that rounds to it is."
    )
    return make_table("verdict", "Is the published result reproduced?", note, rows, columns) if rows else None


def forensics(collection: Collection, estimates: Estimates) -> Table | None:
    """How far the published values lie from each combination of the two slips; None without runs of a single slip."""
    rows = []
    for group, model in _counterparts(collection, FORENSIC_ORDER):
        slips = group.record.identity["protocol"]
        row: Row = {"protocol": group.protocol, "model": group.label, "n": len(group.runs)}
        row["splits_swapped"] = "yes" if slips["train_split"] == "test" else "no"
        row["evaluation_mode"] = "yes" if slips["training_mode"] == "first_epoch" else "no"
        for metric in FINAL:
            e, value = estimates.means[group][metric], published.table()[model][metric]
            row |= {metric: e.mean, f"{metric}_std": e.std, f"{metric}_published": value}
            row[f"{metric}_deviations"] = z_score(e, value)
        rows.append(row)
    columns = {"Splits swapped": text("splits_swapped"), "Evaluation mode after epoch 1": text("evaluation_mode")}
    columns |= {"Model": text("model"), "n": text("n")}
    for metric, name in FINAL.items():
        columns |= {name.capitalize(): mean_std(metric), f"Published {name}": number(f"{metric}_published", ".3f")}
        columns[f"Difference in {name}"] = number(f"{metric}_deviations", "+.1f", " SD")
    note = (
        "The difference is from the mean of our runs to the published value, in their standard deviations (SD), for "
        "each combination of the two slips. LeNet5 and the MLP have neither dropout nor batch normalisation, so the "
        "second slip cannot change them."
    )
    half_way = set(FORENSIC_ORDER[1:3]) & {row["protocol"] for row in rows}
    title = "Which slip explains the published numbers?"
    return make_table("forensics", title, note, rows, columns) if half_way else None


def differences(collection: Collection, estimates: Estimates) -> Table | None:
    """Every pair of groups within a section, compared by their score; None where there is no pair."""
    rows = []
    validated = any(group.selection_metric == "validation_accuracy" for group in collection.groups)
    for section in collection.sections:
        pairs = estimates.comparisons[section]
        (best,) = collection.in_section(section, most=1)
        for c in pairs:
            in_words = len(pairs) <= PAIRS_IN_WORDS or best.label in (c.first, c.second)
            row: Row = {"section": section, "first": c.first, "second": c.second, "n": c.difference.n}
            row |= estimate_columns("difference", c.difference)
            # The first's errors less the second's: negative where the first is more accurate.
            row |= {"errors_per_10000": -PER * c.difference.mean, "p_holm": c.p_value}
            row |= {"probability_of_winning": c.wins, **estimate_columns("loss_difference", c.loss)}
            row["words"] = sentence(c) if in_words else ""
            rows.append(row | ({"score": best.selection_metric} if validated else {}))
    note = (
        "Test accuracy, paired by seed: two runs of one seed see the images in the same order. 95 % intervals for new "
        "seeds and new images together, unless a sentence says otherwise; p-values of the same analysis, or for one "
        "seed of McNemar's exact test, Holm-corrected over the pairs of a section. The CSV file also has the "
        "intervals for new seeds alone and the differences of the losses. Of more than 66 pairs in a section, only "
        "those of the most accurate group are in words here; the CSV file has all."
    )
    if validated:
        note += " Where images were held out of training, validation accuracy is compared instead."
    if not rows:
        return None
    columns = {SECTION: text("section"), "Result": text("words")}
    table = make_table("differences", "Differences between models", note, rows, columns)
    return replace(table, cells=table.cells[table.data["words"] != ""])


def cost(estimates: Estimates) -> Table:
    """What each group costs: size, arithmetic and time."""
    columns = {SECTION: text("section"), "Model": text("model"), "Parameters": number("parameters", ",")}
    columns["Multiply-accumulates per image"] = number("multiply_accumulates", ",")
    columns |= {"Seconds per epoch": median_span("epoch_seconds", ".2f")}
    columns |= {"Images per second": median_span("images_per_second", ",.0f"), "Measured on": text("machine")}
    note = (
        "Multiply-accumulates of one forward pass per image. Seconds per epoch are training and evaluation "
        "together, images per second training alone: the median epoch of each run, and of these the median (lowest to "
        "highest run). Runs that shared a machine with other work are slower."
    )
    return make_table("cost", "Cost", note, [*estimates.costs.values()], columns)


def confused(misclassified: Sequence[Misclassified]) -> Table | None:
    """The pairs of classes that each group confuses most often; None where nothing is wrong."""
    rows = []
    for m in misclassified:
        group, wrong = m.group, m.confusion * (1 - np.eye(10))
        for place in np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED]:
            label, predicted = divmod(int(place), 10)
            if not wrong[label, predicted]:
                break
            share = _share_of_class(m, label, predicted)
            row: Row = {"section": group.section, "model": group.label}
            row |= {"label": group.classes[label], "predicted": group.classes[predicted]}
            row |= estimate_columns("digits", share.times(float(m.confusion[label].sum())))
            rows.append(row | {"share": share.mean})
    columns = {SECTION: text("section"), "Model": text("model"), "Label": text("label"), "Predicted": text("predicted")}
    columns |= {"Images per run": number("digits", ".1f"), "95 % interval": interval("digits", ".1f")}
    columns["Share of the label"] = number("share", ".2%")
    note = (
        "The five most frequent of each model: images per run, as mean and 95 % interval for new seeds and new images, "
        "and their share of all images with that label. Intervals of fewer than ten images are rough."
    )
    return make_table("confused", "Pairs most often confused", note, rows, columns) if rows else None


def classes(misclassified: Sequence[Misclassified]) -> list[Table]:
    """The accuracy of each class: a table for all groups whose classes have the same names."""
    rows = []
    for m in misclassified:
        row: Row = {"section": m.group.section, "model": m.group.label}
        for label in DIGITS:
            row |= estimate_columns(f"class_{label}", _share_of_class(m, int(label)))
        rows.append(row)
    columns = {SECTION: text("section"), "Model": text("model")}
    columns |= {label: mean_std(f"class_{label}") for label in DIGITS}
    note = (
        "The share of each class's images that are recognised: mean ± standard deviation over the seeds. The CSV file "
        "has both 95 % intervals."
    )
    whole = make_table("classes", "Accuracy of each class", note, rows, columns)
    all_names = [m.group.classes for m in misclassified]
    parts: list[Table] = []
    for names in dict.fromkeys(all_names):
        heads = dict(zip(DIGITS, names, strict=True))
        for key in (key for key in whole.data.columns if key.startswith("class_")):
            digit, suffix = key[6], key[7:]  # class_3_std
            heads[key] = f"class_{names[int(digit)]}{suffix}"
        file, title = whole.name, whole.title
        if len({*all_names}) > 1:
            of = [m.group.record.identity["data"]["name"] for m in misclassified if m.group.classes == names]
            file += f"-{len(parts) + 1}" if parts else ""
            title += f" ({printable(', '.join(dict.fromkeys(of)))})"
        here = [other == names for other in all_names]
        data, shown = (frame[here].rename(columns=heads) for frame in (whole.data, whole.cells))
        parts.append(Table(file, title, note, data, shown))
    return parts


def calibration(misclassified: Sequence[Misclassified]) -> Table | None:
    """The expected calibration error of each group; None where no run has its predictions.npz."""
    rows: list[Row] = []
    for m in (m for m in misclassified if len(m.bins)):
        e = estimate(m.calibration_errors, None, FRACTION)
        rows.append({"section": m.group.section, "model": m.group.label, "n": e.n} | seeds_columns("ece", e))
    columns = {SECTION: text("section"), "Model": text("model"), "Calibration error": mean_std("ece")}
    columns |= {"95 % interval of the mean": span("ece"), "n": text("n")}
    note = (
        "Expected calibration error over 15 equal bins of confidence (Guo et al. 2017): how far, on average, the "
        "probability of an answer is from the share of right answers. Mean ± standard deviation and interval over the "
        "seeds."
    )
    return make_table("calibration", "Calibration", note, rows, columns) if rows else None


def _chosen_by_test_digits(collection: Collection) -> list[Group]:
    """The groups whose model was tried with several settings in their section, not all of which were validated."""
    choices = {group: _choice(group) for group in collection.groups}
    validated = {choice for group, choice in choices.items() if group.selection_metric == "validation_accuracy"}
    chosen = []
    for group, (question, _) in choices.items():
        beside = {choice for other, choice in choices.items() if other.section == group.section}
        rivals = {choice for choice in beside if choice[0] == question}
        if len(rivals) > 1 and not rivals <= validated:
            chosen.append(group)
    return chosen


def _choice(group: Group) -> tuple[str, str]:
    """What a choice of settings is made for (a model, its data and protocol), and the settings."""
    known = group.record.identity
    given = [known["model"]["target"], known["data"] | {"validation_size": 0}, known["protocol"]]
    settings = {key: value for key, value in known.items() if key not in NOT_CHOSEN}
    return json.dumps(given, sort_keys=True), json.dumps(settings, sort_keys=True)


def _counterparts(collection: Collection, protocols: Sequence[str]) -> list[tuple[Group, str]]:
    """The groups that repeat a published model, by protocol, each with that model's name."""
    pairs = [(g, name) for g in collection.groups if (name := published.published_model(g.record.identity))]
    return [pair for protocol in protocols for pair in pairs if pair[0].protocol == protocol]


def _share_of_class(m: Misclassified, label: int, predicted: int | None = None) -> Estimate:
    """The share of a class's images that are recognised or, with ``predicted``, are taken for that other class."""
    images = int(next(iter(m.predictions.values())).counts[label])
    chosen = []
    for p in m.predictions.values():
        wrong = p.wrong_label == label
        chosen.append(wrong if predicted is None else wrong & (p.wrong_prediction == predicted))
    values = [float(mine.sum()) / images if images else math.nan for mine in chosen]
    marks = m.marks([p.wrong_index[mine] for p, mine in zip(m.predictions.values(), chosen, strict=True)])
    crossed = Crossed.of(marks[:, marks.any(axis=0)], images) if images > 1 else None
    return estimate([1 - value if predicted is None else value for value in values], crossed, FRACTION)
