"""Facts about the listing of tiles: layouts, classes, and what is refused of a .zip."""

import contextlib
import os
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.base.errors import InputError
from ensemble.data.layout import Layout
from ensemble.data.prepare import open_data
from ensemble.data.reading.listing import MAX_TILE_BYTES, Reader
from ensemble.data.sources import open_source

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"

OFFICIAL = {
    "D/CD/7001-12.jpg": ("7001", "D", 1),
    "D/UD/7001-13.jpg": ("7001", "D", 0),
    "P/CP/001-2.jpg": ("001", "P", 1),
    "P/UP/002-2.jpg": ("002", "P", 0),
    "W/CW/7069-1_2.jpg": ("7069", "W", 1),
    "W/UW/7069-2.jpg": ("7069", "W", 0),
}
MIRROR = {
    "Decks/Cracked/7001-12.jpg": ("7001", "D", 1),
    "Decks/Non-cracked/7001-13.jpg": ("7001", "D", 0),
    "Pavements/Cracked/001-2.jpg": ("001", "P", 1),
    "Pavements/Non-cracked/002-2.jpg": ("002", "P", 0),
    "Walls/Cracked/7069-1.jpg": ("7069", "W", 1),
    "Walls/Non-cracked/7069-2.jpg": ("7069", "W", 0),
}
METU = {
    "Negative/00001.jpg": ("", "", 0),
    "Negative/00002.jpg": ("", "", 0),
    "Positive/00001.jpg": ("", "", 1),
}
WRAPPED = {f"SDNET2018/{name}": tile for name, tile in OFFICIAL.items()}
READY_SPLIT = {
    "test/crack/a.png": ("", "", 1),
    "test/no_crack/b.png": ("", "", 0),
    "train/crack/c.PNG": ("", "", 1),
    "train/no_crack/d.webp": ("", "", 0),
}
OTHER_SURFACES = {
    "bridge/Cracked/5-1.png": ("5", "bridge", 1),
    "bridge/Sound/5-2.png": ("5", "bridge", 0),
    "Wall/Cracked/6-1.png": ("6", "W", 1),
    "Wall/Sound/6-2.png": ("6", "W", 0),
}
# What `Reader.read` says it raises
READER_ERRORS = (OSError, ValueError, zipfile.BadZipFile, zlib.error)
LAYOUTS = {
    "official": OFFICIAL,
    "mirror": MIRROR,
    "METU": METU,
    "wrapped": WRAPPED,
    "ready split": READY_SPLIT,
    "other surfaces": OTHER_SURFACES,
}
TWO = ("Cracked/1.png", "Uncracked/1.png")


def lay_out(folder: Path, *names: str) -> Path:
    """Make a file at each name whose bytes are its name: the listing doesn't decode."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def zip_up(path: Path, *names: str, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), name.encode(), compress_type=method)
    return path


def patch_directory(path: Path, member: int, offset: int, value: bytes) -> None:
    """Change bytes of one entry of the .zip's central directory."""
    data = bytearray(path.read_bytes())
    place = -1
    for _ in range(member + 1):
        place = data.index(b"PK\x01\x02", place + 1)
    data[place + offset : place + offset + len(value)] = value
    path.write_bytes(data)


def rows_of(tiles: pd.DataFrame) -> dict[str, tuple[str, str, int]]:
    columns = (tiles[column] for column in ("tile", "photograph", "surface", "label"))
    return {
        tile: (photo, surface, label) for tile, photo, surface, label in zip(*columns, strict=True)
    }


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_is_known(
    tmp_path: Path, layout: dict[str, tuple[str, str, int]], zipped: bool
) -> None:
    path = zip_up(tmp_path / "set.zip", *layout) if zipped else lay_out(tmp_path / "set", *layout)
    source = open_source(path)
    assert rows_of(source.tiles) == layout
    assert source.tiles["tile"].tolist() == sorted(layout)
    assert source.has_photographs == all(photo for photo, _, _ in layout.values())


