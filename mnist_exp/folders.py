"""Folders of PNG files as images and labels, decoded once and then kept by content. Imports no torch.

Two layouts are read, each flat or nested: files named ``{number}_{label}.png``, or any names below a
folder named by the label. Images come in the natural order of their file names (9 before 10), those
of one name in that of their folders, whatever order the file system has.
"""

import hashlib
import io
import os
import re
import struct
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mnist_exp.errors import DataError, keeping
from mnist_exp.files import write_atomically

SIZE = 32
"""Pixels a side that the models expect (LeCun et al., 1998)."""
LABELS = range(10)
CACHE = "png_folder"
"""The folder under ``data.root`` that decoded images are kept in."""
NAMED = 3  # offenders that a message names
DIM = 64  # of 255; dark ink where all else is transparent comes out no brighter
DECODING = 1  # raised when the same file would give other pixels

Labels = dict[str, int | None]


@dataclass(frozen=True)
class Folder:
    """The PNG files of a folder, in order."""

    root: Path
    paths: list[str]
    """Relative to the root."""
    labels: NDArray[np.int64]
    sha256: str
    """Of all labels and files' contents, in order: the same images in either layout have the same."""
    remark: str
    """How it was read, and what was skipped."""


Folders = dict[str, Folder]
"""By split: ``train`` and ``test``."""


def scan_both(train_dir: Path, test_dir: Path, trained: str = "train") -> Folders:
    """Scan the two folders of a dataset, and hold them against each other.

    Args:
        train_dir: the training split.
        test_dir: the test split.
        trained: the split that is trained on; it must have all of the other's classes.

    Raises:
        DataError: one of them can't be used, or the two can't be used together.
    """
    train, test = train_dir.resolve(), test_dir.resolve()
    if train.is_relative_to(test) or test.is_relative_to(train):
        raise DataError(
            f"{train_dir} and {test_dir}: the folders to train on and to test on must not share images"
        )
    both = {"train": scan(train_dir), "test": scan(test_dir)}
    if both["train"].sha256 == both["test"].sha256:
        raise DataError(f"{train_dir} and {test_dir} hold the same images: train and test on different ones")
    learned, asked = both[trained], both["test" if trained == "train" else "train"]
    if missing := sorted({*asked.labels.tolist()} - {*learned.labels.tolist()}):
        raise DataError(
            f"{learned.root} has no images of class {', '.join(map(str, missing))}, but {asked.root} has"
        )
    return both


def scan(root: Path) -> Folder:
    """Find the PNG files below a folder, read their labels, and take the checksum of it all.

    Raises:
        DataError: there is no such folder, it has no PNG file, or a label can't be read or is none of
            0 to 9; with the first offenders and how many there are.
    """
    paths, skipped = _find(root)
    if not paths:
        raise DataError(f"{root} has no PNG files in it" + skipped)
    by_name = {path: _number(re.fullmatch(r"[0-9]+_([0-9]+)", Path(path).stem)) for path in paths}
    by_folder = {path: next(iter(_folder_labels(path)), None) for path in paths}
    layout, labels = _chosen(root, by_name, by_folder)
    _refuse(root, (p for p in paths if labels[p] not in LABELS), paths, "have a label outside 0 to 9")
    paths.sort(key=_natural)
    values = np.array([labels[path] for path in paths], dtype=np.int64)
    remark = f"{root}: {len(paths):,} PNG files, labelled by the name of the {layout}{skipped}"
    return Folder(root, paths, values, _checksum(root, paths, values, lambda *_: None), remark)


def load(folder: Folder, cache: Path) -> NDArray[np.uint8]:
    """The folder's images, ``[N, 32, 32]``: kept from the last time, or decoded and then kept.

    Raises:
        DataError: images can't be decoded, with the first of them and how many there are; files
            changed meanwhile; or the cache can't be written.
    """
    with keeping("decoded images", cache):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / ".lock"):  # of jobs that start side by side, the first decodes
            images = kept(cache, folder.sha256, len(folder.paths))
            print(f"{folder.remark}; {'decoding them' if images is None else 'decoded before'}", flush=True)
            if images is None:
                images = _decoded(folder)
                buffer = io.BytesIO()
                np.savez(buffer, images=images)
                write_atomically(_place(cache, folder.sha256), buffer.getvalue())
    return images


def kept(cache: Path, sha256: str, count: int) -> NDArray[np.uint8] | None:
    """The images of the folder with that checksum, as `load` left them; None where they aren't, or are damaged."""
    try:
        with np.load(_place(cache, sha256), allow_pickle=False) as file:  # a zip file: its checksum is checked
            images: NDArray[np.uint8] = file["images"]
    except Exception:  # whatever is wrong with it, it is no cache of ours
        return None
    return images if images.shape == (count, SIZE, SIZE) and images.dtype == np.uint8 else None


def _place(cache: Path, sha256: str) -> Path:
    return cache / f"{sha256}-{DECODING}.npz"


