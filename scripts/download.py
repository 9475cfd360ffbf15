"""Fetch a dataset, where the network is, for machines that have none: ``python scripts/download.py [DIR]``."""

import argparse
import os
import sys
from pathlib import Path

from mnist_exp.datasets import originals
from mnist_exp.download import CLASSES
from mnist_exp.errors import DataError
from mnist_exp.process import leave


def main() -> int:
    """Fetch what is missing, check it all, and tell the constants to normalise by."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("MNIST_EXP_DATA") or "data"
    parser.add_argument("root", nargs="?", default=default, metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--data", choices=CLASSES, default="mnist", help="(default: %(default)s)")
    arguments = parser.parse_args()
    root = Path(arguments.root)
    try:
        originals(arguments.data, "test", root)
        images, _, _ = originals(arguments.data, "train", root)
    except DataError as error:
        print(f"download: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.data} lies in {root.absolute()}, checked")
    print(f"its training pixels, from 0 to 1: mean {images.mean() / 255:.6f}, deviation {images.std() / 255:.6f}")
    return 0


if __name__ == "__main__":
    leave(main)
