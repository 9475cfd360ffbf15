import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnist_exp.report import page, tables
from mnist_exp.report.table import latex, markdown, write_tables
from tests.report.conftest import EVIL, answers, forget_errors, read, write_run


def test_comparison_has_every_number_with_its_interval(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.97, 0.98, 0.99)):
        forget_errors(write_run(tmp_path, seed=seed, accuracy=accuracy))
    table = tables.comparison(*read(tmp_path))
    row = table.data.iloc[0]
    assert row["test_accuracy"] == pytest.approx(0.98)
    assert row["test_accuracy_std"] == pytest.approx(0.01)
    # t(0.975, 2) = 4.302653 from a printed table.
    assert row["test_accuracy_seeds_low"] == row["test_accuracy_low"] == pytest.approx(0.98 - 4.302653 * 0.01 / 3**0.5)
    assert table.cells.iloc[0].tolist() == [
        "LeNet5", "61,706", "0.2200 ± 0.0100", "0.9800 ± 0.0100", "0.9552 to 1.0000 (new seeds only)", "3",
    ]  # fmt: skip


def test_one_seed_has_an_interval_for_new_images(tmp_path: Path) -> None:
    for model, wrong in (("lenet5", 10), ("mlp", 16)):  # the first 10 images are wrong in both
        write_run(tmp_path, model, archive=answers(np.arange(100) % 10, wrong))
    table = tables.comparison(*read(tmp_path))
    assert table.cells["Test accuracy"].tolist() == ["0.9000", "0.8400"]
    # Wilson's interval of 90 of 100, z² = 3.841459: (0.919207 ± √(0.0384146 (0.09 + 0.0096036))) / 1.0384146.
    assert table.cells["95 % interval of the mean accuracy"].iloc[0] == "0.8256 to 0.9448 (new images only)"
    assert table.data["test_accuracy_seeds_low"].isna().all()
    found = tables.differences(*read(tmp_path))
    assert found is not None
    # Of 6 images that only one gets wrong, all are the MLP's: p = 2 / 2**6.
    assert found.data["p_holm"].tolist() == pytest.approx([2 / 2**6])
    # d is 1 on 6 of 100 images, else 0: its variance is 100/99 * 0.06 * 0.94; t(0.975, 99) = 1.984217.
    half = 1.984217 * (0.06 * 0.94 / 99) ** 0.5
    low, high = found.data[["difference_low", "difference_high"]].to_numpy()[0]
    assert (low, high) == pytest.approx((0.06 - half, 0.06 + half), abs=1e-6)
    assert "it says nothing about other seeds" in found.cells["Result"].iloc[0]
    for folder in tmp_path.iterdir():
        forget_errors(folder)
    table, found = tables.comparison(*read(tmp_path)), tables.differences(*read(tmp_path))
    assert table.cells["95 % interval of the mean accuracy"].tolist() == ["–", "–"]
    assert found is not None and "nothing can be said" in found.cells["Result"].iloc[0]


def test_several_protocols_are_told_apart_and_never_compared(tmp_path: Path) -> None:
    for protocol, seed, model in itertools.product(("standard", "published"), range(3), ("lenet5", "mlp")):
        write_run(tmp_path, model, seed, protocol)
    sections = tables.comparison(*read(tmp_path)).cells["Data and protocol"].tolist()
    assert sections == ["mnist, standard protocol"] * 2 + ["mnist, published protocol"] * 2
    table = tables.differences(*read(tmp_path))
    assert table is not None
    assert table.data[["first", "second", "n"]].to_numpy().tolist() == [["LeNet5", "Custom MLP", 3]] * 2


def sweep(runs: Path, *accuracies: float, validation: tuple[float, ...] = (), model: str = "lenet5") -> None:
    """Runs of the learning rates 1, 2, …, with these test accuracies."""
    for rate, accuracy in enumerate(accuracies, 1):
        held_out = validation[rate - 1] if validation else None
        write_run(runs, model, accuracy=accuracy, validation=held_out, settings={"optimizer.lr": rate})


def test_validated_groups_are_ranked_by_validation_accuracy_and_the_table_says_so(tmp_path: Path) -> None:
    sweep(tmp_path, 0.99, 0.98, validation=(0.96, 0.97))
    sweep(tmp_path, 0.97, validation=(0.965,), model="mlp")
    write_run(tmp_path, seed=1, accuracy=0.98, validation=0.98, settings={"optimizer.lr": 2})
    table = tables.comparison(*read(tmp_path))
    assert table.cells.iloc[:, :5].to_numpy().tolist() == [
        # Of 0.97 and 0.98, the mean is 0.975, and the deviation 0.005 √2.
        ["LeNet5, lr=2", "61,706", "0.9750 ± 0.0071", "0.2200 ± 0.0000", "0.9800 ± 0.0000"],
        ["Custom MLP, lr=1", "62,930", "0.9650", "0.2300", "0.9700"],
        ["LeNet5, lr=1", "61,706", "0.9600", "0.2100", "0.9900"],
    ]
    assert "rows are ranked by validation accuracy, best first" in table.note
    assert "Settings chosen by" not in table.cells and "chosen_by" not in table.data


