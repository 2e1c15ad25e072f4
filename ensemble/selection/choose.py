"""Validation scores → an `EnsembleRecord`: members, weights, temperatures, thresholds, neighbours.

Nothing here can see a test tile, and only members that kept their weights are candidates. Only soup
and test-time augmentation need a forward pass, on training and validation tiles.

Thresholds are fitted to scores of one kind for all: with flips and turns for every member, or for
none. So one member that is the whole ensemble is judged as the best single member is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError, one_line
from ensemble.base.files import read_object
from ensemble.base.progress_bar import telling_progress
from ensemble.data.batches import SplitTiles
from ensemble.run.members import (
    check_scored,
    choose_device,
    count_scores,
    open_members,
    rank_members,
    read_validation,
    score_tiles,
    see_context,
)
from ensemble.run.pack import find_pack
from ensemble.selection.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    logit,
)
from ensemble.selection.choice import (
    Calibration,
    EnsembleRecord,
    JudgedMember,
    TileAlone,
    TurnedScore,
)
from ensemble.selection.cross_validation import MethodScore
from ensemble.selection.methods import Asked, deal_networks, weigh
from ensemble.selection.nesting import Optimism, estimate_optimism, judge_mean
from ensemble.selection.seeds import spread_over_seeds
from ensemble.selection.soup import write_soup
from ensemble.selection.thresholds import choose_threshold, rule_score, working_points
from ensemble.selection.weighting import average, diversity
from ensemble.training.checkpoint import Member
from ensemble.training.member import DevelopmentTiles, TrainingData
from ensemble.training.metrics import (
    brier_score,
    log_loss,
    margins_to_probabilities,
    ranking_metrics,
    threshold_metrics,
    trivial_f1,
)

DEFAULT_TOP_K = 5
NOT_ESTIMATED = "the optimism of choosing is estimated for the chosen ensemble alone"

Scores = Mapping[Path, np.ndarray]  # member's folder → (N,) probabilities of the validation tiles
# the same of tiles that are turned, and of tiles that are seen alone, by which of both holds
KnownScores = dict[tuple[bool, bool], dict[Path, np.ndarray]]


@dataclass(frozen=True)
class Picked:
    """What a method picked: members with weights, or a soup with the members that are in it."""

    method: str
    members: list[Member]
    weights: np.ndarray
    ingredients: list[Member] = field(default_factory=list)
    methods: list[MethodScore] = field(default_factory=list)
    budget: int | None = None  # forward passes that a tile may cost
    networks: dict[Path, int] = field(default_factory=dict)  # member's folder → number kept
    optimism: Optimism | None = None
    optimism_note: str = "the optimism of choosing is not estimated for a soup: it is mixed anew"

    def count_networks(self, member: Member) -> int:
        """How many networks answer for a member; of one that was not picked, as many as may."""
        number = member.record.num_folds
        return self.networks.get(member.folder, min(number, self.budget or number))

    def rows(self, scores: Scores) -> np.ndarray:
        """The members' scores: (M, N)."""
        return np.stack([scores[member.folder] for member in self.members])

    def average(self, scores: Scores) -> np.ndarray:
        """The ensemble's scores: (N,)."""
        return average(self.weights, self.rows(scores))