def test_class_folders_are_named(tmp_path: Path) -> None:
    source = open_source(lay_out(tmp_path, *OFFICIAL))
    assert source.cracked_folders == ("CD", "CP", "CW")
    assert source.uncracked_folders == ("UD", "UP", "UW")


@pytest.mark.parametrize("name", ["Cracked", "CRACK", "cracks", "positive"])
def test_crack_class_is_known_by_name_on_either_side_of_the_alphabet(
    tmp_path: Path, name: str
) -> None:
    for other in ("AAA", "zzz"):
        tiles = open_source(lay_out(tmp_path / other, f"{name}/1.png", f"{other}/1.png")).tiles
        assert {row[0]: row[2] for row in tiles[["tile", "surface", "label"]].to_numpy()} == {
            f"{name}/1.png": 1,
            f"{other}/1.png": 0,
        }


@pytest.mark.parametrize(("positive", "cracked"), [("with", 1), ("WITH", 1), ("without", 0)])
def test_crack_class_is_the_one_a_person_names(tmp_path: Path, positive: str, cracked: int) -> None:
    lay_out(tmp_path, "with/1.png", "without/1.png")
    source = open_source(tmp_path, Layout(positive=positive))
    assert source.tiles["label"].tolist() == [cracked, 1 - cracked]


def test_name_a_person_gives_beats_a_known_name(tmp_path: Path) -> None:
    source = open_source(
        lay_out(tmp_path, "positive/1.png", "damaged/1.png"), Layout(positive="damaged")
    )
    assert source.cracked_folders == ("damaged",)


def test_crack_class_is_never_guessed_by_order(tmp_path: Path) -> None:
    lay_out(tmp_path, "alpha/1.png", "beta/1.png")
    with pytest.raises(InputError, match=r"cannot tell .*folders: alpha, beta\); .*--positive"):
        open_source(tmp_path)


def test_positive_that_is_no_folder_names_those_there_are(tmp_path: Path) -> None:
    lay_out(tmp_path, "alpha/1.png", "beta/1.png")
    with pytest.raises(InputError, match=r"--positive gamma: no such folder .*alpha, beta"):
        open_source(tmp_path, Layout(positive="gamma"))


@pytest.mark.parametrize("names", [("CD/1-1.jpg", "CP/1-2.jpg"), ("Cracked/1.png", "crack/1.png")])
def test_one_class_only_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="one class only"):
        open_source(lay_out(tmp_path, *names))


def test_one_folder_only_is_refused_even_if_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one class only \(folders: Cracked\)"):
        open_source(lay_out(tmp_path, "Cracked/1.png"), Layout(positive="Cracked"))


def test_third_folder_is_refused_not_counted_as_uncracked(tmp_path: Path) -> None:
    lay_out(tmp_path, *TWO, "Unsure/1.png")
    with pytest.raises(InputError, match=r"expected one folder beside Cracked, .*Unsure"):
        open_source(tmp_path)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_source_without_tiles_says_what_was_expected(tmp_path: Path, zipped: bool) -> None:
    names = ("readme.txt", "Cracked/notes.txt", "top.png")
    path = zip_up(tmp_path / "set.zip", *names) if zipped else lay_out(tmp_path / "set", *names)
    with pytest.raises(InputError, match="no tiles found; expected pictures in class folders"):
        open_source(path)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_hidden_files_and_other_files_are_no_tiles(tmp_path: Path, zipped: bool) -> None:
    others = (
        "__MACOSX/Cracked/._1.png",
        "Cracked/._1.png",
        "Cracked/.ipynb_checkpoints/1.png",
        ".trash/Cracked/9.png",
        "Cracked/Thumbs.db",
        "loose.png",
    )
    names = (*TWO, *others)
    path = zip_up(tmp_path / "set.zip", *names) if zipped else lay_out(tmp_path / "set", *names)
    assert open_source(path).tiles["tile"].tolist() == list(TWO)


