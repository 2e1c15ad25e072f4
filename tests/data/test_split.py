"""Facts about the split: whole photographs, every surface and class in each, the same anywhere."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.base.errors import InputError
from ensemble.data.split import (
    SPLITS,
    Fractions,
    assign_folds,
    assign_splits,
    digest_split,
    drop_duplicates,
    keep_splits,
)

# surface, tiles cracked and uncracked of each photograph
PHOTOGRAPHS = st.dictionaries(
    st.sampled_from("DWP"),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=3, max_size=16),
    min_size=1,
)
SEEDS = st.integers(0, 2**32)


def table_of(photographs: list[tuple[str, str, int, int]]) -> pd.DataFrame:
    """Tiles of photographs given as (name, surface, number cracked, number uncracked)."""
    rows = [
        (f"{surface}/{label}/{name}-{tile}.jpg", name, surface, label)
        for name, surface, cracked, uncracked in photographs
        for tile, label in enumerate([1] * cracked + [0] * uncracked)
    ]
    tiles = pd.DataFrame(rows, columns=["tile", "photograph", "surface", "label"])
    return tiles.assign(content=tiles["tile"].map(lambda t: hashlib.md5(t.encode()).hexdigest()))


def table_by_surface(photographs: dict[str, list[tuple[int, int]]]) -> pd.DataFrame:
    return table_of(
        [
            (f"{surface}{number}", surface, *counts)
            for surface, found in photographs.items()
            for number, counts in enumerate(found)
        ]
    )


def split_by_photograph(tiles: pd.DataFrame, **options: object) -> dict[str, str]:
    splits = assign_splits(tiles, **{"seed": 0, **options})
    return dict(zip(tiles["photograph"], splits, strict=True))


# By photograph


@settings(max_examples=12, deadline=None)
@given(photographs=PHOTOGRAPHS, seed=SEEDS)
def test_photograph_never_appears_in_two_splits_and_every_tile_is_in_one(
    photographs: dict[str, list[tuple[int, int]]], seed: int
) -> None:
    tiles = table_by_surface(photographs)
    splits = assign_splits(tiles, seed=seed)
    assert set(splits) == set(SPLITS)
    assert splits.index.equals(tiles.index)
    assert splits.groupby(tiles["photograph"]).nunique().eq(1).all()


@settings(max_examples=12, deadline=None)
@given(photographs=PHOTOGRAPHS, seed=SEEDS)
def test_each_surface_has_its_share_of_photographs_in_each_split(
    photographs: dict[str, list[tuple[int, int]]], seed: int
) -> None:
    tiles = table_by_surface(photographs)
    tiles["split"] = assign_splits(tiles, seed=seed)
    counts = tiles.groupby(["surface", "split"])["photograph"].nunique()
    for surface, found in photographs.items():
        share = max(1, round(0.15 * len(found)))
        assert counts[surface, "test"] == share
        assert counts[surface, "val"] == share
        assert counts[surface, "train"] == len(found) - 2 * share


@settings(max_examples=12, deadline=None)
@given(photographs=PHOTOGRAPHS, seed=SEEDS, order=st.integers(0, 1000))
def test_order_of_rows_is_irrelevant(
    photographs: dict[str, list[tuple[int, int]]], seed: int, order: int
) -> None:
    tiles = table_by_surface(photographs)
    tiles["split"] = assign_splits(tiles, seed=seed)
    shuffled = tiles.sample(frac=1, random_state=order)
    assert assign_splits(shuffled, seed=seed).equals(shuffled["split"])


@settings(max_examples=12, deadline=None)
@given(seed=SEEDS)
def test_one_test_photograph_comes_from_each_third_by_share_of_cracks(seed: int) -> None:
    # 18 photographs of different shares: round(0.15 · 18) = 3 for the test, one of each six.
    tiles = table_of([(f"{number:02}", "", number, 19 - number) for number in range(1, 19)])
    drawn = [int(p) for p, s in split_by_photograph(tiles, seed=seed).items() if s == "test"]
    assert [(number - 1) // 6 for number in sorted(drawn)] == [0, 1, 2]


def test_draw_worked_out_by_hand() -> None:
    # sha256("0:1") … sha256("0:6") begin with ef, 93, 76, 48, cc, a7. All shares are equal, one
    # photograph each for test and val: the lowest digest is 4's, the lowest of the rest 3's.
    tiles = table_of([(name, "", 1, 1) for name in "123456"])
    assert split_by_photograph(tiles, seed=0) == {
        "1": "train", "2": "train", "3": "val", "4": "test", "5": "train", "6": "train",
    }  # fmt: skip


def test_split_is_the_same_on_every_machine() -> None:
    """Pinned: a change here means that every split and number so far is out of date."""
    tiles = table_of(
        [(f"{7000 + n}", "DW"[n % 2], 1 + n * 7 % 5, 1 + n * 3 % 4) for n in range(24)]
    )
    splits = split_by_photograph(tiles, seed=0)
    drawn = {split: [p for p, s in splits.items() if s == split] for split in ("test", "val")}
    assert drawn == {
        "test": ["7007", "7012", "7014", "7015"],
        "val": ["7000", "7001", "7002", "7011"],
    }


def test_other_seeds_give_other_splits() -> None:
    tiles = table_of([(str(number), "", 1, 1) for number in range(12)])
    found = {tuple(split_by_photograph(tiles, seed=seed).values()) for seed in range(10)}
    assert len(found) == 10


def test_another_surface_changes_nothing_for_the_first() -> None:
    decks = [(f"7{number:03}", "D", 1, number) for number in range(1, 9)]
    walls = [(f"8{number:03}", "W", 1, number) for number in range(1, 9)]
    alone, both = split_by_photograph(table_of(decks)), split_by_photograph(table_of(decks + walls))
    assert {photograph: both[photograph] for photograph in alone} == alone


def test_photograph_of_two_surfaces_is_in_one_split_whatever_the_order_of_rows() -> None:
    photographs = [(str(number), "DW"[number % 2], 1, 1) for number in range(40)]
    tiles = table_of([*photographs, *((name, "E", 1, 1) for name, *_ in photographs[:20])])
    tiles["split"] = assign_splits(tiles, seed=0)
    assert tiles.groupby("photograph")["split"].nunique().eq(1).all()
    reversed_tiles = tiles[::-1]
    assert assign_splits(reversed_tiles, seed=0).equals(reversed_tiles["split"])


def test_fractions_are_of_the_photographs() -> None:
    tiles = table_of([(str(number), "", 1, 1) for number in range(20)])
    splits = split_by_photograph(tiles, fractions=Fractions(train=0.5, val=0.2, test=0.3))
    assert pd.Series(splits).value_counts().to_dict() == {"train": 10, "test": 6, "val": 4}


def test_three_photographs_are_enough_and_two_are_not() -> None:
    photographs = [(str(number), "D", 1, 1) for number in range(3)]
    assert sorted(split_by_photograph(table_of(photographs)).values()) == sorted(SPLITS)
    with pytest.raises(InputError, match=r"too few photographs .*surface 'D' has 2; at least 3"):
        assign_splits(table_of(photographs[:2]), seed=0)


def test_too_few_photographs_of_one_surface_name_the_surface() -> None:
    photographs = [(f"7{number}", "D", 1, 1) for number in range(9)] + [("8", "W", 1, 1)]
    with pytest.raises(InputError, match="surface 'W' has 1"):
        assign_splits(table_of(photographs), seed=0)


@pytest.mark.parametrize(("label", "missing"), [(0, "cracked"), (1, "uncracked")])
def test_split_without_a_class_is_an_input_error(label: int, missing: str) -> None:
    # One photograph of five has the other class, so two splits must do without it.
    photographs = [
        (str(number), "", 2 * label, 2 * (1 - label)) for number in range(4)
    ] + [("4", "", 1, 1)]  # fmt: skip
    with pytest.raises(InputError, match=f"tiles have no {missing} one"):
        assign_splits(table_of(photographs), seed=0)


# By content, where names carry no photograph


@settings(max_examples=20, deadline=None)
@given(cracked=st.integers(10, 30), uncracked=st.integers(10, 30), seed=SEEDS)
def test_without_photographs_each_content_is_drawn_by_itself(
    cracked: int, uncracked: int, seed: int
) -> None:
    tiles = table_of([("", "", cracked, uncracked)])
    splits = assign_splits(tiles, seed=seed)
    share = max(1, round(0.15 * len(tiles)))
    assert splits.value_counts().to_dict() == {
        "train": len(tiles) - 2 * share,
        "val": share,
        "test": share,
    }


def test_without_photographs_the_name_of_a_tile_is_irrelevant() -> None:
    tiles = table_of([("", "", 10, 10)])
    renamed = tiles.assign(tile=[f"{number}.png" for number in range(20)])
    assert assign_splits(tiles, seed=0).equals(assign_splits(renamed, seed=0))


# Duplicates


def contents(*rows: tuple[str, int, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["tile", "label", "content"]).assign(photograph="")


def test_each_content_is_counted_once_under_its_first_name() -> None:
    tiles = contents(("c", 1, "x"), ("b", 0, "y"), ("a", 1, "x"), ("d", 1, "x"))
    kept, copies, contradictory = drop_duplicates(tiles)
    assert kept["tile"].tolist() == ["a", "b"]
    assert copies == ["c", "d"]
    assert contradictory == []


def test_of_copies_one_whose_name_carries_a_photograph_is_kept() -> None:
    tiles = contents(("1-1 (1)", 1, "x"), ("1-1", 1, "x"), ("0", 1, "y"))
    kept, copies, _ = drop_duplicates(tiles.assign(photograph=["", "1", ""]))
    assert kept["tile"].tolist() == ["0", "1-1"]
    assert copies == ["1-1 (1)"]


def test_content_in_both_classes_is_left_out_with_all_its_copies() -> None:
    tiles = contents(("a", 1, "x"), ("b", 0, "x"), ("c", 1, "x"), ("d", 0, "y"))
    kept, copies, contradictory = drop_duplicates(tiles)
    assert kept["tile"].tolist() == ["d"]
    assert copies == []
    assert contradictory == ["a", "b", "c"]


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 1), st.sampled_from("uvwxyz")), min_size=1))
def test_every_tile_is_kept_or_a_copy_or_contradictory(rows: list[tuple[int, str]]) -> None:
    tiles = contents(*((f"{n:03}", label, content) for n, (label, content) in enumerate(rows)))
    kept, copies, contradictory = drop_duplicates(tiles)
    assert sorted([*kept["tile"], *copies, *contradictory]) == tiles["tile"].tolist()
    assert kept["content"].is_unique
    labels = {content: {lab for lab, c in rows if c == content} for _, content in rows}
    assert set(kept["content"]) == {content for content, seen in labels.items() if len(seen) == 1}


# A split that a person made


def in_folders(**photographs: str) -> pd.DataFrame:
    """Photographs of two cracked and two uncracked tiles, each in the folder that is given."""
    tiles = table_of([(name[1:], "", 2, 2) for name in photographs])
    folders = {name[1:]: folder for name, folder in photographs.items()}
    return tiles.assign(split_folder=tiles["photograph"].map(folders))


def test_a_split_that_a_person_made_is_kept() -> None:
    tiles = in_folders(p1="train", p2="test", p3="val", p4="train")
    assert keep_splits(tiles, seed=0).tolist() == tiles["split_folder"].tolist()


@pytest.mark.parametrize("photographs", [True, False])
def test_validation_is_drawn_from_training_where_a_person_made_none(photographs: bool) -> None:
    tiles = in_folders(**{f"p{n}": "train" for n in range(17)}, p17="test", p18="test")
    if not photographs:
        tiles["photograph"] = ""
    splits = keep_splits(tiles, seed=0)
    assert set(splits) == set(SPLITS)
    assert splits.eq("test").equals(tiles["split_folder"].eq("test"))
    num_val = splits.eq("val").sum()
    assert num_val == 3 * 4 if photographs else num_val == round(17 * 4 * 15 / 85)
    if photographs:
        assert (
            tiles.groupby("photograph")
            .agg({"tile": lambda t: splits[t.index].nunique()})
            .eq(1)
            .all(axis=None)
        )


def test_a_photograph_in_two_folders_of_a_split_is_refused_as_a_leak() -> None:
    tiles = in_folders(p1="train", p2="test", p3="val")
    tiles.loc[0, "split_folder"] = "test"
    with pytest.raises(InputError, match=r"is 1, in test and train\): what is tested was"):
        keep_splits(tiles, seed=0)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "test", ""), "4 tiles lie in no folder called train, val or test"),
        (("train", "val", "val"), "there is no test folder"),
        (("test", "val", "val"), "there is no train folder"),
    ],
)
def test_a_split_that_is_not_whole_is_not_kept(folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        keep_splits(in_folders(**{f"p{n}": f for n, f in enumerate(folders)}), seed=0)


def test_a_class_that_a_kept_split_lacks_is_named() -> None:
    tiles = in_folders(p1="train", p2="test", p3="val")
    tiles = tiles[~((tiles["split_folder"] == "test") & (tiles["label"] == 1))]
    with pytest.raises(InputError, match="the test tiles have no cracked one"):
        keep_splits(tiles, seed=0)


# The digest


def digested(**changes: list[object]) -> str:
    """The digest of the split of two tiles, with other values in some columns."""
    columns: dict[str, list[object]] = {
        "tile": ["1", "2"],
        "content": ["a", "b"],
        "split": ["train", "test"],
        "label": [0, 1],
        "surface": ["D", "D"],
        "photograph": ["7", "8"],
    }
    return digest_split(pd.DataFrame(columns | changes))


def test_digest_is_sha256_of_sorted_lines() -> None:
    lines = b"a\ttrain\t0\tD\t7\nb\ttest\t1\tD\t8"
    assert digested() == hashlib.sha256(lines).hexdigest()


def test_digest_does_not_depend_on_names_and_order_of_tiles() -> None:
    flipped = {
        "content": ["b", "a"],
        "split": ["test", "train"],
        "label": [1, 0],
        "photograph": ["8", "7"],
    }
    assert digested(tile=["9", "9"]) == digested(**flipped) == digested()


@pytest.mark.parametrize(
    "changes",
    [
        {"content": ["a", "c"]},
        {"split": ["test", "train"]},
        {"label": [1, 1]},
        {"label": [1, 0]},
        {"surface": ["D", "W"]},
        {"photograph": ["7", "7"]},
    ],
    ids=["content", "split", "one label", "classes swapped", "surface", "photograph"],
)
def test_digest_changes_with_all_that_decides_what_is_learned(changes: dict[str, list[object]]):
    assert digested(**changes) != digested()


def test_digest_changes_with_one_tile_less() -> None:
    tiles = table_of([("1", "D", 1, 1)]).assign(split="train")
    assert digest_split(tiles) != digest_split(tiles[:1])


def test_shares_in_the_splits_are_closer_than_by_chance() -> None:
    """Over seeds, the share of cracked tiles in the test split varies less than a plain draw's."""
    photographs = [(str(n), "", 1 + n, 40 - n) for n in range(40)]
    tiles = table_of(photographs)
    shares = [
        tiles.loc[assign_splits(tiles, seed=seed) == "test", "label"].mean() for seed in range(15)
    ]
    generator = np.random.default_rng(0)
    rates = np.array([cracked / 41 for _, _, cracked, _ in photographs])
    chance = [generator.choice(rates, 6, replace=False).mean() for _ in range(1000)]
    assert np.std(shares) < 0.5 * np.std(chance)


