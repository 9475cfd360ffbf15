"""Pictures of digits become digits as MNIST's are; what is no digit is refused."""

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from mnist_exp.data.images import resize
from mnist_exp.errors import DataError
from mnist_exp.inference.preprocessing import open_image, resize_matrix, to_digit, to_grey
from mnist_exp.inference.trained import UNSURE, TrainedModel
from tests.inference import distortions, measure
from tests.inference.conftest import REFERENCE, TITLES

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
TABLE = REFERENCE / "inference" / "pictures.csv"
AT_LEAST = dict.fromkeys(distortions.DISTORTIONS, (98.5, 98.5, 97))
AT_LEAST |= {kind: (97, 97, 95) for kind in AT_LEAST if "paper" in kind or "pencil" in kind}
AT_LEAST |= {kind: (96, 96, 94) for kind in AT_LEAST if "strokes" in kind or "small" in kind}
"""The least accuracies in %, as `TITLES`."""


def test_mnists_digits_stay_as_they_are(models: list[TrainedModel], digits: Digits) -> None:
    prepared = np.stack([to_digit(image) for image in digits[0]])
    for model, most in zip(models, (0, 0, 3), strict=True):
        before, after = (model.logits(each).argmax(dim=1) for each in (digits[0], prepared))
        assert int((before != after).sum()) <= most
    sides = [max(np.ptp(where) for where in np.nonzero(each)) + 1 for each in prepared]
    assert set(sides) == {20}


def test_the_tracked_table_has_the_figures() -> None:
    table = pd.read_csv(TABLE, index_col=0)
    assert list(table.index) == [measure.PLAIN, *distortions.DISTORTIONS, measure.BLANK]
    for kind, accuracies in AT_LEAST.items():
        assert (table.loc[kind, TITLES].to_numpy(float) >= np.array(accuracies) - 1e-9).all(), kind
    most = np.where(table.index.str.contains("strokes"), 1.5, 1)[:, None]
    assert (table[[f"{title}, sure and wrong" for title in TITLES[:2]]].to_numpy(float) <= most).all()


@pytest.mark.slow
def test_the_tracked_table_can_be_made_again(models: list[TrainedModel], digits: Digits) -> None:
    tracked = pd.read_csv(TABLE, index_col=0)
    some = measure.measure(models, *digits, every=50).set_index("pictures")
    for column in tracked.columns.drop("n"):
        error = np.sqrt(tracked[column] * (100 - tracked[column]) / some["n"])  # of such a sample, in %
        assert not ((some[column] - tracked[column]).abs() > 4 * error + 0.5).any(), column


@pytest.mark.parametrize("kind", distortions.DISTORTIONS)
def test_pictures_of_each_kind_are_read(kind: str, models: list[TrainedModel], digits: Digits) -> None:
    places = range(0, 10_000, 1_000 if kind in measure.FEW else 200)
    seen = np.stack([to_digit(distortions.distort(kind, digits[0][place], place)) for place in places])
    for model in models:
        assert int((model.logits(seen).argmax(dim=1).numpy() != digits[1][places]).sum()) <= len(places) // 10


@pytest.mark.parametrize("what", distortions.BLANK)
def test_blank_paper_is_refused_or_unsure(what: str, models: list[TrainedModel]) -> None:
    sure = 0
    for seed in range(40):
        with contextlib.suppress(DataError):
            seen = to_digit(distortions.blank_paper(what, seed))
            sure += any(model.rank(seen)[0][1] >= UNSURE for model in models)
    assert sure <= 2


def test_a_page_of_squares_is_no_eight() -> None:
    page = np.full((400, 400), 235, np.uint8)
    page[::60] = page[:, ::60] = 185
    with pytest.raises(DataError, match=r"^The picture is blank, or has no margin around the digit\.$"):
        to_digit(page)


@pytest.mark.parametrize("strength", [0, 1, 3, 8, 20, 40])
def test_noise_is_refused(strength: float) -> None:
    for seed in range(5):
        picture = np.random.default_rng(seed).normal(200, strength, (280, 280)).clip(0, 255).astype(np.uint8)
        with pytest.raises(DataError, match="is blank"):
            to_digit(picture)


