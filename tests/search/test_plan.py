"""What a search says before anything is read or written."""

from pathlib import Path

import pytest

from ensemble.cli import parse
from ensemble.search.command import read_request
from ensemble.search.plan import plan_search


def lines_of_plan(out: Path, space: str) -> list[str]:
    said: list[str] = []
    words = ["--data", "synthetic", "--space", space, "--name", "new", "--out", str(out)]
    request = read_request(parse("search", [*words, "--gpus", "0", "--workers-per-trial", "1"]))
    plan_search(request, None, said.append)
    return said


@pytest.mark.parametrize(
    ("space", "network"), [("sdnet2018", "convnext_tiny"), ("sdnet2018_large", "swin_v2_t")]
)
def test_large_networks_without_a_gpu_are_said_to_take_long_in_one_line(space, network, tmp_path):
    _budget, warning = lines_of_plan(tmp_path, space)
    assert warning.startswith(f"no GPU is used: {network} takes ")
    assert warning.endswith(" px, so a trial may take hours; --space cpu is made for CPUs")


@pytest.mark.parametrize("space", ["cpu", "demo"])
def test_small_networks_without_a_gpu_are_not_warned_of(space, tmp_path):
    assert len(lines_of_plan(tmp_path, space)) == 1
