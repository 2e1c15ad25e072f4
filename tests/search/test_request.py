"""What a search is asked, from the options of its command."""

import re
from dataclasses import asdict

from ensemble.cli import parse
from ensemble.search.command import read_request


def test_every_option_of_the_search_is_in_its_request():
    options = vars(parse("search", ["--data", "tiles", "--keep", "3"]))
    request = asdict(read_request(parse("search", ["--data", "tiles", "--keep", "3"])))
    layout = {"positive", "photographs", "photograph_pattern", "exclude", "labels", "split"}
    assert options.keys() - layout - {"quiet", "json"} == request.keys() - {"layout"}
    assert all(options[name] == value for name, value in request.items() if name != "layout")


def test_a_request_names_its_run_once_after_the_space_and_the_time():
    words = ["--data", "tiles", "--space", "spaces/mine.toml", "--leaky-split"]
    request = read_request(parse("search", words)).named()
    assert re.fullmatch(r"mine-leaky-\d{8}-\d{6}", request.name or "")
    assert request.named() == request
