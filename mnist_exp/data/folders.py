"""Folders of PNG files as images and labels, decoded once and then cached by content.

Two layouts are read, each flat or nested: files named ``{number}_{label}.png``, with or without a prefix
(``train_00012_7.png``), or any names below a folder named by the label. Images are sorted by file name in
natural order (9 before 10), then by folder, whatever order the file system has.
"""

import hashlib
import inspect
import io
import os
import re
import struct
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mnist_exp.errors import DataError, disk_errors_as_data_errors
from mnist_exp.files import one_process_in, write_atomically
from mnist_exp.text import printable

IMAGE_SIZE = 32
"""Pixels per side that the models expect (LeCun et al., 1998)."""
LABELS = range(10)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LABELS_IN_WORDS = {word: str(label) for label, word in enumerate(WORDS)}
"""Names of folders that stand for labels, too."""
CACHE = "png_folder"
"""The folder under ``data.root`` for decoded images."""
MAX_NAMED = 3  # files that a message names
MIN_BRIGHTNESS = 64  # of 255; dark ink on transparency becomes no brighter than this


@dataclass(frozen=True)
class Folder:
    """The PNG files of a folder, in order."""

    root: Path
    paths: list[str]
    """Relative to the root."""
    labels: NDArray[np.int64]
    sha256: str
    """Of all labels and files' contents, in order; the same images have the same in either layout."""
    summary: str
    """How it was read and what was skipped, in a sentence."""
    contents: set[bytes]
    """The SHA-256 of each file's content."""


Folders = dict[str, Folder]
"""By split: ``train`` and ``test``."""


def scan_both(train_dir: Path, test_dir: Path, trained: str = "train") -> Folders:
    """Scan the two folders of a dataset, and check that they can be used together.

    Args:
        trained: the split that is trained on; it must have every class of the other.

    Raises:
        DataError: one of them cannot be used, or the two cannot be used together.
    """
    train, test = train_dir.resolve(), test_dir.resolve()
    if train.is_relative_to(test) or test.is_relative_to(train):
        raise DataError(f"{train_dir} and {test_dir}: the training and test folders must not contain each other")
    both = {"train": scan(train_dir), "test": scan(test_dir)}
    if both["train"].sha256 == both["test"].sha256:
        raise DataError(f"{train_dir} and {test_dir} hold the same images; train and test on different ones")
    if shared := len(both["train"].contents & both["test"].contents):
        summary = f"{both['test'].summary}; warning: {shared:,} of its images are also in {train_dir}"
        both["test"] = replace(both["test"], summary=summary)
    trained_on, evaluated_on = both[trained], both["test" if trained == "train" else "train"]
    if missing := sorted({*evaluated_on.labels.tolist()} - {*trained_on.labels.tolist()}):
        classes = ", ".join(map(str, missing))
        raise DataError(f"{trained_on.root} has no images of class {classes}, but {evaluated_on.root} has")
    return both


def scan(root: Path) -> Folder:
    """Find the PNG files below a folder, read their labels, and compute the checksum of all of it.

    Raises:
        DataError: there is no such folder, it has no PNG file, or a label cannot be read or is not one of
            0 to 9; the message names the first files and says how many there are.
    """
    paths, skipped = _list_images(root)
    if not paths:
        raise DataError(f"{root} has no PNG files in it" + skipped)
    paths.sort(key=_natural_key)
    layout, labels = _read_labels(root, paths)
    summary = f"{root}: {len(paths):,} PNG files, labelled by the name of the {layout}{skipped}"
    contents: set[bytes] = set()
    checksum = _checksum(root, paths, labels, lambda _, content: contents.add(hashlib.sha256(content).digest()))
    return Folder(root, paths, labels, checksum, summary, contents)


