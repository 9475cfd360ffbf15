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
"""The factory uses the whole module, so every model would count; the model's part covers the one that is trained."""
CHECKS = {f"settings.factory.{name}" for name in ("UNSUITABLE", "RESERVED_ARGUMENTS", "_matches_annotation")}
"""What only refuses settings, and so does not change the numbers of those that are accepted."""
UNUSED_WITH_FOLDERS, UNUSED_WITHOUT_FOLDERS = {"data.idx.load_raw"}, {"data.folders.load"}
"""Functions that load data, but not for runs with and without folders of images."""
EQUIVALENT = Path(__file__).with_name("equivalent_code.toml")
"""The tracked declarations of changes that leave all numbers alone."""


def present_code(identity: Mapping[str, Any]) -> dict[str, str]:
    """The checksum of each part of the code that a run of this identity would have now, 16 hexadecimal digits."""
    entries = PARTS | {"model": (identity["model"]["target"].removeprefix("mnist_exp."),)}
    unused = UNUSED_WITH_FOLDERS if identity["data"]["name"] == "png_folder" else UNUSED_WITHOUT_FOLDERS
    skipped = unused | CHECKS | ANY_MODEL
    try:
        return {
            part: _checksum(entry, skipped | ({"job._load_images"} if part == "training" else set()))
            for part, entry in sorted(entries.items())
        }
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from error


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
    """The checksum of all code that these functions and classes use, directly or through one another.

    A walk from definition to definition: each adds its text, and the names in it are visited next.
    """
    texts: dict[str, str] = {}
    pending, visited, imported = [*entries, f"__init__.{STATEMENTS}"], set(skipped), {"__init__"}
    while pending:
        name = pending.pop()
        module, attribute = split_name(name)
        if name in visited or module in NOT_FOLLOWED or not module:
            continue
        visited.add(name)
        parsed = parse_module(module)
        for other in _imported_by(module) - imported:  # importing a module runs its statements
            imported.add(other)
            pending += [f"{other}.{STATEMENTS}"] if STATEMENTS in parse_module(other).definitions else []
        if not attribute:  # the module as an object, as in getattr(layers, name): all of it
            pending += [f"{module}.{known}" for known in (*parsed.definitions, *parsed.imports)]
            continue
        # A name that is only imported has no text of its own, and leads to what it stands for.
        definition = parsed.definitions.get(attribute, Definition(text="", used={attribute}, objects=set()))
        texts[name] = definition.text
        for used in definition.used:
            head, _, rest = used.partition(".")
            if head in parsed.definitions and head != attribute:
                pending.append(f"{module}.{head}")
            if target := parsed.imports.get(head):
                full = (f"{target}.{rest}" if rest and target != used else target).removeprefix("mnist_exp.")
                is_ours = f"{target}.".startswith("mnist_exp.")
                if is_ours and (used in definition.objects or not find_module(full)):
                    pending.append(full)
                else:  # another package's, whose version is recorded, or a module of which only some names are used
                    texts[full] = ""
    lines = (f"{name} {text}" for name, text in sorted(texts.items()) if text or "." in name)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _imported_by(module: str) -> set[str]:
    """A module with its packages, and all that are imported for what they do: by a name that nobody uses."""
    found: set[str] = set()
    pending = [module]
    while pending:
        if (name := pending.pop()) and name not in found and name not in NOT_FOLLOWED:
            found.add(name)
            pending += [name.rpartition(".")[0], *parse_module(name).effects]
    return found
