"""What a person corrected becomes training data, and what a run is tested on stays as it is."""

import csv
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ensemble import learn_from as command
from ensemble.api import Run
from ensemble.base.errors import CannotWriteError, InputError
from ensemble.base.locks import file_lock
from ensemble.cli import parse
from ensemble.data.layout import Layout
from ensemble.data.pack import open_pack
from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.data.split import digest_split
from ensemble.data.synthetic import draw_dataset
from ensemble.labelling.cutting import cut_pictures
from ensemble.labelling.labelled import write_labelled
from ensemble.labelling.learning import Learned, learn_from

SIDE = 32
HEADER = ["picture", "tile", "left_px", "top_px", "width_px", "height_px", "label"]
Row = tuple[str, str, int, int, int]


def make_run(folder: Path, data: Path, layout: Layout = Layout()) -> Path:  # noqa: B008 (frozen)
    """The folder of a run as far as it tells what the run was made from."""
    packed = pack(open_source(data, layout), under=folder.parent / "packs", log=str)
    folder.mkdir(parents=True)
    about = {
        "data": str(data),
        "split_digest": packed.record["split_digest"],
        "tile_size_px": [SIDE, SIDE],
        "stored_size_px": packed.record["stored_size_px"],
        "pack_folder": str(packed.folder),
        "leaky_split": False,
    }
    (folder / "run.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `drawn`, and the tiles that it was made from."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder / "tiles", photographs_per_surface=4, rows=3, columns=4, tile_size_px=SIDE)
    make_run(folder / "results" / "drawn", folder / "tiles")
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a photograph of 3 × 2 tiles and a rest, and one that is turned by its EXIF."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    draw("photos/pier 3.png", seed=1)
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(2).rotate(90, expand=True).save("photos/turned.png", exif=turned)
    yield tmp_path
    assert [path.name for path in tmp_path.glob(".*") if path.suffix != ".lock"] == []


def noise(seed: int) -> Image.Image:
    size = (2 * SIDE + 5, 3 * SIDE + 7, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, size).astype(np.uint8))


def draw(path: str, *, seed: int) -> None:
    noise(seed).save(path)


def on_grid(picture: str, row: int, column: int, label: int) -> Row:
    return picture, f"r{row}-c{column}", (column - 1) * SIDE, (row - 1) * SIDE, label


PIER = [on_grid("photos/pier 3.png", 1, 2, 1), on_grid("photos/pier 3.png", 2, 2, 0)]
# between the tiles, at the rim where the grid is shifted inward, and on a turned photograph
OTHERS = [
    ("photos/pier 3.png", "r1.5-c2.25", 40, 16, 1),
    ("photos/pier 3.png", "r3-c1", 0, SIDE + 5, 0),
    on_grid("photos/turned.png", 2, 3, 1),
]


def save(rows: list[Row], path: str = "corrections.csv") -> Path:
    with Path(path).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for picture, tile, left, top, label in rows:
            writer.writerow([picture, tile, left, top, SIDE, SIDE, label])
    return Path(path)


def learn(run: Path, rows: list[Row], *paths: str, folder: str = "out") -> Learned:
    files = [save(rows)]
    return learn_from(run, files, [Path(p) for p in paths or ("photos",)], Path(folder), log=str)


def read(folder: str = "out") -> tuple[pd.DataFrame, Path]:
    """The tiles as the next search reads them, with their split, and the folder of their pack."""
    layout = Layout(photographs=f"{folder}/photographs.csv", keeps_split=True)
    packed = pack(open_source(Path(folder), layout), under=Path("packs"), log=str)
    tables = [packed.table(split).assign(split=split) for split in ("train", "val", "test")]
    return pd.concat(tables, ignore_index=True), packed.folder


def tiles_of(run: Path) -> pd.DataFrame:
    packed = open_pack(Path(json.loads((run / "run.json").read_text())["pack_folder"]))
    tables = [packed.table(split).assign(split=split) for split in ("train", "val", "test")]
    return pd.concat(tables, ignore_index=True)


