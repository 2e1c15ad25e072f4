"""The contents of a run's folder → what is folded on the page, for those who train and check."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ensemble.base.wording import capitalize_first
from ensemble.evaluation.comparison import WARNING, networks_sentence, told_ways
from ensemble.evaluation.presentation import (
    cost_sentence,
    describe_method,
    optimism_sentence,
    sole_member,
    trivial_figures,
)
from ensemble.recipes.headline import name_weights
from ensemble.report import sentences as summary
from ensemble.report.learning import describe_learning, draw_learning, group_by_verdict
from ensemble.report.parallel_plot import parallel_coordinates
from ensemble.report.plots import Drawing, matrix
from ensemble.report.run_files import Run
from ensemble.report.score_plots import (
    f1_intervals,
    f_against_threshold,
    precision_recall,
    reliability,
    roc,
)
from ensemble.report.search_plots import (
    epochs_spent,
    history,
    importance,
    parameter_columns,
    scored_trials,
)
from ensemble.run.members import FINISHED_STATES
from ensemble.search.importance import Importance, find_importance
from ensemble.selection.thresholds import name_score
from ensemble.training.metrics import METRICS

BEST_SHOWN = 8
COUNTS = ("num_tiles", "num_cracked", "num_photographs")


def split_rows(run: Run) -> list[dict[str, Any]]:
    """Tiles, cracked tiles and photographs of each split, as far as they are known."""
    data = run.about.get("data_summary") or {}
    tables = {"val": run.validation, "test": run.predictions}
    names = {"train": "training", "val": "validation", "test": "test"}
    rows = []
    if run.refit_of is not None and run.validation is not None:
        rows = [{"name": f"{run.num_folds} folds", **_count(run.validation)}]
        names = {"test": "test"}
    for split, name in names.items():
        table = tables.get(split)
        row = {key: (data.get(key) or {}).get(split) for key in COUNTS}
        if row["num_tiles"] is None and table is not None:
            row = _count(table)
        rows.append({"name": name, **row})
    return rows


def split_surface_rows(run: Run) -> list[dict[str, Any]]:
    """Tiles of each surface in the splits whose tables the run keeps."""
    return [
        {"split": name, "surface": surface, **_count(part)}
        for name, table in (
            ("folds" if run.refit_of else "validation", run.validation),
            ("test", run.predictions),
        )
        if table is not None and table["surface"].nunique() > 1
        for surface, part in table.groupby("surface")
    ]


def _count(table: pd.DataFrame) -> dict[str, Any]:
    has_names = bool((table["photograph"] != "").all())
    num_photographs = table["photograph"].nunique() if has_names else None
    counts = len(table), int(table["label"].sum()), num_photographs
    return dict(zip(COUNTS, counts, strict=True))


def search_section(run: Run, members: list[int]) -> dict[str, Any]:
    """Figures, sentences and the best trials."""
    trials = run.trials
    if trials.empty:
        return {"num_trials": 0, "num_finished": 0, "drawings": [], "best": []}
    finished = scored_trials(trials)
    shares = Importance()
    if len(finished) and run.kind == "search":
        shares = find_importance(run.folder / "study.db")
    drawings, sentence = _draw_search(run, finished, members, shares)
    best = finished.sort_values(["val_f1", "trial"], ascending=[False, True]).head(BEST_SHOWN)
    return {
        "drawings": [drawing for drawing in drawings if drawing is not None],
        "no_importance": shares.reason,
        "sentence": sentence,
        "num_trials": len(trials),
        "num_finished": len(finished),
        "seconds": float(trials["seconds"].sum()),
        "columns": parameter_columns(trials),
        "best": best.to_dict("records"),
        "failed": trials[trials["state"] == "FAIL"].to_dict("records"),
    }


def _draw_search(
    run: Run, finished: pd.DataFrame, members: list[int], shares: Importance
) -> tuple[list[Drawing | None], str]:
    """Draw what the trials show, and say how many epochs they cost."""
    trials = run.trials
    if finished.empty:
        return [], ""
    ended = trials[trials["state"].isin((*FINISHED_STATES, "FAIL"))]
    full = pd.Series(run.about["epochs"] * run.num_folds, index=trials.index)
    if "optimisation.epochs" in trials:
        full = trials["optimisation.epochs"].fillna(full)
    if run.kind != "search":
        # nothing was searched, and a further epoch of a variant was trained with it
        trained = ended[ended["epochs"] > 0]
        spent = int(trained["epochs"].sum())
        return [
            epochs_spent(trained, full[trained.index].to_numpy())
        ], f"Epochs trained: {spent:,}."
    space = (run.about.get("space") or {}).get("parameters") or {}
    drawings = [
        history(trials, members, run.val_trivial_f1),
        epochs_spent(ended, full[ended.index].to_numpy()),
        importance(shares.shares, shares.by_chance) if shares.shares else None,
        parallel_coordinates(trials, space, members),
    ]
    return drawings, summary.early_stopping_sentence(
        int(finished["epochs"].sum()),
        int(full[finished.index].sum()),
        int((finished["state"] == "PRUNED").sum()),
        len(finished),
    )


def learning_section(run: Run, members: list[int]) -> dict[str, Any]:
    """A curve and a sentence for every member, and what all curves say together."""
    epochs = run.epochs
    if epochs.empty:
        return {"drawings": [], "together": "", "of_members": bool(members)}
    everyone = sorted(epochs["trial"].unique())
    trained = [trial for trial in members if trial in everyone]
    best = int(epochs["trial"].iloc[int(epochs["val_f1"].to_numpy().argmax())])
    notes = [
        describe_learning(epochs, trial, planned_epochs=run.about["epochs"])
        for trial in trained or [best]
    ]
    titles = {
        note.trial: capitalize_first(
            f"{run.describe_trial(note.trial)}, {run.backbone_of(note.trial)}"
        )
        for note in notes
    }
    return {
        "drawings": draw_learning(epochs, notes, titles, faint=everyone),
        "together": group_by_verdict(notes),
        "of_members": bool(members),
    }


def ensemble_section(run: Run) -> dict[str, Any] | None:
    """The members and how they differ; None where nothing was chosen yet."""
    choice = run.choice
    if choice is None:
        return None
    names = [f"trial {member['trial']}" for member in choice["members"]]
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
            caption="How far two members are wrong on the same validation tiles: 1 means the same "
            "errors, 0 unrelated ones. The lower, the more an average can correct.",
        ),
    ]
    return {
        "drawings": drawings if len(names) > 1 else [],
        "rule": summary.describe_rule(choice["threshold_rule"]),
        "method": describe_method(choice),
        "score": name_score(choice["threshold_rule"]),
        "optimism": optimism_sentence(choice),
        "cost": cost_sentence(choice),
    }


def result_section(run: Run) -> dict[str, Any] | None:
    """Tables and figures of the test; None where there was none."""
    metrics, predictions = run.metrics, run.predictions
    if metrics is None or predictions is None:
        return None
    only, compared = sole_member(metrics), metrics.get("compared", [])
    models = [("ensemble", metrics["ensemble"])] if only is None else []
    models += [(run.describe_trial(member["trial"]), member) for member in metrics["members"]]
    trials = [m["trial"] for m in metrics["members"] if f"trial_{m['trial']}" in predictions]
    origin = summary.describe_rule(metrics["choice"]["threshold_rule"])
    return {
        "titles": {name: metric.title for name, metric in METRICS.items()},
        "columns": _compared_models(run, metrics),
        "members": models,
        "ways": metrics["ways"],
        "compared": [*told_ways(compared)],
        "reference": next((row["what"] for row in compared if row["is_reference"]), ""),
        "networks": networks_sentence(metrics),
        "warning": WARNING,
        "gain": {
            name: row
            for name, row in metrics["gain_over_best_single"].items()
            if row["difference"] is not None and only is None
        },
        "has_intervals": any(
            bounds["low"] is not None for _, row in models for bounds in row["intervals"].values()
        ),
        "calibrated": summary.calibration_sentence(metrics["ensemble"]),
        "drawings": [
            f1_intervals(models),
            precision_recall(predictions, metrics, trials),
            f_against_threshold(predictions, metrics["ensemble"]["threshold"], origin),
            reliability(predictions, trials),
            roc(predictions, metrics, trials),
        ],
    }


def _compared_models(run: Run, metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The columns of the table of the test: the ensemble, its best member, and neither."""
    single = metrics["best_single"]
    name = run.describe_trial(single["trial"])
    if sole_member(metrics) is None:
        columns = [("ensemble", metrics["ensemble"]), (f"best single: {name}", single)]
    else:
        columns = [(f"{name}, the only member", metrics["ensemble"] | metrics["members"][0])]
    trivial = trivial_figures(metrics["ensemble"])
    counts = metrics["ensemble"]["confusion_matrix"]
    trivial["confusion_matrix"] = {
        "true_positive": counts["true_positive"] + counts["false_negative"],
        "false_positive": counts["false_positive"] + counts["true_negative"],
        "false_negative": 0,
        "true_negative": 0,
    }
    trivial["val_f1"] = run.val_trivial_f1
    return [*columns, ("every tile called cracked", trivial)]


