"""Greedy selection on drawn scores: how long the choice of an ensemble takes."""

import time
from typing import Any

import numpy as np

from bench.row import Row
from ensemble.selection.weighting import greedy_weights
from ensemble.training.metrics import margins_to_probabilities

PART = "selection"
DEFAULTS = greedy_weights.__kwdefaults__ or {}  # what the ensemble command selects with
SHARE_CRACKED = 0.15
TILES_PER_PHOTOGRAPH = 245
ROUNDS = 3


def measure(num_members: int = 200, num_tiles: int = 10_000) -> list[Row]:
    """Seconds of a selection from one bag, and from as many as the ensemble command takes."""
    scores = draw_scores(num_members, num_tiles)
    what = f"greedy selection, {DEFAULTS['num_picks']} picks"
    what += f", {num_members} candidates x {num_tiles:,} tiles"
    one = min(_time_selection(*scores, num_bags=1) for _ in range(ROUNDS))
    return [
        Row(PART, f"{what}, one bag", one, "s", "<= 1"),
        Row(PART, f"{what}, {DEFAULTS['num_bags']} bags", _time_selection(*scores), "s"),
    ]


def draw_scores(
    num_members: int, num_tiles: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the members of a search say of its validation tiles, drawn.

    Half of a margin's noise is the tile's, so that members err together, and they are not equally
    good: the best have an F1 of about 0.8, the worst of about 0.4.

    Args:
        num_members: M.
        num_tiles: N.
        seed: Seed of the draw.

    Returns:
        Probabilities of "cracked" (M, N) in the precision in which members keep their scores,
        labels (N,) and photographs (N,).
    """
    generator = np.random.default_rng(seed)
    labels = (generator.random(num_tiles) < SHARE_CRACKED).astype(np.int64)
    labels[:2] = 0, 1  # however few there are
    quality = generator.uniform(0.8, 2.2, num_members)  # of each member
    of_tiles = generator.standard_normal(num_tiles)  # all members see the same picture
    noise = of_tiles + generator.standard_normal((num_members, num_tiles))
    margins = quality[:, None] * (4 * labels - 3) + 2.5 * noise
    photographs = np.arange(num_tiles) // TILES_PER_PHOTOGRAPH
    probabilities = margins_to_probabilities(margins.astype(np.float32))
    return probabilities, labels, np.char.add("photograph-", photographs.astype(str))


def _time_selection(
    probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray, **options: Any
) -> float:
    started = time.perf_counter()
    greedy_weights(probabilities, labels, photographs, **options)
    return time.perf_counter() - started
