"""Verification: equal bytes are called equal, and whatever differs is found and named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mnist_exp import job
from mnist_exp.cli.progress import Lines
from mnist_exp.cli.verify import CLOSE, DIFFERENT, EQUAL, UNVERIFIED, verify
from mnist_exp.runs.record import checksum
from tests.conftest import SCRIPTS, Execute, choices, command, python, settings


@pytest.fixture
def run(execute: Execute) -> Path:
    return Path(execute("model=mlp", "epochs=3").folder)


def replace(run: Path, row: int, column: int, value: str) -> None:
    """Edit metrics.csv, and its checksum too."""
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    lines[row][column] = value
    (run / "metrics.csv").write_text("".join(",".join(cells) + "\n" for cells in lines))
    change_record(run, files={"metrics.csv": checksum(run / "metrics.csv")})


def change_record(run: Path, **changes: Any) -> None:
    """Replace a group's values, or what is no group."""
    content = json.loads((run / "run.json").read_text())
    for key, value in changes.items():
        content[key] = content[key] | value if isinstance(value, dict) else value
    (run / "run.json").write_text(json.dumps(content))


@pytest.mark.parametrize("words", [(), ("data.validation_size=50",)])
def test_an_untouched_run_is_equal_and_without_its_large_files_too(words: tuple[str, ...], execute: Execute) -> None:
    run = Path(execute("model=mlp", *words).folder)
    assert verify(run).verdict == EQUAL
    (run / "predictions.npz").unlink()
    (run / "model.safetensors").unlink()
    assert verify(run).verdict == EQUAL
    change_record(run, files={"predictions.npz": "0" * 64})
    finding = verify(run)
    assert finding.verdict == DIFFERENT and "predictions.npz came out differently" in finding.details[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": "interrupted"}, "the run is not finished (interrupted)"),
        ({"identity": {"version": 2}}, "made by another version of mnist_exp"),
        ({"format": None}, ""),
    ],
)
def test_a_run_that_is_not_finished_or_of_another_version_or_damaged_is_not_trained_again(
    change: dict[str, Any], words: str, run: Path
) -> None:
    change_record(run, name="run", **change)  # a name that ends in no hash of the settings
    finding = verify(run.rename(run.with_name("run")))
    assert finding.verdict == UNVERIFIED and finding.details[0].startswith(words)


def test_one_changed_digit_is_found(run: Path) -> None:
    record = (run / "run.json").read_bytes()
    replace(run, row=2, column=3, value="0.5")
    finding = verify(run)
    assert finding.verdict == DIFFERENT
    assert finding.details[1].startswith("first difference: epoch 2, test_loss: stored 0.5, now ")
    (run / "run.json").write_bytes(record)
    finding = verify(run)
    assert finding.verdict == DIFFERENT and "metrics.csv is not the file that the run wrote" in finding.details[0]


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.003, CLOSE), (0.02, DIFFERENT)])
def test_another_processor_explains_small_differences_only(run: Path, accuracy: float, verdict: int) -> None:
    now = json.loads((run / "run.json").read_text())["metrics"]["test_accuracy"]
    replace(run, row=3, column=4, value=repr(now + accuracy))
    change_record(run, provenance={"cpu_capability": "NEON", "portable": False})
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


@pytest.mark.parametrize("elsewhere", [{}, {"cpu": "Intel Xeon", "cpu_capability": "AVX512"}, None])
def test_what_the_environment_does_not_explain_is_different(run: Path, elsewhere: dict[str, str] | None) -> None:
    """Nor does another processor explain anything where arithmetic is portable; where none is known, nobody can say."""
    if elsewhere and not torch.cpu._is_avx2_supported():
        pytest.skip("needs AVX2")
    replace(run, row=3, column=3, value="0.5")
    change_record(run, provenance=elsewhere)
    finding = verify(run)
    if elsewhere is None:
        assert finding.verdict == UNVERIFIED
    else:
        assert (finding.verdict, finding.details[-1]) == (DIFFERENT, "nothing that is recorded explains it")


def test_a_training_that_now_diverges_is_different(run: Path) -> None:
    optimizer = json.loads((run / "run.json").read_text())["config"]["optimizer"]
    change_record(run, config={"optimizer": optimizer | {"lr": 1e9}})
    finding = verify(run)
    assert finding.verdict == DIFFERENT and "loss became" in finding.details[0]


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
