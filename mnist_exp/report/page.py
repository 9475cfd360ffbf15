"""The page: everything in one HTML file, which loads nothing."""

import base64
import hashlib
import io
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from mnist_exp.errors import RunFolderError
from mnist_exp.report import published
from mnist_exp.report.collect import Collection
from mnist_exp.report.estimates import Estimates
from mnist_exp.report.figure_files import Plot
from mnist_exp.report.image_errors import GroupErrors, hardest_images, load_images
from mnist_exp.report.table import Table, csv, latex, markdown, numeric
from mnist_exp.report.tables import FINAL
from mnist_exp.report.wording import winner_sentence
from mnist_exp.settings.identity import flatten
from mnist_exp.text import printable

GALLERY = 24
"""Images shown of a section."""
DRAW_PAGE = "draw.html"
"""The page to draw in (`mnist_exp.inference.drawing`), beside the report where it exists."""


def render(
    collection: Collection,
    estimates: Estimates,
    shown: Sequence[Table],
    plots: Sequence[Plot],
    errors: Sequence[GroupErrors],
    folder: Path,
    data: Path,
) -> str:
    """The page's text; its figures are already in ``folder``, and the images, if any, in ``data``."""
    loader = jinja2.PackageLoader("mnist_exp.report", "")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    functions = (csv, latex, markdown, numeric, flatten, printable)
    environment.globals |= {function.__name__: function for function in functions} | {"uri": _uri}
    script = _read("page.js")
    return environment.get_template("page.html").render(
        collection=collection,
        tables={table.name: table for table in shown},
        figures=[(plot, (folder / f"{plot.name}.svg").read_bytes()) for plot in plots],
        summary=summary(collection, estimates, shown),
        galleries=[_gallery(section, errors, data) for section in dict.fromkeys(e.group.section for e in errors)],
        without=sum(len(group.runs) for group in collection.groups) - sum(len(e.predictions) for e in errors),
        draw_page=(folder.parent / DRAW_PAGE).is_file() and DRAW_PAGE,
        style=_read("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def summary(collection: Collection, estimates: Estimates, shown: Sequence[Table]) -> list[tuple[str, str]]:
    """The report in a few sentences, each with the section that it is about."""
    sentences = []
    verdicts = next((table.data for table in shown if table.name == "verdict"), None)
    for section in collection.sections:
        groups = collection.in_section(section)
        score = groups[0].selection_metric
        means = {group.label: estimates.means[group][score].mean for group in groups}
        by = "" if score == "test_accuracy" else "By validation accuracy: "
        sentences.append((section, by + winner_sentence(means, estimates.comparisons[section])))
        if verdicts is not None and any(published.published_model(group.record.identity) for group in groups):
            answers = list(verdicts["verdict"][verdicts["protocol"] == groups[0].protocol])
            sentences += [(section, verdict_sentence(answers))] if answers else []
    return sentences


def verdict_sentence(answers: list[str]) -> str:
    """Whether the published result is reproduced, from the verdicts on its values."""
    hits, outside = answers.count("reproduced"), answers.count("not reproduced")
    if not hits + outside:
        return "There are not enough seeds to say whether the published result is reproduced."
    values = max(len(answers), len(FINAL) * len(published.MODELS))
    said = "reproduced" if hits == values else "reproduced in part" if hits else "not reproduced"
    within = f"{hits} of its {values} values lie in the 95 % interval of one more run of ours"
    unknown = values - hits - outside
    return f"The published result is {said}: {within}{f'; of {unknown} there are too few seeds' if unknown else ''}."


def _gallery(section: str, errors: Sequence[GroupErrors], data: Path) -> dict[str, Any]:
    mine = [each for each in errors if each.group.section == section]
    group, images, reason = mine[0].group, None, ""
    split = group.record.identity["protocol"]["eval_split"]
    try:
        images = load_images(data, group.record, mine[0].images)
    except RunFolderError as error:
        reason = str(error)
    if images is not None and group.record.identity["data"]["name"] != "image_folder":
        images = 255 - images  # dark on light, as people write
    shown = [(each, None if images is None else _picture(images[each.index])) for each in hardest_images(mine, GALLERY)]
    found = {"section": section, "groups": len(mine), "classes": group.classes, "split": split}
    return found | {"images": shown, "reason": reason}


def _picture(image: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return _uri("image/png", buffer.getvalue())


def _read(name: str) -> str:
    return files("mnist_exp.report").joinpath(name).read_text(encoding="utf-8")


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
