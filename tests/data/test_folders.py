"""Folders of PNG files: every kind of image and layout, every way to get one wrong, and the cache."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from mnist_exp import job
from mnist_exp.cli.hydra_internals import CONFIG_FOLDER
from mnist_exp.cli.progress import Lines
from mnist_exp.data import decoding, folders
from mnist_exp.data.decoding import load
from mnist_exp.data.folders import DIGITS, Folder, scan_both
from mnist_exp.errors import DataError
from scripts import export_png
from tests.conftest import choices, command, results, settings

GREY = (np.arange(28 * 28, dtype=np.uint32).reshape(28, 28) * 7 % 256).astype(np.uint8)


def png(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    image.save(buffer := io.BytesIO(), kind, **options)
    return buffer.getvalue()


def write(folder: Path, *names: str, content: bytes | None = None) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = zlib.crc32(os.fsencode(name)) % 251  # each its own picture, so that a wrong order shows
        path.write_bytes(content or png(Image.new("L", (28, 28), grey)))
    return folder


def scan(root: Path, kind: str = "png_folder") -> Folder:
    """One folder, without another to compare it with."""
    listing = folders._list(root, kind)
    return folders._read(listing, listing.classes if {*listing.names} - {*DIGITS} else {d: d for d in DIGITS})


def images(folder: Path, cache: Path) -> NDArray[np.uint8]:
    return load(scan(folder), cache)


def by_hand(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))


def palette() -> Image.Image:
    """Each grey as the palette's entry 255 - grey."""
    image = Image.fromarray(255 - GREY).convert("P")
    image.putdata((255 - GREY).flatten().tolist())
    image.putpalette([grey for entry in range(256) for grey in [255 - entry] * 3])
    return image


def upside_down() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3  # "turn by 180 degrees to see it"
    return png(Image.fromarray(np.ascontiguousarray(GREY[::-1, ::-1])), exif=exif)


