"""What options of several commands share: the version, and numbers checked by their option.

A number that is none or out of its range is refused in the words of the command line, before
anything is read: the person typed `--epochs`, not `optimisation.epochs`.
"""

import argparse
import math
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ensemble.base.errors import InputError, short_repr

SPACES = Path(__file__).parents[2] / "search_spaces"
RECIPES = SPACES / "recipes"
METHODS = ("mean", "greedy", "weighted", "soup", "auto")  # of choosing an ensemble
NUM_CONVOLUTIONS = 12  # that `look` draws, unless --all
MOST_EPOCHS = 10_000
LEAST_IMAGE_PX, MOST_IMAGE_PX = 16, 1024
MOST_SEED = 2**63 - 1


def new_parser(prog: str, description: str, **settings: Any) -> argparse.ArgumentParser:
    """A parser with what every command has: help and the version of this package.

    Args:
        prog: How the command is typed.
        description: What it does.
        settings: Further ones of argparse's.
    """
    parser = argparse.ArgumentParser(prog=prog, description=description, **settings)
    try:
        shown = version("crack-ensemble")
    except PackageNotFoundError:
        shown = "of a folder that is not installed"
    parser.add_argument("--version", action="version", version=f"crack-ensemble {shown}")
    return parser


def whole_number(option: str, *, least: int, most: int | None = None) -> Callable[[str], int]:
    """A `type` of argparse: a whole number from `least` to `most`.

    Args:
        option: As it is typed, for the error.
        least: Smallest allowed number.
        most: Largest allowed one.
    """
    wanted = f"at least {least}" if most is None else f"from {least} to {most}"

    def parse(given: str) -> int:
        try:
            number = int(given)
        except ValueError:
            shown = short_repr(given)
            raise InputError(f"{option} {shown}: must be a whole number, {wanted}") from None
        if number < least or (most is not None and number > most):
            raise InputError(f"{option} {number}: must be {wanted}")
        return number

    return parse


def positive_number(option: str, *, most: float = math.inf) -> Callable[[str], float]:
    """A `type` of argparse: a finite number above 0.

    Args:
        option: As it is typed, for the error.
        most: Largest allowed number.
    """
    wanted = "finite and above 0" if most == math.inf else f"above 0, at most {most:g}"

    def parse(given: str) -> float:
        try:
            number = float(given)
        except ValueError:
            raise InputError(f"{option} {short_repr(given)}: must be a number, {wanted}") from None
        if not 0 < number <= most or number == math.inf:
            raise InputError(f"{option} {number:g}: must be {wanted}")
        return number

    return parse


EPOCHS = whole_number("--epochs", least=1, most=MOST_EPOCHS)
IMAGE_SIZE = whole_number("--image-size", least=LEAST_IMAGE_PX, most=MOST_IMAGE_PX)
SEED = whole_number("--seed", least=0, most=MOST_SEED)
