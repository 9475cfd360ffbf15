"""Fashion-MNIST, KMNIST and QMNIST: their files found, or fetched, and checked, as torchvision describes them."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import torchvision
from filelock import FileLock

from mnist_exp.download import UNREADABLE, fetched
from mnist_exp.errors import DataError, keeping
from mnist_exp.files import write_atomically

SIBLINGS: dict[str, Any] = {
    "fashion_mnist": torchvision.datasets.FashionMNIST,
    "kmnist": torchvision.datasets.KMNIST,
    "qmnist": torchvision.datasets.QMNIST,
}
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's package ``dataset-fashion-mnist`` has put its files."""
CONTENTS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""SHA-256 of Fashion-MNIST's files once decompressed, for Debian's have other gzip headers than torchvision's."""


def described(name: str, split: str) -> tuple[list[tuple[str, str]], list[str]]:
    """A split's images and labels, each with its MD5 sum; and what their names follow in a URL."""
    dataset = SIBLINGS[name]
    if name == "qmnist":
        return dataset.resources[split], [""]
    return dataset.resources[:2] if split == "train" else dataset.resources[2:], dataset.mirrors


def ensure(name: str, split: str, root: Path) -> dict[str, bytes]:
    """The gzipped images and labels of a split, fetched first where they are missing.

    Args:
        name: a key of `SIBLINGS`.
        split: ``train`` or ``test``; QMNIST's test split is the one of 60,000.
        root: the folder that holds, or will hold, ``FashionMNIST/raw/`` and its like, as for torchvision.

    Returns:
        The names and contents of the two files, held against torchvision's MD5 sums.

    Raises:
        DataError: a file is damaged, or is missing and no source has it.
    """
    title = SIBLINGS[name].__name__
    resources, sources = described(name, split)
    folder = root / title / "raw"
    files = {}
    with keeping(title, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # of jobs that start side by side, the first fetches
            for resource, md5 in resources:
                path = folder / Path(resource).name
                if not path.exists():
                    urls = [source + resource for source in sources]
                    write_atomically(path, _found(name, path, urls, md5))
                content = path.read_bytes()
                if not _is_original(name, path.name, content, md5):
                    raise DataError(
                        f"{path} is not the original file: its MD5 is {_md5(content)}, but should be {md5}. "
                        "Delete it to have it fetched again"
                    )
                files[path.name] = content
    return files


def _found(name: str, path: Path, urls: list[str], md5: str) -> bytes:
    """The file that is to lie at ``path``, from where the system has it, or from the first URL that does."""
    installed = DEBIAN.get(name, Path()) / path.name
    if installed.is_file() and _is_original(name, path.name, content := installed.read_bytes(), md5):
        print(f"taking {installed}", flush=True)
        return content
    tried = []
    for url in urls:
        try:
            print(f"fetching {url}", flush=True)
            content = fetched(url)
            if _is_original(name, path.name, content, md5):
                return content
            tried.append(f"  {url}: came with another MD5 sum than {md5}")
        except UNREADABLE as error:
            tried.append(f"  {url}: {error}")
    raise DataError(
        f"{path.name} could not be fetched. Tried:\n"
        + "\n".join(tried)
        + f"\nPut it into {path.parent.absolute()} "
        "by hand, or name the folder that holds "
        f"{path.parent.parent.name}/raw/ with data.root=… or the environment variable MNIST_EXP_DATA"
    )


def _is_original(name: str, file: str, content: bytes, md5: str) -> bool:
    if _md5(content) == md5:
        return True
    try:
        return name == "fashion_mnist" and hashlib.sha256(gzip.decompress(content)).hexdigest() == CONTENTS[file]
    except UNREADABLE:
        return False


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
