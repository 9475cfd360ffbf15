"""What made a run: its code, as checksums, and its libraries' versions, compared with the present ones.

There is a checksum for each of the model, the training loop, data loading and the machine's settings, taken from
what the part's entry points reach within this package (`mnist_exp.machine.syntax`). So a new class beside the others
or a reworded message changes nothing, and a changed layer or constant does. Imports no torch.
"""

import functools
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mnist_exp.errors import ConfigError
from mnist_exp.machine.syntax import STATEMENTS, Definition, find_module, parse_module, split_name

PARTS = {
    "training": ("job._train", "runs.results.to_csv"),
    "data": ("job._load_images",),
    "machine": ("machine.determinism.make_deterministic",),
}
"""Part → the functions that it starts from; the model's part starts from its class."""
LIBRARIES = ("torch", "numpy")
"""The packages whose versions can change a number."""
PART_NAMES = {"training": "the training loop", "data": "data loading", "machine": "the machine's settings"}
NOT_FOLLOWED = {
    *("errors", "files", "settings.schema", "data.fetch", "data.catalog"),
    *("runs.folder", "runs.record", "runs.checkpoint", "machine.provenance"),
}
"""Modules that cannot change a number: they check contents, or only store and describe."""
ANY_MODEL = {"models"}
"""The factory names the whole module; which of its classes matters is for the model's part to say."""
CHECKS = {f"settings.factory.{name}" for name in ("UNSUITABLE", "RESERVED_ARGUMENTS", "_matches_annotation")}
"""What only refuses settings, and so does not change the numbers of those that are accepted."""
UNUSED_DATA_CODE = {True: {"data.idx.load_raw"}, False: {"data.folders.load"}}
"""Functions that load data but are not used by runs with (True) and without (False) a folder of images."""
EQUIVALENT = Path(__file__).with_name("equivalent_code.toml")
"""The tracked declarations of changes that leave all numbers alone."""


def present_code(identity: Mapping[str, Any]) -> dict[str, str]:
    """The checksum of each part of the code that a run of this identity would have now, 16 hexadecimal digits."""
    entries = PARTS | {"model": (identity["model"]["target"].removeprefix("mnist_exp."),)}
    skipped = UNUSED_DATA_CODE[identity["data"]["name"] == "png_folder"] | CHECKS | ANY_MODEL
    return {
        part: _checksum(entry, skipped | ({"job._load_images"} if part == "training" else set()))
        for part, entry in sorted(entries.items())
    }


def other_code(identity: Mapping[str, Any], recorded: Mapping[str, str] | None) -> str:
    """What of the present code differs from the recorded one, in words; empty if nothing does.

    Changes that were declared to leave all numbers alone do not count.
    """
    if recorded is None:
        return "its record has no checksums of it"
    names = PART_NAMES | {"model": identity["model"]["target"].rpartition(".")[2]}
    return ", ".join(
        names[part]
        for part, checksum in present_code(identity).items()
        if representative(part, checksum) != representative(part, recorded.get(part, ""))
    )


def other_versions(present: Mapping[str, str | None], recorded: Mapping[str, Any] | None) -> str:
    """Which library versions differ from the recorded ones, in words; empty if none does."""
    known = recorded or {}
    return ", ".join(
        f"{name} {known.get(name)} (now {present[name]})" for name in LIBRARIES if known.get(name) != present[name]
    )


def representative(part: str, checksum: str) -> str:
    """The checksum that stands for all code that was declared equivalent to this one's."""
    return _declared().get((part, checksum), checksum)


@functools.cache
def _declared() -> dict[tuple[str, str], str]:
    """(part, checksum) → its representative, from the tracked declarations."""
    same: dict[tuple[str, str], set[str]] = {}
    try:
        for each in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("change", []):
            part, pair = each["part"], (each["old"], each["new"])
            joined = set().union(*(same.get((part, checksum), {checksum}) for checksum in pair))
            same |= {(part, checksum): joined for checksum in joined}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{EQUIVALENT} cannot be read: {error}") from error
    return {key: min(joined) for key, joined in same.items()}


def _checksum(entries: Iterable[str], skipped: set[str]) -> str:
    """The checksum of all code that these functions and classes use."""
    reached: dict[str, str] = {}
    pending, seen, run = [*entries, f"__init__.{STATEMENTS}"], set(skipped), {"__init__"}
    while pending:
        name = pending.pop()
        module, attribute = split_name(name)
        if name in seen or module in NOT_FOLLOWED or not module:
            continue
        seen.add(name)
        parsed = parse_module(module)
        for each in _imported_by(module) - run:  # what a module does when it is imported
            run.add(each)
            pending += [f"{each}.{STATEMENTS}"] if STATEMENTS in parse_module(each).definitions else []
        if not attribute:  # the module as an object, as in getattr(layers, name): all of it
            pending += [f"{module}.{each}" for each in (*parsed.definitions, *parsed.imports)]
            continue
        definition = parsed.definitions.get(attribute, Definition("", {attribute}, set()))
        reached[name] = definition.text
        for each in definition.used:
            head, _, tail = each.partition(".")
            if head in parsed.definitions and head != attribute:
                pending.append(f"{module}.{head}")
            if target := parsed.imports.get(head):
                full = (f"{target}.{tail}" if tail and target != each else target).removeprefix("mnist_exp.")
                is_ours = f"{target}.".startswith("mnist_exp.")
                if is_ours and (each in definition.objects or not find_module(full)):
                    pending.append(full)
                else:  # another package's, whose version is recorded, or a module of which only some names are used
                    reached[full] = ""
    text = "\n".join(f"{name} {text}" for name, text in sorted(reached.items()) if text or "." in name)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _imported_by(module: str) -> set[str]:
    """A module with its packages, and all that are imported for what they do: by a name that nobody uses."""
    found: set[str] = set()
    pending = [module]
    while pending:
        if (name := pending.pop()) and name not in found and name not in NOT_FOLLOWED:
            found.add(name)
            pending += [name.rpartition(".")[0], *parse_module(name).effects]
    return found
