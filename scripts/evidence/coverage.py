"""Measure how often the intervals of `ensemble.evaluation.intervals` hold the true value.

Data sets of 10, 35 and 100 photographs are drawn from a model in which photographs differ as in
SDNET2018: in their share of cracked tiles, in light and in difficulty. The truth is the figure of
30,000 photographs. The plain percentile bootstrap on the same resamples is the comparison.
"""

import argparse
import re
import time
import zipfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.progress import track

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_json
from ensemble.base.provenance import describe_code_and_machine
from ensemble.evaluation.intervals import (
    interval_of,
    resample,
    sum_by_photograph,
    weighted_figures,
)
from ensemble.training.metrics import METRICS, margins_to_probabilities
from record import write_evidence

THRESHOLD, LEVEL = 0.5, 0.95
COVERAGE_PHOTOGRAPHS = (10, 35, 100)


@dataclass(frozen=True)
class Model:
    """How photographs and tiles differ; margins are logits of "cracked"."""

    tiles_per_photograph: int = 245
    share_logit_mean: float = -2.15  # share of cracked tiles
    share_logit_sd: float = 1.1
    light_sd: float = 0.76  # between photographs, of all margins
    difficulty_sd: float = 0.95  # between photographs, of the margins of cracked tiles
    photograph_correlation: float = 0.92  # of both shifts, between the two classifiers
    tile_correlation: float = 0.64  # of a tile's noise, between the two classifiers
    cracked_margin: tuple[float, float] = (0.9, 0.7)  # mean, of either classifier
    uncracked_margin: tuple[float, float] = (-3.1, -3.0)
    cracked_noise_sd: float = 2.0
    uncracked_noise_sd: float = 1.3
    lowest_probability: float = 5e-4  # and 1 minus it the highest: the loss stays finite
    decimals: int = 3  # of the probabilities: ties, and fewer levels to go through


MODEL = Model()
NUM_TRUE_PHOTOGRAPHS = 30_000


