"""Ensembles and tiles → what each ensemble makes of each tile, three ways.

Each member is scored once, however many ensembles it is in.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ensemble.base.progress_bar import telling_progress
from ensemble.data.batches import SplitTiles
from ensemble.data.grid import PLACE
from ensemble.evaluation.figures import Way
from ensemble.explanation.errors import ABOUT_A_TILE
from ensemble.run.members import count_scores, score_with, see_context
from ensemble.selection.ensemble import Ensemble
from ensemble.selection.neighbours import Places
from ensemble.training.checkpoint import Member

Answering = tuple[Path, int]  # folder of a member, and number of its networks


class MemberScores(NamedTuple):
    """Probabilities of N tiles, by `Member.answering`.

    Attributes:
        seen: (N,) with what lies around a tile, where the member sees that.
        alone: (N,) of the tile alone, for members of ensembles that see more.
    """

    seen: dict[Answering, np.ndarray]
    alone: dict[Answering, np.ndarray]

    def rows(self, members: Sequence[Member], *, alone: bool = False) -> np.ndarray:
        """The members' probabilities: (M, N)."""
        scores = self.seen | self.alone if alone else self.seen
        return np.stack([scores[member.answering] for member in members])


def score_members(
    tiles: SplitTiles,
    ensembles: Sequence[Ensemble],
    singles: Sequence[Member] = (),
    *,
    what: str,
    log: Callable[[str], None],
) -> MemberScores:
    """Score tiles by the members of all ensembles and by `singles`.

    Args:
        tiles: N tiles.
        ensembles: Ensembles, which all turn tiles or none; networks of the first stay loaded.
        singles: Further members.
        what: Name of the tiles, for the person who waits.
        log: Takes a line now and then while tiles are scored.

    Raises:
        InputError: The weights of a member are missing or damaged.
    """
    first, tta = ensembles[0], ensembles[0].tta
    loaded = {m.answering: network for m, network in zip(first.members, first.models, strict=True)}
    together = {member.answering: member for each in ensembles for member in each.members}
    everyone = {member.answering: member for member in singles} | together
    seeing = {key: member for key, member in together.items() if see_context([member])}
    total = count_scores([*everyone.values(), *seeing.values()], tiles, tta=tta)
    scores = MemberScores({}, {})
    with telling_progress(f"scoring {what}", total, log) as tell:
        for key, member in everyone.items():
            network = loaded[key] if key in loaded else member.load_model()
            scores.seen[key] = score_with(member, network, tiles, tta=tta, each_batch=tell)
            if key in seeing:
                scores.alone[key] = score_with(
                    member, network, tiles, tta=tta, alone=True, each_batch=tell
                )
    return scores


class Judged(NamedTuple):
    """What an ensemble makes of N tiles; (N,) each.

    Attributes:
        context: Name of what members saw of each tile, as `Ensemble.name_context` says it.
        alone: Mean probability of the tile alone.
        mean: Mean probability with what lies around the tile.
        calibrated: The same on the calibrated scale.
        refined: Probability by the scores of the tiles around.
        ways: The three ways, from the least that is seen of a photograph to the most.
    """

    context: np.ndarray
    alone: np.ndarray
    mean: np.ndarray
    calibrated: np.ndarray
    refined: np.ndarray
    ways: list[Way]


def judge_tiles(
    ensemble: Ensemble, scores: MemberScores, tiles: SplitTiles, places: Places, *, prefix: str = ""
) -> Judged:
    """Average, calibrate and refine the scores of an ensemble's members.

    Args:
        ensemble: The ensemble.
        scores: Scores of its members.
        tiles: The N tiles that were scored.
        places: Places of the tiles in their photographs.
        prefix: Text before the names of the columns in the ways.
    """
    mean = alone = ensemble.weigh(scores.rows(ensemble.members))
    if ensemble.sees_context:
        alone = ensemble.weigh(scores.rows(ensemble.members, alone=True))
    context = ensemble.name_context(tiles)
    lone = context == "tile"
    calibrated = ensemble.calibrate(mean, lone=lone)
    refined = ensemble.refine(calibrated, places, lone=lone)
    ways = [
        Way("tile alone", f"{prefix}alone", float(ensemble.thresholds(True))),
        Way("with context", f"{prefix}ensemble", ensemble.threshold, ensemble.thresholds(lone)),
    ]
    last = ways[-1]
    if ensemble.neighbours is not None:
        threshold = ensemble.neighbours.threshold
        last = Way("", f"{prefix}refined", threshold, refined.thresholds)
    ways.append(last._replace(name="with neighbours"))
    return Judged(context, alone, mean, calibrated, refined.probabilities, ways)


def tabulate(
    table: pd.DataFrame, judged: Judged, scores: MemberScores, singles: Sequence[Member]
) -> pd.DataFrame:
    """A row a tile with the probabilities of `singles` and of the ensemble."""
    return table[[*ABOUT_A_TILE, *PLACE]].assign(
        context=judged.context,
        **{f"trial_{member.trial}": scores.seen[member.answering] for member in singles},
        alone=judged.alone,
        ensemble=judged.mean,
        calibrated=judged.calibrated,
        refined=judged.refined,
    )
