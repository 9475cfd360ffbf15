"""Write MNIST, or a dataset like it, as PNG files: ``python scripts/export_png.py DIR``.

DIR/train and DIR/test then are what ``data=png_folder`` reads: files ``{number}_{label}.png``, or with
``--layout folder`` files ``{label}/{number}.png``.
"""

import argparse
import os
import sys
from pathlib import Path

from PIL import Image

from mnist_exp.datasets import originals
from mnist_exp.download import CLASSES
from mnist_exp.errors import DataError, UserError
from mnist_exp.process import leave

LAYOUTS = {"file": "{number}_{label}.png", "folder": "{label}/{number}.png"}


def main() -> int:
    """Write both splits, each into a folder that is not there yet, or is empty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="file", help="what names the label")
    parser.add_argument("--data", choices=CLASSES, default="mnist")
    parser.add_argument("--root", default=os.environ.get("MNIST_EXP_DATA") or "data", help="where its files lie")
    arguments = parser.parse_args()
    try:
        for split in ("train", "test"):
            export(
                arguments.data, Path(arguments.root), split, arguments.folder / split, LAYOUTS[arguments.layout]
            )
    except (UserError, OSError) as error:
        print(f"export_png: {error}", file=sys.stderr)
        return 1
    print(
        f"Next: python -m mnist_exp.run data=png_folder data.train_dir={arguments.folder}/train "
        f"data.test_dir={arguments.folder}/test"
    )
    return 0


def export(name: str, root: Path, split: str, folder: Path, layout: str) -> None:
    """Write one split. Images are numbered in their order, so that reading them restores it."""
    images, labels, _ = originals(name, split, root)
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder")
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / layout.format(number=number, label=label)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)  # as small, for images as small as these
    print(f"{len(images):,} images lie in {folder}")


if __name__ == "__main__":
    leave(main)
