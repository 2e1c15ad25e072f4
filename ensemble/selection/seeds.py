"""Members that differ in their seed alone → how far their figures on validation lie apart.

It is what training by itself scatters: the photographs are the same for all, so nothing of it is in
an interval over photographs.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from ensemble.training.checkpoint import Member
from ensemble.training.config import Record
from ensemble.training.metrics import best_threshold, margins_to_probabilities, ranking_metrics


class Spread(Record):
    """A figure of several trainings."""

    mean: float
    standard_deviation: float = Field(ge=0, description="Of the seeds, with n − 1.")
    lowest: float
    highest: float


class SeedSpread(Record):
    """Trainings with the same settings and the same initial weights, each with another seed."""

    trials: list[int] = Field(min_length=2)
    f1: Spread = Field(description="Validation F1, each at its own best threshold.")
    average_precision: Spread


def spread_over_seeds(members: Sequence[Member], labels: np.ndarray) -> list[SeedSpread]:
    """The spread of each configuration that was trained with several seeds.

    Of members with one seed the first counts.

    Args:
        members: Members, with or without weights; those with scores of other tiles do not count.
        labels: (N,) of 0 and 1, of the validation tiles.

    Raises:
        InputError: Scores are damaged.
    """
    groups: dict[tuple[str, str], dict[int, Member]] = {}
    for member in members:
        record = member.record
        if record.num_val_tiles == len(labels):
            settings = record.config.model_copy(update={"seed": 0}).model_dump_json()
            group = groups.setdefault((settings, record.initial_weights_digest), {})
            group.setdefault(record.config.seed, member)
    return [_describe([*group.values()], labels) for group in groups.values() if len(group) > 1]


def _describe(members: Sequence[Member], labels: np.ndarray) -> SeedSpread:
    rows = [margins_to_probabilities(member.val_margins()) for member in members]
    return SeedSpread(
        trials=[member.trial for member in members],
        f1=_spread([best_threshold(labels, row)[1] for row in rows]),
        average_precision=_spread(
            [ranking_metrics(labels, row)["average_precision"] for row in rows]
        ),
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(
        mean=float(np.mean(values)),
        standard_deviation=float(np.std(values, ddof=1)),
        lowest=min(values),
        highest=max(values),
    )
