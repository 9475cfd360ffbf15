"""Measure how pictures are read: ``python -m tests.inference.measure`` (half an hour), then ``make docs``.

Writes ``outputs/reference/inference/pictures.csv`` from the tracked weights, and with Chromium the picture of the
page in ``docs/figures/draw.png``.
"""

import base64
import contextlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from mnist_exp.data.datasets import load
from mnist_exp.errors import DataError
from mnist_exp.inference.drawing import render
from mnist_exp.inference.preprocessing import to_digit
from mnist_exp.inference.trained import UNSURE, TrainedModel, load_each_model
from mnist_exp.settings.schema import default_data_root
from tests.inference import distortions

PROJECT = Path(__file__).parents[2]
REFERENCE = PROJECT / "outputs" / "reference"
PLAIN, BLANK = "as they are", "blank paper of squares, lines, dots or crumples"
FEW = {"small in a large photograph": 40}
"""Of such a kind only every 40th digit is measured, since each takes seconds."""


def measure(
    models: list[TrainedModel],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    kinds: Sequence[str] = (PLAIN, *distortions.DISTORTIONS, BLANK),
    every: int = 1,
) -> pd.DataFrame:
    """Of each kind of picture, how many there are, and each model's shares in %.

    These are the accuracy, in which a refused digit is wrong (blank paper has none), and the share that is "sure and
    wrong": any answer to blank paper, or a wrong one, that is not marked as unsure.
    """
    rows = []
    for kind in kinds:
        places = range(0, 400 if kind == BLANK else len(images), max(every, FEW.get(kind, 1)))
        answers = labels[places] if kind != BLANK else np.full(len(places), -1)
        seen, is_read = np.zeros((len(places), 28, 28), np.uint8), np.zeros(len(places), bool)
        for number, place in enumerate(places):
            with contextlib.suppress(DataError):
                seen[number], is_read[number] = to_digit(picture(kind, images, place)), True
        row: dict[str, object] = {"pictures": kind, "n": len(places)}
        for model in models:
            probabilities, found = (each.numpy() for each in model.logits(seen).softmax(dim=1).max(dim=1))
            right = is_read & (found == answers)
            sure = is_read & ~right & (probabilities >= UNSURE)
            row[model.record.title] = None if kind == BLANK else round(100 * float(right.mean()), 1)
            row[f"{model.record.title}, sure and wrong"] = round(100 * float(sure.mean()), 1)
        rows.append(row)
        print(*row.values(), flush=True)
    return pd.DataFrame(rows)


def picture(kind: str, images: NDArray[np.uint8], place: int) -> NDArray[np.uint8]:
    """A picture of a kind, made of the digit at that place, or blank."""
    if kind == BLANK:
        return distortions.blank_paper(distortions.BLANK[place // 2 % 4], place)
    return images[place] if kind == PLAIN else distortions.distort(kind, images[place], place)


def photograph(models: list[TrainedModel], digit: NDArray[np.uint8], out: Path) -> None:
    """A picture of the page with a digit on it, where there is a Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print(f"there is no Chromium here, so {out.name} stays as it is")
        return
    buffer = io.BytesIO()
    Image.fromarray(255 - distortions.enlarge(digit)).save(buffer, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "draw.html"
        page.write_text(render(models), encoding="utf-8")
        address = f"{page.as_uri()}#data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += [f"--user-data-dir={folder}/profile", "--window-size=1280,720", "--virtual-time-budget=2000"]
        done = subprocess.run([chromium, *flags, f"--screenshot={out}", address], capture_output=True, timeout=120)
        done.check_returncode()
    Image.open(out).convert("P", palette=Image.Palette.ADAPTIVE).save(out, optimize=True)


if __name__ == "__main__":
    each_model = load_each_model(REFERENCE / "runs")
    ((test_digits, test_labels, _),) = load("mnist", default_data_root(), ("test",))
    (REFERENCE / "inference").mkdir(exist_ok=True)
    table = measure(each_model, test_digits, test_labels)
    table.to_csv(REFERENCE / "inference" / "pictures.csv", index=False, lineterminator="\n")
    photograph(each_model, test_digits[61], PROJECT / "docs" / "figures" / "draw.png")