@pytest.mark.parametrize("side", [1, 5, 28, 280])
def test_a_single_pixel_is_no_digit(side: int) -> None:
    picture = np.full((side, side), 255, np.uint8)
    picture[side // 2, side // 2] = 0
    with pytest.raises(DataError, match="is blank"):
        to_digit(picture)


@pytest.mark.parametrize("shape", [(1, 2), (1, 300), (300, 1), (2, 2), (1, 3000)])
def test_pictures_of_odd_shapes_are_refused_or_read(shape: tuple[int, int]) -> None:
    for seed in range(20):
        with contextlib.suppress(DataError):
            assert to_digit(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).shape == (28, 28)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("on_paper", [False, True])
def test_two_digits_are_refused(on_paper: bool, axis: int, digits: Digits) -> None:
    random, read = np.random.default_rng(2), 0
    for _ in range(20):
        pair = np.concatenate([distortions.enlarge(digits[0][place]) for place in random.integers(0, 10_000, 2)], axis)
        with contextlib.suppress(DataError):
            to_digit(distortions.paper(np.pad(pair, 20), random) if on_paper else pair)
            read += 1
    assert read <= 1


def test_it_is_light_on_black_centred_and_twenty_pixels_large() -> None:
    drawn = np.full((300, 500), 240, np.uint8)
    drawn[40:240, 400:440] = 20  # an upright stroke: 200 by 40 pixels become 20 by 4
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 12:16] = 255  # the centre of mass, at 13.5: MNIST's lie from there to 14.5
    assert np.array_equal(to_digit(drawn), expected)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def stored(digit: NDArray[np.uint8]) -> dict[str, bytes]:
    """The same picture in every way in which it may be stored."""
    plain = Image.fromarray(digit)
    clear = Image.merge("LA", (Image.new("L", plain.size, 0), plain))
    light = Image.merge("LA", (Image.new("L", plain.size, 255), plain)).convert("RGBA")
    found = {"dark on transparency": saved(clear.convert("RGBA")), "light on transparency": saved(light)}
    found |= {"LA": saved(clear), "16 bits": saved(Image.fromarray(digit.astype(np.uint16) * 257))}
    found |= {"palette": saved(plain.convert("P")), "RGB": saved(plain.convert("RGB")), "GIF": saved(plain, "GIF")}
    found |= {"CMYK": saved(plain.convert("CMYK"), "TIFF"), "JPEG": saved(plain, "JPEG", quality=80)}
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # cameras store a turned picture, and how to turn it back
    for orientation, turned in back.items():
        notes = Image.Exif()
        notes[0x0112] = orientation
        found[f"EXIF {orientation}"] = saved(plain.transpose(Image.Transpose(turned)), exif=notes)
    return found


@pytest.mark.parametrize("place", [0, 2, 61, 484])
def test_how_it_is_stored_makes_no_difference(place: int, models: list[TrainedModel], digits: Digits) -> None:
    digit = distortions.enlarge(digits[0][place])
    for how, content in stored(digit).items():
        for model in models:
            assert model.rank(model.prepare(open_image(content)))[0][0] == model.rank(to_digit(digit))[0][0], how


@pytest.mark.parametrize(("kind", "most"), [(np.float32, 1), (np.int32, 255), (np.uint16, 255), (np.uint16, 4095)])
def test_files_may_use_less_than_all_their_bits(kind: type, most: int, digits: Digits) -> None:
    seen = to_grey(Image.fromarray((digits[0][0] / 255 * most).astype(kind)))
    assert np.abs(seen.astype(int) - digits[0][0]).max() <= 1


def test_files_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("notes", "x" * 2_000_000, zip=True)
    header = b"IHDR" + struct.pack(">2I5B", 20_000, 20_000, 8, 0, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IDAT"
    )
    whole = saved(Image.new("L", (300, 300)), "JPEG")
    cases: dict[bytes | Path, str] = dict.fromkeys(
        (b"", b"hello"), "^The file is not a picture that can be read here; "
    )
    cases |= {saved(Image.new("L", (9, 9)), pnginfo=notes): "^The file cannot be read: Decompressed data too large"}
    cases |= {huge: r"^The file cannot be read: Image size \(400000000 pixels\) exceeds limit of .*\.$"}
    cases |= {whole[: len(whole) // 2]: "^The file cannot be read: image file is truncated"}
    cases |= {tmp_path / "none.png": r"^The file cannot be read: No such file or directory\.$"}
    for source, message in cases.items():
        with pytest.raises(DataError, match=message):
            open_image(source)


def test_resizing_by_matrices_is_the_models_resizing(digits: Digits) -> None:
    random = np.random.default_rng(0).integers(0, 256, (1000, 28, 28)).astype(np.uint8)
    matrix = resize_matrix(28, 32)
    for images in (digits[0], random):
        wide = np.floor(images @ matrix.T + 0.5)
        expected = resize(torch.from_numpy(images)[:, None])[:, 0].numpy()
        assert np.array_equal(np.floor(matrix @ wide + 0.5), expected)
