"""Write a page to draw digits in, which the trained models read as they are drawn: ``make draw``."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.files import write_atomically
from mnist_exp.inference.drawing import render
from mnist_exp.inference.trained import HANDWRITTEN, load_each_model


def main() -> int:
    """Write the page beside the report, which then links to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--data", choices=HANDWRITTEN, default="mnist", help="what they are trained on (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("outputs/report/draw.html"), help="(%(default)s)")
    arguments = parser.parse_args()
    page = render(load_each_model(arguments.runs, arguments.data))
    out = arguments.out / "draw.html" if arguments.out.is_dir() else arguments.out
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())
    print(f"Open {out} in a browser; a report made beside it links to it")
    return 0


if __name__ == "__main__":
    run_script(main)
