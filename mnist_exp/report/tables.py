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
from mnist_exp.report.image_errors import MAX_CLASSES, GroupErrors
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
GROUP = {SECTION: text("section"), "Model": text("model")}
NOT_CHOSEN = ("version", "device", "data", "protocol", "seed")
"""Of an identity, what is not chosen for the sake of accuracy."""


def comparison(collection: Collection, estimates: Estimates) -> Table:
    """The comparison table: a row for each group of runs."""
    rows = []
    tuned = _tuned_on_test_set(collection)
    validated = any(group.selection_metric == "validation_accuracy" for group in collection.groups)
    own = dict.fromkeys(metric for group in collection.groups for metric in group.own_metrics)
    for group in collection.groups:
        means = estimates.means[group]
        row: Row = {"model": group.label, "section": group.section, "protocol": group.protocol, "n": len(group.runs)}
        row |= {"parameters": group.record.parameters}
        for metric in FINAL:
            row |= estimate_columns(metric, means[metric])
        if validated:
            row |= seeds_columns("validation_accuracy", means["validation_accuracy"])
        for metric in own:
            row |= seeds_columns(metric, means[metric])
        if tuned:
            row["chosen_by"] = "test images" if group in tuned else None
        rows.append(row)
    columns = {"Model": text("model"), SECTION: text("section"), "Parameters": number("parameters", ",")}
    columns |= {"Validation accuracy": mean_std("validation_accuracy")} if validated else {}
    columns |= {name.capitalize(): mean_std(metric) for metric, name in FINAL.items()}
    columns |= {metric.replace("_", " ").capitalize(): mean_std(metric) for metric in own}
    columns |= {"95 % interval of the mean accuracy": interval("test_accuracy"), "n": text("n")}
    columns |= {"Settings chosen by": text("chosen_by")} if tuned else {}
    note = (
        "The last epoch's result: mean ± standard deviation over n seeds. No epoch was chosen by its accuracy. The "
        "interval is for new seeds and new images together (crossed analysis of variance, Satterthwaite's degrees of "
        "freedom; of one run Wilson's, for new images only). The CSV file also has the interval for new seeds on these "
        "very images (Student's t), and what seeds and images each add to the variance of the mean."
    )
    if validated:
        note += " Where images were held out of training to validate on, rows are ranked by validation accuracy, best "
        note += "first."
    if tuned:
        note += (
            " “Test images”: several settings of this model were tried, and only their test accuracy says which is "
            "best, so the best looks better than it is; to choose fairly, run them all with data.validation_size=5000."
        )
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
    """How far the published values lie from each combination of the two bugs; None without runs of a single bug."""
    rows = []
    for group, model in _counterparts(collection, FORENSIC_ORDER):
        bugs = group.record.identity["protocol"]
        row: Row = {"protocol": group.protocol, "model": group.label, "n": len(group.runs)}
        row["splits_swapped"] = "yes" if bugs["train_split"] == "test" else "no"
        row["evaluation_mode"] = "yes" if bugs["training_mode"] == "first_epoch" else "no"
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
        "each combination of the two bugs. LeNet5 and the MLP have neither dropout nor batch normalisation, so the "
        "second bug cannot change them."
    )
    half_way = set(FORENSIC_ORDER[1:3]) & {row["protocol"] for row in rows}
    title = "Which bug explains the published numbers?"
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
    columns = GROUP | {"Parameters": number("parameters", ",")}
    columns |= {"Multiply-accumulates per image": number("multiply_accumulates", ",")}
    columns |= {"Seconds per epoch": median_span("epoch_seconds", ".2f")}
    columns |= {"Images per second": median_span("images_per_second", ",.0f"), "Measured on": text("machine")}
    note = (
        "Multiply-accumulates of one forward pass per image. Seconds per epoch are training and evaluation "
        "together, images per second training alone: the median epoch of each run, and of these the median (lowest to "
        "highest run). Runs that shared a machine with other work are slower."
    )
    return make_table("cost", "Cost", note, [*estimates.costs.values()], columns)


def confused(errors: Sequence[GroupErrors]) -> Table | None:
    """The pairs of classes that each group confuses most often; None where no run makes an error."""
    rows = []
    for each in errors:
        group, confusion = each.group, each.confusion * (1 - np.eye(len(each.counts)))
        for place in np.argsort(-confusion, axis=None, kind="stable")[:MAX_CONFUSED]:
            label, predicted = divmod(int(place), len(each.counts))
            if not confusion[label, predicted]:
                break
            share, pair = _share_of_class(each, label, predicted), (group.classes[label], group.classes[predicted])
            row: Row = {"section": group.section, "model": group.label, "label": pair[0], "predicted": pair[1]}
            row |= estimate_columns("digits", share.times(float(each.confusion[label].sum())))
            rows.append(row | {"share": share.mean})
    columns = GROUP | {
        "Label": text("label"),
        "Predicted": text("predicted"),
        "Images per run": number("digits", ".1f"),
    }
    columns |= {"95 % interval": interval("digits", ".1f"), "Share of the label": number("share", ".2%")}
    note = (
        "The five most frequent of each model: images per run, as mean and 95 % interval for new seeds and new images, "
        "and their share of all images with that label. Intervals of fewer than ten images are rough."
    )
    return make_table("confused", "Pairs most often confused", note, rows, columns) if rows else None


