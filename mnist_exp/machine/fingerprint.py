"""What made a run: checksums of its code, and versions of its packages, compared with the present ones.

Numbers are made in few files (`PARTS`, and those of the model, the optimizer and the schedule) and nowhere else. A
part's checksum is that of the syntax trees, without docstrings, of its files and of every local module that they
import; installed packages count by their versions. Imports no torch.
"""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from mnist_exp.errors import ConfigError
from mnist_exp.files import PROJECT
from mnist_exp.settings.schema import COMPONENTS

PARTS = {
    "training": ("mnist_exp.training", "mnist_exp.settings.factory"),
    "data": ("mnist_exp.data.images", "mnist_exp.data.datasets", "mnist_exp.data.folders"),
    "machine": ("mnist_exp.machine.determinism", "mnist_exp.machine.layout", "mnist_exp.machine.sums"),
}
"""The modules of the core that can change a number."""
EXACT = tuple(f"mnist_exp.exact.{name}" for name in ("cache", "kernels", "network", "numbers", "simd", "training"))
"""The modules that can change a number of runs with exact arithmetic, and of these only."""
NOT_COUNTED = {
    f"mnist_exp.{name}"
    for name in (
        "errors",
        "files",
        "text",
        "data.fetch",
        *(f"settings.{s}" for s in ("schema", "components", "exactness")),
    )
}
"""Modules that the parts import, but that only check, refuse, store or fetch. (What `settings.components` hands over is
part of a run's identity.)"""
PACKAGES = ("numpy", "pillow", "torch", "torchvision")
"""The installed packages that can change a number of any run."""
PART_NAMES = {
    "training": "the training loop",
    "data": "data loading",
    "machine": "the machine's settings",
    "exact": "the kernels of exact arithmetic",
}
EQUIVALENT = Path(__file__).with_name("equivalent_code.toml")
"""The tracked declarations of changes that leave all numbers alone."""


def present_code(identity: Mapping[str, Any]) -> dict[str, str]:
    """The checksum of each part of the code that a run of this identity would have now, 16 hexadecimal digits."""
    parts = PARTS | {kind: (module,) for kind, module in _component_modules(identity).items() if _module_file(module)}
    if _is_exact(identity):
        parts |= {"exact": EXACT}
    return {part: _checksum(modules) for part, modules in sorted(parts.items())}


def present_versions(identity: Mapping[str, Any]) -> dict[str, str | None]:
    """The versions of the packages that can change a run's numbers; None where one is not installed."""
    names = {name for module in _component_modules(identity).values() for name in _local_code((module,))[1]}
    names -= {*sys.stdlib_module_names, "mnist_exp", *PACKAGES}
    if _is_exact(identity):
        names |= {"llvmlite", "numba"}
    known = importlib.metadata.packages_distributions() if names else {}  # reads all that is installed
    return {name: installed_version(name) for name in sorted({*PACKAGES, *(known.get(n, [n])[0] for n in names)})}


def local_files(identity: Mapping[str, Any], modules: Iterable[str] = ()) -> dict[str, Path]:
    """The files of a run's components, of more modules, and of all local ones that they import, by module."""
    return _local_code((*_component_modules(identity).values(), *modules))[0]


def other_code(identity: Mapping[str, Any], present: Mapping[str, str], recorded: Mapping[str, str] | None) -> str:
    """Which parts of the present code differ from the recorded one, in words; empty if none does.

    Changes that were declared to leave all numbers alone do not count.
    """
    if recorded is None:
        return "its record has no checksums of it"
    gone = {kind: "" for kind in COMPONENTS if kind in recorded and kind not in present}  # the file of its class
    names = PART_NAMES | {kind: identity[kind]["target"].rpartition(".")[2] for kind in COMPONENTS if kind in identity}
    return ", ".join(
        names[part]
        for part, checksum in ({**present} | gone).items()
        if canonical_checksum(part, checksum) != canonical_checksum(part, recorded.get(part, ""))
    )


def other_versions(present: Mapping[str, str | None], recorded: Mapping[str, Any] | None) -> str:
    """Which of the recorded versions differ from the present ones, in words; empty if none does."""
    pairs = [(name, (recorded or {}).get(name, now), now) for name, now in present.items()]
    return ", ".join(f"{name} {then} (now {now})" for name, then, now in pairs if then != now)


def _is_exact(identity: Mapping[str, Any]) -> bool:
    return bool(identity.get("device", {}).get("arithmetic") == "exact")


def installed_version(package: str) -> str | None:
    """A package's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def canonical_checksum(part: str, checksum: str) -> str:
    """One checksum for all code that was declared equivalent to this one's."""
    return _declared().get((part, checksum), checksum)


