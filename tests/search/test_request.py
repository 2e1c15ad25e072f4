"""What a search is asked, from the options of its command."""

import re
from dataclasses import asdict

import pytest

from ensemble import train
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.search.command import read_request, run_search


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


@pytest.mark.parametrize("data", ["nowhere", "photos"])
def test_data_that_will_not_do_are_told_before_anything_is_asked_of_weights(
    tmp_path, monkeypatch, data
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    words = ["--data", data, "--space", "cpu", "--gpus", "0", "--weights", "resnet18=gone.pth"]
    typed = parse("search", [*words, "--backbone", "resnet18"])
    with pytest.raises(InputError, match=rf"^--data \S*{data}: no "):
        run_search(read_request(typed))
    recipe = ["--recipe", "small-cnn", "--data", data, "--weights", "gone.pth"]
    with pytest.raises(InputError, match=rf"^--data \S*{data}: no "):
        train.main(parse("train", recipe))
