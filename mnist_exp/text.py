"""Text from files that may hold anything, made fit to show and to name files by."""

import unicodedata


def printable(text: str) -> str:
    """One line of printable characters."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def slug(text: str) -> str:
    """Lower-case letters of any script, digits, dots and hyphens, at most 80, which take at most 200 bytes."""
    kept = "".join(c if c.isalnum() or c == "." else " " for c in unicodedata.normalize("NFC", text.lower()))
    name = "-".join(part for part in kept.split() if part.strip("."))[:80]
    return name.encode()[:200].decode(errors="ignore") or "unnamed"


def unique(names: list[str], pattern: str) -> list[str]:
    """The same names; to each that occurred before, a number is added by the pattern."""
    result: list[str] = []
    for name in names:
        number, one = 2, name
        while one in result:
            one, number = name + pattern.format(number), number + 1
        result.append(one)
    return result
