"""Facts about packs: pixels as Pillow decodes them, whole or absent, once for many processes."""

import errno
import hashlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.base.locks import file_lock
from ensemble.data import pack as pack_files
from ensemble.data import tiles as all_tiles
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack, PackError, open_pack
from ensemble.data.packing import pack, pack_whole
from ensemble.data.reading.listing import Reader
from ensemble.data.sources import Source, open_source
from ensemble.data.split import SPLITS, digest_split

ROOT = Path(__file__).parents[2]
SURFACES = ("D", "W")
PHOTOGRAPHS = 4  # of each surface
TILES = 4  # of each photograph, half of them cracked
NUM_TILES = len(SURFACES) * PHOTOGRAPHS * TILES

PACK_IT = (
    "import os, signal, sys; from pathlib import Path\n"
    "from ensemble.data.packing import pack; from ensemble.data.sources import open_source\n"
    "log = lambda line: print(line, flush=True)\n"
    "{before}\n"
    "print(pack(open_source(Path(sys.argv[1])), under=Path(sys.argv[2]), log=log).folder)\n"
)


def noise(seed: int, size_px: int = 16) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8))


def draw_tiles(folder: Path, suffix: str = "png") -> Path:
    """SDNET2018's layout with noise for pictures: `D/CD/71-0.png` …, no two tiles alike."""
    for number in range(NUM_TILES):
        photograph, tile = divmod(number, TILES)
        surface = SURFACES[photograph // PHOTOGRAPHS]
        name = f"{surface}/{'CU'[tile % 2]}{surface}/{70 + photograph}-{tile}.{suffix}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(folder / name)
    return folder


def cut_short(path: Path) -> None:
    """Leave the head of a JPEG, which tells its size, and a few bytes of its pixels."""
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xda") + 40])


def everything(packed: Pack) -> pd.DataFrame:
    return pd.concat({split: packed.table(split) for split in SPLITS}, names=["split"])


def pixels_of(packed: Pack, tile: str) -> np.ndarray:
    """The pixels of a tile wherever it lies."""
    for split in SPLITS:
        table = packed.table(split)
        found = table[table["tile"] == tile]
        if len(found):
            return np.asarray(packed.pixels(split)[found["row"].item()])
    raise LookupError(tile)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def only_lock_in(folder: Path) -> bool:
    return all(name.startswith(".") and name.endswith(".lock") for name in names_in(folder))


def photographs_of(packed: Pack) -> dict[str, set[str]]:
    return {split: set(packed.table(split)["photograph"]) for split in SPLITS}


class Packed(NamedTuple):
    source: Source
    pack: Pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """A plain pack that no test may change."""
    folder = tmp_path_factory.mktemp("packed")
    source = open_source(draw_tiles(folder / "tiles"))
    return Packed(source, pack(source, under=folder / "packs"))


# What is in it


def test_pixels_at_the_stated_row_are_what_pillow_decodes(tmp_path: Path) -> None:
    source = open_source(draw_tiles(tmp_path / "tiles", "jpg"))
    result = pack(source, under=tmp_path / "packs")
    checked = 0
    for split in SPLITS:
        pixels = result.pixels(split)
        assert (pixels.dtype, pixels.shape[1:]) == (np.uint8, (16, 16, 3))
        for tile, row in result.table(split)[["tile", "row"]].to_numpy():
            with Image.open(source.path / tile) as image:
                np.testing.assert_array_equal(pixels[row], np.asarray(image))
            checked += 1
    assert checked == NUM_TILES


def test_folder_and_zip_give_equal_pixels_and_an_equal_split(
    packed: Packed, tmp_path: Path
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "tiles"), "zip", packed.source.path))
    zipped = pack(open_source(path), under=tmp_path / "packs")
    assert zipped.record["split_digest"] == packed.pack.record["split_digest"]
    for split in SPLITS:
        np.testing.assert_array_equal(zipped.pixels(split), packed.pack.pixels(split))
        assert zipped.table(split).equals(packed.pack.table(split))


