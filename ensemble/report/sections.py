"""The contents of a run's folder → what stands open on the page: what is found and missed."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ensemble.base.errors import escape
from ensemble.base.wording import plural
from ensemble.data.classes import SDNET_SURFACES
from ensemble.evaluation.figures import thresholds_in
from ensemble.evaluation.presentation import trivial_figures, trivial_sentences
from ensemble.report.data_urls import EmbeddedPicture, Sheet, embed_sheet
from ensemble.report.run_files import Run
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import EnsembleRecord

GALLERIES = {  # file → what its tiles are
    "misses": "missed crack",
    "false_alarms": "false alarm",
    "finds": "found crack",
}
RECALLS = (0.8, 0.9, 0.95, 0.99)  # of the thresholds that stand in the table
SUSPECTS_PICTURED = 24
DOUBTED = 0.25  # a label of no more than this calibrated probability is strongly contradicted


def is_sdnet(run: Run) -> bool:
    """Whether the surfaces are the three of SDNET2018."""
    return run.validation is not None and set(run.validation["surface"]) <= set(SDNET_SURFACES)


def embed_galleries(run: Run) -> dict[str, Sheet]:
    """Read the galleries of a test that there are, by the name of the file."""
    sheets = {name: embed_sheet(run.folder / "evaluation" / f"{name}.png") for name in GALLERIES}
    return {name: sheet for name, sheet in sheets.items() if sheet is not None}


def cracked_share(metrics: dict[str, Any]) -> float:
    """The share of cracked tiles, which is the precision of calling every tile cracked."""
    precision = trivial_figures(metrics["ensemble"])["precision"]
    return float(precision)


class Shown(NamedTuple):
    """A tile of the first screen."""

    what: str
    picture: EmbeddedPicture
    lines: list[str]


def first_pictures(sheets: dict[str, Sheet]) -> list[Shown]:
    """Take a find of middling sureness, the worst miss and the worst false alarm, if there are."""
    shown = []
    for name in ("finds", "misses", "false_alarms"):
        if name in sheets:
            tiles = sheets[name].tiles
            shown.append(Shown(GALLERIES[name], *tiles[len(tiles) // 2 if name == "finds" else 0]))
    return shown


def surface_rows(run: Run) -> list[dict[str, Any]]:
    """What is found and missed on each surface; empty where there is one alone."""
    surfaces = (run.metrics or {}).get("surfaces", {})
    names = SDNET_SURFACES if is_sdnet(run) else {}
    rows = [
        {"name": names.get(name, name) or "not named", "figures": figures, **_counts(figures)}
        for name, figures in surfaces.items()
    ]
    return rows if len(rows) > 1 else []


def _counts(figures: dict[str, Any]) -> dict[str, int]:
    counts = figures["confusion_matrix"]
    return {
        "found": counts["true_positive"],
        "cracked": counts["true_positive"] + counts["false_negative"],
        "missed": counts["false_negative"],
        "false_alarms": counts["false_positive"],
    }


def photograph_rows(run: Run) -> list[dict[Any, Any]]:
    """Misses and false alarms of each photograph, the most errors first; empty without names."""
    table = run.predictions
    if table is None or run.metrics is None or (table["photograph"] == "").any():
        return []
    called = table["ensemble"] >= thresholds_in(run.metrics, table)
    cracked = table["label"] == 1
    counted = table.assign(
        found=cracked & called, missed=cracked & ~called, false_alarms=~cracked & called
    )
    rows = counted.groupby("photograph", as_index=False).agg(
        surface=("surface", "first"),
        num_tiles=("label", "size"),
        cracked=("label", "sum"),
        found=("found", "sum"),
        missed=("missed", "sum"),
        false_alarms=("false_alarms", "sum"),
    )
    order = (-rows["missed"] - rows["false_alarms"]).argsort(kind="stable")
    return rows.iloc[order.to_numpy()].to_dict("records")


def photograph_sentence(rows: list[dict[Any, Any]]) -> str:
    """Say in how many photographs a crack was noticed, and in how many nothing went wrong."""
    cracked = [row for row in rows if row["cracked"]]
    noticed = sum(row["found"] > 0 for row in cracked)
    right = sum(not row["missed"] + row["false_alarms"] for row in rows)
    of = plural(len(cracked), "photograph")
    are = "has" if right == 1 else "have"
    return (
        f"In {noticed:,} of {of} with cracks at least one cracked tile was found. {right:,} of "
        f"{plural(len(rows), 'photograph')} {are} no error."
    )


def threshold_section(run: Run) -> dict[str, Any] | None:
    """What other thresholds would find on validation.

    None where an older version chose, or where the points are not those of the validation tiles.
    """
    choice, table = run.choice, run.validation
    if choice is None or table is None:
        return None
    points, num_cracked = choice.get("working_points", []), int(table["label"].sum())
    is_whole = max((found for _, found, _ in points), default=0) == num_cracked
    if not is_whole or choice["threshold"] not in [threshold for threshold, *_ in points]:
        return None
    has_names = bool((table["photograph"] != "").all())
    chosen = [threshold for threshold, *_ in points].index(choice["threshold"])
    listed = {chosen: "in use"}
    for recall in RECALLS:
        first = next(i for i, (_, found, _) in enumerate(points) if found >= recall * num_cracked)
        listed.setdefault(first, f"finds at least {recall:.0%}")
    shown = apply_temperature(np.array([p[0] for p in points]), choice["temperature"])
    points = [(float(t), *counts) for t, (_, *counts) in zip(shown, points, strict=True)]
    return {
        "points": points,
        "chosen": chosen,
        "listed": [(words, *points[i]) for i, words in sorted(listed.items())],
        "num_tiles": len(table),
        "num_cracked": num_cracked,
        "num_photographs": int(table["photograph"].nunique()) if has_names else None,
        "trivial_f1": run.val_trivial_f1,
    }


def label_section(run: Run, sheets: dict[str, Sheet]) -> dict[str, Any] | None:
    """The labels to look at, with pictures where there are; None where there is none."""
    suspects = run.suspect_labels
    if suspects is None or suspects.empty or run.predictions is None or run.metrics is None:
        return None
    thresholds = thresholds_in(run.metrics, run.predictions)
    called = (run.predictions["ensemble"] >= thresholds).astype(int)
    verdict = pd.Series(called.to_numpy(), index=run.predictions["tile"])
    plain = {
        lines[0]: picture
        for name in ("misses", "false_alarms")
        if name in sheets
        for picture, (_, lines) in zip(sheets[name].plain, sheets[name].tiles, strict=True)
    }
    rows = suspects.to_dict("records")
    against = sum(verdict.get(row["tile"]) == row["suggested_label"] for row in rows)
    strongly = sum(row["confidence"] <= DOUBTED for row in rows)
    pictured = [(row, plain[escape(row["tile"])]) for row in rows if escape(row["tile"]) in plain]
    pictured = pictured[:SUSPECTS_PICTURED]
    shown = {row["tile"] for row, _ in pictured}
    return {
        "pictured": pictured,
        "others": [row for row in rows if row["tile"] not in shown],
        "sentence": _describe_suspects(len(rows), against, strongly),
    }


def _describe_suspects(count: int, against: int, strongly: int) -> str:
    """Say how many labels are listed, and how strongly the ensemble contradicts them."""
    near = count - against
    sentence = (
        f"{plural(count, 'label')} of test tiles {'is' if count == 1 else 'are'} worth a second "
        "look (by confident learning, Northcutt, Jiang and Chuang 2021: the probability of the "
        f"other class is at least as high as is usual for that class). {strongly:,} of them the "
        f"ensemble contradicts strongly: it gives the label a probability of {DOUBTED:.0%} or less."
    )
    if near:
        sentence += (
            f" {near:,} it judges as {'it is' if near == 1 else 'they are'} labelled, but near its "
            "threshold, where it is unsure."
        )
    return sentence


def judged_rows(run: Run) -> list[dict[str, Any]]:
    """What the ensemble, or an earlier one of the run, finds on each other data set."""
    chosen = None if run.choice is None else EnsembleRecord.model_validate(run.choice)
    return [
        {
            "metrics": metrics,
            **_counts(metrics["ensemble"]),
            "trivial": trivial_sentences(metrics),
            "is_earlier": EnsembleRecord.model_validate(metrics["choice"]) != chosen,
        }
        for metrics in run.judged
    ]
