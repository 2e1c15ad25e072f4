"""scripts/train.py: train one configuration, or a few that are compared, as a recipe says.

Split, training and figures are those of a search, so the run can be evaluated, used and reported
like any other. Needs neither Ray nor Optuna.
"""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("train")

import argparse
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.files import read_table, table_rows
from ensemble.base.interruption import resumable
from ensemble.base.process import keep_freed_memory
from ensemble.data.layout import layout_of
from ensemble.data.prepare import is_synthetic, open_data, prepare_data
from ensemble.data.sources import check_source
from ensemble.recipes.headline import describe_run
from ensemble.recipes.recipe import load_recipe
from ensemble.recipes.runner import print_summary, run_recipe
from ensemble.run.folder import display_path, run_folder
from ensemble.run.members import choose_device
from ensemble.training.initial_weights import (
    announce_download,
    make_initial_state,
    parse_weights,
)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Train as the command line says, and return the run's folder and its table of trials."""
    asked = load_recipe(options.recipe)
    recipe = asked.changed(
        backbone=options.backbone,
        epochs=options.epochs,
        image_size_px=options.image_size,
        seed=options.seed,
    )
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    if options.summary:
        with printing_result():
            print_summary(recipe, console)
        return {"recipe": recipe.describe()}
    name = options.name or f"{recipe.name}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = run_folder(name, under=options.out)
    if not is_synthetic(options.data):
        check_source(Path(options.data))
    device = choose_device(options.gpus)
    keep_freed_memory()
    weights = parse_weights(options.weights, {recipe.backbone: recipe.weights})[recipe.backbone]
    headline = describe_run(
        recipe.what,
        asked.base,
        recipe.base,
        asked_weights=asked.weights,
        weights=weights,
        data=options.data,
    )
    console.print(f"{recipe.name}: {headline}")
    console.print(f"run: {display_path(folder)}")
    how = f"the same command with --name {shlex.quote(name)} goes on after the last finished epoch"
    with resumable(how, console.print):
        where: Any = {"packs": options.out.resolve() / "packs", "log": console.print}
        source = open_data(options.data, layout_of(options), **where)
        if weights == "imagenet":
            console.print(announce_download(recipe.backbone))
        state = make_initial_state(recipe.backbone, weights, seed=options.seed)
        packed = prepare_data(
            source,
            split_seed=options.split_seed,
            max_bad_tiles=options.max_bad_tiles,
            side_px=max(each.config.data.image_size_px for each in recipe.variants),
            context_px=max(each.config.data.context_px for each in recipe.variants),
            **where,
        )
        run_recipe(
            folder,
            recipe,
            state,
            packed,
            device=device,
            seed=options.seed,
            export=options.export or recipe.export,
            console=console,
        )
    with printing_result():
        console.print(f"run: {folder}")
    console.print(f"next: {spell_command('evaluate')} {display_path(folder)}")
    return {"run": str(folder), "trials": table_rows(read_table(folder / "trials.csv"))}
