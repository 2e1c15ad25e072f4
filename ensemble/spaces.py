"""python -m ensemble.spaces: the search spaces and recipes that come with the package."""

import argparse
import tomllib
from pathlib import Path
from typing import Any

from ensemble.cli import start

if __name__ == "__main__":
    start("spaces")

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.options import RECIPES, SPACES


def main(options: argparse.Namespace) -> Any:
    """List what is installed, or print one file of it as a whole."""
    if options.name is not None:
        text = find_shipped(options.name).read_text(encoding="utf-8")
        with printing_result():
            print(text, end="")
        return tomllib.loads(text)
    kinds = {"search --space": (SPACES, "question"), "train --recipe": (RECIPES, "what")}
    listed = {kind: _list(folder, key) for kind, (folder, key) in kinds.items()}
    with printing_result():
        for kind, about in listed.items():
            print(f"{kind}:")
            for name, line in about.items():
                print(f"  {name:24}{line}")
    print(f"{spell_command('spaces')} NAME > my.toml makes a copy to change")
    return listed


def find_shipped(name: str) -> Path:
    """The file of a search space or recipe that comes with the package.

    Raises:
        InputError: There is none of that name.
    """
    paths = {path.stem: path for folder in (SPACES, RECIPES) for path in folder.glob("*.toml")}
    if name not in paths:
        raise InputError(f"{name}: no such space or recipe; there are {', '.join(sorted(paths))}")
    return paths[name]


def _list(folder: Path, key: str) -> dict[str, str]:
    return {
        path.stem: tomllib.loads(path.read_text(encoding="utf-8"))[key]
        for path in sorted(folder.glob("*.toml"))
    }
