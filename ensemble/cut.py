"""python -m ensemble.cut: photographs that nobody cut → pages to label tiles on → class folders."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("cut")

import argparse
from typing import Any

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.wording import plural
from ensemble.labelling.cutting import cut_pictures
from ensemble.labelling.labelled import write_labelled
from ensemble.run.folder import display_path


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Cut photographs, write labelled tiles, or both, and return what there is."""
    if not options.photographs and not options.labels:
        raise InputError("name photographs to cut, or --labels that were saved from their pages")
    result: dict[str, Any] = {"folder": str(options.folder)}
    if options.photographs:
        sheets = cut_pictures(options.photographs, options.folder, side_px=options.tile)
        num_tiles = sum(len(sheet.tiles) for sheet in sheets)
        shown = display_path((options.folder / "index.html").resolve())
        with printing_result():
            print(f"{plural(len(sheets), 'photograph')}, {plural(num_tiles, 'tile')}")
            print(f"written: {shown}; open it in a browser")
        result |= {"num_photographs": len(sheets), "num_tiles": num_tiles}
    if options.labels:
        done = write_labelled(options.folder, options.labels)
        with printing_result():
            for number, what in (
                (done.num_foreign, "of photographs that the folder does not have"),
                (done.num_blank, "of tiles that show nothing"),
            ):
                if number:
                    print(f"passed over: {plural(number, 'label')} {what}")
            print(f"labelled: {plural(done.num_tiles, 'tile')}, {done.num_cracked:,} cracked")
            print(f"written: {display_path(done.folder.resolve())}")
        print(f"next: {spell_command('search')} --data {display_path(done.folder.resolve())}")
        result |= {
            "tiles": str(done.folder),
            "num_labelled": done.num_tiles,
            "num_cracked": done.num_cracked,
            "num_blank": done.num_blank,
            "num_foreign": done.num_foreign,
        }
    return result
