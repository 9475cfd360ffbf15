"""The whole command: what it writes, says and survives."""

import base64
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from mnist_exp.errors import UserError
from mnist_exp.report import figure_files, figures, search_figure
from mnist_exp.report.collect import collect
from scripts import report as report_script
from tests.conftest import MINUTES, started, wait_until
from tests.report.conftest import EVIL, ROOT, answers, forget_errors, read, write_other, write_run


def run(runs: Path, out: Path, data: Path) -> int:
    return report_script.main(["--runs", str(runs), "--out", str(out), "--data", str(data)])


def command(runs: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, which ends with naming every module that it has loaded."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['report', '--runs', {str(runs)!r}, '--out', {str(out)!r}, '--data', 'nowhere']\n"
        f"try: runpy.run_path({str(ROOT / 'scripts' / 'report.py')!r}, run_name='__main__')\n"
        "finally: print('torch is loaded' if 'torch' in sys.modules else 'no torch')\n"
    )
    outer = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    everything = {**outer, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=everything, check=False, timeout=300
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def report(place: Path) -> str:
    """Report on the runs in ``place``, where there are no pictures; the page."""
    assert run(place / "runs", place / "out", place / "nowhere") == 0
    return (place / "out" / "index.html").read_text(encoding="utf-8")


def drawings(runs: Path) -> list[figure_files.Plot]:
    """The figures of the first section."""
    collection, estimates = read(runs)
    return figures.of_section(collection, estimates, collection.sections[0], [])


def page(site: Path) -> str:
    return (site / "report" / "index.html").read_text(encoding="utf-8")


def test_every_figure_comes_in_every_format_with_its_numbers(site: Path) -> None:
    folder = site / "report" / "mnist-standard-protocol"
    names = {path.stem for path in folder.iterdir()}
    assert {"overview", "cost", "reliability", "lenet5-regularized-batch-size-64-confusion"} <= names
    assert {path.suffix for path in folder.iterdir()} == {".svg", ".pdf", ".png", ".csv"}
    assert len(list(folder.iterdir())) == 4 * len(names)
    with Image.open(folder / "all-test-loss.png") as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert b"/FontType 3" not in (folder / "overview.pdf").read_bytes()
    # Few models have their curves alone as well: here four groups, three models and one of another batch size.
    assert len([name for name in names if re.search("-t.*-loss$", name) and not name.startswith("all-")]) == 2 * 4


def test_the_page_asks_nothing_of_anybody_and_shows_the_markup_in_titles_and_reasons_as_text(site: Path) -> None:
    text = page(site)
    addresses = re.findall(r"(?:src|href|action|data|poster)=\"([^\"]*)\"", text)
    assert addresses
    assert all(address.startswith(("data:", "#", "draw.html")) for address in addresses)
    assert "url(" not in text and "@import" not in text and "http://www.w3.org" not in text
    assert "default-src 'none'" in text
    assert "<script>alert" not in text and "<img src=x" not in text
    assert "&lt;script&gt;alert(&#39;title&#39;)&lt;/script&gt;" in text
    assert text.count("<script>") == 1


def test_the_page_has_the_summary_the_runs_what_is_wrong_and_pictures_with_texts_and_numbers(site: Path) -> None:
    text = page(site)
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) > 20
    assert all(re.search(r'alt="[^"]{10,}"', image) for image in images)
    csv = re.search(r'download="comparison.csv" href="data:text/csv;base64,([^"]*)"', text)
    assert csv and base64.b64decode(csv[1]) == (site / "report" / "comparison.csv").read_bytes()
    assert "LeNet5_regularized, batch_size=64 (" in text and "nothing can be said (they share no seed)" in text
    assert text.count("and what if the images were others, too?") == 1
    assert text.count('<details class="run">') == 10
    assert "provenance.git_commit" in text and "identity.optimizer.lr" in text
    assert "all miss" in text and 'alt="Image 0 of the test split, labelled 0"' in text
    wrong = ("empty-metrics", "stray", "note.txt", "failed", "no-timing")
    assert len(collect(site / "runs").problems) == 5 and all(f"<b>{name}</b>" in text for name in wrong)


def small(runs: Path) -> None:
    for seed in range(3):
        write_run(runs, "lenet5", seed, "published", epochs=20, title=EVIL)


