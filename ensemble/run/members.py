"""A run's folder → its members; tiles → their probabilities, one row a member."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ensemble.base.errors import InputError, one_line
from ensemble.base.files import read_object, read_table
from ensemble.data.augmentation import NUM_TURNS
from ensemble.data.batches import SplitTiles
from ensemble.data.grid import PLACE
from ensemble.data.prepare import is_drawn
from ensemble.run.exported import (
    check_exported,
    is_exported,
    open_exported_members,
    read_exported_object,
)
from ensemble.run.folder import display_path
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.fold_networks import FoldNetworks
from ensemble.training.loop import predict_margins
from ensemble.training.metrics import margins_to_probabilities
from ensemble.training.precision import scoring_precision

FINISHED_STATES = ("COMPLETE", "PRUNED")
FOLDS = "folds"  # folder, in that of a refit, of the trials that leave out a fold each
MOST_NAMED = 10  # runs in a message


def find_run(run: str | None, *, under: Path, takes_exported: bool = False) -> Path:
    """Find a run's folder by its path, or by its name under `under`; without either the last one.

    Args:
        run: A path, or a name under `under`; None for the last run that has a finished trial.
        under: Folder of the runs.
        takes_exported: Whether a file that `export` wrote does as well; its path is returned then.

    Raises:
        InputError: There is no such run, or the file is damaged or does not do.
    """
    if run is None:
        return _find_last_run(under)[0]
    places = (Path(run), under / run)
    for place in places:
        if is_run(place):
            return place.resolve()
        if takes_exported and place.is_file():
            check_exported(place)
            return place.resolve()
    reasons = [reason for place in places if (reason := _explain_no_run(place))]
    reasons += [f"{run}: no run of that name in {under}, and no run's folder"]
    raise InputError(f"{reasons[0]}; {_say_what_does(under, takes_exported)}")


def take_run(
    run: str | None,
    *,
    under: Path,
    takes_exported: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Find a run as `find_run` does, and tell `log` which one it is; of the last one, why."""
    if run is not None:
        found, why = find_run(run, under=under, takes_exported=takes_exported), ""
    else:
        found, passed_over = _find_last_run(under)
        why = ", the last one"
        if passed_over:
            names = ", ".join(display_path(each) for each in passed_over)
            why += f" with a finished trial (without one: {names})"
    log(f"run: {display_path(found)}{why}")
    return found


def is_run(place: Path) -> bool:
    """Whether a folder is that of a run; the trials of a refit, each of a fold, are none."""
    if not (place / "run.json").is_file():
        return False
    return place.name != FOLDS or not (place.parent / "run.json").is_file()


def has_finished_trial(run: Path) -> bool:
    """Whether an ensemble was chosen from a run, or can be: a trial of it is finished.

    Raises:
        InputError: The table of trials is damaged.
    """
    if (run / "ensemble.json").is_file():
        return True  # also in an exported ensemble that somebody unpacked, which has no trials
    if not (run / "trials.csv").is_file():
        return False
    table = read_table(run / "trials.csv")
    return "state" in table and bool(table["state"].isin(FINISHED_STATES).any())


def list_runs(under: Path) -> list[Path]:
    """List the folders of the runs in a folder, the one that was started last first."""
    records = [path for path in under.glob("*/run.json") if not path.parent.name.startswith(".")]
    records.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.resolve() for path in records]


def _find_last_run(under: Path) -> tuple[Path, list[Path]]:
    """Find the last run with a finished trial, and those without one that were started later."""
    runs = list_runs(under)
    if not runs:
        raise InputError(f"no runs in {under}; search first, or name a run in another --out")
    for number, run in enumerate(runs):
        if has_finished_trial(run):
            return run, runs[:number]
    raise InputError(f"no run in {under} has a finished trial; {explain_unfinished(runs[0])}")


def explain_unfinished(run: Path) -> str:
    """Say how a run without a finished trial gets one."""
    record = display_path(run / "run.json")
    return f"wait for one, or give the command again that stands in {record}, to its end"


def _explain_no_run(place: Path) -> str:
    """Say what a path is that is no run; "" where there is nothing to say."""
    if is_exported(place):
        return (
            f"{place}: is an exported ensemble, which predict, inspect, serve and look take; this "
            "needs the trials, scores or tiles of its run"
        )
    if (place / "run.json").is_file():
        return f"{place}: holds the trials of a refit, each of other folds; name {place.parent}"
    if (place / FOLDS / "run.json").is_file():
        record = place / FOLDS / "run.json"
        return f"{place}: is a refit that is not finished; the command in {record} goes on"
    return f"{place}: is a folder, but not that of a run" if place.is_dir() else ""


