"""What the runs of `sdnet2018.py` reached → a table, where it came from, and a page.

All figures are read from what `evaluate` and `judge` wrote; nothing is computed anew, and no test
tile is opened.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.files import read_object, read_table, write_text
from ensemble.base.provenance import describe_code_and_machine
from ensemble.evaluation.figures import flat_row
from ensemble.report.checks import read_record
from record import describe_origin, write_evidence

TESTED = "evaluation/metrics.json"
WITH_INTERVAL = ("test_f1", "test_average_precision")
FIRST = ["what", "judged", "val_f1", "threshold"]
LAST = [
    *("training_hours", "num_test_tiles", "num_test_photographs", "num_test_openings"),
    *("split", "trained_on", "hardware", "commit"),
]
PRINTED = {
    "test_f1": "F1",
    "test_precision": "precision",
    "test_recall": "recall",
    "test_average_precision": "AP",
    "test_recall_at_precision_50": "recall at precision 0.5",
    "test_precision_at_recall_95": "precision at recall 0.95",
}
PAGE = """# All of SDNET2018

Made by `{command}`.

{table}

F1 and AP have 95 % intervals, in brackets, that resample the {num_photographs} test photographs.
"Hours" are those that the networks of the row took to train and to validate, summed over trainings
that ran side by side; with folds, those of the search are in it. All choices were made on other
photographs than the test's. Rows of other tests (a split by tile, another surface, another data
set) stand for themselves.
"""


@dataclass(frozen=True)
class Runs:
    """The folders of the runs.

    Attributes:
        search: The search.
        also: Other searches with the same split.
        refit: Its best configurations on folds of all photographs but the test's.
        leaky: The best one on a split by tile; None where that is left out.
        without: Folder of a surface in the data → the best one without it.
        metu: The best one on METU; None where that is left out.
    """

    search: Path
    also: list[Path]
    refit: Path
    leaky: Path | None
    without: dict[str, Path]
    metu: Path | None

    @property
    def others(self) -> list[Path]:
        """The runs beside search and refit."""
        return [run for run in (self.leaky, *self.without.values(), self.metu) if run is not None]


def write_results(runs: Runs, folder: Path, command: str) -> None:
    """Write `table.csv`, `table.json` and `README.md`.

    Args:
        runs: Runs that were tested.
        folder: Folder of the files; made if missing.
        command: What makes them, as it is typed.
    """
    table = tabulate(runs)
    about, metrics = (read_record(runs.refit / name) for name in ("run.json", TESTED))
    origin = {**describe_origin(about, metrics), "command": command, **describe_code_and_machine()}
    write_evidence(folder / "table.csv", table.round(5), origin)
    page = PAGE.format(
        command=command,
        table=print_table(table),
        num_photographs=metrics["num_test_photographs"],
    )
    write_text(folder / "README.md", page)


def tabulate(runs: Runs) -> pd.DataFrame:
    """A row for each thing that was tested, in the order of the page."""
    rows = pd.DataFrame([*_main_rows(runs), *_other_rows(runs)])
    figures = [name for name in rows if name not in (*FIRST, *LAST)]
    return rows[[*FIRST, *figures, *LAST]].convert_dtypes()  # whole numbers without a point


def _main_rows(runs: Runs) -> Iterator[dict[str, Any]]:
    """Rows of the test photographs: without any network, of the search, and of the folds."""
    search, folds = (read_record(run / TESTED) for run in (runs.search, runs.refit))
    yield _trivial_row(runs.search, search)
    yield from _tested_rows(search, _about(runs.search, search))
    for run in runs.also:
        metrics = read_record(run / TESTED)
        yield from _tested_rows(metrics, _about(run, metrics), f"{run.name}: ")
    hours = count_hours(runs.search) + count_hours(runs.refit)
    about = {**_about(runs.refit, folds), "training_hours": hours}
    yield from _tested_rows(folds, about, "on folds: ")
    judged, last = _last_way(folds)
    for surface, part in last["surfaces"].items():
        row = flat_row(f"on folds: the ensemble, {surface}", part["figures"])
        yield row | {"judged": judged} | about


def _tested_rows(
    metrics: dict[str, Any], about: dict[str, Any], start: str = ""
) -> Iterator[dict[str, Any]]:
    """Rows of a run: its ensemble, what that was compared with, and the ensemble relabelled.

    Args:
        metrics: What `evaluate` wrote.
        about: Origin of the figures.
        start: What stands before each name.
    """
    compared = metrics["compared"] or [_only_ensemble(metrics)]
    for each in compared:
        yield from _rows(start + each["what"], each["ways"], about)
    if "relabelled" in metrics:
        row = flat_row(f"{start}{compared[0]['what']}, corrected labels", metrics["relabelled"])
        yield row | {"judged": _last_way(metrics)[0]} | about


def _last_way(metrics: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The way of judging that the figures of a run are of."""
    *_, last = ((name, way) for name, way in metrics["ways"].items() if "figures" in way)
    return last


