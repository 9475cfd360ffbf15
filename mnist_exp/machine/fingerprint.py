"""Checksums of the code that a run's numbers depend on: its model, the loop, data loading, the machine.

Each is taken from the syntax tree of what the part's entry points reach within this package, without what
cannot change a number: comments, docstrings, layout, annotations, and the texts of errors and messages. So a
new class beside the others or a reworded message changes nothing, and a changed layer or constant does.
"""

import ast
import functools
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
PARTS = {
    "training": ("job._build_state", "job._epochs", "training.evaluate", "runs.results.to_files"),
    "data": ("job._load_images",),
    "machine": ("machine.determinism.make_deterministic",),
}
"""Part → the functions that it starts from; the model's part starts from its class."""
PART_NAMES = {"training": "the training loop", "data": "data loading", "machine": "the machine's settings"}
NOT_FOLLOWED = {"errors", "files", "settings.schema", "data.fetch", "data.catalog"}
"""Modules that cannot change a number: files' contents are checked, and their checksums recorded."""
CHECKS = {f"settings.factory.{name}" for name in ("UNSUITABLE", "RESERVED_ARGUMENTS", "_matches_annotation")}
"""What only refuses settings, and so does not change the numbers of those that are accepted."""
UNUSED_DATA_CODE = {True: {"data.idx.load_raw"}, False: {"data.folders.load"}}
"""Functions that load data but are not used by runs with (True) and without (False) a folder of images."""
MESSAGES = {"print", "warn"}
EQUIVALENT = Path(__file__).with_name("equivalent_code.toml")
"""The tracked declarations of changes that leave all numbers alone."""


def code_fingerprint(model_target: str, *, image_folder: bool) -> dict[str, str]:
    """The checksum of each part of the code, 16 hexadecimal digits.

    Args:
        model_target: the model's class, ``mnist_exp.models.NAME``.
        image_folder: whether the images come from folders of PNG files.
    """
    entries = PARTS | {"model": (model_target.removeprefix("mnist_exp."),)}
    return {part: _checksum(entry, UNUSED_DATA_CODE[image_folder] | CHECKS) for part, entry in sorted(entries.items())}


def code_differences(ours: Mapping[str, str], theirs: Mapping[str, str], model_target: str) -> list[str]:
    """The names of the parts that differ, but for changes that were declared to leave all numbers alone."""
    names = PART_NAMES | {"model": model_target.rpartition(".")[2]}
    return [
        names[part]
        for part in sorted(ours)
        if _representative(part, ours[part]) != _representative(part, theirs.get(part, ""))
    ]


def _representative(part: str, checksum: str) -> str:
    """The newest checksum of code that was declared equivalent to this one."""
    followed = {checksum}
    while (newer := _declared().get((part, checksum))) and newer not in followed:
        followed.add(newer)
        checksum = newer
    return checksum


@functools.cache
def _declared() -> dict[tuple[str, str], str]:
    """(part, older checksum) → newer checksum, from the tracked declarations."""
    changes = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("change", [])
    return {(each["part"], each["old"]): each["new"] for each in changes}


def _checksum(entries: Iterable[str], skipped: set[str]) -> str:
    """The checksum of all code that these functions and classes use."""
    reached: dict[str, str] = {}
    pending = list(entries)
    while pending:
        name = pending.pop()
        module, _, attribute = name.rpartition(".")
        if name in reached or name in skipped or module in NOT_FOLLOWED or _module(module) is None:
            continue
        definitions, imports = _parsed(module)
        if attribute in definitions:
            text, used = definitions[attribute]
            reached[name] = text
            pending += [f"{module}.{each}" for each in used if each in definitions and each != attribute]
            pending += [f"{module}.<statements>"] if "<statements>" in definitions else []
            for each in used:  # names, and attributes of imported modules
                head, _, tail = each.partition(".")
                if target := imports.get(head):
                    full = f"{target}.{tail}" if tail else target
                    inside = full.removeprefix("mnist_exp.")
                    if inside == full:
                        reached[full] = ""  # another package's: its version is recorded, here only which name it is
                    else:
                        pending.append(inside)
    text = "\n".join(f"{name} {reached[name]}" for name in sorted(reached))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _module(name: str) -> Path | None:
    """The file of a module of this package, by its name without ``mnist_exp.``."""
    path = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    return path if path.is_file() else None


@functools.cache
def _parsed(module: str) -> tuple[dict[str, tuple[str, set[str]]], dict[str, str]]:
    """A module's definitions (name → canonical text, names used) and imports (name → full name)."""
    path = _module(module)
    assert path is not None
    tree = _Essentials().visit(ast.parse(path.read_bytes()))
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = f"mnist_exp.{module}".split(".")[: -node.level] if node.level else []
            source = ".".join([*package, *([node.module] if node.module else [])])
            names = [(alias.name, alias.asname or alias.name) for alias in node.names]
            if names == [("*", "*")] and _module(source.removeprefix("mnist_exp.")):
                names = [(name, name) for name in _parsed(source.removeprefix("mnist_exp."))[0]]
            imports |= {known: f"{source}.{name}" for name, known in names}
        else:
            for name in _bound(node) or ["<statements>"]:
                definitions.setdefault(name, []).append(node)
    return {
        name: (" ".join(map(_canonical, nodes)), set().union(*map(_used, nodes))) for name, nodes in definitions.items()
    }, imports


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement of a module gives a value to."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]


def _used(node: ast.AST) -> set[str]:
    """The names that a statement reads, with one attribute: ``relu``, ``torch``, ``folders.load``."""
    dotted = {
        f"{each.value.id}.{each.attr}"
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name)
    }
    return dotted | {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


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
        called = node.value.func if isinstance(node.value, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        removed = isinstance(node.value, ast.Constant) or name in MESSAGES
        return None if removed else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if getattr(node.func, "id", "").startswith("_raise"):  # a function that may raise, with the error's text
            node.args = [each for each in node.args if not isinstance(each, ast.Constant | ast.JoinedStr)]
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(exc=None, cause=None)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return self.generic_visit(ast.Assert(test=node.test, msg=None))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(value=None)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._visit_body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._visit_body(node)

    def _visit_body(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        return node  # type: ignore[no-any-return]
