"""A TOML file → one way of training as people build it today: a configuration and its variants.

what = "…"                         # for people: how it trains; the rest is told from what ran
stated = "…"                       # what those who built it say that it reached
data = "metu"                      # or "sdnet2018": what it was built on
weights = "imagenet"               # or "none"; --weights overrides it
export = true                      # whether the best network is exported as a complete model
checkpoints = 5                    # so many best epochs are members: an ensemble of checkpoints

[config.model]                     # the configuration called "base"; sections as in TrialConfig
backbone = "mobilenet_v2"

[trainable_from]                   # with --backbone: where the same part of another network begins
resnet18 = "layer4"

[[variant]]
name = "fine-tuned"
starts_from = "base"               # from its best epoch's weights; without: from where base starts
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
from ensemble.base.options import RECIPES
from ensemble.training.backbones import build_model, choose_trainable
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


class _Variant(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9 -]{0,39}$")
    starts_from: str | None = None
    changes: dict[str, str | int | float | bool] = Field(default_factory=dict)


class _File(Section):
    what: str
    stated: str
    data: Literal["metu", "sdnet2018"]
    weights: Literal["imagenet", "none"] = "imagenet"
    export: bool = False
    checkpoints: int = Field(0, ge=0, le=50)
    config: dict[str, Any]
    trainable_from: dict[BackboneName, str] = Field(default_factory=dict)
    variant: list[_Variant] = Field(default_factory=list, max_length=50)


@dataclass(frozen=True)
class Variant:
    """One configuration of a recipe.

    Attributes:
        name: `base`, or as the file names it.
        config: Of its training run.
        starts_from: The variant from whose best epoch it starts; None: where all start.
        changed: Settings, by `section.field`, in which it differs from base.
    """

    name: str
    config: TrialConfig
    starts_from: str | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A recipe, checked: each of its configurations can be trained.

    Attributes:
        path: Of the file.
        what: How it trains, for people; what the command line can change is not in it.
        stated: What the original states.
        data: What the original was built on.
        weights: What it starts from: `imagenet` or `none`.
        export: Whether the best network is exported.
        checkpoints: Best epochs of base that are kept as members; 0 keeps the best one alone.
        trainable_from: With another backbone: the first trained module there.
        variants: Base, then the others in the file's order.
    """

    path: Path
    what: str
    stated: str
    data: str
    weights: str
    export: bool
    checkpoints: int
    trainable_from: dict[str, str]
    variants: tuple[Variant, ...]

    @property
    def name(self) -> str:
        """That of the file."""
        return self.path.stem

    @property
    def base(self) -> TrialConfig:
        """The recipe's own configuration."""
        return self.variants[0].config

    @property
    def backbone(self) -> str:
        """Of all variants."""
        return self.base.model.backbone

    @property
    def checkpoint_numbers(self) -> range:
        """Trial numbers of the best epochs but the first, behind those of the variants."""
        return range(len(self.variants), len(self.variants) + max(0, self.checkpoints - 1))

    def describe(self) -> dict[str, Any]:
        """All that decides what is trained, as plain JSON."""
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
        """The recipe with settings from the command line, which hold for all of its variants.

        Raises:
            InputError: It trains a part of its own backbone, and does not say where that part
                begins in the other one; or a setting is out of its range.
        """
        changes: dict[str, Any] = {"seed": seed}
        if epochs is not None:
            changes["optimisation.epochs"] = epochs
        if image_size_px is not None:
            changes["data.image_size_px"] = image_size_px
        if backbone is not None:
            changes["model.backbone"] = backbone
        variants = []
        for variant in self.variants:
            values = flatten(variant.config) | changes
            if variant.config.model.trainable_from and values["model.backbone"] != self.backbone:
                values["model.trainable_from"] = self._begins_in(str(backbone))
            config = parse_config(unflatten(values), where="command line")
            variants.append(dataclasses.replace(variant, config=config))
        return _checked(dataclasses.replace(self, variants=tuple(variants)))

    def _begins_in(self, backbone: str) -> str:
        if backbone not in self.trainable_from:
            known = ", ".join(self.trainable_from) or "no other"
            raise InputError(
                f"--backbone {backbone}: {self.path} trains {self.backbone} from a module on and "
                f"names that of {known}; add {backbone} to its [trainable_from]"
            )
        return self.trainable_from[backbone]


def load_recipe(given: str) -> Recipe:
    """Read and check a recipe.

    Args:
        given: A file, or the name of one in `search_spaces/recipes/`.

    Raises:
        InputError: The file is missing or no TOML, or a key, type or value is wrong.
    """
    path = find_toml(given, RECIPES, what="recipe")
    try:
        file = _File.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{path}: {explain_validation(error)}") from None
    base = parse_config(file.config, where=f"{path}, [config]")
    variants = [Variant(BASE, base)]
    for variant in file.variant:
        variants.append(_change(variant, variants, path))
    return _checked(
        Recipe(
            path=path.resolve(),
            what=file.what,
            stated=file.stated,
            data=file.data,
            weights=file.weights,
            export=file.export,
            checkpoints=file.checkpoints,
            trainable_from={str(key): name for key, name in file.trainable_from.items()},
            variants=tuple(variants),
        )
    )


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
    """Whether every part of the network that is to be trained is there, and tiles are large enough.

    On torch's meta device, so that it takes a moment and no memory.
    """
    with torch.device("meta"):
        model = build_model(recipe.backbone)
    for variant in recipe.variants:
        size = variant.config.data.image_size_px
        try:
            choose_trainable(model, variant.config.model, epoch=1)
            with torch.inference_mode():
                model(torch.zeros(2, 3, size, size, device="meta"))
        except InputError as error:
            raise InputError(f"{recipe.path}, {variant.name}: {error}") from None
        except RuntimeError as error:
            raise InputError(
                f"{recipe.path}, {variant.name}: {size} px are too few for {recipe.backbone} "
                f"({str(error).splitlines()[0][:100]}); give larger images"
            ) from None
    return recipe
