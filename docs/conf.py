"""How Sphinx builds the pages: `make docs` writes them to `docs/_build/html`.

README.md, CONTRIBUTING.md, CHANGELOG.md and the pages of results/ stand where people look for them,
and are pages of the site too: the file named here takes the place of its stub in `docs/`. The API
reference is made from the docstrings, a page a room. A broken link or reference fails the build.
"""

import importlib
import os
import pkgutil
import re
from pathlib import Path

from sphinx.application import Sphinx

import ensemble

ROOT = Path(__file__).parents[1]
# Imported here, as autodoc imports with TYPE_CHECKING set, where pydantic refuses models of ours.
for module in pkgutil.walk_packages(ensemble.__path__, "ensemble."):
    if not module.name.endswith(("__main__", "mlflow_runs")):
        importlib.import_module(module.name)

project = "crack-ensemble"
release = version = ensemble.__version__
copyright = "the authors of crack-ensemble; Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"crack-ensemble {release}"
myst_heading_anchors = 3  # the anchors that GitHub makes, so that a link works in both places

apidoc_modules = [
    {
        "path": "../ensemble",
        "destination": "api",
        "exclude_patterns": ["**/__main__.py"],
        "implicit_namespaces": False,
        "include_private": False,
        "no_headings": False,
        "module_first": True,
    }
]
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
autodoc_mock_imports = ["mlflow"]  # an extra, and slow to import
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"  # `name` in a docstring
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a field of a dataclass is listed once

nitpicky = True
nitpick_ignore = [  # a function in an annotation, which Sphinx looks for among the classes
    ("py:class", "ensemble.training.backbone_table.check_backbone")
]
# Other projects' names are not looked up, as that needs the network; private ones have no entry.
nitpick_ignore_regex = [(r"py:.*", r"(?!ensemble\.).*"), (r"py:.*", r".*\.(_\w+|[TKV])$")]

ELSEWHERE = {
    "index": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "results": "results/README.md",
    "sdnet2018": "results/sdnet2018/README.md",
}
PAGES = {name: page for page, name in ELSEWHERE.items()}


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts a file from outside `docs/` in its stub's place, and makes its links those of a page."""
    name = ELSEWHERE.get(page, f"docs/{page}.md")
    if not name.endswith(".md") or not (ROOT / name).is_file():
        return
    stub = source[0]
    text = (ROOT / name).read_text(encoding="utf-8")
    contents = stub[stub.index("```{toctree}") :] if page == "index" else ""

    def adapt(link: re.Match[str]) -> str:
        path, mark, anchor = link[1].partition("#")
        target = os.path.normpath(Path(name).parent / path) if path else ""
        if target in PAGES:
            target = f"docs/{PAGES[target]}.md"
        return f"]({os.path.relpath(target, 'docs') if target else ''}{mark}{anchor})"

    source[0] = re.sub(r"\]\((?!https?:|mailto:)([^)\s]+)\)", adapt, text) + "\n" + contents


def keep_marks(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escapes what reStructuredText would read as marks: docstrings are plain text and `names`."""
    for number, line in enumerate(lines):
        texts = re.split(r"(`+[^`]*`+)", line)
        texts[::2] = [re.sub(r"(?<!\\)([*|]|(?<=\w)_(?!\w))", r"\\\1", text) for text in texts[::2]]
        lines[number] = "".join(texts)


def setup(app: Sphinx) -> None:
    """Registers what this project adds to Sphinx."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", keep_marks, priority=600)  # after napoleon
