"""Train stored runs again and compare the bytes: `mnist_exp.cli.verify`."""

from mnist_exp.cli.streams import run_script
from mnist_exp.cli.verify import main

if __name__ == "__main__":
    run_script(main)