def test_differences_are_of_validation_accuracy_where_there_is_one(tmp_path: Path) -> None:
    for seed, (rate, validation) in itertools.product(range(3), ((1, 0.96), (2, 0.97))):
        for held_out in (validation, None):
            settings = {"optimizer.lr": rate}
            write_run(tmp_path, seed=seed, accuracy=1 - rate / 100, validation=held_out, settings=settings)
    table = tables.differences(*read(tmp_path))
    assert table is not None and "validation accuracy is compared instead" in table.note
    found = table.data[["first", "score", "difference"]].to_numpy().tolist()
    assert [row[:2] for row in found] == [["LeNet5, lr=1", "test_accuracy"], ["LeNet5, lr=2", "validation_accuracy"]]
    assert [row[2] for row in found] == pytest.approx([0.01, 0.01])


def test_settings_that_only_test_digits_tell_apart_are_marked(tmp_path: Path) -> None:
    sweep(tmp_path, 0.99, 0.98)
    sweep(tmp_path, 0.97, model="mlp")
    table = tables.comparison(*read(tmp_path))
    assert table.cells["Settings chosen by"].tolist() == ["test images", "test images", "–"]
    assert "to choose fairly, run them all with data.validation_size=5000" in table.note
    assert "Validation accuracy" not in table.cells and "ranked by validation" not in table.note


def test_settings_validated_elsewhere_are_not_marked_unless_one_was_not(tmp_path: Path) -> None:
    """The chosen settings, trained on all digits beside the default ones, were chosen fairly."""
    sweep(tmp_path, 0.99, 0.98)
    sweep(tmp_path, 0.97, 0.96, 0.95, validation=(0.96, 0.97, 0.95))
    assert "Settings chosen by" not in tables.comparison(*read(tmp_path)).cells
    write_run(tmp_path, settings={"optimizer.lr": 4})
    write_run(tmp_path, protocol="published", validation=0.9, settings={"optimizer.lr": 4})  # another question
    cells = tables.comparison(*read(tmp_path)).cells
    assert cells["Settings chosen by"].tolist() == ["test images"] * 3 + ["–"] * 4
    assert cells["Validation accuracy"].tolist() == ["–", "–", "–", "0.9700", "0.9600", "0.9500", "0.9000"]


def test_other_seeds_devices_and_protocols_are_no_choice(tmp_path: Path) -> None:
    for change in ({"seed": 1}, {"device.type": "cuda"}, {"device.threads": 2}, {"version": 2}):
        write_run(tmp_path, settings=change)
    write_run(tmp_path, protocol="published", settings={"optimizer.lr": 0.1})
    write_run(tmp_path, "mlp", settings={"optimizer.lr": 0.1})
    table = tables.comparison(*read(tmp_path))
    assert len(table.cells) == 6 and "Settings chosen by" not in table.cells


def test_verdict_asks_where_one_more_run_would_fall(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.976, 0.977, 0.978)):
        for model in ("lenet5", "mlp"):
            write_run(tmp_path, model, seed, "published", epochs=20, accuracy=accuracy)
        write_run(tmp_path, "lenet5r", seed, "published", epochs=3)  # other settings than the published run's
    accuracies = verdict(tmp_path).set_index("model")
    judged = accuracies[["published", "verdict"]].to_dict("index")
    assert judged == {
        "LeNet5, epochs=20": {"published": 0.977, "verdict": "reproduced"},
        "Custom MLP, epochs=20": {"published": 0.949, "verdict": "not reproduced"},
    }
    half = 4.302653 * 0.001 * (1 + 1 / 3) ** 0.5
    assert accuracies["interval_low"].iloc[0] == pytest.approx(0.977 - half)


