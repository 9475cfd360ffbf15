"""The page to draw in: PyTorch's answers in JavaScript, the same preprocessing, and a real browser."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mnist_exp.data.images import resize
from mnist_exp.errors import DataError
from mnist_exp.inference.drawing import render
from mnist_exp.inference.preprocessing import to_digit, to_grey
from mnist_exp.inference.trained import TrainedModel
from tests.browser import look
from tests.inference import distortions

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
DRIVER = """
const fs = require("fs"), [images, shapes, pictures] = ["images", "shapes", "pictures"].map(n => fs.readFileSync(n));
const floats = values => Buffer.from(Float32Array.from(values).buffer);
const count = images.length / 784, at = i => images.subarray(784 * i, 784 * i + 784);
const each = Array.from({ length: count }, (_, i) => i);
const rounded = value => Math.floor(value + 0.5);
fs.writeFileSync("resized", Buffer.concat(each.map(i => Buffer.from(resize(at(i), 28, 28, 32, 32, rounded)))));
JSON.parse(fs.readFileSync("models")).forEach((model, k) => {
  model.floats = decode(model.weights);
  fs.writeFileSync(`logits${k}`, Buffer.concat(each.map(i => floats(logits(model, at(i))))));
});
let place = 0;
const digits = JSON.parse(shapes).map(([height, width]) => {
  const rgba = pictures.subarray(place, place += 4 * height * width);
  try { return Buffer.from(toDigit(toGrey(width, height, rgba))); } catch { return Buffer.alloc(784); }
});
fs.writeFileSync("digits", Buffer.concat(digits));
"""


@pytest.fixture(scope="module")
def page(models: list[TrainedModel]) -> str:
    return render(models)


def in_node(folder: Path, page: str, images: NDArray[np.uint8], pictures: list[Image.Image]) -> Path:
    """Run the page's own code in Node.js; the folder with what it made of images and pictures."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js here")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    (data,) = re.findall(r'<script type="application/json" id="weights">(.*?)</script>', page, re.DOTALL)
    (folder / "models").write_text(data)
    (folder / "images").write_bytes(images.tobytes())
    (folder / "shapes").write_text(json.dumps([picture.size[::-1] for picture in pictures]))
    (folder / "pictures").write_bytes(b"".join(picture.convert("RGBA").tobytes() for picture in pictures))
    (folder / "page.cjs").write_text(script.partition("// The page:")[0] + DRIVER)
    subprocess.run([node, "page.cjs"], cwd=folder, check=True, timeout=300)
    return folder


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_answers_are_pytorchs_and_the_resizing_is_exact(
    count: int, page: str, models: list[TrainedModel], digits: Digits, tmp_path: Path
) -> None:
    images = digits[0][:count]
    made = in_node(tmp_path, page, images, [])
    resized = np.frombuffer((made / "resized").read_bytes(), np.uint8).reshape(-1, 32, 32)
    assert np.array_equal(resized, resize(torch.from_numpy(images)[:, None])[:, 0].numpy())
    for place, model in enumerate(models):
        logits = np.frombuffer((made / f"logits{place}").read_bytes(), np.float32).reshape(-1, 10)
        expected = model.logits(images).numpy()
        assert np.abs(logits - expected).max() < 1e-4
        assert np.array_equal(logits.argmax(1), expected.argmax(1))


def seen_in_python(picture: Image.Image) -> NDArray[np.uint8]:
    try:
        return to_digit(to_grey(picture))
    except DataError:
        return np.zeros((28, 28), np.uint8)


def test_the_preprocessing_is_pythons(page: str, digits: Digits, tmp_path: Path) -> None:
    kinds = [kind for kind in distortions.DISTORTIONS if "large photograph" not in kind] * 3
    kinds += ["small in a large photograph"]
    grey = [distortions.distort(kind, digits[0][place], place) for place, kind in enumerate(kinds)]
    grey += [distortions.blank_paper(distortions.BLANK[place // 2 % 4], place) for place in range(24)]
    grey += [np.full((50, 60), 255, np.uint8), digits[0][0], np.hstack([digits[0][0], digits[0][1]])]
    grey.append(np.vstack([distortions.enlarge(digits[0][place]) for place in (18, 8)]))  # 3 above 5
    pictures = [Image.fromarray(each) for each in grey]
    clear = Image.merge("LA", (Image.new("L", (28, 28), 30), pictures[-1].crop((0, 0, 28, 28)))).convert("RGBA")
    large = Image.fromarray(distortions.enlarge(digits[0][3], 1300)).convert("RGB")
    pictures += [clear, large, Image.merge("RGB", [pictures[0].resize((64, 64))] * 2 + [Image.new("L", (64, 64))])]
    made = in_node(tmp_path, page, digits[0][:1], pictures)
    found = np.frombuffer((made / "digits").read_bytes(), np.uint8).reshape(-1, 28, 28)
    for mine, picture in zip(found, pictures, strict=True):
        assert np.abs(mine.astype(int) - seen_in_python(picture)).max() <= 1


def test_the_page_is_small_and_whole(page: str) -> None:
    assert len(page.encode()) <= 1_050_000
    assert not re.search(r"https?:|eval\(|new Function|\{\{", page)
    assert "default-src 'none'" in page


@pytest.fixture(scope="module")
def browser(page: str, digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a real browser did with the page, opened as a file in two widths and both colour schemes."""
    folder = tmp_path_factory.mktemp("drawing")
    (folder / "draw.html").write_text(page, encoding="utf-8")
    two = distortions.distort("on paper, anywhere", digits[0][1], 1)
    Image.fromarray(two).save(folder / "two.jpg", quality=90)
    Image.fromarray(255 - digits[0][2]).save(folder / "one.png")
    return look(Path(__file__).with_name("draw.mjs"), folder / "draw.html", folder)


@pytest.mark.slow
def test_no_errors_and_no_requests(browser: dict[str, Any]) -> None:
    assert browser["console"] == []
    assert browser["requests"] == []


@pytest.mark.slow
@pytest.mark.parametrize("view", ["360 light", "360 dark", "1440 light", "1440 dark"])
def test_it_is_drawn_on_and_read(view: str, browser: dict[str, Any]) -> None:
    seen = browser["views"][view]
    nothing, seven = ["Draw a digit.", "–", "–", "–"], ["7"] * 3
    assert seen["empty"] == seen["cleared"] == seen["escaped"] == nothing
    assert seen["seven"][1:] == seen["undone"][1:] == seven
    assert seen["two"] == [
        "The picture has more than one digit, or something else; crop it to one digit.",
        "–",
        "–",
        "–",
    ]
    for how in ("keys", "finger", "palm", "paste", "drop"):
        assert seen[how][1:] == ["1"] * 3
    assert seen["photograph"][1:] == ["2"] * 3
    assert seen["overflow"] == 0
    assert seen["zoomed"] <= 0
    assert seen["violations"] == []


@pytest.mark.slow
def test_without_javascript_it_says_so(browser: dict[str, Any]) -> None:
    assert "needs JavaScript" in browser["plain"] and "Undo" not in browser["plain"]


def test_models_that_it_cannot_compute_are_named(models: list[TrainedModel]) -> None:
    other = TrainedModel(dataclasses.replace(models[0].record, title="<Net>"), torch.nn.Linear(1024, 10))
    assert "This page cannot compute: &lt;Net&gt;." in render([*models, other])
    assert "cannot compute" not in render(models)


@pytest.mark.slow
def test_light_and_dark_differ(browser: dict[str, Any]) -> None:
    assert browser["views"]["360 light"]["background"] != browser["views"]["360 dark"]["background"]
