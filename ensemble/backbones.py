"""python -m ensemble.backbones: the networks that can be trained, with what they cost."""

from ensemble.cli import start

if __name__ == "__main__":  # before the imports below, which take seconds
    start("backbones")

import argparse
from typing import Any

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.progress_bar import progress_bar
from ensemble.training.backbone_table import BACKBONES, TIMM, find_nearest
from ensemble.training.cost import BackboneCost, count_backbone
from ensemble.training.initial_weights import find_licence, find_weights
from ensemble.training.timm_networks import find_names, list_networks

MOST_COUNTED = 40  # networks that are built to be counted; of more, names alone are listed


def main(options: argparse.Namespace) -> list[dict[str, Any]]:
    """List the networks that match, with parameters, multiply-adds and weights if they are few."""
    names = [*BACKBONES] if options.pattern is None else find_names(options.pattern)
    if not names:
        nearest = find_nearest(options.pattern, [*BACKBONES, *list_networks()])
        like = f" (like it: {', '.join(nearest)})" if nearest else ""
        raise InputError(
            f"{options.pattern}: no backbone of such a name{like}; * stands for anything, as in "
            f"'{TIMM}*lite*'"
        )
    if len(names) > MOST_COUNTED:
        with printing_result():
            print("\n".join(names))
        print(f"{len(names)} names; a pattern that {MOST_COUNTED} or fewer match shows costs, too")
        return [{"name": name} for name in names]
    listed: list[tuple[BackboneCost, str]] = []
    with progress_bar() as bar:
        for name in bar.track(names, description="counting"):
            listed.append((count_backbone(name, options.size), find_weights(name)))
    with printing_result():
        _print_table([row for row in listed if not row[0].refusal], options.size)
        _print_refused([cost for cost, _ in listed if cost.refusal])
    if options.pattern is None:
        print(
            f"there are over 1,300 more of timm's: {spell_command('backbones')} '{TIMM}convnext*' "
            "lists some"
        )
    return [
        cost._asdict() | {"weights": weights, "licence": find_licence(cost.name)}
        for cost, weights in listed
    ]


def _print_table(rows: list[tuple[BackboneCost, str]], size: int) -> None:
    """Print a line for each network with what it costs, and say what the numbers are."""
    if not rows:
        return
    width = max(len(cost.name) for cost, _ in rows)
    print(f"{'name':{width}}{'parameters':>14}{'multiply-adds':>16}  {'weights':13}their licence")
    for cost, weights in rows:
        where = "" if cost.side_px == size else f" at {cost.side_px}"
        counts = f"{cost.multiply_adds / 1e6:,.0f}{where}"
        line = f"{cost.name:{width}}{cost.parameters / 1e6:>12,.2f} M{counts:>16}"
        print(f"{line}  {weights:13}{find_licence(cost.name)}".rstrip())
    print(
        f"multiply-adds are millions for an image of {size} px; a network that takes none of that "
        "size is counted at the size that its row gives"
    )


def _print_refused(costs: list[BackboneCost]) -> None:
    """Print the networks that match and cannot be trained, below the reason."""
    for reason in dict.fromkeys(cost.refusal for cost in costs):
        names = [cost.name for cost in costs if cost.refusal == reason]
        what = "this one cannot be a backbone" if len(names) == 1 else "these cannot be backbones"
        print(f"{what} ({reason}):")
        print("\n".join(f"  {name}" for name in names))