def load(folder: Folder, cache: Path) -> NDArray[np.uint8]:
    """The folder's images, uint8, ``[N, 32, 32]``: from the cache, or decoded and then cached.

    Raises:
        DataError: images cannot be decoded (the message names the first of them and says how many there
            are), files changed meanwhile, or the cache cannot be written.
    """
    with disk_errors_as_data_errors("decoded images", cache):
        cache.mkdir(parents=True, exist_ok=True)
        with one_process_in(cache):  # parallel jobs wait here while the first one decodes
            images = read_cache(cache, folder.sha256, len(folder.paths))
            print(f"{folder.summary}; {'decoding them' if images is None else 'decoded before'}", flush=True)
            if images is None:
                images = _decoded(folder)
                buffer = io.BytesIO()
                np.savez(buffer, images=images)
                write_atomically(_cache_path(cache, folder.sha256), buffer.getvalue())
    print(f"{folder.root}: mean {images.mean() / 255:.4f}, standard deviation {images.std() / 255:.4f}", flush=True)
    return images


def read_cache(cache: Path, sha256: str, count: int) -> NDArray[np.uint8] | None:
    """The cached images of the folder with that checksum; None where there are none, or they are damaged."""
    try:
        with np.load(_cache_path(cache, sha256), allow_pickle=False) as file:  # a zip file: its checksum is checked
            images: NDArray[np.uint8] = file["images"]
    except Exception:  # whatever is wrong with it, it is not a usable cache
        return None
    return images if images.shape == (count, IMAGE_SIZE, IMAGE_SIZE) and images.dtype == np.uint8 else None


def _cache_path(cache: Path, sha256: str) -> Path:
    """Where the decoded images of this content are; another decoder, even with another comment, has another place."""
    decoder = "".join(inspect.getsource(each) for each in (_decoded, to_grey32)) + PIL.__version__
    return cache / f"{sha256}-{hashlib.sha256(decoder.encode()).hexdigest()[:8]}.npz"


def to_grey32(image: Image.Image) -> Image.Image:
    """Any image as the models' input: 8-bit grey, 32×32.

    Colours become their luminance (ITU-R 601-2); transparent pixels become black, as around MNIST's
    digits; 16 bits are scaled to 8; other sizes and shapes are resized as MNIST's are (bilinear).
    """
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # Pillow's own conversion cuts 16 bits off at 255
        image = Image.fromarray(((np.asarray(image, dtype=np.int64) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    if image.mode == "P":
        image = image.convert("RGB")
    return image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)


def _list_images(root: Path) -> tuple[list[str], str]:
    """The PNG files below a folder, and a remark on other files there."""
    if not root.is_dir():
        raise DataError(f"{root} {'is not a folder' if root.exists() else 'is missing'}; name a folder of PNG files")
    paths: list[str] = []
    skipped: list[str] = []
    seen: set[Path] = set()

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error

    for folder, below, names in os.walk(root, onerror=fail, followlinks=True):
        if (place := Path(folder).resolve()) in seen:  # a link that leads back up
            below.clear()
        hidden = {name for name in below if name.startswith(".")}
        below[:] = sorted({*below} - hidden)
        for name in [*hidden, *names] if place not in seen else ():
            path = Path(folder, name)
            is_image = name.lower().endswith(".png") and not name.startswith(".")
            # Reading a pipe would block; a broken link is a file that cannot be read.
            found = paths if is_image and (path.is_file() or path.is_symlink()) else skipped
            found.append(str(path.relative_to(root)))
        seen.add(place)
    remark = f" (skipped: {len(skipped)} others, such as {printable(max(skipped))})" if skipped else ""
    return paths, remark


def _read_labels(root: Path, paths: list[str]) -> tuple[str, NDArray[np.int64]]:
    """Where the labels are, in the names of the files or of the folders, and the labels."""
    by_folder = {path: _folder_labels(path) for path in paths}
    by_name = {path: _name_labels(path, prefixed=not by_folder[path]) for path in paths}
    layouts = {"folder": by_folder, "file": by_name}
    # A layout is usable if it gives every file a label from 0 to 9; other numbers are dates or shards.
    usable = [name for name, found in layouts.items() if all(each and each[0] in LABELS for each in found.values())]
    layout = max(usable or layouts, key=lambda name: sum(map(bool, layouts[name].values())))
    labels = layouts[layout]
    lack = f"have no label in the name of the {layout}; name all files like 12_7.png, or put all into folders like 7/"
    _raise_if_any(root, (path for path in paths if not labels[path]), paths, lack)
    _raise_if_any(root, (path for path in paths if labels[path][0] not in LABELS), paths, "have a label outside 0 to 9")
    if len(usable) == 2:
        differing = (path for path in paths if by_name[path] != by_folder[path][:1])
        fault = "have different labels in the names of the file and the folder (12_7.png, 7/)"
        _raise_if_any(root, differing, paths, fault)
    elif layout == "folder":
        unclear = (path for path in paths if len({*labels[path]}) > 1)
        _raise_if_any(root, unclear, paths, "are inside two label folders (3/7/); keep one")
    return layout, np.array([labels[path][0] for path in paths], dtype=np.int64)


def _folder_labels(path: str) -> list[int]:
    """What may be the label in the names of a file's folders, nearest first: digits, else 07 and so on, else any."""
    parts = [LABELS_IN_WORDS.get(part.lower(), part) for part in reversed(Path(path).parts[:-1])]
    numbers = [part for part in parts if re.fullmatch("[0-9]+", part)]
    digits = [int(number) for number in numbers if len(number) == 1]
    return digits or [int(n) for n in numbers if int(n) in LABELS] or [int(n) for n in numbers[:1]]


def _name_labels(path: str, *, prefixed: bool) -> list[int]:
    """The label in a name like 12_7.png; where ``prefixed`` is allowed, also in one like train_00012_7.png.

    Such a name in a folder named by a label is more often a date or a shard, so there the folder decides.
    """
    match = re.fullmatch(("(?s:.*[^0-9])?" if prefixed else "") + "[0-9]+_([0-9]+)", Path(path).stem)
    return [int(match[1])] if match else []


def _raise_if_any(root: Path, offenders: Iterable[str], paths: list[str], fault: str) -> None:
    if bad := sorted(offenders, key=_natural_key):
        first = ", ".join(map(printable, bad[:MAX_NAMED])) + (", …" if len(bad) > MAX_NAMED else "")
        raise DataError(f"{len(bad)} of {len(paths)} PNG files in {root} {fault}: {first}")


def _natural_key(path: str) -> tuple[object, ...]:
    """A sort key: numbers by value, and names alike in whichever Unicode form the file system has them."""
    *folders, name = Path(unicodedata.normalize("NFC", path)).parts

    def pieces(part: str) -> list[object]:
        return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split("([0-9]+)", part))]

    return pieces(name), [pieces(part) for part in folders], path


