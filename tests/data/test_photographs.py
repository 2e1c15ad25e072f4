"""Facts about photographs: what tells them, and that one odd name never turns a split leaky."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack
from ensemble.data.packing import pack
from ensemble.data.prepare import describe_pack, open_data, prepare_data
from ensemble.data.sources import open_source
from ensemble.data.split import SPLITS

CLASSES = ("Cracked", "Sound")


def draw(folder: Path, name_of: Callable[[int, int], str], *, photographs: int = 6) -> Path:
    """Tiles of noise, four of each photograph, two of them cracked, named by `name_of`."""
    generator = np.random.default_rng(0)
    for photograph in range(photographs):
        for tile in range(4):
            path = folder / name_of(photograph, tile)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def numbered(photograph: int, tile: int) -> str:
    return f"{CLASSES[tile % 2]}/{photograph}-{tile}.png"


def drawn_by_camera(photograph: int, tile: int) -> str:
    return f"{CLASSES[tile % 2]}/IMG_{photograph:04}_r{tile // 2}_c{tile % 2}.png"


def pack_it(folder: Path, layout: Layout = Layout(), **options: Any) -> Pack:  # noqa: B008
    return pack(open_source(folder, layout), under=folder.parent / "packs", log=str, **options)


def everything(packed: Pack) -> pd.DataFrame:
    return pd.concat({split: packed.table(split) for split in SPLITS}, names=["split"])


def is_torn(packed: Pack) -> bool:
    """Whether a photograph stands in two splits."""
    tables = everything(packed).reset_index()
    return bool(tables.groupby("photograph")["split"].nunique().max() > 1)


def whole(packed: Pack) -> dict[str, str]:
    """Tile → photograph, of a pack by photograph."""
    assert packed.record["split_by"] == "photograph"
    assert not is_torn(packed)
    tables = everything(packed)
    return dict(zip(tables["tile"], tables["photograph"], strict=True))


# Odd names


def test_an_exact_copy_with_an_odd_name_leaves_the_split_as_it_was(tmp_path: Path) -> None:
    """As Windows makes it: "1-1 (1).png" beside "1-1.png"."""
    folder = draw(tmp_path / "tiles", numbered)
    before = pack_it(folder)
    shutil.copy(folder / "Sound/1-1.png", folder / "Sound/1-1 (1).png")
    after = pack_it(folder)
    assert after.record["duplicates"] == ["Sound/1-1 (1).png"]
    assert after.record["split_digest"] == before.record["split_digest"]
    assert whole(after) == whole(before)


def add_odd_tiles(folder: Path, count: int) -> list[str]:
    names = [f"Sound/cover{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        image = np.random.default_rng(100 + number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / name)
    return names


def test_tiles_without_a_photograph_among_others_are_left_out_and_named(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", numbered)
    before = pack_it(folder)
    odd = add_odd_tiles(folder, 2)
    after = pack_it(folder, max_bad_tiles=2)
    assert list(after.record["odd_tiles"]) == odd
    assert after.record["split_digest"] == before.record["split_digest"]
    lines = list(describe_pack(after.record))
    assert (
        "  2 tiles left out, for want of a photograph: Sound/cover0.png (its name carries no "
        "photograph), Sound/cover1.png (its name carries no photograph)"
    ) in lines


def test_more_tiles_without_a_photograph_than_allowed_are_refused_by_name(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", numbered)
    add_odd_tiles(folder, 4)
    with pytest.raises(InputError) as caught:
        pack_it(folder, max_bad_tiles=3)
    said = str(caught.value)
    assert "names of 4 tiles carry no photograph (Sound/cover0.png, Sound/cover1.png, " in said
    assert "while Cracked/0-0.png looks like a part of photograph 0; rename or --exclude" in said
    assert pack_it(folder, Layout(photographs="none")).record["split_by"] == "content"


def test_a_photograph_that_names_carry_but_no_tile_that_is_left(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", numbered, photographs=0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    add_odd_tiles(folder, 4)
    for name in CLASSES:  # equal, and so left out
        shutil.copy(folder / "Sound/cover0.png", folder / name / "7-1.png")
    (folder / "Sound/cover0.png").unlink()
    with pytest.raises(InputError, match=r"names of 3 tiles carry no photograph \(.*\); rename"):
        pack_it(folder, max_bad_tiles=0)


def test_as_many_as_a_refusal_says_can_be_left_out(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", numbered)
    add_odd_tiles(folder, 2)
    for number in range(3):  # equal, so that they are looked at before the names are
        (folder / f"Sound/8-{number}.png").touch()
    with pytest.raises(InputError, match=r"leave them out \(--max-bad-tiles 5\)"):
        pack_it(folder, max_bad_tiles=4)
    record = pack_it(folder, max_bad_tiles=5).record
    assert (len(record["odd_tiles"]), len(record["bad_tiles"])) == (2, 3)


def test_the_limit_holds_for_a_pack_that_is_there(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", numbered)
    add_odd_tiles(folder, 2)
    pack_it(folder, max_bad_tiles=2)
    with pytest.raises(InputError, match="2 tiles must be left out, more than --max-bad-tiles 1"):
        pack_it(folder, max_bad_tiles=1)


def test_where_no_name_carries_a_photograph_tiles_are_split_by_content(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{CLASSES[t % 2]}/IMG{p}_t{t}.png")
    packed = pack_it(folder)
    assert packed.record["split_by"] == "content"
    assert set(packed.record["num_photographs"].values()) == {None}
    assert any("leakage cannot be ruled out" in line for line in describe_pack(packed.record))


def test_equal_numbers_on_two_surfaces_are_two_photographs(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{'DW'[p % 2]}/{numbered(p // 2, t)}")
    tiles = open_source(folder).tiles
    assert set(tiles["photograph"]) == {f"{surface}/{n}" for surface in "DW" for n in range(3)}
    assert whole(pack_it(folder))


# Names that only look like SDNET2018's


def doubt(folder: Path) -> str:
    return str(open_source(folder).doubt)


def test_a_number_that_tells_the_class_is_doubted(tmp_path: Path) -> None:
    folder = draw(tmp_path / "a", lambda p, t: f"{CLASSES[t % 2]}/{t % 2}-{p}{t}.png")
    assert "none of the 2 photographs would have tiles of both classes" in doubt(folder)
    with pytest.raises(
        InputError, match=r"there are 2; at least 3 .* look like parts of photograph 0"
    ):
        pack_it(folder)


def test_one_tile_a_photograph_is_doubted(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{CLASSES[t % 2]}/{4 * p + t}-1.png")
    assert "each of the 24 photographs would have one tile" in doubt(folder)
    lines = list(describe_pack(pack_it(folder).record))
    assert any(line.startswith("  DOUBTFUL: names such as Cracked/0-1.png look") for line in lines)


def test_a_stated_pattern_that_gives_each_tile_its_own_photograph_is_doubted(
    tmp_path: Path,
) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{CLASSES[t % 2]}/IMG{p}_t{t}.png")
    whole_name = Layout(photograph_pattern=r"(?P<photograph>IMG\d+_t\d+)")
    assert "each of the 24 photographs has one tile" in str(open_source(folder, whole_name).doubt)
    right = Layout(photograph_pattern=r"(?P<photograph>IMG\d+)_")
    assert open_source(folder, right).doubt is None


def test_photographs_by_folders_are_refused_where_there_are_none(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{CLASSES[t % 2]}/IMG{p}_t{t}.png")
    with pytest.raises(InputError, match="--photographs folders: beside the class folder there is"):
        open_source(folder, Layout(photographs="folders"))


def test_one_tile_beside_whole_photographs_is_doubted(tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    for number in range(40):
        path = folder / CLASSES[number % 2] / f"{number // 10}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    assert open_source(folder).doubt is None
    Image.new("RGB", (8, 8), (99, 0, 0)).save(folder / CLASSES[1] / "77-1.png")
    said = doubt(folder)
    assert said.startswith("names such as Sound/77-1.png look like parts of photograph 77, but")
    assert "it would have one tile, and most photographs 10" in said


def test_more_tiles_than_a_photograph_can_have_are_doubted(tmp_path: Path) -> None:
    """The number before the hyphen is a year, say."""
    for number in range(2 * 1001):
        path = tmp_path / CLASSES[number % 2] / f"{2023 + number // 1001}-{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert "photograph 2023, but it would have 1,001 tiles" in doubt(tmp_path)


def test_photographs_with_tiles_of_both_classes_are_not_doubted(tmp_path: Path) -> None:
    assert open_source(draw(tmp_path / "tiles", numbered)).doubt is None


# What a person says


def test_a_pattern_tells_photograph_row_and_column(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    pattern = r"(?P<photograph>IMG_\d+)_r(?P<row>\d+)_c(?P<column>\d+)"
    packed = pack_it(folder, Layout(photograph_pattern=pattern))
    assert whole(packed)["Cracked/IMG_0003_r1_c0.png"] == "IMG_0003"
    table = everything(packed).set_index("tile").loc["Cracked/IMG_0003_r1_c0.png"]
    assert (table["row_in_photograph"], table["column_in_photograph"]) == (1, 0)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(IMG", "not a regular expression"),
        ("IMG_[0-9]+", r"no group called photograph; write such as '\(\?P<photograph>"),
        ("(?P<photograph>DSC)", "matches none of the tiles, such as 'Cracked/IMG_0000_r0_c0.png'"),
        ("(?P<photograph>IMG_000[1-9])", r"does not match the names of 4 tiles \(Cracked/IMG_0000"),
    ],
)
def test_a_pattern_that_does_not_tell_all_is_refused(
    tmp_path: Path, pattern: str, message: str
) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    with pytest.raises(InputError, match=message):
        pack_it(folder, Layout(photograph_pattern=pattern))


def write_list(folder: Path, text: str) -> Layout:
    path = folder.parent / "photographs.csv"
    path.write_text(text, encoding="utf-8")
    return Layout(photographs=str(path))


def listed(folder: Path, *, without: int = 0) -> str:
    """A row for each tile; of one photograph are those with equal digits after IMG_."""
    tiles = open_source(folder).tiles["tile"][without:]
    rows = [f"{tile},P{tile.partition('_')[2][:4]},{n},0" for n, tile in enumerate(tiles)]
    return "\n".join(["tile,photograph,row,column", *rows])


def test_a_list_tells_photographs_and_places(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    packed = pack_it(folder, write_list(folder, listed(folder)))
    assert set(whole(packed).values()) == {f"P{number:04}" for number in range(6)}
    assert {"row_in_photograph", "column_in_photograph"} <= set(packed.table("val"))


def test_a_tile_in_no_row_of_the_list_is_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    with pytest.raises(InputError, match=r"has no row of 1 tile \(Cracked/IMG_0000_r0_c0.png\)"):
        pack_it(folder, write_list(folder, listed(folder, without=1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile\nx\n", "one column 'photograph' is needed"),
        ("tile,photograph\nIMG_1.png,1\n", "none of its tiles is among the 24 of the data"),
        ("tile,photograph\nCracked/IMG_0000_r0_c0.png,\n", "has no photograph; give one"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    with pytest.raises(InputError, match=message):
        pack_it(folder, write_list(folder, text))


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    with pytest.raises(InputError, match=r"nowhere\.csv cannot be read"):
        pack_it(folder, Layout(photographs="nowhere.csv"))


@pytest.mark.parametrize(
    "name_of",
    [
        lambda p, t: f"{CLASSES[t % 2]}/IMG_{p}/{t}.png",
        lambda p, t: f"IMG_{p}/{CLASSES[t % 2]}/{t}.png",
        lambda p, t: f"site{p % 2}/{CLASSES[t % 2]}/IMG_{p // 2}/{t}.png",
    ],
    ids=["below the class", "above the class", "equal names at two sites"],
)
def test_a_folder_for_each_photograph_tells_it(
    tmp_path: Path, name_of: Callable[[int, int], str]
) -> None:
    folder = draw(tmp_path / "tiles", name_of)
    photographs = whole(pack_it(folder, Layout(photographs="folders")))
    for photograph in range(6):
        names = {photographs[name_of(photograph, tile)] for tile in range(4)}
        assert len(names) == 1
    assert len(set(photographs.values())) == 6


def test_without_a_folder_for_each_photograph_that_is_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{CLASSES[t % 2]}/IMG_{p}/{t}.png")
    add_odd_tiles(folder, 1)
    with pytest.raises(InputError, match=r"there is no folder in the names of 1 tile \(Sound/cov"):
        pack_it(folder, Layout(photographs="folders"))


def test_what_a_person_says_makes_it_another_pack(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", drawn_by_camera)
    layouts = [
        Layout(photographs="none"),
        Layout(photograph_pattern=r"(?P<photograph>IMG_\d+)"),
        Layout(photograph_pattern=r"(?P<photograph>IMG_\d+)_r(?P<tile>\d)"),
        write_list(folder, listed(folder)),
    ]
    packs = [pack_it(folder, layout) for layout in layouts]
    assert len({packed.folder for packed in packs}) == len(layouts)
    assert len({packed.record["split_digest"] for packed in packs}) == 3  # places decide nothing


# A person's own split


def test_corrected_labels_hold_out_the_same_photographs(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", numbered, photographs=20)
    before = pack_it(folder)
    rows = "".join(f"{numbered(photo, tile)},1\n" for photo in range(13) for tile in range(4))
    corrected = tmp_path / "labels.csv"
    corrected.write_text("tile,label\n" + rows)
    after = pack_it(folder, Layout(labels=corrected))
    held_out = [everything(p).reset_index().set_index("tile")["split"] for p in (before, after)]
    assert held_out[0].sort_index().equals(held_out[1].sort_index())
    assert after.record["num_relabelled"] == 26
    assert everything(after)["label"].sum() == everything(before)["label"].sum() + 26


def split_by_hand(photograph: int, tile: int) -> str:
    return f"{('train', 'train', 'test')[photograph % 3]}/{numbered(photograph, tile)}"


def prepare(folder: Path, layout: Layout) -> tuple[Pack, str]:
    lines: list[str] = []
    where: Any = {"packs": folder.parent / "packs", "log": lines.append}
    source = open_data(str(folder), layout, **where)
    packed = prepare_data(source, split_seed=0, max_bad_tiles=0, **where)
    return packed, "\n".join(lines)


def test_a_persons_own_split_is_kept_when_asked(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", split_by_hand)
    packed, said = prepare(folder, Layout(keeps_split=True))
    assert packed.table("test")["tile"].str.startswith("test/").all()
    assert len(packed.table("test")) == 8
    assert "there is no folder val: validation tiles are drawn from train" in said
    assert "split by the folders of the data" in said
    assert whole(packed)
    assert packed.record["fractions"] is None


def test_a_persons_own_split_is_not_pooled_without_a_word(tmp_path: Path) -> None:
    _, said = prepare(draw(tmp_path / "tiles", split_by_hand), Layout())
    assert "the folders called test and train are put together and split anew; --split f" in said


def test_a_leaky_split_of_a_persons_own_is_refused(tmp_path: Path) -> None:
    folder = draw(tmp_path / "tiles", lambda p, t: f"{('train', 'test')[t // 2]}/{numbered(p, t)}")
    with pytest.raises(InputError, match="photographs that lie in two folders: 6"):
        pack_it(folder, Layout(keeps_split=True))