# Leakage, on purpose


def test_a_leaky_split_tears_photographs_apart_and_says_so_in_its_digest() -> None:
    tiles = table_of([(str(number), "D", 20, 20) for number in range(6)])
    honest = assign_splits(tiles, seed=0)
    leaky = assign_splits(tiles, seed=0, leaky=True)
    assert tiles.assign(split=honest).groupby("photograph")["split"].nunique().max() == 1
    assert tiles.assign(split=leaky).groupby("photograph")["split"].nunique().max() == 3
    assert digest_split(tiles.assign(split=honest)) != digest_split(tiles.assign(split=leaky))


# Folds


def photographs_of(rates: dict[str, list[int]]) -> pd.DataFrame:
    """Tiles of photographs, five each, by surface and number of cracked ones."""
    rows = [
        {"tile": f"{surface}{n}-{i}", "surface": surface, "photograph": f"{surface}{n}",
         "label": int(i < cracked), "content": f"{surface}{n}-{i}"}
        for surface, counts in rates.items() for n, cracked in enumerate(counts) for i in range(5)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@settings(max_examples=60, deadline=None)
@given(
    rates=st.dictionaries(
        st.sampled_from("DPW"), st.lists(st.integers(1, 4), min_size=1, max_size=17), min_size=1
    ),
    count=st.integers(2, 6),
)
def test_folds_hold_whole_photographs_and_are_alike(rates: dict[str, list[int]], count: int):
    tiles = photographs_of(rates)
    if tiles["photograph"].nunique() < count:
        with pytest.raises(InputError, match=f"--folds {count}: there are? "):
            assign_folds(tiles, count=count)
        return
    folds = assign_folds(tiles, count=count)
    of_photograph = folds.groupby(tiles["photograph"]).unique()
    assert of_photograph.map(len).eq(1).all()
    sizes = of_photograph.map(lambda fold: fold[0]).value_counts()
    assert sorted(sizes.index) == list(range(count))
    assert sizes.max() - sizes.min() <= 1
    shuffled = tiles.sample(frac=1, random_state=0)
    assert assign_folds(shuffled, count=count).sort_index().equals(folds)
    for surface, counts in rates.items():  # of each surface, as of all
        here = folds[tiles["surface"] == surface].groupby(tiles["photograph"]).first()
        assert (
            here.value_counts().reindex(range(count), fill_value=0).max()
            <= len(counts) // count + 1
        )


def test_each_fold_has_its_share_of_photographs_with_many_cracks():
    tiles = photographs_of({"D": [1] * 10 + [4] * 10})
    folds = assign_folds(tiles, count=5)
    assert tiles.groupby(folds)["label"].sum().tolist() == [10] * 5


def test_a_fold_of_one_class_is_refused():
    tiles = photographs_of({"D": [5, 0, 5, 0]})
    with pytest.raises(InputError, match="--folds 4: the tiles of fold 0 are of one class"):
        assign_folds(tiles, count=4)
