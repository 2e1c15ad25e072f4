"""What the Python files of this repository import, by reading them."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
# seconds of a core to import
HEAVY = {"torch", "torchvision", "timm", "ray", "optuna", "playwright"}
TESTS = ROOT / "tests"


def imports(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    return _names(ast.walk(parse(path)))


def is_pure(path: Path) -> bool:
    """Whether tests import nothing heavy, by themselves or through ours, and start no process."""
    needed = _packages_needed(path, (ROOT, TESTS))
    return not needed & HEAVY and "subprocess" not in _packages_needed(path, (TESTS,))


@cache
def _packages_needed(path: Path, folders: tuple[Path, ...]) -> set[str]:
    """Packages that a file imports, and the modules in `folders` that it imports."""
    packages, files, new = set(), {path}, {path}
    while new:
        names = {name for each in new for name in _names(_statements(parse(each)))}
        found = {name: _find_module(name, folders) for name in names}
        packages |= {name.partition(".")[0] for name, file in found.items() if file is None}
        new = {file for file in found.values() if file} - files
        files |= new
    return packages


def _names(nodes: Iterator[ast.AST]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All that runs when a module is imported: functions and what is there for types does not."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _statements(child)


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _find_module(name: str, folders: tuple[Path, ...]) -> Path | None:
    for folder in folders:
        path = folder.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if name and file.exists():
                return file
    return None
