"""A TOML file → one way of training as people build it today: a configuration and its variants.

what = "…"                         # kind of training; names nothing that the command line changes
stated = "…"                       # figures that its authors state
data = "metu"                      # or "sdnet2018": data set that it was built on
weights = "imagenet"               # or "none"; --weights overrides it
export = true                      # whether the best network is exported as a complete model
checkpoints = 5                    # number of best epochs that are members: an ensemble of epochs

[config.model]                     # the configuration called "base"; sections as in TrialConfig
backbone = "mobilenet_v2"

[trainable_from]                   # with --backbone: first trained module of another network
resnet18 = "layer4"

[[variant]]
name = "fine-tuned"
starts_from = "base"               # from its best epoch's weights; default: as base does
changes = { "optimisation.learning_rate" = 1e-4 }      # differences from base
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError

from ensemble.base.errors import InputError, short_repr
from ensemble.base.files import find_toml, read_toml
from ensemble.base.options import RECIPES, SPACES
from ensemble.training.backbones import (
    build_model,
    check_drop_path,
    check_input_side,
    choose_trainable,
)
from ensemble.training.config import (
    BackboneName,
    Section,
    TrialConfig,
    explain_validation,
    flatten,
    parse_config,
    unflatten,
)

BASE = "base"
TILE_SIDES_PX = {"metu": 227, "sdnet2018": 256}  # own pixels of a tile of each data set


class _Variant(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9 -]{0,39}$")
    starts_from: str | None = None
    changes: dict[str, str | int | float | bool] = Field(default_factory=dict)


class _Head(Section):
    what: str
    stated: str
    data: Literal["metu", "sdnet2018"]
    weights: Literal["imagenet", "none"] = "imagenet"
    export: bool = False
    checkpoints: int = Field(0, ge=0, le=50)
    trainable_from: dict[BackboneName, str] = Field(default_factory=dict)


class _File(_Head):
    config: dict[str, Any]
    variant: list[_Variant] = Field(default_factory=list, max_length=50)


@dataclass(frozen=True)
class Variant:
    """One configuration of a recipe.

    Attributes:
        name: `base`, or the name that the file gives it.
        config: Configuration of its training run.
        starts_from: Variant from whose best epoch it starts; None: from the recipe's weights.
        changed: Settings, by `section.field`, in which it differs from base.
    """

    name: str
    config: TrialConfig
    starts_from: str | None = None
    changed: tuple[str, ...] = ()


class Recipe(_Head):
    """A recipe as its file has it, checked: each of its configurations can be trained.

    Attributes:
        path: Path of the file.
        variants: Base, then the others in the file's order.
    """

    path: Path
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """Name of the recipe's file."""
        return self.path.stem

    @property
    def base(self) -> TrialConfig:
        """The recipe's own configuration."""
        return self.variants[0].config

    @property
    def tile_side_px(self) -> int:
        """Side of a tile of the data set that it was built on, in its own pixels."""
        return TILE_SIDES_PX[self.data]

    @property
    def backbone(self) -> str:
        """Backbone of all variants."""
        return self.base.model.backbone

    @property
    def checkpoint_numbers(self) -> range:
        """Trial numbers of the best epochs but the first one; they follow those of the variants."""
        return range(len(self.variants), len(self.variants) + max(0, self.checkpoints - 1))

    def describe(self) -> dict[str, Any]:
        """Everything that decides what is trained, as plain JSON."""
        return {
            "name": self.name,
            "checkpoints": self.checkpoints,
            "num_trials": self.checkpoint_numbers.stop,
            "variants": {
                v.name: {"starts_from": v.starts_from, "config": v.config.model_dump(mode="json")}
                for v in self.variants
            },
        }

    def changed(
        self,
        *,
        backbone: str | None = None,
        epochs: int | None = None,
        image_size_px: int | None = None,
        seed: int = 0,
    ) -> "Recipe":
        """Change settings of all variants, as the command line says.

        Raises:
            InputError: It trains a part of its own backbone, and does not say where that part
                begins in the other one; or a setting is out of its range.
        """
        asked = {
            "seed": seed,
            "optimisation.epochs": epochs,
            "data.image_size_px": image_size_px,
            "model.backbone": backbone,
        }
        changes = {name: value for name, value in asked.items() if value is not None}
        variants = []
        for variant in self.variants:
            values = flatten(variant.config) | changes
            if variant.config.model.trainable_from and values["model.backbone"] != self.backbone:
                values["model.trainable_from"] = self._begins_in(str(backbone))
            config = parse_config(unflatten(values), where="command line")
            variants.append(dataclasses.replace(variant, config=config))
        return _checked(self.model_copy(update={"variants": tuple(variants)}))

    def _begins_in(self, backbone: str) -> str:
        if backbone not in self.trainable_from:
            known = ", ".join(self.trainable_from) or "no other"
            raise InputError(
                f"--backbone {backbone}: {self.path} trains {self.backbone} from a module on and "
                f"names that of {known}; add {backbone} to its [trainable_from]"
            )
        return self.trainable_from[backbone]


