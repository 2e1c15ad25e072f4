"""A search is asked for in the same words, with the same defaults, in a shell and in Python."""

import re

from ensemble.cli import parse
from ensemble.search.command import _read_request
from ensemble.search.request import SearchRequest


def test_the_command_line_and_python_have_the_same_defaults():
    options = parse("search", ["--data", "tiles"])
    options.weights = tuple(options.weights)
    assert _read_request(options) == SearchRequest(data="tiles")


def test_a_request_names_its_run_once_after_the_space_and_the_time():
    request = SearchRequest(data="tiles", space="spaces/mine.toml", leaky_split=True).named()
    assert re.fullmatch(r"mine-leaky-\d{8}-\d{6}", request.name or "")
    assert request.named() == request