KINDS = {
    **{mode: png(Image.fromarray(GREY).convert(mode)) for mode in ("L", "RGB", "RGBA", "LA")},
    "palette": png(palette()),
    "palette with an unused transparent entry": png(palette(), transparency=bytes([255] * 256)),
    "16-bit": png(Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16-bit, not a multiple": png(Image.fromarray(np.minimum(GREY * np.uint32(257) + 100, 65535).astype(np.uint16))),
    "animated": png(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(255 - GREY)]),
    "EXIF, upside down": upside_down(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_the_same_pixels(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "in", "0_3.png", content=KINDS[kind])
    assert np.array_equal(images(tmp_path / "in", tmp_path / "cache"), by_hand(GREY)[None])


def test_a_bilevel_image_is_black_and_white(tmp_path: Path) -> None:
    write(tmp_path / "in", "0_3.png", content=png(Image.fromarray(GREY > 127)))
    (found,) = images(tmp_path / "in", tmp_path / "cache")
    assert np.array_equal(found, by_hand(np.where(GREY > 127, 255, 0).astype(np.uint8)))


def test_what_is_transparent_is_black_and_what_is_half_so_is_half_as_bright(tmp_path: Path) -> None:
    colours = np.full((28, 28, 4), 200, np.uint8)
    colours[:14, :, 3], colours[14:, :, 3] = 0, 128
    write(tmp_path / "in", "0_3.png", content=png(Image.fromarray(colours)))
    (found,) = images(tmp_path / "in", tmp_path / "cache")
    assert found[:14].max() == 0 and set(found[18:].flatten().tolist()) == {100}  # 200 × 128 / 255


@pytest.mark.parametrize("ink", [(0, 0, 0), (0, 0, 255), (60, 60, 60)])
def test_dark_ink_on_transparency_would_be_lost_and_is_refused(ink: tuple[int, int, int], tmp_path: Path) -> None:
    drawing = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    drawing.paste((*ink, 255), (5, 5, 20, 9))
    write(tmp_path / "in", "0_3.png")
    write(tmp_path / "in", "1_3.png", content=png(drawing))
    with pytest.raises(DataError, match=r"1 of 2 images in .* are dark on transparency, .*: 1_3.png"):
        images(tmp_path / "in", tmp_path / "cache")
    flat = Image.alpha_composite(Image.new("RGBA", (28, 28), "white"), drawing)
    write(tmp_path / "in", "1_3.png", content=png(flat))
    assert images(tmp_path / "in", tmp_path / "cache")[1].max() == 255


def test_colours_become_their_luminance(tmp_path: Path) -> None:
    for number, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255)]):
        write(tmp_path / "in", f"{number}_0.png", content=png(Image.new("RGB", (5, 9), colour)))
    found = images(tmp_path / "in", tmp_path / "cache")
    assert [int(image[16, 16]) for image in found] == [76, 150, 29]  # 0.299, 0.587 and 0.114 of 255


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (32, 32), (20, 60), (300, 301)])
def test_any_size_is_resized_as_pillow_does(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    write(tmp_path / "in", "0_3.png", content=png(Image.fromarray(pixels)))
    assert np.array_equal(images(tmp_path / "in", tmp_path / "cache")[0], by_hand(pixels))


LAYOUTS = {
    "file names, nested by shard": ["a/0_5.png", "b/1_0.png", "a/2_4.PNG", "a/x/9_1.png", "10_1.png", "b/11_7.png"],
    "file names with a prefix": [f"train_{end}.png" for end in ("0_5", "01_0", "2_4", "009_1", "010_1", "11_7")],
    "folders, nested": ["5/w/0.png", "a/0/1.png", "4/2.png", "a/b/1/9.png", "1/deep/er/10.png", "w/7/11.png"],
    "folders, zero-padded": ["05/000.png", "00/001.png", "04/002.png", "01/009.png", "01/010.png", "07/011.png"],
    "folders in words, and numbers that are no labels": [
        *(f"{word}/scan_{number}_3.png" for word, number in (("five", 0), ("Zero", 1), ("four", 2), ("one", 9))),
        *("one/scan_10_3.png", "seven/scan_11_3.png"),
    ],
    "folders and names that agree": ["5/0_5.png", "0/1_0.png", "4/2_4.png", "1/9_1.png", "1/10_1.png", "7/11_7.png"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_and_order_whatever_the_layout(layout: str, tmp_path: Path) -> None:
    names = LAYOUTS[layout]
    write(tmp_path, *reversed(names))
    folder = scan(tmp_path)
    assert folder.labels.tolist() == [5, 0, 4, 1, 1, 7]
    assert folder.paths == names  # 9 before 10
    assert ("name of the file" in folder.summary) == layout.startswith("file")
    assert "6 images" in folder.summary and "skipped" not in folder.summary


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        (["001/0_5.png", "2023/1_0.png"], "file"),  # shards
        (["5/20230101_120000.png", "0/20230101_120001.png"], "folder"),  # times
        (["1/5/0_5.png", "1/0/1_0.png"], "folder"),  # the nearest folder counts, for the names agree
        (["5/000/a.png", "0/001/b.png"], "folder"),  # shards below the label
        (["5/train_0001_3.png", "0/train_0002_3.png"], "folder"),  # parts of an archive
        (["5/2023/a.png", "2024/0/b.png"], "folder"),  # years
    ],
)
def test_numbers_that_are_no_labels_mislead_nobody(names: list[str], layout: str, tmp_path: Path) -> None:
    folder = scan(write(tmp_path, *names))
    assert folder.labels.tolist() == [5, 0] and f"name of the {layout}" in folder.summary


def test_the_same_images_have_one_checksum_in_either_layout(tmp_path: Path) -> None:
    content = [png(Image.fromarray(np.full((28, 28), grey, np.uint8))) for grey in range(3)]
    for number, label in enumerate((4, 1, 4)):
        write(tmp_path / "a", f"{number}_{label}.png", content=content[number])
        write(tmp_path / "b", f"x/{label}/{number}.png", content=content[number])
    a, b = scan(tmp_path / "a"), scan(tmp_path / "b")
    assert a.sha256 == b.sha256
    (tmp_path / "b/x/4/2.png").write_bytes(content[1])
    assert scan(tmp_path / "b").sha256 != a.sha256


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 9)), unique=True, min_size=1, max_size=30))
def test_file_names_are_read_and_ordered_by_their_numbers(pairs: list[tuple[int, int]]) -> None:
    paths = [f"{number}_{label}.png" for number, label in pairs]
    ordered = sorted(paths, key=folders.natural_key)
    assert [tuple(map(int, path[:-4].split("_"))) for path in ordered] == sorted(pairs)


NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@given(st.lists(NAME.filter(lambda name: name not in (".", "..")), max_size=6))
def test_any_name_has_a_place(names: list[str]) -> None:
    deep = ["/".join(names[: i + 1]) for i in range(len(names))]
    ordered = sorted(deep, key=folders.natural_key)
    deep.reverse()
    assert sorted(deep, key=folders.natural_key) == ordered


def test_both_unicode_forms_of_a_name_sort_alike() -> None:
    names = ["\u00e9.png", "f.png", "e.png"]  # é as one character; macOS keeps it as two
    decomposed = ["e\u0301.png", "f.png", "e.png"]
    assert [names.index(n) for n in sorted(names, key=folders.natural_key)] == [
        decomposed.index(n) for n in sorted(decomposed, key=folders.natural_key)
    ]


def test_hidden_and_foreign_files_are_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "0_1.png")
    write(tmp_path, ".DS_Store", "._0_1.png", "__MACOSX/._0_1.png", "Thumbs.db", "0_1.txt", "1_2.jpg", content=b"x")
    write(tmp_path, ".git/7_1.png")
    os.mkfifo(tmp_path / "2_1.png")  # to read it would be to wait for ever
    folder = scan(tmp_path)
    assert folder.paths == ["0_1.png"]
    assert "(skipped: 8 others, such as __MACOSX/._0_1.png)" in folder.summary


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "store", "a.png", "b.png")
    write(tmp_path / "in", "7/c.png")
    (tmp_path / "in" / "3").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "7" / "up").symlink_to(tmp_path / "in")
    assert scan(tmp_path / "in").labels.tolist() == [3, 3, 7]


NAMES = {
    "a folder for each class": (["dog/1.jpg", "Cat/2.png", "emu/3.PNG"], ["Cat", "dog", "emu"]),
    "below a common folder, nested": (["x/y/b/q/1.png", "x/y/a/2.png", "x/y/b/3.png"], ["a", "b"]),
    "numbers beyond the digits": ([f"{n}/{n}.png" for n in (2, 0, 11, 10)], ["0", "2", "10", "11"]),
    "digits and more": (["0/1.png", "one/2.png", "none/3.png"], ["0", "none", "one"]),
    "numbers at the end of files, below names": (["a/x.png", "b/1_2.png"], ["a", "b"]),
    "another script": (["ア/1.png", "イ/2.png"], ["ア", "イ"]),
}


@pytest.mark.parametrize("layout", NAMES)
def test_classes_are_named_by_folders_and_ordered_naturally(layout: str, tmp_path: Path) -> None:
    names, classes = NAMES[layout]
    folder = scan(write(tmp_path, *names), "image_folder")
    assert folder.classes == classes
    of_path = dict(zip(folder.paths, folder.labels.tolist(), strict=True))
    assert all(classes[of_path[name]] in Path(name).parts for name in names)
    assert f"{len(classes)} classes: {', '.join(classes)}" in folder.summary


def both(root: Path, train: list[str], test: list[str], kind: str = "image_folder") -> folders.Folders:
    write(root / "train", *train)
    write(root / "test", *test)
    return scan_both(root / "train", root / "test", kind=kind)


