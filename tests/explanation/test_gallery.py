"""Facts about the picture of a member's errors on validation: which tiles, in what order, named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont

from ensemble.data.batches import SplitTiles
from ensemble.explanation.activation import (
    GAP_PX,
    HEADING_PX,
    LEGEND_PX,
    LINE_PX,
    MARGIN_PX,
    SHEET_KEY,
    TILE_PX,
    TITLE_PX,
)
from ensemble.explanation.gallery import NUM_FINDS, draw_galleries, draw_worst
from ensemble.selection.ensemble import Ensemble
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import best_threshold

TOP_PX = TITLE_PX + LEGEND_PX[1] + MARGIN_PX
ROW_PX = TILE_PX + MARGIN_PX + 2 * LINE_PX
BRIGHT = 120  # on average; every cracked tile is above, every other below


def make_probabilities(*, missed: int, alarms: int) -> np.ndarray:
    """Probabilities of 200 tiles, every second one cracked; the best threshold is in 0.2 to 0.3.

    The false alarms are 0.3 and more above it, the misses 0.2 and less below.
    """
    probabilities = np.where(np.arange(200) % 2 == 1, 0.3, 0.2)
    probabilities[1::2][:missed] = np.linspace(0.15, 0.1, missed)
    probabilities[::2][:alarms] = np.linspace(0.6, 0.9, alarms)
    return probabilities


@pytest.fixture
def draw(
    tmp_path: Path,
    make_bright_and_dark: Callable[..., SplitTiles],
    write_member: Callable[..., Member],
) -> Callable[[np.ndarray], np.ndarray]:
    """Draws the worst of 200 tiles (1 = cracked is bright) and returns the picture's pixels."""

    def draw(probabilities: np.ndarray) -> np.ndarray:
        table = pd.DataFrame(
            {
                "tile": [f"D/CD/7001-{number}.jpg" for number in range(200)],
                "photograph": "7001",
                "surface": "D",
                "label": np.arange(200) % 2,
                "probability": probabilities,
            }
        )
        member = write_member(tmp_path / "member")
        draw_worst(tmp_path / "worst.png", table, member, make_bright_and_dark(200), name="base")
        with Image.open(tmp_path / "worst.png") as sheet:
            return np.asarray(sheet)

    return draw


def write(words: str, pixels: np.ndarray, *, size: int, top: int) -> np.ndarray:
    """`words` on white, as wide and high as `pixels`."""
    strip = Image.new("RGB", pixels.shape[1::-1], "white")
    ImageDraw.Draw(strip).text((MARGIN_PX, top), words, "black", ImageFont.load_default(size))
    return np.asarray(strip)


def assert_says(pixels: np.ndarray, words: str, *, size: int, top: int) -> None:
    assert np.array_equal(pixels, write(words, pixels, size=size, top=top)), words


def tiles_in(pixels: np.ndarray, top: int, count: int) -> list[np.ndarray]:
    """The plain tiles of one row."""
    across = 2 * TILE_PX + GAP_PX + 2 * MARGIN_PX
    lefts = [MARGIN_PX + number * across for number in range(count)]
    return [pixels[top : top + TILE_PX, left : left + TILE_PX] for left in lefts]


def test_many_false_alarms_leave_the_misses_their_rows(
    draw: Callable[[np.ndarray], np.ndarray],
) -> None:
    """By their distance from the threshold the worst 45 errors are all false alarms."""
    probabilities = make_probabilities(missed=20, alarms=45)
    assert 0.2 < best_threshold(np.arange(200) % 2, probabilities)[0] <= 0.3
    pixels = draw(probabilities)
    second = TOP_PX + HEADING_PX + 2 * ROW_PX
    assert len(pixels) == second + HEADING_PX + 2 * ROW_PX + MARGIN_PX
    for row in range(2):
        misses = tiles_in(pixels, TOP_PX + HEADING_PX + row * ROW_PX, 6)
        alarms = tiles_in(pixels, second + HEADING_PX + row * ROW_PX, 6)
        assert all(tile.mean() > BRIGHT for tile in misses)
        assert all(tile.mean() < BRIGHT for tile in alarms)
    assert_says(
        pixels[TOP_PX : TOP_PX + HEADING_PX],
        "12 of 20 misses (cracks called uncracked), the worst first",
        size=14,
        top=4,
    )
    assert_says(
        pixels[second : second + HEADING_PX],
        "12 of 45 false alarms (uncracked called cracked), the worst first",
        size=14,
        top=4,
    )


