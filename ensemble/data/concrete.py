"""Concrete without cracks: texture, aggregate, stains, pores, joints, scratches and shadows.

In: a random generator, a size and a surface's typical look. Out: grey values. Nothing here calls
exp, sin, pow or a normal draw, whose last bit depends on the processor, so that the same seed gives
the same picture on every x86 machine: directions are turned by rational rotations, and arrays meet
only + - * /, sqrt, comparisons and maxima (no reordered sums).
"""

from typing import NamedTuple

import numpy as np


class Look(NamedTuple):
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
    "D": Look(7001, 4, (125, 185), (0.08, 0.22), (60, 9), (0.00, 0.08), (0.05, 0.20), (40, 300),
              (2.5, 5.0), (0.00, 0.06)),
    "W": Look(7069, 4, (130, 205), (0.06, 0.18), (220, 14), (0.04, 0.16), (0.00, 0.08), (150, 900),
              (2.2, 4.5), (-0.02, 0.03)),
    "P": Look(1, 3, (110, 175), (0.12, 0.28), (4, 130), (0.04, 0.16), (0.10, 0.32), (20, 250),
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


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A random unit vector (2,)."""
    return turn(np.array([rng.choice([-1.0, 1.0]), 0.0]), rng.uniform(-1, 1))


def stamp_discs(
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


def stamp_line(
    canvas: np.ndarray, start: np.ndarray, step: np.ndarray, num_steps: int, radius: float,
    strength: float,
) -> None:  # fmt: skip
    """Raise `canvas` (H, W) to `strength` along a straight line; all measures in px."""
    centres = start + np.arange(num_steps)[:, None] * step
    stamp_discs(canvas, centres, np.full(num_steps, radius), np.full(num_steps, strength))


def draw_concrete(
    rng: np.random.Generator, shape: tuple[int, int], unit: float, look: Look
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

    dark, light = np.zeros(shape), np.zeros(shape)
    area = size[0] * size[1] / (unit * unit * 786432)  # of the default photograph's
    num_pores = 1 + int(area * rng.integers(*look.num_pores))
    small = rng.random(num_pores)
    radii = unit * (0.7 + 4 * small * small * small * small)
    stamp_discs(dark, rng.random((num_pores, 2)) * size, radii, rng.uniform(0.2, 0.7, num_pores))
    for _ in range(int(area * rng.integers(10, 50))):  # scratches
        canvas = light if rng.random() < 0.7 else dark
        length, radius = int(unit * rng.uniform(20, 260)) + 1, unit * rng.uniform(0.5, 1.3)
        strength = rng.uniform(0.1, 0.4)
        stamp_line(canvas, rng.random(2) * size, random_direction(rng), length, radius, strength)
    tilt = rng.uniform(-0.06, 0.06)
    for axis in np.eye(2)[rng.random(2) < 0.75]:  # joints down and across, each family or not
        along, across = turn(axis, tilt), axis[::-1]
        gap = 128 * unit * rng.uniform(*look.joint_gap)
        radius, strength = unit * rng.uniform(1.5, 6), rng.uniform(0.25, 0.75)
        for number in range(-1, int(size.max() / gap) + 2):
            start = (number + rng.uniform(-0.05, 0.05)) * gap * across - 0.1 * size * axis
            stamp_line(dark, start, along, int(1.3 * size.max()), radius, strength)
    tone *= (1 - dark * (1 + 0.25 * noise(5))) * (1 + light)

    y, x = np.arange(shape[0])[:, None] / size.max(), np.arange(shape[1]) / size.max()
    shadow = np.zeros(shape)
    for _ in range(rng.integers(1, 5)):  # shadows: wedges of two half planes
        wedge = np.ones(shape)
        corner, edge = rng.random(2), random_direction(rng)
        softness = rng.uniform(8, 90)
        for dy, dx in (edge, turn(edge, rng.uniform(0.3, 1.5))):
            wedge *= np.clip(0.5 + softness * ((y - corner[0]) * dy + (x - corner[1]) * dx), 0, 1)
        shadow = np.maximum(shadow, rng.uniform(0.2, 0.55) * wedge)
    tone *= 1 - shadow
    slope_y, slope_x, vignette = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25), rng.random()
    y, x = y - 0.4, x - 0.5
    light_fall = 1 + slope_y * y + slope_x * x - 0.4 * vignette * (y * y + x * x)
    return rng.uniform(*look.grey) * tone * light_fall
