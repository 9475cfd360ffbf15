"""Fetch the digits, where the network is, for machines that have none: ``python scripts/download.py [DIR]``."""

import argparse
import os
import sys
from pathlib import Path

from mnist_exp.download import ensure_mnist
from mnist_exp.errors import DataError


def main() -> int:
    """Fetch what is missing, and check it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = os.environ.get("MNIST_EXP_DATA", "data")
    parser.add_argument("root", nargs="?", default=default, metavar="DIR", help="(default: %(default)s)")
    root = Path(parser.parse_args().root)
    try:
        ensure_mnist(root)
    except DataError as error:
        print(f"download: {error}", file=sys.stderr)
        return 1
    print(f"MNIST lies in {root.absolute()}, checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
