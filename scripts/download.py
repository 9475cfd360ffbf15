"""Download a dataset in advance, as for cluster nodes without a network: ``python scripts/download.py [DIR]``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.data.datasets import load
from mnist_exp.settings.schema import DATASETS, default_data_root


def main() -> int:
    """Fetch what is missing, check all files, and print the normalisation constants."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = default_data_root()
    parser.add_argument("root", nargs="?", type=Path, default=default, metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--data", choices=DATASETS, default="mnist", help="(default: %(default)s)")
    arguments = parser.parse_args()
    root = arguments.root.expanduser()
    ((images, _, _),) = load(arguments.data, root, ("train",))
    print(f"{arguments.data} is in {root.absolute()}, checked")
    mean, std = images.mean() / 255, images.std() / 255
    print(f"its training pixels, from 0 to 1: mean {mean:.6f}, standard deviation {std:.6f}")
    return 0


if __name__ == "__main__":
    run_script(main)
