"""What was picked → from where the ensemble, and each member by itself, calls a tile cracked.

Temperatures, thresholds and the figures they reach on validation are fitted here and nowhere else,
to scores of one kind for all: with flips and turns for every member, or for none. So one member
that is the whole ensemble is judged as the best single member is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.data.batches import SplitTiles
from ensemble.run.members import score_tiles
from ensemble.selection.calibration import (
    apply_temperature,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    logit,
    rule_score,
)
from ensemble.selection.choice import Calibration, JudgedMember, TurnedScore
from ensemble.selection.cross_validation import MethodScore
from ensemble.selection.weighting import diversity
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import (
    brier_score,
    log_loss,
    margins_to_probabilities,
    ranking_metrics,
    threshold_metrics,
)

Scores = Mapping[Path, np.ndarray]


@dataclass(frozen=True)
class Picked:
    """What a method picked: members with weights, or a soup with the members that are in it."""

    method: str
    members: list[Member]
    weights: np.ndarray
    ingredients: list[Member] = field(default_factory=list)
    methods: list[MethodScore] = field(default_factory=list)


def fit_thresholds(
    run: Path,
    picked: Picked,
    *,
    best_single: Member,
    labels: np.ndarray,
    rule: str,
    turn: SplitTiles | None,
) -> dict[str, Any]:
    """Fit temperatures and thresholds to validation scores; those fields of a `Choice`.

    Args:
        run: A run's folder.
        picked: What was picked.
        best_single: The member that is best by itself.
        labels: (N,) of the validation tiles.
        rule: Rule of the thresholds.
        turn: Validation tiles to try flips and turns on; None where that was not asked for.
    """
    everyone = {m.folder: m for m in [*picked.members, *picked.ingredients, best_single]}
    scores: Scores = {
        path: margins_to_probabilities(member.val_margins()) for path, member in everyone.items()
    }
    tried = None
    if turn is not None:
        turned = dict(zip(everyone, score_tiles([*everyone.values()], turn, tta=True), strict=True))
        plain, better = (_score(picked, each, labels, rule) for each in (scores, turned))
        tried = TurnedScore(plain=plain, turned=better)
        scores = turned if better > plain else scores
    alone = {
        path: _judge_member(run, member, labels, scores[path], rule)
        for path, member in everyone.items()
    }
    return {
        "members": [
            {**alone[member.folder].model_dump(), "weight": float(weight)}
            for member, weight in zip(picked.members, picked.weights, strict=True)
        ],
        "best_single": alone[best_single.folder],
        "ingredients": [alone[member.folder] for member in picked.ingredients],
        "tta": tried is not None and tried.turned > tried.plain,
        "tta_tried": tried,
        **_judge_mean(_average(picked, scores), labels, rule),
        **_compare_pairs(
            np.stack([scores[member.folder] for member in picked.members]),
            labels,
            np.array([alone[member.folder].threshold for member in picked.members]),
        ),
    }


def _average(picked: Picked, scores: Scores) -> np.ndarray:
    return picked.weights @ np.stack([scores[member.folder] for member in picked.members])


def _score(picked: Picked, scores: Scores, labels: np.ndarray, rule: str) -> float:
    """What the rule asks for, of the ensemble on validation."""
    return rule_score(choose_threshold(labels, _average(picked, scores), rule), rule)


def _judge_member(
    run: Path, member: Member, labels: np.ndarray, scores: np.ndarray, rule: str
) -> JudgedMember:
    found = choose_threshold(labels, scores, rule)
    return JudgedMember(
        trial=member.trial,
        folder=member.folder.relative_to(run).as_posix(),
        weights_sha256=str(member.record.weights_sha256),
        temperature=fit_temperature(logit(scores), labels),
        threshold=found.threshold,
        val_f1=found.f1,
    )


def _judge_mean(mean: np.ndarray, labels: np.ndarray, rule: str) -> dict[str, Any]:
    temperature = fit_temperature(logit(mean), labels)
    threshold = choose_threshold(labels, mean, rule).threshold
    return {
        "temperature": temperature,
        "threshold": threshold,
        "calibrated_threshold": float(apply_temperature(np.array(threshold), temperature)),
        "val_metrics": {
            **threshold_metrics(labels, mean, threshold),
            **ranking_metrics(labels, mean),
        },
        "before_calibration": _calibration(labels, mean),
        "after_calibration": _calibration(labels, apply_temperature(mean, temperature)),
    }


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    return Calibration(
        log_loss=log_loss(labels, probabilities),
        brier=brier_score(labels, probabilities),
        expected_calibration_error=expected_calibration_error(labels, probabilities),
    )


def _compare_pairs(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> dict[str, Any]:
    """How differently the members judge, without NaN."""
    pairs = diversity(probabilities, labels, thresholds)
    return {
        "disagreement": pairs["disagreement"].tolist(),
        "error_correlation": [
            [None if np.isnan(value) else float(value) for value in row]
            for row in pairs["error_correlation"]
        ],
    }
