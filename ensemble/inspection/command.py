"""The command `inspect`: a run and the photographs of a visit → a folder to look through."""

import argparse
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import table_rows
from ensemble.base.process import keep_freed_memory
from ensemble.data.reading.listing import printable
from ensemble.inspection.inspecting import Inspection, check_folder, inspect_pictures
from ensemble.prediction.opening import open_run
from ensemble.run.folder import display_path
from ensemble.run.members import name_run

NUM_NAMED = 10  # pictures that could not be read
NUM_TYPED = 3  # paths of photographs in the next command


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Judge the photographs, write the folder, print what was found, and return it."""
    folder = options.folder or name_folder(options.photographs[0])
    check_folder(folder)
    keep_freed_memory()
    console = Console(highlight=False, soft_wrap=True)
    say = partial(console.print, markup=False)
    run, ensemble = open_run("inspect", options.run, options.photographs, options.out, say)
    lines: list[str] = []
    found = inspect_pictures(
        ensemble,
        options.photographs,
        folder,
        run_name=printable(name_run(run)),
        overlap=options.overlap,
        mm_per_px=options.mm_per_px,
        log=lines.append,
    )
    for line in lines:
        say(line)
    with printing_result():
        _print_found(found, console)
        if ensemble.precision_note:
            say(ensemble.precision_note)
    say(_spell_next(run, options.photographs))
    return {
        "run": str(run),
        "folder": str(folder),
        "index": str(folder / "index.html"),
        "sentence": found.sentence,
        "num_photographs": len(found.photographs),
        "num_unread": len(found.unread),
        "photographs": table_rows(found.photographs),
        "unread": table_rows(found.unread),
    }


def name_folder(photographs: Path) -> Path:
    """The folder of an inspection that nobody named: called like the photographs, and here.

    Raises:
        InputError: The photographs have no name, such as `/`.
    """
    name = photographs.resolve().name if photographs.is_dir() else photographs.stem
    if not name:
        raise InputError(f"{photographs}: has no name to call the folder by; give --folder")
    return Path(f"{name}-inspection")


def _spell_next(run: Path, photographs: Sequence[Path]) -> str:
    """What to type once tiles that are judged wrongly were marked on the pages."""
    given = [shlex.quote(str(path)) for path in photographs[:NUM_TYPED]]
    given += ["…"] * (len(photographs) > NUM_TYPED)
    typed = f"{spell_command('learn-from')} {display_path(run)} corrections.csv {' '.join(given)}"
    return (
        f"next: mark tiles that are judged wrongly, save them as CSV, and learn from them: {typed}"
    )


def _print_found(found: Inspection, console: Console) -> None:
    console.print(found.sentence, markup=False)
    if len(found.unread):
        console.print(f"not read: {len(found.unread):,}, with the reason in unread.csv")
        for row in table_rows(found.unread.head(NUM_NAMED)):
            console.print(f"  {row['picture']}: {row['reason']}", markup=False)
        if len(found.unread) > NUM_NAMED:
            console.print("  …")
    shown = display_path((found.folder / "index.html").resolve())
    console.print(f"written: {shown}; open it in a browser", markup=False)