def test_every_tile_is_in_one_split_with_its_photograph(packed: Packed) -> None:
    tables = everything(packed.pack)
    assert sorted(tables["tile"]) == packed.source.tiles["tile"].tolist()
    assert tables.reset_index().groupby("photograph")["split"].nunique().eq(1).all()
    assert tables.groupby("split")["surface"].nunique().eq(len(SURFACES)).all()


def test_tables_say_of_a_tile_what_the_source_says(packed: Packed) -> None:
    columns = ["tile", "photograph", "surface", "label"]
    tables = everything(packed.pack)[columns].sort_values("tile", ignore_index=True)
    assert tables.equals(packed.source.tiles[columns])


def test_photograph_keeps_its_zeros_and_surface_may_be_called_na(tmp_path: Path) -> None:
    for number in range(24):
        surface, kind = ("NA", "B")[number % 2], ("Cracked", "Sound")[number // 2 % 2]
        path = tmp_path / "tiles" / surface / kind / f"00{number % 2}{number // 4}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    tables = everything(pack(open_source(tmp_path / "tiles"), under=tmp_path / "packs"))
    assert set(tables["surface"]) == {"NA", "B"}
    assert set(tables["photograph"]) == {f"00{a}{b}" for a in range(2) for b in range(6)}


def test_counts_are_those_of_the_tables(packed: Packed) -> None:
    about = packed.pack.record
    # Of 4 photographs a surface one each goes to val and test; a photograph has 2 + 2 tiles.
    assert about["num_photographs"] == {"train": 4, "val": 2, "test": 2}
    assert about["num_tiles"] == {"train": 16, "val": 8, "test": 8}
    assert about["num_cracked"] == {"train": 8, "val": 4, "test": 4}
    assert (about["height_px"], about["width_px"], about["resized_tiles"]) == (16, 16, 0)
    assert about["split_by"] == "photograph"
    assert (about["duplicates"], about["contradictory_tiles"], about["bad_tiles"]) == ([], [], {})


def test_digest_can_be_recomputed_from_the_tables(packed: Packed) -> None:
    tables = everything(packed.pack).reset_index()
    assert digest_split(tables) == packed.pack.record["split_digest"]
    tile = tables["tile"][0]
    data = (packed.source.path / tile).read_bytes()
    assert tables["content"][0] == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_test_split_is_a_file_of_its_own(packed: Packed, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(packed.pack.folder, tmp_path / "copy"))
    for path in folder.glob("test.*"):
        path.unlink()
    result = open_pack(folder, splits=("train", "val"))
    rows = pd.concat([result.table(split)["row"] for split in ("train", "val")])
    assert sorted(rows) == list(range(len(result.pixels("train"))))
    assert len(rows) == sum(result.record["num_tiles"][split] for split in ("train", "val"))
    np.testing.assert_array_equal(result.pixels("train"), result.pixels("val"))
    with pytest.raises(PackError, match=r"test\.npy is missing"):
        result.pixels("test")


def test_samples_picture_opens(packed: Packed) -> None:
    with Image.open(packed.pack.folder / "samples.png") as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
        # Two surfaces of two rows, each with a title and names; six tiles of 128 px in a row.
        assert image.size == (6 * 136 + 8, 4 * (136 + 26 + 12) + 8)


def test_mapped_pixels_are_private_to_writes(packed: Packed) -> None:
    first = packed.pack.pixels("val")
    before = first[0, 0, 0, 0].item()
    first[0, 0, 0, 0] = 255 - before
    assert packed.pack.pixels("val")[0, 0, 0, 0] == before


# Tiles that are not like the others


def test_duplicate_is_counted_once_and_named(tmp_path: Path) -> None:
    folder = draw_tiles(tmp_path / "tiles")
    shutil.copy(folder / "D/CD/70-0.png", folder / "D/CD/70-9.png")
    about = pack(open_source(folder), under=tmp_path / "packs").record
    assert about["duplicates"] == ["D/CD/70-9.png"]
    assert sum(about["num_tiles"].values()) == NUM_TILES


def test_only_tiles_that_may_have_copies_are_read_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of a .zip has sums of the bytes; by content alone all must be compared."""
    monkeypatch.setattr(all_tiles, "TILES_TO_LOOK_AT", 1)
    folder = draw_tiles(tmp_path / "tiles")
    shutil.copy(folder / "D/CD/70-0.png", folder / "D/CD/70-9.png")
    source = open_source(Path(shutil.make_archive(str(tmp_path / "tiles"), "zip", folder)))
    read: Counter[str] = Counter()
    read_tile = Reader.read

    def note(reader: Reader, tile: str) -> bytes:
        read[tile] += 1
        return read_tile(reader, tile)

    monkeypatch.setattr(Reader, "read", note)
    pack(source, under=tmp_path / "packs")
    once = {"D/CD/70-9.png", *source.tiles["tile"]} - {"D/CD/70-0.png"}
    assert read == {"D/CD/70-0.png": 3, **dict.fromkeys(once, 1)}  # the first tells the size, too
    read.clear()
    pack(source, under=tmp_path / "packs", leaky_split=True)
    assert read.total() == 1 + (NUM_TILES + 1) + NUM_TILES


def test_equal_bytes_in_both_classes_are_left_out_and_named(tmp_path: Path) -> None:
    folder = draw_tiles(tmp_path / "tiles")
    shutil.copy(folder / "D/CD/70-0.png", folder / "D/UD/70-9.png")
    result = pack(open_source(folder), under=tmp_path / "packs")
    assert result.record["contradictory_tiles"] == ["D/CD/70-0.png", "D/UD/70-9.png"]
    assert not {"D/CD/70-0.png", "D/UD/70-9.png"} & set(everything(result)["tile"])


@pytest.mark.parametrize(
    "looked_at", [all_tiles.TILES_TO_LOOK_AT, 1], ids=["most", "the exception"]
)
def test_sizes_become_the_most_common_one_and_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    """Also where the tiles that are looked at first are the exceptions."""
    monkeypatch.setattr(all_tiles, "TILES_TO_LOOK_AT", looked_at)
    folder = draw_tiles(tmp_path / "tiles")
    larger, wider = noise(900, 24), noise(901, 20).crop((0, 0, 20, 10))
    larger.save(folder / "D/CD/70-0.png")
    wider.save(folder / "W/UW/75-1.png")
    result = pack(open_source(folder), under=tmp_path / "packs")
    assert (result.record["height_px"], result.record["width_px"]) == (16, 16)
    assert result.record["resized_tiles"] == 2
    for tile, image in (("D/CD/70-0.png", larger), ("W/UW/75-1.png", wider)):
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(pixels_of(result, tile).astype(int), expected, atol=1)


def test_resized_tiles_are_tiles_of_the_pack(tmp_path: Path) -> None:
    """A copy that is counted once is resized once; a tile that is left out is not resized."""
    folder = draw_tiles(tmp_path / "tiles")
    for name in ("D/CD/70-0.png", "D/CD/70-8.png"):
        noise(900, 24).save(folder / name)
    noise(901, 24).save(folder / "W/CW/75-8.jpg")
    cut_short(folder / "W/CW/75-8.jpg")
    about = pack(open_source(folder), under=tmp_path / "packs").record
    assert (about["duplicates"], list(about["bad_tiles"])) == (["D/CD/70-8.png"], ["W/CW/75-8.jpg"])
    assert about["resized_tiles"] == 1


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_other_modes_become_rgb_as_pillow_does_it(tmp_path: Path, mode: str) -> None:
    folder = draw_tiles(tmp_path / "tiles")
    name = "D/CD/70-8.tif"
    noise(7).convert(mode).save(folder / name)
    result = pack(open_source(folder), under=tmp_path / "packs")
    with Image.open(folder / name) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels_of(result, name), expected)


def test_grey_of_16_bits_is_never_silently_white(tmp_path: Path) -> None:
    """Pillow's conversion clips it at 255: the high byte, or a tile left out with its reason."""
    folder = draw_tiles(tmp_path / "tiles")
    name = "D/CD/70-8.png"
    levels = np.random.default_rng(0).integers(0, 2**16, (16, 16), dtype=np.uint16)
    Image.fromarray(levels).save(folder / name)
    result = pack(open_source(folder), under=tmp_path / "packs")
    if name not in result.record["bad_tiles"]:
        expected = np.stack([levels / 257] * 3, axis=-1)
        np.testing.assert_allclose(pixels_of(result, name), expected, atol=1)


# Unreadable tiles


def spoil(folder: Path, kind: str, name: str = "D/CD/70-8.jpg", seed: int = 99) -> str:
    """Put one unreadable tile into `folder`; its name."""
    noise(seed).save(folder / name, quality=95)
    if kind == "truncated":
        cut_short(folder / name)
    elif kind == "text":
        (folder / name).write_text("not here any more")
    elif kind == "empty":
        (folder / name).write_bytes(b"")
    else:
        Image.new("1", (4097, 4097)).save(folder / name, "PNG")
    return name


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated", "cut off before its end; copy it anew"),
        ("text", "not a picture"),
        ("empty", "not a picture"),
        ("huge", "4097 × 4097 px is too large"),
    ],
)
def test_unreadable_tile_is_left_out_and_named_with_the_reason(
    packed: Packed, tmp_path: Path, kind: str, reason: str
) -> None:
    folder = draw_tiles(tmp_path / "tiles")
    name = spoil(folder, kind)
    result = pack(open_source(folder), under=tmp_path / "packs")
    assert list(result.record["bad_tiles"]) == [name]
    assert reason in result.record["bad_tiles"][name]
    assert sum(result.record["num_tiles"].values()) == NUM_TILES
    assert result.record["split_digest"] == packed.pack.record["split_digest"]
    for tile in everything(result)["tile"]:
        np.testing.assert_array_equal(pixels_of(result, tile), pixels_of(packed.pack, tile))


