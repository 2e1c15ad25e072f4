"""scripts/train.py: one configuration (or a few that are compared) trained as a recipe says.

What a notebook does, with the split, the training and the figures of a search: the run that is left
is evaluated, used and reported like any other. Needs neither Ray nor Optuna.
"""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("train")

import argparse
import shlex
from datetime import datetime
from pathlib import Path

import torch
from rich.console import Console

from ensemble.base.errors import InputError
from ensemble.base.interruption import resumable
from ensemble.base.memory import keep_freed_memory
from ensemble.data.layout import layout_of
from ensemble.data.pack import Pack
from ensemble.data.prepare import is_synthetic, prepare_data
from ensemble.recipes.comparison import for_tables, write_comparison
from ensemble.recipes.export import export_member
from ensemble.recipes.headline import describe_changes, describe_run, name_weights
from ensemble.recipes.recipe import Recipe, load_recipe
from ensemble.recipes.runner import RecipeRun, train_recipe
from ensemble.run.folder import (
    begin_run,
    check_same_run,
    display_path,
    identify_data,
    identify_weights,
    run_folder,
    run_lock,
)
from ensemble.run.members import choose_device, rank_members
from ensemble.training.cost import print_layers, print_totals, summarise
from ensemble.training.initial_weights import InitialState, make_initial_state, parse_weights
from ensemble.training.member import open_training_data
from ensemble.training.metrics import check_both_classes


def main(options: argparse.Namespace) -> None:
    """Train as the command line says."""
    asked = load_recipe(options.recipe)
    recipe = asked.changed(
        backbone=options.backbone,
        epochs=options.epochs,
        image_size_px=options.image_size,
        seed=options.seed,
    )
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if options.summary:
        print_summary(recipe, console)
        return
    name = options.name or f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = run_folder(name, under=options.out)
    if not is_synthetic(options.data) and not Path(options.data).exists():
        raise InputError(f"--data {options.data}: no such folder or .zip")
    device = choose_device(options.gpus)
    keep_freed_memory()
    weights = parse_weights(options.weights, {recipe.backbone: recipe.weights})[recipe.backbone]
    console.print(f"{recipe.name}: {_headline(asked, recipe, weights, options.data)}")
    console.print(f"run: {display_path(folder)}")
    how = f"the same command with --name {shlex.quote(name)} goes on after the last finished epoch"
    with resumable(how, console.print):
        if weights == "imagenet":
            console.print(f"{recipe.backbone}: ImageNet weights, downloaded unless they are here")
        state = make_initial_state(recipe.backbone, weights, seed=options.seed)
        packed = prepare_data(
            options.data,
            layout_of(options),
            split_seed=options.split_seed,
            leaky_split=False,
            max_bad_tiles=options.max_bad_tiles,
            packs=options.out.resolve() / "packs",
            log=console.print,
        )
        train(
            folder,
            recipe,
            state,
            packed,
            device=device,
            seed=options.seed,
            export=options.export or recipe.export,
            console=console,
        )
    console.print(f"run: {folder}")
    console.print(f"next: python -m ensemble.evaluate {display_path(folder)}")


def _headline(asked: Recipe, recipe: Recipe, weights: str | Path, data: str) -> str:
    weights, asked_weights = name_weights(weights), name_weights(asked.weights)
    changes = describe_changes(
        asked.base, recipe.base, asked_weights=asked_weights, weights=weights
    )
    return describe_run(recipe.what, recipe.base, weights=weights, data=data, changes=changes)


def train(
    folder: Path,
    recipe: Recipe,
    state: InitialState,
    packed: Pack,
    *,
    device: torch.device,
    seed: int,
    export: bool,
    console: Console,
) -> None:
    """Train, compare and perhaps export; a run in `folder` that was cut goes on.

    Args:
        folder: Of the run; made unless it is there.
        recipe: What is trained.
        state: What its backbone starts from.
        packed: The tiles.
        device: To train on.
        seed: That `recipe` and `state` have; it is written down.
        export: Whether the best member is exported.
        console: Of the person.

    Raises:
        InputError: The folder holds another run, or the recipe cannot be trained.
    """
    states = {recipe.backbone: state}
    identity = {
        **identify_data(packed),
        "seed": seed,
        "epochs": recipe.base.optimisation.epochs,
        "image_size_px": recipe.base.data.image_size_px,
        "weights": identify_weights(states),
        "recipe": recipe.describe(),
    }
    with run_lock(folder, what="command"):
        check_same_run(folder, identity, packed)
        data = open_training_data(packed.folder, device)
        for split, tiles in (("training", data.train), ("validation", data.val)):
            check_both_classes(tiles.labels.cpu().numpy(), what=f"the {split} tiles")
        begin_run(
            folder,
            identity,
            packed,
            states,
            asked={"recipe.toml": recipe.path},
            settings={"device": device.type, "threads": torch.get_num_threads()},
            log=console.print,
        )
        console.print(f"{recipe.backbone} starts from {state.describe()}")
        run = RecipeRun(folder, data, console.print)
        members = train_recipe(run, recipe)
        checkpoints = run.finished_among(recipe.checkpoint_numbers)
        write_comparison(folder, recipe, members, checkpoints, data, console)
        if export:
            best = rank_members(list(members.values()))[0]
            size = packed.about["height_px"], packed.about["width_px"]
            export_member(best, folder / "export", name=recipe.name, tile_size_px=size)
            console.print(f"written: {display_path(folder)}/export, the best variant's kept epoch")


def print_summary(recipe: Recipe, console: Console) -> None:
    """Print the layers of a recipe's network, and what each of its variants costs."""
    summaries = [summarise(variant.config) for variant in recipe.variants]
    print_layers(summaries[0], for_tables(console))
    for variant, summary in zip(recipe.variants, summaries, strict=True):
        print_totals(variant.name, variant.config, summary, console)
