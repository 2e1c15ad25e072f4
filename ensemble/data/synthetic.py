"""Draw a small synthetic set of concrete tiles in the folder layout of SDNET2018.

In: a seed and sizes. Out: `D/CD/7001-12.jpg` and so on, for trying the whole flow without the
real images. The layout and names follow Maguire, Dorafshan and Thomas, "SDNET2018"
(https://doi.org/10.15142/T3TD19); cracks are random walks that branch. A photograph is drawn whole
and then cut, so cracks, joints and shadows run on across tiles. As in `concrete`, only arithmetic
that is the same on every x86 machine is used.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ensemble.data.concrete import (
    LOOKS,
    Look,
    draw_concrete,
    random_direction,
    stamp_discs,
    turn,
    value_noise,
)


def walk_crack(
    rng: np.random.Generator, size: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A branching crack in a picture of `size` (2,): points (K, 2), radii (K,), depths (K,)."""
    depth = rng.uniform(0.3, 0.45) if rng.random() < 0.1 else rng.uniform(0.45, 0.75)
    branches = [
        (rng.random(2) * size, random_direction(rng), unit * rng.uniform(200, 750),
         unit * rng.uniform(2.6, 5.5))
    ]  # fmt: skip
    points, radii = [], []
    while branches:
        point, heading, length, width = branches.pop()
        direction, bend, wobble, goal = heading, 0.0, 0.0, length
        for step in range(int(length)):
            bend = 0.8 * bend + rng.uniform(-0.1, 0.1) / (1 + unit)
            wobble = 0.95 * wobble + rng.uniform(-0.06, 0.06)
            # The pull towards the heading lets a crack zigzag without curling up.
            lean = heading[0] * direction[1] - heading[1] * direction[0]
            direction = turn(direction, bend - 0.06 * lean / unit)
            heading = turn(heading, rng.uniform(-0.008, 0.008) / unit)
            point = point + direction
            if not ((point >= 0) & (point < size)).all():
                break
            points.append(point)
            radii.append(0.5 * max(unit, width * (1 - 0.55 * step / goal) * (1 + wobble)))
            if rng.random() < 0.003 / unit and length - step > 60 * unit and width > 1.6 * unit:
                fork = turn(direction, rng.choice([-1, 1]) * rng.uniform(0.2, 0.55))
                rest = (length - step) * rng.uniform(0.3, 0.8)
                branches.append((point, fork, rest, width * 0.75))
    return np.array(points).reshape(-1, 2), np.array(radii), np.full(len(radii), depth)


