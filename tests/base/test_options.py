"""Options: a number that cannot be is refused by the name of its option, whichever command."""

import argparse

import pytest

from ensemble import cli
from ensemble.base.errors import InputError
from ensemble.base.options import LEAST_IMAGE_PX, MOST_EPOCHS, MOST_IMAGE_PX, MOST_SEED
from ensemble.training.config import parse_config

PARSERS = ("search", "train")
NUMBERS = [
    (command, action.option_strings[0])
    for command in PARSERS
    for action in cli.new_parser(command)._actions
    if action.metavar in ("N", "PX", "H", "MINUTES")
]


def parse(command: str, *words: str) -> argparse.Namespace:
    needed = ["--data", "tiles"] if command == "search" else ["--recipe", "small-cnn"]
    return cli.parse(command, [*needed, *words])


def test_all_numbers_of_the_commands_are_meant():
    assert len(NUMBERS) > 15
    assert ("search", "--trial-timeout") in NUMBERS
    assert ("train", "--epochs") in NUMBERS


@pytest.mark.parametrize(("command", "option"), NUMBERS)
@pytest.mark.parametrize("given", ["-1", "many", "nan", "inf", "1e999", "9" * 5000, ""])
def test_a_number_that_cannot_be_is_refused_by_its_option(command, option, given):
    with pytest.raises(InputError, match=rf"^{option} \S.{{0,110}}: must be ") as caught:
        parse(command, option, given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "section", "name", "least", "most"),
    [
        ("--epochs", "optimisation", "epochs", 1, MOST_EPOCHS),
        ("--image-size", "data", "image_size_px", LEAST_IMAGE_PX, MOST_IMAGE_PX),
        ("--seed", None, "seed", 0, MOST_SEED),
    ],
)
def test_options_take_what_a_configuration_takes(option, section, name, least, most):
    def configure(value: int) -> None:
        setting = {name: value} if section is None else {section: {name: value}}
        parse_config({"model": {"backbone": "small_cnn"}, **setting}, where="test")

    for value in (least, most):
        for command in PARSERS:
            parse(command, option, str(value))
        configure(value)
    for value in (least - 1, most + 1):
        for command in PARSERS:
            with pytest.raises(InputError, match=rf"^{option} {value}: must be from "):
                parse(command, option, str(value))
        with pytest.raises(InputError):
            configure(value)


def test_train_and_search_take_the_same_options_of_data():
    found = [
        {a.option_strings[0]: a.help for a in cli.new_parser(command)._actions if a.option_strings}
        for command in PARSERS
    ]
    for option in ("--positive", "--max-bad-tiles", "--split-seed"):
        assert found[0][option] == found[1][option]
    assert found[1]["--data"] == f"{found[0]['--data']} (default: synthetic)"
