"""Draws a small synthetic set of concrete tiles, named and sorted into folders as SDNET2018's.

In: a seed and sizes. Out: `D/CD/7001-12.jpg` and so on, for trying the whole flow without the
real images. The layout and names follow Maguire, Dorafshan and Thomas, "SDNET2018"
(https://doi.org/10.15142/T3TD19). A photograph is drawn whole and then cut, so cracks, joints and
shadows run on across tiles; cracks are random walks that branch.

The same seed gives the same bytes on every x86 machine: nothing here calls exp, sin, pow or a
normal draw, whose last bit depends on the processor. Directions are turned by rational rotations,
and arrays meet only + - * /, sqrt, comparisons and maxima (no reordered sums).
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ensemble.base.progress_bar import progress_bar


class _Look(NamedTuple):
    """What is typical of a surface; pairs are ranges from which each photograph draws."""

    first_photo: int  # number of the first photograph, as in SDNET2018
    num_digits: int  # digits of the photograph's number in the file name
    grey: tuple[float, float]  # base brightness, 0 to 255
    roughness: tuple[float, float]  # amplitude of the texture, as a share of the brightness
    streak_cell: tuple[int, int]  # rows and columns of a streak: broom marks, runs of water
    streaks: tuple[float, float]  # amplitude of the streaks
    aggregate: tuple[float, float]  # darkening or lightening of stones that show
    num_pores: tuple[int, int]  # holes per photograph of the default size
    joint_gap: tuple[float, float]  # tiles between parallel joints
    warmth: tuple[float, float]  # red raised and blue lowered by this share


LOOKS = {
    "D": _Look(7001, 4, (125, 185), (0.08, 0.22), (60, 9), (0.00, 0.08), (0.05, 0.20), (40, 300),
              (2.5, 5.0), (0.00, 0.06)),
    "W": _Look(7069, 4, (130, 205), (0.06, 0.18), (220, 14), (0.04, 0.16), (0.00, 0.08), (150, 900),
              (2.2, 4.5), (-0.02, 0.03)),
    "P": _Look(1, 3, (110, 175), (0.12, 0.28), (4, 130), (0.04, 0.16), (0.10, 0.32), (20, 250),
              (2.0, 4.0), (0.00, 0.08)),
}  # fmt: skip


def value_noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]
) -> np.ndarray:
    """Smooth noise in [-1, 1] of `shape` (H, W), with one random value per cell (rows, columns)."""
    indices, fractions = [], []
    for size_px, cell_px in zip(shape, cell, strict=True):
        position = np.arange(size_px) / max(1.0, cell_px)
        index = position.astype(np.int64)
        fraction = position - index
        indices.append(index)
        fractions.append(fraction * fraction * (3 - 2 * fraction))
    (i, j), (u, v) = indices, fractions
    grid = 2 * rng.random((i[-1] + 2, j[-1] + 2)) - 1
    rows = grid[i] + (grid[i + 1] - grid[i]) * u[:, None]  # (H, grid columns)
    left = rows[:, j]
    return left + (rows[:, j + 1] - left) * v  # (H, W)


def turn(direction: np.ndarray, t: float) -> np.ndarray:
    """Turn a unit vector (2,) by the angle whose half has tangent `t`, without trigonometry."""
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    y, x = direction
    return np.array([cosine * y - sine * x, sine * y + cosine * x])


def _random_direction(rng: np.random.Generator) -> np.ndarray:
    """A random unit vector (2,)."""
    return turn(np.array([rng.choice([-1.0, 1.0]), 0.0]), rng.uniform(-1, 1))


def _stamp_discs(
    canvas: np.ndarray, centres: np.ndarray, radii: np.ndarray, strengths: np.ndarray
) -> None:
    """Raise `canvas` (H, W) to `strengths` (K,) in soft-edged discs at `centres` (K, 2), in px."""
    reach = int(radii.max()) + 2
    offset = np.arange(-reach, reach + 1)
    nearest = np.floor(centres).astype(np.int64)
    y, x = nearest[:, 0, None] + offset, nearest[:, 1, None] + offset  # (K, 2 * reach + 1)
    dy, dx = y - centres[:, 0, None], x - centres[:, 1, None]
    distance = np.sqrt((dy * dy)[:, :, None] + (dx * dx)[:, None, :])
    cover = np.clip(radii[:, None, None] + 0.5 - distance, 0, 1) * strengths[:, None, None]
    y_inside, x_inside = (y >= 0) & (y < canvas.shape[0]), (x >= 0) & (x < canvas.shape[1])
    inside = y_inside[:, :, None] & x_inside[:, None, :] & (cover > 0)
    flat = y[:, :, None] * canvas.shape[1] + x[:, None, :]
    np.maximum.at(canvas.reshape(-1), flat[inside], cover[inside])


def _stamp_line(
    canvas: np.ndarray, start: np.ndarray, step: np.ndarray, num_steps: int, radius: float,
    strength: float,
) -> None:  # fmt: skip
    """Raise `canvas` (H, W) to `strength` along a straight line; all measures in px."""
    centres = start + np.arange(num_steps)[:, None] * step
    _stamp_discs(canvas, centres, np.full(num_steps, radius), np.full(num_steps, strength))


def _draw_concrete(
    rng: np.random.Generator, shape: tuple[int, int], unit: float, look: _Look
) -> np.ndarray:
    """Grey values (H, W) of concrete without cracks; `unit` is px per px of a 128 px tile."""
    size = np.array(shape, dtype=np.float64)

    def noise(rows: float, columns: float | None = None) -> np.ndarray:
        return value_noise(rng, shape, (rows * unit, (columns or rows) * unit))

    coarse = rng.uniform(0.6, 1.8)  # the scale of the texture is the photograph's own
    texture = 0.45 * noise(1.2 * coarse) + 0.4 * noise(3 * coarse) + 0.3 * noise(8 * coarse)
    # Some regions are trowelled smooth and some are worn, so contrast varies within a photograph.
    texture *= 1 + 0.85 * noise(170)
    tone = 1 + rng.uniform(*look.roughness) * texture
    tone += rng.uniform(0.03, 0.10) * noise(30) + rng.uniform(0.03, 0.12) * noise(140)
    tone += rng.uniform(*look.streaks) * noise(*look.streak_cell)
    stones = 0.7 * noise(6 * coarse) + 0.5 * noise(4.1 * coarse)
    stones = np.clip(6 * (stones - rng.uniform(0.35, 0.6)), 0, 1)
    tone *= 1 + rng.uniform(*look.aggregate) * stones * np.clip(4 * noise(11 * coarse), -1, 1)

    stains = noise(85) + 0.5 * noise(37) + 0.25 * noise(14) + 0.12 * noise(5)
    stains = np.clip(rng.uniform(1, 4) * (stains - rng.uniform(0.2, 0.7)), 0, 1)
    tone *= 1 - rng.uniform(0.15, 0.5) * stains

    dark, light = _draw_marks(rng, size, unit, look)
    tone *= (1 - dark * (1 + 0.25 * noise(5))) * (1 + light)

    y, x = np.arange(shape[0])[:, None] / size.max(), np.arange(shape[1]) / size.max()
    tone *= 1 - _draw_shadows(rng, y, x)
    slope_y, slope_x, vignette = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.random()
    y, x = y - 0.4, x - 0.5
    light_fall = 1 + slope_y * y + slope_x * x - 0.4 * vignette * (y * y + x * x)
    return rng.uniform(*look.grey) * tone * light_fall


def _draw_marks(
    rng: np.random.Generator, size: np.ndarray, unit: float, look: _Look
) -> tuple[np.ndarray, np.ndarray]:
    """Pores, scratches and joints: the darkening and the lightening (H, W) by them."""
    dark, light = np.zeros(size.astype(int)), np.zeros(size.astype(int))
    area = size[0] * size[1] / (unit * unit * 786432)  # of the default photograph's
    num_pores = 1 + int(area * rng.integers(*look.num_pores))
    small = rng.random(num_pores)
    radii = unit * (0.7 + 4 * small * small * small * small)
    _stamp_discs(dark, rng.random((num_pores, 2)) * size, radii, rng.uniform(0.2, 0.7, num_pores))
    for _ in range(int(area * rng.integers(10, 50))):  # scratches
        canvas = light if rng.random() < 0.7 else dark
        length, radius = int(unit * rng.uniform(20, 260)) + 1, unit * rng.uniform(0.5, 1.3)
        strength = rng.uniform(0.1, 0.4)
        _stamp_line(canvas, rng.random(2) * size, _random_direction(rng), length, radius, strength)
    tilt = rng.uniform(-0.06, 0.06)
    for axis in np.eye(2)[rng.random(2) < 0.75]:  # joints down and across, each family or not
        along, across = turn(axis, tilt), axis[::-1]
        gap = 128 * unit * rng.uniform(*look.joint_gap)
        radius, strength = unit * rng.uniform(1.5, 6), rng.uniform(0.25, 0.75)
        for number in range(-1, int(size.max() / gap) + 2):
            start = (number + rng.uniform(-0.05, 0.05)) * gap * across - 0.1 * size * axis
            _stamp_line(dark, start, along, int(1.3 * size.max()), radius, strength)
    return dark, light


def _draw_shadows(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Shadows (H, W), wedges of two half planes; `y` (H, 1) and `x` (W,) are places in 0 to 1."""
    shadow = np.zeros((len(y), len(x)))
    for _ in range(rng.integers(1, 5)):
        wedge = np.ones_like(shadow)
        corner, edge = rng.random(2), _random_direction(rng)
        softness = rng.uniform(8, 90)
        for dy, dx in (edge, turn(edge, rng.uniform(0.3, 1.5))):
            wedge *= np.clip(0.5 + softness * ((y - corner[0]) * dy + (x - corner[1]) * dx), 0, 1)
        shadow = np.maximum(shadow, rng.uniform(0.2, 0.55) * wedge)
    return shadow


