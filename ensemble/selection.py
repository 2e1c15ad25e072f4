"""Which members an ensemble has: validation scores in, members out. No pixels, no test tiles."""

from collections.abc import Sequence

import numpy as np

from ensemble.errors import InputError
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import margins_to_probabilities

DEFAULT_TOP_K = 5


def rank_members(members: Sequence[Member]) -> list[Member]:
    """By validation F1, best first; equal ones by the number of their trial."""
    return sorted(members, key=lambda member: (-member.val_f1, member.trial))


def choose_top_k(members: Sequence[Member], k: int | None) -> list[Member]:
    """The k best by validation F1; all, up to five, where k is not given.

    Raises:
        InputError: There are no members, or fewer than k.
    """
    if not members:
        raise InputError("the run has no finished trial; search first")
    if k is None:
        k = min(DEFAULT_TOP_K, len(members))
    if not 1 <= k <= len(members):
        raise InputError(
            f"--top-k {k}: the run has {len(members)} finished trials with a member; "
            f"choose from 1 to {len(members)}"
        )
    return rank_members(members)[:k]


def average_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Uniform mean over members: (M, N) → (N,).

    Probabilities, not logits: members of different backbones are not calibrated alike, and one
    very sure member should not outvote the others.
    """
    return probabilities.mean(axis=0)


def val_probabilities(members: Sequence[Member]) -> np.ndarray:
    """Stored validation probabilities of "cracked", one row a member: (M, N) float64."""
    return np.stack([margins_to_probabilities(member.val_margins()) for member in members])