def provenance(run: Run) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything that the figures came from."""
    about, metrics = run.about, run.metrics or {}
    yield "seed of the study", str(about.get("seed", "–"))
    yield "split digest", str(about.get("split_digest", "–"))
    for backbone, weights in (about.get("weights") or {}).items():
        origin = str(weights["origin"])
        if origin.startswith("weights of "):  # a file
            origin = name_weights(origin, backbone)
        yield f"{backbone} starts from", f"{origin} (digest {weights['digest']})"
    for member in (run.choice or {}).get("members", []):
        name = f"{run.describe_trial(member['trial'])}, weights"
        yield name, f"SHA-256 {member['weights_sha256']}"
    for key in ("commit", "versions", "hardware"):
        for when, source in (("", about), (" of the evaluation", metrics)):
            if source.get(key) and (not when or source[key] != about.get(key)):
                yield key + when, _words(source[key])
    began = "search began" if run.kind == "search" else "training began"
    yield began, str(about.get("started_at", "–"))
    if metrics:
        yield "evaluated", metrics["evaluated_at"]
    yield "tiles were packed in", summary.name_alone(str(about.get("pack_folder", "–")))


def _words(values: str | dict[str, Any]) -> str:
    if isinstance(values, str):
        return values
    return ", ".join(
        f"{name} {', '.join(map(str, value)) or 'none' if isinstance(value, list) else value}"
        for name, value in values.items()
    )