def draw_cracks(
    rng: np.random.Generator, grid: tuple[int, int], tile_size_px: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cracks until at least `share` of the tiles in `grid` (rows, columns) have one.

    Returns:
        The darkening (H, W) in [0, 1], and which tiles are cracked (rows, columns). A tile is
        cracked from a third of its side in length of crack; in the others the darkening is 0.
    """
    darkening = np.zeros((grid[0] * tile_size_px, grid[1] * tile_size_px))
    size, lengths = np.array(darkening.shape, dtype=np.float64), np.zeros(grid, dtype=np.int64)
    wanted = 0 if share == 0 else max(1, int(share * lengths.size))
    while (lengths >= tile_size_px / 3).sum() < wanted:
        points, radii, depths = walk_crack(rng, size, tile_size_px / 128)
        if len(points):
            stamp_discs(darkening, points, radii, depths)
            np.add.at(lengths, tuple(points.astype(np.int64).T // tile_size_px), 1)
    cracked = lengths >= tile_size_px / 3
    # A crack that only clips a tile's corner is wiped out there, rather than labelled either way.
    return darkening * np.kron(cracked, np.ones((tile_size_px, tile_size_px))), cracked


def draw_photograph(
    rng: np.random.Generator, look: Look, grid: tuple[int, int], tile_size_px: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """An RGB photograph (H, W, 3) as uint8 and its cracked tiles (rows, columns) as bool."""
    darkening, cracked = draw_cracks(rng, grid, tile_size_px, share)
    shape, unit = darkening.shape, tile_size_px / 128
    ragged = 1 + 0.2 * value_noise(rng, shape, (4 * unit, 4 * unit))
    grey = draw_concrete(rng, shape, unit, look) * (1 - np.minimum(darkening * ragged, 0.9))
    noise = rng.random(shape) + rng.random(shape) + rng.random(shape) - 1.5  # nearly normal
    grey = grey + rng.uniform(3, 11) * noise
    warmth = rng.uniform(*look.warmth)
    rgb = grey[:, :, None] * np.array([1 + warmth, 1.0, 1 - warmth])
    return (np.clip(rgb, 0, 255) + 0.5).astype(np.uint8), cracked


def draw_dataset(
    folder: Path,
    *,
    seed: int = 0,
    photographs_per_surface: int = 8,
    rows: int = 6,
    columns: int = 8,
    tile_size_px: int = 128,
    on_photograph: Callable[[int, int], None] | None = None,
) -> None:
    """Write a synthetic set of tiles as JPEG files under `folder`.

    A quarter of a surface's photographs (rounded down) have no crack, the others from few to many.

    Args:
        folder: Receives `D/CD`, `D/UD`, `W/CW`, `W/UW`, `P/CP` and `P/UP`.
        seed: The only source of chance, 0 or more; the same seed gives the same bytes.
        photographs_per_surface: Photographs of decks, of walls and of pavements, 1 to 68.
        rows: Tiles per photograph from top to bottom.
        columns: Tiles per photograph from left to right.
        tile_size_px: Side of a tile, 16 or more; cracks and texture grow with it.
        on_photograph: Called after each photograph with how many are done, and of how many.

    Raises:
        ValueError: If a number is out of its range.
        FileExistsError: If `folder` already holds tiles, which would mix two sets.
    """
    for name, value, low, high in (
        ("seed", seed, 0, None),
        ("photographs_per_surface", photographs_per_surface, 1, 68),  # deck 7069 would be a wall
        ("rows", rows, 1, None),
        ("columns", columns, 1, None),
        ("tile_size_px", tile_size_px, 16, None),
    ):
        if value < low or (high is not None and value > high):
            limit = f" <= {high}" if high is not None else ""
            raise ValueError(f"`{low} <= {name}{limit}` must hold, but got {name}={value}.")
    for surface in LOOKS:
        if next((folder / surface).rglob("*.jpg"), None):
            raise FileExistsError(f"{folder / surface} already holds tiles; draw elsewhere.")
    num_blank = photographs_per_surface // 4
    shares = np.linspace(0.065, 0.28, photographs_per_surface - num_blank)
    shares = np.concatenate([np.zeros(num_blank), shares])
    for s, (surface, look) in enumerate(LOOKS.items()):
        for label in "CU":
            (folder / surface / f"{label}{surface}").mkdir(parents=True, exist_ok=True)
        order = np.random.Generator(np.random.PCG64([seed, s, 1])).permutation(shares)
        for p, share in enumerate(order):
            index = s * photographs_per_surface + p
            rng = np.random.Generator(np.random.PCG64([seed, index]))
            rgb, cracked = draw_photograph(rng, look, (rows, columns), tile_size_px, share)
            photo = f"{look.first_photo + p:0{look.num_digits}d}"
            for tile in range(rows * columns):
                row, column = divmod(tile, columns)
                label = "C" if cracked[row, column] else "U"
                y, x = row * tile_size_px, column * tile_size_px
                image = Image.fromarray(rgb[y : y + tile_size_px, x : x + tile_size_px])
                name = f"{photo}-{tile + 1}.jpg"
                image.save(folder / surface / f"{label}{surface}" / name, quality=92)
            if on_photograph is not None:
                on_photograph(index + 1, len(LOOKS) * photographs_per_surface)
