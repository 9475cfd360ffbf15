"""Fashion-MNIST, KMNIST and QMNIST: files in their formats, made here; the real ones where Debian has them."""

import gzip
import hashlib
import struct
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray

from mnist_exp.data import fetch
from mnist_exp.data import images as loading
from mnist_exp.data.catalog import CATALOG, Dataset
from mnist_exp.data.fetch import DEBIAN
from mnist_exp.data.idx import load_raw
from mnist_exp.errors import DataError
from mnist_exp.settings.schema import DataConfig
from tests.conftest import settings

FOLDERS = {"fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
IMAGES = {"train": 12, "test": 7}
Arrays = dict[str, tuple[NDArray[np.uint8], list[int]]]


def gzipped_idx(array: NDArray[Any]) -> bytes:
    code = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(array.dtype.newbyteorder(">")).tobytes(), mtime=0)


def no_network(url: str) -> bytes:
    raise urllib.error.URLError("no network here")


@pytest.fixture(params=FOLDERS)
def small(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Arrays]:
    """A few images in the place of a dataset, the catalogue's checksums changed to be theirs."""
    name = request.param
    raw = tmp_path / FOLDERS[name] / "raw"
    raw.mkdir(parents=True)
    arrays: Arrays = {}
    digests: dict[str, str] = {}
    for split, count in IMAGES.items():
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        labels = [number % 10 for number in range(count)]
        arrays[split] = images, labels
        told = np.array(labels, np.uint8)
        if name == "qmnist":  # class, then where in NIST's collection the digit comes from
            told = np.array([[label, 4, 2600 + label, 7, label, 300_000, 0, 0] for label in labels], np.int32)
        for file, array in zip(CATALOG[name].split(split), (images, told), strict=True):
            content = gzipped_idx(array)
            (raw / f"{file}.gz").write_bytes(content)
            plain = hashlib.sha256(gzip.decompress(content)).hexdigest()
            digests[file] = (
                plain if name == "fashion_mnist" else hashlib.md5(content, usedforsecurity=False).hexdigest()
            )
    theirs = CATALOG[name]
    monkeypatch.setitem(CATALOG, name, Dataset(theirs.folder, theirs.mirrors, digests, theirs.classes))
    monkeypatch.setattr(fetch, "fetch_url", no_network)
    monkeypatch.setattr(fetch, "DEBIAN", tmp_path / "usr")
    return name, arrays


def test_both_splits_are_read_in_order(small: tuple[str, Arrays], tmp_path: Path) -> None:
    name, arrays = small
    for split, (pixels, labels) in arrays.items():
        found, classes, checksums = load_raw(name, split, tmp_path)
        assert np.array_equal(found, pixels) and found.dtype == np.uint8
        assert classes.tolist() == labels and classes.dtype == np.int64
        assert len(checksums) == 2
        for file, checksum in checksums.items():
            content = gzip.decompress((tmp_path / FOLDERS[name] / "raw" / f"{file}.gz").read_bytes())
            assert hashlib.sha256(content).hexdigest() == checksum


def test_classes_that_the_models_do_not_have_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that somebody added, as EMNIST's letters."""
    folder, digests = tmp_path / "Letters" / "raw", {}
    folder.mkdir(parents=True)
    for file, array in (("images", np.zeros((2, 28, 28), np.uint8)), ("labels", np.array([3, 26], np.uint8))):
        content = gzip.decompress(gzipped_idx(array))
        (folder / file).write_bytes(content)
        digests[file] = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(CATALOG, "letters", Dataset("Letters", [], digests))
    with pytest.raises(DataError, match="letters has labels outside 0 to 9, and the models have ten classes"):
        load_raw("letters", "train", tmp_path)


@pytest.mark.parametrize(
    "damage", [b"", b"<html>", gzip.compress(b"other images")], ids=["empty", "a page", "other images"]
)
def test_a_damaged_file_is_named_and_not_used(small: tuple[str, Arrays], tmp_path: Path, damage: bytes) -> None:
    name, _ = small
    path = sorted((tmp_path / FOLDERS[name] / "raw").glob("*train*labels*"))[0]
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"(?s)is not the original file: its (MD5|SHA-256) is .*Delete it") as caught:
        load_raw(name, "train", tmp_path)
    assert str(path) in str(caught.value)
    load_raw(name, "test", tmp_path)