def choose_ensemble(
    run: Path,
    *,
    method: str = "mean",
    top_k: int | None = None,
    rule: str = "f1",
    tta: bool = False,
    known: KnownScores | None = None,
    budget_members: int | None = None,
    log: Callable[[str], None] = print,
) -> EnsembleRecord:
    """Choose members, weights, temperatures and threshold on the validation split.

    Members that are damaged or lost their weights are no candidates.

    Args:
        run: A run's folder.
        method: A name in `ensemble.base.options.METHODS`, or "auto".
        top_k: Number of members of `mean`.
        rule: Rule of the threshold: f1, f2, a number, or recall=R.
        tta: Whether to use test-time augmentation if validation gains what the rule asks for.
        known: Receives the scores of validation tiles that had to be made.
        budget_members: Forward passes that a tile may cost, before `tta`; None for any number.
        log: Takes a line for each damaged member.

    Raises:
        InputError: Too few members, an unknown rule, or `top_k` where it has no meaning.
    """
    if top_k is not None and method not in ("mean", "auto"):
        raise InputError(f"--top-k {top_k}: is for mean and auto; --method {method} takes none")
    split_digest = read_object(run / "run.json", split_digest=str)["split_digest"]
    table = read_validation(run)
    finished = open_members(run, split_digest=split_digest, log=log)
    members = find_candidates(finished, num_val_tiles=len(table), log=log)
    k = check_top_k(top_k, num_candidates=len(members), num_finished=len(finished))
    if method == "soup" and "fold" in table:
        raise InputError("--method soup: is not for a refit, whose networks left out other tiles")
    ranked = rank_members(members)
    picked, val = _pick(run, ranked, table, Asked(method, k, rule, budget_members), tta=tta)
    how: Any = {"table": table, "rule": rule, "val": val, "tta": tta, "known": known, "log": log}
    fitted = fit_thresholds(run, picked, best_single=ranked[0], **how)
    return EnsembleRecord.model_validate(
        {
            **fitted,
            "method": picked.method,
            "asked_method": method,
            "top_k": k if method in ("mean", "auto") else None,
            "threshold_rule": rule,
            "budget_members": budget_members,
            "methods": picked.methods,
            "optimism": picked.optimism,
            "optimism_note": picked.optimism_note,
            "seeds": spread_over_seeds(finished, table["label"].to_numpy()),
            "num_finished": len(finished),
            "num_candidates": len(members),
            "split_digest": split_digest,
        }
    )


