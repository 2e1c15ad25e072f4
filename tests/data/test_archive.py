"""Facts about .zip files as people's programs write them, and about their lists."""

import struct
import time
import unicodedata
import zipfile
import zlib
from pathlib import Path

import pytest

from ensemble.base.errors import InputError
from ensemble.data.layout import Layout
from ensemble.data.reading import archive as archives
from ensemble.data.reading.archive import Archive
from ensemble.data.reading.listing import ARCHIVE, OURS, Reader, is_called, list_files
from ensemble.data.sources import open_source


def zip_raw(path: Path, *names: bytes, count: int | None = None) -> Path:
    """Write a stored .zip whose names are these bytes, without the flag of UTF-8."""
    body, directory = b"", []
    for name in names:
        common = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(name), *[len(name)] * 3, 0)
        directory.append(
            b"PK\1\2\x14\0" + common + struct.pack("<3H2I", 0, 0, 0, 0, len(body)) + name
        )
        body += b"PK\3\4" + common + name + name
    entries = b"".join(directory)
    num = len(names) if count is None else count
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, num, num, len(entries), len(body), 0)
    path.write_bytes(body + entries + end)
    return path


def test_backslashes_of_a_zip_from_windows_are_folders(tmp_path: Path):
    names = ("tiles\\Cracked\\1.png", "tiles\\Sound\\1.png")
    path = zip_raw(tmp_path / "set.zip", *(name.encode() for name in names))
    source = open_source(path)
    assert source.tiles["tile"].tolist() == ["tiles/Cracked/1.png", "tiles/Sound/1.png"]
    reader = Reader(path)
    assert [reader.read(tile) for tile in source.tiles["tile"]] == [n.encode() for n in names]
    reader.close()


@pytest.mark.parametrize("name", [b"..\\up.png", b"a\\..\\..\\up.png", b"\\root.png"])
def test_backslashes_do_not_lead_out_of_the_zip(tmp_path: Path, name: bytes):
    with pytest.raises(InputError, match="unsafe name"):
        open_source(zip_raw(tmp_path / "set.zip", name))


def test_class_folder_of_any_zip_program_can_be_named(tmp_path: Path):
    cracked, sound = "有裂缝", "无裂缝"
    for coding, shown in (("utf-8", cracked), ("gbk", cracked.encode("gbk").decode("cp437"))):
        names = (f"{cracked}/1.png".encode(coding), f"{sound}/1.png".encode(coding))
        path = zip_raw(tmp_path / f"{coding}.zip", *names)
        for given in (cracked, shown):
            source = open_source(path, Layout(positive=given))
            assert source.cracked_folders == (shown,)


def test_accents_are_the_same_however_they_are_stored():
    composed = "fissuré"
    assert is_called(unicodedata.normalize("NFD", composed), composed)
    assert is_called(composed, unicodedata.normalize("NFD", composed.upper()))
    assert is_called("\udcffx", r"\xffx")  # as it was printed
    assert not is_called("fissure", composed)


def test_archives_inside_are_named_with_what_to_do(tmp_path: Path):
    path = zip_raw(tmp_path / "5y9wdsg2zt-2.zip", b"Concrete Crack Images.rar")
    with pytest.raises(InputError, match=r"unpack them and name the folder: 1 \(Concrete Crack Im"):
        open_source(path)
    assert list_files(path).passed_over == {ARCHIVE: ["Concrete Crack Images.rar"]}


def test_another_archive_says_to_unpack_it(tmp_path: Path):
    (tmp_path / "set.rar").write_bytes(b"Rar!\x1a\x07\x01\0" + bytes(5000))
    with pytest.raises(InputError, match=r"not a readable .zip .* unpack a .rar"):
        open_source(tmp_path / "set.rar")


def test_results_inside_a_zip_are_no_data(tmp_path: Path):
    names = (
        b"Cracked/1.png", b"results/r1/run.json", b"results/r1/samples.png",
        b"results/packs/a/pack.json", b"results/packs/synthetic-0/D/CD/1-1.png",
    )  # fmt: skip
    files, passed_over = list_files(zip_raw(tmp_path / "set.zip", *names))
    assert list(files) == ["Cracked/1.png"]
    assert passed_over == {OURS: ["results/packs/", "results/r1/"]}


@pytest.mark.parametrize("count", [None, 3], ids=["true count", "false count"])
def test_a_zip_that_lists_too_much_is_refused_before_its_list_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None
):
    path = zip_raw(tmp_path / "set.zip", *(b"%d.png" % n for n in range(100)), count=count)
    with Archive(path) as archive:
        assert len(archive.members) == 100
    monkeypatch.setattr(archives, "MAX_MEMBERS", 99)
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # none is made
    with pytest.raises(InputError, match="lists more than 99 files; unpack it"):
        Archive(path)


def test_a_zip_of_a_million_files_is_refused_at_once(tmp_path: Path):
    path = tmp_path / "set.zip"
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 4) + bytes(16) + b"1.pn"
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 10**6 * len(entry), 0, 0)
    path.write_bytes(entry * 10**6 + end)
    start = time.process_time()
    with pytest.raises(InputError, match="lists more than 300,000 files"):
        open_source(path)
    assert time.process_time() - start < 5
