"""The tables of results: the comparison, the verdict on the published numbers, and the differences of models.

Each function makes a table's rows (numbers) beside its cells (text). What the runs get wrong is in
`mnist_exp.report.error_tables`, what they cost in `mnist_exp.report.cost`.
"""

import json
from collections.abc import Sequence

from mnist_exp.report import published
from mnist_exp.report.collect import Collection, Group
from mnist_exp.report.estimates import Estimates
from mnist_exp.report.formats import (
    MISSING,
    SECTION,
    Row,
    Table,
    estimate_columns,
    interval,
    make_table,
    mean_std,
    number,
    seeds_columns,
    span,
)
from mnist_exp.report.statistics import FRACTION, PER, UNBOUNDED, holds_rounded, prediction_interval, sentence, z_score

FINAL = {"test_loss": "test loss", "test_accuracy": "test accuracy"}
FORENSIC_ORDER = ("published", "swapped splits only", "evaluation mode after epoch 1 only", "standard")
PAIRS_IN_WORDS = 66
"""More pairs than those of 12 groups are not all put into words."""
NOT_CHOSEN = ("version", "device", "data", "protocol", "seed")
"""Of an identity, what is not chosen for the sake of accuracy."""


def comparison(collection: Collection, estimates: Estimates) -> Table:
    """The comparison table: a row for each group of runs."""
    rows, cells = [], []
    by_test = _chosen_by_test_digits(collection)
    validated = any(group.selection_metric == "validation_accuracy" for group in collection.groups)
    for group in collection.groups:
        loss, accuracy, validation = (estimates.means[group][m] for m in (*FINAL, "validation_accuracy"))
        row: Row = {"model": group.label, "section": group.section, "protocol": group.protocol, "n": len(group.runs)}
        row |= {"parameters": group.record.parameters}
        row |= estimate_columns("test_loss", loss) | estimate_columns("test_accuracy", accuracy)
        cell = {"Model": group.label, SECTION: group.section, "Parameters": number(group.record.parameters, ",")}
        if validated:
            row |= seeds_columns("validation_accuracy", validation)
            cell["Validation accuracy"] = mean_std(validation)
        cell |= {"Test loss": mean_std(loss), "Test accuracy": mean_std(accuracy)}
        cell |= {"95 % interval of the mean accuracy": interval(accuracy), "n": str(len(group.runs))}
        if by_test:
            row["chosen_by"] = "test digits" if group in by_test else None
            cell["Settings chosen by"] = row["chosen_by"] or MISSING
        rows.append(row)
        cells.append(cell)
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
    return make_table("comparison", "Comparison", note, rows, cells)


def verdict(collection: Collection, estimates: Estimates) -> Table | None:
    """Is what was published reproduced? None where no run repeats it."""
    rows, cells = [], []
    for group, model in _counterparts(collection, ("standard", "published")):
        for metric, name in FINAL.items():
            e, value = estimates.means[group][metric], published.table()[model][metric]
            low, high = prediction_interval(e, FRACTION if metric == "test_accuracy" else UNBOUNDED)
            answer = "reproduced" if holds_rounded((low, high), value) else "not reproduced"
            answer = answer if e.n > 1 else "not enough seeds"
            row: Row = {"protocol": group.protocol, "model": group.label, "metric": name}
            row |= {"mean": e.mean, "std": e.std, "n": e.n, "interval_low": low, "interval_high": high}
            rows.append(row | {"published": value, "verdict": answer})
            cell = {"Protocol": group.protocol, "Model": group.label, "Metric": name, "Ours": mean_std(e)}
            cell |= {"n": str(e.n), "95 % prediction interval": span(low, high)}
            cells.append(cell | {"Published": f"{value:.3f}", "Verdict": answer})
    note = (
        "The published run is one run, so the question is where one more run of ours would fall: the prediction "
        "interval of one new run (Student's t, n - 1 degrees of freedom), not the narrower interval of the mean. The "
        "published value was rounded to three decimals; it counts as inside if any value that rounds to it is."
    )
    return make_table("verdict", "Is the published result reproduced?", note, rows, cells) if rows else None


def forensics(collection: Collection, estimates: Estimates) -> Table | None:
    """How far the published values lie from each combination of the two slips; None without the half-ways."""
    rows, cells = [], []
    for group, model in _counterparts(collection, FORENSIC_ORDER):
        slips = group.record.identity["protocol"]
        swapped = "yes" if slips["train_split"] == "test" else "no"
        evaluation = "yes" if slips["training_mode"] == "first_epoch" else "no"
        row: Row = {"protocol": group.protocol, "model": group.label, "n": len(group.runs)}
        row |= {"splits_swapped": swapped, "evaluation_mode": evaluation}
        cell = {"Splits swapped": swapped, "Evaluation mode after epoch 1": evaluation, "Model": group.label}
        cell["n"] = str(len(group.runs))
        for metric, name in FINAL.items():
            e, value = estimates.means[group][metric], published.table()[model][metric]
            row |= {metric: e.mean, f"{metric}_std": e.std, f"{metric}_published": value}
            row[f"{metric}_deviations"] = z_score(e, value)
            cell |= {name.capitalize(): mean_std(e), f"Published {name}": f"{value:.3f}"}
            cell[f"Difference in {name}"] = number(z_score(e, value), "+.1f", " SD")
        rows.append(row)
        cells.append(cell)
    note = (
        "The difference is from the mean of our runs to the published value, in their standard deviations (SD), for "
        "each combination of the two slips. LeNet5 and the MLP have neither dropout nor batch normalisation, so the "
        "second slip cannot change them."
    )
    half_way = set(FORENSIC_ORDER[1:3]) & {row["protocol"] for row in rows}
    return (
        make_table("forensics", "Which slip explains the published numbers?", note, rows, cells) if half_way else None
    )


def differences(collection: Collection, estimates: Estimates) -> Table | None:
    """Every pair of groups within a section, compared by their score; None where there is no pair."""
    rows, cells = [], []
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
            if in_words:
                cells.append({SECTION: section, "Result": row["words"]})
    note = (
        "Test accuracy, paired by seed: two runs of one seed see the images in the same order. 95 % intervals for new "
        "seeds and new images together, unless a sentence says otherwise; p-values of the same analysis, or for one "
        "seed of McNemar's exact test, Holm-corrected over the pairs of a section. The CSV file also has the "
        "intervals for new seeds alone and the differences of the losses. Of more than 66 pairs in a section, only "
        "those of the most accurate group are in words here; the CSV file has all."
    )
    if validated:
        note += " Where images were held out of training, validation accuracy is compared instead."
    return make_table("differences", "Differences between models", note, rows, cells) if rows else None


def _chosen_by_test_digits(collection: Collection) -> list[Group]:
    """The groups beside which there are other settings of their model, not all of them validated anywhere."""
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
