"""How tables are written: their titles, notes and columns. Their rows are made in `mnist_exp.report.tables`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mnist_exp.report.statistics import IMAGES, SEEDS

Row = dict[str, Any]
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One column: its head, the key of the rows that it needs, and how a row's cell is written."""

    head: str
    key: str
    cell: Callable[[Row], str]


@dataclass(frozen=True)
class Layout:
    """One table: its title, what a reader must know to read it rightly, and its columns."""

    title: str
    note: str
    columns: tuple[Column, ...]
    notes_on: dict[str, str] = field(default_factory=dict)
    """Further notes, each for a key that only some reports have; without the key, its column is left out."""


def value(head: str, key: str, spec: str = "", unit: str = "") -> Column:
    """A single value."""
    return Column(head, key, lambda row: _format(row[key], spec, unit))


def mean_std(head: str, key: str, std_key: str = "") -> Column:
    """A mean ± its standard deviation; of a single seed, the value."""

    def cell(row: Row) -> str:
        std = row[std_key or f"{key}_std"]
        return _format(row[key], ".4f") + (f" ± {std:.4f}" if _is_number(std) else "")

    return Column(head, key, cell)


def interval(head: str, low: str, high: str, spec: str = ".4f", basis: str = "") -> Column:
    """An interval, and what it is for where that is less than new seeds and new images together."""

    def cell(row: Row) -> str:
        known = _is_number(row[low]) and _is_number(row[high])
        only = f" ({row[basis]} only)" if basis and row[basis] in (SEEDS, IMAGES) else ""
        return f"{row[low]:{spec}} to {row[high]:{spec}}{only}" if known else MISSING

    return Column(head, low, cell)


def spread(head: str, key: str, spec: str) -> Column:
    """A median, with the lowest and the highest value."""

    def cell(row: Row) -> str:
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        return f"{row[key]:{spec}} ({low:{spec}} to {high:{spec}})" if _is_number(row[key]) else MISSING

    return Column(head, key, cell)


def _is_number(value: Any) -> bool:
    return value is not None and value == value  # NaN is not equal to itself


def _format(value: Any, spec: str, unit: str = "") -> str:
    return f"{value:{spec}}{unit}" if _is_number(value) else MISSING


