"""Write a trained run as an ONNX file, which takes images as MNIST has them: uint8, [N, 28, 28]."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.files import write_atomically
from mnist_exp.inference.onnx_file import to_onnx
from mnist_exp.inference.trained import load_run


def main() -> int:
    """Check the file's answers against PyTorch's, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, or its name in outputs/runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="(RUN/model.onnx)")
    arguments = parser.parse_args()
    run = arguments.run if arguments.run.is_dir() else Path("outputs/runs") / arguments.run
    trained, out = load_run(run), arguments.out or run
    out = out / "model.onnx" if out.is_dir() else out
    out.parent.mkdir(parents=True, exist_ok=True)
    content = to_onnx(trained)
    write_atomically(out, content)
    print(f"{out}: {len(content):,} bytes; its answers are PyTorch's; onnxruntime 1.18 or newer reads it")
    return 0


if __name__ == "__main__":
    run_script(main)