def draw_tiles(
    num_photographs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw labels (N,), the probabilities of two classifiers (2, N), and photographs (N,)."""
    shape = (num_photographs, MODEL.tiles_per_photograph)

    def pair(correlation: float, *shape: int) -> np.ndarray:
        common, own = rng.normal(size=shape), rng.normal(size=(2, *shape))
        return np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own

    share = margins_to_probabilities(
        rng.normal(MODEL.share_logit_mean, MODEL.share_logit_sd, (num_photographs, 1))
    )
    cracked = rng.random(shape) < share
    light = MODEL.light_sd * pair(MODEL.photograph_correlation, num_photographs, 1)
    difficulty = MODEL.difficulty_sd * pair(MODEL.photograph_correlation, num_photographs, 1)
    noise = pair(MODEL.tile_correlation, *shape)
    margins = light + np.where(
        cracked,
        np.reshape(MODEL.cracked_margin, (2, 1, 1)) + difficulty + MODEL.cracked_noise_sd * noise,
        np.reshape(MODEL.uncracked_margin, (2, 1, 1)) + MODEL.uncracked_noise_sd * noise,
    )
    probabilities = margins_to_probabilities(margins).round(MODEL.decimals).reshape(2, -1)
    probabilities = probabilities.clip(MODEL.lowest_probability, 1 - MODEL.lowest_probability)
    photographs = np.repeat(np.arange(num_photographs), MODEL.tiles_per_photograph)
    return cracked.ravel().astype(np.int64), probabilities, photographs


def true_figures(rng: np.random.Generator, metrics: list[str]) -> pd.DataFrame:
    """Compute the true `figure` and `difference` by metric, from very many photographs."""
    size, parts = 5_000, []
    for _ in range(NUM_TRUE_PHOTOGRAPHS // size):
        labels, rows, photographs = draw_tiles(size, rng)
        sums = [sum_by_photograph(labels, row, photographs, THRESHOLD) for row in rows]
        one = np.ones((1, size))
        parts.append([[weighted_figures(s, one, m)[0][0] for m in metrics] for s in sums])
    first, second = np.mean(parts, axis=0)
    return pd.DataFrame({"figure": first, "difference": first - second}, index=metrics)


def simulate(
    truth: pd.DataFrame, num_photographs: int, num_data_sets: int, num_resamples: int, seed: int
) -> pd.DataFrame:
    """Make a row a data set, metric, kind and method: `defined`, `held`, `width`."""
    rng = np.random.default_rng((seed, num_photographs))
    true = truth.to_dict()
    rows = []
    for data_set in track(range(num_data_sets), f"{num_photographs} photographs"):
        labels, scores, photographs = draw_tiles(num_photographs, rng)
        sums = [sum_by_photograph(labels, each, photographs, THRESHOLD) for each in scores]
        weights = resample(sums[0], num_resamples, seed=int(rng.integers(2**31)))
        for metric in truth.index:
            parts = [weighted_figures(each, weights, metric) for each in sums]
            for kind, count in (("figure", 1), ("difference", 2)):
                ours = interval_of(metric, sums[:count], weights, parts[:count], LEVEL)
                resampled = parts[0][0] - (parts[1][0] if count == 2 else 0)
                drawn = resampled[1:][np.isfinite(resampled[1:])]
                tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
                plain = np.quantile(drawn, tails) if len(drawn) else (np.nan, np.nan)
                bounds = {"shipped": (ours.low, ours.high), "percentile": plain}
                for method, (low, high) in bounds.items():
                    held = low <= true[kind][metric] <= high
                    rows.append((data_set, metric, kind, method, low == low, held, high - low))
    columns = ["data_set", "metric", "kind", "method", "defined", "held", "width"]
    return pd.DataFrame(rows, columns=columns)


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Compute the coverage of the defined intervals, its standard error and the median width."""
    defined = runs[runs["defined"]]
    keys = ["num_photographs", "kind", "metric", "method"]
    table = defined.groupby(keys, sort=False).agg(
        coverage=("held", "mean"), num_defined=("held", "size"), median_width=("width", "median")
    )
    table["standard_error"] = np.sqrt(
        table["coverage"] * (1 - table["coverage"]) / table["num_defined"]
    )
    return table.reset_index().round({"coverage": 4, "standard_error": 4, "median_width": 5})


def shares_in_archive(path: Path) -> list[float]:
    """List the share of cracked tiles of every photograph of an SDNET2018 zip, sorted."""
    with zipfile.ZipFile(path) as archive:
        tiles = re.findall(r"/([CU])([DPW])/(\d+)-\d+\.jpg$", "\n".join(archive.namelist()), re.M)
    names = pd.DataFrame(tiles, columns=[*"lsp"])
    if names.empty:
        raise InputError(f"{path} has no tiles named like D/CD/7001-12.jpg; give SDNET2018's zip")
    return sorted((names["l"] == "C").groupby([names["s"], names["p"]]).mean().round(4))


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, simulate, write `interval_coverage.csv` and `.json`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--data-sets", type=int, default=2000, help="data sets of each size (default: 2000)"
    )
    parser.add_argument(
        "--resamples", type=int, default=500, help="resamples of a data set (default: 500)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all draws (default: 0)")
    parser.add_argument("--shares", type=Path, help="an SDNET2018 zip, to note its crack shares")
    parser.add_argument(
        "--metric",
        action="append",
        choices=METRICS,
        help="measure only this one and keep the other rows of the table; repeatable",
    )
    parser.add_argument("--out", type=Path, default=Path("results/evidence"), help="folder")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    shares = shares_in_archive(options.shares) if options.shares else None
    truth = true_figures(np.random.default_rng(options.seed), options.metric or list(METRICS))
    settings = options.data_sets, options.resamples, options.seed
    runs = {n: simulate(truth, n, *settings) for n in COVERAGE_PHOTOGRAPHS}
    table = summarise(pd.concat(runs, names=["num_photographs"]).reset_index("num_photographs"))
    origin = {
        "claim": "share of 95 % intervals that hold the figure of the population",
        "model": asdict(MODEL),
        "crack_shares_of_real_photographs": shares,
        "threshold": THRESHOLD,
        "truth": {kind: truth[kind].round(5).to_dict() for kind in truth},
        "num_true_photographs": NUM_TRUE_PHOTOGRAPHS,
        "data_sets": options.data_sets,
        "resamples": options.resamples,
        "seed": options.seed,
        "wall_seconds": round(time.perf_counter() - start, 1),
        "date": datetime.now(UTC).date().isoformat(),
        **describe_code_and_machine(),
    }
    path = options.out / "interval_coverage.csv"
    if options.metric:
        table, origin = add_to(path, table, origin)
    write_evidence(path, table, origin)


def add_to(
    path: Path, table: pd.DataFrame, origin: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Put rows of some metrics into the table at `path`, and what they came from beside the rest.

    Draws do not depend on what is measured, so that rows are those of a run of all metrics with
    the same seed, data sets and resamples.
    """
    old, about = pd.read_csv(path), read_json(path.with_suffix(".json"))
    kept = old[~old["metric"].isin(table["metric"])]
    both = pd.concat([kept, table]).sort_values("num_photographs", kind="stable")
    added = {key: value for key, value in origin.items() if value != about.get(key)}
    names = added["truth"]["figure"].keys()
    before = [each for each in about.get("added", []) if each["truth"]["figure"].keys() != names]
    return both, about | {"added": [*before, added]}


if __name__ == "__main__":
    run_command(main)