def _checksum(root: Path, paths: list[str], labels: NDArray[np.int64], use: Callable[[int, bytes], None]) -> str:
    """Read every file, call ``use`` with its position and content, and return the checksum of all."""
    checksum, unread = hashlib.sha256(), {}
    for place, (path, label) in enumerate(zip(paths, labels.tolist(), strict=True)):
        try:
            content = (root / path).read_bytes()
        except OSError as error:
            unread[path] = str(error.strerror)
            continue
        checksum.update(struct.pack("<BQ", label, len(content)) + content)
        use(place, content)
    _raise_if_any(root, unread, paths, f"cannot be read ({', '.join(sorted({*unread.values()}))})")
    return checksum.hexdigest()


def _decoded(folder: Folder) -> NDArray[np.uint8]:
    images = np.empty((len(folder.paths), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    broken: dict[str, str] = {}
    dim = []

    def decode(place: int, content: bytes) -> None:
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                image.verify()  # its checksums: Pillow decodes some damaged files to wrong pixels
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                images[place] = np.asarray(to_grey32(image))
                if image.has_transparency_data and images[place].max() < MIN_BRIGHTNESS:
                    dim.append(folder.paths[place])
        except Exception as error:  # Pillow raises all kinds of errors for damaged files
            broken[folder.paths[place]] = re.sub(r" <_io.*?>", "", str(error)) or type(error).__name__

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as large is an error
        checksum = _checksum(folder.root, folder.paths, folder.labels, decode)
    first = broken[min(broken, key=_natural_key)] if broken else ""
    _raise_if_any(folder.root, broken, folder.paths, f"cannot be decoded as PNG images ({first})")
    advice = "are dark on transparency, which becomes black; give them a white background or lighter ink"
    _raise_if_any(folder.root, dim, folder.paths, advice)
    if checksum != folder.sha256:
        raise DataError(f"{folder.root} changed while it was read; repeat the command")
    return images
