"""python -m ensemble.evaluate: the ensemble of a run, tested once. The only reader of test tiles.

The ensemble is chosen on the validation split and written to `ensemble.json` before the test split
is opened; each opening is written to `evaluation/ledger.csv` before a test label is read. What is
tested is the choice in memory, so that nothing that happens to the file changes it. Everything else
that wants to know about the test reads what is written here.
"""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("evaluate")

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from ensemble.base.errors import InputError
from ensemble.base.files import append_line, make_folder, write_json, write_table
from ensemble.base.memory import keep_freed_memory
from ensemble.base.provenance import describe_code_and_machine
from ensemble.base.wording import plural
from ensemble.data.batches import SplitTiles, place_tiles
from ensemble.data.pack import Pack, open_pack
from ensemble.evaluation.figures import (
    compute_figures,
    coverage_note,
    ensemble_figures,
    gain_over,
    member_figures,
    photograph_of,
    surface_figures,
)
from ensemble.evaluation.mistakes import (
    correct_labels,
    find_errors,
    read_labels,
    relabelled_figures,
    suspect_labels,
)
from ensemble.evaluation.terminal_table import print_result, read_names
from ensemble.explanation.gallery import draw_galleries
from ensemble.run.folder import display_path, run_lock
from ensemble.run.members import choose_device, find_run, score_tiles
from ensemble.run.pack import find_pack
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import EnsembleRecord, open_chosen
from ensemble.selection.choose import choose_ensemble
from ensemble.selection.weighting import average_probabilities
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import check_both_classes
from ensemble.training.precision import describe_scoring


def main(options: argparse.Namespace) -> None:
    """Evaluate, print the table and where the files are."""
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
    print(f"written: {display_path(run / 'evaluation')}, and ensemble.json, which predict uses")
    print(f"next: python -m ensemble.report {display_path(run)}")
    print(f"      python -m ensemble.predict {display_path(run)} PICTURE …")


