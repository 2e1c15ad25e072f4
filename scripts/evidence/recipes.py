"""Train and test the recipes for real: `python scripts/evidence/recipes.py --metu ZIP --sdnet ZIP`.

Each recipe's run is `results/recipe-NAME`. `results/recipes.csv` has a row for each of its variants
and one for the mean of all its members, with the measured figures beside those that the original
states; `recipes.json` says what the rows came from. The same command goes on where it was stopped,
and tests nothing twice.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from ensemble import train
from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table, write_json, write_text
from ensemble.base.options import RECIPES
from ensemble.cli import parse
from ensemble.evaluation.figures import flat_row
from ensemble.evaluation.protocol import evaluate_run
from ensemble.recipes.recipe import Recipe, load_recipe
from ensemble.run.members import open_members
from ensemble.training.cost import summarise
from record import describe_origin, is_tested

TESTED = ("f1", "precision", "recall", "accuracy", "average_precision")


def main() -> None:
    """Train, test and write down one recipe after another."""
    names = sorted(path.stem for path in RECIPES.glob("*.toml"))
    parser = argparse.ArgumentParser(description="Train and test the recipes.")
    add = parser.add_argument
    add("--metu", metavar="PATH", help="folder or .zip of METU, for the recipes built on it")
    add("--sdnet", metavar="PATH", help="folder or .zip of SDNET2018, for the others")
    add("--only", nargs="+", choices=names, metavar="NAME", help="recipes to train (default: all)")
    for option, what in (
        ("--backbone", "another network for the recipes that start from ImageNet weights"),
        ("--weights", "weights it starts from, as scripts/train.py takes them"),
        ("--epochs", "epochs of each configuration"),
        ("--image-size", "side of the square input in pixels"),
        ("--gpus", "0 trains on the CPU"),
    ):
        add(option, metavar="X", help=f"{what} (default: the recipe's)")
    add("--out", type=Path, default=Path("results"), help="(default: results)")
    options = parser.parse_args()
    data = {"metu": options.metu, "sdnet2018": options.sdnet}
    recipes = [load_recipe(name) for name in options.only or names]
    for recipe in recipes:
        if data[recipe.data] is None:
            option = "--metu" if recipe.data == "metu" else "--sdnet"
            raise InputError(f"{recipe.name} needs {option} PATH; give it, or others with --only")
    for recipe in recipes:
        words = ["--recipe", recipe.name, "--data", data[recipe.data]]
        words += ["--name", f"recipe-{recipe.name}", "--out", str(options.out)]
        names = ["epochs", "image_size", "gpus"]
        if recipe.weights == "imagenet":  # a network that starts from nothing is its own point
            names += ["backbone", "weights"]
        for name in names:
            if (value := getattr(options, name)) is not None:
                words += [f"--{name.replace('_', '-')}", value]
        train.main(parse("train", words))
        record(recipe, options.out / f"recipe-{recipe.name}", options.out)


def record(recipe: Recipe, run: Path, out: Path) -> None:
    """Test a recipe's run unless it is tested, and put its rows into the table."""
    about = read_object(run / "run.json", split_digest=str)
    members = open_members(run, split_digest=about["split_digest"])
    if not is_tested(run):
        evaluate_run(run, top_k=len(members))
    metrics = read_object(run / "evaluation" / "metrics.json")
    rows = describe(recipe, run, about, metrics)
    table, provenance = out / "recipes.csv", out / "recipes.json"
    old = read_table(table, columns=("recipe",)) if table.exists() else pd.DataFrame()
    others = old[old["recipe"] != recipe.name] if len(old) else old
    new = pd.concat([others, pd.DataFrame(rows)]).sort_values("recipe", kind="stable")
    write_text(table, new.convert_dtypes().to_csv(index=False))  # whole numbers without a point
    records = read_object(provenance) if provenance.exists() else {}
    records[recipe.name] = {**describe_origin(about, metrics), "recipe": about["recipe"]}
    write_json(provenance, dict(sorted(records.items())))
    print(f"written: {table} and {provenance.name}")


def describe(
    recipe: Recipe, run: Path, about: dict[str, Any], metrics: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each variant and, where there are several members, one for their mean."""
    trials = read_table(run / "trials.csv", columns=("trial", "name")).set_index("trial")
    members = {m.trial: m for m in open_members(run, split_digest=about["split_digest"])}
    (backbone, weights), *_ = about["weights"].items()
    source = weights["origin"].removeprefix("weights of ")
    same = {
        "data": Path(about["data"]).name,
        "backbone": backbone,
        "weights": Path(source).name if source != weights["origin"] else source,
        "image_size_px": about["image_size_px"],
    }
    rows = []
    for figures in sorted(metrics["members"], key=lambda figures: figures["trial"]):
        number = figures["trial"]
        if number >= len(recipe.variants):
            continue  # a further checkpoint
        record = members[number].record
        cost = summarise(record.config, tile_side_px=min(about["tile_size_px"]))
        rows.append(
            {
                "recipe": recipe.name,
                "variant": trials.loc[number, "name"],
                **same,
                "epochs": int(trials.loc[number, "epochs"]),
                "best_epoch": record.epoch,
                "trainable_parameters": cost.trainable_backbone + cost.trainable_head,
                "training_and_validation_seconds": round(float(trials.loc[number, "seconds"]), 1),
                "val_accuracy": record.metrics["val_accuracy"],
                **_tested(figures),
                "stated": recipe.stated,
            }
        )
    if len(metrics["members"]) > 1:
        name = f"mean of {len(metrics['members'])} members"
        tested = {"val_accuracy": metrics["choice"]["val_metrics"]["accuracy"]}
        tested |= _tested(metrics["ensemble"])
        rows.append({"recipe": recipe.name, "variant": name, **same, **tested})
    return rows


def _tested(figures: dict[str, Any]) -> dict[str, Any]:
    row = flat_row("", figures)
    kept = [f"test_{metric}{end}" for metric in TESTED for end in ("", "_low", "_high")]
    return {key: row[key] for key in ("val_f1", "threshold", *kept)}


if __name__ == "__main__":
    run_command(main)