def test_the_split_of_the_run_stays_and_corrected_tiles_are_for_training(drawn: Path):
    run = drawn / "results" / "drawn"
    learned = learn(run, [*PIER, *OTHERS])
    assert (learned.num_added, learned.num_cracked, learned.num_relabelled) == (5, 3, 0)
    old, (new, folder) = tiles_of(run), read()
    for split in ("val", "test"):
        one, other = (table[table["split"] == split] for table in (old, new))
        assert digest_split(one) == digest_split(other)
    added = new[~new["content"].isin(old["content"])].set_index("tile")
    assert set(added["split"]) == {"train"}
    assert added["photograph"].to_dict() == {
        "train/cracked/pier_3-r1-c2.png": "pier_3",
        "train/uncracked/pier_3-r2-c2.png": "pier_3",
        "train/cracked/pier_3-r1.5-c2.25.png": "pier_3",
        "train/uncracked/pier_3-r3-c1.png": "pier_3",
        "train/cracked/turned-r2-c3.png": "turned",
    }
    places = added[["row_in_photograph", "column_in_photograph"]].apply(tuple, axis=1)
    assert sorted(places[added["photograph"] == "pier_3"]) == [(-1, -1), (-1, -1), (0, 1), (1, 1)]
    upright = noise(2)
    for name, box, source in (
        ("pier_3-r1-c2", (SIDE, 0), noise(1)),
        ("pier_3-r1.5-c2.25", (40, 16), noise(1)),
        ("turned-r2-c3", (2 * SIDE, SIDE), upright),
    ):
        with Image.open(f"out/train/cracked/{name}.png") as tile:
            wanted = source.crop((*box, box[0] + SIDE, box[1] + SIDE))
            assert np.array_equal(np.asarray(tile), np.asarray(wanted)), name
    known = old.merge(new, on="content", suffixes=("", "_new"))
    assert len(known) == len(old)
    for column in ("label", "photograph", "surface", "split", "row_in_photograph"):
        assert (known[column] == known[f"{column}_new"]).all(), column
    before = json.loads((run / "run.json").read_text())["pack_folder"]
    records = [open_pack(Path(place)).record for place in (before, folder)]
    assert records[0]["test_digest"] == records[1]["test_digest"]


def test_a_second_file_adds_and_a_later_correction_of_a_tile_wins(drawn: Path):
    run = drawn / "results" / "drawn"
    learn(run, PIER)
    picture, tile, left, top, label = PIER[0]
    again = learn(run, [(picture, tile, left, top, 1 - label), PIER[1], OTHERS[2]])
    assert (again.num_added, again.num_relabelled, again.num_same) == (1, 1, 1)
    assert (again.num_corrected, again.num_cracked) == (3, 1)
    new, _ = read()
    labels = new[new["photograph"].isin(["pier_3", "turned"])].set_index("tile")["label"]
    assert labels.to_dict() == {
        "train/uncracked/pier_3-r1-c2.png": 0,
        "train/uncracked/pier_3-r2-c2.png": 0,
        "train/cracked/turned-r2-c3.png": 1,
    }
    assert len(new) == len(tiles_of(run)) + 3
    before = digest_folder(Path("out"))
    assert learn(run, OTHERS[2:]).num_same == 1  # the same once more changes nothing
    assert digest_folder(Path("out")) == before
    Path("out").rename(".out.old")  # as where the process is killed between two names
    learned = Run(run).learn_from(save(OTHERS[1:]), "photos", "out")
    assert learned.num_corrected == 4
    both = learn(run, [*PIER, (picture, tile, left, top, 1 - label)], folder="both")
    assert (both.num_overruled, both.num_cracked) == (1, 0)


def test_two_calls_at_once_come_one_after_the_other_and_both_are_kept(drawn: Path):
    run = drawn / "results" / "drawn"
    files, said = [save(PIER[:1], "one.csv"), save(PIER[1:], "two.csv")], SimpleQueue[str]()
    with ThreadPoolExecutor() as pool:
        with file_lock(Path(".out.lock")):
            calls = [
                pool.submit(learn_from, run, [file], [Path("photos")], Path("out"), log=said.put)
                for file in files
            ]
            for _ in calls:
                assert said.get(timeout=30) == "waiting for another learn-from into out"
            assert not Path("out").exists()
        assert sorted(call.result().num_corrected for call in calls) == [1, 2]


def test_the_runs_own_tiles_are_relabelled_in_their_split_and_test_tiles_are_left_out(drawn: Path):
    run = drawn / "results" / "drawn"
    old = tiles_of(run)
    Path("seen").mkdir()
    rows: list[Row] = []
    for split in ("train", "val", "test"):
        first = old[old["split"] == split].iloc[0]
        shutil.copy(drawn / "tiles" / first["tile"], f"seen/{split}.jpg")
        rows.append((f"seen/{split}.jpg", "", 0, 0, 1 - first["label"]))
    learned = learn(run, rows, "seen")
    assert (learned.num_added, learned.num_relabelled) == (0, 2)
    assert list(learned.left_out) == ["seen/test.jpg"]
    assert "drawn is tested on it, so it is not learnt from" in learned.left_out["seen/test.jpg"]
    new = old.merge(read()[0], on="content", suffixes=("", "_new"))
    assert (new["split"] == new["split_new"]).all()
    assert new.loc[new["label"] != new["label_new"], "split"].tolist() == ["train", "val"]
    with pytest.raises(InputError, match=r"nothing to learn from; seen/test\.jpg: drawn is tested"):
        learn(run, rows[2:], "seen", folder="other")
    assert not Path("other").exists()


