"""The ensemble of a run on another labelled data set, all of whose tiles are judged.

Nothing is fitted here: members, weights, temperature, threshold and second stage are those of
`ensemble.json`. A tile that the run was trained or chosen on says nothing about other photographs,
and neither does another tile of the same photograph: both are left out and counted, whatever they
are called. A tile is known again by the bytes of its file, or by its packed pixels. Each time is
written to a ledger before a tile is scored, and where the run's own test tiles are among the
others, to that of its test split, too.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import read_object, write_json, write_table
from ensemble.base.provenance import describe_code_and_machine
from ensemble.base.wording import plural
from ensemble.data.batches import place_table
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack, open_pack
from ensemble.data.prepare import prepare_whole
from ensemble.evaluation.figures import (
    coverage_note,
    describe_ways,
    ensemble_figures,
    gain_over_trivial,
    photograph_of,
    surface_figures,
    unit_of,
)
from ensemble.evaluation.ledger import note_opening
from ensemble.evaluation.scoring import judge_tiles, score_members, tabulate
from ensemble.run.folder import run_lock
from ensemble.run.pack import find_pack
from ensemble.selection.choice import EnsembleRecord, open_choice
from ensemble.selection.ensemble import Ensemble, load_ensemble
from ensemble.selection.neighbours import Places
from ensemble.training.metrics import check_both_classes

NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
KNOWN_BY = ["row", "content", "tile", "photograph"]
WITH_CONTEXT = 1  # of the three ways: how evaluate judges, too


def judge_data(
    run: Path,
    data: str,
    layout: Layout,
    *,
    name: str | None = None,
    max_bad_tiles: int = 10,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Judge all tiles of a data set, write `judged/NAME/` into the run and return its metrics.

    Args:
        run: A run's folder.
        data: Path of a folder or a .zip of tiles in class folders, or `synthetic`.
        layout: Layout of the data, as the person states it.
        name: Name of the folder; None takes the data's.
        max_bad_tiles: Largest number of unreadable tiles to leave out before it is an error.
        log: Takes lines about the data, and now and then one while tiles are scored.

    Returns:
        What `judged/NAME/metrics.json` holds.

    Raises:
        InputError: No ensemble was chosen, the run's own tiles are gone, the data cannot be used,
            nothing but known tiles is left, or one class, or `name` has other tiles' figures.
    """
    record, _ = open_choice(run)
    ensemble = load_ensemble(run, record=record)
    folder = run / "judged" / _check_name(name, data)
    with run_lock(folder, what="judgement"):
        own = open_pack(find_pack(run))
        packed = prepare_whole(
            data,
            layout,
            tile_size=ensemble.tile_size_px,
            stored=ensemble.stored_size_px,
            max_bad_tiles=max_bad_tiles,
            packs=run.parent / "packs",
            log=log,
        )
        _refuse_other_tiles(folder, packed)
        pixels = packed.pixels("test")
        left = _leave_out_known(packed.table("test"), pixels, own, data)
        check_both_classes(left.table["label"].to_numpy(), what="the tiles left to judge")
        count = note_opening(folder / "ledger.csv", record)
        if left.num_own_test_tiles:
            note_opening(run / "evaluation" / "ledger.csv", record, f" (judged in {folder.name})")
        predictions, figures = _judge(packed, pixels, left.table, ensemble, record, log)
        metrics = {
            "name": folder.name,
            **figures,
            **_describe_judged(packed, left, predictions),
            "trained_on": _describe_training(run, own),
            "num_judgements": count,
            "judged_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **describe_code_and_machine(),
        }
        write_table(folder / "predictions.csv", predictions)
        write_json(folder / "metrics.json", metrics)
    return metrics


def _refuse_other_tiles(folder: Path, packed: Pack) -> None:
    """Keep the figures of other tiles, which stand under the same name."""
    path = folder / "metrics.json"
    if not path.exists():
        return
    known = read_object(path, data=dict)["data"]
    if known.get("tiles_digest") != packed.record["tiles_digest"]:
        raise InputError(
            f"{path} has the figures of other tiles, from {known.get('source')}; name this "
            "judgement with --name"
        )


