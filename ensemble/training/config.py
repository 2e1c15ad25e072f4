"""Configuration of a training run: `TrialConfig`, frozen; unknown keys are refused.

A configuration comes from a search space or a recipe, is stored with the member it trained and is
validated again wherever it is read. Nothing is clipped or repaired: recorded settings were used.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.base.errors import InputError, short_repr
from ensemble.base.options import DEFAULT_IMAGE_PX
from ensemble.data.view import View
from ensemble.training.backbone_table import check_backbone, find_backbone

BackboneName = Annotated[str, AfterValidator(check_backbone)]


class Record(BaseModel):
    """What is stored as JSON: frozen; unknown keys and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Section(Record):
    """A group of settings, in which converted types are refused, too."""

    model_config = ConfigDict(strict=True)


class ModelConfig(Section):
    """The network, and which part of it is trained."""

    backbone: BackboneName = Field(description="a name that `backbones` lists")
    dropout: float = Field(0.2, ge=0, lt=1, description="probability before the last layer")
    drop_path_rate: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="probability at the deepest block that a training step leaves the block out "
        "of a tile's way through the network, growing linearly from 0 at the first block; null = "
        "as the network's authors set it",
    )
    fine_tuning: Literal["full", "frozen", "unfreeze_later", "from_module"] = Field(
        "full", description="part of the backbone that is trained; the head always is"
    )
    frozen_epochs: int = Field(
        1, ge=1, le=10_000, description="epochs with a frozen backbone (unfreeze_later)"
    )
    trainable_from: str | None = Field(
        None, description="name of the first trained module of the backbone (from_module)"
    )
    backbone_learning_rate_factor: float = Field(
        1.0, gt=0, le=10, description="learning rate of the backbone ÷ that of the head"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of each layer of the backbone ÷ that of the layer above it, "
        "the head being above the uppermost; 1 = the same for all layers",
    )

    @model_validator(mode="after")
    def _module_is_named(self) -> "ModelConfig":
        if (self.fine_tuning == "from_module") != (self.trainable_from is not None):
            raise ValueError("trainable_from goes with fine_tuning = 'from_module', and only there")
        return self


class OptimisationConfig(Section):
    """Optimizer, learning-rate schedule, batches and duration."""

    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw")
    learning_rate: float = Field(5e-4, gt=0, le=10, description="peak learning rate of the head")
    weight_decay: float = Field(1e-2, ge=0, le=10, description="not on biases and normalisation")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    warmup_epochs: float = Field(
        0.5, ge=0, le=10_000, description="epochs of linear rise from 0 to the peak"
    )
    epochs: int = Field(8, ge=1, le=10_000)
    global_batch_size: int = Field(64, ge=2, le=65_536, description="over all workers of a trial")
    early_stopping_patience: int = Field(
        0,
        ge=0,
        le=10_000,
        description="epochs without a better validation F1 before training stops; 0 = never",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay a step of a moving average of the weights, which is validated beside "
        "them and kept where its F1 is higher; 0 = none",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: see `choose_precision`"
    )


class LossConfig(Section):
    """The minimised loss."""

    kind: Literal["cross_entropy", "focal"] = Field("cross_entropy")
    focal_gamma: float = Field(2.0, ge=0, le=10, description="exponent of the focal loss")
    crack_weight: float = Field(
        1.0, gt=0, le=1000, description="weight of a cracked tile ÷ that of an uncracked one"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    doubted_weight: float = Field(
        1.0,
        ge=0,
        le=1,
        description="weight of a training tile whose label is doubted ÷ that of another one; below "
        "1 only where a refit says which ones are",
        exclude_if=lambda weight: weight == 1,  # runs that were begun before there was it go on
    )

    @property
    def needs_doubted(self) -> bool:
        """Whether it must be known which labels are doubted, as they count less."""
        return self.doubted_weight < 1


class DataConfig(Section):
    """Size of the tiles, what is seen around them, and their augmentation."""

    image_size_px: int = Field(
        DEFAULT_IMAGE_PX, ge=16, le=1024, description="side of the tile, as the network sees it"
    )
    context_px: int = Field(
        0,
        ge=0,
        le=1024,
        description="margin of the photograph that is seen around the tile, in its own pixels; it "
        "makes the input larger, and the tile in it stays of image_size_px",
    )
    context_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of training tiles whose neighbours are hidden, so that lone tiles can "
        "be judged",
    )
    augmentation: float = Field(
        0.5, ge=0, le=1, description="strength of flips, turns, light and affine maps; 0 = none"
    )

    def describe_size(self) -> str:
        """What a network sees of and around a tile, such as `128 × 128 px, 64 px of context`."""
        size = f"{self.image_size_px} × {self.image_size_px} px"
        return f"{size}, {self.context_px} px of context" if self.context_px else size


class TrialConfig(Section):
    """All settings of one training run."""

    model: ModelConfig
    optimisation: OptimisationConfig = OptimisationConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    seed: int = Field(0, ge=0, lt=2**63, description="seed of order, augmentation and dropout")

    @property
    def view(self) -> View:
        """What the network sees of a tile; pixels are scaled as in its pretraining."""
        backbone = find_backbone(self.model.backbone)
        return View(
            self.data.image_size_px,
            self.data.context_px,
            backbone.mean,
            backbone.std,
            backbone.interpolation,
        )


def parse_config(values: dict[str, Any], *, where: str | Path) -> TrialConfig:
    """Validate nested settings.

    Raises:
        InputError: One line that names the field, `where` it stands and what was expected.
    """
    try:
        return TrialConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {explain_validation(error)}") from None


def explain_validation(error: ValidationError) -> str:
    """Say in one line which field is wrong, what was expected and what was given."""
    first = error.errors(include_url=False)[0]
    field = short_repr(".".join(str(part) for part in first["loc"]) or "configuration")
    if first["type"] == "extra_forbidden":
        return f"unknown key {field}"
    if first["type"] == "missing":
        return f"{field} is missing"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{field}: {message[:300]}, but got {short_repr(first['input'])}"


def flatten(config: TrialConfig) -> dict[str, Any]:
    """Return a configuration as flat settings: `seed`, and the others by `section.field`."""
    settings = dict(config)
    seed = settings.pop("seed")
    return {f"{s}.{f}": value for s, fields in settings.items() for f, value in fields} | {
        "seed": seed
    }


def unflatten(values: dict[str, Any]) -> dict[str, Any]:
    """Return flat settings as nested ones: the inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        if field:
            nested.setdefault(section, {})[field] = value
        else:
            nested[name] = value
    return nested


def find_type(name: str) -> Any:
    """Return the type of a setting by `section.field`, as `TrialConfig` annotates it."""
    section, _, field = name.partition(".")
    annotation: Any = TrialConfig.model_fields[section].annotation
    return annotation.model_fields[field].annotation if field else annotation


def can_be_null(name: str) -> bool:
    """Say whether a setting by `section.field` can be null."""
    return type(None) in get_args(find_type(name))


def derive_seed(seed: int, *purpose: object) -> int:
    """Derive a seed from 0 to 2**63 − 1 that depends only on `seed` and `purpose`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