def _say_what_does(under: Path, takes_exported: bool) -> str:
    """Say what a person can name as a run."""
    names = [run.name for run in list_runs(under)]
    here = f" ({', '.join(names[:MOST_NAMED])}{', …' * (len(names) > MOST_NAMED)})" if names else ""
    file = ", or that of a file that export wrote" if takes_exported else ""
    return f"a run is named by its name in {under}{here}, or by its path{file}"


def find_member(name: str, *, under: Path) -> Member:
    """The member that a person names: its folder, RUN/TRIAL, or RUN for the best with weights.

    An exported file does in place of a run.

    Raises:
        InputError: There is no such member, or it is damaged.
    """
    if (Path(name) / "member.json").is_file():
        return open_member(Path(name))
    trial = re.fullmatch(r"(.+)/(?:members/)?([0-9]{1,9})/?", name)
    if trial is not None:
        run = find_run(trial[1], under=under, takes_exported=True)
        if run.is_file():
            return _find_exported(run, int(trial[2]))
        folder = member_folder(run, int(trial[2]))
        if not folder.is_dir():
            there = ", ".join(sorted(path.name for path in run.glob("members/*"))[:20])
            raise InputError(f"{name}: {run} has no such member (there is {there or 'none'})")
        return open_member(folder)
    run = find_run(name, under=under, takes_exported=True)
    if run.is_file():
        return rank_members(open_exported_members(run))[0]
    digest = read_object(run / "run.json", split_digest=str)["split_digest"]
    for member in rank_members(open_members(run, split_digest=digest)):
        if member.has_weights:
            return member
    raise InputError(
        f"{run}: no finished trial with weights; {explain_unfinished(run)}, or name another run"
    )


def _find_exported(file: Path, trial: int) -> Member:
    """The member of a trial in an exported file."""
    members = {member.trial: member for member in open_exported_members(file)}
    if trial not in members:
        there = ", ".join(map(str, sorted(members)))
        raise InputError(f"{file}: has no member of trial {trial} (there is {there})")
    return members[trial]


def find_run_of(member: Member) -> Path:
    """The folder of the run, or the exported file, that a member lies in.

    Raises:
        InputError: It lies in none.
    """
    for place in member.folder.resolve().parents:
        if place.is_file() or (place / "run.json").is_file():
            return place
    raise InputError(
        f"{member.folder}: lies in no run, whose run.json would say how large its tiles are; name "
        "the member in the folder of its run"
    )


def read_about(run: Path) -> dict[str, Any]:
    """What `run.json` holds, in a run's folder or in an exported file.

    Raises:
        InputError: It is missing or damaged.
    """
    return read_exported_object(run, "run.json") if run.is_file() else read_object(run / "run.json")


def name_run(run: Path) -> str:
    """Name of a run or an exported file, for people, with a word where it has only seen drawings.

    Raises:
        InputError: `run.json` is missing or damaged.
    """
    name = run.stem if run.is_file() else run.name
    drawn = " (trained on drawn concrete: for trying out only)"
    return name + drawn * is_drawn(str(read_about(run).get("data", "")))


def read_tile_size(run: Path) -> tuple[int, int]:
    """(height, width) in pixels of the tiles that a run was trained on.

    Raises:
        InputError: `run.json` does not say.
    """
    return _read_size(run, "tile_size_px")


def read_stored_size(run: Path) -> tuple[int, int]:
    """(height, width) at which the pixels of a run's tiles are stored: their own, or smaller.

    Raises:
        InputError: `run.json` does not say.
    """
    is_said = "stored_size_px" in read_about(run)  # once all were as they came
    return _read_size(run, "stored_size_px" if is_said else "tile_size_px")


def _read_size(run: Path, name: str) -> tuple[int, int]:
    size = read_about(run).get(name)
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(n) is int and n > 0 for n in size)
    ):
        raise InputError(
            f"{run / 'run.json'}: no '{name}': [height, width] of the tiles trained on "
            f"(got {size!r}), so pictures cannot be cut; add it, or search again"
        )
    return size[0], size[1]


def member_folder(run: Path, trial: int) -> Path:
    """Folder of the member of a trial."""
    return run / "members" / f"{trial:04}"


def open_members(
    run: Path, *, split_digest: str, log: Callable[[str], None] = print
) -> list[Member]:
    """The member of every trial that finished or was stopped early, by trial number.

    A member whose files are missing or damaged is left out, and `log` gets a line about it. Members
    whose weights were dropped are returned, as their scores count. Digests of weights are checked
    when they are loaded.

    Raises:
        InputError: The table of trials is damaged, or a member was trained on another split.
    """
    trials = run / "trials.csv"
    if not trials.exists() or (table := read_table(trials)).empty:
        return []
    for column in ("trial", "state"):
        if column not in table:
            raise InputError(f"{trials} has no column {column!r}")
    if not pd.api.types.is_integer_dtype(table["trial"]) or (table["trial"] < 0).any():
        raise InputError(f"{trials}: damaged (a trial is no whole number)")
    members = []
    for trial in sorted(table.loc[table["state"].isin(FINISHED_STATES), "trial"]):
        folder = member_folder(run, trial)
        if not folder.is_dir():
            log(f"{folder} is missing: trial {trial} is left out")
            continue
        try:
            member = open_member(folder)
            member.check()
        except InputError as error:
            log(f"{one_line(str(error))}: trial {trial} is left out")
            continue
        if member.record.split_digest != split_digest:
            raise InputError(
                f"{member.folder}: foreign member, trained on split "
                f"{member.record.split_digest[:12]}, not {split_digest[:12]}; move that folder "
                "away to go on without it"
            )
        members.append(member)
    return members