FEW = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]


def test_test_images_may_spell_the_classes_in_another_case(tmp_path: Path) -> None:
    found = both(tmp_path, [*FEW, "caf\u00e9/1.png", "caf\u00e9/2.png"], ["DOG/7.png", "Cat/8.png", "Cafe\u0301/9.png"])
    assert found["train"].classes == found["test"].classes == ["caf\u00e9", "cat", "dog"]
    assert found["test"].labels.tolist() == [2, 1, 0]
    assert "warning" not in found["train"].summary


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (FEW, ["cat/7.png", "dgo/8.png", "dog/9.png"], "train has no images of class dgo, but .*test has"),
        (FEW, ["cat/7.png"], "test has no images of class dog, but .*train has"),
        ([*FEW, "Dog/9.png"], ["cat/7.png"], "train has folders that differ only in case: Dog, dog; merge them"),
        (
            [f"scan{n}/{n}.png" for n in range(1000)],
            FEW,
            r"train has 1,000 images of 1,000 classes \(scan0, scan1, scan2, …",
        ),
        (["cat/1.png", "cat/2.png"], ["cat/3.png"], r"train has 2 images of 1 classes \(cat\)"),
        (["cat/1_0.png", "dog/1_1.png"], FEW, r"may be the names of the folders \(cat, dog\), or the last digits"),
        ([*FEW, "7.png"], FEW, r"1 of 7 images in .*train lie in no folder, which would be their class: 7.png"),
    ],
)
def test_classes_that_cannot_be_told_are_refused(
    train: list[str], test: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        both(tmp_path, train, test)


def test_a_class_of_one_image_is_told_and_more_than_a_byte_counts_apart(tmp_path: Path) -> None:
    found = both(tmp_path, [*FEW, "emu/7.png"], ["cat/7.png", "dog/8.png", "emu/9.png"])
    assert found["train"].summary.endswith("; warning: only one image of emu")
    many = [f"{n:03}/{n}-{i}.png" for n in range(300) for i in range(2)]
    found = both(tmp_path / "many", many, [f"{n:03}/{n}.png" for n in range(300)])
    assert found["test"].labels.tolist() == list(range(300)) and len(found["train"].classes) == 300


FILES: dict[str, bytes] = {
    "a.jpg": png(Image.fromarray(GREY), "JPEG", quality=95),
    "b.jpeg": png(Image.fromarray(GREY).convert("CMYK"), "JPEG", quality=95),
    "c.bmp": png(Image.fromarray(GREY), "BMP"),
    "d.gif": png(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)]),
    "e.tif": png(Image.fromarray(GREY.astype(np.uint16) * 257), "TIFF"),
    "f.TIFF": png(Image.fromarray(GREY), "TIFF"),
    "g.webp": png(Image.fromarray(GREY), "WEBP", lossless=True),
    "h.jpg": png(Image.fromarray(GREY)),  # a PNG by another name
}


def test_files_of_many_kinds_are_read_by_their_content(tmp_path: Path) -> None:
    for name, content in FILES.items():
        write(tmp_path / "in", f"7/{name}", content=content)
    folder = scan(tmp_path / "in", "image_folder")
    found = load(folder, tmp_path / "cache").astype(int)
    assert [Path(path).name for path in folder.paths] == [*FILES]
    for name, image in zip(FILES, found, strict=True):
        assert np.abs(image - by_hand(GREY)).max() <= (12 if name in ("a.jpg", "b.jpeg") else 0), name
    assert scan(write(tmp_path / "png", "7/a.png", "7/b.jpg")).paths == ["7/a.png"]  # data=png_folder


def test_a_tiff_says_where_its_top_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = Image.fromarray(np.ascontiguousarray(GREY[::-1, ::-1]))
    write(tmp_path / "in", "7/a.tif", content=png(turned, "TIFF", exif=exif))
    assert np.array_equal(load(scan(tmp_path / "in", "image_folder"), tmp_path / "cache")[0], by_hand(GREY))


