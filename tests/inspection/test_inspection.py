"""Facts about inspections: the folder holds what `predict` finds, for people and other programs."""

import json
import re
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from bright_run import TILE, make_bright_run
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.batches import SplitTiles
from ensemble.data.reading.decode import can_read_heif
from ensemble.data.reading.exif import GPS_IFD
from ensemble.inspection.command import main
from ensemble.predict import main as predict
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig
from ensemble.viewer.figures import measure_tiles

SIDE = TILE[0]
CRACKED = [(0, 1), (1, 2), (2, 3)]  # rows and columns of a diagonal


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    make_bright_and_dark: Callable[..., SplitTiles],
    make_trial_config: Callable[..., TrialConfig],
    write_member: Callable[..., Member],
) -> Path:
    makers = make_bright_and_dark, make_trial_config, write_member
    return make_bright_run(tmp_path_factory.mktemp("run"), *makers)


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wall(bright: list[tuple[int, int]], rows: int = 3, columns: int = 5) -> np.ndarray:
    """Dark tiles, and bright ones at these places."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(20, 80, (rows * SIDE, columns * SIDE, 3))
    for row, column in bright:
        pixels[row * SIDE :, column * SIDE :][:SIDE, :SIDE] += 120
    return pixels.astype(np.uint8)


def save(pixels: np.ndarray, path: str, **settings: Any) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)


def placed(latitude: float) -> Image.Exif:
    exif = Image.Exif()
    exif.get_ifd(GPS_IFD).update({1: "N", 2: (latitude, 0.0, 0.0), 3: "W", 4: (8.0, 30.0, 0.0)})
    return exif


def inspect(run: Path, *words: str) -> dict[str, Any]:
    return main(parse("inspect", [str(run), *words]))


class Links(HTMLParser):
    """Addresses that a page asks for or leads to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_figures_are_those_of_the_tiles_that_predict_calls_cracked(run: Path):
    save(wall(CRACKED), "photos/deck/a wall #1.png")
    save(wall([]), "photos/b.png")
    said = inspect(run, "photos", "--mm-per-px", "2", "--out", "nowhere")
    assert said["folder"] == "photos-inspection"
    folder = Path("photos-inspection")
    predict(parse("predict", [str(run), "photos"]))
    assert (folder / "tiles.csv").read_bytes() == Path("predictions.csv").read_bytes()
    table = pd.read_csv(folder / "photographs.csv")
    assert table["picture"].tolist() == ["photos/deck/a wall #1.png", "photos/b.png"]
    first = table.iloc[0]
    assert (first["num_tiles"], first["num_called"], first["num_not_judged"]) == (15, 3, 0)
    assert first["share"] == pytest.approx(3 / 15)
    assert first["chain_tiles"] == pytest.approx(1 + 2 * np.sqrt(2))
    assert first["chain_m"] == pytest.approx(first["chain_tiles"] * SIDE * 2 / 1000)
    assert table["chain_m"].tolist()[1] == 0
    assert said["sentence"] == (
        "1 of 2 photographs has tiles that are called cracked, 10.0\N{NO-BREAK SPACE}% of the "
        "surface; the longest chain of them, 3.8 tiles, 0.25 m, is in photos/deck/a wall #1.png."
    )
    assert said["sentence"] in (folder / "index.html").read_text(encoding="utf-8")


def test_every_link_of_every_page_leads_to_a_file_of_the_folder(run: Path):
    save(wall(CRACKED), "photos/a wall #1?.png")
    save(wall([]), "photos/b.jpg")
    inspect(run, "photos", "--folder", "out")
    pages = [Path("out/index.html"), *Path("out/pages").iterdir()]
    assert len(pages) == 3
    for page in pages:
        links = [link for link in Links(page).found if link[0] != "#" and link != "data:,"]
        assert len(links) >= 5
        for link in links:
            assert (page.parent / unquote(link)).resolve().is_relative_to(Path("out").resolve())
            assert (page.parent / unquote(link)).is_file(), link


