"""Facts about windows: real pixels where they are, mirrored ones where they are not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.data.windows import (
    CENTRE,
    PLACES,
    _cut_on_gpu,
    cut_windows,
    fill_gaps,
    find_neighbours,
    hide_neighbours,
)

HEIGHT, WIDTH = 6, 5


def cut(photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photograph (H, W, 3) as bricks (R, 6, 5, 3), with the row and column of each."""
    down, right = photograph.shape[0] // HEIGHT, photograph.shape[1] // WIDTH
    bricks = photograph.reshape(down, HEIGHT, right, WIDTH, 3).swapaxes(1, 2)
    places = np.indices((down, right)).reshape(2, -1)
    return bricks.reshape(-1, HEIGHT, WIDTH, 3), places[0], places[1]


def draw(down: int, right: int, seed: int = 0) -> np.ndarray:
    shape = (down * HEIGHT, right * WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def one_photograph(down: np.ndarray, right: np.ndarray) -> np.ndarray:
    rows = np.arange(len(down))
    return find_neighbours(rows, np.full(len(rows), "one"), down, right)


@settings(max_examples=30, deadline=None)
@given(
    down=st.integers(1, 4),
    right=st.integers(1, 4),
    margin=st.tuples(st.integers(0, HEIGHT), st.integers(0, WIDTH)),
)
def test_windows_of_a_whole_photograph_are_cuts_of_the_photograph_reflected_at_its_rim(
    down, right, margin
):
    photograph = draw(down, right)
    bricks, rows, columns = cut(photograph)
    windows = cut_windows(
        torch.from_numpy(bricks), fill_gaps(one_photograph(rows, columns)), margin
    )
    y, x = margin
    padded = np.pad(photograph, ((y, y), (x, x), (0, 0)), mode="symmetric")
    for window, row, column in zip(windows.numpy(), rows, columns, strict=True):
        top, left = row * HEIGHT, column * WIDTH
        expected = padded[top : top + HEIGHT + 2 * y, left : left + WIDTH + 2 * x]
        np.testing.assert_array_equal(window, expected)


@settings(max_examples=30, deadline=None)
@given(
    holes=st.sets(st.integers(0, 11), max_size=9),
    margin=st.tuples(st.integers(0, HEIGHT), st.integers(0, WIDTH)),
)
def test_a_gpu_cuts_the_windows_that_a_cpu_cuts(holes, margin):
    bricks, rows, columns = cut(draw(3, 4))
    kept = [n for n in range(12) if n not in holes]
    pixels = torch.from_numpy(bricks[kept])
    filled = fill_gaps(one_photograph(rows[kept], columns[kept]))
    windows = cut_windows(pixels, filled, margin)
    again = torch.zeros_like(windows)
    _cut_on_gpu(pixels, filled, margin, again)
    assert torch.equal(windows, again)


def test_a_hole_shows_the_reflected_brick_beside_it_and_never_what_was_there():
    bricks, rows, columns = cut(draw(3, 3))
    kept = [n for n in range(9) if n != 5]  # the one to the right of the middle
    pixels = torch.from_numpy(bricks[kept])
    windows = cut_windows(pixels, fill_gaps(one_photograph(rows[kept], columns[kept])), (2, 2))
    middle = windows[4].numpy()
    np.testing.assert_array_equal(middle[2:-2, -2:], bricks[4][:, :-3:-1])
    np.testing.assert_array_equal(middle[:2, -2:], bricks[2][-2:, :2])  # this one is there


def test_photographs_are_no_neighbours_of_each_other():
    down, right = np.array([0, 0, 0, 0]), np.array([0, 1, 0, 1])
    neighbours = find_neighbours(np.arange(4), np.array(["a", "a", "b", "b"]), down, right)
    right_of, left_of = PLACES.index((0, 1)), PLACES.index((0, -1))
    assert neighbours[:, right_of].tolist() == [1, -1, 3, -1]
    assert neighbours[:, left_of].tolist() == [-1, 0, -1, 2]
    assert (neighbours >= 0).sum() == 8


def test_a_tile_whose_place_is_not_known_has_no_neighbours_and_is_nobodys():
    neighbours = find_neighbours(
        np.arange(3), np.array(["a", "a", "a"]), np.array([0, -1, 0]), np.array([0, 0, 1])
    )
    assert (neighbours[1] >= 0).sum() == 1
    assert neighbours[1, CENTRE] == 1
    assert not (neighbours[[0, 2]] == 1).any()


def test_two_tiles_at_one_place_are_each_their_own_centre_and_the_first_is_the_neighbour():
    neighbours = find_neighbours(
        np.arange(3), np.array(["a", "a", "a"]), np.zeros(3, int), np.array([0, 0, 1])
    )
    assert neighbours[:, CENTRE].tolist() == [0, 1, 2]
    assert neighbours[2, PLACES.index((0, -1))] == 0


@pytest.mark.parametrize("hidden", [[True, False], [False, True]])
def test_hidden_neighbours_are_the_mirrored_tile(hidden):
    photograph = draw(1, 2)
    bricks, rows, columns = cut(photograph)
    filled = fill_gaps(one_photograph(rows, columns))
    shown = cut_windows(torch.from_numpy(bricks), filled, (3, 3))
    some = cut_windows(
        torch.from_numpy(bricks), hide_neighbours(filled, torch.tensor(hidden)), (3, 3)
    )
    for brick, window, usual, is_hidden in zip(bricks, some, shown, hidden, strict=True):
        alone = np.pad(brick, ((3, 3), (3, 3), (0, 0)), mode="symmetric")
        assert np.array_equal(window, alone) == is_hidden
        assert torch.equal(window, usual) != is_hidden
