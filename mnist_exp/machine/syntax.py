"""What a module of this package defines, imports and does, from its syntax tree.

What cannot change a number is left out: comments, docstrings, layout, annotations, and the texts of errors and
messages. Of a module ``layers``::

    import torch
    from mnist_exp import plugins
    WIDTH = 60
    def layer(): return torch.nn.Linear(WIDTH, 10)

`parse_module` gives two definitions, ``WIDTH`` and ``layer``, of which the second uses ``torch.nn.Linear`` and
``WIDTH``; the imports ``torch`` and ``plugins``; and the effect ``plugins``, imported but never read. Imports no torch.
"""

import ast
import builtins
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
STATEMENTS = "<statements>"
"""Stands for the statements of a module that are run for what they do, not for the names that they define."""


@dataclass(frozen=True)
class Definition:
    """What a name of a module stands for."""

    text: str
    used: set[str]
    """The names that it reads, with all attributes."""
    objects: set[str]
    """Those of them that are also used whole, not only through an attribute: ``f(torch)``, not ``torch.add``."""


@dataclass(frozen=True)
class Module:
    """A module's syntax tree, as far as it can change a number."""

    definitions: dict[str, Definition]
    imports: dict[str, str]
    """Name → full name."""
    effects: set[str]
    """The modules of this package that are imported by a name that is never read."""


@functools.cache
def parse_module(module: str) -> Module:
    """A module's definitions and imports, by its name without ``mnist_exp.``."""
    path = find_module(module)
    assert path is not None
    tree = _Essentials().visit(ast.parse(path.read_bytes(), str(path)))
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
    read = {name.partition(".")[0] for definition in definitions.values() for name in definition.used}
    for_effect = {full for name, full in imports.items() if name not in read}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):  # import a.b makes a known, so nothing says whether b is read: it counts
            for_effect |= {alias.name for alias in node.names if not alias.asname}
    ours = {split_name(full.removeprefix("mnist_exp."))[0] for full in for_effect if full.startswith("mnist_exp.")}
    return Module(definitions, imports, ours - {""})


def split_name(name: str) -> tuple[str, str]:
    """The module and the definition in a dotted name, empty for a module; further attributes do not matter."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        if find_module(".".join(parts[:count])):
            return ".".join(parts[:count]), "".join(parts[count : count + 1])
    return "", name


def find_module(name: str) -> Path | None:
    """The file of a module or package of this package, by its name without ``mnist_exp.``."""
    path = PACKAGE.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _named_files(nodes: Iterable[ast.stmt], folder: Path) -> list[str]:
    """The checksums of the files beside a module whose names are in its statements."""
    texts = {each.value for node in nodes for each in ast.walk(node) if isinstance(each, ast.Constant)}
    names = {text for text in texts if isinstance(text, str) and re.fullmatch(r"[\w-]+\.\w+", text)}
    return [
        hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sorted(names) if (folder / name).is_file()
    ]


def _imported(node: ast.AST, module: str, path: Path) -> list[tuple[str, str]]:
    """The (name, full name) pairs that an import statement makes known; none for any other node."""
    if isinstance(node, ast.Import):
        first = (alias.name.partition(".")[0] for alias in node.names)  # import a.b makes a known
        return [(a.asname, a.name) if a.asname else (head, head) for a, head in zip(node.names, first, strict=True)]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = f"mnist_exp.{module}".split(".") + (["__init__"] if path.name == "__init__.py" else [])
    source = ".".join([*(package[: -node.level] if node.level else []), *([node.module] if node.module else [])])
    inside = source.removeprefix("mnist_exp.")
    if node.names[0].name == "*" and inside != source and find_module(inside):
        return [(n, f"{source}.{n}") for n in (*parse_module(inside).definitions, *parse_module(inside).imports)]
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
