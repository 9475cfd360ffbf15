"""The page: everything in one HTML file that asks nothing of anybody."""

import base64
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from mnist_exp.report import published, tables
from mnist_exp.report.collect import Collection, flatten
from mnist_exp.report.errors import Mistakes, gallery, pictures
from mnist_exp.report.figures import Drawing
from mnist_exp.report.statistics import winner

GALLERY = 24
"""Digits shown of a section."""


def render(
    collection: Collection,
    shown: Sequence[tables.Table],
    drawings: Sequence[Drawing],
    mistakes: Sequence[Mistakes],
    folder: Path,
    data: Path,
) -> str:
    """The page's text; its figures are already written below ``folder``, and digits lie in ``data``, if at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist_exp.report", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"csv": tables.csv, "markdown": tables.markdown, "latex": tables.latex, "uri": _uri}
    environment.globals |= {"numeric": tables.numeric, "flatten": flatten}
    script = published.file("page.js.html").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        collection=collection,
        tables={table.name: table for table in shown},
        figures=[(drawing, (folder / f"{drawing.name}.svg").read_bytes()) for drawing in drawings],
        summary=summary(collection, shown),
        galleries=[_gallery(section, mistakes, data) for section in collection.sections],
        without=sum(len(group.runs) for group in collection.groups) - sum(len(m.confusions) for m in mistakes),
        style=published.file("page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def summary(collection: Collection, shown: Sequence[tables.Table]) -> list[tuple[str, str]]:
    """The report in a few sentences, each with the section that it is about."""
    sentences = []
    verdicts = next((table.data for table in shown if table.name == "verdict"), None)
    for section in collection.sections:
        groups = collection.in_section(section)
        values = {group.label: group.final(group.score) for group in groups}
        by = "" if groups[0].score == "test_accuracy" else "By validation accuracy: "
        sentences.append((section, by + winner(values, tables.compare_in(collection, section))))
        repeats = any(published.counterpart(group.record["identity"]) for group in groups)
        if verdicts is not None and repeats and (verdicts["protocol"] == groups[0].protocol).any():
            answers = verdicts["verdict"][verdicts["protocol"] == groups[0].protocol]
            hits = int((answers == "reproduced").sum())
            said = "reproduced" if hits == len(answers) else "reproduced in part" if hits else "not reproduced"
            sentence = (
                f"The published result is {said}: {hits} of its {len(answers)} values lie in the 95 % interval"
            )
            sentence += " of one more run of ours."
            few = "There are not enough seeds to say whether the published result is reproduced."
            sentences.append((section, few if (answers == "not enough seeds").all() else sentence))
    return sentences


def _gallery(section: str, mistakes: Sequence[Mistakes], data: Path) -> dict[str, Any]:
    mine = [m for m in mistakes if m.group.section == section]
    found: dict[str, Any] = {"section": section, "groups": len(mine), "misses": [], "reason": ""}
    if not mine:
        return found
    found["classes"] = mine[0].group.classes
    images = None
    identity = mine[0].group.record["identity"]
    found["split"] = identity["protocol"]["eval_split"]
    try:
        images = pictures(data, identity["data"], found["split"], mine[0].label)
    except ValueError as error:
        found["reason"] = str(error)
    misses = gallery(mine, GALLERY)
    found["misses"] = [(miss, None if images is None else _picture(images[miss.index])) for miss in misses]
    return found


def _picture(digit: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(255 - digit).save(buffer, "PNG")  # ink on paper, as people write
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