def pixels(image: Image.Image) -> Image.Image:
    """Any image as the models' pixels: 8-bit grey, 32×32.

    Colours become their luminance (ITU-R 601-2); what is transparent is black, as around MNIST's
    digits; 16 bits are scaled to 8; other sizes and shapes are resized as MNIST's are (bilinear).
    """
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16 bits off at 255
        image = Image.fromarray(((np.asarray(image, dtype=np.int64) + 128) // 257).astype(np.uint8))
    if _has_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode == "P":
        image = image.convert("RGB")
    return image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def _has_alpha(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("RGBA", "LA", "PA")


def _find(root: Path) -> tuple[list[str], str]:
    """The PNG files below a folder, and what is to be said of other files there."""
    if not root.is_dir():
        raise DataError(
            f"{root} is " + ("no folder" if root.exists() else "not there") + "; name a folder of PNG files"
        )
    paths: list[str] = []
    others: list[str] = []
    hidden, seen = 0, set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} can't be read: {error.strerror}") from error

    for folder, below, names in os.walk(root, onerror=refuse, followlinks=True):
        status = Path(folder).stat()
        if (place := (status.st_dev, status.st_ino)) in seen:  # a link that leads back up
            below.clear()
            continue
        seen.add(place)
        hidden += sum(name.startswith(".") for name in [*below, *names])
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = Path(folder, name)
            # A pipe would keep its reader waiting; a link that leads nowhere is a file that can't be read.
            is_file = path.is_file() or path.is_symlink()
            (paths if name.lower().endswith(".png") and is_file else others).append(str(path.relative_to(root)))
    counts = [f"{hidden} hidden"] * bool(hidden) + [
        f"{len(others)} other, such as {_printable(min(others, default=''))}"
    ] * bool(others)
    return paths, f" (skipped: {', '.join(counts)})" if counts else ""


def _chosen(root: Path, by_name: Labels, by_folder: Labels) -> tuple[str, dict[str, int]]:
    """The layout that labels the files, and the labels."""
    paths, agreed = list(by_name), False
    named, filed = ([path for path in paths if labels[path] is not None] for labels in (by_name, by_folder))
    if len(named) == len(filed) == len(paths):  # then numbers that are no labels are the other kind: dates, shards
        if any(label not in LABELS for label in by_folder.values()):
            filed = []
        elif all(label in LABELS for label in by_name.values()):
            differing = [path for path in paths if by_name[path] != by_folder[path]]
            _refuse(
                root, differing, paths, "have one label in their names, another in their folders' (12_7.png, 7/)"
            )
            agreed = True
    ways = [("file", by_name, "a name like 12_7.png"), ("folder", by_folder, "a folder's like 7/")]
    (layout, labels, usual), (_, other, unusual) = ways if len(named) > len(filed) else reversed(ways)
    without = [path for path in paths if labels[path] is None]
    lack = "have no label, neither in a name like 12_7.png nor in a folder's like 7/"
    _refuse(root, (path for path in without if other[path] is None), paths, lack)
    _refuse(root, without, paths, f"have their label in {unusual}, the others in {usual}")
    if layout == "folder" and not agreed:
        unclear = (path for path in paths if len({*_folder_labels(path)}) > 1)
        _refuse(root, unclear, paths, "lie in two folders that are named by labels")
    return layout, {path: label for path, label in labels.items() if label is not None}


def _folder_labels(path: str) -> list[int]:
    """What the folders above may say, the nearest first: one digit, or else 07, or else a number at all."""
    numbers = [part for part in reversed(Path(path).parts[:-1]) if re.fullmatch("[0-9]+", part)]
    digits = [int(number) for number in numbers if len(number) == 1]
    return digits or [int(n) for n in numbers if int(n) in LABELS] or [int(n) for n in numbers[:1]]


def _number(match: re.Match[str] | None) -> int | None:
    return int(match[1]) if match else None


def _refuse(root: Path, offenders: Iterable[str], paths: list[str], fault: str) -> None:
    if bad := sorted(offenders, key=_natural):
        first = ", ".join(map(_printable, bad[:NAMED])) + (", …" if len(bad) > NAMED else "")
        raise DataError(f"{len(bad)} of {len(paths)} PNG files in {root} {fault}: {first}")


def _printable(path: str) -> str:
    """On one line, and in characters that every output takes: a file's name may hold any bytes."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in path)


def _natural(path: str) -> tuple[object, ...]:
    """Sorts numbers by value, and names the same whichever Unicode form the file system keeps them in."""
    *folders, name = Path(unicodedata.normalize("NFC", path)).parts

    def pieces(part: str) -> list[object]:
        return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split("([0-9]+)", part))]

    return pieces(name), [pieces(part) for part in folders], path


def _checksum(root: Path, paths: list[str], labels: NDArray[np.int64], use: Callable[[int, bytes], None]) -> str:
    """Read every file, hand its place and content on, and return the checksum of all."""
    checksum, unread = hashlib.sha256(), {}
    for place, (path, label) in enumerate(zip(paths, labels.tolist(), strict=True)):
        try:
            content = (root / path).read_bytes()
        except OSError as error:
            unread[path] = str(error.strerror)
            continue
        checksum.update(struct.pack("<BQ", label, len(content)) + content)
        use(place, content)
    _refuse(root, unread, paths, f"can't be read ({', '.join(sorted({*unread.values()}))})")
    return checksum.hexdigest()


def _decoded(folder: Folder) -> NDArray[np.uint8]:
    images = np.empty((len(folder.paths), SIZE, SIZE), dtype=np.uint8)
    broken, dim = [], []

    def decode(place: int, content: bytes) -> None:
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                image.verify()  # its checksums: Pillow decodes some damaged files to other pixels
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                images[place] = np.asarray(pixels(image))
                if _has_alpha(image) and images[place].max() < DIM:
                    dim.append(folder.paths[place])
        except Exception:  # Pillow raises whatever a damaged file makes it stumble over
            broken.append(folder.paths[place])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error
        checksum = _checksum(folder.root, folder.paths, folder.labels, decode)
    _refuse(folder.root, broken, folder.paths, "can't be decoded as PNG images")
    unseen = "are dark on transparency, which becomes black; give them a white background, or lighter ink"
    _refuse(folder.root, dim, folder.paths, unseen)
    if checksum != folder.sha256:
        raise DataError(f"{folder.root} changed while it was read; type the same command again")
    return images