def test_without_a_network_it_says_what_was_tried_and_what_to_do(small: tuple[str, Arrays], tmp_path: Path) -> None:
    name, _ = small
    path = sorted((tmp_path / FOLDERS[name] / "raw").glob("*train*images*"))[0]
    path.unlink()
    with pytest.raises(DataError) as caught:
        load_raw(name, "train", tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{FOLDERS[name]} could not be fetched. Tried:\n  ")
    assert "no network here" in message and f"into {path.parent} by hand" in message and "data.root=" in message
    assert message.endswith(f":\n  {path.name}")
    assert ("these files, gzipped or not, into" in message) == (name == "fashion_mnist")


def test_a_missing_file_is_fetched_and_what_is_not_it_is_refused(
    small: tuple[str, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, arrays = small
    (path,) = (p for p in (tmp_path / FOLDERS[name] / "raw").glob("*images*") if "train" in p.name)
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(fetch, "fetch_url", lambda url: b"<html>moved</html>")
    with pytest.raises(DataError, match=r"its (MD5|SHA-256) is .* but should be"):
        load_raw(name, "train", tmp_path)
    assert not path.exists()
    monkeypatch.setattr(fetch, "fetch_url", lambda url: content if url.endswith(path.name) else b"")
    assert np.array_equal(load_raw(name, "train", tmp_path)[0], arrays["train"][0])
    kept = path if path.exists() else path.with_suffix("")  # decompressed, where it can be checked so
    assert kept.read_bytes() in (content, gzip.decompress(content))


@pytest.mark.parametrize("small", ["fashion_mnist"], indirect=True)
def test_the_system_package_is_taken_before_the_network(
    small: tuple[str, Arrays], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Debian's: the same contents with another gzip header, so with another MD5 sum."""
    name, arrays = small
    raw, installed = tmp_path / "FashionMNIST" / "raw", tmp_path / "usr"
    installed.mkdir()
    for path in list(raw.glob("*.gz")):
        (installed / path.name).write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), mtime=1))
        path.unlink()
    assert np.array_equal(load_raw(name, "train", tmp_path)[0], arrays["train"][0])
    (raw / "train-labels-idx1-ubyte").unlink()
    (installed / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other labels"))
    with pytest.raises(DataError, match=f"Tried:\n  {installed}: its SHA-256 is"):
        load_raw(name, "train", tmp_path)


@pytest.mark.parametrize("name", CATALOG)
def test_the_catalogue_says_what_torchvision_says(name: str) -> None:
    theirs = getattr(torchvision.datasets, CATALOG[name].folder)
    ours = CATALOG[name]
    resources = theirs.resources
    if name == "qmnist":  # whole URLs, by split
        resources = [*resources["train"], *resources["test"]]
        assert [f"{ours.mirrors[0]}{file}.gz" for file in ours.digests] == [url for url, _ in resources]
    else:
        assert [f"{file}.gz" for file in ours.digests] == [file for file, _ in resources]
        assert ours.mirrors == theirs.mirrors
    if name in ("kmnist", "qmnist"):
        assert list(ours.digests.values()) == [md5 for _, md5 in resources]
    if ours.classes:
        assert list(ours.classes) == theirs.classes


@pytest.mark.parametrize("name", FOLDERS)
def test_a_dataset_is_asked_for_where_torchvision_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetched(url: str) -> bytes:
        asked.append(url)
        return b"<html>"

    monkeypatch.setattr(fetch, "fetch_url", fetched)
    monkeypatch.setattr(fetch, "DEBIAN", tmp_path)
    with pytest.raises(DataError):
        fetch.load_or_fetch(name, "train", tmp_path)
    assert asked and all(url.startswith("http") and url.endswith(".gz") for url in asked)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_the_real_one(tmp_path: Path) -> None:
    config = settings("data=fashion_mnist").data
    (train, test), _ = loading.load(
        DataConfig(**vars(config) | {"root": str(tmp_path)}), {}, ("train", "test"), torch.device("cpu")
    )
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]  # an ankle boot, two T-shirts, a dress, a T-shirt
    images = load_raw("fashion_mnist", "train", tmp_path)[0] / 255
    assert config.mean == pytest.approx(images.mean(), abs=1e-6)
    assert config.std == pytest.approx(images.std(), abs=1e-6)
    assert loading.class_names("fashion_mnist") is not None