@pytest.mark.parametrize("kind", ["truncated", "text"])
def test_more_unreadable_tiles_than_allowed_are_an_error_and_leave_nothing(
    tmp_path: Path, kind: str
) -> None:
    folder = draw_tiles(tmp_path / "tiles")
    name = spoil(folder, kind)
    with pytest.raises(InputError, match=f"1 tile must be left out, more than .*0.*{name}: "):
        pack(open_source(folder), under=tmp_path / "packs", max_bad_tiles=0)
    assert only_lock_in(tmp_path / "packs")


@pytest.mark.parametrize("folders", ["C", "CU"], ids=["one class", "both"])
def test_equal_unreadable_tiles_are_neither_copies_nor_contradictions(
    tmp_path: Path, folders: str
) -> None:
    """As a download that broke off leaves them: many files of no bytes."""
    folder = draw_tiles(tmp_path / "tiles")
    names = [f"D/{folders[n % len(folders)]}D/{70 + n}-9.png" for n in range(4)]
    for name in names:
        (folder / name).touch()
    about = pack(open_source(folder), under=tmp_path / "packs").record
    assert set(about["bad_tiles"]) == set(names)
    assert (about["duplicates"], about["contradictory_tiles"]) == ([], [])
    with pytest.raises(InputError, match=r"4 tiles must be left out, more than .*3"):
        pack(open_source(folder), under=tmp_path / "packs", max_bad_tiles=3)