# Class folders with folders inside, and other folders


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(
    "layout",
    [
        {"Cracked/site1/a.png": ("", "", 1), "Uncracked/site2/b.png": ("", "", 0)},
        {"Cracked/images/a.png": ("", "", 1), "Sound/images/b.png": ("", "", 0)},
        {"Cracked/a.png": ("", "", 1), "Cracked/x/y/b.png": ("", "", 1), "No/c.png": ("", "", 0)},
        {
            "set/Decks/Cracked/site1/a.png": ("", "D", 1),
            "set/Decks/Sound/site1/b.png": ("", "D", 0),
            "set/NA/Cracked/site1/c.png": ("", "NA", 1),
            "set/NA/Sound/site3/d.png": ("", "NA", 0),
        },
        {
            "d/cd/7001-1.jpg": ("7001", "D", 1),
            "d/ud/7001-2.jpg": ("7001", "D", 0),
            "w/uw/7069-2.jpg": ("7069", "W", 0),
        },
        {
            "train/Decks/Cracked/a.png": ("", "D", 1),
            "test/Decks/Sound/b.png": ("", "D", 0),
            "train/Walls/Sound/b.png": ("", "W", 0),
        },
    ],
    ids=["sites", "one folder each", "some deeper", "surfaces above", "lower case", "split above"],
)
def test_class_folders_are_found_among_other_folders(
    tmp_path: Path, layout: dict[str, tuple[str, str, int]], zipped: bool
) -> None:
    path = zip_up(tmp_path / "set.zip", *layout) if zipped else lay_out(tmp_path / "set", *layout)
    assert rows_of(open_source(path).tiles) == dict(sorted(layout.items()))


def test_a_named_class_folder_may_have_folders_inside(tmp_path: Path) -> None:
    lay_out(tmp_path, "old/x/1.png", "new/x/2.png", "new/y/3.png")
    tiles = open_source(tmp_path, Layout(positive="new")).tiles
    assert tiles["label"].tolist() == [1, 1, 0]


def test_a_class_folder_is_named_whatever_its_accents_are_made_of(tmp_path: Path) -> None:
    lay_out(tmp_path, unicodedata.normalize("NFD", "fissuré/1.png"), "sain/2.png")
    tiles = open_source(tmp_path, Layout(positive="fissuré")).tiles
    assert sorted(tiles["label"]) == [0, 1]


@pytest.mark.parametrize("by", ["path in the data", "absolute path"])
def test_a_folder_that_is_excluded_is_left_out_and_counted(tmp_path: Path, by: str) -> None:
    lay_out(tmp_path, *TWO, "Unseen/1.png", "Unseen/deep/2.png", "Cracked/old/3.png")
    given = ("Unseen", "Cracked/old/")
    exclude = given if by.startswith("path") else tuple(str(tmp_path / one) for one in given)
    source = open_source(tmp_path, Layout(exclude=exclude))
    assert source.tiles["tile"].tolist() == list(TWO)
    assert source.passed_over["left out by --exclude"] == [
        "Unseen/1.png",
        "Unseen/deep/2.png",
        "Cracked/old/3.png",
    ]


def test_a_folder_to_exclude_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--exclude old: no such folder of tiles"):
        open_source(lay_out(tmp_path, *TWO), Layout(exclude=("old",)))


# Corrected labels


def corrections(tmp_path: Path, text: str) -> Layout:
    (tmp_path / "labels.csv").write_text(text)
    return Layout(labels=tmp_path / "labels.csv")


