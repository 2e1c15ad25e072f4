"""Facts about which files are read, and how what is passed over is named."""

import os
from pathlib import Path

import pytest

from ensemble.data.reading.listing import (
    ARCHIVE,
    HIDDEN,
    IRREGULAR,
    NEEDS_HEIF,
    NO_PICTURE,
    NOWHERE,
    OTHER_KIND,
    OURS,
    TWICE,
    UNOPENED,
    describe_passed_over,
    list_files,
)


def lay_out(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "gif", "jp2", "webp", "tif", "mpo"])
def test_pictures_are_known_by_every_common_ending(tmp_path: Path, suffix: str):
    assert list(list_files(lay_out(tmp_path, f"a/1.{suffix}")).files) == [f"a/1.{suffix}"]


@pytest.mark.parametrize("reads_heif", [False, True])
def test_everything_that_is_not_read_is_named_by_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads_heif: bool
):
    monkeypatch.setattr("ensemble.data.reading.listing.can_read_heif", lambda: reads_heif)
    lay_out(tmp_path, "a/1.png", "a/2.HEIC", "a/3.dng", "b.rar", "notes.txt", ".git/x", "a/._1.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "self.png").symlink_to("self.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "photo.jpg").mkdir()  # a folder may be called like a picture
    files, passed_over = list_files(tmp_path)
    assert list(files) == ["a/1.png", *["a/2.HEIC"] * reads_heif]
    needs_heif = {} if reads_heif else {NEEDS_HEIF: ["a/2.HEIC"]}
    assert passed_over == needs_heif | {
        ARCHIVE: ["b.rar"],
        HIDDEN: [".git/", "a/._1.png"],
        IRREGULAR: ["pipe.jpg"],
        NOWHERE: ["gone.png", "self.png"],
        NO_PICTURE: ["notes.txt"],
        OTHER_KIND: ["a/3.dng"],
    }


def test_a_reason_is_a_line_with_the_count_and_three_names():
    lines = list(describe_passed_over({HIDDEN: [f".{n}.png" for n in range(1200)]}))
    assert lines == ["  passed over, hidden: 1,200 (.0.png, .1.png, .2.png, …)"]


def test_names_that_would_move_a_cursor_are_shown_escaped():
    assert list(describe_passed_over({HIDDEN: [".\x1b[2J", ".\udcff"]})) == [
        r"  passed over, hidden: 2 (.\x1b[2J, .\xff)"
    ]


def test_linked_folders_are_read_under_their_names_in_the_folder(tmp_path: Path):
    disk = lay_out(tmp_path / "disk", "Cracked/1.png", "Uncracked/2.png")
    folder = lay_out(tmp_path / "set", "here.png")
    (folder / "site").symlink_to(disk, target_is_directory=True)
    assert list(list_files(folder).files) == [
        "here.png",
        "site/Cracked/1.png",
        "site/Uncracked/2.png",
    ]


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_a_link_to_a_folder_around_it_is_not_followed(tmp_path: Path, target: str):
    folder = lay_out(tmp_path / "set", "a/1.png")
    (folder / "a" / "up").symlink_to(target, target_is_directory=True)
    files, passed_over = list_files(folder)
    assert list(files) == ["a/1.png"]
    assert passed_over == {TWICE: ["a/up/"]}


def test_a_folder_that_is_also_linked_counts_once_under_its_real_name(tmp_path: Path):
    lay_out(tmp_path, "z/1.png")
    (tmp_path / "a").symlink_to("z", target_is_directory=True)
    files, passed_over = list_files(tmp_path)
    assert list(files) == ["z/1.png"]
    assert passed_over == {TWICE: ["a/"]}


def test_two_links_to_one_folder_count_once(tmp_path: Path):
    lay_out(tmp_path / "disk", "1.png")
    for name in ("b", "a"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to("../disk", target_is_directory=True)
    files, passed_over = list_files(tmp_path / "set")
    assert list(files) == ["a/1.png"]
    assert passed_over == {TWICE: ["b/"]}


def test_results_inside_the_folder_are_no_data(tmp_path: Path):
    lay_out(
        tmp_path,
        "Cracked/1.png",
        "results/r1/run.json",
        "results/r1/samples.png",
        "results/packs/set-1/pack.json",
        "results/packs/set-1/samples.png",
        "results/packs/synthetic-0/D/CD/1-1.png",
        "cracks-overlays/overlays.json",
        "cracks-overlays/1.png",
        "shown/1.png",
    )
    files, passed_over = list_files(tmp_path, skipped=tmp_path / "shown")
    assert list(files) == ["Cracked/1.png"]
    assert passed_over == {OURS: ["cracks-overlays/", "results/packs/", "results/r1/", "shown/"]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_cannot_be_opened_is_named(tmp_path: Path):
    lay_out(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "b").chmod(0)
    files, passed_over = list_files(tmp_path)
    (tmp_path / "b").chmod(0o700)
    assert list(files) == ["a/1.png"]
    assert passed_over == {UNOPENED: ["b/"]}
