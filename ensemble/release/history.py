"""What a run's folder tells beside its last test: openings since, what was tried, other data sets.

Each becomes at most a line of the card; a run without it has none.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ensemble.base.errors import InputError, escape
from ensemble.base.files import read_object, read_table
from ensemble.base.wording import format_number, plural
from ensemble.evaluation.presentation import openings_elsewhere
from ensemble.report.checks import read_checked_table
from ensemble.selection.choice import EnsembleRecord

JUDGED_BY = {"f1": "F1", "recall": "recall", "precision": "precision"}


def describe_openings(run: Path, metrics: dict[str, Any]) -> str:
    """How often the test part was opened, after `evaluate` and by `judge`, as a sentence.

    Args:
        run: Folder of the run.
        metrics: What its `evaluation/metrics.json` holds.

    Raises:
        InputError: The ledger is damaged.
    """
    then = metrics["num_test_openings"]
    ledger = read_checked_table(run / "evaluation" / "ledger.csv")
    now = max(then, 0 if ledger is None else len(ledger))
    since = f", {now - then} of them after this test" if now > then else ""
    return (
        f"The test part of this run was opened {plural(now, 'time')}{since}"
        f"{openings_elsewhere(metrics)}."
    )


def describe_tried(run: Path) -> str:
    """What a refit tried on the folds, and what each change gained; "" where it tried nothing.

    Args:
        run: Folder of the run.

    Raises:
        InputError: `tried.csv` is damaged.
    """
    path = run / "tried.csv"
    if not path.exists():
        return ""
    tried = read_table(path, columns=("name", "f1"), text=("name", "f1_verdict"))
    if len(tried) < 2:
        return ""
    base, *changes = tried.to_dict("records")
    try:
        gains = [
            f"{_quote(row['name'])} {format_number(row['f1_difference'], '+.3f')}"
            f"{_span(row['f1_low'], row['f1_high'])} ({escape(row['f1_verdict'])})"
            for row in changes
        ]
        f1 = format_number(base["f1"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: damaged (a figure is missing); put back a copy") from None
    return (
        f"On the folds, F1 of {_quote(base['name'])} is {f1}, and "
        f"{plural(len(changes), 'other configuration')} of the refit changed it by "
        f"{'; '.join(gains)}."
    )


def describe_judged(run: Path, choice: EnsembleRecord) -> Iterator[str]:
    """Yield a sentence for each other data set that this very ensemble was judged on.

    Args:
        run: Folder of the run.
        choice: What its `ensemble.json` holds; what another ensemble reached is passed over.

    Raises:
        InputError: A judgement is damaged.
    """
    for path in sorted(run.glob("judged/*/metrics.json")):
        metrics = read_object(path)
        try:
            if EnsembleRecord.model_validate(metrics["choice"]) != choice:
                continue
            figures, tiles = metrics["ensemble"], plural(int(metrics["num_tiles"]), "tile")
            photographs = metrics["num_photographs"]
            cells = [
                f"{title} {format_number(figures[name])}{_span(bounds['low'], bounds['high'])}"
                for name, title in JUDGED_BY.items()
                for bounds in [figures["intervals"][name]]
            ]
        except ValidationError:
            continue  # of another version of this package
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{path}: damaged (a figure is missing); judge the data anew"
            ) from None
        of = f" of {plural(int(photographs), 'photograph')}" if photographs else ""
        yield (
            f"On another data set, {_quote(path.parent.name)}, {tiles}{of}, it reached "
            f"{', '.join(cells)}."
        )


def _span(low: float | None, high: float | None) -> str:
    """The ends of an interval; "" where there is none."""
    if low is None or high is None or low != low:
        return ""
    return f" [{format_number(low, '.2f')}, {format_number(high, '.2f')}]"


def _quote(name: object) -> str:
    """A foreign name as code in Markdown."""
    return f"`{escape(str(name)).replace('`', chr(39))}`"
