"""Measure how pictures of digits are read: ``python -m tests.inference.measure``, then ``make docs``.

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
from mnist_exp.inference.trained import TrainedModel, load_each_model
from mnist_exp.settings.schema import default_data_root
from tests.inference import distortions

PROJECT = Path(__file__).parents[2]
REFERENCE = PROJECT / "outputs" / "reference"


PLAIN = "as they are"


def measure(
    models: list[TrainedModel],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    kinds: Sequence[str] = (PLAIN, *distortions.DISTORTIONS),
    every: int = 1,
) -> pd.DataFrame:
    """The accuracy in % of each model, with the preprocessing and with plain resizing; a refused digit is wrong."""
    rows = []
    for what in kinds:
        seen, plain = np.zeros((2, len(images[::every]), 28, 28), np.uint8)
        for number, image in enumerate(images[::every]):
            picture = image if what == PLAIN else distortions.distort(what, image, every * number)
            plain[number] = np.asarray(Image.fromarray(picture).resize((28, 28), Image.Resampling.BILINEAR))
            with contextlib.suppress(DataError):
                seen[number] = to_digit(picture)
        row: dict[str, object] = {f"{len(images):,} test digits": what}
        for model in models:
            for name, inputs in (("", seen), (", only resized", plain)):
                right = model.logits(inputs).argmax(dim=1).numpy() == labels[::every]
                row[f"{model.record.title}{name}"] = round(100 * float(right.mean()), 1)
        rows.append(row)
    return pd.DataFrame(rows)


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
    print(table.to_string(index=False))
    photograph(each_model, test_digits[61], PROJECT / "docs" / "figures" / "draw.png")
