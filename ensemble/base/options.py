"""The parser of every command, and the numbers that its options take.

A number that is none or out of its range is refused in the words of the command line, before
anything is read: the person typed `--epochs`, not `optimisation.epochs`.
"""

import argparse
import difflib
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ensemble.base.errors import InputError, short_repr
from ensemble.base.version import __version__

SPACES = Path(__file__).parents[1] / "search_spaces"
RECIPES = SPACES / "recipes"
FORMS = ("zip", "onnx", "pt2")  # of an exported ensemble
METHODS = {  # ways of choosing an ensemble, and how an ensemble of theirs is described
    "mean": "mean of {count} members",
    "greedy": "greedy selection of {count} members",
    "weighted": "weighted mean of {count} members",
    "soup": "one network whose weights are the mean of {count}",
}
SAMPLERS: dict[str, tuple[str, dict[str, bool]]] = {  # classes of optuna.samplers, and settings
    "tpe": ("TPESampler", {"multivariate": True, "group": True}),  # group: conditional parameters
    "random": ("RandomSampler", {}),
    "gp": ("GPSampler", {}),
    "qmc": ("QMCSampler", {"scramble": True, "warn_independent_sampling": False}),
}
DEFAULT_OUT = Path("results")
NUM_CONVOLUTIONS = 12  # that `look` draws, unless --all
OVERLAPS = {0.0: 1, 0.5: 2, 0.75: 4}  # part of a tile's side that overlaps → grids each way
OVERLAPS_IN_WORDS = "{:g}, {:g} or {:g}".format(*OVERLAPS)
MOST_EPOCHS = 10_000
LEAST_IMAGE_PX, MOST_IMAGE_PX = 16, 1024
DEFAULT_IMAGE_PX = 224
MOST_SEED = 2**63 - 1


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line that begins with the option, as those of all commands."""

    def __init__(self, prog: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
        add = self.add_argument
        version = f"crack-ensemble {__version__}"
        add("--version", action="version", version=version, help="print the version, and end")

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Args:
            message: What argparse says of it.

        Raises:
            InputError: Always.
        """
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            order = [str(each.metavar) for each in self._actions if not each.option_strings]
            message = f"{missing} is missing: {' '.join([self.prog, *order])}"
        message += self._suggest(message)
        message = re.sub(r"^argument (\S+): (?=.*: must be )", r"\1 ", message)  # of a number
        raise InputError(f"{message.removeprefix('argument ')}; see {self.prog} --help") from None

    def _suggest(self, message: str) -> str:
        """Ask whether what argparse does not know was meant as what is spelt alike, or ""."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice is not None:
            typed, known = [choice[1]], re.findall(r"[^\s,']+", choice[2])
        elif message.startswith("unrecognized arguments: "):
            typed = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
            known = [name for action in self._actions for name in action.option_strings]
        else:
            return ""
        alike = [near for word in typed for near in difflib.get_close_matches(word, known, 1)]
        return f"; did you mean {' '.join(alike)}?" if alike else ""


def add_option(
    group: argparse._ActionsContainer,
    name: str,
    metavar: str | None,
    about: str,
    *,
    default: Any = None,
    otherwise: str = "",
    **settings: Any,
) -> None:
    """Add an option with a value, and say its default.

    Args:
        group: Parser, or group of one.
        name: Option, or positional argument.
        metavar: What stands for the value in help; None lists the choices.
        about: What the value is.
        default: Value without the option.
        otherwise: In words what happens without the option, where `default` does not say it.
        settings: Further settings of argparse.
    """
    if otherwise or default is not None:
        about += f" (default: {otherwise or default})"
    group.add_argument(name, metavar=metavar, default=default, help=about, **settings)


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """A `type` of argparse: a whole number from `least` to `most`."""
    wanted = f"at least {least}" if most is None else f"from {least} to {most}"

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise _refused(short_repr(text), f"a whole number, {wanted}") from None
        if number < least or (most is not None and number > most):
            raise _refused(str(number), wanted)
        return number

    return parse


def positive_number(most: float = math.inf) -> Callable[[str], float]:
    """A `type` of argparse: a finite number above 0, and at most `most`."""
    wanted = "finite and above 0" if most == math.inf else f"above 0, at most {most:g}"

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise _refused(short_repr(text), f"a number, {wanted}") from None
        if not 0 < number <= most or number == math.inf:
            raise _refused(f"{number:g}", wanted)
        return number

    return parse


def read_overlap(text: str) -> float:
    """Read one of `OVERLAPS`, as a `type` of argparse."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number not in OVERLAPS:
        raise _refused(short_repr(text), OVERLAPS_IN_WORDS)
    return number


def read_setting(text: str) -> tuple[str, Any]:
    """Read SETTING=VALUE, as a `type` of argparse; the value is one of TOML's, null, or text."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise _refused(short_repr(text), "SETTING=VALUE, such as data.context_px=0")
    if value == "null":
        return name, None
    try:
        loaded = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return name, value
    return name, loaded["value"] if len(loaded) == 1 else value


def _refused(value: str, wanted: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{value}: must be {wanted}")


COUNT, COUNT_OR_NONE = whole_number(1), whole_number(0)
EPOCHS = whole_number(1, MOST_EPOCHS)
FOLDS = whole_number(2, 20)
IMAGE_SIZE = whole_number(LEAST_IMAGE_PX, MOST_IMAGE_PX)
SEED = whole_number(0, MOST_SEED)
TILE_SIDE = whole_number(16, 4096)