def load_recipe(name_or_path: str) -> Recipe:
    """Read and check a recipe.

    Args:
        name_or_path: Path of a file, or the name of one in `search_spaces/recipes/`.

    Raises:
        InputError: The file is missing or no TOML, or a key, type or value is wrong.
    """
    space_instead = SPACES, "a search space, which `search --space` takes"
    path = find_toml(name_or_path, RECIPES, what="recipe", other=space_instead)
    try:
        file = _File.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain_validation(error)}") from None
    base = parse_config(file.config, where=f"{path}, [config]")
    variants = [Variant(BASE, base)]
    for variant in file.variant:
        variants.append(_change(variant, variants, path))
    head = file.model_dump(exclude={"config", "variant"})
    return _checked(Recipe(path=path.resolve(), variants=tuple(variants), **head))


def _change(variant: _Variant, earlier: list[Variant], path: Path) -> Variant:
    where = f"{path}, [[variant]] {variant.name!r}"
    names = [other.name for other in earlier]
    if variant.name in names:
        raise InputError(f"{where}: there is one of that name already; give it another")
    if variant.starts_from is not None and variant.starts_from not in names:
        raise InputError(
            f"{where}: starts_from = {short_repr(variant.starts_from)} is none of the earlier ones "
            f"({', '.join(names)})"
        )
    values = flatten(earlier[0].config)
    for name in variant.changes:
        if name not in values:
            raise InputError(f"{where}: unknown key {short_repr(name)} in changes")
        if name in ("model.backbone", "seed"):
            raise InputError(f"{where}: {name} is that of the whole recipe; make another recipe")
    config = parse_config(unflatten(values | variant.changes), where=where)
    return Variant(variant.name, config, variant.starts_from, tuple(variant.changes))


def _checked(recipe: Recipe) -> Recipe:
    """Refuse a recipe that gives its network what it lacks or cannot take."""
    for variant in recipe.variants:
        try:
            check_network(variant.config, recipe.tile_side_px)
        except InputError as error:
            raise InputError(f"{recipe.path}, {variant.name}: {error}") from None
    return recipe


def check_network(config: TrialConfig, tile_side_px: int) -> None:
    """Refuse what a network lacks or cannot take, which torch's meta device tells quickly.

    Args:
        config: Configuration, with the network.
        tile_side_px: Side of a tile in its own pixels.

    Raises:
        InputError: It lacks a module or cannot leave blocks out, or takes no image of that size.
    """
    backbone = config.model.backbone
    with torch.device("meta"):
        choose_trainable(build_model(backbone), config.model, epoch=1)
    if config.model.drop_path_rate is not None:
        check_drop_path(backbone)
    check_input_side(backbone, config.view.side_px(tile_side_px))