def test_forensics_counts_deviations(tmp_path: Path) -> None:
    assert tables.forensics(*read(tmp_path)) is None
    for seed, accuracy in enumerate((0.98, 0.981, 0.982)):
        write_run(tmp_path, "lenet5r", seed, "swapped", epochs=20, accuracy=accuracy)
        write_run(tmp_path, "lenet5r", seed, "published", epochs=20, accuracy=accuracy - 0.002)
    table = tables.forensics(*read(tmp_path))
    assert table is not None
    assert table.data["test_accuracy_deviations"].tolist() == pytest.approx([2, 0], abs=1e-6)
    assert table.cells["Evaluation mode after epoch 1"].tolist() == ["yes", "no"]
    assert table.cells["Difference in test accuracy"].tolist()[0] == "+2.0 SD"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["reproduced"] * 6, "reproduced: 6 of its 6 values lie in the 95 % interval of one more run of ours."),
        (["reproduced"] * 4, "in part: 4 of its 6 values lie in the 95 % interval of one more run of ours; of 2 there"),
        (["not enough seeds"] * 4 + ["not reproduced"] * 2, "not reproduced: 0 of its 6 values"),
        (["not enough seeds"] * 4 + ["not reproduced"] * 2, "; of 4 there are too few seeds."),
        (["not enough seeds"] * 6, "There are not enough seeds to say whether the published result is reproduced."),
    ],
)
def test_what_was_not_judged_is_no_miss(answers: list[str], said: str) -> None:
    assert said in page.verdict_sentence(answers)


def verdict(runs: Path, metric: str = "test accuracy") -> pd.DataFrame:
    """The lines of the verdict that are about a metric."""
    table = tables.verdict(*read(runs))
    assert table is not None
    return table.data[table.data["metric"] == metric]


def test_seeds_that_agree_by_chance_are_not_enough_and_a_loss_is_not_negative(tmp_path: Path) -> None:
    write_run(tmp_path, seed=0, epochs=20, accuracy=0.99)
    write_run(tmp_path, seed=1, epochs=20, accuracy=0.99)
    table = tables.verdict(*read(tmp_path))
    assert table is not None and set(table.data["verdict"]) == {"not enough seeds"}
    assert table.cells["95 % prediction interval"].tolist() == ["–", "–"]
    write_run(tmp_path, seed=2, epochs=20, accuracy=0.5)
    assert verdict(tmp_path, "test loss")["interval_low"].tolist() == [0]


def test_cost_is_the_median_of_the_runs_medians(tmp_path: Path) -> None:
    for seed in (0, 1, 2):  # 6.0, 6.1 and 6.2 seconds an epoch
        write_run(tmp_path, seed=seed)
    (tmp_path / "untimed").mkdir()
    (write_run(tmp_path, seed=3) / "timing.csv").unlink()
    path = write_run(tmp_path, seed=4, name="cut") / "timing.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    collection, estimates = read(tmp_path)
    assert "timing.csv has other epochs than metrics.csv" in [problem.reason for problem in collection.problems]
    (row,) = estimates.costs.values()
    assert (row["epoch_seconds"], row["epoch_seconds_low"], row["epoch_seconds_high"]) == pytest.approx((6.1, 6, 6.2))
    assert row["images_per_second"] == pytest.approx(60000 / 5.1)
    assert (row["parameters"], row["multiply_accumulates"], row["timed_runs"]) == (61_706, 416_520, 3)
    assert row["machine"] == "Some CPU, 1 thread"


def test_cost_of_runs_that_recorded_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path, multiply_accumulates=None, provenance=None)
    (folder / "timing.csv").unlink()
    cells = tables.cost(read(tmp_path)[1]).cells.iloc[0]
    assert cells.tolist()[2:] == ["–", "–", "–", "not recorded"]


def test_of_many_pairs_the_best_groups_are_told(tmp_path: Path) -> None:
    for rate in range(13):
        write_run(tmp_path, settings={"optimizer.lr": rate}, accuracy=0.9 + rate / 1000)
    table = tables.differences(*read(tmp_path))
    assert table is not None
    assert len(table.data) == 13 * 12 // 2
    assert len(table.cells) == 12
    assert all("LeNet5, lr=12" in words for words in table.cells["Result"])


def test_markdown_and_latex_escape_what_they_must(tmp_path: Path) -> None:
    write_run(tmp_path, title="a|b_c & 5% <i>")
    table = replace(tables.comparison(*read(tmp_path)), title="a_b", note="50 % & {x} ^~ \\ #$")
    assert markdown(table.cells).splitlines()[2].startswith(r"| a\|b_c & 5% &lt;i> | 61,706 |")
    assert markdown(table.cells).splitlines()[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    written = latex(table)
    assert r"a|b\_c \& 5\% <i>" in written
    assert r"\caption{a\_b. 50 \% \& \{x\} \textasciicircum{}\textasciitilde{} \textbackslash{} \#\$" in written
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"95 \% interval", r"\usepackage{booktabs}"):
        assert rule in written


def test_files_hold_what_the_table_holds(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", title=EVIL)
    table = tables.comparison(*read(tmp_path / "runs"))
    assert write_tables([table], tmp_path) == ["comparison.csv", "comparison.md", "comparison.tex"]
    back = pd.read_csv(tmp_path / "comparison.csv")
    assert back["model"].tolist() == [EVIL]
    assert back["test_accuracy"].tolist() == pytest.approx(table.data["test_accuracy"].tolist(), rel=1e-15)
