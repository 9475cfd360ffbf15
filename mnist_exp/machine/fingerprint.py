"""What made a run: its code, as checksums, and its libraries' versions, compared with the present ones.

There is a checksum for each of the model, the training loop, data loading and the machine's settings, taken from
the syntax tree of what the part's entry points reach within this package, without what cannot change a number:
comments, docstrings, layout, annotations, and the texts of errors and messages. So a new class beside the others or
a reworded message changes nothing, and a changed layer or constant does. Imports no torch.
"""

import ast
import builtins
import functools
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_exp.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]
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
STATEMENTS = "<statements>"
"""Stands for the statements of a module that are run for what they do, not for the names that they define."""
EQUIVALENT = Path(__file__).with_name("equivalent_code.toml")
"""The tracked declarations of changes that leave all numbers alone."""


def code_fingerprint(model_target: str, *, image_folder: bool) -> dict[str, str]:
    """The checksum of each part of the code, 16 hexadecimal digits.

    Args:
        model_target: the model's class, ``mnist_exp.models.NAME``.
        image_folder: whether the images come from folders of PNG files.
    """
    entries = PARTS | {"model": (model_target.removeprefix("mnist_exp."),)}
    skipped = UNUSED_DATA_CODE[image_folder] | CHECKS | ANY_MODEL
    return {
        part: _checksum(entry, skipped | ({"job._load_images"} if part == "training" else set()))
        for part, entry in sorted(entries.items())
    }


def present_code(identity: Mapping[str, Any]) -> dict[str, str]:
    """The checksums of the code that a run of this identity would have now."""
    image_folder = identity["data"]["name"] == "png_folder"
    return code_fingerprint(identity["model"]["target"], image_folder=image_folder)


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
        module, attribute = _split(name)
        if name in seen or module in NOT_FOLLOWED or not module:
            continue
        seen.add(name)
        parsed = _parsed(module)
        for each in _imported_by(module) - run:  # what a module does when it is imported
            run.add(each)
            pending += [f"{each}.{STATEMENTS}"] if STATEMENTS in _parsed(each).definitions else []
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
                if is_ours and (each in definition.objects or not _module(full)):
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
            pending += [name.rpartition(".")[0], *_parsed(name).effects]
    return found


def _split(name: str) -> tuple[str, str]:
    """The module and the definition in a dotted name, empty for a module; further attributes do not matter."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if _module(".".join(parts[:count])):
            return ".".join(parts[:count]), "".join(parts[count : count + 1])
    return "", name


def _module(name: str) -> Path | None:
    """The file of a module or package of this package, by its name without ``mnist_exp.``."""
    path = PACKAGE.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@dataclass(frozen=True)
class Definition:
    """What a name of a module stands for."""

    text: str
    used: set[str]
    """The names that it reads, with all attributes."""
    objects: set[str]
    """Those of them that are also used by themselves, without an attribute."""


@dataclass(frozen=True)
class Module:
    """A module's syntax tree, as far as it can change a number."""

    definitions: dict[str, Definition]
    imports: dict[str, str]
    """Name → full name."""
    effects: set[str]
    """The modules of this package that are imported by a name that is never read."""


@functools.cache
def _parsed(module: str) -> Module:
    path = _module(module)
    assert path is not None
    tree = _Essentials().visit(ast.parse(path.read_bytes()))
    imports = {known: full for node in ast.walk(tree) for known, full in _imported(node, module, path)}
    nodes: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        for name in _bound(node, imports):
            nodes.setdefault(name, []).append(node)
    definitions = {
        name: Definition(
            " ".join([*map(_canonical, each), *_named_files(each, path.parent)]),
            set().union(*map(_used, each)),
            set().union(*map(_objects, each)),
        )
        for name, each in nodes.items()
    }
    read = {name.partition(".")[0] for each in definitions.values() for name in each.used}
    unread = {full for known, full in imports.items() if known not in read}
    unread |= {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names if not a.asname}
    ours = {_split(full.removeprefix("mnist_exp."))[0] for full in unread if full.startswith("mnist_exp.")}
    return Module(definitions, imports, ours - {""})


