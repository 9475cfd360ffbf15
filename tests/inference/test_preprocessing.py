"""Pictures of digits become digits as MNIST's are; what is no digit is refused."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mnist_exp.data.images import resize
from mnist_exp.errors import DataError
from mnist_exp.inference.preprocessing import open_image, resize_matrix, to_digit, to_grey
from mnist_exp.inference.trained import TrainedModel
from tests.inference import distortions, measure
from tests.inference.conftest import REFERENCE, TITLES

Digits = tuple[NDArray[np.uint8], NDArray[np.int64]]
AT_LEAST = {
    **dict.fromkeys(("half to one and a half times as large", "moved by up to 4 of 28 pixels"), (98.5, 98.5, 97)),
    **dict.fromkeys(("anywhere on a larger canvas", "dark on light"), (98.5, 98.5, 97)),
    **dict.fromkeys(("on paper, in place", "on paper, anywhere"), (98, 98, 96.5)),
    **dict.fromkeys(("strokes 1.2 pixels thinner", "strokes 1.6 pixels thicker"), (97, 96, 94)),
}
"""The least accuracies in %, as `TITLES`."""


def test_the_test_digits_keep_their_answers(models: list[TrainedModel], digits: Digits) -> None:
    images = digits[0]
    prepared = np.stack([to_digit(image) for image in images])
    for model in models:
        before, after = (model.logits(each).argmax(dim=1) for each in (images, prepared))
        assert int((before != after).sum()) <= 3


@pytest.mark.parametrize("what", AT_LEAST)
def test_the_tracked_table_has_the_figures(what: str) -> None:
    table = pd.read_csv(REFERENCE / "inference" / "pictures.csv", index_col=0)
    assert (table.loc[what, TITLES].to_numpy(float) >= np.array(AT_LEAST[what]) - 1e-9).all()


@pytest.mark.slow
def test_the_tracked_table_can_be_made_again(models: list[TrainedModel], digits: Digits) -> None:
    tracked = pd.read_csv(REFERENCE / "inference" / "pictures.csv", index_col=0)
    whole = measure.measure(models, *digits, (measure.PLAIN,)).set_index(tracked.index.name)
    pd.testing.assert_frame_equal(whole, tracked.loc[whole.index], atol=0.11, rtol=0)
    every = 25
    some = measure.measure(models, *digits, every=every).set_index(tracked.index.name)
    error = np.sqrt(tracked * (100 - tracked) / (len(digits[0]) / every))  # a standard error of such a sample, in %
    assert ((some - tracked).abs() < 4 * error + 0.1).all(axis=None)


@pytest.mark.parametrize("what", distortions.DISTORTIONS)
def test_some_distorted_digits_are_read(what: str, models: list[TrainedModel], digits: Digits) -> None:
    places = range(0, 10_000, 200)
    seen = np.stack([to_digit(distortions.distort(what, digits[0][place], place)) for place in places])
    for model in models:
        assert int((model.logits(seen).argmax(dim=1).numpy() != digits[1][::200]).sum()) <= 5


@pytest.mark.parametrize("what", distortions.SURROUNDINGS)
def test_what_else_is_in_the_picture_makes_no_difference(what: str, digits: Digits) -> None:
    places = range(0, 10_000, 800)
    seen = [to_digit(distortions.distort(what, digits[0][place], place)) for place in places]
    alike = [
        np.corrcoef(each.ravel(), digits[0][place].ravel())[0, 1] > 0.9
        for place, each in zip(places, seen, strict=True)
    ]
    assert len(alike) - sum(alike) <= 2


def test_pencil_in_lamplight_is_dark_ink(models: list[TrainedModel], digits: Digits) -> None:
    """The lamp's spot differs more from the border than the pencil does, so extremes don't say which is the ink."""
    y, x = np.indices((280, 280)) / 280
    light = 0.4 + 0.6 * np.exp(-((x - 0.2) ** 2 + (y - 0.3) ** 2) / 0.4)
    ink = np.stack([distortions.enlarge(digit) for digit in digits[0][:20]]) / 255
    pictures = (225 * light * (1 - 0.35 * ink)).astype(np.uint8)
    border = np.median(np.concatenate([pictures[0, :, [0, -1]], pictures[0, [0, -1]]]))
    assert (pictures.max((1, 2)) - border > border - pictures.min((1, 2))).all()
    seen = np.stack([to_digit(picture) for picture in pictures])
    for model in models:
        assert int((model.logits(seen).argmax(dim=1).numpy() != digits[1][:20]).sum()) <= 2


def saved(digit: NDArray[np.uint8], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(digit).save(buffer, **{"format": "PNG"} | options)  # type: ignore[arg-type]
    return buffer.getvalue()


def exif(picture: Image.Image, orientation: int) -> bytes:
    """A picture stored as cameras do: turned, with a note on how to turn it back."""
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the orientation's inverse, as a `Transpose`
    stored = picture.transpose(Image.Transpose(turned[orientation])) if orientation in turned else picture
    notes = Image.Exif()
    notes[0x0112] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=notes)
    return buffer.getvalue()


def variants(digit: NDArray[np.uint8]) -> dict[str, bytes]:
    """The same picture in every way in which it may be stored."""
    plain = Image.fromarray(digit)
    clear = Image.merge("LA", (Image.new("L", plain.size, 0), plain))
    light = Image.merge("LA", (Image.new("L", plain.size, 255), plain)).convert("RGBA")
    found = {f"EXIF {orientation}": exif(plain, orientation) for orientation in range(1, 9)}
    pictures = {"dark on transparency": clear.convert("RGBA"), "light on transparency": light, "LA": clear}
    pictures |= {"palette": plain.convert("P"), "RGB": plain.convert("RGB"), "CMYK": plain.convert("CMYK")}
    pictures["16 bits"] = Image.fromarray(digit.astype(np.uint16) * 257)
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, "TIFF" if name == "CMYK" else "PNG")
        found[name] = buffer.getvalue()
    return found | {"JPEG": saved(digit, format="JPEG", quality=80), "GIF": saved(digit, format="GIF")}


@pytest.mark.parametrize("place", [0, 2, 61, 484])
def test_how_it_is_stored_makes_no_difference(place: int, models: list[TrainedModel], digits: Digits) -> None:
    digit = distortions.enlarge(digits[0][place])
    plain = to_digit(to_grey(open_image(saved(digit))))
    for name, content in variants(digit).items():
        seen = to_digit(to_grey(open_image(content)))
        for model in models:
            assert model.rank(seen)[0][0] == model.rank(plain)[0][0], name


def test_it_is_light_on_black_centred_and_twenty_pixels_large() -> None:
    drawn = np.full((300, 500), 240, np.uint8)
    drawn[40:240, 400:440] = 20  # an upright stroke: 200 by 40 pixels become 20 by 4
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 12:16] = 255  # the centre of mass, at 13.5: MNIST's lie from there to 14.5
    assert np.array_equal(to_digit(drawn), expected)


@pytest.mark.parametrize(("kind", "most"), [(np.float32, 1), (np.int32, 255), (np.uint16, 255), (np.uint16, 4095)])
def test_files_may_use_less_than_all_their_bits(kind: type, most: int, digits: Digits) -> None:
    digit = digits[0][0]
    seen = to_grey(Image.fromarray((digit / 255 * most).astype(kind)))
    assert np.abs(seen.astype(int) - digit).max() <= 1


def test_a_digit_without_a_margin_is_refused_or_read(models: list[TrainedModel], digits: Digits) -> None:
    wrong = 0
    for digit, label in zip(digits[0][:100], digits[1], strict=False):
        rows, columns = (np.flatnonzero(digit.any(axis)) for axis in (1, 0))
        try:
            seen = to_digit(255 - digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        except DataError as error:
            assert "has no margin around the digit" in str(error)
        else:
            wrong += models[0].rank(seen)[0][0] != str(label)
    assert wrong <= 2


@pytest.mark.parametrize("side", [5, 28, 280])
def test_a_single_pixel_is_no_digit(side: int) -> None:
    picture = np.full((side, side), 255, np.uint8)
    picture[side // 2, side // 2] = 0
    with pytest.raises(DataError, match="is blank"):
        to_digit(picture)


def test_large_pictures_are_shrunk() -> None:
    assert to_grey(Image.new("RGB", (4000, 3000), "white")).shape == (429, 572)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_pictures_of_odd_shapes_are_refused_or_read(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        with contextlib.suppress(DataError):
            assert to_digit(random.integers(0, 256, shape).astype(np.uint8)).shape == (28, 28)


def noisy(strength: float, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).normal(200, strength, (280, 280)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("strength", [0, 1, 3, 8, 20, 40])
def test_blank_pictures_are_refused(strength: float, seed: int) -> None:
    with pytest.raises(DataError, match="is blank"):
        to_digit(noisy(strength, seed))


def test_a_faint_patch_beside_a_spark_is_refused() -> None:
    with pytest.raises(DataError, match="is blank"):
        to_digit(distortions.faint_patch())


@pytest.mark.parametrize("seed", range(8))
def test_blank_paper_is_refused(seed: int) -> None:
    with pytest.raises(DataError, match="is blank"):
        to_digit(distortions.paper(np.zeros((280, 280), np.uint8), np.random.default_rng(seed)))


@pytest.mark.parametrize("gap", [0, 40])
def test_two_digits_one_above_the_other_are_refused(gap: int, digits: Digits) -> None:
    """Three, five and six are about as wide."""
    threes, fives, sixes = (digits[0][digits[1] == digit][:3] for digit in (3, 5, 6))
    for first, second in ((threes[0], fives[1]), (fives[2], threes[1]), (sixes[0], threes[2])):
        apart = np.pad(distortions.enlarge(first), ((0, gap), (0, 0)))
        with pytest.raises(DataError, match="more than one digit"):
            to_digit(255 - np.vstack([apart, distortions.enlarge(second)]))


@pytest.mark.parametrize("on_paper", [False, True])
def test_two_digits_side_by_side_are_refused(on_paper: bool, digits: Digits) -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        pair = np.hstack([distortions.enlarge(digits[0][place]) for place in random.integers(0, 10_000, 2)])
        picture = distortions.paper(np.pad(pair, 20), random) if on_paper else pair
        with pytest.raises(DataError, match="more than one digit"):
            to_digit(picture)


def test_files_that_are_no_images_are_refused(tmp_path: Path) -> None:
    whole = saved(noisy(40, 0), format="JPEG")
    cases = {b"": "is empty", b"hello": "is not an image", whole[: len(whole) // 2]: "is damaged or truncated"}
    for content, message in cases.items():
        with pytest.raises(DataError, match=message):
            open_image(content)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder without images"):
        open_image(tmp_path)


def test_resizing_by_matrices_is_the_models_resizing(digits: Digits) -> None:
    random = np.random.default_rng(0).integers(0, 256, (1000, 28, 28)).astype(np.uint8)
    matrix = resize_matrix(28, 32)
    for images in (digits[0], random):
        wide = np.floor(images @ matrix.T + 0.5)
        expected = resize(torch.from_numpy(images)[:, None])[:, 0].numpy()
        assert np.array_equal(np.floor(matrix @ wide + 0.5), expected)
