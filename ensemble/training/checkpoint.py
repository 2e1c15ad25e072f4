"""What a member is on disk: weights (safetensors), its record (JSON) and its validation scores.

`member.json` names the other two and their SHA-256; it is written last, so a reader sees the old
member or the new one, never a mixture. A member may lose its weights: then its record names none
and its scores stay. Nothing here is pickled or unpickled.
"""

import hashlib
import io
import tokenize
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from torch import nn

from ensemble.base.errors import InputError
from ensemble.base.files import (
    make_folder,
    read_json,
    remove_file,
    write_content_addressed,
    write_json,
)
from ensemble.training.backbones import build_model
from ensemble.training.config import TrialConfig, explain_validation
from ensemble.training.loop import Epoch

# what numpy's parser raises of a damaged header
UNREADABLE_ARRAY = (ValueError, TypeError, EOFError, MemoryError, RecursionError,
                    tokenize.TokenError)  # fmt: skip


class MemberRecord(BaseModel):
    """Everything known about a member; what `member.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    trial: int
    config: TrialConfig
    epoch: int
    metrics: dict[str, float | int]
    split_digest: str
    initial_weights_digest: str
    num_val_tiles: int
    weights_file: str | None = Field(
        pattern=r"^[A-Za-z0-9_-]{1,40}\.safetensors$", description="None: they were dropped"
    )
    weights_sha256: str | None
    scores_file: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}\.npy$")
    scores_sha256: str
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of its scores")
    versions: dict[str, str]
    written_at: str

    @field_validator("weights_sha256")
    @classmethod
    def _goes_with_the_file(cls, sha256: str | None, info: ValidationInfo) -> str | None:
        if "weights_file" in info.data and (info.data["weights_file"] is None) != (sha256 is None):
            raise ValueError("must be null where 'weights_file' is, and nowhere else")
        return sha256


@dataclass(frozen=True)
class Member:
    """A member found on disk; its weights are read when they are asked for.

    Attributes:
        folder: Where it lies.
        record: What is known about it.
    """

    folder: Path
    record: MemberRecord

    @property
    def trial(self) -> int:
        """Number of the trial that trained it."""
        return self.record.trial

    @property
    def val_f1(self) -> float:
        """F1 on the validation split at the threshold that is best there."""
        return self.record.metrics["val_f1"]

    @property
    def has_weights(self) -> bool:
        """Whether its weights were kept."""
        return self.record.weights_file is not None

    def val_margins(self) -> np.ndarray:
        """Logit differences (N,) float32 of the validation tiles, in the table's order.

        Raises:
            InputError: The file is damaged.
        """
        path, content = self._read(self.record.scores_file, self.record.scores_sha256)
        try:
            with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
                margins = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except UNREADABLE_ARRAY as error:
            raise InputError(f"{path}: damaged member ({error})") from None
        right = margins.shape == (self.record.num_val_tiles,) and margins.dtype == np.float32
        if not right or not np.isfinite(margins).all():
            raise InputError(f"{path}: not the scores of {self.record.num_val_tiles} tiles")
        return margins

    def check(self) -> None:
        """Raise InputError if scores are missing or damaged, or recorded weights are missing."""
        self.val_margins()
        if self.record.weights_file is not None:
            self._find(self.record.weights_file)

    def weights_path(self) -> Path:
        """The file of the weights; InputError where they were dropped or are damaged."""
        return self._read_weights()[0]

    def load_model(self) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU.

        Raises:
            InputError: The weights were dropped, are damaged or of another network.
        """
        path, content = self._read_weights()
        model = build_model(self.record.config.model.backbone)
        try:
            model.load_state_dict(safetensors.torch.load(content))
        except (safetensors.SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(f"{path}: damaged or foreign member ({reason[:150]})") from None
        return model.eval()

    def _read_weights(self) -> tuple[Path, bytes]:
        if self.record.weights_file is None or self.record.weights_sha256 is None:
            reason = "kept no weights (only the best --keep do); choose a trial that did"
            raise InputError(f"{self.folder}: trial {self.trial} {reason}")
        return self._read(self.record.weights_file, self.record.weights_sha256)

    def _find(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: a damaged member")
        return path

    def _read(self, name: str, sha256: str) -> tuple[Path, bytes]:
        """A file's place and its bytes, read once, so that what is used is what was checked."""
        path = self._find(name)
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(f"{path}: damaged member (its digest is not that of member.json)")
        return path, content


def save_member(
    folder: Path,
    model: nn.Module,
    epoch: Epoch,
    config: TrialConfig,
    *,
    trial: int,
    split_digest: str,
    initial_weights_digest: str,
    weights: tuple[str, str] | None = None,
) -> None:
    """Write the model as it is after `epoch`; see `write_member`."""
    write_member(
        folder,
        model,
        config,
        epoch=epoch.number,
        metrics=epoch.row(),
        val_margins=epoch.val_margins,
        precision=epoch.precision,
        trial=trial,
        split_digest=split_digest,
        initial_weights_digest=initial_weights_digest,
        weights=weights,
    )


def write_member(
    folder: Path,
    model: nn.Module,
    config: TrialConfig,
    *,
    epoch: int,
    metrics: dict[str, float | int],
    val_margins: np.ndarray,
    precision: str,
    trial: int,
    split_digest: str,
    initial_weights_digest: str,
    weights: tuple[str, str] | None = None,
) -> None:
    """Write a member's three files, then remove those of the member that was there.

    Weights and scores carry part of their digest in their names, so that a new member never touches
    a file of the old one before its own record is in place. The arguments are the record's fields,
    and `weights`, as `write_weights` named them, if they are written already.
    """
    make_folder(folder)
    scores = io.BytesIO()
    np.lib.format.write_array(scores, val_margins.astype(np.float32), allow_pickle=False)
    weights_file, weights_sha256 = weights or write_weights(folder, model, epoch)
    scores_file, scores_sha256 = write_content_addressed(
        folder, f"epoch-{epoch}-val", "npy", scores.getvalue()
    )
    record = MemberRecord(
        trial=trial,
        config=config,
        epoch=epoch,
        metrics=metrics,
        split_digest=split_digest,
        initial_weights_digest=initial_weights_digest,
        num_val_tiles=len(val_margins),
        weights_file=weights_file,
        weights_sha256=weights_sha256,
        scores_file=scores_file,
        scores_sha256=scores_sha256,
        precision=precision,
        versions={"torch": torch.__version__},
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(folder / "member.json", record.model_dump(mode="json"))
    _remove_all_but(folder, weights_file, scores_file)


def write_weights(folder: Path, model: nn.Module, epoch: int) -> tuple[str, str]:
    """Write a network's weights, which no record names yet.

    Returns:
        The file's name and its SHA-256.
    """
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    return write_content_addressed(
        folder, f"epoch-{epoch}", "safetensors", safetensors.torch.save(tensors)
    )


def drop_weights(folder: Path) -> None:
    """Delete a member's weights; its record and its validation scores stay.

    The record goes first. A process killed between the two leaves weights that no record names;
    the next call deletes them.

    Raises:
        InputError: There is no member, or its record is damaged.
    """
    record = open_member(folder).record
    if record.weights_file is not None:
        record = record.model_copy(update={"weights_file": None, "weights_sha256": None})
        write_json(folder / "member.json", record.model_dump(mode="json"))
    _remove_all_but(folder, record.scores_file)


def remove_member(folder: Path) -> None:
    """Delete whatever there is of a member, its record first; other files of the folder stay."""
    remove_file(folder / "member.json")
    _remove_all_but(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process wrote and no record names."""
    try:
        record = open_member(folder).record
    except InputError:
        _remove_all_but(folder)
    else:
        _remove_all_but(folder, record.weights_file or "", record.scores_file)


def _remove_all_but(folder: Path, *names: str) -> None:
    """Delete weights and scores that are not named, and what a killed process began to write."""
    for path in [*folder.glob("epoch-*"), *folder.glob(".*.tmp")]:
        if path.name not in names:
            remove_file(path)  # a process that is being killed may still write


def open_member(folder: Path) -> Member:
    """Read a member's record.

    Raises:
        InputError: There is no member, or its record is damaged.
    """
    path = folder / "member.json"
    values = read_json(path)
    try:
        record = MemberRecord.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"{path}: damaged or foreign member ({explain_validation(error)})"
        ) from None
    if "val_f1" not in record.metrics:
        raise InputError(f"{path}: damaged or foreign member (it has no val_f1)")
    return Member(folder, record)
