"""MNIST and its siblings: what ``catalog.toml`` says of them."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Dataset:
    """One dataset; the digests are of its training images and labels, then of its test images and labels, by file."""

    folder: str
    mirrors: list[str]
    digests: dict[str, str]
    classes: tuple[str, ...] = ()

    def split(self, name: str) -> dict[str, str]:
        """The digests of a split's images and labels, in this order."""
        digests = list(self.digests.items())
        return dict(digests[:2] if name == "train" else digests[2:])


CATALOG = {
    name: Dataset(**entry)
    for name, entry in tomllib.loads(files(__package__).joinpath("catalog.toml").read_text("utf-8")).items()
}
