"""README and docs/ say what the tracked results say, and nothing else; their links lead somewhere."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from mnist_exp.report.collect import collect
from mnist_exp.runs.record import checksum
from scripts.update_docs import DOCUMENTS, MARKER, PROJECT, REFERENCE, fill_markers, render_tables, summarise

MODELS = {"LeNet5": "lenet5", "LeNet5_regularized": "lenet5r", "Custom MLP": "mlp"}


@pytest.fixture(scope="module")
def contents() -> dict[str, str]:
    return render_tables(collect(REFERENCE / "runs"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_table_is_stale(name: str, contents: dict[str, str]) -> None:
    text = (PROJECT / name).read_text(encoding="utf-8")
    assert MARKER.search(text)
    assert fill_markers(text, contents) == text, "run: make docs"


def test_a_changed_number_is_noticed(contents: dict[str, str]) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    changed = re.sub(r"0\.99(\d\d) ±", lambda match: f"0.98{match[1]} ±", text, count=1)
    assert changed != text and fill_markers(changed, contents) == text


def test_the_main_table_is_the_mean_of_the_tracked_metrics() -> None:
    """Worked out here from the CSV files alone."""
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    for title, model in MODELS.items():
        finals = [
            pd.read_csv(path).iloc[-1] for path in (REFERENCE / "runs").glob(f"{model}-standard-sgd-*/metrics.csv")
        ]
        assert len(finals) == 10
        accuracy, loss = (pd.Series([row[column] for row in finals]) for column in ("test_accuracy", "test_loss"))
        expected = f"{loss.mean():.4f} ± {loss.std():.4f} | {accuracy.mean():.4f} ± {accuracy.std():.4f}"
        assert re.search(rf"\| {title} \| [\d,]+ \| {re.escape(expected)} \|", text)


def test_the_choices_are_the_files_of_conf() -> None:
    text = (PROJECT / "docs" / "configure.md").read_text(encoding="utf-8")
    listed = {group: {*names.split(", ")} for group, names in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|$", text, re.M)}
    there = {
        folder.name: {path.stem for path in folder.glob("*.yaml")} for folder in (PROJECT / "conf").glob("[!h_]*/")
    }
    assert {group: names for group, names in listed.items() if group in there} == there


def test_the_speeds_are_those_measured() -> None:
    """Each line that has a target stands in docs/performance.md, with the median in the CSV file."""
    text = (PROJECT / "docs" / "performance.md").read_text(encoding="utf-8")
    measured = pd.read_csv(REFERENCE / "benchmark" / "avx2.csv")
    with_target = measured[measured["target"].notna()]
    assert len(with_target) == 13
    for _, row in with_target.iterrows():
        (line,) = (line for line in text.splitlines() if line.startswith(f"| {row['what']} |"))
        shown = re.match(rf"\| {re.escape(row['what'])} \| ([\d.]+) {row['unit']} \|", line)
        assert shown and float(shown[1]) == pytest.approx(row["median"], rel=0.006)
        assert line.endswith(f"| {row['target']} |")


def test_the_published_ways_time_is_twenty_of_its_epochs() -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    median = pd.read_csv(REFERENCE / "benchmark" / "avx2.csv").set_index("what")["median"]
    epochs = [median[f"published way: an epoch of {name}"] for name in ("LeNet5", "LeNet5Regularized", "MLP")]
    shown = re.search(r"\| published way / make sweep SEEDS=0 \| ([\d.]+) × \|", text)
    assert shown and float(shown[1]) == pytest.approx(20 * sum(epochs) / median["ours: make sweep SEEDS=0"], rel=0.006)
    for kind in ("avx2", "avx512"):
        table = pd.read_csv(REFERENCE / "benchmark" / f"{kind}.csv").set_index("what")["median"]
        portable, native = (
            sum(table[f"ours: an epoch of {name}, {arithmetic}"] for name in ("LeNet5", "LeNet5Regularized", "MLP"))
            for arithmetic in ("portable", "native")
        )
        value = re.search(rf"<!-- value: portable-cost-{kind} -->([\d.]+)<!-- end -->", text)
        assert value and float(value[1]) == pytest.approx(portable / native, abs=0.006)


def test_the_reference_is_whole_clean_and_says_nothing_of_a_person() -> None:
    folders = sorted((REFERENCE / "runs").iterdir())
    assert len([f for f in folders if re.search("-(standard|published)-", f.name)]) == 60
    for folder in folders:
        text = (folder / "run.json").read_text(encoding="utf-8")
        record = json.loads(text)
        assert record["status"] == "finished" and record["provenance"]["git_dirty"] is False
        assert record["files"]["metrics.csv"] == checksum(folder / "metrics.csv")
        assert "/home/" not in text and "/root" not in text and "/tmp/" not in text
        weights = {".safetensors"} if "-standard-sgd-seed0-" in folder.name else set()
        assert {path.suffix for path in folder.iterdir()} == {".csv", ".json"} | weights


def test_what_the_tracked_runs_get_wrong_is_theirs_and_small() -> None:
    files = [*(REFERENCE / "runs").glob("*/mistakes.csv"), *(REFERENCE / "runs").glob("*/classes.csv")]
    assert files and sum(path.stat().st_size for path in files) < 3_000_000
    for path in (REFERENCE / "runs").glob("*/mistakes.csv"):
        accuracy = pd.read_csv(path.with_name("metrics.csv"))["test_accuracy"].iloc[-1]
        images = pd.read_csv(path.with_name("classes.csv"))["images"].sum()
        assert len(pd.read_csv(path)) == round((1 - accuracy) * images)


def test_intervals_hold_and_tests_err_as_often_as_is_promised() -> None:
    simulated, real = (pd.read_csv(REFERENCE / "coverage" / f"{name}.csv") for name in ("simulated", "real"))
    assert simulated["n"].unique().tolist() == [1, 2, 3, 5, 10] and real["n"].unique().tolist() == [3, 5]
    assert simulated["holds"].between(0.93, 0.97).all()
    assert simulated["rejects"].dropna().between(0.03, 0.06).all()
    assert (simulated["rejects_at_1_percent"].dropna() <= 0.015).all()
    assert (simulated["rejects_at_0.1_percent"].dropna() <= 0.002).all()
    assert (real["holds"] >= 0.93).all()
    pairs = pd.read_csv(REFERENCE / "coverage" / "pairs.csv")
    assert (pairs["hold"] >= 0.9 * pairs["pairs"]).all() and (pairs["smallest_p"] > 0.001).all()


def test_the_quick_comparisons_settings_come_from_the_tracked_search() -> None:
    trials, quick = (pd.read_csv(REFERENCE / f"{name}.csv") for name in ("search", "quick"))
    assert len(trials) == 20 and set(trials["data.validation_size"]) == {5000}
    best = trials.sort_values("validation_accuracy").iloc[-1]
    mine = quick[quick["model.target"].str.endswith(".LeNet5") & (quick["epochs"] == 3) & portable(quick)]
    (used,) = mine.to_dict("records")
    assert used["scheduler.target"] == best["scheduler.target"] and used["batch_size"] == best["batch_size"]
    for name in ("optimizer.lr", "optimizer.weight_decay"):
        assert used[name] == pytest.approx(best[name], rel=0.35)


def test_the_augmented_runs_have_the_settings_with_the_best_validation_accuracy() -> None:
    trials, chosen = (pd.read_csv(REFERENCE / f"{name}.csv") for name in ("augment-search", "augmented"))
    assert set(chosen["title"]) == set(MODELS) and set(chosen["n"]) == {10}
    assert set(trials["data.validation_size"]) == {5000} and set(trials["epochs"]) == set(chosen["epochs"]) == {20}
    for title, tried in trials.groupby("title"):
        best = tried.sort_values("validation_accuracy").iloc[-1]
        (used,) = chosen[chosen["title"] == title].to_dict("records")
        for name in ("augment.target", "augment.pixels", "augment.degrees", "optimizer.lr", "scheduler.target"):
            assert used[name] == best[name] or (pd.isna(used[name]) and pd.isna(best[name])), (title, name)


def test_the_runs_with_exact_arithmetic_are_within_the_intervals_of_the_portable_ones() -> None:
    found = pd.read_csv(REFERENCE / "exact" / "runs.csv")
    assert set(found["title"]) == set(MODELS) and set(found["n"]) == {10}
    assert set(found["device.arithmetic"]) == {"exact"} and set(found["epochs"]) == {20}
    table = pd.read_csv(REFERENCE / "report" / "comparison.csv")
    for row in found.to_dict("records"):
        (other,) = table[(table["model"] == row["title"]) & (table["protocol"] == "standard")].to_dict("records")
        for metric in ("test_loss", "test_accuracy"):
            assert other[f"{metric}_low"] <= row[metric] <= other[f"{metric}_high"], (row["title"], metric)


def test_summaries_are_those_of_the_runs() -> None:
    """Of the quick runs, seed 0's are tracked; the tables were made from all ten seeds."""
    quick = pd.read_csv(REFERENCE / "quick.csv")
    mine = quick[(quick["epochs"] == 3) & portable(quick)].set_index("run")
    again = summarise(REFERENCE / "quick" / "runs").set_index("run")
    assert len(again) == 3 and set(mine.index) == set(again.index) and set(mine["n"]) == {10}
    for key in ("title", "optimizer.lr", "scheduler.target", "parameters", "epochs"):
        assert mine[key].to_dict() == again[key].to_dict()
    assert ((mine["test_accuracy"] - again["test_accuracy"]).abs() < 4 * mine["test_accuracy_std"]).all()


