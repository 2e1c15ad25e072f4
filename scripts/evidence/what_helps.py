"""Find what helps, one thing at a time, on photographs that the networks never saw: RUN.

The best configuration of a search is trained on folds of all photographs but the test's, as it is
and with one thing changed: a setting (`TRIES`, or what `--try` says), labels that the unchanged one
doubts (`DOUBTS`), or another data set that was trained on first (`--after`). `what_helps.csv` has a
row for each, with its difference from the unchanged one and an interval that resamples photographs.
`what_helps.json` says where they came from, and what is worth that needs no training: other ways of
choosing members, flips and turns, and the scores of neighbours. What does not help stays in both.
The test split stays closed, and the same command goes on where it was stopped.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.base.door import run_command
from ensemble.base.files import read_object, read_table
from ensemble.base.provenance import describe_code_and_machine
from ensemble.cli import parse
from ensemble.run.members import (
    find_member,
    find_run,
    member_folder,
    read_validation,
    see_context,
)
from ensemble.search.comparison import measure_gain
from ensemble.search.refit import main as refit
from ensemble.selection.choose import (
    Picked,
    choose_ensemble,
    fit_thresholds,
    open_development,
)
from ensemble.training.checkpoint import open_member
from record import run_parser, write_evidence

TRIES = [
    ["data.context_px=0"],
    ["data.context_px=128"],
    ["optimisation.ema_decay=0.99"],
    ["optimisation.epochs=6"],
    ["loss.label_smoothing=0.1"],
    ["loss.crack_weight=3.0"],
]
DOUBTS = [["loss.doubted_weight=0.3"], ["loss.doubted_weight=0"]]  # when the first are trained
RUN_KEYS = ("split_digest", "refit_of", "source_trials", "folds", "weights", "configurations")


def main() -> None:
    """Train what is missing on the folds, and write the table."""
    parser = run_parser((__doc__ or "").partition(":")[0] + ".")
    add = parser.add_argument
    add("--folds", default="5", metavar="F", help="(default: 5)")
    add("--try", nargs="+", action="append", dest="tries", metavar="SETTING=VALUE", default=[],
        help="what is changed, as `refit` takes it (default: what the script names)")  # fmt: skip
    add("--after", nargs="+", metavar="RUN", default=[],
        help="searches on other data, from whose best network to start, too")  # fmt: skip
    for name in ("epochs", "gpus", "cpus", "trials-per-gpu"):
        add(f"--{name}", metavar="N", help="as `refit` takes it")
    add("--tta", action="store_true", help="try flips and turns, too")
    options = parser.parse_args()
    source = find_run(options.run, under=options.out)
    words = [str(source), "--top-k", "1", "--folds", options.folds, "--out", str(options.out)]
    for name in ("epochs", "gpus", "cpus", "trials_per_gpu"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", value]
    tries = options.tries or TRIES
    name = f"{source.name}-what-helps"
    train(words, name, tries)
    run = train(words, name, tries + DOUBTS)
    rows = [read_table(run / "tried.csv", columns=("name", "f1", "average_precision"))]
    for first in options.after:
        member = find_member(first, under=options.out)
        weights = f"{member.record.config.model.backbone}={member.weights_path()}"
        other = train([*words, "--weights", weights], f"{name}-after-{Path(first).name}", [])
        rows.append(compare_runs(other, run, f"after {Path(first).name}"))
    path = options.out / "evidence" / "what_helps.csv"
    table = pd.concat(rows).astype({"trial": "Int64"}).round(5)  # other runs' rows have no trial
    write_evidence(path, table, describe(run, tta=options.tta))


def train(words: list[str], name: str, tries: list[list[str]]) -> Path:
    """Train what is missing of the best configuration and its changes; the run's folder."""
    tried = [word for changes in tries for word in ("--try", *changes)]
    return Path(refit(parse("refit", [*words, "--name", name, *tried]))["run"])


def compare_runs(other: Path, run: Path, name: str) -> pd.DataFrame:
    """A row of the best configuration in another run, against the one in the run of all others."""
    member, base = (open_member(member_folder(each, 0)) for each in (other, run))
    gain = measure_gain(member, base, read_validation(run))
    (seconds,) = read_table(other / "trials.csv", columns=("seconds",))["seconds"]
    return pd.DataFrame([{"name": name, **gain, "seconds": seconds}])


def describe(run: Path, *, tta: bool) -> dict[str, Any]:
    """The origin of the table, and what helps the unchanged configuration without training.

    Args:
        run: The run on the folds.
        tta: Whether to try flips and turns, which takes seven further passes over all tiles.
    """
    about = read_object(run / "run.json", split_digest=str)
    base, table = open_member(member_folder(run, 0)), read_validation(run)
    val = open_development(run, table).val if tta or see_context([base]) else None
    how: Any = {"table": table, "rule": "f1", "val": val, "tta": tta}
    alone = fit_thresholds(run, Picked("mean", [base], np.ones(1)), best_single=base, **how)
    every = choose_ensemble(run, method="auto")
    return {
        "data": Path(about["data"]).name,
        "num_photographs": about["data_summary"]["num_photographs"],
        **{key: about[key] for key in RUN_KEYS},
        "neighbours": alone["neighbours_note"],
        "flips_and_turns": alone["tta_tried"] and alone["tta_tried"].model_dump(),
        "methods": [asdict(method) for method in every.methods],
        **describe_code_and_machine(),
    }


if __name__ == "__main__":
    run_command(main)