def test_the_same_runs_give_the_same_bytes_whatever_the_surroundings(tmp_path: Path) -> None:
    small(tmp_path / "runs")
    report(tmp_path)
    surroundings = {"MPLBACKEND": "nonsense", "HOME": "/proc", "PYTHONHASHSEED": "7", "TZ": "Asia/Seoul", "LC_ALL": "C"}
    done = command(tmp_path / "runs", tmp_path / "two", **surroundings)
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, "", "no torch")
    one, two = files(tmp_path / "out"), files(tmp_path / "two")
    assert [name for name in one | two if one.get(name) != two.get(name)] == []
    assert b"Produc" not in two["mnist-published-protocol/overview.pdf"]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports with empty figures: real ones take long to draw."""

    def write(drawings: list[figure_files.Plot], folder: Path) -> list[str]:
        for drawing in drawings:
            (folder / drawing.name).parent.mkdir(exist_ok=True)
            (folder / f"{drawing.name}.svg").write_text("")
        return [f"{drawing.name}.svg" for drawing in drawings]

    monkeypatch.setattr(figure_files, "write", write)


@pytest.mark.parametrize(("images", "wrong"), [(100, 0), (100, 1), (4, 1), (2, 1)])
def test_few_images_and_few_errors_have_a_report(images: int, wrong: int, tmp_path: Path) -> None:
    for seed in range(3 if images == 100 else 1):
        archive = answers(np.arange(images) % 10, 0 if seed else wrong)
        write_run(tmp_path / "runs", seed=seed, epochs=1, archive=archive)
    text = report(tmp_path)
    assert "lenet5-confusion" in text and (tmp_path / "out" / "confused.csv").exists() == bool(wrong)
    assert len([*(tmp_path / "out").glob("*/reliability.svg")]) == (images == 100)
    assert images < 100 or 'class="gallery"' not in text


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_there_is_said_not_to_be(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs", seed=seed)
    text = report(tmp_path)
    assert "There are no pictures: the images that the runs were evaluated on are not in nowhere." in text
    assert "Label 0" in text and "is the only one here" in text
    assert "There is nothing to compare" in text
    assert "have no usable predictions.npz or mistakes.csv" not in text
    for folder in (tmp_path / "runs").iterdir():
        forget_errors(folder)
    text = report(tmp_path)
    assert "2 of 2 runs have no usable predictions.npz or mistakes.csv, so it is not known what they got wrong" in text
    assert not (tmp_path / "out" / "confused.csv").exists()
    assert 'class="gallery"' not in text


@pytest.mark.usefixtures("undrawn")
def test_a_validated_sweep_is_ranked_by_validation_accuracy_everywhere(tmp_path: Path) -> None:
    for (rate, accuracy, validation), seed in itertools.product([(1, 0.99, 0.961), (2, 0.98, 0.972)], range(2)):
        settings = {"optimizer.lr": rate}
        write_run(tmp_path / "runs", seed=seed, accuracy=accuracy, validation=validation, settings=settings)
    text = report(tmp_path)
    assert "By validation accuracy: LeNet5, lr=2 (97.20 %) comes first" in text
    assert "rows are ranked by validation accuracy, best first" in text
    assert text.count("<b>Validation accuracy after the last epoch.</b>") == 1
    assert "LeNet5, lr=2 0.9720 (0.9720 to 0.9720, for new seeds); LeNet5, lr=1 0.9610" in text
    assert text.count("<span>0.9720</span>") == text.count("<span>0.9610</span>") == 2
    folder = tmp_path / "out" / "mnist-standard-protocol-validation-size-5000"
    assert {"all-validation-accuracy.svg", "lenet5-lr-2-validation-loss.svg"} <= {p.name for p in folder.iterdir()}
    overview, *_, cost = drawings(tmp_path / "runs")
    for drawing in overview, cost:
        assert drawing.data["validation_accuracy"].unique().tolist() == pytest.approx([0.972, 0.961])


@pytest.mark.usefixtures("undrawn")
def test_other_images_have_names_and_are_never_held_against_the_published_digits(tmp_path: Path) -> None:
    for seed, protocol in itertools.product(range(2), ("standard", "swapped", "published")):
        write_other(tmp_path / "runs", "mlp", seed, protocol, epochs=20, accuracy=0.95)
    text = report(tmp_path)
    assert "published result" not in text and "published curve" not in text and "published value" not in text
    assert not list((tmp_path / "out").glob("verdict*")) and not list((tmp_path / "out").glob("forensics*"))
    collection, estimates = read(tmp_path / "runs")
    for section in collection.sections:
        for drawing in figures.of_section(collection, estimates, section, []):
            assert "published" not in drawing.data.get("label", pd.Series()).tolist()
    # The first two images are always wrong, as the next class.
    assert "<b>Label T-shirt/top</b> <small>#1</small>" in text
    assert "<dd><b>Trouser</b> 0.91 <small>2/2 wrong" in text
    assert "<script>alert" not in text and text.count("<script>") == 1


@pytest.mark.usefixtures("undrawn")
def test_the_verdict_is_told_of_the_runs_that_it_is_about_alone(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs", seed=seed, epochs=20)
        write_run(tmp_path / "runs", seed=seed, epochs=20, validation=0.9)
        write_run(tmp_path / "runs", seed=seed, protocol="swapped", epochs=20)
    assert report(tmp_path).count("published result is") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_report_takes_away_what_an_earlier_one_wrote_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(tmp_path / "runs")
    published = write_run(tmp_path / "runs", "mlp", 0, "published")
    report(tmp_path)
    assert (out / "mnist-published-protocol" / "overview.svg").exists()
    mine = (out / "mine.txt", out / "mnist-standard-protocol" / "mine.svg", tmp_path / "precious")
    for path in mine:
        path.write_text("mine")
    with (out / ".report-files").open("a") as manifest:
        manifest.write("../precious\n")
    published.rename(tmp_path / "gone")
    report(tmp_path)
    assert not (out / "mnist-published-protocol").exists() and not (out / "differences.csv").exists()
    assert all(path.exists() for path in mine)


def test_what_can_not_be_read_or_written_is_said_in_a_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs")
    (tmp_path / "taken").write_text("")
    (tmp_path / "none").mkdir()
    for runs, out, said in (
        ("nowhere", "out", r"there are no finished runs"),
        ("none", "out", r"there are no finished runs"),
        ("runs", "taken", r"Not a directory.*then repeat the command"),
        (f"runs/{folder.name}", "out", r"is a run; name the folder that it is in\Z"),
        ("runs", "runs", r"is the folder of the runs; name another one for the report"),
    ):
        with pytest.raises(UserError, match=rf"^.*{said}.*\Z"):
            run(tmp_path / runs, tmp_path / out, tmp_path)


@pytest.mark.skipif(os.cpu_count() == 1, reason="on one processor, the report draws by itself")
@pytest.mark.parametrize(
    ("whom", "code", "told"),
    [("a worker", 1, "a drawing process was killed"), ("its parent", -9, ""), ("all", 130, "stopped")],
)
def test_a_report_that_is_stopped_says_so_in_a_line(whom: str, code: int, told: str, tmp_path: Path) -> None:
    script, reference = ROOT / "scripts" / "report.py", ROOT / "outputs" / "reference" / "runs"
    words = [sys.executable, str(script), "--runs", str(reference), "--out", str(tmp_path)]
    with started(words, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(list(tmp_path.rglob("*.svg"))) > 1)
        if whom == "a worker":
            psutil.Process(process.pid).children()[0].kill()
        elif whom == "its parent":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=MINUTES)  # as long as any worker lives and could still print something
        assert process.returncode == code and told in errors and "Traceback" not in errors, errors


def test_labels_of_a_sweep_over_optimizers_are_whole_and_do_not_repeat_what_the_name_implies(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    adam = {"optimizer": {"target": "torch.optim.Adam", "lr": 0.001, "fused": True}}
    rmsprop = {"optimizer": {"target": "torch.optim.RMSprop", "lr": 0.001, "momentum": 0}}
    for epochs, settings in itertools.product((1, 2), ({}, adam, rmsprop)):
        write_run(tmp_path, epochs=epochs, settings=settings)
    labels = [group.label for group in collect(tmp_path).groups]
    assert "LeNet5, epochs=1, lr=0.001, optimizer=Adam" in labels
    assert not any("fused" in label or "momentum" in label for label in labels)
    figure = drawings(tmp_path)[0].draw()
    figure.draw_without_rendering()
    (axes,) = figure.axes
    for label in axes.get_yticklabels():
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0, label.get_text()
    assert axes.get_position().width > 0.2
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]


@pytest.mark.parametrize("error", [OSError(38, "Function not implemented"), PermissionError(13, "no"), ImportError()])
def test_without_shared_memory_figures_are_drawn_one_after_the_other(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers without /dev/shm."""

    def fail(*_: object, **__: object) -> None:
        raise error

    small(tmp_path / "runs")
    monkeypatch.setattr(figure_files, "ProcessPoolExecutor", fail)
    report(tmp_path)
    assert len(list((tmp_path / "out").rglob("*.svg"))) > 5


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("failing", ["index.html", "comparison.csv", ""])
def test_a_disk_that_is_full_or_a_file_that_cannot_be_replaced_leaves_the_old_report_whole(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "runs")
    report(tmp_path)
    told = "No space left on device; make room "
    if not failing:
        told = r"index\.html: is a folder"
        (tmp_path / "out" / "index.html").unlink()
        (tmp_path / "out" / "index.html").mkdir()
    before = files(tmp_path / "out")
    write_run(tmp_path / "runs", "mlp")
    write_text = Path.write_text

    def full(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == failing:
            raise OSError(28, "No space left on device", str(path))
        return write_text(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match=rf"{told}.* The report that was there is unchanged\Z"):
            report(tmp_path)
    assert files(tmp_path / "out") == before


def test_sections_and_groups_of_alike_names_have_files_of_their_own(tmp_path: Path) -> None:
    for number, end in enumerate("ab"):  # beyond the length of a folder's name
        write_run(tmp_path / "runs", seed=number, settings={"data.name": "x" * 90 + end}, title="All")
    report(tmp_path)
    names = [path.parent.name for path in (tmp_path / "out").glob("*/overview.svg")]
    assert sorted(names) == ["x" * 80, "x" * 80 + "-2"]
    plots = {path.name for path in (tmp_path / "out" / ("x" * 80)).glob("all-train-loss*.svg")}
    assert plots == {"all-train-loss.svg", "all-train-loss-2.svg"}


def test_names_that_are_no_text_have_a_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs", title="_hidden", settings={"model.note": "left \u202e right"})
    folder.rename(tmp_path / "runs" / os.fsdecode(b"lauf-f\xfcr"))
    text = report(tmp_path)
    assert "lauf-f\ufffdr" in text and "left \ufffd right" in text and "\u202e" not in text
    assert "<h3>hidden" in text  # matplotlib leaves _hidden out of legends


def test_a_search_shows_each_setting_that_was_searched(tmp_path: Path) -> None:
    def trial(number: int, validation: float, batch_size: int, schedule: dict[str, object]) -> None:
        settings: dict[str, Any] = {"optimizer.lr": number / 100, "optimizer.weight_decay": float(f"1e-{number}")}
        settings |= {"batch_size": batch_size, "scheduler": schedule}
        write_run(tmp_path, validation=validation, settings=settings)

    def slices() -> list[figure_files.Plot]:
        collection = collect(tmp_path)
        return search_figure.slices("", collection.in_section(collection.sections[0]))

    prefix = "torch.optim.lr_scheduler."
    cosine = {"target": prefix + "CosineAnnealingLR", "T_max": 3, "interval": "epoch"}
    for number, validation in enumerate((0.97, 0.98, 0.11), 1):
        trial(number, validation, 64, cosine)
    assert slices() == []  # three runs are no search
    for number, validation in ((4, 0.99), (5, 0.96)):
        # OneCycle's max_lr is the optimizer's lr, so it is nothing that was searched.
        trial(number, validation, 32, {"target": prefix + "OneCycleLR", "max_lr": number / 100, "interval": "step"})
    (drawing,) = slices()
    searched = ["batch_size", "optimizer.lr", "optimizer.weight_decay", "scheduler.target"]
    assert [*drawing.data] == ["model", *searched, "validation_accuracy"]
    assert [*drawing.data["validation_accuracy"]] == pytest.approx([0.99, 0.98, 0.97, 0.96, 0.11])
    assert "of 5, those of the lowest quarter" in drawing.description
    assert "Best: LeNet5 with batch_size=32, lr=0.04, weight_decay=0.0001" in drawing.description
    figure = drawing.draw()
    figure.draw_without_rendering()
    panels = figure.axes
    assert [axes.get_xlabel() for axes in panels] == ["batch_size", "lr", "weight_decay", "scheduler"]
    assert [axes.get_xscale() for axes in panels] == ["linear", "linear", "log", "linear"]
    assert [label.get_text() for label in panels[3].get_xticklabels()] == ["OneCycleLR", "CosineAnnealingLR"]
    # A quarter of five trials, 0.96, is at the bottom; what learned nothing is below.
    assert 0.95 < panels[0].get_ylim()[0] < 0.96 and 0.99 < panels[0].get_ylim()[1] < 1