def test_a_large_photograph_and_colours_become_small_and_grey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in", "a/1.jpg", content=png(Image.new("RGB", (8000, 5000), (255, 0, 0)), "JPEG"))
    write(tmp_path / "in", "b/1.jpg", content=png(Image.fromarray(GREY).convert("RGB"), "JPEG"))
    for _ in range(2):  # from the cache, too
        assert load(scan(tmp_path / "in", "image_folder"), tmp_path / "cache")[0, 16, 16] == 76
        assert "1 images have colours, which become grey" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (FILES["a.jpg"][: len(FILES["a.jpg"]) // 2], "truncated"),
        (png(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "of F type, not of 8 or 16 bits"),
        (png(Image.fromarray(GREY.astype(np.int32) * 70_000), "TIFF"), "of I type, not of 8 or 16 bits"),
        (b"<svg/>", "cannot identify image file"),
    ],
)
def test_pictures_that_cannot_be_decoded_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "in", "a/1.png", "b/2.png")
    write(tmp_path / "in", "a/3.jpg", content=content)
    with pytest.raises(DataError, match=rf"1 of 3 images in .* cannot be decoded \(.*{reason}.*\): a/3.jpg"):
        load(scan(tmp_path / "in", "image_folder"), tmp_path / "cache")


def unreadable(folder: Path) -> None:
    write(folder, "2_1.png")
    for name in ("0_1.png", "1_2.png"):
        (folder / name).symlink_to(folder / "gone")


def named(*names: str) -> Callable[[Path], object]:
    return lambda folder: write(folder, *names)


