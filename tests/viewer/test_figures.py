"""Facts about the figures of called tiles, worked out by hand; the browser's are the same."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.viewer.figures import measure_area, measure_chain, measure_tiles
from ensemble.viewer.page import ASSETS, COLOURS, VIEWER, colour_of, describe_photograph

SIDE = 10
COMPARE = """
const figures = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(each => figures.measureTiles(...each))));
"""


def boxes_at(*places: tuple[float, float]) -> np.ndarray:
    """Boxes of tiles by row and column, in sides of a tile."""
    starts = [(round(column * SIDE), round(row * SIDE)) for row, column in places]
    return np.array([(left, top, SIDE, SIDE) for left, top in starts]).reshape(-1, 4)


@pytest.mark.parametrize(
    ("places", "tiles"),
    [
        ([], 0),
        ([(0, 0)], 1),
        ([(0, 0), (0, 1), (0, 2)], 3),
        ([(0, 0), (1, 1), (2, 2)], 1 + 2 * math.sqrt(2)),  # corners touch
        ([(0, 0), (0, 2), (0, 4)], 1),  # nothing touches
        ([(0, 0), (0, 0.5), (0, 1)], 2),  # tiles between make it no longer
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 1 + math.sqrt(2)),
        ([(0, 1), (1, 0), (1, 1), (1, 2), (5, 5), (5, 6)], 3),  # the longer of two
        ([(0, 0), (0, 1), (0, 1.6)], 2.6),  # the last column is shifted inward
    ],
)
def test_the_longest_chain_goes_from_end_to_end_over_tiles_that_touch(places, tiles):
    length_px, length = measure_chain(boxes_at(*places))
    assert length == pytest.approx(tiles)
    assert length_px == pytest.approx(tiles * SIDE)


def test_an_area_that_two_tiles_cover_counts_once():
    assert measure_area(boxes_at()) == 0
    assert measure_area(boxes_at((0, 0), (0, 0.5), (3, 3))) == 150 + 100


def test_blank_tiles_are_no_surface_and_tiles_between_are_counted_by_themselves():
    boxes = boxes_at((0, 0), (0, 1), (0, 2), (0, 0.5))
    called, judged = np.array([1, 0, 0, 1], bool), np.array([1, 1, 0, 1], bool)
    figures = measure_tiles(boxes, called, judged, np.array([1, 1, 1, 0], bool))
    assert (figures.num_called, figures.num_called_between) == (1, 1)
    assert (figures.called_px, figures.judged_px, figures.share) == (150, 200, 0.75)
    assert figures.chain_tiles == 1.5
    nothing = measure_tiles(boxes, called & False, judged & False, judged)
    assert (nothing.share, nothing.chain_px) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=24))
def test_no_chain_is_made_up_and_none_is_shorter_than_half_of_the_longest(places):
    boxes = boxes_at(*sorted(places))
    starts = boxes[:, :2].astype(float)
    ways = np.sqrt(np.square(starts[:, None] - starts).sum(axis=2))
    ways[np.abs(starts[:, None] - starts).max(axis=2) > SIDE] = np.inf
    for middle in range(len(boxes)):  # Floyd and Warshall
        ways = np.minimum(ways, ways[:, [middle]] + ways[[middle]])
    longest = ways[np.isfinite(ways)].max()
    found = measure_chain(boxes)[0] - SIDE
    assert longest / 2 - 1e-5 <= found <= longest + 1e-5


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node to run JavaScript with")
def test_the_browser_counts_as_python_does():
    generator = np.random.default_rng(0)
    cases, expected = [], []
    for number in range(40):
        rows, columns, step = 2 + number % 7, 3 + number % 11, (1, 0.5, 0.25)[number % 3]
        places = [(y, x) for y in np.arange(0, rows, step) for x in np.arange(0, columns, step)]
        boxes = boxes_at(*places)
        chance = (0.05, 0.3, 0.6, 0.95)[number % 4] * step
        called = generator.random(len(boxes)) < chance
        judged = called | (generator.random(len(boxes)) < 0.8)
        first = np.array([y % 1 == 0 and x % 1 == 0 for y, x in places])
        expected.append(measure_tiles(boxes, called, judged, first))
        cases.append([each.tolist() for each in (boxes, called, judged, first)])
    words = ["node", "-e", COMPARE, str(VIEWER / "figures.js")]
    done = subprocess.run(words, input=json.dumps(cases), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found, figures in zip(json.loads(done.stdout), expected, strict=True):
        assert found["numCalled"] == figures.num_called
        assert found["numCalledBetween"] == figures.num_called_between
        assert (found["calledPx"], found["judgedPx"]) == (figures.called_px, figures.judged_px)
        assert found["chainTiles"] == pytest.approx(figures.chain_tiles, abs=1e-5)


def test_colours_are_those_of_the_stops_and_between_them_in_proportion():
    stops = np.array(COLOURS)
    assert colour_of(stops[:, 0]).tolist() == np.rint(stops[:, 1:] * [1, 1, 1, 255]).tolist()
    assert (np.diff(colour_of(np.linspace(0, 1, 50))[:, 3].astype(int)) >= 0).all()


def test_a_page_is_told_plain_values_and_every_asset_is_there():
    tiles = pd.DataFrame(
        {
            "tile": ["r1-c1", "r1-c2"],
            **{"left_px": [0, 10], "top_px": 0, "width_px": 10, "height_px": 12},
            "probability": [0.123456, np.nan],
            **{"is_called": [True, False], "is_blank": [False, True], "is_between": False},
        }
    )
    place = {"picture": "a.jpg", "key": "k", "image_url": "a.jpg", "size_px": (20, 12)}
    told = describe_photograph(tiles, **place, threshold=0.1)
    assert json.loads(json.dumps(told, allow_nan=False))["tiles"] == {
        "tile": ["r1-c1", "r1-c2"],
        "left_px": [0, 10],
        "top_px": [0, 0],
        "probability": [0.1235, None],
        "called": [1, 0],
        "blank": [0, 1],
        "between": [0, 0],
    }
    assert told["tile_px"] == [10, 12]
    assert all((VIEWER / name).is_file() for name in ASSETS)
    written = "".join((VIEWER / name).read_text(encoding="utf-8") for name in ASSETS)
    assert "http" not in written  # nothing is asked for elsewhere
    assert Path(VIEWER / "viewer.html.jinja").read_text(encoding="utf-8").count("http") == 0
