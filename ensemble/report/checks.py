"""Checks of everything that the page relies on in a run's files, made when they are read.

A damaged file is refused in one line; whatever fails after that is a fault of the page.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import read_object, read_table
from ensemble.evaluation.comparison import COMPARED
from ensemble.selection.choice import EnsembleRecord, check_format
from ensemble.training.config import explain_validation
from ensemble.training.metrics import METRICS

GAINS = tuple(f"{metric}_{end}" for metric in COMPARED for end in ("difference", "low", "high"))
OF_THE_SEARCH = (
    "run",
    "trials",
    "epochs",
    "validation",
    "tried",
)  # the others an evaluation writes anew
NUMBERS = {  # columns of numbers, by table
    "trials": ("trial", "val_f1", "best_epoch", "epochs", "seconds"),
    "epochs": (
        *("trial", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_f1"),
    ),
    "validation": ("label",),
    "predictions": ("label", "ensemble", "calibrated"),
    "suspect_labels": ("rank", "label", "suggested_label", "confidence", "members_contradicting"),
    "if_relabelled": ("num_relabelled", "f1", "precision", "recall", "average_precision"),
    "ledger": ("threshold",),
    "tried": ("trial", "f1", "average_precision", "seconds", *GAINS),
}
TEXTS = {  # columns of text, by table
    "trials": ("state",),
    "epochs": ("backbone",),
    "validation": ("photograph", "surface"),
    "predictions": ("tile", "photograph", "surface", "context"),
    "suspect_labels": ("tile",),
    "ledger": ("opened_at", "method", "trials", "threshold_rule", "tta"),
    "tried": ("name", *(f"{metric}_verdict" for metric in COMPARED)),
}
MAY_BE_EMPTY = (
    *("val_f1", "best_epoch", "epochs", "seconds", "train_accuracy", "average_precision"),
    *GAINS,
)
READ_AS_TEXT = (
    *("name", "tile", "photograph", "surface", "reason", "trials", "method", "threshold_rule"),
    *(f"{metric}_verdict" for metric in COMPARED),
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Bounds(_Part):
    low: float | None
    high: float | None


class _Confusion(_Part):
    true_positive: int = Field(ge=0)
    false_positive: int = Field(ge=0)
    false_negative: int = Field(ge=0)
    true_negative: int = Field(ge=0)


class _Figures(_Part):
    """Figures of a test, with a value and an interval for every metric."""

    may_be_undefined: ClassVar[bool] = False
    threshold: float
    trivial_f1: float
    confusion_matrix: _Confusion
    intervals: dict[str, _Bounds]

    @model_validator(mode="after")
    def _has_every_metric(self) -> Self:
        kinds = (float, int, type(None)) if self.may_be_undefined else (float, int)
        for name in METRICS:
            if (
                type((self.model_extra or {}).get(name, "")) not in kinds
                or name not in self.intervals
            ):
                raise ValueError(f"{name} must be a number with an interval")
        return self


class _Ensemble(_Figures):
    val_f1: float
    expected_calibration_error: float
    calibrated_loss: float
    calibrated_brier: float
    calibrated_expected_calibration_error: float


class _Member(_Figures):
    trial: int
    backbone: str
    val_f1: float


class _Surface(_Figures):
    may_be_undefined = True
    num_tiles: int
    num_photographs: int


class _Relabelled(_Figures):
    may_be_undefined = True
    labels: str
    num_changed: int
    num_ignored: int


class _Gain(_Bounds):
    difference: float | None
    verdict: str


class _WayFigures(_Figures):
    may_be_undefined = True


class _WayPart(_Part):
    figures: _WayFigures
    gain: dict[str, _Gain] | None


class _Way(_Part):
    same_as: str | None = None
    figures: _WayFigures | None = None
    gain: dict[str, _Gain] | None = None
    surfaces: dict[str, _WayPart] = {}


class _ComparedFigures(_WayFigures):
    val_f1: float | None


class _ComparedWay(_Part):
    same_as: str | None = None
    figures: _ComparedFigures | None = None
    difference: dict[str, _Gain] | None = None

    @model_validator(mode="after")
    def _has_figures(self) -> Self:
        names = (self.difference or {}).keys()
        if self.same_as is None and (self.figures is None or not names >= {*COMPARED}):
            raise ValueError("figures and differences, or the way that it is the same as")
        return self


class _Compared(_Part):
    what: str
    is_chosen: bool
    is_reference: bool
    ways: dict[str, _ComparedWay]


class _Metrics(_Part):
    ensemble: _Ensemble
    members: list[_Member] = Field(min_length=1)
    best_single: _Member
    surfaces: dict[str, _Surface]
    gain_over_best_single: dict[str, _Gain]
    gain_over_trivial: _Gain | None = None
    ways: dict[str, _Way]
    compared: list[_Compared] = []
    choice: EnsembleRecord
    num_test_tiles: int
    num_test_photographs: int | None
    num_test_openings: int
    openings_by_other_runs: dict[str, int]
    intervals: str
    split_by: str
    evaluated_at: str
    commit: str | None
    versions: dict[str, Any]
    hardware: dict[str, Any]
    relabelled: _Relabelled | None = None

    @model_validator(mode="after")
    def _has_gain_in_f1(self) -> Self:
        if "f1" not in self.gain_over_best_single:
            raise ValueError("no gain in F1")
        return self


class _TrainedOn(_Part):
    data: str
    num_tiles: dict[str, int]


class _Judged(_Part):
    """Figures of the ensemble on another data set."""

    name: str
    ensemble: _Ensemble
    surfaces: dict[str, _Surface]
    choice: EnsembleRecord
    gain_over_trivial: _Gain | None = None
    num_tiles: int
    num_photographs: int | None
    intervals: str
    num_known_tiles: int
    num_own_test_tiles: int
    num_judgements: int
    trained_on: _TrainedOn


class _Weights(_Part):
    origin: str
    digest: str


class _Fractions(_Part):
    train: float
    val: float
    test: float


class _Data(_Part):
    num_tiles: dict[str, int] = {}
    num_cracked: dict[str, int] = {}
    num_photographs: dict[str, int | None] | None = None
    cracked_folders: list[str] | None = None
    uncracked_folders: list[str] | None = None
    duplicates: list[Any] | dict[str, Any] | None = None
    contradictory_tiles: list[Any] | dict[str, Any] | None = None
    bad_tiles: list[Any] | dict[str, Any] | None = None
    odd_tiles: list[Any] | dict[str, Any] | None = None
    resized_tiles: int | None = None
    fractions: _Fractions | None = None

    @model_validator(mode="after")
    def _counts_the_same_splits(self) -> Self:
        if self.num_tiles.keys() != self.num_cracked.keys():
            raise ValueError("num_tiles and num_cracked must count the same splits")
        return self


class _Range(_Part):
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: list[Any] = []

    @model_validator(mode="after")
    def _has_logarithms(self) -> Self:
        if self.log and not 0 < self.low <= self.high:
            raise ValueError("0 < low <= high must hold on a log scale")
        return self


class _Distribution(_Part):
    attributes: _Range = _Range()


class _Parameter(_Part):
    distribution: _Distribution = _Distribution()


class _Space(_Part):
    parameters: dict[str, _Parameter] = {}


class _About(_Part):
    epochs: int
    started_at: str | None = None
    context_px: int = 0
    tile_size_px: list[int] | None = Field(default=None, min_length=2, max_length=2)
    data_summary: _Data | None = None
    weights: dict[str, _Weights] | None = None
    versions: dict[str, Any] | None = None
    hardware: dict[str, Any] | None = None
    space: _Space | None = None


MODELS: dict[str, type[BaseModel]] = {
    "run": _About,
    "metrics": _Metrics,
    "judged": _Judged,
    "ensemble": EnsembleRecord,
}


def read_record(path: Path) -> dict[str, Any]:
    """Read `run.json`, `ensemble.json` or a `metrics.json` of a run.

    Raises:
        InputError: It is missing or damaged, or another version of this package wrote it.
    """
    record = read_object(path)
    choice = record if path.stem == "ensemble" else record.get("choice")
    if isinstance(choice, dict):
        check_format(choice, path)
    try:
        MODELS["judged" if is_judged(path) else path.stem].model_validate(record)
    except ValidationError as error:
        raise _damaged(path, explain_validation(error)) from None
    return record


def is_judged(path: Path) -> bool:
    """Whether a file is that of another data set that was judged."""
    return path.parent.parent.name == "judged"


def _damaged(path: Path, what: str) -> InputError:
    way_out = "put back a copy" if path.stem in OF_THE_SEARCH else "evaluate the run again"
    if is_judged(path):
        way_out = "judge the data again"
    return InputError(f"{path}: damaged, or of another version of this package ({what}); {way_out}")


def read_checked_table(path: Path, more: Sequence[str] = ()) -> pd.DataFrame | None:
    """Read a table that `NUMBERS` names; None if it is missing. `more` names columns of numbers.

    Raises:
        InputError: A column is missing, or a cell in a column of numbers is not a number.
    """
    if not path.exists():
        return None
    table = read_table(path, text=READ_AS_TEXT)
    if table.empty and not len(table.columns):
        return table
    scores = [name for name in table if str(name).startswith("trial_")]
    numbers = (*NUMBERS[path.stem], *more, *scores)
    for name in (*numbers, *TEXTS.get(path.stem, ())):
        if name not in table:
            raise _damaged(path, f"no column {short_repr(name)}")
    for name in numbers if len(table) else ():
        column = table[name]
        if not is_numeric_dtype(column) or (column.isna().any() and name not in MAY_BE_EMPTY):
            raise _damaged(path, f"column {name} must hold numbers")
        if path.stem == "predictions" and not column.between(0, 1).all():
            raise _damaged(path, f"column {name} must be 0 to 1")
    return table
