"""`ensemble.json`: the members, weights, temperatures and thresholds chosen on validation.

The ensemble's probability is the weighted mean of its members' probabilities; its calibrated
probability is that mean with a temperature on its logit, a monotone map, so that verdicts are the
same on either scale up to rounding. Verdicts are given on the mean itself. Where `neighbours` is
kept, it turns the calibrated probabilities of a photograph's tiles into refined ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from ensemble.base.door import spell_command
from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import read_json, write_json
from ensemble.base.options import METHODS
from ensemble.data.augmentation import NUM_TURNS
from ensemble.run.exported import open_exported_member, other_version, read_exported_object
from ensemble.run.folder import display_path
from ensemble.run.members import explain_unfinished, has_finished_trial
from ensemble.selection.cross_validation import MethodScore
from ensemble.selection.neighbours import NeighbourModel
from ensemble.selection.nesting import Optimism
from ensemble.selection.seeds import SeedSpread
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.config import Record, explain_validation

FORMAT: Literal[4] = 4


class JudgedMember(Record):
    """A member by itself, with its threshold and what it reaches there."""

    trial: int = Field(ge=0)
    folder: str = Field(pattern=r"^[\w./-]{1,100}$", description="Path from the run's folder.")
    weights_sha256: str
    num_networks: int = Field(1, ge=1, description="Those of the first folds, which answer for it.")
    num_folds: int = Field(1, ge=1, description="Number of networks that it was trained as.")
    temperature: float = Field(gt=0, description="Calibrates this member alone.")
    threshold: float = Field(ge=0, le=1, description="This member's own, by the same rule.")
    alone_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="For tiles that it sees alone; null where it never sees more than the tile.",
    )
    val_f1: float = Field(ge=0, le=1, description="Validation F1 at `threshold`.")


class ChosenMember(JudgedMember):
    """One member of the ensemble."""

    weight: float = Field(gt=0, le=1)


class Calibration(Record):
    """How well probabilities are calibrated on the validation split."""

    log_loss: float
    brier: float
    expected_calibration_error: float


class TurnedScore(Record):
    """What the threshold's rule asks for (see `rule_score`), with and without test-time turns."""

    plain: float
    turned: float = Field(description="Mean over the eight flips and turns of each tile.")


class TileAlone(Record):
    """How the mean is judged where members see a tile without its neighbours."""

    temperature: float = Field(gt=0, description="Divisor of the weighted mean's logit.")
    threshold: float = Field(ge=0, le=1, description="Threshold on the weighted mean.")
    calibrated_threshold: float = Field(ge=0, le=1, description="On the calibrated scale.")
    val_metrics: dict[str, float] = Field(description="Figures at the threshold.")


class EnsembleRecord(Record):
    """An ensemble, as chosen on the validation split."""

    format: Literal[4] = FORMAT
    method: str = Field(pattern=f"^({'|'.join(METHODS)})$")
    asked_method: str = Field(pattern=f"^({'|'.join(METHODS)}|auto)$")
    top_k: int | None = Field(ge=1, description="Members of `mean`, if that was tried.")
    members: list[ChosenMember] = Field(min_length=1)
    best_single: JudgedMember = Field(description="Best member by validation F1.")
    ingredients: list[JudgedMember] = Field(description="Members mixed into a soup.")
    temperature: float = Field(gt=0, description="Divisor of the weighted mean's logit.")
    budget_members: int | None = Field(
        None, ge=1, description="Forward passes that a tile may cost; null for any number."
    )
    threshold_rule: str = Field(description="f1, f2, a number, or recall=R.")
    threshold: float = Field(ge=0, le=1, description="Threshold on the weighted mean.")
    calibrated_threshold: float = Field(ge=0, le=1, description="On the calibrated scale.")
    tta: bool = Field(description="Mean over the eight flips and turns of each tile.")
    tta_tried: TurnedScore | None = Field(description="Null where not asked for.")
    val_metrics: dict[str, float] = Field(description="Figures at the threshold.")
    working_points: list[tuple[float, int, int]] = Field(
        [],
        description="Threshold, cracked tiles found and false alarms on validation, for each "
        "threshold that a person may think of instead; empty where an older version chose.",
    )
    before_calibration: Calibration
    after_calibration: Calibration
    alone: TileAlone | None = Field(
        description="For tiles that are seen alone; null where no member sees more than the tile."
    )
    neighbours: NeighbourModel | None = Field(description="Second stage; null where not kept.")
    neighbours_note: str = Field(description="What it gained, or why it is not kept.")
    methods: list[MethodScore] = Field(description="Methods that `auto` compared.")
    optimism: Optimism | None = Field(
        description="By how much figures are too good where they were chosen; null where it is not "
        "estimated."
    )
    optimism_note: str = Field(description="Why it is not estimated; empty where it is.")
    disagreement: list[list[float]] = Field(description="Share of tiles judged apart.")
    error_correlation: list[list[float | None]] = Field(description="Correlation of errors.")
    seeds: list[SeedSpread] = Field(
        [], description="Spread of each configuration that was trained with several seeds."
    )
    num_finished: int = Field(description="Trials that finished or were stopped early.")
    num_candidates: int = Field(description="Finished trials with usable weights.")
    split_digest: str

    @property
    def shown(self) -> list[JudgedMember]:
        """Members with figures of their own: chosen or mixed ones, and the best single one."""
        parts: list[JudgedMember] = self.ingredients or [*self.members]
        known = {member.trial for member in parts}
        return [*parts, *[self.best_single] * (self.best_single.trial not in known)]

    @property
    def num_passes(self) -> int:
        """Forward passes that a tile costs, in all its flips and turns."""
        networks = sum(member.num_networks for member in self.members)
        return networks * (NUM_TURNS if self.tta else 1)

    @property
    def alone_threshold(self) -> float | None:
        """Threshold for tiles that are seen alone; None where no member sees more than the tile."""
        return None if self.alone is None else self.alone.threshold

    @property
    def weights(self) -> np.ndarray:
        """(M,) summing to 1."""
        weights = np.array([member.weight for member in self.members])
        return weights / weights.sum()

    def save(self, run: Path) -> None:
        """Write `ensemble.json` into the run's folder."""
        write_json(run / "ensemble.json", self.model_dump(mode="json"))