def portable(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows["device.arithmetic"] == "portable"


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in (PROJECT / "docs").glob("*.md"))])
def test_links_lead_somewhere(name: str) -> None:
    path = PROJECT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_readmes_way_through_the_code_is_there_and_as_long_as_it_says() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    text = readme.partition("## Read the code")[2].partition("## Use it")[0]
    said = int(re.search(r"is about ([\d,]+) lines", text)[1].replace(",", ""))  # type: ignore[index]
    package = PROJECT / "mnist_exp"
    steps = text.partition("Two ideas")[0]
    named = {"run.py", "job.py", *re.findall(r"`(?:mnist_exp/)?([\w/]+(?:\.py|/))`", steps)} - {"conf/"}
    way = [path for name in named for path in package.glob(name if name.endswith(".py") else f"{name}*.py")]
    assert sum(len(path.read_text("utf-8").splitlines()) for path in way) == pytest.approx(said, rel=0.03)
    for name in re.findall(r"`(?:mnist_exp/)?([\w/]+(?:\.py|/))`", text):
        if not name.startswith("conf/"):
            assert (package / name).exists() or list(package.glob(f"*/{name}")), name


def test_the_readme_names_targets_that_exist() -> None:
    text, makefile = (Path(PROJECT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
    for target in set(re.findall(r"make ([a-z]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("model", ["lenet5", "mlp"])
@pytest.mark.parametrize(("with_it", "without"), [("published", "swapped_splits"), ("first_epoch_only", "standard")])
def test_the_second_bug_changes_no_byte_of_models_without_dropout(model: str, with_it: str, without: str) -> None:
    for seed in range(5):
        (one,) = (REFERENCE / "runs").glob(f"{model}-{with_it}-sgd-seed{seed}-*/metrics.csv")
        (other,) = (REFERENCE / "runs").glob(f"{model}-{without}-sgd-seed{seed}-*/metrics.csv")
        assert one.read_bytes() == other.read_bytes()
