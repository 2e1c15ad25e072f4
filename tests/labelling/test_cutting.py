"""Photographs are cut, labelled, and become tiles that a search reads."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ensemble import cut, cut_photographs, label_tiles
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.sources import open_source
from ensemble.labelling.cutting import cut_pictures, lay_whole_tiles
from ensemble.labelling.labelled import write_labelled

SIDE = 32
HEADER = ["picture", "tile", "left_px", "top_px", "width_px", "height_px", "label"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two photographs of 3 × 2 tiles and a rest; a part of one is transparent."""
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    draw("photos/pier 3.png", seed=1)
    noise = Image.open("photos/pier 3.png").convert("RGBA")
    noise.paste((0, 0, 0, 0), (0, 0, SIDE, SIDE))
    noise.save("photos/deck.png")
    return tmp_path


def draw(path: str, *, seed: int) -> None:
    size = (2 * SIDE + 5, 3 * SIDE + 7, 3)
    noise = np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8)
    Image.fromarray(noise).save(path)


def save_labels(rows: list[tuple[str, str, int]], path: str = "labels.csv") -> Path:
    """A CSV file as the pages save it, of (picture, tile, label)."""
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for picture, tile, label in rows:
            row, column = int(tile[1:3]) - 1, int(tile[5:7]) - 1
            writer.writerow([picture, tile, column * SIDE, row * SIDE, SIDE, SIDE, label])
    return Path(path)


def cut_here(*paths: str) -> Path:
    cut_pictures(paths or ("photos",), Path("cut"), side_px=SIDE, log=str)
    return Path("cut")


def test_a_grid_has_whole_tiles_from_the_upper_left_corner():
    tiles = lay_whole_tiles((3 * SIDE + 7, 2 * SIDE + 5), SIDE)
    names = [f"r0{row}-c0{column}" for row in (1, 2) for column in (1, 2, 3)]
    assert tiles["tile"].tolist() == names
    assert tiles["left_px"].tolist() == [0, 32, 64, 0, 32, 64]
    assert tiles["top_px"].tolist() == [0, 0, 0, 32, 32, 32]
    assert lay_whole_tiles((SIDE - 1, 5 * SIDE), SIDE).empty
    assert lay_whole_tiles((120 * 2, 2), 2)["tile"].iloc[-1] == "r01-c120"


def test_labelled_tiles_lie_in_class_folders_and_a_search_knows_photograph_and_place():
    folder = cut_here()
    labels = [("photos/pier 3.png", f"r0{r}-c0{c}", int(r == c)) for r in (1, 2) for c in (1, 2, 3)]
    labels += [("photos/deck.png", "r02-c02", 1), ("photos/deck.png", "r02-c03", 0)]
    done = write_labelled(folder, [save_labels(labels)])
    assert (done.num_tiles, done.num_cracked, done.num_written) == (8, 3, 8)
    assert (done.num_blank, done.num_foreign) == (0, 0)
    source = open_source(done.folder)
    tiles = source.tiles.set_index("tile")
    assert set(tiles.index) == {
        f"{('uncracked', 'cracked')[label]}/{Path(picture).stem.replace(' ', '_')}-{tile}.jpg"
        for picture, tile, label in labels
    }
    assert set(tiles["photograph"]) == {"pier_3", "deck"}
    assert tiles["label"].sum() == 3
    with (
        Image.open("photos/pier 3.png") as photograph,
        Image.open(done.folder / "uncracked" / "pier_3-r02-c03.jpg") as tile,
    ):
        wanted = np.asarray(photograph)[SIDE : 2 * SIDE, 2 * SIDE : 3 * SIDE].astype(int)
        assert np.abs(np.asarray(tile).astype(int) - wanted).mean() < 12  # of a JPEG of noise


def test_a_tile_that_is_labelled_anew_changes_its_folder_and_others_stay():
    folder = cut_here()
    first = save_labels([("photos/pier 3.png", "r01-c01", 1), ("photos/pier 3.png", "r01-c02", 0)])
    write_labelled(folder, [first])
    second = save_labels([("photos/pier 3.png", "r01-c01", 0)], "second.csv")
    done = write_labelled(folder, [second])
    assert (done.num_tiles, done.num_cracked) == (2, 0)
    assert write_labelled(folder, [second, first]).num_cracked == 1  # the later one counts


def test_blank_tiles_and_labels_of_other_photographs_are_counted_and_left_out():
    folder = cut_here()
    record = json.loads((folder / "cut.json").read_text())
    assert {each["stem"]: each["num_blank"] for each in record["photographs"]} == {
        "deck": 1,
        "pier_3": 0,
    }
    rows = [("photos/deck.png", "r01-c01", 0), ("elsewhere.png", "r01-c01", 1)]
    done = write_labelled(folder, [save_labels([*rows, ("photos/deck.png", "r01-c02", 0)])])
    assert (done.num_written, done.num_blank, done.num_foreign) == (1, 1, 1)


def test_photographs_may_be_added_and_keep_their_names():
    cut_here("photos/pier 3.png")
    Path("more").mkdir()
    draw("more/pier 3.png", seed=2)
    folder = cut_here("more", "photos")
    record = json.loads((folder / "cut.json").read_text())
    stems = {each["picture"]: each["stem"] for each in record["photographs"]}
    assert stems == {
        "photos/pier 3.png": "pier_3",
        "more/pier 3.png": "pier_3_2",
        "photos/deck.png": "deck",
    }
    assert {path.stem for path in (folder / "pages").iterdir()} == set(stems.values())
    page = (folder / "index.html").read_text()
    assert all(f"pages/{stem}.html" in page for stem in stems.values())


