"""python -m ensemble.evaluate: the ensemble of a run, tested once. The only reader of test tiles.

The ensemble is chosen on the validation split and written to `ensemble.json` before the test split
is opened; each opening is written to `evaluation/ledger.csv`. Everything else that wants to know
about the test reads what is written here.
"""

from ensemble.command_lines import evaluate_parser
from ensemble.door import run_module

if __name__ == "__main__":  # before the imports below, which take seconds
    run_module("ensemble.evaluate", evaluate_parser)

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from ensemble.calibration import apply_temperature, choose_threshold
from ensemble.choice import Choice, open_choice
from ensemble.data.batches import Tiles, place_tiles
from ensemble.data.pack import open_pack
from ensemble.errors import InputError
from ensemble.figures import (
    compare,
    coverage_note,
    ensemble_figures,
    figures,
    member_figures,
    photograph_of,
    surface_figures,
)
from ensemble.files import read_object, read_table, write_json, write_table, write_text
from ensemble.gallery import draw_galleries
from ensemble.members import (
    choose_device,
    find_run,
    open_members,
    read_validation,
    score_tiles,
)
from ensemble.mistakes import find_errors, read_labels, relabelled_figures, suspect_labels
from ensemble.provenance import describe_code_and_machine
from ensemble.result_table import print_result, read_names
from ensemble.run_folder import shown
from ensemble.selection import average_probabilities, choose_ensemble
from ensemble.training.checkpoint import Member
from ensemble.training.memory import keep_freed_memory
from ensemble.training.metrics import check_both_classes, margins_to_probabilities
from ensemble.training.precision import describe_scoring
from ensemble.wording import plural


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, evaluate, print the table and where the files are."""
    options = evaluate_parser().parse_args(arguments)
    if options.min_recall is not None and options.threshold is not None:
        raise InputError("--min-recall and --threshold exclude each other; give one")
    rule = options.threshold or "f1"
    if options.min_recall is not None:
        rule = f"recall={options.min_recall}"
    keep_freed_memory()
    run = find_run(options.run, under=options.out)
    names = read_names(run)
    metrics = evaluate(
        run,
        method=options.method,
        top_k=options.top_k,
        rule=rule,
        tta=options.tta,
        labels_file=options.labels,
    )
    print_result(metrics, names, Console(width=None if Console().is_terminal else 240))
    if metrics["precision_note"]:
        print(metrics["precision_note"])
    candidates, finished = metrics["num_candidates"], metrics["num_finished_trials"]
    if candidates < finished:
        of = plural(finished, "finished trial")
        print(f"chosen from the {candidates} of {of} that kept their weights")
    print(f"written: {run / 'ensemble.json'}, which ensemble.predict uses from now on")
    for path in sorted((run / "evaluation").iterdir()):
        print(f"written: {path}")
    print(f"next: python -m ensemble.report {shown(run)}")
    print(f"      python -m ensemble.predict {shown(run)} PICTURE …")


def evaluate(
    run: Path,
    *,
    method: str = "mean",
    top_k: int | None = None,
    rule: str = "f1",
    tta: bool = False,
    labels_file: Path | None = None,
) -> dict[str, Any]:
    """Choose on validation, open the test split, write `evaluation/` and return its metrics.

    Args:
        run: A run's folder.
        method: How members are chosen.
        top_k: Members of `mean`.
        rule: Of the threshold: f1, f2, a number, or recall=R.
        tta: Whether to try test-time augmentation on validation.
        labels_file: Corrected labels of test tiles, for figures beside those on the original ones.

    Raises:
        InputError: Too few or damaged members, or the packed tiles are gone, others or of one
            class.
    """
    about = read_object(run / "run.json", split_digest=str, pack_folder=str)
    pack = open_pack(Path(about["pack_folder"]))
    if pack.about["split_digest"] != about["split_digest"]:
        raise InputError(f"{pack.folder} holds another split than the run's; search again")
    table = pack.table("test")
    check_both_classes(table["label"].to_numpy(), what="the test tiles")
    corrected = None if labels_file is None else read_labels(labels_file, table)
    choose_ensemble(run, method=method, top_k=top_k, rule=rule, tta=tta).save(run)
    choice, chosen = open_choice(run)
    finished = open_members(run, split_digest=about["split_digest"], say=lambda line: None)
    shown = _shown_members(choice, chosen, finished)
    thresholds = _own_thresholds(run, shown, rule)

    _note_opening(run, choice)
    pixels = pack.pixels("test")
    rows, labels = table["row"].to_numpy(), table["label"].to_numpy()
    tiles = place_tiles(pixels, rows, labels, choose_device())
    predictions = _predict(table, tiles, choice, chosen, shown)
    best = choice.best_single_trial
    single_threshold = thresholds[best]
    photographs = pack.about["num_photographs"]["test"]
    metrics = {
        "ensemble": ensemble_figures(predictions, choice.threshold, choice.val_metrics["best_f1"]),
        "members": [member_figures(predictions, m, thresholds[m.trial]) for m in shown],
        "surfaces": surface_figures(predictions, choice.threshold),
        "gain_over_best_single": compare(
            predictions,
            threshold=choice.threshold,
            single=best,
            single_threshold=single_threshold,
        ),
        "choice": choice.model_dump(mode="json"),
        "precision_note": describe_scoring(
            {member.trial: member.record.precision for member in [*shown, *chosen]}, tiles.device
        ),
        "num_finished_trials": len(finished),
        "num_candidates": sum(member.has_weights for member in finished),
        "num_test_tiles": len(table),
        "num_test_photographs": photographs,
        "intervals": coverage_note(
            len(set(photograph_of(predictions))), unit="photograph" if photographs else "tile"
        ),
        "split_by": pack.about["split_by"],
        "leaky_split": pack.about["leaky_split"],
        "split_digest": about["split_digest"],
        "num_test_openings": len(_read_ledger(run)),
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_code_and_machine(),
    }
    metrics["best_single"] = next(m for m in metrics["members"] if m["trial"] == best)
    if corrected is not None:
        relabelled = predictions.assign(label=corrected.to_numpy())
        metrics["relabelled"] = {
            "labels": str(labels_file),
            "num_changed": int((relabelled["label"] != predictions["label"]).sum()),
            **figures(relabelled, "ensemble", choice.threshold),
        }
    _write(run / "evaluation", predictions, metrics, choice)
    draw_galleries(run / "evaluation", predictions, choice, chosen, tiles)
    return metrics


def _shown_members(choice: Choice, chosen: list[Member], finished: list[Member]) -> list[Member]:
    """Members with a row of their own: the chosen, a soup's ingredients, and the best single."""
    wanted = choice.ingredients or [member.trial for member in chosen]
    wanted += [choice.best_single_trial] * (choice.best_single_trial not in wanted)
    known = {member.trial: member for member in finished}
    return [known[trial] for trial in wanted]