def test_headline_counts_both_kinds_and_says_from_where_tiles_are_called_cracked(
    draw: Callable[[np.ndarray], np.ndarray],
) -> None:
    probabilities = make_probabilities(missed=1, alarms=3)
    threshold, _ = best_threshold(np.arange(200) % 2, probabilities)
    assert_says(
        draw(probabilities)[:TITLE_PX],
        f"base on 200 validation tiles, cracked from a probability of {threshold:.3f}: 1 miss "
        "(cracks called uncracked) and 3 false alarms (uncracked called cracked)",
        size=16,
        top=MARGIN_PX,
    )


def test_caption_is_the_whole_name_of_the_tile_and_its_probability(
    draw: Callable[[np.ndarray], np.ndarray],
) -> None:
    pixels = draw(make_probabilities(missed=1, alarms=0))  # tile 1, with 0.15
    top = TOP_PX + HEADING_PX + TILE_PX
    caption = pixels[top : top + 2 * LINE_PX, :400]
    expected = write("D/CD/7001-1.jpg", caption, size=12, top=0)
    second = write("probability 0.150", caption, size=12, top=LINE_PX)
    assert np.array_equal(caption, np.minimum(expected, second))
    assert len(pixels) == TOP_PX + HEADING_PX + ROW_PX + MARGIN_PX  # no rows without false alarms


def test_nothing_wrong_is_a_headline_alone(draw: Callable[[np.ndarray], np.ndarray]) -> None:
    pixels = draw(make_probabilities(missed=0, alarms=0))
    assert len(pixels) == TITLE_PX + 2 * MARGIN_PX
    assert (pixels < 128).any()


@pytest.mark.parametrize("num_found", [0, 1, 90])
def test_finds_are_drawn_from_the_surest_to_the_least_sure(
    tmp_path: Path,
    make_bright_and_dark: Callable[..., SplitTiles],
    write_member: Callable[..., Member],
    num_found: int,
) -> None:
    probabilities = np.full(200, 0.1)
    probabilities[1::2][:num_found] = np.linspace(0.99, 0.5, num_found)
    table = pd.DataFrame(
        {
            "tile": [f"D/CD/7001-{number}.jpg" for number in range(200)],
            "photograph": "7001",
            "surface": "D",
            "label": np.arange(200) % 2,
            "context": "neighbours",
            "ensemble": probabilities,
            "calibrated": probabilities,
        }
    )
    tiles = make_bright_and_dark(200)
    ensemble = Ensemble(
        members=[write_member(tmp_path / "member")],
        weights=np.ones(1),
        threshold=0.5,
        tile_size_px=tiles.tile_size_px,
        stored_size_px=(16, 16),
        device=tiles.device,
    )
    draw_galleries(tmp_path, table, ensemble, tiles)
    with Image.open(tmp_path / "finds.png") as sheet:
        sheet.load()
        about = json.loads(sheet.info[SHEET_KEY])
    shown = [float(tile["caption"].split()[-1]) for tile in about["tiles"]]
    assert len(shown) == min(num_found, NUM_FINDS)
    assert shown == sorted(shown, reverse=True)
    if num_found > 1:
        assert (shown[0], shown[-1]) == (0.99, 0.5)
    assert about["title"].startswith(f"{len(shown)} of {num_found} find")
