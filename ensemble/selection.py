"""Which members an ensemble has, with what weight: validation scores in, a `Choice` out.

Nothing here can see a test tile, and only members that kept their weights are candidates. Four
ways: `mean` of the k best, `greedy` selection, `weighted` convexly, and a `soup` of weights; `auto`
takes the one of the first three that cross-validation over the validation photographs prefers.
Only soup and test-time augmentation need a forward pass, on training and validation tiles.
"""

from functools import partial
from pathlib import Path

import numpy as np

from ensemble.calibration import (
    apply_temperature,
    brier_score,
    choose_threshold,
    expected_calibration_error,
    fit_temperature,
    logit,
)
from ensemble.choice import Calibration, Choice, ChosenMember, MethodScore
from ensemble.errors import InputError
from ensemble.files import read_object
from ensemble.members import (
    choose_device,
    open_members,
    rank_members,
    read_validation,
    score_tiles,
)
from ensemble.soup import cook_member
from ensemble.training.checkpoint import Member
from ensemble.training.member import TrainingData, open_training_data
from ensemble.training.metrics import (
    best_threshold,
    log_loss,
    margins_to_probabilities,
    ranking_metrics,
    threshold_metrics,
)
from ensemble.weighting import Method, convex_weights, cross_validate, diversity, greedy_weights

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
            "the run has no finished trial; run its command to the end, or name another run"
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


def average_probabilities(weights: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Weighted mean over members: (M,), (M, N) → (N,).

    Probabilities, not logits: members of different backbones are not calibrated alike, and one
    very sure member should not outvote the others.
    """
    return weights @ probabilities


def choose_ensemble(
    run: Path,
    *,
    method: str = "mean",
    top_k: int | None = None,
    rule: str = "f1",
    tta: bool = False,
) -> Choice:
    """Choose members, weights, temperatures and threshold on the validation split.

    Members whose weights were dropped are no candidates.

    Args:
        run: A run's folder.
        method: One of `METHODS`.
        top_k: Members of `mean`.
        rule: Of the threshold: f1, f2, a number, or recall=R.
        tta: Use test-time augmentation if it raises the validation F1.

    Raises:
        InputError: Too few or damaged members, or an unknown rule.
    """
    about = read_object(run / "run.json", split_digest=str, pack_folder=str)
    finished = open_members(run, split_digest=about["split_digest"])
    members = [member for member in finished if member.has_weights]
    k = check_top_k(top_k, num_candidates=len(members), num_finished=len(finished))
    table = read_validation(run)
    labels, photographs = table["label"].to_numpy(), table["photograph"].to_numpy()
    probabilities = np.stack([margins_to_probabilities(m.val_margins()) for m in members])
    best = rank_members(members)[0]

    methods: dict[str, Method] = {
        "mean": partial(mean_weights, k=k),
        "greedy": greedy_weights,
        "weighted": lambda probabilities, labels, _: convex_weights(probabilities, labels),
    }
    scores, chosen_method = [], method
    if method == "auto":
        scores = cross_validate(methods, probabilities, labels, photographs)
        chosen_method = max(scores, key=lambda score: score.outer_score).method
    ingredients: list[int] = []
    data: TrainingData | None = None
    if chosen_method == "soup" or tta:
        data = open_training_data(Path(about["pack_folder"]), choose_device())
    if chosen_method == "soup":
        assert data is not None
        soup, ingredients = cook_member(rank_members(members), data, run / "soup")
        members, weights = [soup], np.ones(1)
    else:
        weights = methods[chosen_method](probabilities, labels, photographs)
        kept = [i for i in np.argsort(-weights, kind="stable") if weights[i] >= LEAST_WEIGHT]
        if chosen_method == "mean":
            kept.sort(key=lambda i: (-members[i].val_f1, members[i].trial))
        members, weights = [members[i] for i in kept], weights[kept] / weights[kept].sum()
    probabilities = np.stack([margins_to_probabilities(m.val_margins()) for m in members])
    use_tta = False
    if tta:
        assert data is not None
        turned = score_tiles(members, data.val, tta=True)
        plain_f1, turned_f1 = (
            best_threshold(labels, weights @ each)[1] for each in (probabilities, turned)
        )
        use_tta = turned_f1 > plain_f1
        probabilities = turned if use_tta else probabilities
    return _calibrate(
        run,
        members,
        weights,
        probabilities,
        labels,
        rule=rule,
        method=chosen_method,
        asked_method=method,
        ingredients=ingredients,
        tta=use_tta,
        best_single_trial=best.trial,
        best_single_val_f1=best.val_f1,
        methods=[
            MethodScore(method=s.method, inner_f1=s.inner_score, outer_f1=s.outer_score)
            for s in scores
        ],
        split_digest=about["split_digest"],
    )


def _calibrate(
    run: Path,
    members: list[Member],
    weights: np.ndarray,
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    rule: str,
    **known: object,
) -> Choice:
    """Fit temperatures and thresholds, and write down how the members differ."""
    mean = average_probabilities(weights, probabilities)
    temperature = fit_temperature(logit(mean), labels)
    calibrated = apply_temperature(mean, temperature)
    threshold = choose_threshold(labels, mean, rule).threshold
    thresholds = [choose_threshold(labels, row, rule).threshold for row in probabilities]
    pairs = diversity(probabilities, labels, np.array(thresholds))
    return Choice.model_validate(
        {
            **known,
            "members": [
                ChosenMember(
                    trial=member.trial,
                    folder=member.folder.relative_to(run).as_posix(),
                    weights_sha256=member.record.weights_sha256,
                    weight=float(weight),
                    temperature=fit_temperature(logit(row), labels),
                    threshold=own,
                )
                for member, weight, row, own in zip(
                    members, weights, probabilities, thresholds, strict=True
                )
            ],
            "temperature": temperature,
            "threshold_rule": rule,
            "threshold": threshold,
            "calibrated_threshold": float(apply_temperature(np.array(threshold), temperature)),
            "val_metrics": {
                **threshold_metrics(labels, mean, threshold),
                "best_f1": best_threshold(labels, mean)[1],
                **ranking_metrics(labels, mean),
            },
            "before_calibration": _calibration(labels, mean),
            "after_calibration": _calibration(labels, calibrated),
            "disagreement": pairs["disagreement"].tolist(),
            "error_correlation": [
                [None if np.isnan(value) else float(value) for value in row]
                for row in pairs["error_correlation"]
            ],
        }
    )


def _calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    return Calibration(
        log_loss=log_loss(labels, probabilities),
        brier=brier_score(labels, probabilities),
        expected_calibration_error=expected_calibration_error(labels, probabilities),
    )