def test_a_photograph_has_one_name_whatever_path_and_copy_it_is_cut_from():
    folder = cut_here("photos/pier 3.png")
    shutil.copy("photos/pier 3.png", "photos/copy.png")
    told: list[str] = []
    again = cut_pictures([Path("photos").absolute()], folder, side_px=SIDE, log=told.append)
    assert {(each.picture, each.stem) for each in again} == {
        ("photos/pier 3.png", "pier_3"),
        (str(Path("photos/deck.png").absolute()), "deck"),
    }
    assert any("is a copy of photos/pier 3.png" in line for line in told)
    assert {path.stem for path in (folder / "pages").iterdir()} == {"deck", "pier_3"}
    labels = save_labels([("photos/pier 3.png", "r01-c02", 1)])  # saved before it was cut again
    assert write_labelled(folder, [labels]).num_cracked == 1


def test_another_photograph_of_the_same_name_is_refused_as_labels_are_saved_under_it():
    folder = cut_here()
    draw("photos/pier 3.png", seed=2)
    told: list[str] = []
    sheets = cut_pictures(["photos"], folder, side_px=SIDE, log=told.append)
    assert [each.picture for each in sheets] == ["photos/deck.png"]
    assert "cut has another photograph of this name; rename the file" in told[0]


def test_a_call_that_cuts_nothing_does_not_spoil_its_folder():
    with pytest.raises(InputError, match="none of 2 pictures can be cut"):
        cut_pictures(["photos"], Path("cut"), side_px=500, log=str)
    assert len(cut_pictures(["photos"], Path("cut"), side_px=SIDE, log=str)) == 2


def test_a_name_as_long_as_the_disk_takes_is_cut_and_labelled():
    name = f"photos/{'é' * 125}.png"
    draw(name, seed=3)
    folder = cut_here(name)
    assert write_labelled(folder, [save_labels([(name, "r01-c01", 1)])]).num_cracked == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "name photographs to cut, or --labels"),
        (["photos", "--tile", "64"], "--tile 64: cut has tiles of 32 px; name another --folder"),
        (["photos", "--tile", "8"], "at least|from 16"),
        (["photos", "--folder", "photos"], "--folder photos: holds other files"),
        (["nowhere", "--tile", "32"], "nowhere: no such picture"),
        (["photos/pier 3.png", "--tile", "500", "--folder", "new"], "none of 1 picture can be cut"),
        (["--labels", "labels.csv", "--folder", "new"], "holds no cut.json; cut photographs first"),
        (["--labels", "foreign.csv"], "has no label of a photograph in cut"),
        (["--labels", "wrong.csv"], "'r09-c01' at 0, 256 is no tile of photos/deck.png"),
        (["--labels", "two.csv"], "two.csv, line 2: the label must be 0 or 1"),
        (["--labels", "missing.csv"], "missing.csv"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(words, reason):
    cut_here()
    save_labels([("photos/deck.png", "r01-c02", 1)])
    save_labels([("other.png", "r01-c02", 1)], "foreign.csv")
    save_labels([("photos/deck.png", "r09-c01", 1)], "wrong.csv")
    save_labels([("photos/deck.png", "r01-c02", 2)], "two.csv")
    with pytest.raises(InputError, match=reason) as refused:
        cut.main(parse("cut", words))
    assert "\n" not in str(refused.value)


def test_the_command_cuts_and_then_writes_what_was_labelled(capsys):
    assert cut.main(parse("cut", ["photos", "--tile", str(SIDE)]))["num_tiles"] == 12
    save_labels([("photos/deck.png", "r01-c02", 1)])
    result = cut.main(parse("cut", ["--labels", "labels.csv"]))
    assert (result["num_labelled"], result["num_cracked"]) == (1, 1)
    said = capsys.readouterr().out
    assert "written: cut/index.html; open it in a browser" in said
    assert "labelled: 1 tile, 1 cracked" in said
    assert "--data cut/tiles" in said


def test_a_notebook_cuts_and_labels_as_the_commands_do():
    tiles = cut_photographs("photos", "cut", tile=SIDE)
    assert tiles.groupby("picture")["is_blank"].sum().to_dict() == {
        "photos/deck.png": 1,
        "photos/pier 3.png": 0,
    }
    assert len(tiles) == 12
    labelled = label_tiles("cut", save_labels([("photos/pier 3.png", "r01-c01", 1)]))
    assert (labelled.folder, labelled.num_cracked) == (Path("cut/tiles"), 1)
    with pytest.raises(InputError, match="--tile 0"):
        cut_photographs("photos", "other", tile=0)


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_a_person_labels_with_keys_and_saves_all(here):
    sync_api = pytest.importorskip("playwright.sync_api")
    folder = cut_here()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((here / folder / "pages" / "deck.html").as_uri())
        page.focus(".stage")
        for key in ("ArrowRight", "c", "u", "c"):
            page.keyboard.press(key)
        marks = page.locator("[data-show=marks]")
        assert marks.inner_text().startswith("3 labels of 5 tiles on this photograph, 2 of them cr")
        page.reload()
        page.click("[data-do=rest]")
        assert marks.inner_text().startswith("5 labels of 5 tiles")
        assert page.is_disabled("[data-do=rest]")
        page.click("text=pier 3.png →")
        assert page.title() == "Label photos/pier 3.png"
        page.click("text=All photographs")
        progress = "5 of 11 tiles labelled, 2 of them cracked."
        page.locator("#progress", has_text=progress).wait_for()
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as("labels.csv")
        browser.close()
    assert faults == []
    labels = pd.read_csv("labels.csv")
    assert dict(zip(labels["tile"], labels["label"], strict=True)) == {
        "r01-c02": 1,
        "r01-c03": 0,
        "r02-c01": 1,
        "r02-c02": 0,
        "r02-c03": 0,
    }
    assert write_labelled(folder, [Path("labels.csv")]).num_tiles == 5