def test_what_the_page_is_told_comes_to_the_figures_of_the_table(run: Path):
    save(wall([*CRACKED, (0, 2)]), "wall.png")
    inspect(run, "wall.png", "--overlap", "0.5")
    page = Path("wall-inspection/pages/wall.html").read_text(encoding="utf-8")
    told = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    tiles, (width, height) = told["tiles"], told["tile_px"]
    boxes = np.array(
        [(x, y, width, height) for x, y in zip(tiles["left_px"], tiles["top_px"], strict=True)]
    )
    flags = [np.array(tiles[name], bool) for name in ("called", "blank", "between")]
    figures = measure_tiles(boxes, flags[0], ~flags[1], ~flags[2])
    row = pd.read_csv("wall-inspection/photographs.csv").iloc[0]
    assert figures.num_called == row["num_called"] == 4
    assert figures.num_called_between == row["num_called_between"] > 0
    assert figures.share == row["share"]
    called = np.array(tiles["probability"]) >= told["threshold"]
    assert (called == flags[0]).all()


def test_a_copy_is_shown_where_browsers_show_it_alike_and_else_a_picture_of_their_kinds(run: Path):
    turned = Image.Exif()
    turned[0x0112] = 6
    save(wall([]), "photos/a.jpg", exif=turned, quality=95)
    save(wall([]), "photos/b.tif")
    save(wall([])[:SIDE, :40], "photos/c.jpg", exif=turned)  # one tile, which is not turned
    Image.fromarray(wall([])).convert("CMYK").save("photos/d.jpg")
    inspect(run, "photos", "--folder", "out")
    shown = {path.name: path for path in Path("out/photographs").iterdir()}
    assert set(shown) == {"a.jpg", "b.jpg", "c.jpg", "d.jpg"}
    assert shown["a.jpg"].read_bytes() == Path("photos/a.jpg").read_bytes()
    table = pd.read_csv("out/photographs.csv").set_index("picture")
    assert table.loc["photos/a.jpg", ["width_px", "height_px"]].tolist() == [96, 160]
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        with Image.open(shown[name]) as image:
            assert (image.mode, image.getexif().get(0x0112, 1)) == ("RGB", 1)
            size = table[table["photograph"] == f"photographs/{name}"].iloc[0]
            assert image.size == (size["width_px"], size["height_px"])


def test_blank_parts_are_left_out_and_counted(run: Path):
    pixels = wall(CRACKED)
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[:, : 2 * SIDE] = 0  # six tiles, one of them bright
    save(np.concatenate([pixels, alpha], axis=2), "mosaic.tif")
    inspect(run, "mosaic.tif")
    row = pd.read_csv("mosaic-inspection/photographs.csv").iloc[0]
    assert (row["num_tiles"], row["num_not_judged"], row["num_called"]) == (15, 6, 2)
    assert row["share"] == pytest.approx(2 / 9)
    assert row["photograph"] == "photographs/mosaic.png"
    assert "Blank tiles, not judged" in Path("mosaic-inspection/index.html").read_text("utf-8")


def test_positions_become_points_and_called_tiles_boxes(run: Path):
    save(wall(CRACKED), "photos/a.jpg", exif=placed(47.0), quality=98)
    save(wall([]), "photos/b.png")
    inspect(run, "photos", "--folder", "out")
    points = json.loads(Path("out/photographs.geojson").read_text(encoding="utf-8"))
    (point,) = points["features"]
    assert point["geometry"] == {"type": "Point", "coordinates": [-8.5, 47.0]}
    assert (point["properties"]["picture"], point["properties"]["num_called"]) == (
        "photos/a.jpg",
        3,
    )
    coco = json.loads(Path("out/coco.json").read_text(encoding="utf-8"))
    assert [image["file_name"] for image in coco["images"]] == [
        "photographs/a.jpg",
        "photographs/b.png",
    ]
    expected = [[column * SIDE, row * SIDE, SIDE, SIDE] for row, column in CRACKED]
    assert [box["bbox"] for box in coco["annotations"]] == expected
    assert {box["image_id"] for box in coco["annotations"]} == {1}
    assert all(0 < box["score"] <= 1 and box["category_id"] == 1 for box in coco["annotations"])
    Path("photos/a.jpg").unlink()
    inspect(run, "photos", "--folder", "out")  # an older file of points does not stay
    assert not Path("out/photographs.geojson").exists()


