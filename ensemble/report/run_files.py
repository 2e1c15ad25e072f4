"""A run's folder → what is in it, read and not changed: the tables, the choice and the metrics."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.errors import InputError
from ensemble.files import read_json

TEXT_COLUMNS = ("tile", "photograph", "surface", "reason", "trials", "method", "threshold_rule")


@dataclass(frozen=True)
class Run:
    """What a run's folder holds; None or an empty table for what is not there."""

    folder: Path
    about: dict[str, Any]
    question: str
    trials: pd.DataFrame
    epochs: pd.DataFrame
    validation: pd.DataFrame | None
    choice: dict[str, Any] | None
    metrics: dict[str, Any] | None
    predictions: pd.DataFrame | None
    errors: pd.DataFrame | None
    suspects: pd.DataFrame | None
    relabelled: pd.DataFrame | None
    ledger: pd.DataFrame | None


def read_run(folder: Path) -> Run:
    """Read what there is of a run; the trials that wait or run are left out."""
    about = read_json(folder / "run.json")
    tested = folder / "evaluation"
    metrics = read_json(tested / "metrics.json") if (tested / "metrics.json").exists() else None
    choice = metrics["choice"] if metrics is not None else None
    if choice is None and (folder / "ensemble.json").exists():
        choice = read_json(folder / "ensemble.json")
    trials = _read_table(folder / "trials.csv")
    epochs = _read_table(folder / "epochs.csv")
    return Run(
        folder=folder,
        about=about,
        question=_read_question(folder / "space.toml"),
        trials=pd.DataFrame() if trials is None else trials,
        epochs=pd.DataFrame() if epochs is None else epochs,
        validation=_read_table(folder / "validation.csv"),
        choice=choice,
        metrics=metrics,
        **{
            name: _read_table(tested / f"{file}.csv") if metrics is not None else None
            for name, file in (
                ("predictions", "predictions"),
                ("errors", "errors"),
                ("suspects", "suspect_labels"),
                ("relabelled", "if_relabelled"),
                ("ledger", "ledger"),
            )
        },
    )


def _read_table(path: Path) -> pd.DataFrame | None:
    """A CSV file, its text columns as text; None if it is missing, empty if it has no rows."""
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXT_COLUMNS, str))
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from None
    texts = [name for name in TEXT_COLUMNS if name in table]
    return table.fillna(dict.fromkeys(texts, ""))


def _read_question(path: Path) -> str:
    """The question of the search space; empty where there is none."""
    try:
        question = tomllib.loads(path.read_text(encoding="utf-8")).get("question", "")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error})") from None
    return str(question)
