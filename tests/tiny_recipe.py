"""Writes recipes that train a small network in no time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECIPE = """
what = "?"
stated = "?"
data = "sdnet2018"
weights = "none"
[config.model]
backbone = "small_cnn"
[config.optimisation]
epochs = {epochs}
global_batch_size = 16
precision = "float32"
ema_decay = {ema_decay}
[config.data]
image_size_px = {image_size_px}
context_px = {context_px}
augmentation = 0.0
"""
VARIANT = """
[[variant]]
name = "{name}"
changes = {{ {changes} }}
"""


def write_recipe(
    path: Path,
    *,
    epochs: int = 1,
    ema_decay: float = 0.0,
    image_size_px: int = 32,
    context_px: int = 0,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a recipe, and return its path; `variants` are changes of settings by their names."""
    settings = {"epochs": epochs, "ema_decay": ema_decay}
    settings |= {"image_size_px": image_size_px, "context_px": context_px}
    text = RECIPE.format(**settings)
    for name, changed in (variants or {}).items():
        changes = ", ".join(f'"{setting}" = {value}' for setting, value in changed.items())
        text += VARIANT.format(name=name, changes=changes)
    path.write_text(text)
    return path