NO_LABEL = "images in IN have no label in the name of the"
PLEASE = "; name all files like 12_7.png, or put all into folders like 7/:"
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: None, "IN is missing"),
    "a file": (lambda f: f.write_text(""), "IN is not a folder"),
    "photographs": (named("7/a.jpg", "7/b.jpg"), "IN has no images in it (.png) (skipped: 2 others, such as 7/b.jpg)"),
    "no label": (named("a.png", "b.png", "c.png", "d.png"), f"4 of 4 {NO_LABEL} folder{PLEASE} a.png, b.png, c.png, …"),
    "most by folder": (named("7/a.png", "8/a.png", "12_3.png"), f"1 of 3 {NO_LABEL} folder{PLEASE} 12_3.png"),
    "most by name": (named("0_1.png", "1_2.png", "3/a.png"), f"1 of 3 {NO_LABEL} file{PLEASE} 3/a.png"),
    "two folders": (named("7/0/a.png", "3/w/b.png"), "are inside two label folders (3/7/); keep one: 7/0/a.png"),
    "label 12": (named("0_1.png", "1_12.png"), "1 of 2 images in IN have a label outside 0 to 9: 1_12.png"),
    "two labels": (named("3/0_1.png", "1/1_1.png"), "1 of 2 images in IN have different labels in the names of the"),
    "names of any bytes": (named("a\nb.png", os.fsdecode(b"caf\xe9.png"), "7/c.png"), "7/: a b.png, caf\ufffd.png"),
    "broken links": (unreadable, "2 of 3 images in IN cannot be read (No such file or directory): 0_1.png, 1_2.png"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_folder_that_cannot_be_used_is_told_in_one_sentence(mistake: str, tmp_path: Path) -> None:
    make, message = MISTAKES[mistake]
    make(tmp_path / "in")
    with pytest.raises(DataError) as caught:
        scan(tmp_path / "in")
    assert message.replace("IN", str(tmp_path / "in")) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_may_not_be_read_is_named(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root, as whom these tests may run, may read everything; so the system's refusal is acted."""
    write(tmp_path, "7/a.png", "8/b.png")
    real_scan, real_read = os.scandir, Path.read_bytes
    place = str(tmp_path / "7" if what == "folder" else tmp_path / "7/a.png")

    def guard(path: str | Path) -> str | Path:
        if str(path) == place:
            raise PermissionError(13, "Permission denied", place)
        return path

    monkeypatch.setattr(os, "scandir", lambda path: real_scan(guard(path)))
    monkeypatch.setattr(Path, "read_bytes", lambda path: real_read(Path(guard(path))))
    message = {"folder": f"{place} cannot be read: ", "file": f"1 of 2 images in {tmp_path} cannot be read ("}
    with pytest.raises(DataError, match="Permission denied") as caught:
        scan(tmp_path)
    assert str(caught.value).startswith(message[what]) and "7" in str(caught.value).removeprefix(str(tmp_path))


def bomb() -> bytes:
    """A PNG that says of itself to be 20,000 × 20,000."""
    content = bytearray(WHOLE)
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def wordy() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "a" * 2_000_000, zip=True)
    return png(Image.fromarray(GREY), pnginfo=text)


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


WHOLE = png(Image.fromarray(GREY))
BROKEN = {
    "truncated": (png(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)))[:-900], ""),
    "empty": (b"", ""),
    "text": (b"not an image", "cannot identify image"),
    "a JPEG": (png(Image.fromarray(GREY), kind="JPEG"), ""),
    "cut at its end": (WHOLE[:-12], ""),
    "one bit": (flipped(WHOLE, 126), ""),
    "no pixels": (WHOLE.replace(b"IDAT", b"iDAT"), ""),
    "wrong length": (WHOLE.replace(b"IDAT", b"IDAT\x00", 1), ""),
    "a bomb": (bomb(), "exceeds limit of "),
    "two megabytes of text": (wordy(), "MAX_TEXT_CHUNK"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_images_are_named_and_counted(kind: str, tmp_path: Path) -> None:
    content, reason = BROKEN[kind]
    write(tmp_path / "in", "0_1.png", "1_2.png")
    for name in ("5_3.png", "10_3.png"):
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        images(tmp_path / "in", tmp_path / "cache")
    start, end = f"2 of 4 images in {tmp_path / 'in'} cannot be decoded (", "): 5_3.png, 10_3.png"
    assert str(caught.value).startswith(start) and str(caught.value).endswith(end)
    assert reason in str(caught.value) and "0x" not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*.npz"))


def test_two_folders_must_not_share_images_nor_lack_classes(tmp_path: Path) -> None:
    write(tmp_path / "all", "0_1.png", "1_2.png", "test/2_3.png", "test/3_4.png")
    write(tmp_path / "test", "0_1.png", "1_3.png", "2_9.png")
    write(tmp_path / "train", "0_1.png", "1_2.png")
    shutil.copytree(tmp_path / "train", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "all")
    for train, test, trained_on, message in (
        ("all", "all", "train", "must not contain each other"),
        ("all", "all/test", "train", "must not contain each other"),
        ("all/test", "all", "train", "must not contain each other"),
        ("all", "link", "train", "must not contain each other"),
        ("train", "test", "train", r"train has no images of class 3, 9, but .*test has"),
        ("train", "copy", "train", r"train and .*copy hold the same images"),
        # protocol=published trains on the test split, which then has to have the other's classes.
        ("all", "train", "test", r"train has no images of class 3, 4, but .*all has"),
    ):
        with pytest.raises(DataError, match=message):
            scan_both(tmp_path / train, tmp_path / test, trained_on)
    both = scan_both(tmp_path / "all", tmp_path / "train")
    assert both["test"].summary.endswith(f"; warning: 2 of its images are also in {tmp_path / 'all'}")
    assert "warning" not in both["train"].summary
    assert scan_both(tmp_path / "train", tmp_path / "all", "test").keys() == {"train", "test"}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Folder]:
    """Notes what is decoded rather than taken from the cache."""
    noted: list[Folder] = []
    real = decoding._decoded

    def noting(folder: Folder) -> tuple[NDArray[np.uint8], int]:
        noted.append(folder)
        return real(folder)

    monkeypatch.setattr(decoding, "_decoded", noting)
    return noted


