"""Measure what is gained by seeing the photograph around a tile: `context.py --data SDNET2018.zip`.

One network is trained with margins of 0, 32, 64 and 128 px (`context.toml`), and with the compute
of 64 px spent on a finer picture of the tile alone (`context_finer.toml`, which is a recipe of its
own, as a run stores pixels at the largest size that one of its networks sees). On top of each comes
the second stage, which reads the scores of the tiles around, cross-fitted by photograph. All of it
is judged on validation photographs; the test split stays closed.

`context.csv` has a row for each network and seed. `context.json` says where they came from, and has
each difference with an interval that resamples photographs; a figure is its mean over the seeds.
The same command goes on where it was stopped.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ensemble import train
from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table
from ensemble.base.provenance import describe_code_and_machine
from ensemble.cli import parse
from ensemble.data.batches import SplitTiles, place_split
from ensemble.data.pack import open_pack
from ensemble.evaluation.intervals import (
    Interval,
    describe_difference,
    interval_of,
    resample,
    sum_by_photograph,
    weighted_figures,
)
from ensemble.run.folder import digests_of_weights
from ensemble.run.members import choose_device, open_members, score_tiles
from ensemble.run.pack import find_pack
from ensemble.selection.calibration import apply_temperature, fit_temperature, logit
from ensemble.selection.neighbours import Places, fit_neighbours
from ensemble.training.checkpoint import Member
from ensemble.training.cost import summarise
from ensemble.training.metrics import (
    best_threshold,
    log_loss,
    margins_to_probabilities,
    ranking_metrics,
)
from record import write_evidence

RECIPES = [Path(__file__).with_name(f"{name}.toml") for name in ("context_finer", "context")]
FIGURES = ("average_precision", "f1")
LEVEL, NUM_RESAMPLES = 0.95, 2000
WITH_NEIGHBOURS = ", neighbours' scores"  # behind a network's name


@dataclass(frozen=True, eq=False)
class Judged:
    """A network of one seed.

    Attributes:
        row: Its row of the table.
        scores: Name → (N,) scores of the validation tiles: its own, and those of the second stage.
    """

    row: dict[str, Any]
    scores: dict[str, np.ndarray]


@dataclass
class Evidence:
    """What is known so far.

    Attributes:
        judged: Networks, in the order in which they were judged.
        validation: Table of the validation tiles; None before the first run.
        about: Content of each run's `run.json`, by the name of its folder.
    """

    judged: list[Judged] = field(default_factory=list)
    validation: pd.DataFrame | None = None
    about: dict[str, dict[str, Any]] = field(default_factory=dict)


def main() -> None:
    """Train seed after seed, and write the tables anew after each run."""
    options = _parse()
    seeds = options.only_seed or list(range(options.seeds))
    runs = [
        (recipe, seed, options.out / f"{recipe.stem}-seed-{seed}")
        for seed in seeds
        for recipe in options.recipes
    ]
    if not options.table_only:
        for recipe, seed, run in runs:
            train.main(parse("train", _words(options, recipe, seed, run)))
            _write(runs, options)
    else:
        _write(runs, options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    add = parser.add_argument
    add("--data", required=True, metavar="PATH", help="folder or .zip of SDNET2018")
    add("--weights", metavar="X", help="weights to start from, as scripts/train.py takes them")
    add("--seeds", type=int, default=3, metavar="N", help="trainings of each (default: 3)")
    add("--only-seed", type=int, nargs="+", metavar="N", help="seeds to train, instead of --seeds")
    add("--epochs", metavar="N", help="epochs of each network (default: the recipes')")
    add("--gpus", metavar="N", help="0 trains on the CPU (default: a GPU where there is one)")
    add("--table-only", action="store_true", help="train nothing; write what is finished")
    add(
        "--recipes",
        type=Path,
        nargs="+",
        default=RECIPES,
        metavar="FILE",
        help="recipes whose networks are compared (default: those beside this script)",
    )
    add("--out", type=Path, default=Path("results"), help="(default: results)")
    return parser.parse_args()


def _words(options: argparse.Namespace, recipe: Path, seed: int, run: Path) -> list[str]:
    """What is typed behind `train`."""
    words = ["--recipe", str(recipe), "--data", options.data, "--seed", str(seed)]
    words += ["--name", run.name, "--out", str(options.out)]
    for name in ("weights", "epochs", "gpus"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", value]
    return words


def _write(runs: Iterable[tuple[Path, int, Path]], options: argparse.Namespace) -> None:
    """Judge every finished network, write the table, and print the differences."""
    device = choose_device(None if options.gpus is None else int(options.gpus))
    evidence = Evidence()
    for _, seed, run in runs:
        if (run / "trials.csv").exists():
            judge_run(run, seed, evidence, device)
    if evidence.validation is None or not evidence.judged:
        raise InputError(f"{options.out}: no network has been trained to its end yet")
    differences = compare(evidence.judged, evidence.validation)
    for each in differences:
        print(describe(each))
    table = pd.DataFrame([each.row for each in evidence.judged])
    table = table.sort_values(["image_size_px", "context_px", "seed"], kind="stable")
    write_evidence(
        options.out / "context.csv",
        table.round(5),
        {"differences": differences, **_origin(evidence), **describe_code_and_machine()},
    )


def judge_run(run: Path, seed: int, evidence: Evidence, device: torch.device) -> None:
    """Add a run's finished networks to what is known.

    Raises:
        InputError: The run has another split than those before it.
    """
    about = read_object(run / "run.json", split_digest=str)
    if any(a["split_digest"] != about["split_digest"] for a in evidence.about.values()):
        raise InputError(f"{run}: trained on other tiles than the other runs; give another --out")
    members = open_members(run, split_digest=about["split_digest"])
    tiles, evidence.validation = place_split(
        open_pack(find_pack(run), splits=("val",)), "val", device
    )
    evidence.about[run.name] = about
    epochs = read_table(run / "epochs.csv", columns=("trial", "epoch")) if members else None
    for member in members:
        assert epochs is not None
        of_member = epochs[epochs["trial"] == member.trial]
        evidence.judged.append(
            judge(member, seed, tiles, evidence.validation, _cost(member, tiles, of_member))
        )


def _cost(member: Member, tiles: SplitTiles, epochs: pd.DataFrame) -> dict[str, Any]:
    """Sides, multiply-adds and measured times of a network."""
    config = member.record.config
    image_size_px, context_px = config.data.image_size_px, config.data.context_px
    summary = summarise(config, tile_side_px=min(tiles.tile_size_px))
    seconds = epochs["train_seconds"] + epochs["val_seconds"]
    return {
        "image_size_px": image_size_px,
        "context_px": context_px,
        "input_px": summary.input_side_px,
        "million_multiply_adds": round(summary.multiply_adds / 1e6, 1),
        "epochs": len(epochs),
        "best_epoch": member.record.epoch,
        "images_per_second": round(float(epochs["images_per_second"].median()), 1),
        "seconds_per_epoch": round(float(seconds.median()), 1),
    }


def judge(
    member: Member, seed: int, tiles: SplitTiles, table: pd.DataFrame, cost: dict[str, Any]
) -> Judged:
    """Judge a network on validation tiles: as trained, on lone tiles, and with the second stage.

    Thresholds are the best on the tiles that are judged, for all three.
    """
    name = f"{cost['image_size_px']} px, margin {cost['context_px']} px"
    labels = table["label"].to_numpy()
    own = margins_to_probabilities(member.val_margins())
    alone = score_tiles([member], tiles, alone=True)[0] if cost["context_px"] else own
    temperature = fit_temperature(logit(own), labels)
    calibrated = apply_temperature(own, temperature)
    threshold = best_threshold(labels, calibrated)[0]
    fit = fit_neighbours(
        calibrated, labels, Places.of(table), rule="f1", calibrated_threshold=threshold
    )
    row = {
        "network": name,
        "seed": seed,
        **cost,
        **figures("val", labels, calibrated),
        "val_loss": log_loss(labels, calibrated),
        **figures("alone_val", labels, alone),
        **figures("neighbours_val", labels, fit.scores),
        "neighbours_val_loss": log_loss(labels, fit.scores),
        "neighbours_help": fit.model is not None,
    }
    return Judged(row, {name: calibrated, name + WITH_NEIGHBOURS: fit.scores})


def figures(prefix: str, labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Average precision, and F1 at the best threshold, of (N,) scores."""
    return {
        f"{prefix}_average_precision": ranking_metrics(labels, scores)["average_precision"],
        f"{prefix}_f1": best_threshold(labels, scores)[1],
    }


