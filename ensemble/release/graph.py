"""An ensemble → one network: windows of a photograph in, calibrated probabilities out.

All that lies between a photograph's own pixels and a calibrated probability is part of it: how
tiles are stored, what each member sees of them, how its pixels are scaled, flips and turns, the
networks of all folds, the weights of the mean, and its temperature. Pixels are whole numbers on the
way, exactly those of `resize_pixels` on a CPU, and everything is computed in float32, but for the
mean and its logit, which are float64. What other tiles' scores say is no part of it: the second
stage reads them, and its coefficients stand in `ensemble.json`.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.data.augmentation import NUM_TURNS, turn_all
from ensemble.data.resize import resize_weights
from ensemble.data.view import Interpolation, View
from ensemble.selection.ensemble import Ensemble
from ensemble.training.metrics import LEAST_PROBABILITY

Size = tuple[int, int]  # (height, width)
INPUT = "windows"
OUTPUTS = {
    "probability": "calibrated probability of a crack in the tile amid the window",
    "members": "each member's own probability, in the order of `members` in ensemble.json",
    "alone": "calibrated probability of a tile whose margin is its own mirror image; equal to "
    "`probability` where no member sees a margin",
}


class _Axis(nn.Module):
    """One axis of an image, resized by whole numbers; see `resize_weights`.

    Args:
        weights: (O, I) whole numbers.
        bits: Number of bits by which their sums are shifted.
        is_last: Whether it is the last axis of (N, C, H, W), and not the one before.
    """

    weights: Tensor

    def __init__(self, weights: np.ndarray, bits: int, *, is_last: bool):
        super().__init__()
        self.is_last, self.unit = is_last, 2.0**bits
        matrix = torch.from_numpy(weights).to(torch.float32)
        self.register_buffer("weights", matrix.T.contiguous() if is_last else matrix)

    def forward(self, pixels: Tensor) -> Tensor:
        sums = pixels @ self.weights if self.is_last else self.weights @ pixels
        return torch.floor((sums + self.unit / 2) / self.unit).clamp(0, 255)


def _resize(size: Size, resized: Size, interpolation: Interpolation) -> nn.Sequential:
    """Resize (N, 3, H, W) whole numbers as `resize_pixels` does."""
    axes = [
        _Axis(*resize_weights(size[axis], resized[axis], interpolation), is_last=bool(axis))
        for axis in (1, 0)
        if size[axis] != resized[axis]
    ]
    return nn.Sequential(*axes)


class _Store(nn.Module):
    """A window's own pixels → the pixels of tiles as they are stored, each reduced by itself.

    Args:
        tile_size_px: Size of a tile.
        stored_size_px: Size that a tile is stored at.
        margin_px: Stored pixels above and below, and to the left and right, that are kept.
    """

    def __init__(self, tile_size_px: Size, stored_size_px: Size, margin_px: Size):
        super().__init__()
        axes, margins = [], list(margin_px)
        for axis in (1, 0):
            if tile_size_px[axis] != stored_size_px[axis]:
                weights, bits = resize_weights(tile_size_px[axis], stored_size_px[axis])
                weights, margins[axis] = _join(weights, margin_px[axis])
                axes.append(_Axis(weights, bits, is_last=bool(axis)))
        self.axes = nn.Sequential(*axes)
        self.margin_px: Size = (margins[0], margins[1])  # of the tile's own pixels

    def forward(self, pixels: Tensor) -> Tensor:
        return self.axes(pixels)


def _join(weights: np.ndarray, margin: int) -> tuple[np.ndarray, int]:
    """The weights of an axis of a tile, with those of the ends of the tiles beside it.

    Args:
        weights: (O, I) of one tile.
        margin: Stored pixels of the tiles beside it.

    Returns:
        (O + 2 · margin, I + 2 · D), and D, the pixels that these take of each tile beside.
    """
    if not margin:
        return weights, 0
    last, first = weights[-margin:], weights[:margin]
    (seen,) = np.nonzero(np.abs(last).sum(axis=0) + np.abs(first).sum(axis=0)[::-1])
    reach = weights.shape[1] - seen[0]
    parts = (last[:, -reach:], weights, first[:, :reach])
    joined = np.zeros(tuple(sum(part.shape[axis] for part in parts) for axis in (0, 1)))
    row = column = 0
    for part in parts:
        joined[row : row + part.shape[0], column : column + part.shape[1]] = part
        row, column = row + part.shape[0], column + part.shape[1]
    return joined, int(reach)


class _Sight(nn.Module):
    """What a member sees: a part of the stored window, reduced and scaled.

    Args:
        view: What the member sees of a tile.
        side_px: Side of its input.
        window_px: Size of the stored window.
        surplus_px: Pixels above and below, and to the left and right, that it does not see.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, view: View, side_px: int, window_px: Size, surplus_px: Size):
        super().__init__()
        self.surplus_px = surplus_px
        seen = window_px[0] - 2 * surplus_px[0], window_px[1] - 2 * surplus_px[1]
        self.resize = _resize(seen, (side_px, side_px), view.interpolation)
        mean, std = (255 * torch.tensor(each).view(1, 3, 1, 1) for each in (view.mean, view.std))
        self.register_buffer("scale", 1 / std)
        self.register_buffer("shift", -mean / std)

    def forward(self, stored: Tensor) -> Tensor:
        down, right = self.surplus_px
        height, width = stored.shape[-2:]
        seen = stored[:, :, down : height - down, right : width - right]
        return self.resize(seen) * self.scale + self.shift


