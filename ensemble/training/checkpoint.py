"""A member on disk, and the state from which its training run can be continued.

`member.json` names the files of weights (safetensors) and of validation scores (npy), `state.json`
that of all tensors of the run after its latest epoch, each with its SHA-256. A record is written
last, so a reader sees the old member or state or the new one, never a mixture. The weights of a
member may be dropped: then its record names none, and its scores stay. A state also holds a digest
of everything the run depends on, so that it is never used for another run; order, augmentation,
dropout and learning rate follow from the seed and the epoch's number. Nothing is pickled.
"""

import hashlib
import io
import json
import tokenize
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from torch import Tensor, nn

from ensemble.base.errors import InputError
from ensemble.base.files import (
    make_folder,
    read_json,
    remove_file,
    write_content_addressed,
    write_json,
)
from ensemble.data.view import IMAGENET_MEAN, IMAGENET_STD, Colour, Interpolation, View
from ensemble.training.backbone_table import TIMM
from ensemble.training.backbones import build_model
from ensemble.training.config import Record, TrialConfig, explain_validation
from ensemble.training.fold_networks import FoldNetworks
from ensemble.training.loop import Epoch, EpochFigures

# what numpy's parser raises for a damaged header
UNREADABLE_ARRAY = (ValueError, TypeError, EOFError, MemoryError, RecursionError,
                    tokenize.TokenError)  # fmt: skip


class MemberRecord(Record):
    """The content of `member.json`."""

    format: Literal[1] = 1
    trial: int
    config: TrialConfig
    epoch: int
    metrics: dict[str, float | int]
    split_digest: str
    initial_weights_digest: str
    num_val_tiles: int
    weights_file: str | None = Field(pattern=r"^[A-Za-z0-9_-]{1,40}\.safetensors$")
    weights_sha256: str | None
    scores_file: str = Field(pattern=r"^[A-Za-z0-9_-]{1,40}\.npy$")
    scores_sha256: str
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of the scores")
    is_average: bool = Field(False, description="whether weights are their moving average")
    num_folds: int = Field(
        1, ge=1, le=100, description="networks, of which each left out another fold"
    )
    mean: Colour = Field(IMAGENET_MEAN, description="of the pixels, in `View`")
    std: Colour = Field(IMAGENET_STD, description="of the pixels, in `View`")
    interpolation: Interpolation = "bilinear"
    versions: dict[str, str]
    written_at: str

    @property
    def view(self) -> View:
        """What the network sees of a tile."""
        data = self.config.data
        return View(data.image_size_px, data.context_px, self.mean, self.std, self.interpolation)

    def describe_training(self, **changes: Any) -> dict[str, Any]:
        """Return the fields that `write_member` takes, for a member made from this one."""
        names = ("trial", "config", "epoch", "metrics", "split_digest", "initial_weights_digest",
                 "precision", "is_average", "num_folds", "mean", "std",
                 "interpolation")  # fmt: skip
        return {name: getattr(self, name) for name in names} | changes

    @field_validator("weights_sha256")
    @classmethod
    def _goes_with_the_file(cls, sha256: str | None, info: ValidationInfo) -> str | None:
        if "weights_file" in info.data and (info.data["weights_file"] is None) != (sha256 is None):
            raise ValueError("must be null where 'weights_file' is, and nowhere else")
        return sha256


def read_from_disk(path: Path) -> bytes:
    """Read a file of a member.

    Raises:
        InputError: The file is missing.
    """
    _check_exists(path)
    return path.read_bytes()