def read_choice(run: Path) -> EnsembleRecord | None:
    """The ensemble of a run as it was chosen; None where none was.

    Raises:
        InputError: The file is damaged, or of another version of this package.
    """
    path = run / "ensemble.json"
    if not path.exists():
        return None
    values = read_json(path)
    if isinstance(values, dict):
        check_format(values, path)
    return check_choice(values, path)


def check_choice(values: object, path: Path) -> EnsembleRecord:
    """Make the record of an ensemble from the JSON of its `ensemble.json`, at `path`.

    Raises:
        InputError: The record is damaged.
    """
    try:
        return EnsembleRecord.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({explain_validation(error)})") from None


def check_format(choice: dict[str, Any], path: Path) -> None:
    """Raise InputError where another version of this package wrote the values of `path`."""
    if choice.get("format") != FORMAT:
        raise InputError(
            f"{path}: chosen by another version of this package (format "
            f"{short_repr(choice.get('format'))}, not {FORMAT}); evaluate the run again"
        )


def open_choice(run: Path) -> tuple[EnsembleRecord, list[Member]]:
    """The ensemble of a run and its members, in the order of `choice.members`.

    Args:
        run: A run's folder, or an exported file.

    Raises:
        InputError: None was chosen, a file is damaged, or a member is not the one chosen.
    """
    if run.is_file():
        return _open_exported(run)
    choice = read_choice(run)
    if choice is None:
        if not has_finished_trial(run):
            raise InputError(
                f"{run} has no ensemble, and no finished trial to choose one from; "
                f"{explain_unfinished(run)}, or name another run"
            )
        way_on = f"{spell_command('evaluate')} {display_path(run)}"
        raise InputError(f"{run} has no ensemble yet; {way_on} chooses one")
    return choice, open_chosen(run, choice.members)


def open_chosen(run: Path, chosen: Sequence[JudgedMember]) -> list[Member]:
    """The members that were chosen, in that order.

    Raises:
        InputError: A member lies outside of the run, is damaged, or is not the one chosen.
    """
    members = []
    for judged in chosen:
        folder = (run / judged.folder).resolve()
        if not folder.is_relative_to(run.resolve()):
            raise InputError(
                f"{run / 'ensemble.json'}: damaged (a member outside of the run: "
                f"{short_repr(judged.folder)})"
            )
        try:
            member = open_member(folder)
        except InputError as error:
            raise InputError(f"{error}; evaluate the run again, without it") from None
        if member.record.weights_sha256 != judged.weights_sha256:
            raise InputError(f"{folder}: not the member that was chosen; evaluate again")
        members.append(_keep_networks(member, judged, run / "ensemble.json"))
    return members


def _open_exported(file: Path) -> tuple[EnsembleRecord, list[Member]]:
    """The ensemble of an exported file and its members, in the order of `choice.members`."""
    values = read_exported_object(file, "ensemble.json")
    if values.get("format") != FORMAT:
        raise other_version(file)
    choice = check_choice(values, file / "ensemble.json")
    members = []
    for judged in choice.members:
        member = open_exported_member(file, judged.folder)
        if member.record.weights_sha256 != judged.weights_sha256:
            raise InputError(f"{member.folder}: damaged (not the member that was chosen)")
        members.append(_keep_networks(member, judged, file / "ensemble.json"))
    return choice, members


def _keep_networks(member: Member, judged: JudgedMember, path: Path) -> Member:
    """The member with no more networks than were chosen; InputError where it has fewer."""
    if judged.num_networks > member.record.num_folds:
        raise InputError(
            f"{path}: damaged ({judged.num_networks} networks of trial {judged.trial}, which has "
            f"{member.record.num_folds})"
        )
    return replace(member, num_networks=judged.num_networks)