def evaluate(
    run: Path,
    *,
    method: str = "mean",
    top_k: int | None = None,
    rule: str = "f1",
    tta: bool = False,
    labels_file: Path | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Choose on validation, open the test split, write `evaluation/` and return its metrics.

    Args:
        run: A run's folder.
        method: How members are chosen.
        top_k: Members of `mean`.
        rule: Rule of the threshold: f1, f2, a number, or recall=R.
        tta: Whether to try test-time augmentation on validation.
        labels_file: Corrected labels of test tiles, for figures beside those on the original ones.
        log: Takes a line for each damaged member.

    Raises:
        InputError: There are too few members, the packed tiles are gone, others, damaged or of one
            class, or another evaluation is at work in the run.
    """
    corrected = None if labels_file is None else read_labels(labels_file)
    with run_lock(run / "evaluation", what="evaluation"):
        pack = open_pack(find_pack(run), splits=("test",))
        _check_test_classes(pack)
        choice = choose_ensemble(run, method=method, top_k=top_k, rule=rule, tta=tta, log=log)
        choice.save(run)
        chosen, singles = open_chosen(run, choice.members), open_chosen(run, choice.shown)
        num_openings = _note_opening(run, choice)
        table = pack.table("test")
        labels = None if corrected is None else correct_labels(table, corrected)
        predictions, tiles = _predict(pack, table, choice, chosen, singles)
        metrics = {
            **_describe_test(predictions, choice, singles),
            **_describe_data(pack, predictions),
            "precision_note": describe_scoring(
                {member.trial: member.record.precision for member in [*singles, *chosen]},
                tiles.device,
            ),
            "num_test_openings": num_openings,
            "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **describe_code_and_machine(),
        }
        if labels is not None and corrected is not None:
            metrics["relabelled"] = {
                "labels": str(labels_file),
                "num_changed": int((labels != table["label"]).sum()),
                "num_ignored": len(corrected.tiles.keys() - set(table["tile"])),
                **compute_figures(predictions.assign(label=labels), "ensemble", choice.threshold),
            }
        _write(run / "evaluation", predictions, metrics, choice)
        draw_galleries(run / "evaluation", predictions, choice, chosen, tiles)
    return metrics


def _check_test_classes(pack: Pack) -> None:
    """Refuse a test split of one class by the counts of the pack; no label is read for that."""
    tiles, cracked = (pack.record[key]["test"] for key in ("num_tiles", "num_cracked"))
    check_both_classes((np.arange(tiles) < cracked).astype(int), what="the test tiles")


def _note_opening(run: Path, choice: EnsembleRecord) -> int:
    """Write down that the test split is opened, with what, before it is; count the openings."""
    path = run / "evaluation" / "ledger.csv"
    line = {
        "opened_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": choice.method,
        "trials": " ".join(str(member.trial) for member in choice.members),
        "threshold_rule": choice.threshold_rule,
        "threshold": choice.threshold,
        "tta": choice.tta,
    }
    make_folder(path.parent)
    append_line(path, ",".join(map(str, line.values())), header=",".join(line))
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(bool(line.strip()) for line in lines) - 1


def _predict(
    pack: Pack,
    table: pd.DataFrame,
    choice: EnsembleRecord,
    chosen: Sequence[Member],
    singles: Sequence[Member],
) -> tuple[pd.DataFrame, SplitTiles]:
    """Score the test tiles.

    Returns:
        One row a test tile (what it is, the probability of each member with figures of its own,
        the ensemble's), and the tiles.
    """
    rows, labels = table["row"].to_numpy(), table["label"].to_numpy()
    tiles = place_tiles(pack.pixels("test"), rows, labels, choose_device())
    everyone = {member.folder: member for member in (*chosen, *singles)}
    scores = dict(
        zip(everyone, score_tiles([*everyone.values()], tiles, tta=choice.tta), strict=True)
    )
    mean = average_probabilities(choice.weights, np.stack([scores[m.folder] for m in chosen]))
    predictions = table[["tile", "photograph", "surface", "label"]].assign(
        **{f"trial_{member.trial}": scores[member.folder] for member in singles},
        ensemble=mean,
        calibrated=apply_temperature(mean, choice.temperature),
    )
    return predictions, tiles


def _describe_test(
    predictions: pd.DataFrame, choice: EnsembleRecord, singles: Sequence[Member]
) -> dict[str, Any]:
    """All figures of the test, at the thresholds of the choice."""
    best = choice.best_single
    members = [
        member_figures(predictions, member, judged)
        for member, judged in zip(singles, choice.shown, strict=True)
    ]
    return {
        "ensemble": ensemble_figures(predictions, choice.threshold, choice.val_metrics["f1"]),
        "members": members,
        "best_single": next(found for found in members if found["trial"] == best.trial),
        "surfaces": surface_figures(predictions, choice.threshold),
        "gain_over_best_single": gain_over(
            predictions,
            threshold=choice.threshold,
            single=best.trial,
            single_threshold=best.threshold,
        ),
        "choice": choice.model_dump(mode="json"),
        "num_finished_trials": choice.num_finished,
        "num_candidates": choice.num_candidates,
    }


def _describe_data(pack: Pack, predictions: pd.DataFrame) -> dict[str, Any]:
    photographs = pack.record["num_photographs"]["test"]
    unit = "photograph" if photographs else "tile"
    return {
        "num_test_tiles": len(predictions),
        "num_test_photographs": photographs,
        "intervals": coverage_note(len(set(photograph_of(predictions))), unit=unit),
        "split_by": pack.record["split_by"],
        "leaky_split": pack.record["leaky_split"],
        "split_digest": pack.record["split_digest"],
    }


def member_columns(predictions: pd.DataFrame, choice: EnsembleRecord) -> pd.DataFrame:
    """The predictions with the columns of the ensemble's members, and of no other trial.

    The member of a soup is the soup itself, not the trial whose number it bears.

    Args:
        predictions: As in `predictions.csv`.
        choice: What was tested.
    """
    trials = [f"trial_{member.trial}" for member in choice.members]
    if choice.ingredients:
        predictions = predictions.assign(**{trials[0]: predictions["ensemble"]})
    return predictions[
        ["tile", "photograph", "surface", "label", *trials, "ensemble", "calibrated"]
    ]


def _write(
    folder: Path, predictions: pd.DataFrame, metrics: dict[str, Any], choice: EnsembleRecord
) -> None:
    suspects = suspect_labels(member_columns(predictions, choice), choice.weights)
    for name, table in (
        ("predictions", predictions),
        ("errors", find_errors(predictions, choice.threshold)),
        ("suspect_labels", suspects),
        ("if_relabelled", relabelled_figures(predictions, suspects, choice.threshold)),
    ):
        write_table(folder / f"{name}.csv", table)
    write_json(folder / "metrics.json", metrics)