def check_top_k(k: int | None, *, num_candidates: int, num_finished: int) -> int:
    """The number of members to average: k, or five, or all if there are fewer.

    Raises:
        InputError: There are no candidates (members that kept their weights), or fewer than k.
    """
    if not num_finished:
        raise InputError(
            "the run has no finished trial; wait for one, give the command again that stands in "
            "its run.json, to its end, or name another run"
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


def open_development(run: Path, table: pd.DataFrame) -> TrainingData:
    """Open the tiles of a run that are not the test's.

    Args:
        run: A run's folder.
        table: Validation tiles, as `read_validation` returns them.

    Raises:
        InputError: The packed tiles are gone, others or damaged.
    """
    tiles = DevelopmentTiles(find_pack(run), choose_device())
    return tiles.open() if "fold" not in table else tiles.open_all(table["fold"].max() + 1)


def find_candidates(
    finished: list[Member], *, num_val_tiles: int, log: Callable[[str], None]
) -> list[Member]:
    """Members with the weights that their record names and a score for each validation tile."""
    candidates = []
    for member in finished:
        if not member.has_weights:
            continue
        try:
            member.weights_path()
            check_scored(member, num_val_tiles)
        except InputError as error:
            log(f"{one_line(str(error))}: trial {member.trial} is left out")
        else:
            candidates.append(member)
    return candidates


def _pick(
    run: Path, ranked: list[Member], table: pd.DataFrame, asked: Asked, *, tta: bool
) -> tuple[Picked, SplitTiles | None]:
    """Pick members and weights, or mix a soup; with the tiles to score, where any will be."""
    needs_tiles = asked.method == "soup" or tta or see_context(ranked)
    data = open_development(run, table) if needs_tiles else None
    if asked.method != "soup":
        picked = weigh_members(ranked, table, asked, flatters=True)
        return picked, None if data is None else data.val
    assert data is not None
    soup, ingredients = write_soup(ranked, data, run / "soup")
    # Where no mixture helps, it is the best member itself.
    return Picked("soup", [soup], np.ones(1), ingredients, budget=asked.budget), data.val


def weigh_members(
    candidates: list[Member], table: pd.DataFrame, asked: Asked, *, flatters: bool
) -> Picked:
    """Pick members and weights by their stored scores.

    Args:
        candidates: Members that can be picked.
        table: Validation tiles, as `read_validation` returns them.
        asked: Method, number of members and rule of the threshold; no soup.
        flatters: Whether to estimate how much that flatters.
    """
    members = sorted(candidates, key=lambda member: member.trial)
    labels, photographs = table["label"].to_numpy(), table["photograph"].to_numpy()
    probabilities = np.stack([margins_to_probabilities(m.val_margins()) for m in members])
    networks = [member.record.num_folds for member in members]
    weighed = weigh(probabilities, labels, photographs, asked, networks)
    optimism, note = None, NOT_ESTIMATED
    if flatters:
        scored = probabilities, table, asked, weighed.weights
        optimism, note = estimate_optimism(*scored, networks)
    kept = [i for i in np.argsort(-weighed.weights, kind="stable") if weighed.weights[i] > 0]
    if weighed.method == "mean":
        kept.sort(key=lambda i: (-members[i].val_f1, members[i].trial))
    dealt = deal_networks(
        weighed.weights[kept].tolist(), [networks[i] for i in kept], asked.budget or sum(networks)
    )
    return Picked(
        weighed.method,
        [members[i] for i in kept],
        weighed.weights[kept],
        methods=weighed.scores,
        budget=asked.budget,
        networks={members[i].folder: count for i, count in zip(kept, dealt, strict=True)},
        optimism=optimism,
        optimism_note=note,
    )


def fit_thresholds(
    run: Path,
    picked: Picked,
    *,
    best_single: Member,
    table: pd.DataFrame,
    rule: str,
    val: SplitTiles | None,
    tta: bool,
    is_decided: bool = False,
    known: KnownScores | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Fit temperatures, thresholds and the second stage to validation scores.

    Args:
        run: A run's folder.
        picked: Members and weights.
        best_single: The member that is best by itself.
        table: Validation tiles, as `read_validation` returns them.
        rule: Rule of the thresholds.
        val: Validation tiles, for `tta` and where a member sees more than the tile.
        tta: Whether to try flips and turns.
        is_decided: Whether flips and turns are taken where `tta`, and not only tried.
        known: Scores of validation tiles made before, which are added to.
        log: Takes a line now and then while tiles are scored.

    Returns:
        The fields of an `EnsembleRecord` that this decides.
    """
    labels = table["label"].to_numpy()
    members = {m.folder: m for m in [*picked.members, *picked.ingredients, best_single]}
    scores: Scores = {f: margins_to_probabilities(m.val_margins()) for f, m in members.items()}
    known, tried, uses_tta = {} if known is None else known, None, False
    if tta and val is not None:
        turned = _score_anew(members, val, known, log, tta=True)
        tried = _compare_turned(picked, scores, turned, labels, rule)
        uses_tta = is_decided or tried.turned > tried.plain
        scores = turned if uses_tta else scores
    seeing = {folder: member for folder, member in members.items() if see_context([member])}
    alone = {} if val is None else _score_anew(seeing, val, known, log, tta=uses_tta, alone=True)
    judged = {
        f: _judge_member(run, picked, member, labels, scores[f], alone.get(f), rule)
        for f, member in members.items()
    }
    chosen = [judged[member.folder] for member in picked.members]
    thresholds = np.array([member.threshold for member in chosen])
    return {
        "members": [
            {**member.model_dump(), "weight": float(weight)}
            for member, weight in zip(chosen, picked.weights, strict=True)
        ],
        "best_single": judged[best_single.folder],
        "ingredients": [judged[member.folder] for member in picked.ingredients],
        "tta": uses_tta,
        "tta_tried": tried,
        "alone": _judge_alone(picked, {**scores, **alone}, labels, rule),
        **_judge_mean(picked.average(scores), table, rule),
        **_compare_members(picked.rows(scores), labels, thresholds),
    }


def _compare_members(
    rows: np.ndarray, labels: np.ndarray, thresholds: np.ndarray
) -> dict[str, Any]:
    """How far members disagree, and how far their errors go together, each by pair."""
    pairs = diversity(rows, labels, thresholds)
    return {
        "disagreement": pairs["disagreement"].tolist(),
        "error_correlation": [
            [None if np.isnan(value) else value for value in row]
            for row in pairs["error_correlation"].tolist()
        ],
    }


def _compare_turned(
    picked: Picked, plain: Scores, turned: Scores, labels: np.ndarray, rule: str
) -> TurnedScore:
    """What the rule asks for, without and with flips and turns."""
    means = [picked.average(scores) for scores in (plain, turned)]
    figures = [rule_score(choose_threshold(labels, mean, rule), rule) for mean in means]
    return TurnedScore(plain=figures[0], turned=figures[1])


def _score_anew(
    members: dict[Path, Member],
    val: SplitTiles,
    known: KnownScores,
    log: Callable[[str], None],
    *,
    tta: bool,
    alone: bool = False,
) -> Scores:
    """Probabilities of validation tiles that are turned, or seen without their neighbours.

    Those of members that were scored so before are `known`; the others are added to these.
    """
    scores = known.setdefault((tta, alone), {})
    missing = {folder: member for folder, member in members.items() if folder not in scores}
    if missing:
        scored, what = [*missing.values()], "without their neighbours" if alone else "turned"
        total = count_scores(scored, val, tta=tta)
        with telling_progress(f"scoring validation tiles, {what}", total, log) as tell:
            rows = score_tiles(scored, val, tta=tta, alone=alone, each_batch=tell)
        scores |= dict(zip(missing, rows, strict=True))
    return {folder: scores[folder] for folder in members}


def _judge_member(
    run: Path,
    picked: Picked,
    member: Member,
    labels: np.ndarray,
    scores: np.ndarray,
    alone: np.ndarray | None,
    rule: str,
) -> JudgedMember:
    """A member by its scores, and by those of tiles that it saw `alone`, if it ever sees more."""
    choice = choose_threshold(labels, scores, rule)
    return JudgedMember(
        alone_threshold=None if alone is None else choose_threshold(labels, alone, rule).threshold,
        trial=member.trial,
        folder=member.folder.relative_to(run).as_posix(),
        weights_sha256=str(member.record.weights_sha256),
        num_networks=picked.count_networks(member),
        num_folds=member.record.num_folds,
        temperature=fit_temperature(logit(scores), labels),
        threshold=choice.threshold,
        val_f1=choice.f1,
    )


def _judge_alone(picked: Picked, scores: Scores, labels: np.ndarray, rule: str) -> TileAlone | None:
    """How tiles without their neighbours are judged; None where no member sees more than a tile."""
    if not see_context(picked.members):
        return None
    mean = picked.average(scores)
    temperature = fit_temperature(logit(mean), labels)
    threshold = choose_threshold(labels, mean, rule).threshold
    return TileAlone(
        temperature=temperature,
        threshold=threshold,
        calibrated_threshold=float(apply_temperature(np.array(threshold), temperature)),
        val_metrics=threshold_metrics(labels, mean, threshold) | ranking_metrics(labels, mean),
    )


def _judge_mean(mean: np.ndarray, table: pd.DataFrame, rule: str) -> dict[str, Any]:
    labels, judged = table["label"].to_numpy(), judge_mean(mean, table, rule)
    metrics = threshold_metrics(labels, mean, judged.threshold) | ranking_metrics(labels, mean)
    metrics["trivial_f1"] = trivial_f1(labels)
    calibrated = apply_temperature(mean, judged.temperature)
    return {
        "temperature": judged.temperature,
        "threshold": judged.threshold,
        "calibrated_threshold": judged.calibrated_threshold,
        "val_metrics": metrics,
        "working_points": working_points(labels, mean, judged.threshold),
        "before_calibration": _calibration(labels, mean),
        "after_calibration": _calibration(labels, calibrated),
        "neighbours": judged.second.model,
        "neighbours_note": judged.second.note,
    }


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    return Calibration(
        log_loss=log_loss(labels, probabilities),
        brier=brier_score(labels, probabilities),
        expected_calibration_error=expected_calibration_error(labels, probabilities),
    )