def test_corrected_labels_replace_those_of_the_folders(tmp_path: Path) -> None:
    lay_out(tmp_path / "set", *TWO, "Cracked/2.png")
    text = "tile,label,note\nCracked/2.png,0,dirt\nCracked/1.png,1,\nelsewhere.png,1,\n"
    source = open_source(tmp_path / "set", corrections(tmp_path, text))
    assert dict(zip(source.tiles["tile"], source.tiles["label"], strict=True)) == {
        "Cracked/1.png": 1,
        "Cracked/2.png": 0,
        "Uncracked/1.png": 0,
    }
    assert source.num_relabelled == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile\nCracked/1.png\n", "one column 'label' is needed"),
        ("tile,label\nCracked/1.png,yes\n", "must be 0 or 1 .* but got 'yes'"),
        ("tile,label\nCracked/1.png,\n", "tile 'Cracked/1.png' has no label; give one"),
        ("tile,label\n1.png,1\n", "none of its tiles is among .* such as 'Cracked/1.png'"),
        ("tile,label\nCracked/1.png,1\nCracked/1.png,0\n", "stands further up with something"),
    ],
)
def test_a_list_of_labels_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        open_source(lay_out(tmp_path / "set", *TWO), corrections(tmp_path, text))


# Paths that lead nowhere


@pytest.mark.parametrize(
    "path",
    ["nowhere", "nowhere.zip", "~no-such-user/tiles", "n" * 300, "/dev/null"],
    ids=["folder", "zip", "home of nobody", "long name", "device"],
)
def test_path_that_is_no_data_is_an_input_error_that_names_it(path: str) -> None:
    with pytest.raises(InputError, match=path[-5:]):
        open_source(Path(path))


def test_link_to_itself_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="loop"):
        open_source(tmp_path / "loop")


def test_name_that_is_no_utf8_is_an_input_error(tmp_path: Path) -> None:
    lay_out(tmp_path, *TWO)
    descriptor = os.open(os.fsencode(tmp_path) + b"/Cracked/\xff.png", os.O_CREAT | os.O_WRONLY)
    os.close(descriptor)
    with pytest.raises(InputError, match="Cracked"):
        open_source(tmp_path)


def test_dangling_link_is_no_tile(tmp_path: Path) -> None:
    lay_out(tmp_path, *TWO)
    (tmp_path / "Cracked" / "2.png").symlink_to(tmp_path / "gone.png")
    assert open_source(tmp_path).tiles["tile"].tolist() == list(TWO)


# The fingerprint


def test_fingerprint_is_equal_for_an_equal_listing(tmp_path: Path) -> None:
    lay_out(tmp_path, *TWO)
    assert open_source(tmp_path).fingerprint == open_source(tmp_path).fingerprint


@pytest.mark.parametrize("change", ["add", "remove", "rewrite", "rename"])
def test_fingerprint_changes_with_the_files(tmp_path: Path, change: str) -> None:
    lay_out(tmp_path, *TWO, "Cracked/2.png")
    before = open_source(tmp_path).fingerprint
    tile = tmp_path / "Cracked" / "2.png"
    if change == "add":
        lay_out(tmp_path, "Cracked/3.png")
    elif change == "remove":
        tile.unlink()
    elif change == "rename":
        tile.rename(tile.with_name("4.png"))
    else:
        tile.write_bytes(b"other")
    assert open_source(tmp_path).fingerprint != before


def test_fingerprint_of_a_zip_changes_with_the_bytes_of_a_member(tmp_path: Path) -> None:
    prints = set()
    for content in (b"one", b"two"):
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            archive.writestr("Cracked/1.png", content)
            archive.writestr("Uncracked/1.png", b"same")
        prints.add(open_source(tmp_path / "set.zip").fingerprint)
    assert len(prints) == 2


# What is refused of a .zip


@pytest.mark.parametrize(
    "name",
    ["../1.png", "Cracked/../../1.png", "/etc/1.png", "C:/1.png", "..\\1.png", "../readme.txt"],
)
def test_name_that_leads_out_of_the_zip_is_refused(tmp_path: Path, name: str) -> None:
    path = zip_up(tmp_path / "set.zip", *TWO, name)
    with pytest.raises(InputError, match="unsafe name"):
        open_source(path)


def test_two_dots_within_a_name_are_safe(tmp_path: Path) -> None:
    path = zip_up(tmp_path / "set.zip", *TWO, "Cracked/a..b.png")
    assert len(open_source(path).tiles) == 3


