"""What a refit trains: the best configurations of a run, further seeds, and single changes.

The first configuration is the best one. Its further seeds show how far training by itself scatters,
and each change of its settings shows what that change is worth.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ensemble.base.errors import InputError, short_repr
from ensemble.data.pack import Pack
from ensemble.recipes.recipe import check_network
from ensemble.training.config import TrialConfig, derive_seed, flatten, parse_config, unflatten

LONGEST_WORD = 60  # characters of a value in a name

Changes = Mapping[str, Any]  # `section.field` → value


class Variant(NamedTuple):
    """A configuration that is trained.

    Attributes:
        name: RUN/TRIAL where it was found, perhaps with the number of a further seed, or the
            settings in which it differs from the first configuration.
        config: The configuration.
    """

    name: str
    config: TrialConfig


def read_tries(given: Sequence[Sequence[tuple[str, Any]]]) -> list[Changes]:
    """What each `--try` changes.

    Args:
        given: For each `--try` its settings with their values.

    Raises:
        InputError: A `--try` gives a setting twice.
    """
    tries: list[Changes] = []
    for pairs in given:
        changes = dict(pairs)
        if len(changes) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"--try: {twice} is given twice; give each value a --try of its own")
        tries.append(changes)
    return tries


def add_seeds(base: TrialConfig, num_seeds: int) -> list[TrialConfig]:
    """The configuration with further seeds, derived from its own: `num_seeds` − 1 of them."""
    return [
        base.model_copy(update={"seed": derive_seed(base.seed, "refit", number)})
        for number in range(2, num_seeds + 1)
    ]


def change(base: TrialConfig, changes: Changes) -> TrialConfig:
    """The configuration with some settings changed.

    Raises:
        InputError: There is no such setting, or a value is none of its.
    """
    values = flatten(base)
    for name in changes:
        if name not in values:
            like = difflib.get_close_matches(name, values, n=2, cutoff=0.5)
            like = like or [known for known in values if known.endswith(f".{name}")]
            ways = f"like it: {', '.join(like)}" if like else f"there are {', '.join(values)}"
            raise InputError(f"{spell_try(changes)}: no setting is called {name!r} ({ways})")
    return parse_config(unflatten(values | dict(changes)), where=spell_try(changes))


def name_variants(
    run: str, trials: Sequence[int], configurations: Sequence[TrialConfig]
) -> list[Variant]:
    """Configurations with their names.

    Args:
        run: Name of the run that they come from.
        trials: Numbers of the trials that the first configurations were found in.
        configurations: All configurations, of which the others are variants of the first one.
    """
    found = [f"{run}/{trial}" for trial in trials]
    named = [Variant(*each) for each in zip(found, configurations, strict=False)]
    base = flatten(configurations[0])
    num_seeds = 1
    for config in configurations[len(trials) :]:
        changes = {name: v for name, v in flatten(config).items() if v != base[name]}
        if changes.keys() == {"seed"}:
            num_seeds += 1
            named.append(Variant(f"{found[0]}, seed {num_seeds}", config))
        else:
            name = ", ".join(f"{name} = {_spell(value)}" for name, value in changes.items())
            named.append(Variant(name, config))
    return named


def check_tries(
    configurations: Sequence[TrialConfig], tries: Sequence[Changes], packed: Pack, *, run: str
) -> None:
    """Refuse changes that change nothing, or that the tiles or the network cannot follow.

    Args:
        configurations: All configurations, the changed ones last.
        tries: What is changed in each of the last ones.
        packed: Tiles.
        run: Name of the run whose tiles they are.

    Raises:
        InputError: A change is of no use.
    """
    first = len(configurations) - len(tries)
    for number, changes in enumerate(tries, start=first):
        where, config = spell_try(changes), configurations[number]
        if config in configurations[:number]:
            same = configurations.index(config)
            what = "another configuration" if same else "the best configuration"
            raise InputError(f"{where}: {what} of this refit has that already; leave it out")
        _check_tiles(where, config, packed, run)
        try:
            check_network(config, min(packed.tile_size_px))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _check_tiles(where: str, config: TrialConfig, packed: Pack, run: str) -> None:
    """Refuse a size or a margin that the tiles do not have."""
    size, margin = config.data.image_size_px, config.data.context_px
    stored, own = min(packed.record["stored_size_px"]), min(packed.tile_size_px)
    if size > stored and stored < own:
        raise InputError(
            f"{where}: data.image_size_px = {size}, but {run} stored its tiles at {stored} px; "
            f"a search with --image-size {size} stores larger ones, and can be refitted"
        )
    if margin and not packed.record["grid"]["columns"]:
        raise InputError(
            f"{where}: data.context_px = {margin}, but nobody knows which tiles of {run} lie side "
            "by side; with data.context_px = 0 each is seen alone"
        )
    if margin > own:
        raise InputError(
            f"{where}: data.context_px = {margin} is more than the side of a tile; choose from 0 "
            f"to {own}"
        )


def spell_try(changes: Changes) -> str:
    """Changes as they are typed."""
    return " ".join(["--try", *(f"{name}={_spell(value)}" for name, value in changes.items())])


def _spell(value: Any) -> str:
    if isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_WORD:
        return value
    is_plain = value is None or isinstance(value, bool | int | float)
    return json.dumps(value) if is_plain else short_repr(value)