class WholeEnsemble(nn.Module):
    """An ensemble as one network, on the CPU.

    Args:
        ensemble: The ensemble; its networks are read.

    Attributes:
        margin_px: Pixels of the photograph above and below, and to the left and right of a tile,
            that a window has.
        window_px: (height, width) of a window.

    Raises:
        InputError: The weights of a member were dropped or are damaged.
    """

    weights: Tensor

    def __init__(self, ensemble: Ensemble):
        super().__init__()
        stored, tile = ensemble.stored_size_px, ensemble.tile_size_px
        views = [member.record.view for member in ensemble.members]
        sides = [view.side_px(min(tile)) for view in views]
        margins = [
            view.margins_of(side, stored) for view, side in zip(views, sides, strict=True)
        ]  # of stored pixels
        down, right = (max(margin[axis] for margin in margins) for axis in (0, 1))
        self.store = _Store(tile, stored, (down, right))
        self.margin_px: Size = self.store.margin_px
        self.window_px: Size = (
            tile[0] + 2 * self.margin_px[0],
            tile[1] + 2 * self.margin_px[1],
        )
        window = stored[0] + 2 * down, stored[1] + 2 * right
        self.sights = nn.ModuleList(
            _Sight(view, side, window, (down - margin[0], right - margin[1]))
            for view, side, margin in zip(views, sides, margins, strict=True)
        )
        self.networks = nn.ModuleList(member.load_model() for member in ensemble.members)
        self.num_turns = NUM_TURNS if ensemble.tta else 1
        self.temperature = ensemble.temperature
        self.alone = ensemble.temperature if ensemble.alone is None else ensemble.alone.temperature
        self.register_buffer("weights", torch.from_numpy(ensemble.weights).to(torch.float64))
        self.eval().requires_grad_(False)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score windows: tiles of a photograph, each with `margin_px` of it around.

        Args:
            windows: (N, H, W, 3) uint8: red, green and blue.

        Returns:
            What `OUTPUTS` names, in float32: (N,), (N, M) and (N,).
        """
        stored = self.store(windows.permute(0, 3, 1, 2).to(torch.float32))
        members = torch.stack(
            [
                self._score(network, sight(stored))
                for sight, network in zip(self.sights, self.networks, strict=True)
            ],
            dim=1,
        )  # (N, M) float64
        mean = members @ self.weights
        kept = mean.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)  # as `logit` of calibration
        logit = torch.log(kept) - torch.log1p(-kept)
        probability, alone = (
            torch.sigmoid(logit / temperature).to(torch.float32)
            for temperature in (self.temperature, self.alone)
        )
        return probability, members.to(torch.float32), alone

    def _score(self, network: nn.Module, images: Tensor) -> Tensor:
        """One member's probabilities, the mean over all turns: (N, 3, S, S) → (N,) float64."""
        if self.num_turns > 1:
            images = torch.cat([turn_all(images, turn) for turn in range(self.num_turns)])
        logits = network(images)
        margins = (logits[:, 1] - logits[:, 0]).to(torch.float64)
        return torch.sigmoid(margins).view(self.num_turns, -1).mean(0)