@dataclass(frozen=True)
class Member:
    """A member: its folder and its record; other files are read when asked for.

    Attributes:
        folder: Folder of the member, on the disk or inside an exported file.
        record: What its `member.json` holds.
        read_file: Reads a file of the folder by its path.
        num_networks: Number of its networks that answer for it, those of the first folds; None
            where all of them do.
    """

    folder: Path
    record: MemberRecord
    read_file: Callable[[Path], bytes] = field(default=read_from_disk, repr=False, compare=False)
    num_networks: int | None = None

    @property
    def trial(self) -> int:
        """Number of the trial that trained the member."""
        return self.record.trial

    @property
    def answering(self) -> tuple[Path, int]:
        """Folder and number of networks that answer, which decide what is said of a tile."""
        return self.folder, self.num_networks or self.record.num_folds

    @property
    def val_f1(self) -> float:
        """F1 on the validation split at its best threshold there."""
        return self.record.metrics["val_f1"]

    @property
    def has_weights(self) -> bool:
        """Whether the weights were kept."""
        return self.record.weights_file is not None

    def val_margins(self) -> np.ndarray:
        """Read the logit differences (N,) float32 of the validation tiles, in the table's order.

        Raises:
            InputError: The file is damaged.
        """
        path, content = self._read(self.record.scores_file, self.record.scores_sha256)
        try:
            with warnings.catch_warnings(action="ignore"):  # headers that Python 2 wrote
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
            _check_exists(self.folder / self.record.weights_file)

    def weights_path(self) -> Path:
        """Check the weights and return their path; InputError if they are dropped or damaged."""
        return self._read_weights()[0]

    def load_model(self) -> nn.Module:
        """Build the network with its weights, in eval mode, on the CPU.

        Raises:
            InputError: The weights were dropped, are damaged, or belong to another network.
        """
        path, content = self._read_weights()
        backbone = self.record.config.model.backbone
        networks = [build_model(backbone) for _ in range(self.record.num_folds)]
        model = FoldNetworks(networks) if len(networks) > 1 else networks[0]
        try:
            model.load_state_dict(safetensors.torch.load(content))
        except (safetensors.SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(f"{path}: damaged or foreign member ({reason[:150]})") from None
        if self.num_networks is not None and isinstance(model, FoldNetworks):
            model = model.keep(self.num_networks)
        return model.eval()

    def _read_weights(self) -> tuple[Path, bytes]:
        if self.record.weights_file is None or self.record.weights_sha256 is None:
            reason = "kept no weights (only the best --keep do); choose a trial that did"
            raise InputError(f"{self.folder}: trial {self.trial} {reason}")
        return self._read(self.record.weights_file, self.record.weights_sha256)

    def _read(self, name: str, sha256: str) -> tuple[Path, bytes]:
        path = self.folder / name
        return path, read_checked(path, sha256, record="member.json", read=self.read_file)


def write_member(
    folder: Path,
    tensors: Mapping[str, Tensor],
    val_margins: np.ndarray,
    *,
    weights: tuple[str, str] | None = None,
    **fields: Any,
) -> None:
    """Write a member's three files, then remove those of the member that was there.

    Weights and scores carry part of their digest in their names, so that a new member never touches
    a file of the old one before its own record is in place.

    Args:
        folder: Folder of the member; made if missing.
        tensors: The network's weights and statistics by name.
        val_margins: (N,) logit differences of the validation tiles.
        weights: Name and SHA-256 of the file of weights, if it is written already.
        **fields: The fields of `MemberRecord` that say what was trained and how good it is.
    """
    make_folder(folder)
    scores = io.BytesIO()
    np.lib.format.write_array(scores, val_margins.astype(np.float32), allow_pickle=False)
    stem = f"epoch-{fields['epoch']}"
    weights_file, weights_sha256 = weights or write_tensors(folder, stem, tensors)
    scores_file, scores_sha256 = write_content_addressed(
        folder, f"{stem}-val", "npy", scores.getvalue()
    )
    view = fields["config"].view
    scaling = {"mean": view.mean, "std": view.std, "interpolation": view.interpolation}
    record = MemberRecord(
        num_val_tiles=len(val_margins),
        weights_file=weights_file,
        weights_sha256=weights_sha256,
        scores_file=scores_file,
        scores_sha256=scores_sha256,
        versions=_describe_versions(fields["config"]),
        written_at=datetime.now(UTC).isoformat(timespec="seconds"),
        **(scaling | fields),
    )
    write_json(folder / "member.json", record.model_dump(mode="json"))
    _remove_member_files_but(folder, weights_file, scores_file)


def _describe_versions(config: TrialConfig) -> dict[str, str]:
    """Name what a network was built with."""
    of_timm = {"timm": version("timm")} if config.model.backbone.startswith(TIMM) else {}
    return {"torch": torch.__version__, **of_timm}


def write_tensors(folder: Path, stem: str, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Write named tensors to a file that no record names yet → its name and its SHA-256.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    data = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )
    return write_content_addressed(folder, stem, "safetensors", data)


def read_checked(
    path: Path, sha256: str, *, record: str, read: Callable[[Path], bytes] = read_from_disk
) -> bytes:
    """Read a file that a record names, once, so that what is used is what was checked.

    Raises:
        InputError: The file is missing, or its SHA-256 is not that of the record.
    """
    content = read(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: damaged member (its digest is not that of {record})")
    return content


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing: a damaged member")


def drop_weights(folder: Path) -> None:
    """Delete a member's weights, after the record names none; the validation scores stay.

    Raises:
        InputError: There is no member, or its record is damaged.
    """
    record = open_member(folder).record
    if record.weights_file is not None:
        record = record.model_copy(update={"weights_file": None, "weights_sha256": None})
        write_json(folder / "member.json", record.model_dump(mode="json"))
    _remove_member_files_but(folder, record.scores_file)


def remove_member(folder: Path) -> None:
    """Delete all files of a member, its record first; other files in the folder stay."""
    remove_file(folder / "member.json")
    _remove_member_files_but(folder)


def remove_leftovers(folder: Path) -> None:
    """Delete files that a killed process wrote and that no record names."""
    try:
        record = open_member(folder).record
    except InputError:
        _remove_member_files_but(folder)
    else:
        _remove_member_files_but(folder, record.weights_file or "", record.scores_file)


def _remove_member_files_but(folder: Path, *names: str) -> None:
    """Delete weights and scores other than `names`, and files that were never finished."""
    _remove_all_but("epoch-*", folder, *names)
    _remove_all_but(".*.tmp", folder)


def _remove_all_but(pattern: str, folder: Path, *names: str) -> None:
    """Delete files other than `names`; a process that is being killed may still write one."""
    for path in folder.glob(pattern):
        if path.name not in names:
            remove_file(path)


def open_member(folder: Path) -> Member:
    """Read a member's record.

    Raises:
        InputError: There is no member, or its record is damaged.
    """
    path = folder / "member.json"
    return Member(folder, check_member(read_json(path), path))


def check_member(values: object, path: Path) -> MemberRecord:
    """Make the record of a member from the JSON of its `member.json`, at `path`.

    Raises:
        InputError: The record is damaged, or of something else.
    """
    try:
        record = MemberRecord.model_validate(values)
    except ValidationError as error:
        raise InputError(
            f"{path}: damaged or foreign member ({explain_validation(error)})"
        ) from None
    if "val_f1" not in record.metrics:
        raise InputError(f"{path}: damaged or foreign member (it has no val_f1)")
    return record


class StateRecord(BaseModel):
    """What `state.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    identity: str
    epoch: EpochFigures
    val_margins: list[float]
    tensors_file: str = Field(pattern=r"^state-[0-9]{1,10}-[0-9a-f]{8}\.safetensors$")
    tensors_sha256: str


@dataclass(frozen=True)
class State:
    """A training run after an epoch: the network's weights, and the digest of all tensors."""

    epoch: Epoch
    weights: dict[str, Tensor]
    sha256: str


def identify_run(
    *,
    config: TrialConfig,
    trial: int,
    split_digest: str,
    initial_weights_digest: str,
    num_workers: int,
) -> str:
    """Return the SHA-256 of what must be the same for a run to be continued from a state.

    Device, number of threads and versions of libraries other than torch decide the bits, too. They
    may change, so that a cut run is not lost with its machine; `run.json` records them.
    """
    parts = {
        "trial": trial,
        "config": config.model_dump(mode="json"),
        "split_digest": split_digest,
        "initial_weights_digest": initial_weights_digest,
        "num_workers": num_workers,  # they share batches and draw dropout and augmentation
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_state_tensors(
    folder: Path,
    model: nn.Module,
    number: int,
    optimizer_state: dict[str, Tensor],
    average: dict[str, Tensor],
) -> tuple[str, str]:
    """Write the tensors of the state after epoch `number`; see `write_tensors`."""
    tensors = {
        **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        **{f"optimizer.{name}": tensor for name, tensor in optimizer_state.items()},
        **{f"average.{name}": tensor for name, tensor in average.items()},
    }
    return write_tensors(folder, f"state-{number}", tensors)


def save_state(folder: Path, epoch: Epoch, tensors: tuple[str, str], *, identity: str) -> None:
    """Write the record of the state after `epoch`, then remove the earlier state.

    `tensors` is what `write_state_tensors` returned, `identity` what `identify_run` returned.

    Raises:
        CannotWriteError: The disk does not take it.
    """
    record = StateRecord(
        identity=identity,
        epoch=epoch,
        val_margins=epoch.val_margins.tolist(),
        tensors_file=tensors[0],
        tensors_sha256=tensors[1],
    )
    write_json(folder / "state.json", record.model_dump(mode="json"))
    _remove_all_but("state-*.safetensors", folder, record.tensors_file)


def load_state(folder: Path, *, identity: str) -> State | None:
    """Read the state in `folder`; None if it is missing, damaged or of another run.

    Without a state the run starts from its first epoch and ends with the same bits.
    """
    try:
        record = StateRecord.model_validate(read_json(folder / "state.json"))
        if record.identity != identity:
            return None
        path = folder / record.tensors_file
        data = read_checked(path, record.tensors_sha256, record="state.json")
        tensors = safetensors.torch.load(data)
    except (InputError, ValidationError, OSError, safetensors.SafetensorError):
        return None
    latest, average = _part(tensors, "model."), _part(tensors, "average.")
    epoch = Epoch(
        **record.epoch.model_dump(),
        val_margins=np.array(record.val_margins, np.float32),
        batch_losses=np.zeros(0, np.float32),
        optimizer_state=_part(tensors, "optimizer."),
        average=average,
        weights=average if record.epoch.is_average else latest,
    )
    return State(epoch, latest, record.tensors_sha256)


def remove_state(folder: Path) -> None:
    """Remove the state in `folder`, if there is one; the member stays."""
    remove_file(folder / "state.json")  # first, so that it never names a missing file
    _remove_all_but("state-*.safetensors", folder)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
