"""A labelled grid of training tiles: what the network will see, and how it is labelled."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

TILES_PER_CLASS = 6
TILE_PX = 128
MARGIN_PX = 8
TITLE_PX = 26


def draw_samples(tiles: pd.DataFrame, pixels: np.ndarray, path: Path) -> None:
    """Draw two rows a surface, cracked above uncracked, each tile of another photograph if it can.

    Args:
        tiles: Training tiles: `row` (in `pixels`), `tile`, `photograph`, `surface`, `label`.
        pixels: (N, H, W, 3) uint8.
        path: The .png to write.
    """
    groups: list[Any] = sorted(
        tiles.groupby(["surface", "label"]), key=lambda group: _by_surface(*group[0])
    )
    step = TILE_PX + MARGIN_PX
    width = TILES_PER_CLASS * step + MARGIN_PX
    sheet = Image.new("RGB", (width, len(groups) * (step + TITLE_PX) + MARGIN_PX), "white")
    draw = ImageDraw.Draw(sheet)
    title_font, name_font = ImageFont.load_default(15), ImageFont.load_default(10)
    for line, ((surface, label), group) in enumerate(groups):
        top = MARGIN_PX + line * (step + TITLE_PX)
        name = f"surface {surface}, " if surface else ""
        title = f"{name}{'cracked' if label else 'uncracked'}: {len(group):,} training tiles"
        draw.text((MARGIN_PX, top), title, "black", title_font)
        for place, (_, tile) in enumerate(_draw_lots(group).iterrows()):
            corner = (MARGIN_PX + place * step, top + TITLE_PX)
            picture = Image.fromarray(np.asarray(pixels[tile["row"]]))
            sheet.paste(picture.resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR), corner)
            stem = Path(tile["tile"]).stem
            box = draw.textbbox((corner[0] + 2, corner[1] + TILE_PX - 14), stem, name_font)
            draw.rectangle(box, "white")
            draw.text((corner[0] + 2, corner[1] + TILE_PX - 14), stem, "black", name_font)
    sheet.save(path)


def _by_surface(surface: str, label: int) -> tuple[str, int]:
    return surface, -label


def _draw_lots(group: pd.DataFrame) -> pd.DataFrame:
    """The same few tiles every time, first one of each photograph."""
    lots = group["tile"].map(lambda tile: hashlib.sha256(tile.encode()).hexdigest())
    shuffled = group.assign(lot=lots).sort_values("lot")
    turn = shuffled.groupby("photograph").cumcount()
    return shuffled.assign(turn=turn).sort_values(["turn", "lot"]).head(TILES_PER_CLASS)
