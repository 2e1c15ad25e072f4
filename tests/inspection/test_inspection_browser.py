"""The pages of an inspection in a real browser: read, zoomed, recounted, corrected, reloaded."""

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ensemble.data.layout import read_rows
from ensemble.data.reading.exif import Origin
from ensemble.inspection.pages import ASSETS, Visit, write_pages
from ensemble.inspection.photograph import BOX, Photograph
from ensemble.inspection.tables import tabulate_photographs
from ensemble.viewer.figures import measure_tiles
from ensemble.viewer.page import describe_photograph, make_environment, write_assets

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium to look at pages with")
SIDE, ROWS, COLUMNS, THRESHOLD = 100, 4, 6, 0.5
# in JavaScript: where the image and its frame are
BOXES = (
    "const [i, s] = ['.stage img', '.stage'].map("
    "at => document.querySelector(at).getBoundingClientRect());"
)
VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def make_tiles() -> pd.DataFrame:
    """Tiles with probabilities from 0 to 1, one of them blank."""
    places = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]
    rows, columns = np.array(places).T
    probability = np.random.default_rng(4).random(len(places)).round(3)
    probability[5] = np.nan
    return pd.DataFrame(
        {
            "tile": [f"r{row + 1}-c{column + 1}" for row, column in places],
            **{"left_px": columns * SIDE, "top_px": rows * SIDE},
            **{"width_px": SIDE, "height_px": SIDE, "probability": probability},
            "is_called": probability >= THRESHOLD,
            **{"is_blank": np.isnan(probability), "is_between": False},
        }
    )