@pytest.mark.parametrize("leaky", [False, True])
@pytest.mark.parametrize("kind", ["truncated", "text"])
def test_unreadable_tiles_have_no_say_in_the_split(tmp_path: Path, kind: str, leaky: bool) -> None:
    """It is that of the same tiles without them, wherever it is noticed that they are bad."""
    folder = tmp_path / "tiles"
    for number in range(20 * TILES):  # so many photographs that their order decides
        photograph, tile = divmod(number, TILES)
        name = folder / "D" / ("CD" if tile < 1 + photograph % 3 else "UD")
        name.mkdir(parents=True, exist_ok=True)
        noise(number).save(name / f"{70 + photograph}-{tile}.png")
    plan: dict[str, Any] = {"leaky_split": leaky, "split_seed": 1}
    before = pack(open_source(folder), under=tmp_path / "packs", **plan)
    for number in range(6):
        spoil(folder, kind, f"D/CD/{75 + number}-8.jpg", seed=1000 + number)
    after = pack(open_source(folder), under=tmp_path / "packs", **plan)
    assert len(after.record["bad_tiles"]) == 6
    assert after.record["split_digest"] == before.record["split_digest"]
    for split in SPLITS:
        tables = [packed.table(split) for packed in (before, after)]
        assert tables[0].drop(columns="row").equals(tables[1].drop(columns="row"))
        pixels = [
            packed.pixels(split)[table["row"]]
            for packed, table in zip((before, after), tables, strict=True)
        ]
        np.testing.assert_array_equal(*pixels)