def test_a_photograph_that_is_called_like_one_of_the_run_is_left_out(drawn: Path):
    run = drawn / "results" / "drawn"
    tested = tiles_of(run).query("split == 'test'")["photograph"].iloc[0]
    draw(f"photos/{tested}.png", seed=5)
    learned = learn(run, [*PIER, on_grid(f"photos/{tested}.png", 1, 1, 1)])
    reason = learned.left_out[f"photos/{tested}.png"]
    assert f"is called like photograph {tested}, which drawn was tested on" in reason
    assert learned.num_added == 2


def test_corrections_of_photographs_that_cut_or_learn_from_wrote_go_where_these_are(here: Path):
    names = [f"p{number}" for number in range(6)]
    Path("own").mkdir()
    rows = []
    for number, name in enumerate(names):
        draw(f"own/{name}.png", seed=10 + number)
        for row, column in ((1, 1), (1, 2), (2, 1)):
            picture, tile, *box, label = on_grid(f"own/{name}.png", row, column, int(row > 1))
            rows.append((picture, f"r0{tile[1]}-c0{tile[4]}", *box, label))
    cut_pictures(["own"], Path("cut"), side_px=SIDE, log=str)
    write_labelled(Path("cut"), [save(rows)])
    first = make_run(here / "results" / "first", here / "cut" / "tiles")
    old = tiles_of(first)
    split_of = old.drop_duplicates("photograph").set_index("photograph")["split"]
    corrections = [on_grid(f"own/{name}.png", 1, 1, 1) for name in names]
    corrections += [on_grid(f"own/{name}.png", 2, 2, 1) for name in names]
    learned = learn(first, [*corrections, *PIER], "own", "photos")
    tested = {f"own/{name}.png" for name in names if split_of[name] == "test"}
    assert set(learned.left_out) == tested
    count = len(names) - len(tested)
    assert (learned.num_relabelled, learned.num_added) == (count, count + len(PIER))
    new, _ = read()
    added = new[new["tile"].str.endswith("-r2-c2.png")]
    assert (added["split"] == added["photograph"].map({**split_of, "pier_3": "train"})).all()
    grid = new[new["photograph"] == names[0]] if split_of[names[0]] != "test" else added
    assert (grid["row_in_photograph"] >= 0).all()
    second = make_run(
        here / "results" / "second",
        here / "out",
        Layout(photographs="out/photographs.csv", keeps_split=True),
    )
    picture, tile, left, top, label = PIER[0]
    changed = [(picture, tile, left, top, 1 - label), OTHERS[0]]
    again = learn(second, changed, "photos", folder="out2")
    assert (again.num_relabelled, again.num_added, again.left_out) == (1, 1, {})
    newest, _ = read("out2")
    mine = newest[newest["photograph"] == "pier_3"].set_index("tile")["label"]
    assert mine.to_dict() == {
        "train/uncracked/pier_3-r1-c2.png": 0,
        "train/uncracked/pier_3-r2-c2.png": 0,
        "train/cracked/pier_3-r1.5-c2.25.png": 1,
    }
    with pytest.raises(InputError, match="--folder out: has corrections of what first judged"):
        learn(second, changed, "photos")


def test_a_picture_is_found_by_the_end_of_its_path_and_no_other_of_its_name(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
):
    run = drawn / "results" / "drawn"
    Path("april").mkdir()
    draw("april/pier 3.png", seed=9)
    with pytest.raises(InputError, match=r"photos/pier 3\.png is none of 1 picture"):
        learn(run, PIER, "april")
    assert learn(run, PIER, str(Path("photos").absolute())).num_added == 2
    with zipfile.ZipFile("photos.zip", "w") as archive:
        archive.write("photos/pier 3.png", "a/pier 3.png")
    rows = [("photos.zip/a/pier 3.png", *PIER[0][1:])]
    assert learn(run, rows, "photos.zip", folder="zipped").num_added == 1


def test_tiles_that_nobody_grouped_by_photograph_keep_their_split(here: Path):
    generator = np.random.default_rng(3)
    for label in ("Positive", "Negative"):
        Path("tiles", label).mkdir(parents=True)
        for number in range(30):
            pixels = generator.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(f"tiles/{label}/{number:05}.png")
    run = make_run(here / "results" / "metu", here / "tiles")
    learned = learn(run, PIER)
    assert not learned.has_photographs
    layout = Layout(photographs="none", keeps_split=True)
    packed = pack(open_source(Path("out"), layout), under=Path("packs"), log=str)
    old, tested = tiles_of(run), packed.table("test")
    assert set(tested["content"]) == set(old.loc[old["split"] == "test", "content"])
    assert learn(run, OTHERS[:1]).num_corrected == 3