SECTION = value("Data and protocol", "section")
LAYOUTS = {
    "comparison": Layout(
        "Comparison",
        "The last epoch's result: mean ± standard deviation over n seeds. No epoch was chosen by its accuracy. The "
        "interval is for new seeds and new images together (crossed analysis of variance, Satterthwaite's degrees of "
        "freedom; of one run Wilson's, for new images only). The CSV file also has the interval for new seeds on these "
        "very images (Student's t), and what seeds and images each add to the variance of the mean.",
        (
            value("Model", "model"),
            SECTION,
            value("Parameters", "parameters", ","),
            mean_std("Validation accuracy", "validation_accuracy"),
            mean_std("Test loss", "test_loss"),
            mean_std("Test accuracy", "test_accuracy"),
            interval(
                "95 % interval of the mean accuracy",
                "test_accuracy_low",
                "test_accuracy_high",
                basis="test_accuracy_interval_for",
            ),
            value("n", "n"),
            value("Settings chosen by", "chosen_by"),
        ),
        {
            "validation_accuracy": "Where images were held out of training to validate on, rows are ranked by "
            "validation accuracy, best first.",
            "chosen_by": "“Test digits”: several settings of this model were tried, and only their test accuracy says "
            "which is best, so the best looks better than it is; to choose fairly, run them all with "
            "data.validation_size=5000.",
        },
    ),
    "verdict": Layout(
        "Is the published result reproduced?",
        "The published run is one run, so the question is where one more run of ours would fall: the prediction "
        "interval of one new run (Student's t, n - 1 degrees of freedom), not the narrower interval of the mean. The "
        "published value was rounded to three decimals; it counts as inside if any value that rounds to it is.",
        (
            value("Protocol", "protocol"),
            value("Model", "model"),
            value("Metric", "metric"),
            mean_std("Ours", "mean", "std"),
            value("n", "n"),
            interval("95 % prediction interval", "interval_low", "interval_high"),
            value("Published", "published", ".3f"),
            value("Verdict", "verdict"),
        ),
    ),
    "forensics": Layout(
        "Which slip explains the published numbers?",
        "How many standard deviations (SD) of our runs the published value is away from their mean, for each "
        "combination of the two slips. LeNet5 and the MLP have neither dropout nor batch normalisation, so the second "
        "slip cannot change them.",
        (
            value("Splits swapped", "splits_swapped"),
            value("Evaluation mode after epoch 1", "evaluation_mode"),
            value("Model", "model"),
            value("n", "n"),
            mean_std("Test loss", "test_loss"),
            value("Published test loss", "test_loss_published", ".3f"),
            value("Away, test loss", "test_loss_deviations", "+.1f", " SD"),
            mean_std("Test accuracy", "test_accuracy"),
            value("Published test accuracy", "test_accuracy_published", ".3f"),
            value("Away, test accuracy", "test_accuracy_deviations", "+.1f", " SD"),
        ),
    ),
    "differences": Layout(
        "Differences between models",
        "Test accuracy, paired by seed: two runs of one seed see the images in the same order. 95 % intervals for new "
        "seeds and new images together, unless a sentence says otherwise; p-values of the same analysis, or for one "
        "seed of McNemar's exact test, Holm-corrected over the pairs of a section. The CSV file also has the "
        "intervals for new seeds alone and the differences of the losses. Of more than 66 pairs in a section, only "
        "those of the most accurate group are in words here; the CSV file has all.",
        (SECTION, value("What the runs say", "words")),
        {"score": "Where images were held out of training, validation accuracy is compared instead."},
    ),
    "classes": Layout(
        "Accuracy of each class",
        "The share of each class's images that are recognised: mean ± standard deviation over the seeds. The CSV file "
        "has both 95 % intervals.",
        (SECTION, value("Model", "model"), *(mean_std(str(label), f"class_{label}") for label in range(10))),
    ),
    "confused": Layout(
        "Pairs most often confused",
        "The five most frequent of each model: images per run, as mean and 95 % interval for new seeds and new images, "
        "and their share of all images with that label. Intervals of fewer than ten images are rough.",
        (
            SECTION,
            value("Model", "model"),
            value("Label", "label"),
            value("Predicted", "predicted"),
            value("Images per run", "digits", ".1f"),
            interval("95 % interval", "digits_low", "digits_high", ".1f", "digits_interval_for"),
            value("Share of the label", "share", ".2%"),
        ),
    ),
    "calibration": Layout(
        "Calibration",
        "Expected calibration error over 15 equal bins of confidence (Guo et al. 2017): how far, on average, the "
        "probability of an answer is from the share of right answers. Mean ± standard deviation and interval over the "
        "seeds.",
        (
            SECTION,
            value("Model", "model"),
            mean_std("Calibration error", "ece"),
            interval("95 % interval of the mean", "ece_low", "ece_high"),
            value("n", "n"),
        ),
    ),
    "cost": Layout(
        "Cost",
        "Multiply-accumulates of one image's way through the model. Seconds per epoch are training and evaluation "
        "together, images per second training alone: the median epoch of each run, and of these the median (lowest to "
        "highest run). Runs that shared a machine with other work are slower.",
        (
            SECTION,
            value("Model", "model"),
            value("Parameters", "parameters", ","),
            value("Multiply-accumulates per image", "multiply_accumulates", ","),
            spread("Seconds per epoch", "epoch_seconds", ".2f"),
            spread("Images per second", "images_per_second", ",.0f"),
            value("Measured on", "machine"),
        ),
    ),
}
