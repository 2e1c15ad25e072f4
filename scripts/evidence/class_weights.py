"""Measure whether members' class weights should be taken out before averaging: RUN.

A class weight w shifts the logit of a well-fitted network by log w (Elkan 2001, "The foundations of
cost-sensitive learning", section 3), so that a probability of 0.7 means other things to members
with other weights. This compares the mean of their probabilities with the mean after log w was
subtracted from each member's logit, on validation photographs alone: AP, and F1 at thresholds that
are chosen on four fifths of the photographs and judged on the fifth. The test split stays closed.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object
from ensemble.base.provenance import describe_code_and_machine
from ensemble.base.wording import plural
from ensemble.run.members import find_run, open_members, read_validation
from ensemble.selection.cross_validation import cross_validate
from ensemble.training.metrics import margins_to_probabilities
from record import run_parser, write_evidence

NUM_DRAWS = 10  # of the five folds; the F1 of all is averaged
FIGURES = ("average_precision", "f1")


def main() -> None:
    """Write a row for every set of at least two members, and print the gains."""
    parser = run_parser(
        "Compare, on validation photographs, the mean of a run's members with the mean after each "
        "member's class weight was taken out of its logit."
    )
    options = parser.parse_args()
    run = find_run(options.run, under=options.out)
    about = read_object(run / "run.json", split_digest=str)
    members = open_members(run, split_digest=about["split_digest"])
    validation = read_validation(run)
    weights = np.array([member.record.config.loss.crack_weight for member in members])
    if len(set(weights)) < 2:
        raise InputError(f"{run}: the members' class weights must differ, but all are the same")
    table = compare_means(
        np.stack([member.val_margins() for member in members]),
        weights,
        validation["label"].to_numpy(),
        validation["photograph"].to_numpy(dtype=str),
    )
    gains = {name: describe_gain(table, name) for name in FIGURES}
    for name, gain in gains.items():
        sets = f"{plural(len(table), 'set')} of members"
        print(
            f"{name}: corrected minus plain {gain['mean']:+.4f} over {sets} "
            f"({gain['smallest']:+.4f} to {gain['largest']:+.4f}), {gain['of_all_members']:+.4f} "
            "for all members together"
        )
    origin = {
        "gain": gains,
        "num_validation_tiles": len(validation),
        "num_validation_photographs": int(validation["photograph"].nunique()),
        "num_training_tiles": about["data_summary"]["num_tiles"]["train"],
        "num_training_photographs": about["data_summary"]["num_photographs"]["train"],
        "members": [member.record.config.model_dump(mode="json") for member in members],
        "split_digest": about["split_digest"],
        "trained_at_commit": about["commit"],
        **describe_code_and_machine(),
    }
    write_evidence(options.out / "evidence" / "class_weights.csv", table.round(5), origin)


def compare_means(
    margins: np.ndarray, class_weights: np.ndarray, labels: np.ndarray, photographs: np.ndarray
) -> pd.DataFrame:
    """Compute AP and F1 of the mean with and without correction, a row for each set of members.

    Args:
        margins: (M, N) logits of "cracked", one row a member.
        class_weights: (M,) weight of a cracked tile that each member was trained with.
        labels: (N,) of 0 and 1.
        photographs: (N,) ids.
    """
    ways = {
        "plain": margins_to_probabilities(margins),
        "corrected": margins_to_probabilities(margins - np.log(class_weights)[:, None]),
    }
    rows = []
    for size in range(2, len(margins) + 1):
        for chosen in map(list, combinations(range(len(margins)), size)):
            row: dict[str, str | float] = {
                "class_weights": " ".join(f"{weight:g}" for weight in class_weights[chosen])
            }
            for way, probabilities in ways.items():
                mean = probabilities[chosen].mean(axis=0)
                row[f"{way}_average_precision"] = average_precision_score(labels, mean)
                row[f"{way}_f1"] = f1_left_out(mean, labels, photographs)
            rows.append(row)
    return pd.DataFrame(rows)


def f1_left_out(probabilities: np.ndarray, labels: np.ndarray, photographs: np.ndarray) -> float:
    """Compute F1 of (N,) probabilities on photographs on which their threshold was not chosen."""
    only = {"only": lambda *_: np.ones(1)}
    draws = [
        cross_validate(only, probabilities[None], labels, photographs, seed=seed)
        for seed in range(NUM_DRAWS)
    ]
    return float(np.mean([scores[0].outer_score for scores in draws]))


def describe_gain(table: pd.DataFrame, figure: str) -> dict[str, float]:
    """Summarise what the correction adds to a figure, over all sets of members."""
    gain = table[f"corrected_{figure}"] - table[f"plain_{figure}"]
    return {
        "mean": float(gain.mean()),
        "smallest": float(gain.min()),
        "largest": float(gain.max()),
        "of_all_members": float(gain.iloc[-1]),
        "num_sets": len(gain),
        "num_sets_that_gain": int((gain > 0).sum()),
    }


if __name__ == "__main__":
    run_command(main)
