"""Say which committed tables are older than the code that made them: `make evidence-check`.

`results/tables.toml` names the command that makes each table, and its code. A table is old where a
commit after its own changed that code, which may or may not change its figures.
"""

import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object
from ensemble.base.wording import plural

ROOT = Path(__file__).parents[2]
COMMITS = ("trained_at_commit", "commit")  # the first one that a table names is its own


def main() -> None:
    """Print each table with its age and its command."""
    tables = tomllib.loads((ROOT / "results" / "tables.toml").read_text(encoding="utf-8"))
    for name, about in tables.items():
        commits = sorted(find_commits(ROOT / "results" / f"{name}.csv"))
        print(f"{name}: {describe_age(commits, about['code'])}\n    {about['command']}")


def find_commits(table: Path) -> set[str]:
    """The commits at which a table was made, from its rows or from the JSON file beside it."""
    if not table.exists():
        raise InputError(f"{table}: missing, but results/tables.toml names it")
    rows = pd.read_csv(table)
    if "commit" in rows:
        found = set(rows["commit"].dropna())
    elif table.with_suffix(".json").exists():
        found = set(_collect(read_object(table.with_suffix(".json"))))
    else:
        found = set()
    return {commit.rstrip("+") for commit in found}


def _collect(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _collect(item)
    elif isinstance(value, dict):
        key = next((key for key in COMMITS if value.get(key)), None)
        if key is not None:
            named = value[key]
            yield from named if isinstance(named, list) else [named]
        else:
            yield from _collect(list(value.values()))


def describe_age(commits: list[str], code: list[str]) -> str:
    """Say how many later commits changed the code of a table made at `commits`."""
    if not commits:
        return "no commit is recorded"
    missing = [each for each in commits if not _git("cat-file", "-e", f"{each}^{{commit}}")[0]]
    if missing:
        return f"made at {missing[0][:7]}, which this clone does not have"
    changes = {each: int(_git("rev-list", "--count", f"{each}..HEAD", "--", *code)[1])
               for each in commits}  # fmt: skip
    oldest = max(commits, key=lambda each: changes[each])
    if not changes[oldest]:
        return f"made at {oldest[:7]}, and its code has not changed since"
    return f"made at {oldest[:7]}; {plural(changes[oldest], 'later commit')} changed its code"


def _git(*words: str) -> tuple[bool, str]:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.returncode == 0, done.stdout.strip()


if __name__ == "__main__":
    run_command(main)