def test_empty_name_is_an_input_error_or_no_tile(tmp_path: Path) -> None:
    """Zip readers end a name at its first null byte, here the first byte."""
    path = zip_up(tmp_path / "set.zip", *TWO, "Xname")
    path.write_bytes(path.read_bytes().replace(b"Xname", b"\0name"))
    try:
        assert open_source(path).tiles["tile"].tolist() == list(TWO)
    except InputError as error:
        assert "set.zip" in str(error)  # noqa: PT017


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = zip_up(tmp_path / "set.zip", *TWO, TWO[0])
    with pytest.raises(InputError, match=r"two members called 'Cracked/1\.png'"):
        open_source(path)


def test_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = zip_up(tmp_path / "set.zip", *TWO)
    patch_directory(path, member=1, offset=8, value=b"\x01\x00")
    with pytest.raises(InputError, match=r"'Uncracked/1\.png' is encrypted; unpack"):
        open_source(path)


def test_member_that_unpacks_beyond_measure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(TWO[0], bytes(4 * 2**20))  # deflate makes about 4 KiB of it
        archive.writestr(TWO[1], b"small")
    with pytest.raises(InputError, match=r"would unpack to 4,194,304 bytes .* zip bomb"):
        open_source(path)


def test_member_that_declares_more_than_a_tile_can_be_is_refused(tmp_path: Path) -> None:
    path = zip_up(tmp_path / "set.zip", *TWO, method=zipfile.ZIP_STORED)
    declared = struct.pack("<II", MAX_TILE_BYTES + 1, MAX_TILE_BYTES + 1)
    patch_directory(path, member=0, offset=20, value=declared)
    with pytest.raises(InputError, match="zip bomb"):
        open_source(path)


def test_blank_tile_that_packs_well_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in TWO:
            archive.writestr(name, bytes(256 * 256 * 3))
        assert all(member.file_size > 100 * member.compress_size for member in archive.infolist())
    assert len(open_source(path).tiles) == 2


def test_file_that_is_no_zip_is_an_input_error(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(b"Rar!" + bytes(1000))
    with pytest.raises(InputError, match=r"set\.zip: not a readable \.zip"):
        open_source(path)


def test_zip_cut_short_anywhere_is_an_input_error(tmp_path: Path) -> None:
    data = zip_up(tmp_path / "whole.zip", *TWO).read_bytes()
    path = tmp_path / "set.zip"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            open_source(path)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300))
def test_random_bytes_are_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.zip"
    path.write_bytes(data)
    with pytest.raises(InputError):
        open_source(path)


@settings(max_examples=150, deadline=None)
@given(
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]),
    changes=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3
    ),
)
def test_damaged_zip_fails_only_as_promised(
    tmp_path_factory: pytest.TempPathFactory, method: int, changes: list[tuple[int, int]]
) -> None:
    """Listing: `InputError` or success; reading: the bytes or an error that `Reader` names."""
    path = zip_up(tmp_path_factory.getbasetemp() / "damaged.zip", *TWO, method=method)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    try:
        tiles = open_source(path).tiles["tile"]
    except InputError:
        return
    with contextlib.closing(Reader(path)) as reader:
        for tile in tiles:
            with contextlib.suppress(*READER_ERRORS):
                reader.read(tile)


@pytest.mark.parametrize("method", [9, 99, 255], ids=["Deflate64", "AES", "unknown"])
def test_member_packed_by_an_unknown_method_is_an_error_that_reader_names(
    tmp_path: Path, method: int
) -> None:
    path = zip_up(tmp_path / "set.zip", *TWO)
    patch_directory(path, member=0, offset=10, value=struct.pack("<H", method))
    with pytest.raises(READER_ERRORS), contextlib.closing(Reader(path)) as reader:
        reader.read(TWO[0])


# Reading


