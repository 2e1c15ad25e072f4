"""What a run's folder holds → what each section of the report shows: rows, sentences, figures."""

from typing import Any

import pandas as pd

from ensemble.base.wording import capitalize_first
from ensemble.evaluation.terminal_table import describe_method, sole_member, trivial_figures
from ensemble.report import sentences as summary
from ensemble.report.learning import describe_learning, learning_curve
from ensemble.report.plots import Drawing, confusion, matrix
from ensemble.report.run_files import Run
from ensemble.report.score_plots import (
    f1_intervals,
    f_against_threshold,
    precision_recall,
    reliability,
    roc,
)
from ensemble.report.search_plots import (
    FINISHED,
    epochs_spent,
    history,
    importance,
    parallel_coordinates,
    parameter_columns,
)
from ensemble.search.importance import Importance, find_importance
from ensemble.selection.calibration import name_score

BEST_SHOWN = 10
SDNET_SURFACES = {"D": "D, bridge deck", "P": "P, pavement", "W": "W, wall"}
RESULT_COLUMNS = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "f2": "F2",
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
    "accuracy": "accuracy",
    "brier": "Brier score",
    "loss": "log loss",
    "cracked_photographs_hit": "cracked photographs hit",
    "false_alarms_per_photograph": "false alarms a photograph",
}


def split_rows(run: Run) -> list[dict[str, Any]]:
    """Tiles, cracked tiles and photographs of each split, as far as they are known."""
    data = run.about.get("data_summary") or {}
    rows = []
    tables = {"val": run.validation, "test": run.predictions}
    for split, name in (("train", "training"), ("val", "validation"), ("test", "test")):
        table = tables.get(split)
        row = {
            key: (data.get(key) or {}).get(split)
            for key in ("num_tiles", "num_cracked", "num_photographs")
        }
        if row["num_tiles"] is None and table is not None:
            has_names = bool((table["photograph"] != "").all())
            row = {
                "num_tiles": len(table),
                "num_cracked": int(table["label"].sum()),
                "num_photographs": table["photograph"].nunique() if has_names else None,
            }
        rows.append({"name": name, **row})
    return rows


def surface_rows(run: Run) -> list[dict[str, Any]]:
    """Tiles of each surface in the splits whose tables the run keeps."""
    rows = []
    for name, table in (("validation", run.validation), ("test", run.predictions)):
        if table is None or table["surface"].nunique() < 2:
            continue
        rows += [
            {
                "split": name,
                "surface": surface,
                "num_tiles": len(part),
                "num_cracked": int(part["label"].sum()),
                "num_photographs": part["photograph"].nunique(),
            }
            for surface, part in table.groupby("surface")
        ]
    return rows


def is_sdnet(run: Run) -> bool:
    """Whether the surfaces are the three of SDNET2018."""
    return run.validation is not None and set(run.validation["surface"]) <= set(SDNET_SURFACES)


def search_section(run: Run, members: list[int]) -> dict[str, Any]:
    """Figures, sentences and the best trials."""
    trials = run.trials
    if trials.empty:
        return {"num_trials": 0, "num_finished": 0, "drawings": [], "best": []}
    finished = trials[trials["state"].isin(FINISHED) & trials["val_f1"].notna()]
    ended = trials[trials["state"].isin((*FINISHED, "FAIL"))]
    full = pd.Series(run.about["epochs"], index=trials.index)
    if "optimisation.epochs" in trials:
        full = trials["optimisation.epochs"].fillna(full)
    found = Importance()
    if len(finished) and run.recipe is None:
        found = find_importance(run.folder / "study.db")
    drawings: list[Drawing | None] = []
    sentences = []
    if len(finished) and run.recipe is not None:
        # nothing was searched, and a further epoch of a variant was trained with it
        trained = ended[ended["epochs"] > 0]
        drawings.append(epochs_spent(trained, full[trained.index].to_numpy()))
        sentences.append(f"Epochs trained: {int(trained['epochs'].sum()):,}.")
    elif len(finished):
        drawings.append(history(trials, members))
        drawings.append(epochs_spent(ended, full[ended.index].to_numpy()))
        if found.shares:
            drawings.append(importance(found.shares, found.by_chance))
        space = (run.about.get("space") or {}).get("parameters") or {}
        drawings.append(parallel_coordinates(trials, space, members))
        sentences.append(
            summary.early_stopping_sentence(
                int(finished["epochs"].sum()),
                int(full[finished.index].sum()),
                int((finished["state"] == "PRUNED").sum()),
                len(finished),
            )
        )
    columns = parameter_columns(trials)
    best = finished.sort_values(["val_f1", "trial"], ascending=[False, True]).head(BEST_SHOWN)
    return {
        "drawings": [drawing for drawing in drawings if drawing is not None],
        "no_importance": found.reason,
        "sentences": sentences,
        "names": {trial: run.describe_trial(trial) for trial in trials["trial"]},
        "num_trials": len(trials),
        "num_finished": len(finished),
        "seconds": float(trials["seconds"].sum()),
        "columns": columns,
        "best": best.to_dict("records"),
        "failed": trials[trials["state"] == "FAIL"].to_dict("records"),
    }


