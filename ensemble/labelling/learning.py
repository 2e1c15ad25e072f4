"""Corrections that a person made on the pages of `inspect` → a data set for the next search.

The data set keeps the split of the run that judged: its tiles lie in `train`, `val` and `test` as
it had them, and tiles that were corrected come into `train`. Those of the run's own photographs go
where the run has these, and what it is tested on is never learnt from. Only tiles that a person
marked are taken: nobody said that all others are right.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.progress_bar import telling_progress
from ensemble.base.wording import plural
from ensemble.data.reading.listing import printable
from ensemble.data.reading.pictures import Picture, list_pictures
from ensemble.inspection.inspecting import check_folder
from ensemble.labelling.data_set import DataSet, alone, copy_tiles, renewed
from ensemble.labelling.known_tiles import KnownTiles, read_known_tiles
from ensemble.labelling.labels import read_labels
from ensemble.labelling.record import LEARNED_FILE, Record, read_record


class Learned(NamedTuple):
    """What was written.

    Attributes:
        folder: Folder of the data set.
        num_run_tiles: Tiles of the run in it; 0 for an exported ensemble, which holds none.
        num_tested: Those among them that the run is tested on, which stay as they are.
        num_corrected: Tiles that were corrected, by this call or an earlier one.
        num_cracked: Cracked ones among these.
        num_added: Tiles that this call cut from photographs.
        num_relabelled: Tiles that were there with the other label.
        num_same: Corrections that were there already.
        num_blank: Corrections of tiles that show nothing, which were left out.
        num_overruled: Corrections that a later one of the same tile took the place of.
        left_out: Names of photographs whose corrections were left out, with the reason.
        has_photographs: Whether `photographs.csv` says which photograph a tile comes from.
    """

    folder: Path
    num_run_tiles: int
    num_tested: int
    num_corrected: int
    num_cracked: int
    num_added: int
    num_relabelled: int
    num_same: int
    num_blank: int
    num_overruled: int
    left_out: dict[str, str]
    has_photographs: bool


def learn_from(
    run: Path,
    files: Sequence[Path],
    paths: Sequence[Path],
    folder: Path,
    *,
    data: Path | None = None,
    log: Callable[[str], None] = print,
) -> Learned:
    """Write a run's tiles and what a person corrected as a data set, or add to one.

    Args:
        run: The run that judged: its folder, or a file that `export` wrote.
        files: CSV files of corrections; of two of one tile the later one counts.
        paths: Pictures that were judged, and folders and .zip files of them.
        folder: Folder of the data set: a new or empty one, or that of an earlier call for the run.
        data: Folder or .zip that holds the run's tiles; None takes the one that it was made from.
        log: Takes lines about progress.

    Returns:
        What was written; `folder` is as it was where anything is raised.

    Raises:
        InputError: A label is damaged or of no tile, its picture was not given or cannot be read,
            nothing is left to learn from, the run's tiles are gone or changed, or `folder` holds
            something else.
        CannotWriteError: The disk does not take it.
    """
    labels = read_labels(files)
    known = read_known_tiles(run, data)
    with ExitStack() as archives:
        archives.enter_context(alone(folder, log))
        old = _read_old(folder, known)
        pictures, _ = list_pictures(list(paths), folder, archives, option="--folder")
        corrected = _match(labels, pictures)
        with renewed(folder) as partial:
            written = DataSet(partial, known, old)
            with telling_progress("cutting photographs", len(corrected), log) as tell:
                for picture, rows in corrected:
                    written.learn(picture, rows)
                    tell(1)
            counts = written.counts
            is_there = old is not None and counts["same"]  # the same command once more
            if not (counts["added"] or counts["relabelled"] or is_there):
                raise InputError(f"{files[0]}: nothing to learn from{_explain_nothing(written)}")
            if old is None:
                copy_tiles(known, partial, log)
            written.finish()
    return _describe(folder, known, written)


def _describe(folder: Path, known: KnownTiles, written: DataSet) -> Learned:
    """What went into a data set."""
    return Learned(
        folder=folder,
        num_run_tiles=len(known.table),
        num_tested=int((known.table["split"] == "test").sum()),
        num_corrected=len(written.tiles),
        num_cracked=sum(each.label for each in written.tiles.values()),
        num_added=written.counts["added"],
        num_relabelled=written.counts["relabelled"],
        num_same=written.counts["same"],
        num_blank=written.counts["blank"],
        num_overruled=written.counts["overruled"],
        left_out=written.left_out,
        has_photographs=known.has_photographs,
    )


def _read_old(folder: Path, known: KnownTiles) -> Record | None:
    """The record of a data set that is there; None where the folder is new or empty.

    Raises:
        InputError: It is of another run, or something else.
    """
    check_folder(folder, LEARNED_FILE)
    if not (folder / LEARNED_FILE).is_file():
        return None
    old = read_record(folder)
    ours = known.split_digest, known.tile_size_px
    if (old.split_digest, old.tile_size_px) != ours:
        raise InputError(
            f"--folder {folder}: has corrections of what {old.run} judged, whose split or tiles "
            "are others; name a new folder"
        )
    return old


def _match(labels: pd.DataFrame, pictures: Sequence[Picture]) -> list[tuple[Picture, pd.DataFrame]]:
    """The picture of each label, by its name or the end of its path.

    Raises:
        InputError: A picture was not given, or may be several.
    """
    paths = {picture.name: _path_of(picture) for picture in pictures}
    by_name = {picture.name: picture for picture in pictures}
    matched: dict[str, list[pd.DataFrame]] = {}
    for name, rows in labels.groupby("picture", sort=False):
        where, wanted = rows["where"].iloc[0], str(name)
        end = "/" + "/".join(part for part in wanted.split("/") if part not in ("", ".", ".."))
        found = [wanted] if wanted in by_name else [n for n, p in paths.items() if p.endswith(end)]
        if not found:
            raise InputError(
                f"{where}: {wanted} is none of {plural(len(pictures), 'picture')} that were given; "
                "name it, too, in the folder that it had when it was judged"
            )
        if len(found) > 1:
            raise InputError(f"{where}: {wanted} may be {found[0]} or {found[1]}; name one of them")
        matched.setdefault(found[0], []).append(rows)
    return [(by_name[name], pd.concat(parts)) for name, parts in matched.items()]


def _path_of(picture: Picture) -> str:
    """The whole path of a picture, printed as its name is; in a .zip it goes on inside."""
    if picture.archive is None:
        return printable(str(Path(picture.path).absolute()))
    return printable(f"/{picture.name}".replace("//", "/"))


def _explain_nothing(written: DataSet) -> str:
    """Why none of the corrections can be learnt from, as the end of a sentence."""
    counts = written.counts
    reasons = [f"{picture}: {reason}" for picture, reason in written.left_out.items()]
    if counts["blank"]:
        reasons.append(f"blank: {plural(counts['blank'], 'tile')}")
    if counts["same"]:
        reasons.append(f"there already with this label: {plural(counts['same'], 'tile')}")
    return "".join(f"; {reason}" for reason in reasons)
