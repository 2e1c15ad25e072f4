"""python -m ensemble.learn_from: corrections of what a run judged → data for the next search."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("learn-from")

import argparse
from pathlib import Path
from typing import Any

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.wording import plural
from ensemble.labelling.learning import Learned, learn_from
from ensemble.run.folder import display_path
from ensemble.run.members import name_run, take_run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Write the data set, print what went into it and the next command, and return it."""
    tables = [path for path in options.photographs if path.suffix.lower() == ".csv"]
    photographs = [path for path in options.photographs if path not in tables]
    if not photographs:
        raise InputError("name the photographs, too, behind the files of corrections")
    run = take_run(options.run, under=options.out, takes_exported=True)
    folder = options.folder or Path(f"{run.stem if run.is_file() else run.name}-learned")
    files = [options.corrections, *tables]
    learned = learn_from(run, files, photographs, folder, data=options.data)
    with printing_result():
        _print_learned(learned, name_run(run))
    _print_next(learned, name_run(run))
    return {**learned._asdict(), "run": str(run), "folder": str(folder)}


def _print_learned(learned: Learned, run: str) -> None:
    for picture, reason in learned.left_out.items():
        print(f"left out: {picture}: {reason}")
    for number, what in (
        (learned.num_blank, "of tiles that show nothing"),
        (learned.num_same, "that the data set has already"),
        (learned.num_overruled, "that a later one of the same tile overruled"),
    ):
        if number:
            print(f"passed over: {plural(number, 'correction')} {what}")
    print(
        f"added: {plural(learned.num_added, 'tile')}; given the other label: "
        f"{learned.num_relabelled:,} that were there"
    )
    print(
        f"corrected in all: {plural(learned.num_corrected, 'tile')}, {learned.num_cracked:,} "
        "cracked"
    )
    if learned.num_run_tiles:
        print(
            f"beside them: {plural(learned.num_run_tiles, 'tile')} of {run} in its own split; the "
            f"{learned.num_tested:,} that it is tested on stay as they are"
        )
    print(f"written: {display_path(learned.folder.resolve())}")


def _print_next(learned: Learned, run: str) -> None:
    folder = display_path(learned.folder.resolve())
    photographs = f"--photographs {display_path((learned.folder / 'photographs.csv').resolve())}"
    if not learned.has_photographs:
        photographs = "--photographs none"
        print(
            f"nothing says which photographs the tiles of {run} are of, so that those of the "
            "corrected ones do not count either"
        )
    if not learned.num_run_tiles:
        print(
            f"{run} is an exported ensemble, which holds no tiles: the corrected ones are alone in "
            "train, and nothing here can test what is learnt from them; put tiles of other "
            "photographs into test/cracked and test/uncracked beside it, with rows in "
            "photographs.csv, before the next command"
        )
    print(f"next: {spell_command('search')} --data {folder} --split folders {photographs}")
