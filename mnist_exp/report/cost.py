"""What a group of runs costs: size, arithmetic and time."""

from typing import Any

import numpy as np

from mnist_exp.report.collect import Collection, Group, Run, clean


def measure(collection: Collection) -> list[dict[str, Any]]:
    """A row for each group: sizes, and times in seconds with their range over the runs.

    What no run has measured is None. An epoch's time is its training's and its evaluation's.
    """
    return [
        {
            "section": group.section,
            "model": group.label,
            "parameters": group.record["parameters"],
            "multiply_accumulates": _whole(group.record.get("multiply_accumulates")),
            **_spread("epoch_seconds", [m for m in map(_epoch_seconds, group.runs) if m]),
            **_spread("images_per_second", [m for m in map(_images_per_second, group.runs) if m]),
            "timed_runs": sum(run.timing is not None for run in group.runs),
            "machine": _machines(group),
        }
        for group in collection.groups
    ]


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**63 else None


def _epoch_seconds(run: Run) -> float | None:
    timing = run.timing
    return None if timing is None else float((timing["train_seconds"] + timing["eval_seconds"]).median())


def _images_per_second(run: Run) -> float | None:
    return None if run.timing is None else float(run.timing["train_images_per_second"].median())


def _spread(name: str, medians: list[float]) -> dict[str, float | None]:
    found = (float(np.median(medians)), min(medians), max(medians)) if medians else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def _machines(group: Group) -> str:
    """The processors, each with its threads."""
    found = set()
    for run in group.runs:
        provenance = run.record.get("provenance")
        if isinstance(provenance, dict):
            device, threads = provenance.get("device"), provenance.get("threads")
            chip = provenance.get("cpu") if device == "cpu" else device
            found.add(clean(f"{chip}, {threads} thread{'' if threads == 1 else 's'}"))
    return "; ".join(sorted(found)) or "not recorded"