def _walk_crack(
    rng: np.random.Generator, size: np.ndarray, unit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A branching crack in a picture of `size` (2,): points (K, 2), radii (K,), depths (K,)."""
    depth = rng.uniform(0.3, 0.45) if rng.random() < 0.1 else rng.uniform(0.45, 0.75)
    branches = [
        (rng.random(2) * size, _random_direction(rng), unit * rng.uniform(200, 750),
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


def _draw_cracks(
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
        points, radii, depths = _walk_crack(rng, size, tile_size_px / 128)
        if len(points):
            _stamp_discs(darkening, points, radii, depths)
            np.add.at(lengths, tuple(points.astype(np.int64).T // tile_size_px), 1)
    cracked = lengths >= tile_size_px / 3
    # A crack that only clips a tile's corner is wiped out there, rather than labelled either way.
    return darkening * np.kron(cracked, np.ones((tile_size_px, tile_size_px))), cracked


def _draw_photograph(
    rng: np.random.Generator, look: _Look, grid: tuple[int, int], tile_size_px: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """An RGB photograph (H, W, 3) as uint8 and its cracked tiles (rows, columns) as bool."""
    darkening, cracked = _draw_cracks(rng, grid, tile_size_px, share)
    shape, unit = darkening.shape, tile_size_px / 128
    ragged = 1 + 0.2 * value_noise(rng, shape, (4 * unit, 4 * unit))
    grey = _draw_concrete(rng, shape, unit, look) * (1 - np.minimum(darkening * ragged, 0.9))
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

    Raises:
        ValueError: If a number is out of its range.
        FileExistsError: If `folder` already holds tiles, which would mix two sets.
    """
    for name, value, low, high in (
        ("seed", seed, 0, math.inf),
        ("photographs_per_surface", photographs_per_surface, 1, 68),  # deck 7069 would be a wall
        ("rows", rows, 1, math.inf),
        ("columns", columns, 1, math.inf),
        ("tile_size_px", tile_size_px, 16, math.inf),
    ):
        if not low <= value <= high:
            limit = f" <= {high}" if high < math.inf else ""
            raise ValueError(f"`{low} <= {name}{limit}` must hold, but got {name}={value}.")
    for surface in LOOKS:
        if next((folder / surface).rglob("*.jpg"), None):
            raise FileExistsError(f"{folder / surface} already holds tiles; draw elsewhere.")
    num_blank = photographs_per_surface // 4
    shares = np.linspace(0.065, 0.28, photographs_per_surface - num_blank)
    shares = np.concatenate([np.zeros(num_blank), shares])
    photographs = [
        (surface, number, share)
        for s, surface in enumerate(LOOKS)
        for number, share in enumerate(_generator(seed, s, 1).permutation(shares))
    ]
    with progress_bar() as progress:
        for index, (surface, number, share) in enumerate(
            progress.track(photographs, description="drawing photographs")
        ):
            look, rng = LOOKS[surface], _generator(seed, index)
            rgb, cracked = _draw_photograph(rng, look, (rows, columns), tile_size_px, share)
            photo = f"{look.first_photo + number:0{look.num_digits}d}"
            _save_tiles(folder / surface, photo, rgb, cracked)


def _save_tiles(surface: Path, photo: str, rgb: np.ndarray, cracked: np.ndarray) -> None:
    """Cut a photograph into its grid of tiles, `cracked` (rows, columns), and save them."""
    height, width = rgb.shape[0] // cracked.shape[0], rgb.shape[1] // cracked.shape[1]
    for tile, (row, column) in enumerate(np.ndindex(cracked.shape), start=1):
        label = "C" if cracked[row, column] else "U"
        path = surface / f"{label}{surface.name}" / f"{photo}-{tile}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        y, x = row * height, column * width
        Image.fromarray(rgb[y : y + height, x : x + width]).save(path, quality=92)


def _generator(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))