def _named_files(nodes: Iterable[ast.stmt], folder: Path) -> list[str]:
    """The checksums of the files beside a module whose names are in its statements."""
    texts = {each.value for node in nodes for each in ast.walk(node) if isinstance(each, ast.Constant)}
    names = {text for text in texts if isinstance(text, str) and re.fullmatch(r"[\w-]+\.\w+", text)}
    return [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names) if (folder / name).is_file()
    ]


def _imported(node: ast.AST, module: str, path: Path) -> list[tuple[str, str]]:
    """The names that an import statement, wherever it is in a module, makes known, and what they stand for."""
    if isinstance(node, ast.Import):
        heads = [alias.name.partition(".")[0] for alias in node.names]
        return [(a.asname or head, a.name if a.asname else head) for a, head in zip(node.names, heads, strict=True)]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = f"mnist_exp.{module}".split(".") + (["__init__"] if path.name == "__init__.py" else [])
    source = ".".join([*(package[: -node.level] if node.level else []), *([node.module] if node.module else [])])
    inside = source.removeprefix("mnist_exp.")
    if node.names[0].name == "*" and inside != source and _module(inside):
        return [(n, f"{source}.{n}") for n in (*_parsed(inside).definitions, *_parsed(inside).imports)]
    return [(alias.asname or alias.name, f"{source}.{alias.name}") for alias in node.names]


def _bound(node: ast.stmt, imports: Mapping[str, str]) -> list[str]:
    """The names that a statement of a module defines, and `STATEMENTS` if it may also do something else."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return []
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        names = {name.partition(".")[0] for each in node.decorator_list for name in _used(each)} - {*dir(builtins)}
        ours = any(imports.get(name, "mnist_exp.").startswith("mnist_exp.") for name in names)  # may register it
        return [node.name, *([STATEMENTS] if ours else [])]
    stored = [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
    stored += [each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    targets = [part for t in getattr(node, "targets", []) for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
    simple = isinstance(node, ast.Assign) and all(isinstance(t, ast.Name) and t.id != "_" for t in targets)
    return stored if simple else [*stored, STATEMENTS]


def _used(node: ast.AST) -> set[str]:
    """The names that a statement reads, with all attributes: ``relu``, ``torch.nn.Linear``, ``folders.load``."""
    found = set()
    for each in ast.walk(node):
        parts: list[str] = []
        while isinstance(each, ast.Attribute):
            parts, each = [each.attr, *parts], each.value
        if isinstance(each, ast.Name):
            found.add(".".join([each.id, *parts]))
    return found


def _objects(node: ast.stmt) -> set[str]:
    """The names that a statement reads without an attribute."""
    bases = {id(each.value) for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and id(each) not in bases}


def _canonical(node: Any) -> str:
    """A syntax tree as text, the same under every version of Python."""
    if isinstance(node, list):
        return f"[{' '.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != "ctx"]
    return f"({type(node).__name__} {' '.join(f'{name}={_canonical(value)}' for name, value in sorted(fields))})"


class _Essentials(ast.NodeTransformer):
    """Removes from a syntax tree what cannot change a number."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) or _is_message(node.value) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'"):
            return [self.visit(each) for each in node.orelse]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if getattr(node.func, "id", "").startswith("_raise"):  # a function that may raise, with the error's text
            node.args = [each for each in node.args if not isinstance(each, ast.Constant | ast.JoinedStr)]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(exc=node.exc.func if isinstance(node.exc, ast.Call) else node.exc, cause=None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return self.generic_visit(ast.Assert(test=node.test, msg=None))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is not None:
            return self.generic_visit(ast.Assign(targets=[node.target], value=node.value))
        return ast.Expr(node.target)  # a dataclass's field

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        node.body = [each for each in node.body if not isinstance(each, ast.Pass)]
        return self.generic_visit(node)


def _is_message(node: ast.expr) -> bool:
    """Whether an expression only prints or logs, and calls nothing that could do more."""
    if not isinstance(node, ast.Call) or any(isinstance(each, ast.Call) for each in [*ast.walk(node)][1:]):
        return False
    name = ast.unparse(node.func)
    return name in ("print", "warnings.warn") or name.startswith(("logging.", "logger.", "log."))
