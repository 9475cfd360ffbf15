"""Write MNIST, or a dataset like it, as PNG files: ``python scripts/export_png.py DIR``.

``data=image_folder`` can then read DIR/train and DIR/test: files ``{number}_{label}.png``, or with
``--layout folder`` files ``{label}/{number}.png``.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.data.datasets import class_names, load
from mnist_exp.errors import DataError
from mnist_exp.settings.schema import DATASETS, SPLITS, default_data_root

LAYOUTS = {"file": "{number}_{label}.png", "folder": "{label}/{number}.png"}


def main() -> int:
    """Write both splits, each into a folder that is new or empty."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--layout", choices=tuple(LAYOUTS), default="file", help="whose name has the label")
    parser.add_argument("--data", choices=DATASETS, default="mnist")
    parser.add_argument("--root", type=Path, default=default_data_root(), help="folder of its files (%(default)s)")
    arguments = parser.parse_args()
    layout = "folder" if len(class_names(arguments.data)) > 10 else arguments.layout  # names of files have a digit
    for split in SPLITS:
        export(arguments.data, arguments.root, split, arguments.folder / split, LAYOUTS[layout])
    print(
        f"Next: python -m mnist_exp.run data=image_folder data.train_dir={arguments.folder}/train "
        f"data.test_dir={arguments.folder}/test"
    )
    return 0


def export(name: str, root: Path, split: str, folder: Path, layout: str) -> None:
    """Write one split. Images are numbered in their order, so that reading them restores it."""
    ((images, labels, _),) = load(name, root, (split,))
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder")
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / layout.format(number=number, label=label)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, compress_level=1)  # as small, for images as small as these
    print(f"{len(images):,} images are in {folder}")


if __name__ == "__main__":
    run_script(main)
