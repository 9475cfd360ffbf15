"""Show the state of all runs: `mnist_exp.cli.status`."""

from mnist_exp.cli.status import main
from mnist_exp.cli.streams import run_script

if __name__ == "__main__":
    run_script(main)