def test_folder_and_zip_give_the_same_bytes(tmp_path: Path) -> None:
    readers = (
        Reader(lay_out(tmp_path / "set", *TWO)),
        Reader(zip_up(tmp_path / "set.zip", *TWO)),
    )
    for reader in readers:
        assert [reader.read(name) for name in TWO] == [name.encode() for name in TWO]
        reader.close()


def test_file_larger_than_a_tile_can_be_is_not_read(tmp_path: Path) -> None:
    lay_out(tmp_path, *TWO)
    os.truncate(tmp_path / TWO[0], MAX_TILE_BYTES + 1)  # sparse: takes no room
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        Reader(tmp_path).read(TWO[0])


# The real data


def test_sdnet_sample_has_11223_tiles_of_46_photographs() -> None:
    path = REAL_DATA / "SDNET2018-46photos.zip"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    source = open_source(path)
    assert source.has_photographs
    assert len(source.tiles) == 11_223
    assert source.tiles["photograph"].nunique() == 46
    assert set(source.tiles["surface"]) == {"D", "W", "P"}
    assert source.cracked_folders == ("CD", "CP", "CW")


def test_metu_sample_has_no_photographs() -> None:
    path = REAL_DATA / "METU-2000.zip"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    source = open_source(path)
    assert not source.has_photographs
    assert source.tiles["label"].value_counts().to_dict() == {0: 1000, 1: 1000}
    assert set(source.tiles["surface"]) == {""}


# Found by tests/test_fuzz.py


@pytest.mark.parametrize("character", ["\x1b", "\n", "\t", "\x7f", "\x9b"])
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_name_that_a_terminal_would_obey_is_refused(
    tmp_path: Path, character: str, zipped: bool
) -> None:
    names = (*TWO, f"Cracked/a{character}[2J.png")
    path = zip_up(tmp_path / "set.zip", *names) if zipped else lay_out(tmp_path / "set", *names)
    with pytest.raises(InputError, match="name") as caught:
        open_source(path)
    assert character not in str(caught.value)


def test_members_that_lie_on_one_another_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20):
            archive.writestr(f"{'Cracked' if number else 'Sound'}/{number}.png", bytes(1000))
    for number in range(20):
        patch_directory(path, member=number, offset=20, value=struct.pack("<II", 2**14, 2**14))
    with pytest.raises(InputError, match=r"larger than the \.zip; refused as a possible zip bomb"):
        open_source(path)


def test_zip64_end_that_lies_is_refused(tmp_path: Path) -> None:
    path = zip_up(tmp_path / "set.zip", *TWO)
    data = path.read_bytes()
    place = data.index(b"PK\x05\x06")
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, 2**64 - 1, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)
    end = data[place : place + 8] + b"\xff" * 12 + data[place + 20 :]
    path.write_bytes(data[:place] + record + locator + end)
    with pytest.raises(InputError, match=r"not a readable \.zip"):
        open_source(path)


def test_corrections_that_inspect_saves_are_read_as_labels(tmp_path):
    for name in ("Cracked/wall-r1-c1.png", "Uncracked/wall-r1-c2.png", "Uncracked/one.png"):
        path = tmp_path / "tiles" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a picture")
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(
        "picture,tile,left_px,top_px,width_px,height_px,label\n"
        "/visit/wall.JPG,r1-c2,8,0,8,8,1\ntiles/Uncracked/one.png,,0,0,8,8,1\nother.jpg,r1-c1,0,0,8,8,0\n"
    )
    source = open_source(tmp_path / "tiles", Layout(labels=corrections))
    labels = source.tiles.set_index("tile")["label"].to_dict()
    assert labels == {
        "Cracked/wall-r1-c1.png": 1,
        "Uncracked/wall-r1-c2.png": 1,
        "Uncracked/one.png": 1,
    }
    assert source.num_relabelled == 2


def test_a_seed_beyond_all_seeds_is_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data synthetic:1111"):
        open_data(f"synthetic:{'1' * 300}", packs=tmp_path, log=str)