def learning_section(run: Run, members: list[int]) -> dict[str, Any]:
    """A curve and a sentence for every member, and what all curves say together."""
    trained = [
        trial for trial in members if not run.epochs.empty and (run.epochs["trial"] == trial).any()
    ]
    if not trained and not run.epochs.empty:
        trained = [int(run.epochs["trial"].iloc[int(run.epochs["val_f1"].to_numpy().argmax())])]
    everyone = [] if run.epochs.empty else sorted(run.epochs["trial"].unique())
    notes = [
        describe_learning(run.epochs, trial, planned_epochs=run.about["epochs"])
        for trial in trained
    ]
    drawings = [
        learning_curve(
            run.epochs,
            note.trial,
            title=capitalize_first(
                f"{run.describe_trial(note.trial)}, {_backbone(run, note.trial)}"
            ),
            caption=note.sentence,
            faint=everyone,
        )
        for note in notes
    ]
    told = []
    for verdict, words in (
        ("overfits", "overfits in its later epochs"),
        ("still improving", "has its lowest validation loss in its last epoch"),
        ("no clear sign", "shows no clear sign of overfitting"),
        ("too short", "is too short to tell"),
    ):
        which = [str(note.trial) for note in notes if note.verdict == verdict]
        if which:
            told.append(f"{words}: {', '.join(which)}")
    together = f"By trial: {'; '.join(told)}." if told else ""
    return {"drawings": drawings, "together": together, "of_members": bool(members)}


def ensemble_section(run: Run) -> dict[str, Any] | None:
    """The members and how they differ; None where nothing was chosen yet."""
    choice = run.choice
    if choice is None:
        return None
    names = [f"trial {member['trial']}" for member in choice["members"]]
    drawings = []
    if len(names) > 1:
        drawings = [
            matrix(
                "disagreement",
                choice["disagreement"],
                names,
                title="Disagreement",
                caption="Share of validation tiles that two members judge differently, each at its "
                "own threshold. Averaging members that never disagree would change nothing.",
            ),
            matrix(
                "error-correlation",
                choice["error_correlation"],
                names,
                title="Correlation of errors",
                caption="How far two members are wrong on the same validation tiles: 1 means the "
                "same errors, 0 unrelated ones. The lower, the more an average can correct.",
            ),
        ]
    return {
        "drawings": drawings,
        "members": [
            {
                **member,
                "name": run.describe_trial(member["trial"]),
                "backbone": _backbone(run, member["trial"]),
            }
            for member in choice["members"]
        ],
        "rule": summary.describe_rule(choice["threshold_rule"]),
        "method": describe_method(choice),
        "score": name_score(choice["threshold_rule"]),
    }


def result_section(run: Run) -> dict[str, Any] | None:
    """Tables and figures of the test; None where there was none."""
    metrics, predictions = run.metrics, run.predictions
    if metrics is None or predictions is None:
        return None
    single = metrics["best_single"]["trial"]
    only = sole_member(metrics)
    rows = [("ensemble", metrics["ensemble"])] if only is None else []
    rows += [(run.describe_trial(member["trial"]), member) for member in metrics["members"]]
    trials = [m["trial"] for m in metrics["members"] if f"trial_{m['trial']}" in predictions]
    origin = summary.describe_rule(metrics["choice"]["threshold_rule"])
    verdicts = "Rows are the labels, columns the verdicts; percentages are shares of the row. "
    drawings = [
        precision_recall(predictions, metrics, trials),
        roc(predictions, metrics, trials),
        reliability(predictions, trials),
        f_against_threshold(predictions, metrics["ensemble"]["threshold"], origin),
        confusion(
            "confusion-ensemble",
            metrics["ensemble"]["confusion_matrix"],
            title="Confusion matrix of the ensemble",
            caption=verdicts + "Below left are the false alarms, above right the misses.",
        ),
    ]
    if only is None:
        drawings.append(
            confusion(
                "confusion-single",
                metrics["best_single"]["confusion_matrix"],
                title=f"Confusion matrix of {run.describe_trial(single)}, the best single member",
                caption=f"{verdicts}At its own threshold, {origin}.",
            )
        )
    return {
        "columns": RESULT_COLUMNS,
        "rows": [*rows, ("every tile called cracked", trivial_figures(metrics["ensemble"]))],
        "surfaces": metrics["surfaces"],
        "gain": {
            name: row
            for name, row in metrics["gain_over_best_single"].items()
            if row["difference"] is not None and only is None
        },
        "calibrated": summary.calibration_sentence(metrics["ensemble"]),
        "intervals": f1_intervals(rows),
        "drawings": drawings,
    }


def errors_by_photograph(run: Run) -> list[dict[str, Any]]:
    """Misses and false alarms of each photograph, the most errors first; empty without names."""
    table = run.predictions
    if table is None or run.metrics is None or (table["photograph"] == "").any():
        return []
    called = table["ensemble"] >= run.metrics["ensemble"]["threshold"]
    cracked = table["label"] == 1
    counted = table.assign(misses=cracked & ~called, false_alarms=~cracked & called)
    rows = [
        {
            "photograph": photograph,
            "surface": part["surface"].iloc[0],
            "num_tiles": len(part),
            "num_cracked": int(part["label"].sum()),
            "misses": int(part["misses"].sum()),
            "false_alarms": int(part["false_alarms"].sum()),
        }
        for photograph, part in counted.groupby("photograph")
    ]
    return sorted(rows, key=lambda row: (-row["misses"] - row["false_alarms"], row["photograph"]))


def _backbone(run: Run, trial: int) -> str:
    for table in (run.epochs, run.trials):  # a further epoch of a variant has no rows of its own
        for row in [] if table.empty else table[table["trial"] == trial].to_dict("records"):
            if pd.notna(row["backbone"]):
                return str(row["backbone"])
    return "backbone not recorded"