BAD = {
    "label": ([("photos/pier 3.png", "r1-c2", 32, 0, 2)], "line 2: the label must be 0 or 1"),
    "outside": ([("photos/pier 3.png", "r9-c9", 256, 256, 1)], "line 2: 'r9-c9' at 256, 256 is no"),
    "moved": ([("photos/pier 3.png", "r1-c2", 33, 0, 1)], "line 2: 'r1-c2' at 33, 0 is no tile"),
    "unknown": ([*PIER, ("photos/x.png", "r1-c1", 0, 0, 1)], "line 4: photos/x.png is none of 2"),
    "empty": ([], "corrections.csv: has no label"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_a_person_mistyped_is_refused_in_a_line_and_nothing_is_changed(what, drawn: Path):
    rows, reason = BAD[what]
    learn(drawn / "results" / "drawn", PIER, folder="old")
    before = digest_folder(Path("old"))
    for folder in ("old", "new"):
        with pytest.raises(InputError, match=reason) as refused:
            learn(drawn / "results" / "drawn", rows, folder=folder)
        assert "\n" not in str(refused.value)
    assert digest_folder(Path("old")) == before
    assert not Path("new").exists()


def digest_folder(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_disk_that_is_full_leaves_the_data_set_as_it_was(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
):
    run = drawn / "results" / "drawn"
    learn(run, PIER)
    before = digest_folder(Path("out"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CannotWriteError, match="no room on the disk"):
        learn(run, OTHERS)
    assert digest_folder(Path("out")) == before


def test_tiles_of_the_run_that_are_gone_or_changed_are_named(drawn: Path, tmp_path: Path):
    shutil.copytree(drawn, tmp_path / "copy")
    run, tiles = tmp_path / "copy" / "results" / "drawn", tmp_path / "copy" / "tiles"
    record = json.loads((run / "run.json").read_text()) | {"data": str(tmp_path / "gone")}
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"are not in .*/gone; say with --data where"):
        learn(run, PIER)
    files = [save(PIER)]
    assert learn_from(run, files, [Path("photos")], Path("o"), data=tiles, log=str).num_added == 2
    first = tiles / tiles_of(run)["tile"].iloc[0]
    first.write_bytes(first.read_bytes() + b"\0")
    with pytest.raises(InputError, match=f"{first.name} is not what drawn was trained on"):
        learn_from(run, files, [Path("photos")], Path("p"), data=tiles, log=str)
    assert not Path("p").exists()
    (run / "run.json").write_text(json.dumps(record | {"leaky_split": True}))
    with pytest.raises(InputError, match="was split by tile on purpose"):
        learn(run, PIER)


def test_the_command_says_what_went_where_and_names_the_next_one(drawn: Path, capsys):
    save(PIER)
    save(OTHERS, "more.csv")
    words = ["drawn", "corrections.csv", "photos", "more.csv", "--out", str(drawn / "results")]
    result = command.main(parse("learn-from", words))
    assert (result["folder"], result["num_added"]) == ("drawn-learned", 5)
    said = capsys.readouterr().out
    tiles = tiles_of(drawn / "results" / "drawn")
    num_tested = (tiles["split"] == "test").sum()
    assert "corrected in all: 5 tiles, 3 cracked" in said
    assert f"{len(tiles)} tiles of drawn in its own split; the {num_tested} that it is" in said
    next_words = said.splitlines()[-1].partition(" -m ensemble.search ")[2].split()
    options = parse("search", next_words)
    assert (options.data, options.split) == ("drawn-learned", "folders")
    assert options.photographs == "drawn-learned/photographs.csv"
    for wrong in (["drawn", "corrections.csv", "more.csv"], [*words[:3], "--folder", "photos"]):
        with pytest.raises(InputError):
            command.main(parse("learn-from", [*wrong, "--out", str(drawn / "results")]))


def test_of_an_exported_ensemble_the_corrected_tiles_alone_are_written(capsys):
    about = json.dumps({"tile_size_px": [SIDE, SIDE]}).encode()
    contents = {
        "kind": "crack-ensemble, exported",
        "format": 1,
        "version": "0",
        "sha256": {"run.json": hashlib.sha256(about).hexdigest()},
    }
    with zipfile.ZipFile("given.zip", "w") as archive:
        archive.writestr("run.json", about)
        archive.writestr("contents.json", json.dumps(contents))
    save([*PIER, *OTHERS])
    result = command.main(parse("learn-from", ["given.zip", "corrections.csv", "photos"]))
    assert (result["folder"], result["num_run_tiles"]) == ("given-learned", 0)
    said = capsys.readouterr().out
    assert "given is an exported ensemble, which holds no tiles" in said
    tiles = open_source(Path("given-learned"), Layout(photographs="given-learned/photographs.csv"))
    assert set(tiles.tiles["split_folder"]) == {"train"}
    assert set(tiles.tiles["photograph"]) == {"pier_3", "turned"}
