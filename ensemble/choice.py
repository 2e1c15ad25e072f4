"""What was chosen on validation: members, weights, temperatures and threshold; `ensemble.json`.

Whatever uses the ensemble later (testing, predicting, the report) reads these numbers, no others.
The ensemble's probability is the weighted mean of its members' probabilities; its calibrated
probability is that mean with a temperature on its logit, a monotone map, so that verdicts are the
same on either scale up to rounding. Verdicts are given on the mean itself.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemble.errors import InputError, quote
from ensemble.files import read_json, write_json
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.config import explain_validation


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ChosenMember(_Record):
    """One member of the ensemble."""

    trial: int = Field(ge=0)
    folder: str = Field(pattern=r"^[\w./-]{1,100}$", description="relative to the run's folder")
    weights_sha256: str
    weight: float = Field(gt=0, le=1)
    temperature: float = Field(gt=0, description="calibrates this member alone")
    threshold: float = Field(ge=0, le=1, description="of this member alone, by the same rule")


class Calibration(_Record):
    """How well probabilities are calibrated on the validation split."""

    log_loss: float
    brier: float
    expected_calibration_error: float


class MethodScore(_Record):
    """What cross-validation over validation photographs says of a method of choosing."""

    method: str
    inner_f1: float = Field(description="on the photographs that it chose with")
    outer_f1: float = Field(description="on photographs left out")


class Choice(_Record):
    """An ensemble, as chosen on the validation split."""

    format: Literal[1] = 1
    method: Literal["mean", "greedy", "weighted", "soup"]
    asked_method: Literal["mean", "greedy", "weighted", "soup", "auto"]
    members: list[ChosenMember] = Field(min_length=1)
    ingredients: list[int] = Field(description="trials averaged into the one member of a soup")
    temperature: float = Field(gt=0, description="on the logit of the weighted mean")
    threshold_rule: str = Field(description="f1, f2, a number, or recall>=R")
    threshold: float = Field(ge=0, le=1, description="on the weighted mean")
    calibrated_threshold: float = Field(ge=0, le=1, description="the same, on the calibrated scale")
    tta: bool = Field(description="mean over the eight flips and turns of each tile")
    val_metrics: dict[str, float]
    best_single_trial: int
    best_single_val_f1: float
    before_calibration: Calibration
    after_calibration: Calibration
    methods: list[MethodScore] = Field(description="compared by `auto`; empty otherwise")
    disagreement: list[list[float]] = Field(description="share of tiles judged apart, by pairs")
    error_correlation: list[list[float | None]] = Field(description="of the errors, by pairs")
    split_digest: str

    @property
    def weights(self) -> np.ndarray:
        """(M,) summing to 1."""
        weights = np.array([member.weight for member in self.members])
        return weights / weights.sum()

    def save(self, run: Path) -> None:
        """Write `ensemble.json` into the run's folder."""
        write_json(run / "ensemble.json", self.model_dump(mode="json"))


def read_choice(run: Path) -> Choice | None:
    """The ensemble of a run as it was chosen, None where none was.

    Raises:
        InputError: The file is damaged.
    """
    path = run / "ensemble.json"
    if not path.exists():
        return None
    try:
        return Choice.model_validate(read_json(path))
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({explain_validation(error)})") from None


def open_choice(run: Path) -> tuple[Choice, list[Member]]:
    """The ensemble of a run and its members, in the order of `choice.members`.

    Raises:
        InputError: None was chosen, the file is damaged, or a member is not the one chosen.
    """
    path = run / "ensemble.json"
    choice = read_choice(run)
    if choice is None:
        raise InputError(f"{run} has no ensemble yet; run python -m ensemble.evaluate {run.name}")
    members = []
    for chosen in choice.members:
        folder = (run / chosen.folder).resolve()
        if not folder.is_relative_to(run.resolve()):
            raise InputError(
                f"{path}: damaged (a member outside of the run: {quote(chosen.folder)})"
            )
        member = open_member(folder)
        if member.record.weights_sha256 != chosen.weights_sha256:
            raise InputError(f"{folder}: not the member that {path.name} chose; evaluate again")
        members.append(member)
    return choice, members
