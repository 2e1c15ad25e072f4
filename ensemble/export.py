"""python -m ensemble.export: the ensemble of a run in one file, for people who never train."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("export")

import argparse
from pathlib import Path
from typing import Any

from ensemble.base.door import printing_result, spell_command
from ensemble.base.options import FORMS
from ensemble.base.wording import plural
from ensemble.release.archive import export_run
from ensemble.run.folder import display_path
from ensemble.run.members import take_run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Write the file, print where it is and how it is used, and return what is in it."""
    run = take_run(options.run, under=options.out)
    named = "" if options.file is None else options.file.suffix.lower().removeprefix(".")
    form = options.format or (named if named in FORMS else "zip")
    done = export_run(run, options.file or Path(f"{run.name}.{form}"), form)
    shown = display_path(done.file.resolve())
    with printing_result():
        members = plural(done.num_members, "member")
        print(f"written: {shown} ({done.num_bytes / 1e6:.1f} MB, {members}, with its card)")
        if done.card is not None:
            print(f"written: {display_path(done.card.resolve())} (the card, for people)")
    print(f"next: {spell_command('predict')} {shown} PHOTOS")
    card = None if done.card is None else str(done.card)
    return {"run": str(run), **done._asdict(), "file": str(done.file), "card": card}
