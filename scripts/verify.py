"""Train stored runs again and compare the bytes: `mnist_exp.cli.verify`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.cli.verify import main

if __name__ == "__main__":
    run_script(main)