def _judge(
    packed: Pack,
    pixels: np.ndarray,
    table: pd.DataFrame,
    ensemble: Ensemble,
    record: EnsembleRecord,
    log: Callable[[str], None],
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Score the tiles of a table; return a row a tile, and the figures."""
    tiles = place_table(packed, table, pixels, ensemble.device)
    scores = score_members(tiles, [ensemble], what="tiles", log=log)
    judged = judge_tiles(ensemble, scores, tiles, Places.of(table))
    predictions = tabulate(table, judged, scores, ensemble.members)
    way = judged.ways[WITH_CONTEXT]
    return predictions, {
        "ensemble": ensemble_figures(predictions, way, record.val_metrics["f1"]),
        "surfaces": surface_figures(predictions, way),
        "gain_over_trivial": gain_over_trivial(predictions, way),
        "ways": describe_ways(predictions, judged.ways),
        "choice": record.model_dump(mode="json"),
        "precision_note": ensemble.precision_note,
    }


def _check_name(name: str | None, data: str) -> str:
    """The name of the folder: what a person gave, or that of the data as a plain word."""
    if name is None:
        stem = Path(data).expanduser().resolve().stem
        return re.sub(r"[^\w.-]+", "-", stem, flags=re.ASCII).strip("-.")[:100] or "data"
    if not NAME.fullmatch(name):
        raise InputError(
            f"--name {short_repr(name)}: must be letters, digits, '_', '.' and '-', at most 100"
        )
    return name


class _Left(NamedTuple):
    """The tiles that are left to judge, and how many are not.

    Attributes:
        table: Tiles that the run was not trained or chosen on.
        num_known: Tiles that are among the run's training and validation tiles.
        num_beside: Other tiles of the same photographs.
        num_own_test_tiles: Tiles that are among the run's test tiles, and stay.
        num_namesakes: Tiles that stay, whose photograph and name are those of a tile that the run
            was trained or chosen on, with other pixels.
    """

    table: pd.DataFrame
    num_known: int
    num_beside: int
    num_own_test_tiles: int
    num_namesakes: int


def _leave_out_known(table: pd.DataFrame, pixels: np.ndarray, own: Pack, data: str) -> _Left:
    """Leave out what the run was trained or chosen on, and what else its photographs show."""
    known = pd.concat([own.table(split, KNOWN_BY) for split in ("train", "val")])
    sums = {_digest(row) for row in _rows(own.pixels("train"), known["row"])}
    rows = _rows(pixels, table["row"])
    has_pixels = np.array([_digest(row) in sums for row in rows], dtype=bool)
    is_known = table["content"].isin(known["content"]).to_numpy() | has_pixels
    named = table["photograph"] != ""
    shared = set(table["photograph"][is_known & named])
    is_beside = (table["photograph"].isin(shared) & ~is_known).to_numpy()
    left = table[~is_known & ~is_beside].reset_index(drop=True)
    if left.empty:
        tiles, others = plural(int(is_known.sum()), "tile"), int(is_beside.sum())
        beside = f", and the other {others:,} are of the same photographs" if others else ""
        raise InputError(
            f"--data {data}: the run was trained or chosen on {tiles} of these{beside}, so that "
            "nothing is left to judge; give data that the run has not seen"
        )
    tested = own.table("test", ["content"])["content"]
    num_own_test_tiles = int(left["content"].isin(tested).sum())
    num_namesakes = len(set(_names(left)) & set(_names(known)))
    return _Left(left, int(is_known.sum()), int(is_beside.sum()), num_own_test_tiles, num_namesakes)


def _names(table: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Photograph and name, without the kind of file, of each tile whose photograph is known."""
    for tile, photograph in zip(table["tile"], table["photograph"], strict=True):
        if photograph:
            yield photograph, PurePath(tile).stem


def _rows(pixels: np.ndarray, rows: pd.Series) -> Any:
    return (pixels[row] for row in rows.to_numpy())


def _digest(row: np.ndarray) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _describe_judged(packed: Pack, left: _Left, predictions: pd.DataFrame) -> dict[str, Any]:
    record, unit = packed.record, unit_of(predictions)
    count = len(set(photograph_of(predictions)))
    kept = ("source", "cracked_folders", "uncracked_folders", "tiles_digest", "labels_digest",
            "num_relabelled", "resized_tiles", "photograph_doubt", "classes_by_size", "bad_tiles",
            "odd_tiles", "contradictory_tiles", "duplicates", "grid")  # fmt: skip
    return {
        "num_tiles": len(predictions),
        "num_photographs": count if unit == "photograph" else None,
        "intervals": coverage_note(count, unit=unit),
        "num_known_tiles": left.num_known,
        "num_tiles_beside_known": left.num_beside,
        "num_own_test_tiles": left.num_own_test_tiles,
        "num_namesakes": left.num_namesakes,
        "data": {name: record[name] for name in kept},
    }


def _describe_training(run: Path, own: Pack) -> dict[str, Any]:
    """Which data the run was trained and chosen on."""
    about = read_object(run / "run.json", data=str, split_digest=str)
    tables = {split: own.table(split, ["surface"]) for split in ("train", "val")}
    surfaces = set().union(*(table["surface"] for table in tables.values()))
    return {
        "data": about["data"],
        "split_digest": about["split_digest"],
        "num_tiles": {split: len(table) for split, table in tables.items()},
        "surfaces": sorted(surfaces - {""}),
    }
