"""What a member is on disk: weights (safetensors), its record (JSON) and its validation scores.

`member.json` names the other two and their SHA-256; it is written last, so a reader sees the old
member or the new one, never a mixture. Nothing here is pickled or unpickled.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from ensemble.errors import InputError
from ensemble.files import read_json, write_json, written_whole
from ensemble.training.backbones import build_model
from ensemble.training.config import TrialConfig, explain_validation
from ensemble.training.loop import Epoch


class MemberRecord(BaseModel):
    """Everything known about a member; what `member.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    trial: int
    config: TrialConfig
    epoch: int
    metrics: dict[str, float | int]
    split_digest: str
    initial_weights_digest: str
    num_val_tiles: int
    weights_file: str
    weights_sha256: str
    scores_file: str
    scores_sha256: str
    versions: dict[str, str]
    written_at: str


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

    def val_margins(self) -> np.ndarray:
        """Logit differences (N,) float32 of the validation tiles, in the table's order.

        Raises:
            InputError: The file is damaged.
        """
        path = self._checked(self.record.scores_file, self.record.scores_sha256)
        margins = np.load(path, allow_pickle=False)
        if margins.shape != (self.record.num_val_tiles,) or margins.dtype != np.float32:
            raise InputError(f"{path}: not the scores of {self.record.num_val_tiles} tiles")
        return margins

    def load_model(self) -> nn.Module:
        """The network with its weights, in eval mode, on the CPU.

        Raises:
            InputError: The weights are damaged or of another network.
        """
        path = self._checked(self.record.weights_file, self.record.weights_sha256)
        model = build_model(self.record.config.model.backbone)
        try:
            model.load_state_dict(safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(f"{path}: damaged or foreign member ({reason[:150]})") from None
        return model.eval()

    def _checked(self, name: str, sha256: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise InputError(f"{path} is missing: a damaged member; run its search again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise InputError(f"{path}: damaged member (its digest is not that of member.json)")
        return path


def save_member(
    folder: Path,
    model: nn.Module,
    epoch: Epoch,
    config: TrialConfig,
    *,
    trial: int,
    split_digest: str,
    initial_weights_digest: str,
) -> None:
    """Write the model as it is after `epoch`, in place of an earlier epoch's."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, scores = f"epoch-{epoch.number}.safetensors", f"epoch-{epoch.number}-val.npy"
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
    with written_whole(folder / weights) as path:
        path.write_bytes(safetensors.torch.save(tensors))
        weights_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with written_whole(folder / scores) as path:
        with path.open("wb") as file:
            np.save(file, epoch.val_margins.astype(np.float32), allow_pickle=False)
        scores_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    record = MemberRecord(
        trial=trial,
        config=config,
        epoch=epoch.number,
        metrics=epoch.row(),
        split_digest=split_digest,
        initial_weights_digest=initial_weights_digest,
        num_val_tiles=len(epoch.val_margins),
        weights_file=weights,
        weights_sha256=weights_sha256,
        scores_file=scores,
        scores_sha256=scores_sha256,
        versions={"torch": torch.__version__},
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(folder / "member.json", record.model_dump(mode="json"))
    for old in folder.glob("epoch-*"):
        if old.name not in (weights, scores):
            old.unlink()


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
    for name in (record.weights_file, record.scores_file):
        if Path(name).name != name:
            raise InputError(f"{path}: damaged or foreign member (file name {name!r})")
    return Member(folder, record)