def test_limit_of_unreadable_tiles_holds_for_a_pack_that_is_there(tmp_path: Path) -> None:
    spoil(draw_tiles(tmp_path / "tiles"), "text")
    source = open_source(tmp_path / "tiles")
    pack(source, under=tmp_path / "packs", max_bad_tiles=1)
    with pytest.raises(InputError, match="1 tile must be left out"):
        pack(source, under=tmp_path / "packs", max_bad_tiles=0)


def test_no_readable_tile_is_an_input_error_whatever_is_allowed(tmp_path: Path) -> None:
    for name in ("Cracked/1.png", "Sound/1.png"):
        (tmp_path / "tiles" / name).parent.mkdir(parents=True)
        (tmp_path / "tiles" / name).write_text("text")
    with pytest.raises(InputError, match=r"no tile can be read \(Cracked/1.png: not a picture\)"):
        pack(open_source(tmp_path / "tiles"), under=tmp_path / "packs")
    assert only_lock_in(tmp_path / "packs")


@pytest.mark.parametrize(
    ("spoil_all", "reason"),
    [
        (cut_short, r"no tile can be read \(.*jpg: it is cut off before its end"),
        (lambda path: shutil.copy(path.parents[2] / "one.jpg", path), "no tile is left"),
    ],
    ids=["pixels cut off", "all equal"],
)
def test_where_no_tile_is_left_that_is_an_input_error(
    tmp_path: Path, spoil_all: Callable[[Path], object], reason: str
) -> None:
    noise(0).save(tmp_path / "one.jpg")
    for number in range(6):
        path = tmp_path / "tiles" / ("Cracked", "Sound")[number % 2] / f"{number // 2}-{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
        spoil_all(path)
    source, options = open_source(tmp_path / "tiles"), {"max_bad_tiles": 9, "log": str}
    sizes = {"tile_size": noise(0).size, "stored": noise(0).size}
    for make in (pack, partial(pack_whole, **sizes)):
        with pytest.raises(InputError, match=reason):
            make(source, under=tmp_path / "packs", **options)
        assert only_lock_in(tmp_path / "packs")


def test_class_lost_to_unreadable_tiles_is_an_input_error(tmp_path: Path) -> None:
    """Found while decoding, after the split: the validation photographs lose all their cracks."""
    source = open_source(draw_tiles(tmp_path / "tiles", "jpg"))
    table = pack(source, under=tmp_path / "packs").table("val")
    for tile in table.loc[table["label"] == 1, "tile"]:
        cut_short(source.path / tile)
    with pytest.raises(InputError, match=r"val .*no cracked one"):
        pack(open_source(source.path), under=tmp_path / "others")
    assert only_lock_in(tmp_path / "others")


