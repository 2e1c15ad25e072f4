"""Splits photographs into train, val and test; counts exact duplicates once; digests a split.

Tiles of one photograph share light, texture and often one crack, so they stay together. Within each
surface the photographs are ordered by their share of cracked tiles and cut into as many runs of
neighbours as the split needs photographs; one of each run is drawn (stratified sampling). The draw
is by SHA-256 of seed and photograph: no random number generator, hence the same on every machine.
"""

import hashlib
from typing import NamedTuple

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.wording import plural

SPLITS = ("train", "val", "test")


class Fractions(NamedTuple):
    """Shares of the photographs of each surface."""

    train: float = 0.70
    val: float = 0.15
    test: float = 0.15


DEFAULT_FRACTIONS = Fractions()


def drop_duplicates(tiles: pd.DataFrame) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Count each content once; leave out contents that carry both labels.

    Args:
        tiles: Table with `tile`, `label`, `photograph` and `content` (equal for equal bytes).

    Returns:
        The tiles kept (of each content the first by name, of those with a photograph if any has
        one), the names of the copies, and the names of the tiles whose bytes are in both classes.
    """
    tiles = tiles.sort_values("tile", ignore_index=True)
    contradictory = tiles.groupby("content")["label"].transform("nunique") > 1
    by_preference = tiles.assign(is_odd=tiles["photograph"] == "").sort_values(["is_odd", "tile"])
    copies = by_preference.duplicated("content").reindex(tiles.index) & ~contradictory
    kept = tiles[~contradictory & ~copies].reset_index(drop=True)
    return kept, tiles.loc[copies, "tile"].tolist(), tiles.loc[contradictory, "tile"].tolist()


def assign_splits(
    tiles: pd.DataFrame, *, seed: int, fractions: Fractions = DEFAULT_FRACTIONS, leaky: bool = False
) -> pd.Series:
    """Assign every tile to a split by its photograph, or by its content where there is none.

    Args:
        tiles: Table of `photograph`, `surface`, `label`, `content`, and `folder_label` where labels
            were corrected.
        seed: Seed of the draw.
        fractions: Shares of the photographs of each surface.
        leaky: Whether to split by content in spite of known photographs, to show what leakage is
            worth.

    Returns:
        `train`, `val` or `test` for each row of `tiles`.

    Raises:
        InputError: A surface has fewer than three photographs, or a split lacks a class.
    """
    unit = _units(tiles, leaky=leaky)
    units = _describe_units(tiles, unit)
    split_of_unit: dict[str, str] = {}
    for surface, group in units.groupby("surface", sort=True):
        if len(group) < 3:
            where = f"surface {surface!r} has" if surface else "there are"
            raise InputError(
                f"too few photographs to split: {where} {len(group)}; at least 3 are needed "
                "(one each for training, validation and test)"
            )
        split_of_unit |= _draw(group["rate"], seed, {"test": fractions.test, "val": fractions.val})
    splits = unit.map(split_of_unit).rename("split")
    _check_classes(tiles["label"], splits, what="too few photographs to split")
    return splits


def keep_splits(tiles: pd.DataFrame, *, seed: int) -> pd.Series:
    """Keep the split that a person made; without validation tiles they are drawn from training.

    Args:
        tiles: Table of `tile`, `split_folder`, and the columns that `assign_splits` needs.
        seed: Seed of the draw.

    Returns:
        `train`, `val` or `test` for each row of `tiles`.

    Raises:
        InputError: A tile lies in none of the folders, training or test is missing, a photograph
            is in two, or a split lacks a class.
    """
    splits = tiles["split_folder"].rename("split")
    outside = tiles.loc[splits == "", "tile"]
    if len(outside):
        named = ", ".join(outside[:3])
        raise InputError(
            f"--split folders: {len(outside)} tiles lie in no folder called train, val or test "
            f"({named}{', …' * (len(outside) > 3)}); move them, --exclude their folder, or leave "
            "--split out"
        )
    for needed in ("train", "test"):
        if not splits.eq(needed).any():
            raise InputError(f"--split folders: there is no {needed} folder; make one, or leave "
                             "--split out")  # fmt: skip
    unit = _units(tiles)
    torn = splits.groupby(unit).unique().loc[lambda folders: folders.map(len) > 1]
    if len(torn):
        raise InputError(
            f"--split folders: photographs that lie in two folders: {len(torn)} (the first is "
            f"{torn.index[0]}, in {' and '.join(sorted(torn.iloc[0]))}): what is tested was "
            "trained on, at least in part; move all tiles of a photograph into one folder, or "
            "leave --split out"
        )
    if not splits.eq("val").any():
        training = tiles[splits == "train"]
        units = _describe_units(training, unit[training.index])
        share = DEFAULT_FRACTIONS.val / (DEFAULT_FRACTIONS.train + DEFAULT_FRACTIONS.val)
        drawn: dict[str, str] = {}
        for _, group in units.groupby("surface", sort=True):
            drawn |= _draw(group["rate"], seed, {"val": share}) if len(group) > 1 else {}
        splits = splits.mask(splits == "train", unit.map(drawn).fillna(splits))
    _check_classes(tiles["label"], splits, what="--split folders")
    return splits


def assign_folds(tiles: pd.DataFrame, *, count: int, leaky: bool = False) -> pd.Series:
    """Assign every tile to one of `count` folds by its photograph, or by its content.

    The folds are drawn as splits are: within each surface, of every `count` photographs that are
    neighbours by their share of cracked tiles, one goes to each fold.

    Args:
        tiles: Table of `photograph`, `surface`, `label` and `content`.
        count: Number of folds, at least 2.
        leaky: Whether the split is by content in spite of known photographs.

    Returns:
        Number of the fold, from 0, for each row of `tiles`.

    Raises:
        InputError: There are fewer photographs than folds, or a fold lacks a class.
    """
    unit = _units(tiles, leaky=leaky)
    units = _describe_units(tiles, unit)
    if len(units) < count:
        raise InputError(f"--folds {count}: there are {plural(len(units), 'photograph')}")
    fold_of_unit: dict[str, int] = {}
    for _, group in units.groupby("surface", sort=True):
        ordered = _order(group["rate"], seed=0)
        for first in range(0, len(ordered), count):
            start = len(fold_of_unit)  # so that what is left over of a surface fills up the last
            drawn = sorted(ordered[first : first + count], key=lambda name: _ticket(1, name))
            fold_of_unit |= {name: (start + i) % count for i, name in enumerate(drawn)}
    folds = unit.map(fold_of_unit).rename("fold")
    for number in range(count):
        if tiles.loc[folds == number, "label"].nunique() < 2:
            raise InputError(
                f"--folds {count}: the tiles of fold {number} are of one class; take fewer folds"
            )
    return folds


def _units(tiles: pd.DataFrame, *, leaky: bool = False) -> pd.Series:
    """The unit of each tile: its photograph, or its content where no photograph is known."""
    has_photographs = bool((tiles["photograph"] != "").all())
    return tiles["photograph"] if has_photographs and not leaky else tiles["content"]


def _describe_units(tiles: pd.DataFrame, unit: pd.Series) -> pd.DataFrame:
    """The surface of each unit, and its share of cracked tiles, by which the draw is stratified.

    Labels count as they were before a correction: the same photographs are held out as before it,
    and none on which settings were chosen comes into the test.
    """
    label = "folder_label" if "folder_label" in tiles else "label"
    return tiles.groupby(unit, sort=True).agg(surface=("surface", "min"), rate=(label, "mean"))


def _check_classes(labels_of_tiles: pd.Series, splits: pd.Series, *, what: str) -> None:
    """Make sure that each split has tiles of both classes."""
    for split in SPLITS:
        labels = labels_of_tiles[splits == split]
        if labels.nunique() < 2:
            missing = "uncracked" if labels.eq(1).any() else "cracked"
            raise InputError(
                f"{what}: the {split} tiles have no {missing} one; add photographs of both kinds"
            )


def _draw(rates: pd.Series, seed: int, shares: dict[str, float]) -> dict[str, str]:
    """Draw the photographs of one surface; `rates` is indexed by photograph."""

    ordered = _order(rates, seed=seed)
    result = dict.fromkeys(ordered, "train")
    for split, fraction in shares.items():
        remaining = [photograph for photograph in ordered if result[photograph] == "train"]
        count = max(1, round(fraction * len(ordered)))
        for run in range(count):
            first, last = run * len(remaining) // count, (run + 1) * len(remaining) // count
            result[min(remaining[first:last], key=lambda name: _ticket(seed, name))] = split
    return result


def _order(rates: pd.Series, *, seed: int) -> list[str]:
    """Photographs by their share of cracked tiles, equal ones by lot."""
    return sorted(rates.index, key=lambda name: (rates[name], _ticket(seed, name)))


def _ticket(seed: int, photograph: str) -> str:
    return hashlib.sha256(f"{seed}:{photograph}".encode()).hexdigest()


def digest_split(tiles: pd.DataFrame) -> str:
    """SHA-256 over content, split, label, surface and photograph of the tiles, in any order.

    It does not depend on the names of the files.
    """
    return digest_columns(tiles, "content", "split", "label", "surface", "photograph")


def digest_columns(tiles: pd.DataFrame, *columns: str) -> str:
    """SHA-256 over the sorted rows of some columns of a table of tiles."""
    rows = sorted(zip(*(tiles[column].astype(str) for column in columns), strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()
