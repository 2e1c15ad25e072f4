"""The ensemble: tiles in, the probability of a crack and a verdict for each out.

Everything that uses an ensemble (evaluation, prediction, galleries, a server) goes through this
class, and its numbers come from `ensemble.json`, so that all of them give one tile one verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ensemble.data.batches import SplitTiles
from ensemble.data.windows import cut_windows, hide_neighbours
from ensemble.run.exported import is_graph
from ensemble.run.members import (
    choose_device,
    read_stored_size,
    read_tile_size,
    score_with,
    see_context,
)
from ensemble.run.onnx_file import OnnxGraph
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import EnsembleRecord, TileAlone, open_choice, open_chosen
from ensemble.selection.neighbours import NeighbourModel, Places, Refined
from ensemble.selection.weighting import average
from ensemble.training.checkpoint import Member
from ensemble.training.precision import describe_graph, describe_scoring

GRAPH_BATCH = 32  # windows that a graph is given at a time


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Members whose probabilities are averaged, and how their mean is judged.

    Attributes:
        members: M members; their networks are loaded once, when they are first needed.
        weights: (M,) weights, which sum to 1.
        threshold: Lowest mean probability that is called cracked.
        tile_size_px: (height, width) of the tiles that the members were trained on.
        stored_size_px: (height, width) to which tiles are reduced before a member sees them.
        device: Device that tiles are scored on.
        temperature: Divisor of the mean's logit, which calibrates it.
        tta: Whether a score is the mean over the eight flips and quarter turns of a tile.
        alone: Temperature and threshold for tiles that are seen without their neighbours; None
            where no member sees more than the tile.
        neighbours: Second stage, which reads the scores around a tile; None where not kept.
        graph: What scores windows in place of the members' networks; None where these do.
    """

    members: Sequence[Member] = field(repr=False)
    weights: np.ndarray
    threshold: float
    tile_size_px: tuple[int, int]
    stored_size_px: tuple[int, int]
    device: torch.device
    temperature: float = 1.0
    tta: bool = False
    alone: TileAlone | None = None
    neighbours: NeighbourModel | None = None
    graph: OnnxGraph | None = field(default=None, repr=False)

    @cached_property
    def models(self) -> list[nn.Module]:
        """The members' networks in eval mode on `device`.

        Raises:
            InputError: The weights of a member were dropped or are damaged.
        """
        return [member.load_model().to(self.device) for member in self.members]

    def score(
        self,
        tiles: SplitTiles,
        *,
        alone: bool = False,
        each_batch: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Each member's probability of a crack in each tile: (M, N) float64.

        Args:
            tiles: N tiles on `device`.
            alone: Whether each tile is seen without its neighbours.
            each_batch: Told the number of tiles of each batch, of each member and turn anew; of a
                graph, which scores all members at once, a single time.
        """
        if self.graph is not None:
            return _score_by_graph(self.graph, tiles, alone=alone, each_batch=each_batch)
        scored = zip(self.members, self.models, strict=True)
        how: Any = {"tta": self.tta, "alone": alone, "each_batch": each_batch}
        return np.stack([score_with(*each, tiles, **how) for each in scored])

    @property
    def sees_context(self) -> bool:
        """Whether any member sees more than the tile itself."""
        return see_context(self.members)

    def name_context(self, tiles: SplitTiles) -> np.ndarray:
        """What members saw of each tile: "neighbours", or "tile" where they saw it alone: (N,)."""
        return np.where(tiles.has_neighbours & self.sees_context, "neighbours", "tile")

    def weigh(self, scores: np.ndarray) -> np.ndarray:
        """The weighted mean of the members' probabilities: (M, N) → (N,).

        Probabilities are averaged, not logits: members of different backbones are not calibrated
        alike, and one very sure member should not outvote the others.
        """
        return average(self.weights, scores)

    def calibrate(
        self, probabilities: np.ndarray, *, lone: np.ndarray | bool = False
    ) -> np.ndarray:
        """Mean probabilities on the calibrated scale: (N,) → (N,).

        Args:
            probabilities: (N,) mean probabilities.
            lone: Whether each tile was seen without any neighbour: (N,), or one for all.
        """
        calibrated = apply_temperature(probabilities, self.temperature)
        if self.alone is None:
            return calibrated
        return np.where(lone, apply_temperature(probabilities, self.alone.temperature), calibrated)

    def judge(self, probabilities: np.ndarray, *, lone: np.ndarray | bool = False) -> np.ndarray:
        """Whether tiles with these mean probabilities are called cracked: (N,) → (N,) bool.

        Args:
            probabilities: (N,) mean probabilities.
            lone: Whether each tile was seen without any neighbour: (N,), or one for all.
        """
        return probabilities >= self.thresholds(lone)

    def thresholds(self, lone: np.ndarray | bool) -> np.ndarray:
        """Lowest mean probabilities that are called cracked, by whether a tile is `lone`: (N,)."""
        alone = self.threshold if self.alone is None else self.alone.threshold
        return np.where(lone, alone, self.threshold)

    def refine(
        self, calibrated: np.ndarray, places: Places, *, lone: np.ndarray | bool = False
    ) -> Refined:
        """Refine each tile's score by those of the tiles around it; (N,) scores and their places.

        Without a second stage, and for a tile without a neighbour, it is the calibrated score
        itself, with the threshold on the calibrated scale.

        Args:
            calibrated: (N,) calibrated probabilities of whole photographs, as far as there are.
            places: Places of the N tiles.
            lone: Whether each tile was seen without any neighbour: (N,), or one for all.
        """
        alone = self.calibrated_threshold if self.alone is None else self.alone.calibrated_threshold
        thresholds = np.where(lone, alone, np.full(len(calibrated), self.calibrated_threshold))
        if self.neighbours is None:
            return Refined(calibrated, thresholds)
        return self.neighbours.refine(calibrated, places, calibrated_threshold=thresholds)

    @property
    def calibrated_threshold(self) -> float:
        """The threshold on the calibrated scale."""
        return float(self.calibrate(np.array(self.threshold)))

    @property
    def precision_note(self) -> str:
        """A sentence where `device` scores in another precision than validation did, else ""."""
        if self.graph is not None:
            return describe_graph({m.trial: m.record.precision for m in self.members})
        return describe_scoring({m.trial: m.record.precision for m in self.members}, self.device)


def load_ensemble(
    run: Path, device: torch.device | None = None, *, record: EnsembleRecord | None = None
) -> Ensemble:
    """The ensemble of a run.

    Args:
        run: A run's folder, or an exported file.
        device: Device to score on; the first GPU, or else the CPU, where it is None.
        record: An ensemble just chosen from the run; `ensemble.json` is read where it is None.

    Raises:
        InputError: None was chosen yet, `ensemble.json` is damaged, or a member is damaged or not
            the one that was chosen.
    """
    if record is None:
        record, members = open_choice(run)
    else:
        members = open_chosen(run, record.members)
    graph = OnnxGraph(run) if is_graph(run) else None
    tile_size_px = read_tile_size(run)
    return Ensemble(
        members=members,
        weights=record.weights,
        threshold=record.threshold,
        tile_size_px=tile_size_px,
        stored_size_px=read_stored_size(run) if graph is None else tile_size_px,
        device=device or choose_device() if graph is None else torch.device("cpu"),
        temperature=record.temperature,
        tta=record.tta,
        alone=record.alone,
        neighbours=record.neighbours,
        graph=graph,
    )


def _score_by_graph(
    graph: OnnxGraph,
    tiles: SplitTiles,
    *,
    alone: bool,
    each_batch: Callable[[int], None] | None,
) -> np.ndarray:
    """Each member's probability of a crack in each tile, of tiles in their own pixels: (M, N)."""
    height, width = tiles.tile_size_px
    margin = (graph.window_px[0] - height) // 2, (graph.window_px[1] - width) // 2
    scores = []
    for index in torch.arange(len(tiles)).split(GRAPH_BATCH):
        bricks = tiles.bricks.take(index)
        if alone:
            bricks = hide_neighbours(bricks, torch.ones(len(index), dtype=torch.bool))
        scores.append(graph.score(cut_windows(tiles.pixels, bricks, margin).numpy()))
        if each_batch is not None:
            each_batch(len(index))
    return np.concatenate(scores, axis=1)
