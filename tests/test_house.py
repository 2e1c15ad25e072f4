"""The rules of the house: what may import what, how long a function may be, what is opened."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from source_files import ROOT, imports, is_pure, parse

MODULES = sorted((ROOT / "ensemble").rglob("*.py"))
PYTHON = [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))]

# A room may import itself and those before it; the doors, at the top of the package, all of them.
ROOMS = [
    *("base", "data", "training", "run", "selection", "explanation", "evaluation", "viewer"),
    *("prediction", "inspection", "labelling", "recipes", "search", "report", "release", "serving"),
]


def test_a_room_imports_only_from_the_rooms_before_it():
    for path in MODULES:
        room = path.relative_to(ROOT / "ensemble").parts[0]
        if room.endswith(".py") or path.name == "__main__.py":
            continue  # a door
        assert "ensemble" not in imports(path), f"{path} imports the package, whose doors are last"
        entered = {name.split(".")[1] for name in imports(path) if name.startswith("ensemble.")}
        assert entered <= {*ROOMS[: ROOMS.index(room) + 1]}, path


def test_ray_is_imported_only_by_search_and_server_and_optuna_by_the_search_alone():
    allowed = {"search": {"ray", "optuna"}, "serving": {"ray"}}
    for path in MODULES:
        packages = {name.partition(".")[0] for name in imports(path)}
        room = path.relative_to(ROOT / "ensemble").parts[0]
        assert packages & {"ray", "optuna"} <= allowed.get(room, set()), path


def test_only_the_evaluation_reads_the_test_split():
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2] in ("pixels", "table", "place_split")
        and any(isinstance(a, ast.Constant) and a.value == "test" for a in node.args)
    ]
    evaluation = "ensemble/evaluation"
    assert set(readers) == {f"{evaluation}/protocol.py", f"{evaluation}/judging.py"}


def test_nothing_is_unpickled():
    for path in MODULES:
        assert not imports(path) & {"pickle", "cloudpickle", "joblib", "dill"}, path
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                assert "allow_pickle=True" not in ast.unparse(node), path


def test_no_module_is_called_like_one_of_the_standard_library_or_like_a_drawer():
    drawers = {"utils", "common", "helpers", "misc"}
    for path in MODULES:
        assert path.stem not in {*sys.stdlib_module_names, *drawers}, path


def functions(path: Path) -> dict[str, int]:
    """Number of lines of every function of a file, from `def` to its end, by place and name."""
    return {
        f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_no_two_files_of_tests_have_one_name():
    """pytest imports each by its name alone, and a second one of a name is not collected."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_a_function_fits_on_a_screen():
    lines = {name: count for path in PYTHON for name, count in functions(path).items()}
    assert {name: count for name, count in lines.items() if count > 60} == {}


def test_no_description_in_a_docstring_leans_on_the_line_above_it():
    """As in "folder: Of the run."; a description is a phrase that can be read alone."""
    leaning = re.compile(r"(?:^|\n\s+[`*\w]+: )(?:Of|That|Where|Whose|Likewise)[ ,]")
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    docstrings = [
        (path, ast.get_docstring(node, clean=False) or "")
        for path in [*PYTHON, *(ROOT / "tests").rglob("*.py")]
        for node in ast.walk(parse(path))
        if isinstance(node, kinds)
    ]
    assert [(path, text) for path, text in docstrings if leaning.search(text)] == []


def leaves_finally(node: ast.AST, *, in_loop: bool = False) -> bool:
    """Whether a statement jumps out of the `finally` that it stands in, and swallows what flew."""
    if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
        return True
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
        return False
    in_loop = in_loop or isinstance(node, ast.For | ast.AsyncFor | ast.While)
    return any(leaves_finally(child, in_loop=in_loop) for child in ast.iter_child_nodes(node))


@pytest.mark.parametrize("jump", ["return", "return 1", "if x: break", "with x: continue"])
def test_a_jump_out_of_finally_is_found(jump):
    tree = ast.parse(f"def f():\n while x:\n  try:\n   y()\n  finally:\n   {jump}")
    assert any(leaves_finally(each) for node in ast.walk(tree) for each in _finally(node))


def test_no_finally_is_left_by_a_jump():
    """It swallows exceptions, and Python 3.14 warns of it (PEP 765)."""
    for path in [*PYTHON, *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(parse(path)):
            for statement in _finally(node):
                assert not leaves_finally(statement), f"{path}:{statement.lineno}"


def _finally(node: ast.AST) -> list[ast.stmt]:
    return node.finalbody if isinstance(node, ast.Try | ast.TryStar) else []


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    in_package = [*project["dependencies"], *extras["onnx"], *extras["serve"]]
    everything = [*in_package, *extras["mlflow"], *extras["dev"]]
    tests = sorted((ROOT / "tests").rglob("*.py"))
    distributions = packages_distributions()
    own = {"ensemble", "mlflow", "pillow_heif", *(path.stem for path in tests)}
    for paths, declared in ((MODULES, in_package), (tests, everything)):
        names = {re.split(r"[\[><=]", line)[0].lower() for line in declared}
        for path in paths:
            for package in {name.partition(".")[0] for name in imports(path)} - own:
                if package in sys.stdlib_module_names:
                    continue
                # one that is not installed here is named like its distribution
                sources = {name.lower() for name in distributions.get(package, [package])}
                assert sources & names, (path, package)


def test_every_test_that_the_table_of_faults_names_exists():
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    assert len(named) > 10
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_pure_tests_need_no_torch_and_are_not_few():
    """They are what `make check` runs."""
    pure = {path.name for path in (ROOT / "tests").rglob("test_*.py") if is_pure(path)}
    assert {"test_house.py", "test_split.py", "test_metrics.py", "test_weighting.py"} <= pure
    assert not {"test_loop.py", "test_study.py", "test_searches.py", "test_soak.py"} & pure