def compare(judged: list[Judged], validation: pd.DataFrame) -> list[dict[str, Any]]:
    """Differences between networks: to the one with the smallest input, and by the second stage.

    Each is of the seeds that both sides have, and leaves out what none has.
    """
    networks: dict[str, dict[int, np.ndarray]] = {}
    for each in judged:
        for name, scores in each.scores.items():
            networks.setdefault(name, {})[each.row["seed"]] = scores
    smallest = min(judged, key=lambda each: each.row["input_px"]).row["network"]
    pairs = [
        (name, other)
        for name in networks
        for other in dict.fromkeys((smallest, name.removesuffix(WITH_NEIGHBOURS)))
        if name != other
    ]
    labels = validation["label"].to_numpy()
    photographs = validation["photograph"].to_numpy(dtype=str)
    differences = []
    for pair in pairs:
        seeds = sorted(set(networks[pair[0]]) & set(networks[pair[1]]))
        if not seeds:
            continue
        sides = tuple([networks[name][seed] for seed in seeds] for name in pair)
        found: dict[str, Any] = {"of": pair[0], "minus": pair[1], "num_seeds": len(seeds)}
        for metric in FIGURES:
            interval = mean_difference(metric, labels, sides[0], sides[1], photographs)
            known = interval.low == interval.low
            found[metric] = {
                "value": interval.value,
                "low": interval.low if known else None,
                "high": interval.high if known else None,
                "verdict": describe_difference(metric, interval),
            }
        differences.append(found)
    return differences