def _only_ensemble(metrics: dict[str, Any]) -> dict[str, Any]:
    """The ensemble of an evaluation that compared it with no other, named and judged as those."""
    members = metrics["members"]
    what = f"ensemble of {len(members)} members"
    if len(members) == 1:
        what = f"trial {members[0]['trial']}, {members[0]['backbone']}"
    return {"what": what, "ways": metrics["ways"]}


def _other_rows(runs: Runs) -> Iterator[dict[str, Any]]:
    """Rows of other tests: a split by tile, surfaces that were left out, and METU."""
    if runs.leaky:
        metrics = read_record(runs.leaky / TESTED)
        name = "split by tile, so tiles of one photograph are trained on and tested"
        yield from _rows(name, metrics["ways"], _about(runs.leaky, metrics))
    judged = [(run, Path(surface).name) for surface, run in runs.without.items()]
    names = [f"trained without {surface}, judged on {surface}" for _, surface in judged]
    if runs.metu:
        judged += [(runs.metu, "sdnet2018"), (runs.refit, "metu")]
        names += ["trained on METU, judged on SDNET2018", "on folds: the ensemble, judged on METU"]
    for name, (run, data) in zip(names, judged, strict=True):
        metrics = read_object(run / "judged" / data.lower() / "metrics.json")
        yield from _rows(name, metrics["ways"], _about(run, metrics))


def _rows(what: str, ways: dict[str, Any], about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each way that judges some tile otherwise than the one before."""
    for judged, way in ways.items():
        if "figures" in way:
            yield flat_row(what, way["figures"]) | {"judged": judged} | about


def _trivial_row(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """What calling every tile cracked reaches, which no interval need be said of."""
    counts = metrics["ensemble"]["confusion_matrix"]
    share = (counts["true_positive"] + counts["false_negative"]) / sum(counts.values())
    figures = {"test_f1": metrics["ensemble"]["trivial_f1"], "test_precision": share}
    figures |= {"test_recall": 1.0, "test_average_precision": share}
    about = {**_about(run, metrics), "training_hours": 0.0}
    return {"what": "every tile called cracked", "judged": "tile alone"} | figures | about


def _about(run: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """The origin of the figures of a row: hours, split, data, machine and commit."""
    about = read_object(run / "run.json", split_digest=str)
    hardware = about["hardware"]
    machine = ", ".join(hardware["gpus"]) or f"{hardware['cores']} cores of {hardware['cpu']}"
    of = "" if "num_judgements" in metrics else "test_"
    return {
        "training_hours": count_hours(run),
        "num_test_tiles": metrics[f"num_{of}tiles"],
        "num_test_photographs": metrics[f"num_{of}photographs"],
        "num_test_openings": _count_openings(metrics),
        "split": about["split_digest"][:12],
        "trained_on": Path(about["data"]).name,
        "hardware": machine,
        "commit": metrics["commit"],
    }


def _count_openings(metrics: dict[str, Any]) -> int:
    """How often the tiles were opened by the run, and before it by others with the same split."""
    if "num_judgements" in metrics:
        return int(metrics["num_judgements"])
    return int(metrics["num_test_openings"] + sum(metrics["openings_by_other_runs"].values()))


def count_hours(run: Path) -> float:
    """Hours of training and validation of all trials of a run, summed."""
    epochs = read_table(run / "epochs.csv", columns=("train_seconds", "val_seconds"))
    return float((epochs["train_seconds"] + epochs["val_seconds"]).sum() / 3600)


def print_table(table: pd.DataFrame) -> str:
    """The table in Markdown, with the figures of the page."""
    lines = [f"| what | judged | {' | '.join(PRINTED.values())} | hours |"]
    lines.append("| --- | --- |" + " --- |" * (len(PRINTED) + 1))
    for _, row in table.iterrows():
        cells = [_print_figure(row, name) for name in PRINTED]
        hours = f"{row['training_hours']:.1f}"
        lines.append(f"| {row['what']} | {row['judged']} | {' | '.join(cells)} | {hours} |")
    return "\n".join(lines)


def _print_figure(row: pd.Series, name: str) -> str:
    """A figure with three decimals, with its interval where the page tells it."""
    if pd.isna(row[name]):
        return ""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    has_interval = name in WITH_INTERVAL and not pd.isna(low)
    return f"{row[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if has_interval else "")