def _own_thresholds(run: Path, members: Sequence[Member], rule: str) -> dict[int, float]:
    labels = read_validation(run)["label"].to_numpy()
    return {
        member.trial: choose_threshold(
            labels, margins_to_probabilities(member.val_margins()), rule
        ).threshold
        for member in members
    }


def _predict(
    table: pd.DataFrame,
    tiles: Tiles,
    choice: Choice,
    chosen: list[Member],
    shown: list[Member],
) -> pd.DataFrame:
    """One row a test tile: what it is, each member's probability, and the ensemble's."""
    of_member = dict(
        zip((m.trial for m in shown), score_tiles(shown, tiles, tta=choice.tta), strict=True)
    )
    if choice.ingredients:
        scores = score_tiles(chosen, tiles, tta=choice.tta)
    else:
        scores = np.stack([of_member[member.trial] for member in chosen])
    mean = average_probabilities(choice.weights, scores)
    return table[["tile", "photograph", "surface", "label"]].assign(
        **{f"trial_{trial}": row for trial, row in of_member.items()},
        ensemble=mean,
        calibrated=apply_temperature(mean, choice.temperature),
    )


def _write(
    folder: Path, predictions: pd.DataFrame, metrics: dict[str, Any], choice: Choice
) -> None:
    trials = [f"trial_{member.trial}" for member in choice.members]
    judged = predictions[["tile", "photograph", "surface", "label", *trials]].assign(
        ensemble=predictions["ensemble"], calibrated=predictions["calibrated"]
    )
    suspects = suspect_labels(judged, choice.weights)
    for name, table in (
        ("predictions", predictions),
        ("errors", find_errors(predictions, choice.threshold)),
        ("suspect_labels", suspects),
        ("if_relabelled", relabelled_figures(predictions, suspects, choice.threshold)),
    ):
        write_table(folder / f"{name}.csv", table)
    write_json(folder / "metrics.json", metrics)


def _read_ledger(run: Path) -> list[dict[Any, Any]]:
    path = run / "evaluation" / "ledger.csv"
    return read_table(path).to_dict("records") if path.exists() else []


def _note_opening(run: Path, choice: Choice) -> None:
    """Write down that the test split is opened, with what, before it is."""
    path = run / "evaluation" / "ledger.csv"
    path.parent.mkdir(exist_ok=True)
    line = {
        "opened_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": choice.method,
        "trials": " ".join(str(member.trial) for member in choice.members),
        "threshold_rule": choice.threshold_rule,
        "threshold": choice.threshold,
        "tta": choice.tta,
    }
    write_text(path, pd.DataFrame([*_read_ledger(run), line]).to_csv(index=False))