def measure(tiles: pd.DataFrame, threshold: float) -> Any:
    called, judged = (tiles["probability"] >= threshold).to_numpy(), ~tiles["is_blank"].to_numpy()
    return measure_tiles(tiles[BOX].to_numpy(), called, judged, np.ones(len(tiles), bool))


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of two photographs; the first one's name is hostile to tables."""
    folder = tmp_path_factory.mktemp("visit")
    for part in ("pages", "photographs", "thumbnails"):
        (folder / part).mkdir()
    photographs, tiles = [], make_tiles()
    for stem, picture in (("wall", '=photos/the "wall", east.png'), ("deck", "photos/deck.png")):
        Image.effect_noise((COLUMNS * SIDE, ROWS * SIDE), 60).save(
            folder / f"photographs/{stem}.png"
        )
        Image.effect_noise((60, 40), 60).save(folder / f"thumbnails/{stem}.jpg")
        size, figures = (COLUMNS * SIDE, ROWS * SIDE), measure(tiles, THRESHOLD)
        origin = Origin(47.1, -8.5, "2026-11-27T10:00:00")
        photographs.append(
            Photograph(
                picture, stem, tiles, figures, size, THRESHOLD, origin, f"sha-{stem}", f"{stem}.png"
            )
        )
    table = tabulate_photographs(photographs, 2.0)
    unread = pd.DataFrame({"picture": ["photos/a.pdf"], "reason": ["of another kind"]})
    write_assets(folder / "assets", ASSETS)
    write_pages(Visit("run", 0.0, 2.0, photographs, table, unread, 1), folder, has_points=False)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, visit: Path) -> Iterator[Any]:
    """The page of the first photograph, in a browser that remembers nothing yet."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto((visit / "pages" / "wall.html").as_uri())
    yield opened
    context.close()


def told(page: Any, name: str) -> str:
    return page.locator(f'[data-show="{name}"]').inner_text()


def point_at(page: Any, row: int, column: int) -> tuple[float, float]:
    """The middle of a tile on the screen, when the photograph fits its frame."""
    stage = page.locator(".stage").bounding_box()
    scale = min(stage["width"] / (COLUMNS * SIDE), stage["height"] / (ROWS * SIDE))
    left = stage["x"] + (stage["width"] - scale * COLUMNS * SIDE) / 2
    top = stage["y"] + (stage["height"] - scale * ROWS * SIDE) / 2
    return left + (column + 0.5) * SIDE * scale, top + (row + 0.5) * SIDE * scale


@pytest.mark.parametrize("name", ["index.html", "pages/wall.html"])
def test_pages_fit_the_window_say_nothing_and_ask_for_files_of_the_folder_alone(
    browser: Any, visit: Path, name: str
):
    for width, scheme in VIEWS:
        view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        complaints, requests = [], []
        view.on("console", lambda message, to=complaints: to.append(message.text))
        view.on("pageerror", lambda error, to=complaints: to.append(str(error)))
        view.on("request", lambda request, to=requests: to.append(request.url))
        view.goto((visit / name).as_uri())
        assert complaints == []
        outside = [url for url in requests if not url.startswith((visit.as_uri(), "data:"))]
        assert outside == []
        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate("[...document.images].every(image => image.naturalWidth)")
        view.close()


def test_the_threshold_recounts_as_python_counts(page: Any):
    tiles, slider = make_tiles(), page.locator('[data-set="threshold"]')
    for threshold in (None, 0.1, 0.35, 0.9, 1.0):
        if threshold is not None:
            slider.fill(str(threshold))
        figures = measure(tiles, THRESHOLD if threshold is None else threshold)
        assert told(page, "called") == f"{figures.num_called} of {len(tiles)}"
        assert told(page, "share") == f"{100 * figures.share:.1f}\N{NO-BREAK SPACE}%"
        chain, metres = figures.chain_tiles, figures.chain_px * 2 / 1000
        assert told(page, "chain") == (f"{chain:.1f} tiles, {metres:.2f} m" if chain else "none")
    page.locator('[data-do="reset"]').click()
    assert told(page, "called").startswith(f"{measure(tiles, THRESHOLD).num_called} of")


def test_a_tile_tells_its_number_to_the_mouse_and_to_the_keys(page: Any):
    tiles, readout = make_tiles().set_index("tile"), page.locator(".readout")
    page.mouse.move(*point_at(page, 2, 3))
    assert f"Tile r3-c4: probability of a crack {tiles.probability['r3-c4']:.3f}" in (
        readout.inner_text()
    )
    page.mouse.move(*point_at(page, 0, 5))
    assert readout.inner_text() == "Tile r1-c6 shows nothing and is not judged"
    page.locator(".stage").focus()
    page.keyboard.press("n")
    surest = tiles["probability"].idxmax()
    assert readout.inner_text().startswith(f"Tile {surest}: ")
    row, column = map(int, re.findall(r"\d+", surest))
    right, key = (1, "ArrowRight") if column < COLUMNS else (-1, "ArrowLeft")
    page.keyboard.press(key)
    assert readout.inner_text().startswith(f"Tile r{row}-c{column + right}")


def test_wheel_and_keys_zoom_and_the_point_under_the_mouse_stays(page: Any):
    read = f"(() => {{ {BOXES} return [i.width, i.x - s.x, i.y - s.y]; }})()"
    before = page.evaluate(read)
    x, y = point_at(page, 1, 2)
    stage = page.locator(".stage").bounding_box()
    page.mouse.move(x, y)
    page.mouse.wheel(0, -900)
    page.wait_for_function(f"{read}[0] > {before[0] * 2}")
    after = page.evaluate(read)
    for axis, at in ((1, x - stage["x"]), (2, y - stage["y"])):
        was, now = ((at - view[axis]) / view[0] for view in (before, after))
        assert now == pytest.approx(was, abs=0.004)
    page.locator(".stage").focus()
    page.keyboard.press("1")
    assert told(page, "zoom") == "100 %"
    page.keyboard.press("0")
    assert page.evaluate(read) == pytest.approx(before, abs=0.01)


def test_on_paper_the_photograph_lies_under_its_tiles_as_on_the_screen(page: Any):
    page.emulate_media(media="print")
    parts = (
        "[(i.x - s.x) / s.width, (i.y - s.y) / s.height, i.width / s.width, i.height / s.height]"
    )
    read = f"(() => {{ {BOXES} return {parts}; }})()"
    before = page.evaluate(read)
    narrower = "document.querySelector('.stage').style.width = '300px'"  # which no script sees yet
    after = page.evaluate(f"(() => {{ {narrower}; return {read}; }})()")
    assert after == pytest.approx(before, abs=0.001)
    assert not page.locator(".bar").is_visible()


def test_marks_that_two_windows_made_are_all_kept_and_seen_in_both(page: Any):
    other = page.context.new_page()
    other.goto(page.url)
    for window, steps in ((page, 1), (other, 2)):
        window.locator(".stage").focus()
        for _ in range(steps):
            window.keyboard.press("n")
        window.keyboard.press("x")
    for window in (page, other):
        window.locator('[data-show="marks"]:has-text("2 corrections")').wait_for()


def test_marks_survive_a_reload_and_are_saved_as_labels(page: Any, visit: Path, tmp_path: Path):
    tiles = make_tiles().set_index("tile")
    called = tiles.index[tiles["is_called"]][0]
    missed = tiles.index[~tiles["is_called"] & ~tiles["is_blank"]][0]
    expected = {called: "0", missed: "1"}
    row, column = (int(number) - 1 for number in re.findall(r"\d+", called))
    page.mouse.click(*point_at(page, row, column))
    row, column = (int(number) - 1 for number in re.findall(r"\d+", missed))
    page.mouse.move(*point_at(page, row, column))
    page.mouse.click(*point_at(page, row, column))
    page.mouse.click(*point_at(page, 0, 5))  # blank: there is nothing to be wrong about
    page.reload()
    assert "2 corrections" in told(page, "marks")
    with page.expect_download() as download:
        page.locator('[data-do="save"]').click()
    assert download.value.suggested_filename == 'corrections-the "wall", east.csv'.replace('"', "_")
    download.value.save_as(tmp_path / "one.csv")
    columns = ("picture", "tile", *BOX, "label")
    rows = [row for _, row in read_rows(tmp_path / "one.csv", columns)]
    assert {row["tile"]: row["label"] for row in rows} == expected
    assert {row["picture"] for row in rows} == {'=photos/the "wall", east.png'}
    assert [int(rows[0][name]) for name in BOX] == tiles.loc[rows[0]["tile"], BOX].tolist()
    page.goto((visit / "index.html").as_uri())
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == [*columns]
    page.goto((visit / "pages" / "deck.html").as_uri())  # another photograph has none
    assert "No corrections" in told(page, "marks")


def test_keys_mark_a_tile_and_take_the_mark_back(page: Any):
    page.locator(".stage").focus()
    page.keyboard.press("n")
    page.keyboard.press("x")
    assert page.locator(".readout").inner_text().endswith("you say: not cracked")
    page.keyboard.press("Enter")
    assert "No corrections" in told(page, "marks")


LABEL_PAGE = """{% from "viewer.html.jinja" import viewer %}{{ viewer(shown) }}
<script src="assets/figures.js"></script><script src="assets/labels.js"></script>
<script src="assets/viewer.js"></script>"""


def test_a_page_on_which_nothing_is_judged_takes_labels_of_cracks(browser: Any, visit: Path):
    tiles = make_tiles().assign(probability=np.nan, is_called=False, is_blank=False)
    place = {"picture": "a.png", "key": "k", "image_url": "photographs/wall.png"}
    size_px = (COLUMNS * SIDE, ROWS * SIDE)
    shown = describe_photograph(tiles, **place, size_px=size_px, threshold=None)
    template = make_environment().from_string(LABEL_PAGE)
    (visit / "label.html").write_text(template.render(shown=shown), encoding="utf-8")
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((visit / "label.html").as_uri())
    assert page.locator('[data-do="mark"]').inner_text() == "Mark the tile as cracked"
    page.locator(".stage").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    assert page.locator(".readout").inner_text() == "Tile r1-c1; you say: cracked"
    assert told(page, "marks").startswith(
        "1 label of 24 tiles on this photograph, 1 of them cracked"
    )
    assert page.locator('[data-set="threshold"]').count() == 0
    assert complaints == []
    page.close()