@functools.cache
def _declared() -> dict[tuple[str, str], str]:
    """(part, checksum) → its canonical checksum, from the tracked declarations."""
    same: dict[tuple[str, str], set[str]] = {}
    try:
        for each in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("change", []):
            part, pair = each["part"], (each["old"], each["new"])
            joined = set().union(*(same.get((part, checksum), {checksum}) for checksum in pair))
            same |= {(part, checksum): joined for checksum in joined}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{EQUIVALENT} cannot be read: {error}") from error
    return {key: min(joined) for key, joined in same.items()}


def _component_modules(identity: Mapping[str, Any]) -> dict[str, str]:
    """The module that defines the class of each component."""
    targets = {kind: str(identity[kind]["target"]).rpartition(".") for kind in COMPONENTS if kind in identity}
    return {kind: _defining_module(module, name) for kind, (module, _, name) in targets.items()}


@functools.cache
def _checksum(modules: tuple[str, ...]) -> str:
    """The checksum of these modules and of all local ones that they import."""
    lines = (f"{name} {_code_text(path)}" for name, path in sorted(_local_code(modules)[0].items()))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@functools.cache
def _local_code(modules: tuple[str, ...]) -> tuple[dict[str, Path], set[str]]:
    """The files of these modules and of all local ones that they import, and the names of other packages."""
    files: dict[str, Path] = {}
    others: set[str] = set()
    pending = [*modules]
    excluded = NOT_COUNTED.union(EXACT, *PARTS.values()) - {*modules}  # other parts have their own checksums
    while pending:
        module = pending.pop()
        if not (path := _module_file(module)):
            others.add(module.partition(".")[0])
        elif module not in files and module not in excluded:
            files[module] = path
            pending += _imports(module, path)
    return files, others


def _module_file(module: str) -> Path | None:
    """The file of a module; None where it is of an installed package, of Python itself, or missing."""
    names = module.split(".")
    if names[0] in sys.stdlib_module_names:
        return None
    places = [str(PROJECT)] if names[0] == "mnist_exp" else [*sys.path, str(PROJECT)]  # whatever else is installed
    origin = None
    for number, name in enumerate(names):
        spec = PathFinder.find_spec(name, places)  # a dotted name would need its parent imported
        if not spec and number == 0:  # pip install -e may have a finder of its own
            loaded = sys.modules.get(names[0])
            spec = loaded.__spec__ if loaded else importlib.util.find_spec(names[0])
        if not spec:
            return None
        places, origin = list(spec.submodule_search_locations or ()), spec.origin
    if not origin or not Path(origin).is_file():
        return None
    path = Path(origin)
    place = path.parents[len(names) - (path.name != "__init__.py")]
    is_installed = {"site-packages", "dist-packages"} & {*path.parts} or _is_of_pip(place)
    return None if is_installed and names[0] != "mnist_exp" else path


@functools.cache
def _is_of_pip(folder: Path) -> bool:
    """Whether ``pip install --target`` filled this folder."""
    return any(folder.glob("*.dist-info"))


def _imports(module: str, path: Path) -> Iterator[str]:
    """The modules that a module imports, wherever it does."""
    package = module.split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*start, *filter(None, [node.module])])
            yield from (_defining_module(source, alias.name) for alias in node.names)


def _defining_module(module: str, name: str) -> str:
    """The module behind a name of another one: itself a module, or where a package's ``__init__`` has it from."""
    if _module_file(f"{module}.{name}"):
        return f"{module}.{name}"
    path = _module_file(module)
    for node in _parse(path).body if path and path.name == "__init__.py" else ():
        if isinstance(node, ast.ImportFrom) and node.module and name in [a.asname or a.name for a in node.names]:
            return f"{module}.{node.module}" if node.level else node.module
    return module


@functools.cache
def _parse(path: Path) -> ast.Module:
    """A module's syntax tree; of a compiled one, all of its bytes."""
    try:
        return ast.parse(path.read_bytes() if path.suffix == ".py" else f"content = {path.read_bytes()!r}", str(path))
    except SyntaxError as error:
        raise ConfigError(f"{error.filename}, line {error.lineno}: {error.msg}") from error


def _code_text(path: Path) -> str:
    """A module's syntax tree as text, and the checksums of data files beside it that it names (and so may read)."""
    tree = _parse(path)
    texts = {each.value for each in ast.walk(tree) if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    named = [path.parent / text for text in sorted(texts) if re.fullmatch(r"[\w-]+\.\w+", text)]
    return " ".join([_tree_text(tree), *(hashlib.sha256(f.read_bytes()).hexdigest() for f in named if f.is_file())])


def _tree_text(node: Any) -> str:
    """A syntax tree as text without docstrings, the same under every version of Python."""
    if isinstance(node, list):
        return f"[{' '.join(map(_tree_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return ""
    fields = [(name, value) for name, value in ast.iter_fields(node) if value not in (None, []) and name != "ctx"]
    return f"({type(node).__name__} {' '.join(f'{name}={_tree_text(value)}' for name, value in sorted(fields))})"