def classes(errors: Sequence[GroupErrors]) -> list[Table]:
    """The accuracy of each class: a table for all groups whose classes have the same names."""
    by_names: dict[tuple[str, ...], list[GroupErrors]] = {}
    for each in errors:
        by_names.setdefault(each.group.classes, []).append(each)
    note = (
        "The share of each class's images that are recognised: mean ± standard deviation over the seeds. The CSV file "
        "has both 95 % intervals."
    )
    made: list[Table] = []
    for names, alike in by_names.items():
        file, title = "classes", "Accuracy of each class"
        if len(by_names) > 1:
            data = dict.fromkeys(each.group.record.identity["data"]["name"] for each in alike)
            file, title = f"classes-{len(made) + 1}" if made else file, f"{title} ({printable(', '.join(data))})"
        rows = []
        for each in alike:
            row: Row = {"section": each.group.section, "model": each.group.label}
            for label, name in enumerate(names):
                row |= estimate_columns(f"class_{name}", _share_of_class(each, label))
            rows.append(row)
        errors_of = sum(each.counts - np.diag(each.confusion) for each in alike)
        shown = [names[label] for label in sorted(np.argsort(-errors_of, kind="stable")[:MAX_CLASSES])]
        fewer = f" Of {len(names)} classes, the {len(shown)} with the most errors." if len(shown) < len(names) else ""
        columns = GROUP | {name: mean_std(f"class_{name}") for name in shown}
        made.append(make_table(file, title, note + fewer, rows, columns))
    return made


def calibration(errors: Sequence[GroupErrors]) -> Table | None:
    """The expected calibration error of each group; None where no run has its predictions.npz."""
    rows: list[Row] = []
    for each in (each for each in errors if len(each.bins)):
        e = estimate(each.calibration_errors, None, FRACTION)
        rows.append({"section": each.group.section, "model": each.group.label, "n": e.n} | seeds_columns("ece", e))
    columns = GROUP | {"Calibration error": mean_std("ece"), "95 % interval of the mean": span("ece"), "n": text("n")}
    note = (
        "Expected calibration error over 15 equal bins of confidence (Guo et al. 2017): how far, on average, the "
        "probability of an answer is from the share of right answers. Mean ± standard deviation and interval over the "
        "seeds."
    )
    return make_table("calibration", "Calibration", note, rows, columns) if rows else None


def _share_of_class(errors: GroupErrors, label: int, predicted: int | None = None) -> Estimate:
    """The share of a class's images that are recognised or, with ``predicted``, are taken for that other class."""
    images, table = int(errors.counts[label]), errors.table[errors.table["label"] == label]
    matrix = errors.matrix(table if predicted is None else table[table["predicted"] == predicted])
    shares = [float(count) / images if images else math.nan for count in matrix.sum(axis=1)]
    crossed = Crossed.of(matrix[:, matrix.any(axis=0)], images) if images > 1 else None
    return estimate([1 - share if predicted is None else share for share in shares], crossed, FRACTION)


def _tuned_on_test_set(collection: Collection) -> list[Group]:
    """The groups of a model that was tried with several settings in one section, not all of which were validated."""
    tried = {group: _task_and_settings(group) for group in collection.groups}
    validated = {tried[group] for group in collection.groups if group.selection_metric == "validation_accuracy"}
    tuned = []
    for group, (task, _) in tried.items():
        in_section = {tried[other] for other in collection.groups if other.section == group.section}
        of_task = {each for each in in_section if each[0] == task}
        if len(of_task) > 1 and not of_task <= validated:
            tuned.append(group)
    return tuned


def _task_and_settings(group: Group) -> tuple[str, str]:
    """What settings are chosen for (a model, its data and protocol), and the settings."""
    known = group.record.identity
    task = [known["model"]["target"], known["data"] | {"validation_size": 0}, known["protocol"]]
    settings = {key: value for key, value in known.items() if key not in NOT_CHOSEN}
    return json.dumps(task, sort_keys=True), json.dumps(settings, sort_keys=True)


def _counterparts(collection: Collection, protocols: Sequence[str]) -> list[tuple[Group, str]]:
    """The groups that repeat a published model, by protocol, each with that model's name."""
    pairs = [(g, name) for g in collection.groups if (name := published.published_model(g.record.identity))]
    return [pair for protocol in protocols for pair in pairs if pair[0].protocol == protocol]
