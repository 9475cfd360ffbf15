"""Read pictures of digits with the trained models: ``make predict IMAGE=photo.jpg``.

Each model answers with its two most probable classes, and says so if it is unsure. Exit code 1: a file could not
be used; the others were.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's code, whatever is installed

from mnist_exp.cli.streams import run_script
from mnist_exp.errors import DataError
from mnist_exp.inference.preprocessing import open_image
from mnist_exp.inference.trained import UNSURE, TrainedModel, load_each_model, load_run
from mnist_exp.text import printable

EXTENSIONS = {name for name, kind in Image.registered_extensions().items() if kind in Image.OPEN} | {".heic"}
"""Files of a folder that are read; what cannot be is reported."""
MAX_NAME = 60  # characters of a picture's name in that of what the models see


def main() -> int:
    """Print each picture's answers, or what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, a folder, or - for standard input")
    parser.add_argument("--run", metavar="NAME", help="only this run, by name or folder (each model's lowest seed)")
    parser.add_argument("--runs", type=Path, default=Path("outputs/runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--data", default="mnist", help="models that are trained on these images (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save-seen", type=Path, metavar="DIR", help="save what the models see as PNG files")
    arguments = parser.parse_args()
    name, runs = arguments.run, arguments.runs
    models = [_find(name, runs)] if name else load_each_model(runs, arguments.data)
    if arguments.save_seen:
        arguments.save_seen.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for number, (name, source) in enumerate(_sources(arguments.images)):
        try:
            if isinstance(source, DataError):
                raise source
            seen = models[0].prepare(open_image(source))
        except DataError as error:
            found.append({"image": name, "error": str(error)})
            print(f"predict: {printable(name)}: {error}", file=sys.stderr)
            continue
        found.append({"image": name, "answers": [_answer(model, model.rank(seen)[:2]) for model in models]})
        if not arguments.json:
            print(_text(found[-1]), flush=True)
        if arguments.save_seen:
            Image.fromarray(seen).save(arguments.save_seen / f"{number}-{Path(name).stem[:MAX_NAME]}.png")
    if arguments.json:
        print(json.dumps(found, indent=2))
    return int(any("error" in each for each in found))


def _find(name: str, runs: Path) -> TrainedModel:
    return load_run(Path(name) if Path(name).is_dir() else runs / name)


def _sources(images: list[str]) -> Iterator[tuple[str, Path | bytes | DataError]]:
    for name in images:
        path = Path(name)
        try:
            if name == "-" and sys.stdin:
                yield "standard input", sys.stdin.buffer.read()
                continue
            # iterdir raises an error for a folder that cannot be read; rglob would take it for an empty one.
            below = path.rglob("*") if path.is_dir() and [*path.iterdir()] else []
            inside = sorted(each for each in below if _is_picture(each, path))
            is_folder = path.is_dir()
        except OSError as error:
            yield name, DataError(f"The file cannot be read: {error.strerror}.")
        else:
            if is_folder and not inside:
                yield name, DataError("The folder has no pictures.")
            yield from ((str(each), each) for each in (inside if is_folder else [path]))


def _is_picture(path: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
    return path.suffix.lower() in EXTENSIONS and not hidden and not path.is_dir()


def _answer(model: TrainedModel, top: list[tuple[str, float]]) -> dict[str, Any]:
    answers = [{"class": name, "probability": round(probability, 6)} for name, probability in top]
    return {"model": model.record.title, "run": model.record.name, "top": answers, "unsure": top[0][1] < UNSURE}


def _text(found: dict[str, Any]) -> str:
    width = max(len(answer["model"]) for answer in found["answers"])
    lines = [printable(found["image"])]
    for answer in found["answers"]:
        top = "   ".join(f"{each['class']} {100 * each['probability']:5.1f} %" for each in answer["top"])
        lines.append(f"  {answer['model']:{width}}  {top}{'   unsure' if answer['unsure'] else ''}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