def test_a_photograph_beyond_pillows_bound_on_pixels_is_inspected_with_its_position(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    save(wall(CRACKED), "photos/a.jpg", exif=placed(47.0), quality=98)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # twice that is an error
    inspect(run, "photos", "--folder", "out")
    row = pd.read_csv("out/photographs.csv").iloc[0]
    assert (row["num_called"], row["latitude"]) == (3, 47.0)
    assert Image.MAX_IMAGE_PIXELS == 5000


def test_what_cannot_be_read_is_listed_with_its_reason_and_costs_no_exit_code(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    save(wall([]), "photos/a.png")
    Path("photos/broken.jpg").write_text("<script>alert(1)</script>")
    Path("photos/scan.pdf").write_bytes(b"%PDF")
    Path("photos/notes.txt").write_text("cracks everywhere")
    said = inspect(run, "photos")
    assert said["num_unread"] == 3
    unread = pd.read_csv("photos-inspection/unread.csv").set_index("picture")["reason"]
    assert unread["photos/broken.jpg"].startswith("no JPEG")
    assert "kind that is not read" in unread["photos/scan.pdf"]
    assert "not pictures" in unread["photos/notes.txt"]
    assert said["sentence"].endswith("; 2 pictures could not be read.")
    index = Path("photos-inspection/index.html").read_text(encoding="utf-8")
    assert all(name in index for name in unread.index)
    assert "photos/broken.jpg: no JPEG" in capsys.readouterr().out


def test_a_name_is_text_and_no_part_of_the_page(run: Path):
    name = '"><img src=x onerror=alert(1)>.png'
    with zipfile.ZipFile("visit.zip", "w") as archive:
        save(wall(CRACKED), "a.png")
        archive.write("a.png", f"</script>{name}".replace("/", "_"))
    inspect(run, "visit.zip")
    for page in (Path("visit-inspection/index.html"), *Path("visit-inspection/pages").iterdir()):
        assert "<img src=x" not in page.read_text(encoding="utf-8")


def test_an_older_inspection_is_replaced_and_what_a_person_put_there_stays(run: Path):
    save(wall([]), "one/a.png")
    save(wall([]), "two/b.png")
    inspect(run, "one", "--folder", "out")
    Path("out/corrections.csv").write_text("mine")
    inspect(run, "two", "--folder", "out")
    assert [path.name for path in Path("out/pages").iterdir()] == ["b.html"]
    assert [path.name for path in Path("out/photographs").iterdir()] == ["b.png"]
    assert Path("out/corrections.csv").read_text() == "mine"
    said = inspect(run, ".", "--folder", "again")  # the folder of results is no visit
    assert said["num_photographs"] == 2
    assert {row["reason"] for row in said["unread"]} == {"results of searches and predictions"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.png"], "nowhere.png: no such picture, folder or .zip"),
        (["text.jpg"], "none of 1 picture can be read"),
        (["wall.png", "--folder", "full"], "--folder full: holds other files"),
        (["wall.png", "--folder", "text.jpg"], "--folder text.jpg: is a file"),
        (["wall.png", "--mm-per-px", "0"], "--mm-per-px 0: must be finite and above 0"),
        (["wall.png", "--overlap", "0.3"], "--overlap '0.3': must be 0, 0.5 or 0.75"),
        (["full", "--folder", "full/in"], None),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    run: Path, words: list[str], message: str | None
):
    save(wall([]), "wall.png")
    save(wall([]), "full/a.png")
    Path("text.jpg").write_text("none")
    if message is None:
        assert inspect(run, *words)["num_photographs"] == 1
        return
    with pytest.raises(InputError) as refused:
        inspect(run, *words)
    assert message in str(refused.value)
    assert {path.name for path in Path().iterdir()} == {"wall.png", "full", "text.jpg"}


@pytest.mark.skipif(not can_read_heif(), reason="pillow-heif is not installed")
@pytest.mark.parametrize("suffix", ["heic", "HIF"])
def test_heic_is_read_and_shown_as_jpeg(run: Path, suffix: str):
    Path("photos").mkdir()
    with Path(f"photos/a.{suffix}").open("wb") as file:
        Image.fromarray(wall(CRACKED)).save(file, "HEIF", quality=95, exif=placed(47.0))
    inspect(run, "photos", "--folder", "out")
    row = pd.read_csv("out/photographs.csv").iloc[0]
    assert (row["width_px"], row["height_px"], row["num_called"]) == (160, 96, 3)
    assert row["latitude"] == 47.0
    with Image.open("out/photographs/a.jpg") as image:
        assert image.size == (160, 96)


@pytest.mark.skipif(can_read_heif(), reason="pillow-heif is installed")
def test_without_the_extra_heic_is_named_with_a_way_out(run: Path):
    save(wall([]), "photos/a.png")
    Path("photos/b.HEIC").write_bytes(b"ftypheic")
    (row,) = inspect(run, "photos")["unread"]
    assert row["picture"] == "photos/b.HEIC"
    assert "pip install pillow-heif" in row["reason"]
