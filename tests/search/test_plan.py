"""What a search says of the networks that it will train, before it trains any."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.data.synthetic import draw_dataset
from ensemble.search.command import read_request, run_search
from ensemble.search.plan import warn_of_large_networks
from ensemble.search.space_file import load_space

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.mark.parametrize(
    ("space", "network", "seen"),
    [
        # multiply-adds at 224 px, times (336 / 224)² and (384 / 224)²
        (
            "sdnet2018",
            "timm/hgnetv2_b4.ssld_stage2_ft_in1k",
            "6.1 billion multiply-adds an image of 336 px (56",
        ),
        (
            "sdnet2018_large",
            "timm/convnext_small.in12k_ft_in1k",
            "25.5 billion multiply-adds an image of 384 px (64",
        ),
    ],
)
def test_large_networks_without_a_gpu_are_said_to_take_long_in_one_line(space, network, seen):
    (warning,) = warn_of_large_networks(load_space(SPACES / f"{space}.toml"), 256)
    assert warning.startswith(f"no GPU is used: {network} takes {seen}")
    assert warning.endswith(
        " of them a margin on each side), so a trial may take hours; --space cpu is made for CPUs"
    )


@pytest.mark.parametrize("space", ["cpu", "demo"])
def test_small_networks_without_a_gpu_are_not_warned_of(space):
    assert warn_of_large_networks(load_space(SPACES / f"{space}.toml"), 128) == []


def test_a_recipe_is_no_space_and_the_message_says_where_it_belongs(tmp_path):
    words = ["--data", "synthetic", "--space", "small-cnn", "--out", str(tmp_path)]
    with pytest.raises(InputError, match="--space small-cnn: is a recipe, which `train --recipe`"):
        run_search(read_request(parse("search", words)), Console(file=io.StringIO()))


def test_data_that_are_no_zip_are_refused_before_weights_are_asked_for(tmp_path):
    (tmp_path / "README.md").write_text("no tiles")
    words = ["--data", str(tmp_path / "README.md"), "--space", "sdnet2018", "--gpus", "0"]
    request = read_request(parse("search", [*words, "--name", "new", "--out", str(tmp_path)]))
    said = io.StringIO()
    with pytest.raises(InputError, match=r"README\.md: not a readable \.zip .* name its folder"):
        run_search(request, Console(file=said, width=200))
    assert "download" not in said.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md"]


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", ""])
def test_what_is_no_address_of_mlflow_is_refused_before_a_tile_is_drawn(tmp_path, uri):
    words = ["--data", "synthetic", "--space", "demo", "--gpus", "0", "--out", str(tmp_path)]
    request = read_request(parse("search", [*words, f"--mlflow={uri}"]))
    with pytest.raises(InputError, match=f"--mlflow {uri}: expected the address of a server"):
        run_search(request, Console(file=io.StringIO()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("context_px", [0, 16])
def test_a_search_counts_the_margin_of_the_tiles_that_it_read(tmp_path, context_px):
    """Half a tile on each side makes four times 679 million multiply-adds of them."""
    draw_dataset(tmp_path / "tiles", photographs_per_surface=3, rows=3, columns=3, tile_size_px=32)
    (tmp_path / "space.toml").write_text(
        'question = "?"\nweights = "none"\n[default.model]\nbackbone = "small_cnn_deep"\n'
        f"[default.data]\nimage_size_px = 224\ncontext_px = {context_px}\n"
    )
    (tmp_path / "new").mkdir()  # no run, which ends the search before it starts Ray
    words = ["--data", tmp_path / "tiles", "--space", tmp_path / "space.toml", "--gpus", 0]
    request = read_request(
        parse("search", [*map(str, words), "--name", "new", "--out", str(tmp_path)])
    )
    said = io.StringIO()
    with pytest.raises(InputError, match="new exists and is no run"):
        run_search(request, Console(file=said, width=200))
    warning = "small_cnn_deep takes 2.7 billion multiply-adds an image of 448 px (112 of them"
    assert (warning in said.getvalue()) == bool(context_px)