def mean_difference(
    metric: str,
    labels: np.ndarray,
    first: list[np.ndarray],
    second: list[np.ndarray],
    photographs: np.ndarray,
) -> Interval:
    """A figure's mean over the seeds of `first` minus that of `second`, on the same resamples.

    Args:
        metric: A name of `METRICS`.
        labels: (N,) of 0 and 1.
        first: (N,) scores of each seed.
        second: (N,) scores of each seed.
        photographs: (N,) ids.
    """
    sums = [
        [
            sum_by_photograph(labels, scores, photographs, best_threshold(labels, scores)[0])
            for scores in each
        ]
        for each in (first, second)
    ]
    weights = resample(sums[0][0], NUM_RESAMPLES, seed=0)
    parts = []
    for each in sums:
        values, slopes = zip(*(weighted_figures(s, weights, metric) for s in each), strict=True)
        parts.append((np.mean(values, axis=0), np.mean(slopes, axis=0)))
    return interval_of(metric, [each[0] for each in sums], weights, parts, LEVEL)


def describe(difference: dict[str, Any]) -> str:
    """Say a difference in one line."""
    said = []
    for metric in FIGURES:
        value = difference[metric]
        where = ""
        if value["low"] is not None:
            where = f" [{value['low']:+.3f}, {value['high']:+.3f}]"
        said.append(f"{metric} {value['value']:+.3f}{where} ({value['verdict']})")
    names = f"{difference['of']} minus {difference['minus']}"
    return f"{names}, seeds {difference['num_seeds']}: {', '.join(said)}"


def _origin(evidence: Evidence) -> dict[str, Any]:
    """Data, split, weights and settings of the runs."""
    assert evidence.validation is not None
    first = next(iter(evidence.about.values()))
    summary = first["data_summary"]
    return {
        "data": Path(first["data"]).name,
        "grid": summary["grid"]["sentence"],
        "num_training_tiles": summary["num_tiles"]["train"],
        "num_training_photographs": summary["num_photographs"]["train"],
        "num_validation_tiles": len(evidence.validation),
        "num_validation_photographs": int(evidence.validation["photograph"].nunique()),
        "split_digest": first["split_digest"],
        "initial_weights": digests_of_weights(first["weights"]),
        "recipes": {about["recipe"]["name"]: about["recipe"] for about in evidence.about.values()},
        "trained_at_commit": sorted({str(about["commit"]) for about in evidence.about.values()}),
        "threads": sorted({about["threads"] for about in evidence.about.values()}),
    }


if __name__ == "__main__":
    run_command(main)
