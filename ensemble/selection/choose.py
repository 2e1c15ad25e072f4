"""Which members an ensemble has, with what weight: validation scores in, a `Choice` out.

Nothing here can see a test tile, and only members that kept their weights are candidates. Four
ways: `mean` of the k best, `greedy` selection, `weighted` convexly, and a `soup` of weights; `auto`
takes the one of the first three that cross-validation over the validation photographs prefers.
Only soup and test-time augmentation need a forward pass, on training and validation tiles.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, one_line
from ensemble.base.files import read_object
from ensemble.run.members import choose_device, open_members, rank_members, read_validation
from ensemble.run.pack import find_pack
from ensemble.selection.choice import EnsembleRecord
from ensemble.selection.cross_validation import cross_validate
from ensemble.selection.soup import write_soup
from ensemble.selection.thresholds import Picked, fit_thresholds
from ensemble.selection.weighting import Method, convex_weights, greedy_weights
from ensemble.training.checkpoint import Member
from ensemble.training.member import TrainingData, open_training_data
from ensemble.training.metrics import best_threshold, margins_to_probabilities

DEFAULT_TOP_K = 5
LEAST_WEIGHT = 0.01  # a member below it costs a forward pass and changes nothing


def check_top_k(k: int | None, *, num_candidates: int, num_finished: int) -> int:
    """The number of members to average: k, or five, or all if there are fewer.

    Args:
        k: What was asked for.
        num_candidates: Members that kept their weights.
        num_finished: Members in all.

    Raises:
        InputError: There are no candidates, or fewer than k.
    """
    if not num_finished:
        raise InputError(
            "the run has no finished trial yet; wait for one, run its command to the end, or name "
            "another run"
        )
    if not num_candidates:
        raise InputError(
            f"none of the run's {num_finished} finished trials kept its weights; search again"
        )
    if k is None:
        return min(DEFAULT_TOP_K, num_candidates)
    if not 1 <= k <= num_candidates:
        kept = f", of which {num_candidates} kept their weights (the search's --keep)"
        raise InputError(
            f"--top-k {k}: the run has {num_finished} finished trials with a member"
            f"{kept * (num_candidates < num_finished)}; choose from 1 to {num_candidates}"
        )
    return k


def mean_weights(
    probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray, *, k: int
) -> np.ndarray:
    """Equal weights for the k rows with the best F1 at its best threshold: (M, N) → (M,)."""
    del photographs
    scores = [best_threshold(labels, row)[1] for row in probabilities]
    best = np.argsort(-np.array(scores), kind="stable")[:k]
    weights = np.zeros(len(scores))
    weights[best] = 1 / k
    return weights


def choose_ensemble(
    run: Path,
    *,
    method: str = "mean",
    top_k: int | None = None,
    rule: str = "f1",
    tta: bool = False,
    log: Callable[[str], None] = print,
) -> EnsembleRecord:
    """Choose members, weights, temperatures and threshold on the validation split.

    Members that are damaged or lost their weights are no candidates.

    Args:
        run: A run's folder.
        method: One of `ensemble.base.options.METHODS`.
        top_k: Members of `mean`.
        rule: Rule of the threshold: f1, f2, a number, or recall=R.
        tta: Use test-time augmentation if validation gains what the rule asks for.
        log: Takes a line for each damaged member.

    Raises:
        InputError: Too few members, an unknown rule, or `top_k` where it has no meaning.
    """
    if top_k is not None and method not in ("mean", "auto"):
        raise InputError(f"--top-k {top_k}: is for mean and auto; --method {method} takes none")
    about = read_object(run / "run.json", split_digest=str)
    table = read_validation(run)
    finished = open_members(run, split_digest=about["split_digest"], log=log)
    members = _find_candidates(finished, num_val_tiles=len(table), log=log)
    k = check_top_k(top_k, num_candidates=len(members), num_finished=len(finished))
    needs_tiles = method == "soup" or tta
    data = open_training_data(find_pack(run), choose_device()) if needs_tiles else None
    if method == "soup":
        assert data is not None
        picked = _mix(members, data, run / "soup")
    else:
        picked = _weigh(members, table, method=method, k=k, rule=rule)
    fitted = fit_thresholds(
        run,
        picked,
        best_single=rank_members(members)[0],
        labels=table["label"].to_numpy(),
        rule=rule,
        turn=data.val if data is not None and tta else None,
    )
    return EnsembleRecord.model_validate(
        {
            **fitted,
            "method": picked.method,
            "asked_method": method,
            "top_k": k if method in ("mean", "auto") else None,
            "threshold_rule": rule,
            "methods": picked.methods,
            "num_finished": len(finished),
            "num_candidates": len(members),
            "split_digest": about["split_digest"],
        }
    )


def _find_candidates(
    finished: list[Member], *, num_val_tiles: int, log: Callable[[str], None]
) -> list[Member]:
    """Members with the weights that their record names and a score for each validation tile."""
    found = []
    for member in finished:
        if not member.has_weights:
            continue
        try:
            member.weights_path()
        except InputError as error:
            log(f"{one_line(str(error))}: trial {member.trial} is left out")
            continue
        if member.record.num_val_tiles != num_val_tiles:
            log(
                f"{member.folder}: has scores of {member.record.num_val_tiles} tiles, not of the "
                f"{num_val_tiles} in validation.csv: trial {member.trial} is left out"
            )
            continue
        found.append(member)
    return found


def _weigh(members: list[Member], table: pd.DataFrame, *, method: str, k: int, rule: str) -> Picked:
    """Pick members and weights by their stored scores."""
    labels, photographs = table["label"].to_numpy(), table["photograph"].to_numpy()
    probabilities = np.stack([margins_to_probabilities(m.val_margins()) for m in members])
    methods: dict[str, Method] = {
        "mean": partial(mean_weights, k=k),
        "greedy": greedy_weights,
        "weighted": lambda probabilities, labels, _: convex_weights(probabilities, labels),
    }
    scores = []
    if method == "auto":
        scores = cross_validate(methods, probabilities, labels, photographs, rule=rule)
        method = max(scores, key=lambda score: score.outer_score).method
    weights = methods[method](probabilities, labels, photographs)
    least = 0 if method == "mean" else LEAST_WEIGHT
    kept = [i for i in np.argsort(-weights, kind="stable") if weights[i] > least]
    if method == "mean":
        kept.sort(key=lambda i: (-members[i].val_f1, members[i].trial))
    return Picked(
        method, [members[i] for i in kept], weights[kept] / weights[kept].sum(), methods=scores
    )


def _mix(members: list[Member], data: TrainingData, folder: Path) -> Picked:
    """Average weights; where no mixture helps, the soup is the best member itself."""
    soup, ingredients = write_soup(rank_members(members), data, folder)
    return Picked("soup", [soup], np.ones(1), ingredients)
