"""Folders of images: which files are read, and of which class each is.

Two layouts are read, each flat or nested: a folder for each class, or digits in files named ``{number}_{label}.png``,
with or without a prefix (``train_00012_7.png``). Images are sorted by file name in natural order (9 before 10), then by
folder, whatever order the file system has.
"""

import hashlib
import os
import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_exp.errors import DataError
from mnist_exp.text import printable

PNG = {".png": "PNG"}
FORMATS = {
    "png_folder": PNG,
    "image_folder": PNG
    | {".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".webp": "WEBP"},
}
"""The kinds of folder that `data.name` may be → the endings of files in them that are read → Pillow's formats."""
DIGITS = [str(digit) for digit in range(10)]
"""The names of the classes where there are no others."""
LABELS = range(10)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LABELS_IN_WORDS = {word: str(label) for label, word in enumerate(WORDS)}
"""Names of folders that stand for digits, too."""
MAX_NAMED = 3  # files that a message names
MAX_SHOWN = 12  # classes that the summary names


@dataclass(frozen=True)
class Folder:
    """The images of a folder, in order."""

    root: Path
    paths: list[str]
    """Relative to the root."""
    labels: NDArray[np.int64]
    classes: list[str]
    """The names of the classes, by label."""
    formats: dict[str, str]
    """One of `FORMATS`."""
    sha256: str
    """Of all labels and files' contents, in order; the same images have the same in either layout."""
    summary: str
    """How it was read and what was skipped, in a sentence."""
    contents: set[bytes]
    """The SHA-256 of each file's content."""


Folders = dict[str, Folder]
"""By split: ``train`` and ``test``."""


@dataclass(frozen=True)
class _Listing:
    """What is in a folder, before the files are read."""

    root: Path
    paths: list[str]
    layout: str
    """What a class is named by: ``file`` or ``folder``."""
    names: list[str]
    """The class of each file."""
    formats: dict[str, str]
    skipped: str

    @cached_property
    def classes(self) -> dict[str, str]:
        """`_class_key` → the class's name, in the order of the labels."""
        names = sorted({*self.names}, key=lambda name: (_pieces(_class_key(name)), name))
        return {_class_key(name): name for name in names}


def scan_both(train_dir: Path, test_dir: Path, trained: str = "train", kind: str = "image_folder") -> Folders:
    """Scan the two folders of a dataset, and check that they can be used together.

    Args:
        trained: the split that is trained on, whose classes count.
        kind: a key of `FORMATS`.

    Raises:
        DataError: one of them cannot be used, or the two cannot be used together.
    """
    train, test = train_dir.resolve(), test_dir.resolve()
    if train.is_relative_to(test) or test.is_relative_to(train):
        raise DataError(f"{train_dir} and {test_dir}: the training and test folders must not contain each other")
    listed = {"train": _list(train_dir, kind), "test": _list(test_dir, kind)}
    first = listed[trained]
    second = listed["test" if trained == "train" else "train"]
    is_digits = not {*first.classes} - {*DIGITS}
    # Of digits there are ten, whatever is there.
    classes = {digit: digit for digit in DIGITS} if is_digits else first.classes
    if not is_digits and not 2 <= len(classes) <= len(first.paths) / 2:
        raise DataError(
            f"{first.root} has {len(first.paths):,} images of {len(classes):,} classes ({_some([*classes.values()])}); "
            "name a folder that has a folder for each class, with some images in each"
        )
    for one, other in [(first, second)] if is_digits else [(first, second), (second, first)]:
        if missing := [name for key, name in other.classes.items() if key not in one.classes]:
            raise DataError(f"{one.root} has no images of class {_some(missing)}, but {other.root} has")
    both = {split: _read(each, classes) for split, each in listed.items()}
    if both["train"].sha256 == both["test"].sha256:
        raise DataError(f"{train_dir} and {test_dir} hold the same images; train and test on different ones")
    if shared := len(both["train"].contents & both["test"].contents):
        summary = f"{both['test'].summary}; warning: {shared:,} of its images are also in {train_dir}"
        both["test"] = replace(both["test"], summary=summary)
    return both


def _list(root: Path, kind: str) -> _Listing:
    """Find the images below a folder, and their classes.

    Raises:
        DataError: there is no such folder, it has no images, or the class of some cannot be read; the message names
            the first files and says how many there are.
    """
    formats = FORMATS[kind]
    paths, skipped = _list_images(root, formats)
    if not paths:
        raise DataError(f"{root} has no images in it ({', '.join(formats)})" + skipped)
    paths.sort(key=natural_key)
    layout, names = _read_names(root, paths, kind)
    listing = _Listing(root, paths, layout, names, formats, skipped)
    if alike := [name for name in sorted({*names}) if listing.classes[_class_key(name)] != name]:
        twins = _some([alike[0], listing.classes[_class_key(alike[0])]])
        raise DataError(f"{root} has folders that differ only in case: {twins}; merge them, or rename one")
    return listing


def _read(listing: _Listing, classes: dict[str, str]) -> Folder:
    """Read all files of a folder, and compute the checksum of all of it."""
    root, paths, names = listing.root, listing.paths, [*classes.values()]
    places = {key: label for label, key in enumerate(classes)}
    labels = np.array([places[_class_key(name)] for name in listing.names], dtype=np.int64)
    summary = f"{root}: {len(paths):,} images, labelled by the name of the {listing.layout}{listing.skipped}"
    if names != DIGITS:
        summary += f"; {len(names)} classes: {_some(names, MAX_SHOWN)}"
        if single := [name for name, count in Counter(listing.names).items() if count == 1]:
            summary += f"; warning: only one image of {_some(single)}"
    contents: set[bytes] = set()
    folder = Folder(root, paths, labels, names, listing.formats, "", summary, contents)
    return replace(folder, sha256=read_all(folder, lambda _, content: contents.add(hashlib.sha256(content).digest())))


def _list_images(root: Path, formats: dict[str, str]) -> tuple[list[str], str]:
    """The images below a folder, and a remark on other files there."""
    if not root.is_dir():
        raise DataError(f"{root} {'is not a folder' if root.exists() else 'is missing'}; name a folder of images")
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
            is_image = name.lower().endswith((*formats,)) and not name.startswith(".")
            # Reading a pipe would block; a broken link is a file that cannot be read.
            found = paths if is_image and (path.is_file() or path.is_symlink()) else skipped
            found.append(str(path.relative_to(root)))
        seen.add(place)
    remark = f" (skipped: {len(skipped)} others, such as {printable(max(skipped))})" if skipped else ""
    return paths, remark


def _read_names(root: Path, paths: list[str], kind: str) -> tuple[str, list[str]]:
    """Where the classes are, in the names of the files or of the folders, and the class of each file."""
    by_folder = {path: _folder_labels(path) for path in paths}
    by_name = {path: _name_labels(path, prefixed=not by_folder[path]) for path in paths}
    layouts = {"folder": by_folder, "file": by_name}
    # Digits, if there is one for every file; other numbers are dates or shards.
    usable = [name for name, found in layouts.items() if all(each and each[0] in LABELS for each in found.values())]
    folders = _class_folders(paths)
    if not usable and folders:
        return "folder", folders
    if usable == ["file"] and len({*folders}) > 1 and kind != "png_folder":
        raise DataError(
            f"{root}: the classes may be the names of the folders ({_some(sorted({*folders}))}), or the last digits of "
            f"the files' names ({printable(paths[0])}); rename the files, or put them all into one folder"
        )
    in_folders = [path for path in paths if "/" in Path(path).as_posix()]
    if len(in_folders) > max(sum(map(bool, labels.values())) for labels in layouts.values()):
        raise_if_any(root, {*paths} - {*in_folders}, paths, "lie in no folder, which would be their class")
    layout = max(usable or layouts, key=lambda name: sum(map(bool, layouts[name].values())))
    labels = layouts[layout]
    lack = f"have no label in the name of the {layout}; name all files like 12_7.png, or put all into folders like 7/"
    raise_if_any(root, (path for path in paths if not labels[path]), paths, lack)
    raise_if_any(root, (path for path in paths if labels[path][0] not in LABELS), paths, "have a label outside 0 to 9")
    if len(usable) == 2:
        differing = (path for path in paths if by_name[path] != by_folder[path][:1])
        fault = "have different labels in the names of the file and the folder (12_7.png, 7/)"
        raise_if_any(root, differing, paths, fault)
    elif layout == "folder":
        unclear = (path for path in paths if len({*labels[path]}) > 1)
        raise_if_any(root, unclear, paths, "are inside two label folders (3/7/); keep one")
    return layout, [str(labels[path][0]) for path in paths]


def _class_folders(paths: list[str]) -> list[str]:
    """Of each file, the first folder that not all of them are in; or the last one, where files lie in it directly.

    Empty if some file lies in no folder.
    """
    parts = [Path(path).parts[:-1] for path in paths]
    levels = [len({*level}) for level in zip(*parts, strict=False)]  # different names, at each level that all have
    depth = next((level for level, names in enumerate(levels) if names > 1), len(levels) - 1)
    return [part[depth] for part in parts] if levels else []


def _class_key(name: str) -> str:
    """What names of one class have in common: their letters, in whatever case and Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()


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


def raise_if_any(root: Path, offenders: Iterable[str], paths: list[str], fault: str) -> None:
    """Raise a DataError that names the first of the files with a fault, and says how many there are."""
    if bad := sorted(offenders, key=natural_key):
        raise DataError(f"{len(bad)} of {len(paths)} images in {root} {fault}: {_some(bad)}")


def _some(names: list[str], most: int = MAX_NAMED) -> str:
    return ", ".join(map(printable, names[:most])) + (", …" if len(names) > most else "")


def natural_key(path: str) -> tuple[object, ...]:
    """A sort key: numbers by value, and names alike in whichever Unicode form the file system has them."""
    *folders, name = Path(unicodedata.normalize("NFC", path)).parts
    return _pieces(name), [_pieces(part) for part in folders], path


def _pieces(text: str) -> list[object]:
    return [int(piece) if i % 2 else piece for i, piece in enumerate(re.split("([0-9]+)", text))]


def read_all(folder: Folder, use: Callable[[int, bytes], object]) -> str:
    """Read every file, call ``use`` with its place and content, and return the SHA-256 of all labels and contents."""
    checksum, unread, header = hashlib.sha256(), {}, "<BQ" if len(folder.classes) <= 256 else "<HQ"
    for place, (path, label) in enumerate(zip(folder.paths, folder.labels.tolist(), strict=True)):
        try:
            content = (folder.root / path).read_bytes()
        except OSError as error:
            unread[path] = str(error.strerror)
            continue
        checksum.update(struct.pack(header, label, len(content)) + content)
        use(place, content)
    raise_if_any(folder.root, unread, folder.paths, f"cannot be read ({', '.join(sorted({*unread.values()}))})")
    return checksum.hexdigest()
