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
    """Write the page's text.

    Args:
        collection: what the report is about.
        shown: its tables.
        drawings: its figures, already written below ``folder``.
        mistakes: what the runs with predictions got wrong.
        folder: the report's folder.
        data: where the digits' pictures are looked for, as in ``data.root``.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mnist_exp.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script = published.file("page.js.html").read_text(encoding="utf-8")
    return environment.get_template("page.html").render(
        collection=collection,
        tables={table.name: table for table in shown},
        numeric=tables.numeric,
        csv=lambda frame: _uri("text/csv", tables.csv(frame).encode()),
        text=lambda content: _uri("text/plain", content.encode()),
        markdown=tables.markdown,
        latex=tables.latex,
        figures=[(d, _uri("image/svg+xml", (folder / f"{d.name}.svg").read_bytes())) for d in drawings],
        summary=summary(collection, shown),
        galleries=[_gallery(section, mistakes, data) for section in collection.sections],
        without=sum(len(group.runs) for group in collection.groups) - sum(len(m.confusions) for m in mistakes),
        flatten=flatten,
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
        values = {group.label: group.final("test_accuracy") for group in groups}
        sentences.append((section, winner(values, tables.compare_in(collection, section))))
        if verdicts is None or groups[0].protocol not in set(verdicts["protocol"]):
            continue
        answers = verdicts["verdict"][verdicts["protocol"] == groups[0].protocol]
        hits, tested = int((answers == "reproduced").sum()), int((answers != "not enough seeds").sum())
        if tested:
            all_, some = ("is reproduced", "is reproduced in part") if hits else ("", "is not reproduced")
            sentence = f"The published result {all_ if hits == len(answers) else some}: {hits} of {len(answers)}"
            sentences.append((section, f"{sentence} published values are what one more run could give."))
        else:
            sentences.append((section, "Not enough seeds to say whether the published result is reproduced."))
    return sentences


def _gallery(section: str, mistakes: Sequence[Mistakes], data: Path) -> dict[str, Any]:
    mine = [m for m in mistakes if m.group.section == section]
    if not mine:
        return {"section": section, "misses": [], "reason": None}
    split, images, reason = mine[0].group.record["identity"]["protocol"]["eval_split"], None, None
    try:
        images = pictures(data, split, mine[0].label)
    except ValueError as error:
        reason = str(error)
    misses = [
        {
            "miss": miss,
            "image": None if images is None else _picture(images[miss.index]),
            "answers": [
                {
                    "model": m.group.label,
                    "answer": answer,
                    "probability": float(m.probabilities[miss.index, answer]),
                    "given": float(m.probabilities[miss.index, miss.label]),
                    "missed": int(m.missed[miss.index]),
                    "runs": len(m.confusions),
                }
                for m, answer in miss.answers[:4]
            ],
        }
        for miss in gallery(mine, GALLERY)
    ]
    return {"section": section, "misses": misses, "reason": reason, "split": split, "groups": len(mine)}


def _picture(digit: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(255 - digit).save(buffer, "PNG")  # ink on paper, as people write
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
