"""Show the state of all runs: `mnist_exp.cli.status`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.status import main
from mnist_exp.cli.streams import run_script

if __name__ == "__main__":
    run_script(main)
