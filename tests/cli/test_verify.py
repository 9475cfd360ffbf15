"""Verification: equal bytes are called equal, and whatever differs is found and named."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from mnist_exp import job
from mnist_exp.cli.progress import Lines
from mnist_exp.cli.verify import CLOSE, DIFFERENT, EQUAL, UNVERIFIED, verify
from mnist_exp.runs.record import checksum
from tests.conftest import SCRIPTS, Execute, choices, command, python, settings


@pytest.fixture
def run(execute: Execute, tmp_path: Path) -> Path:
    return Path(execute("model=mlp", "epochs=3").folder)


def replace(run: Path, row: int, column: int, value: str) -> None:
    lines = (run / "metrics.csv").read_text().splitlines()
    cells = lines[row].split(",")
    cells[column] = value
    lines[row] = ",".join(cells)
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")


def change_record(run: Path, **changes: object) -> None:
    content = json.loads((run / "run.json").read_text())
    for key, value in changes.items():
        content[key] = content[key] | value
    (run / "run.json").write_text(json.dumps(content))


def test_an_untouched_run_is_equal(run: Path) -> None:
    assert verify(run).verdict == EQUAL


def test_a_run_that_is_not_finished_or_of_another_version_is_not_trained_again(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    for change, words in (
        ({"status": "interrupted"}, "the run is not finished (interrupted)"),
        ({"identity": record["identity"] | {"version": 2}}, "made by another version of mnist_exp"),
    ):
        (run / "run.json").write_text(json.dumps(record | change))
        finding = verify(run)
        assert finding.verdict == UNVERIFIED and finding.details[0].startswith(words)


def test_a_run_with_a_validation_split_is_equal(execute: Execute) -> None:
    assert verify(Path(execute("model=mlp", "data.validation_size=50").folder)).verdict == EQUAL


def test_a_run_without_its_large_files_is_compared_by_their_checksums(run: Path) -> None:
    (run / "predictions.npz").unlink()
    (run / "model.safetensors").unlink()
    assert verify(run).verdict == EQUAL
    change_record(run, files={"predictions.npz": "0" * 64})
    finding = verify(run)
    assert finding.verdict == DIFFERENT and "predictions.npz came out differently" in finding.details[0]


def test_one_changed_digit_is_found(run: Path) -> None:
    replace(run, row=2, column=3, value="0.5")
    finding = verify(run)
    assert finding.verdict == DIFFERENT and "metrics.csv is not the file that the run wrote" in finding.details[0]
    change_record(run, files={"metrics.csv": checksum(run / "metrics.csv")})
    finding = verify(run)
    assert finding.verdict == DIFFERENT
    assert finding.details[1].startswith("first difference: epoch 2, test_loss: stored 0.5, now ")


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.003, CLOSE), (0.02, DIFFERENT)])
def test_another_processor_explains_small_differences_only(run: Path, accuracy: float, verdict: int) -> None:
    now = json.loads((run / "run.json").read_text())["metrics"]["test_accuracy"]
    replace(run, row=3, column=4, value=repr(now + accuracy))
    elsewhere = {"cpu_capability": "NEON", "portable": False}
    change_record(run, files={"metrics.csv": checksum(run / "metrics.csv")}, provenance=elsewhere)
    finding = verify(run)
    assert finding.verdict == verdict
    assert any("cpu_capability: 'NEON' → '" in detail for detail in finding.details)


@pytest.mark.slow
def test_runs_of_both_arithmetics_are_verified_by_one_command(digits_root: Path, tmp_path: Path) -> None:
    words = ("model=mlp", "epochs=1", "protocol=published")
    for arithmetic in ("portable", "native"):
        assert command(*words, f"device.arithmetic={arithmetic}", cwd=tmp_path).returncode == 0
    done = python(SCRIPTS / "verify.py", *tmp_path.glob("outputs/runs/[!.]*"), cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count(": equal, bit for bit\n") == 2, done.stdout + done.stderr


@pytest.mark.parametrize("elsewhere", [{}, {"cpu": "Intel Xeon", "cpu_capability": "AVX512"}])
def test_what_the_environment_does_not_explain_is_different(run: Path, elsewhere: dict[str, str]) -> None:
    """Nor does another processor explain anything where arithmetic is portable."""
    if elsewhere and not torch.cpu._is_avx2_supported():
        pytest.skip("needs AVX2")
    replace(run, row=3, column=3, value="0.5")
    change_record(run, files={"metrics.csv": checksum(run / "metrics.csv")}, provenance=elsewhere)
    finding = verify(run)
    assert (finding.verdict, finding.details[-1]) == (DIFFERENT, "nothing that is recorded explains it")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": {"model": 1}}', pytest.param("[" * 9999, id="deep")])
def test_a_damaged_record_is_told(run: Path, content: str) -> None:
    (run / "run.json").write_text(content)
    assert verify(run).verdict == UNVERIFIED


def test_a_training_that_now_diverges_is_different(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["config"]["optimizer"]["lr"] = 1e9
    (run / "run.json").write_text(json.dumps(record))
    finding = verify(run)
    assert finding.verdict == DIFFERENT and "loss became" in finding.details[0]


def test_a_record_without_its_environment_is_told(run: Path) -> None:
    replace(run, row=3, column=3, value="0.5")
    record = json.loads((run / "run.json").read_text())
    record["files"]["metrics.csv"] = checksum(run / "metrics.csv")
    (run / "run.json").write_text(json.dumps(record | {"provenance": None}))
    assert verify(run).verdict == UNVERIFIED


def test_a_run_on_folders_needs_them_and_knows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_EXP_DATA", str(tmp_path))
    for split, grey in (("train", 50), ("test", 90)):
        (tmp_path / split).mkdir()
        for number in range(6):
            Image.new("L", (28, 28), grey + 20 * number).save(tmp_path / split / f"{number}_{number % 2}.png")
    dirs = [str(tmp_path / split) for split in ("train", "test")]
    words = ["data=png_folder", *map("data.{}_dir={}".format, ("train", "test"), dirs)]
    config = settings("model=mlp", "epochs=2", f"output_root={tmp_path}", *words)
    run = Path(job.train_run(config, choices("data=png_folder"), {}, Lines).folder)
    assert verify(run, *dirs).verdict == EQUAL
    assert "data=png_folder needs data.train_dir" in verify(run).details[0]
    Image.new("L", (28, 28)).save(tmp_path / "train" / "0_0.png")
    finding = verify(run, *dirs)
    assert finding.verdict == DIFFERENT
    assert finding.details[0].startswith("its data or settings differ: data.train_sha256: ")