def read_validation(run: Path) -> pd.DataFrame:
    """The validation tiles, in the order of every member's scores: photograph, label, place, …

    A label is 0 or 1; a place, a row and a column from 0, is -1 where it is not known.

    Raises:
        InputError: The table is missing or damaged.
    """
    path = run / "validation.csv"
    text = ("tile", "photograph", "surface")
    table = read_table(path, columns=(*text, "label", *PLACE), text=text)
    if not table["label"].isin([0, 1]).all():
        raise InputError(f"{path}: damaged (a label is neither 0 nor 1)")
    for name in PLACE:
        if not pd.api.types.is_integer_dtype(table[name]):
            raise InputError(f"{path}: damaged ({name} holds what is no whole number)")
    return table


def check_scored(member: Member, num_tiles: int) -> None:
    """Raise InputError unless a member has a score of each validation tile of its run."""
    if member.record.num_val_tiles != num_tiles:
        raise InputError(
            f"{member.folder}: has scores of {member.record.num_val_tiles} tiles, not of the "
            f"{num_tiles} in validation.csv"
        )


def rank_members(members: Sequence[Member]) -> list[Member]:
    """Members by validation F1, the best first; equal ones by the number of their trial."""
    return sorted(members, key=lambda member: (-member.val_f1, member.trial))


def see_context(members: Sequence[Member]) -> bool:
    """Whether any member sees more than the tile itself."""
    return any(member.record.config.data.context_px > 0 for member in members)


def score_tiles(
    members: Sequence[Member],
    tiles: SplitTiles,
    *,
    tta: bool = False,
    alone: bool = False,
    each_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Members' probabilities of "cracked": (M, N) float64; each is loaded, used and let go."""
    how: Any = {"tta": tta, "alone": alone, "each_batch": each_batch}
    return np.stack([score_with(each, each.load_model(), tiles, **how) for each in members])


def count_scores(members: Sequence[Member], tiles: SplitTiles, *, tta: bool = False) -> int:
    """How many tiles `score_tiles` tells `each_batch` of, those of all turns and members."""
    return len(members) * len(tiles) * (NUM_TURNS if tta else 1)


def score_with(
    member: Member,
    model: nn.Module,
    tiles: SplitTiles,
    *,
    tta: bool = False,
    alone: bool = False,
    each_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """One member's probabilities of "cracked" of every tile: (N,) float64.

    Args:
        member: Member whose image size and precision are used.
        model: Network that `member.load_model` returned.
        tiles: Tiles to score, each by the network that left out its fold where they have folds.
        tta: Whether to average over the eight flips and quarter turns of each tile.
        alone: Whether each tile is judged without its neighbours.
        each_batch: Told the number of tiles of each batch that was scored, in each turn anew.
    """
    model = model.to(tiles.device).to(memory_format=torch.channels_last)
    if tiles.folds is not None and isinstance(model, FoldNetworks):
        assert len(model.networks) == member.record.num_folds, "each fold needs its own network"
        probabilities = np.empty(len(tiles))
        for fold, network in enumerate(model.networks):
            index = (tiles.folds == fold).nonzero().flatten()
            part = replace(tiles.take(index), folds=None)
            probabilities[index.numpy()] = score_with(
                member, network, part, tta=tta, alone=alone, each_batch=each_batch
            )
        return probabilities
    margins = [
        predict_margins(
            model,
            tiles,
            member.record.view,
            precision=scoring_precision(member.record.precision, tiles.device),
            turn=turn,
            alone=alone,
            each_batch=each_batch,
        )
        for turn in range(NUM_TURNS if tta else 1)
    ]
    return margins_to_probabilities(np.stack(margins)).mean(axis=0)


def choose_device(gpus: int | None = None) -> torch.device:
    """The first GPU, or the CPU.

    Args:
        gpus: 0 for the CPU, 1 for a GPU, None for a GPU where there is one.

    Raises:
        InputError: A GPU is asked for, and there is none.
    """
    if gpus and not torch.cuda.is_available():
        raise InputError("--gpus 1: torch finds no GPU here; --gpus 0 trains on the CPU")
    return torch.device("cuda" if gpus != 0 and torch.cuda.is_available() else "cpu")
