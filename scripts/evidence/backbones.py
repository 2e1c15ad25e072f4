"""Measure which network is quickest to a good F1: `backbones.py --data SDNET2018.zip`.

Each network is trained at each of its sizes, with a constant learning rate and a moving average of
its weights, until its validation F1 has not risen for four epochs (`backbones.toml`, and with a
higher learning rate `backbones_lite0.toml`): so each epoch shows what a training of its length
reaches. The test split stays closed.

`backbones.csv` has a row for each epoch of each network, size and seed, and `backbones.png` shows
them. Minutes are those of training and validation at the pace of the quickest epoch of that network
and size, as other work on the machine slows epochs down. The same command goes on where it stopped.
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("agg")
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter

from ensemble import train
from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table
from ensemble.base.provenance import describe_code_and_machine
from ensemble.cli import parse
from record import write_evidence

FOLDER = Path(__file__).parent
LITE0 = "timm/tf_efficientnet_lite0"
RECIPES = [f"{FOLDER / 'backbones.toml'}", f"{LITE0}={FOLDER / 'backbones_lite0.toml'}"]
NETWORKS = ["squeezenet1_1:128", "squeezenet1_1:192", f"{LITE0}:128", f"{LITE0}:224"]
FIGURES = {"val_f1": "validation F1", "val_average_precision": "validation AP"}


class Asked(NamedTuple):
    """A network to train.

    Attributes:
        backbone: Its name.
        image_size_px: Side of the tile, as it sees it.
        seed: Seed of the training.
        run: Folder of its run.
    """

    backbone: str
    image_size_px: int
    seed: int
    run: Path


def main() -> None:
    """Train network after network, and write table and picture anew after each."""
    options = _parse()
    asked = list_asked(options.network, options.seeds, options.out)
    if options.table_only:
        _write(asked, options.table)
        return
    for each in asked:
        train.main(parse("train", _words(options, each)))
        _write(asked, options.table)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0] + ".")
    add = parser.add_argument
    add("--data", required=True, metavar="PATH", help="folder or .zip of SDNET2018")
    add(
        "--network",
        nargs="+",
        default=NETWORKS,
        metavar="BACKBONE:PX",
        help=f"networks, each with a side of the tile (default: {' '.join(NETWORKS)})",
    )
    add("--weights", nargs="+", default=[], metavar="X", help="as scripts/train.py takes them")
    add("--seeds", type=int, nargs="+", default=[0, 1], metavar="N", help="(default: 0 1)")
    add(
        "--recipe",
        nargs="+",
        default=RECIPES,
        metavar="[BACKBONE=]FILE",
        help="recipe of all networks, or of one (default: those beside this script)",
    )
    add("--gpus", metavar="N", help="0 trains on the CPU (default: a GPU where there is one)")
    add("--table-only", action="store_true", help="train nothing; write what there is")
    add(
        "--out",
        type=Path,
        default=Path("results/backbones"),
        help="folder of the runs (default: results/backbones)",
    )
    add(
        "--table",
        type=Path,
        default=Path("results/evidence/backbones.csv"),
        metavar="FILE",
        help="(default: results/evidence/backbones.csv)",
    )
    return parser.parse_args()


def list_asked(networks: list[str], seeds: list[int], out: Path) -> list[Asked]:
    """List what is to be trained: all networks with the first seed, then with the next one.

    Raises:
        InputError: A network has no size.
    """
    asked = []
    for seed in seeds:
        for network in networks:
            backbone, _, side = network.rpartition(":")
            if not backbone or not side.isdecimal():
                raise InputError(f"--network {network}: give name and side, as in {NETWORKS[0]}")
            name = f"{backbone.replace('/', '-')}-{side}-seed-{seed}"
            asked.append(Asked(backbone, int(side), seed, out / name))
    return asked


def _words(options: argparse.Namespace, asked: Asked) -> list[str]:
    """What is typed behind `train`."""
    recipe = _last_of(options.recipe, asked.backbone)
    words = ["--recipe", recipe, "--data", options.data, "--backbone", asked.backbone]
    words += ["--image-size", str(asked.image_size_px), "--seed", str(asked.seed)]
    words += ["--name", asked.run.name, "--out", str(options.out)]
    if weights := _last_of(options.weights, asked.backbone):
        words += ["--weights", weights]
    return words + (["--gpus", options.gpus] if options.gpus is not None else [])


def _last_of(values: list[str], backbone: str) -> str:
    """The last value that is for a backbone, or for all; "" where there is none."""
    named = [value.rpartition("=") for value in values]
    return next((value for of, _, value in reversed(named) if of in ("", backbone)), "")


def _write(asked: list[Asked], path: Path) -> None:
    """Write the table of all epochs so far, where they came from, and the picture."""
    begun = [each for each in asked if (each.run / "epochs.csv").exists()]
    if not begun:
        raise InputError(f"{asked[0].run.parent}: no network has been trained for an epoch yet")
    table = tabulate(begun)
    networks = summarise(table)
    write_evidence(path, table.round(5), {"networks": networks, **_origin(begun)})
    draw(table, path.with_suffix(".png"))
    for each in networks:
        print(
            f"{each['network']}: AP {each['best_average_precision']:.3f}, F1 {each['best_f1']:.3f}"
            f" after {each['minutes_to_best_f1']:.0f} minutes (means of {each['seeds']} seeds)"
        )


def tabulate(begun: list[Asked]) -> pd.DataFrame:
    """Return a row for each epoch of runs, with the minutes that a training up to it takes."""
    parts = []
    for each in begun:
        epochs = read_table(each.run / "epochs.csv", columns=("epoch", *FIGURES))
        parts.append(
            pd.DataFrame(
                {
                    "network": f"{each.backbone}, {each.image_size_px} px",
                    "seed": each.seed,
                    "is_finished": _is_finished(each.run),
                    "epoch": epochs["epoch"],
                    "seconds": epochs["train_seconds"] + epochs["val_seconds"],
                    **{name: epochs[name] for name in FIGURES},
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    quickest = table.groupby("network")["seconds"].transform("min")
    table.insert(4, "minutes", table["epoch"] * quickest / 60)
    return table


def _is_finished(run: Path) -> bool:
    if not (run / "trials.csv").exists():
        return False
    return set(read_table(run / "trials.csv", columns=("state",))["state"]) == {"COMPLETE"}


def summarise(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Describe each network by the means over its seeds."""
    found = []
    for network, rows in table.groupby("network", sort=False):
        of_seeds = [of_seed for _, of_seed in rows.groupby("seed")]
        best = rows.loc[rows.groupby("seed")["val_f1"].idxmax()]
        found.append(
            {
                "network": network,
                "seeds": len(of_seeds),
                "are_finished": bool(rows["is_finished"].all()),
                "epochs": [len(of_seed) for of_seed in of_seeds],
                "seconds_of_the_quickest_epoch": float(rows["seconds"].min()),
                "best_f1": float(best["val_f1"].mean()),
                "minutes_to_best_f1": float(best["minutes"].mean()),
                "best_average_precision": float(
                    rows.groupby("seed")["val_average_precision"].max().mean()
                ),
            }
        )
    return found


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw the best figures up to each minute: a line for each seed, in its network's colour."""
    figure, axes = plt.subplots(1, len(FIGURES), figsize=(11, 4.2), layout="constrained")
    networks = list(dict.fromkeys(table["network"]))
    for axis, (name, what) in zip(axes, FIGURES.items(), strict=True):
        for (network, seed), rows in table.groupby(["network", "seed"], sort=False):
            number = networks.index(network)
            label = network if seed == table["seed"].min() else None
            axis.plot(rows["minutes"], rows[name].cummax(), color=f"C{number}", label=label)
            axis.plot(rows["minutes"], rows[name], ".", color=f"C{number}", alpha=0.5)
        axis.set(xlabel="minutes of training and validation", ylabel=what, xscale="log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _origin(begun: list[Asked]) -> dict[str, Any]:
    """Data, split, weights and settings of the runs.

    Raises:
        InputError: They have different splits.
    """
    about = [read_object(each.run / "run.json", split_digest=str) for each in begun]
    first, summary = about[0], about[0]["data_summary"]
    if any(other["split_digest"] != first["split_digest"] for other in about):
        raise InputError(f"{begun[0].run.parent}: runs of different data; give another --out")
    return {
        "data": Path(first["data"]).name,
        "num_tiles": summary["num_tiles"],
        "num_photographs": summary["num_photographs"],
        "split_digest": first["split_digest"],
        "initial_weights": {b: w["digest"] for a in about for b, w in a["weights"].items()},
        "recipes": {a["recipe"]["name"]: a["recipe"] for a in about},
        "trained_at_commit": sorted({str(a["commit"]) for a in about}),
        "threads": sorted({a["threads"] for a in about}),
        **describe_code_and_machine(),
    }


if __name__ == "__main__":
    run_command(main)