@pytest.mark.parametrize("method", [9, 14], ids=["Deflate64", "LZMA"])
def test_zip_member_that_cannot_be_unpacked_is_left_out(tmp_path: Path, method: int) -> None:
    """Windows packs large archives by Deflate64, which Python has not; 14 is damaged LZMA."""
    folder = draw_tiles(tmp_path / "tiles")
    path = Path(shutil.make_archive(str(tmp_path / "tiles"), "zip", folder))
    name = "D/CD/70-0.png"
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        local = archive.getinfo(name).header_offset
    directory = data.rindex(name.encode()) - 46
    data[local + 8 : local + 10] = data[directory + 10 : directory + 12] = struct.pack("<H", method)
    path.write_bytes(data)
    about = pack(open_source(path), under=tmp_path / "packs").record
    assert list(about["bad_tiles"]) == [name]
    assert sum(about["num_tiles"].values()) == NUM_TILES - 1


def test_file_removed_after_listing_is_an_unreadable_tile(tmp_path: Path) -> None:
    source = open_source(draw_tiles(tmp_path / "tiles"))
    (source.path / "D/CD/70-0.png").unlink()
    about = pack(source, under=tmp_path / "packs").record
    assert list(about["bad_tiles"]) == ["D/CD/70-0.png"]


# Whole or absent, once


def test_second_call_reuses_the_pack_without_reading_a_tile(tmp_path: Path) -> None:
    source = open_source(draw_tiles(tmp_path / "tiles"))
    first = pack(source, under=tmp_path / "packs")
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    shutil.rmtree(source.path)
    second = pack(source, under=tmp_path / "packs")
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in second.folder.iterdir()} == before


def test_other_split_seed_gives_another_folder_and_split(packed: Packed, tmp_path: Path) -> None:
    packs = [pack(packed.source, under=tmp_path, split_seed=seed) for seed in (1, 2)]
    found = [*packs, packed.pack]
    assert len({one.folder.name for one in found}) == 3
    assert len({one.record["split_digest"] for one in found}) == 3
    assert len({tuple(map(frozenset, photographs_of(one).values())) for one in found}) == 3


def test_other_crack_class_gives_another_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    for number in range(24):
        path = folder / ("old", "new")[number % 2] / f"{number // 4}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
    names = {
        pack(open_source(folder, Layout(positive=kind)), under=tmp_path / "packs").folder
        for kind in ("old", "new")
    }
    assert len(names) == 2


def test_left_over_of_an_interrupted_call_is_thrown_away(packed: Packed, tmp_path: Path) -> None:
    partial = tmp_path / f".{packed.pack.folder.name}.partial"
    partial.mkdir()
    (partial / "development.npy").write_bytes(b"half")
    (partial / "stale.txt").write_bytes(b"old")
    result = pack(packed.source, under=tmp_path)
    assert names_in(result.folder) == names_in(packed.pack.folder)
    assert result.record == packed.pack.record
    assert not partial.exists()


def test_lock_that_cannot_be_written_is_one_line(packed: Packed, tmp_path: Path) -> None:
    (tmp_path / f".{packed.pack.folder.name}.lock").mkdir()  # as on a disk that is read-only
    with pytest.raises(InputError, match=r"\.lock cannot be written \(Is a directory\)"):
        pack(packed.source, under=tmp_path)


def test_folder_without_its_pack_json_is_never_a_traceback(packed: Packed, tmp_path: Path) -> None:
    """Replaced, or an error that names it."""
    folder = Path(shutil.copytree(packed.pack.folder, tmp_path / packed.pack.folder.name))
    (folder / "pack.json").unlink()
    try:
        assert pack(packed.source, under=tmp_path).record == packed.pack.record
    except InputError as error:
        assert folder.name in str(error)  # noqa: PT017


