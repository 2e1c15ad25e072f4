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
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.fold_networks import FoldNetworks
from ensemble.training.loop import predict_margins
from ensemble.training.metrics import margins_to_probabilities
from ensemble.training.precision import scoring_precision

FINISHED_STATES = ("COMPLETE", "PRUNED")
FOLDS = "folds"  # folder, in that of a refit, of the trials that leave out a fold each


def find_run(run: str | None, *, under: Path, takes_exported: bool = False) -> Path:
    """A run's folder by path or by its name under `under`; the last one started without either.

    Args:
        run: A path, or a name under `under`; None for the last one.
        under: Folder of the runs.
        takes_exported: Whether a file that `export` wrote does as well; its path is returned then.

    Raises:
        InputError: There is no such run, or the file is damaged or does not do.
    """
    if run is not None:
        for place in (Path(run), under / run):
            if (place / "run.json").is_file():
                if place.name == FOLDS and (place.parent / "run.json").is_file():
                    raise InputError(
                        f"{place}: holds the trials of a refit, each of other folds; name the "
                        f"refit, {place.parent}"
                    )
                return place.resolve()
            if takes_exported and place.is_file():
                check_exported(place)
                return place.resolve()
            if is_exported(place):
                raise InputError(
                    f"{place}: is an exported ensemble, which holds what predict, inspect, serve "
                    "and look need; this needs the trials, scores or tiles of its run: name the "
                    "run's folder"
                )
        _refuse_refit_in_the_making(run, under)
        file = ", nor an exported ensemble" if takes_exported else ""
        raise InputError(f"{run}: no run of that name in {under}, and no run's folder{file}")
    runs = sorted(under.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        file = " or exported ensemble" if takes_exported else ""
        raise InputError(f"no runs in {under}; search first, or name the run's folder{file}")
    return runs[-1].parent.resolve()


def _refuse_refit_in_the_making(run: str, under: Path) -> None:
    """Raise InputError where the name is that of a refit whose trials are not all trained."""
    for place in (Path(run), under / run):
        if (place / FOLDS / "run.json").is_file():
            raise InputError(
                f"{place}: is a refit that is not finished; the command that began it, which "
                f"stands in {place / FOLDS / 'run.json'}, goes on"
            )


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
    raise InputError(f"{run}: no finished trial with weights; train one, or name another run")


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