def test_images_are_decoded_once_until_one_changes_comes_or_goes(tmp_path: Path, decoded: list[Folder]) -> None:
    folder, cache = write(tmp_path / "in", "0_1.png", "1_2.png"), tmp_path / "cache"
    first = images(folder, cache)
    assert np.array_equal(images(folder, cache), first) and len(decoded) == 1

    times = (folder / "0_1.png").stat()
    white = png(Image.fromarray(np.full((28, 28), 255, np.uint8)))
    (folder / "0_1.png").write_bytes(white.ljust(times.st_size, b"\0"))
    os.utime(folder / "0_1.png", ns=(times.st_atime_ns, times.st_mtime_ns))  # neither size nor time tells
    changed = images(folder, cache)
    assert changed[0].min() == 255 and np.array_equal(changed[1], first[1]) and len(decoded) == 2

    write(folder, "2_1.png")
    assert len(images(folder, cache)) == 3 and len(decoded) == 3
    (folder / "2_1.png").unlink()
    assert np.array_equal(images(folder, cache), changed) and len(decoded) == 3


@pytest.mark.parametrize("damage", ["cut", "one bit", "its directory", "empty", "other images"])
def test_a_damaged_cache_is_made_anew(damage: str, tmp_path: Path, decoded: list[Folder]) -> None:
    folder, cache = write(tmp_path / "in", "0_1.png", "1_2.png"), tmp_path / "cache"
    first = images(folder, cache)
    (path,) = cache.glob("*.npz")
    content = path.read_bytes()
    np.savez(other := io.BytesIO(), images=first[:1], coloured=0)
    directory = content.rindex(b"PK\1\2")  # at its end; 10 bytes on is how the images are compressed: not at all
    damaged = {"cut": content[:-100], "one bit": flipped(content, 700), "empty": b""}
    damaged |= {"other images": other.getvalue(), "its directory": flipped(content, directory + 10)}
    path.write_bytes(damaged[damage])
    for _ in range(2):
        assert np.array_equal(images(folder, cache), first) and len(decoded) == 2


def test_another_decoder_does_not_take_what_the_old_one_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = scan(write(tmp_path / "in", "0_5.png"))
    before = load(folder, tmp_path / "cache")
    to_grey32 = decoding.to_grey32
    monkeypatch.setattr(decoding, "to_grey32", lambda image: to_grey32(image).point(lambda grey: 255 - grey))
    assert not np.array_equal(load(folder, tmp_path / "cache"), before)


