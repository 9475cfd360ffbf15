"""What made a run, its code and the versions of its libraries, compared with the present ones. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from mnist_exp.machine.fingerprint import code_differences, code_fingerprint

LIBRARIES = ("torch", "numpy")
"""The packages whose versions can change a number."""


def present_code(identity: Mapping[str, Any]) -> dict[str, str]:
    """The checksums of the code that a run of this identity would have now."""
    image_folder = identity["data"]["name"] == "png_folder"
    return code_fingerprint(identity["model"]["target"], image_folder=image_folder)


def other_code(identity: Mapping[str, Any], recorded: Mapping[str, str] | None) -> str:
    """What of the present code differs from the recorded one, in words; empty if nothing does."""
    if recorded is None:
        return "its record has no checksums of it"
    return ", ".join(code_differences(present_code(identity), recorded, identity["model"]["target"]))


def other_versions(present: Mapping[str, str | None], recorded: Mapping[str, Any] | None) -> str:
    """Which library versions differ from the recorded ones, in words; empty if none does."""
    known = recorded or {}
    return ", ".join(
        f"{name} {known.get(name)} (now {present[name]})" for name in LIBRARIES if known.get(name) != present[name]
    )