def test_too_few_photographs_leave_nothing(tmp_path: Path) -> None:
    source = open_source(draw_tiles(tmp_path / "tiles"))
    few = source.tiles["photograph"].isin(["70", "71", "74", "75"])
    for tile in source.tiles.loc[~few, "tile"]:
        (source.path / tile).unlink()
    with pytest.raises(InputError, match="surface 'D' has 2"):
        pack(open_source(source.path), under=tmp_path / "packs")
    assert only_lock_in(tmp_path / "packs")


def test_no_room_is_an_input_error_before_decoding_and_leaves_nothing(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = NUM_TILES * 16 * 16 * 3
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(InputError, match=r"no room on the disk .*--out"):
        pack(packed.source, under=tmp_path)
    assert only_lock_in(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=["full", "quota"])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_disk_that_fills_up_while_packing_is_an_input_error(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """A quota is not in what `disk_usage` says; some file systems tell only when it is written."""

    def refuse(*_: int) -> NoReturn:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(InputError, match="no room on the disk"):
        pack(packed.source, under=tmp_path)
    assert only_lock_in(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"format": 999}', "{"])
def test_pack_of_another_format_is_an_input_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "pack.json").write_text(content)
    with pytest.raises(PackError, match=str(tmp_path)):
        open_pack(tmp_path)


def test_missing_pack_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pack\.json is missing"):
        open_pack(tmp_path / "nowhere")


# Whether it is still what was packed


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def copied(packed: Packed, tmp_path: Path) -> Path:
    """A copy of the pack that a test may damage."""
    return Path(shutil.copytree(packed.pack.folder, tmp_path / "copy"))


def note_files_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the arrays whose rows are summed from now on."""
    read: list[str] = []
    digest_array = pack_files._digest_array

    def note(path: Path) -> str:
        read.append(path.name)
        return digest_array(path)

    monkeypatch.setattr(pack_files, "_digest_array", note)
    return read


def test_every_file_of_a_pack_is_recorded_with_its_size_and_digest(packed: Packed) -> None:
    folder, files = packed.pack.folder, packed.pack.record["files"]
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert files.keys() == names - {"pack.json"}
    assert {"development.npy", "val.csv", "test.npy", "samples.png"} <= files.keys()
    for name, record in files.items():
        assert record["bytes"] == (folder / name).stat().st_size
        if not name.endswith(".npy"):
            assert record["digest"] == digest(folder / name)


def test_the_digest_of_pixels_is_made_of_a_crc_of_each_row(packed: Packed) -> None:
    pixels = packed.pack.pixels("train")
    sums = b"".join(zlib.crc32(row.tobytes()).to_bytes(4, "little") for row in pixels)
    expected = hashlib.sha256(repr(pixels.shape).encode() + sums).hexdigest()
    assert packed.pack.record["files"]["development.npy"]["digest"] == expected


def test_a_new_pack_is_opened_without_reading_its_pixels(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = note_files_read(monkeypatch)
    assert open_pack(packed.pack.folder).record == packed.pack.record
    assert read == []


def test_pixels_of_a_copy_are_read_once_and_later_only_what_changed(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in copied.iterdir():
        os.utime(path)
    read = note_files_read(monkeypatch)
    open_pack(copied)
    assert sorted(read) == ["development.npy", "test.npy"]
    os.utime(copied / "development.npy", (1, 1))
    open_pack(copied)
    assert sorted(read) == ["development.npy", "development.npy", "test.npy"]


def test_a_copy_that_cannot_be_written_to_is_opened_all_the_same(copied: Path) -> None:
    (copied / ".verified.json").unlink()
    (copied / ".verified.json").mkdir()
    for _ in range(2):
        assert len(open_pack(copied).table("train"))


@pytest.mark.parametrize(
    "name", ["development.npy", "test.npy", "val.csv", "samples.png", "pack.json"]
)
@pytest.mark.parametrize("used_before", [False, True])
def test_flipped_byte_is_noticed(name: str, used_before: bool, copied: Path) -> None:
    sha256 = digest(copied / "pack.json")
    if used_before:
        open_pack(copied, sha256=sha256)
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(PackError, match=f"{name} is damaged .*delete the folder {copied}, then"):
        open_pack(copied, sha256=sha256)


@pytest.mark.parametrize(
    ("name", "needed_by", "not_by"),
    [
        ("development.npy", "train", "test"),
        ("test.npy", "test", "val"),
        ("test.csv", "test", "val"),
    ],
)
@pytest.mark.parametrize("left", [0, 60, -1])
def test_truncated_file_is_noticed_by_whoever_needs_it(
    name: str, needed_by: str, not_by: str, left: int, copied: Path
) -> None:
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:left])
    with pytest.raises(PackError, match=rf"{name} is damaged \([\d,]+ bytes, not [\d,]+\)"):
        open_pack(copied, splits=[needed_by])
    open_pack(copied, splits=[not_by])


def test_a_label_edited_in_a_table_is_noticed(copied: Path) -> None:
    """The figures of an evaluation changed with it, under the same digest of the split."""
    path = copied / "test.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[0, "label"] = str(1 - int(table["label"][0]))
    stat = path.stat()
    table.to_csv(path, index=False)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(PackError, match=r"test\.csv is damaged"):
        open_pack(copied)


def test_a_damaged_pack_is_not_used_again_by_packing(packed: Packed, tmp_path: Path) -> None:
    result = pack(packed.source, under=tmp_path)
    (result.folder / "development.npy").write_bytes(b"")
    with pytest.raises(PackError, match=r"development\.npy is damaged .*delete the folder"):
        pack(packed.source, under=tmp_path)
    shutil.rmtree(result.folder)
    assert pack(packed.source, under=tmp_path).record == result.record


def test_copy_of_another_pack_is_refused(copied: Path) -> None:
    with pytest.raises(PackError, match=r"pack\.json is damaged"):
        open_pack(copied, sha256="0" * 64)


# Other processes


def start(packed: Packed, under: Path, before: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PACK_IT.format(before=before)]
    paths = [str(packed.source.path), str(under)]
    return subprocess.Popen(command + paths, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_call_leaves_no_pack_and_the_next_starts_over(
    packed: Packed, tmp_path: Path
) -> None:
    """Killed, as by the kernel's memory killer, when the arrays are half full."""
    before = (
        "write, calls = os.pwrite, []\n"
        "def kill_in_the_middle(*args):\n"
        "    calls.append(args)\n"
        "    return write(*args) if len(calls) < 16 else os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.pwrite = kill_in_the_middle"
    )
    with start(packed, tmp_path, before) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    name = packed.pack.folder.name
    assert names_in(tmp_path) == [f".{name}.lock", f".{name}.partial"]
    said: list[str] = []
    result = pack(packed.source, under=tmp_path, log=said.append)
    assert said == []  # the lock of a dead process holds no one up
    assert names_in(tmp_path) == [f".{name}.lock", name]
    for split in SPLITS:
        np.testing.assert_array_equal(result.pixels(split), packed.pack.pixels(split))


def test_two_processes_at_the_same_time_give_one_pack(packed: Packed, tmp_path: Path) -> None:
    """Both wait for the lock that this test holds, then go on together; one packs, one reuses."""
    name = packed.pack.folder.name
    with file_lock(tmp_path / f".{name}.lock"):
        processes = [start(packed, tmp_path) for _ in range(2)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("waiting: another process is packing")
    for process in processes:
        with process:
            printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert printed.strip() == str(tmp_path / name)
    assert names_in(tmp_path) == [f".{name}.lock", name]
    assert open_pack(tmp_path / name).record == packed.pack.record


def test_packing_leaves_no_thread_behind(tmp_path: Path) -> None:
    source = open_source(draw_tiles(tmp_path / "tiles"))
    before = threading.active_count()
    pack(source, under=tmp_path / "packs", log=lambda line: None)
    assert threading.active_count() == before