def test_a_cache_that_cannot_be_kept_is_told(tmp_path: Path) -> None:
    write(tmp_path / "in", "0_1.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"decoded images cannot be stored in .*file.*data\.root"):
        images(tmp_path / "in", tmp_path / "file")


@pytest.mark.slow
def test_all_of_mnist_as_png_files_trains_to_the_same_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All layouts; the later ones' images are the first one's, and so were decoded before."""
    execute("model=mlp", "epochs=1", f"output_root={tmp_path / 'usual'}")
    script = [sys.executable, "scripts/export_png.py", str(tmp_path / "file")]
    subprocess.run(script, check=True, cwd=CONFIG_FOLDER.parent, stdout=subprocess.DEVNULL)
    for path in (tmp_path / "file").glob("*/*.png"):
        number, label = path.stem.split("_")
        target = tmp_path / "folder" / path.parent.name / label / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)
    for image in (tmp_path / "folder").glob("*/*/*.png"):
        target = tmp_path / "words" / image.parts[-3] / folders.WORDS[int(image.parts[-2])] / image.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(image)
    for layout, said in (("file", "decoding them"), ("folder", "decoded before"), ("words", "decoded before")):
        root = tmp_path / layout
        words = [f"output_root={root}", f"data.root={tmp_path / 'cache'}"]
        words += [f"data.train_dir={root / 'train'}", f"data.test_dir={root / 'test'}"]
        capfd.readouterr()
        execute("model=mlp", "epochs=1", f"data={'png' if layout == 'file' else 'image'}_folder", *words)
        output, named = capfd.readouterr().out, layout.replace("words", "folder")
        assert output.count(said) == 2 and f"60,000 images, labelled by the name of the {named}" in output
        assert len(results(root)) == 3 and {*results(root).values()} == {*results(tmp_path / "usual").values()}


@pytest.mark.parametrize("layout", export_png.LAYOUTS)
def test_exported_files_are_read_back_in_either_layout(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, labels = np.stack([np.roll(GREY, n) for n in range(12)]), np.array([5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5])
    monkeypatch.setattr(export_png, "load", lambda *_: [(stack, labels, {})])
    export_png.export("mnist", tmp_path, "train", tmp_path / "out", export_png.LAYOUTS[layout])
    assert np.array_equal(images(tmp_path / "out", tmp_path / "cache"), np.stack([by_hand(image) for image in stack]))
    assert scan(tmp_path / "out").labels.tolist() == labels.tolist()
    with pytest.raises(DataError, match="out is not empty; name a new folder"):
        export_png.export("mnist", tmp_path, "train", tmp_path / "out", export_png.LAYOUTS[layout])


def execute(*overrides: str) -> None:
    job.train_run(settings(*overrides), choices(*overrides), {}, Lines)


def test_a_sweep_over_folders_of_this_directory(tmp_path: Path) -> None:
    """Relative names, decoded once before its jobs; the folders' names are no part of what is recorded."""
    write(tmp_path / "mine" / "train", *[f"{label}/{number}.png" for label in (3, 7) for number in range(20)])
    write(tmp_path / "mine" / "test", *[f"{number}_{label}.png" for label in (3, 7) for number in range(5)])
    words = ["data=png_folder", "data.train_dir=mine/train", "data.test_dir=mine/test", "data.root=cache"]
    swept = command("-m", "model=mlp", "seed=0,1", "epochs=1", "hydra/launcher=basic", *words, cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    assert (
        swept.stdout.count("decoding them") == 2 and swept.stdout.count("decoded before") == 2
    )  # both jobs are in one process
    runs = sorted((tmp_path / "outputs" / "runs").iterdir())
    assert [run.name[:-9] for run in runs] == [f"png_folder-mlp-standard-sgd-seed{seed}" for seed in (0, 1)]
    for run in runs:
        text = (run / "run.json").read_text(encoding="utf-8")
        sha256 = json.loads(text)["identity"]["data"]["train_sha256"]
        assert "mine" not in text and sha256 == scan(tmp_path / "mine/train").sha256
    words[1] += ",nowhere"  # what is swept is decoded before the jobs, too, and a bad folder stops its own alone
    more = command("-m", "model=mlp", "epochs=2", "hydra/launcher=basic", *words, cwd=tmp_path)
    assert more.returncode == 1 and "Jobs: 1 finished, 1 failed" in more.stdout
    assert "job 1 failed: nowhere is missing; name a folder of images" in more.stdout
    assert more.stdout.index("mine/train: 40 images") < more.stdout.index("Launching 2 jobs")
    words[1] = "data.train_dir=mine/train"
    # A changed image makes it another dataset, and so another run.
    write(tmp_path / "mine" / "train", "7/0.png", content=png(Image.fromarray(GREY)))
    assert command("model=mlp", "epochs=1", *words, cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "outputs" / "runs").iterdir())) == 4


def test_a_folder_that_no_job_could_use_is_told_once_and_before_any(tmp_path: Path) -> None:
    words = ["data=png_folder", "data.train_dir=nowhere", "data.test_dir=nowhere_else"]
    swept = command("-m", "seed=0,1", *words, cwd=tmp_path)
    assert swept.returncode == 1 and swept.stdout == "Jobs: none ran\n"
    assert swept.stderr == "mnist_exp: nowhere is missing; name a folder of images\n"
