"""Facts about looking into a member: whose maps are drawn, how, of which tile, what is refused."""

import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, write_json
from ensemble.cli import parse
from ensemble.data.batches import SplitTiles, place_tiles
from ensemble.explanation.activation import draw_heat_bar
from ensemble.explanation.feature_maps import (
    BAR_PX,
    CAPTION_PX,
    MARGIN_PX,
    NUM_CHANNELS,
    TILE_PX,
    Convolution,
    filter_pictures,
    find_feature_maps,
    map_levels,
)
from ensemble.look import main
from ensemble.prediction.single_tile import (
    ScoredTile,
    describe_verdict,
    draw_look,
    find_picture,
    read_tile,
)
from ensemble.run.members import find_member, find_run_of
from ensemble.training.backbone_table import BACKBONES
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, drop_weights, open_member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import fit

TILE = (32, 32)
DARK, BRIGHT = 50, 170


def make_model(backbone: str) -> Any:
    """Random weights, and statistics of BatchNorm that are not 0 and 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(backbone)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                module.running_mean.uniform_(-0.1, 0.1)
    return model.eval()


def make_image(side: int = 64) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def assert_strongest_of(convolution: Convolution, maps: Tensor) -> None:
    """`maps` (1, C, h, w) are what the convolution passes on."""
    means = maps[0].abs().mean((1, 2))
    expected = means.sort(descending=True).values[: len(convolution.channels)]
    np.testing.assert_allclose(means[convolution.channels], expected)
    np.testing.assert_allclose(convolution.maps, maps[0][convolution.channels], rtol=1e-5)


# --- whose maps


@torch.no_grad()
def test_map_is_what_follows_normalisation_and_activation() -> None:
    model, image = make_model("small_cnn"), make_image()
    found = find_feature_maps(model, image, most=5)
    assert list(found) == ["features.0", "features.4", "features.8"]
    assert [convolution.maps.shape for convolution in found.values()] == [
        (5, 64, 64),
        (5, 32, 32),
        (5, 16, 16),
    ]
    assert_strongest_of(found["features.0"], model.features[:3](image))
    assert_strongest_of(found["features.8"], model.features[:11](image))


@torch.no_grad()
def test_map_before_a_residual_is_added_is_without_it() -> None:
    """ResNet adds in place, and calls one ReLU before and after it."""
    model, image = make_model("resnet18"), make_image()
    found = find_feature_maps(model, image)
    before = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    block = model.layer1[0]
    inner = torch.relu(block.bn1(block.conv1(before)))
    assert_strongest_of(found["layer1.0.conv1"], inner)
    assert_strongest_of(found["layer1.0.conv2"], block.bn2(block.conv2(inner)))
    block, before = model.layer2[0], model.layer1(before)
    assert_strongest_of(found["layer2.0.downsample.0"], block.downsample(before))


@torch.no_grad()
@pytest.mark.parametrize(
    ("backbone", "name", "passed_on"),
    [
        ("squeezenet1_1", "features.0", lambda m: m.features[:2]),  # ReLU
        ("mobilenet_v2", "features.0.0", lambda m: m.features[0]),  # BatchNorm, ReLU6
        ("mobilenet_v3_small", "features.0.0", lambda m: m.features[0]),  # BatchNorm, Hardswish
        ("efficientnet_b0", "features.0.0", lambda m: m.features[0]),  # BatchNorm, SiLU
        ("convnext_tiny", "features.0.0", lambda m: m.features[0]),  # LayerNorm
        (
            "timm/test_efficientnet",
            "conv_stem",
            lambda m: nn.Sequential(m.conv_stem, m.bn1),
        ),  # both
        ("swin_v2_t", "features.0.0", lambda m: m.features[0][0]),  # nothing: LayerNorm is turned
    ],
)
def test_first_map_of_each_family_is_what_its_stem_passes_on(
    backbone: str, name: str, passed_on: Callable[[Any], nn.Module]
) -> None:
    model, image = make_model(backbone), make_image()
    found = find_feature_maps(model, image)
    assert_strongest_of(found[name], passed_on(model)(image))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_convolution_but_gates_has_maps_and_the_network_stays(backbone: str) -> None:
    model = make_model(backbone)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = find_feature_maps(model, make_image())
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    gates = {name for name in convolutions if name.endswith((".fc1", ".fc2"))}
    assert set(found) == set(convolutions) - gates
    for name, convolution in found.items():
        count = min(NUM_CHANNELS, convolutions[name].out_channels)
        assert len(set(convolution.channels)) == len(convolution.maps) == count
        assert np.isfinite(convolution.maps).all()
        assert 0 <= map_levels(convolution).min() <= map_levels(convolution).max() <= 1
        pictures = filter_pictures(convolution)
        assert pictures.shape[0] == count
        assert 0 <= pictures.min() <= pictures.max() <= 1
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


# --- how they are drawn


def convolution_of(
    weights: Any, *, groups: int = 1, channels: tuple[int, ...] = (0,)
) -> Convolution:
    """A convolution with these weights (O, I, h, w)."""
    tensor = torch.tensor(weights, dtype=torch.float32)
    outputs, inputs, *kernel = tensor.shape
    module = nn.Conv2d(inputs * groups, outputs, kernel, groups=groups)
    module.weight.data = tensor
    return Convolution(module, np.array(channels), np.zeros((len(channels), 1, 1), np.float32))


def test_filter_that_sees_the_tile_is_in_colour() -> None:
    red_minus_blue = [[[[1.0]], [[0.0]], [[-0.5]]]]
    assert filter_pictures(convolution_of(red_minus_blue)).tolist() == [[[[1.0, 0.5, 0.25]]]]


def test_later_filter_is_the_mean_over_its_inputs_in_grey() -> None:
    weights = np.zeros((3, 4, 3, 3))
    weights[1, :, 0, 0] = [3, 1, 0, 0]  # 1 on average
    weights[1, :, 2, 1] = [-2, 0, 0, 0]  # −0.5
    first, second = filter_pictures(convolution_of(weights, channels=(1, 2)))
    expected = np.full((3, 3), 0.5)
    expected[0, 0], expected[2, 1] = 1, 0.25
    assert np.array_equal(first, np.stack([expected] * 3, axis=-1))
    assert (second == 0.5).all()  # a filter of zeros


def test_filter_with_one_input_is_shown_as_it_is() -> None:
    weights = np.array([[[[2.0, -2.0]]], [[[1.0, 0.5]]], [[[0.0, 1.0]]]])
    found = filter_pictures(convolution_of(weights, groups=3, channels=(1,)))
    assert found[0, 0, :, 0].tolist() == [1.0, 0.75]


def test_filter_of_one_place_is_a_square_of_its_weights() -> None:
    weights = np.array([4.0, -4.0, 2.0, 0.0, 0.0]).reshape(1, 5, 1, 1)
    (found,) = filter_pictures(convolution_of(weights))
    assert found[..., 0].tolist() == [[1.0, 0.0, 0.75], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]


def test_levels_of_a_map_begin_at_0_or_below_and_each_map_has_its_own() -> None:
    maps = np.array([[[1.0, 4.0]], [[-1.0, 3.0]], [[0.0, 0.0]], [[-2.0, -2.0]]], np.float32)
    convolution = Convolution(nn.Conv2d(1, 4, 1), np.arange(4), maps)
    assert map_levels(convolution)[:, 0].tolist() == [[0.25, 1], [0, 1], [0, 0], [0, 0]]


# --- the command


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory,
    make_bright_and_dark: Callable[..., SplitTiles],
    make_trial_config: Callable[..., TrialConfig],
    write_member: Callable[..., Member],
) -> Path:
    """A folder with `results/one`: members 0, 3 (bright is cracked) and 12 (failed)."""
    here = tmp_path_factory.mktemp("here")
    run = here / "results" / "one"
    torch.manual_seed(0)
    model = build_model("small_cnn")
    config = make_trial_config(optimisation={"learning_rate": 0.01})
    list(fit(model, config, make_bright_and_dark(96), make_bright_and_dark(32, seed=1)))
    for trial, val_f1 in ((0, 0.5), (3, 0.75), (12, 0.9)):
        folder = run / "members" / f"{trial:04}"
        write_member(folder, trial=trial, val_f1=val_f1, model=model if trial == 3 else None)
    write_json(run / "run.json", {"split_digest": "split", "tile_size_px": list(TILE)})
    table = {"trial": [0, 3, 12], "state": ["COMPLETE", "PRUNED", "FAIL"]}
    pd.DataFrame(table).to_csv(run / "trials.csv", index=False)
    Image.new("RGB", TILE, (BRIGHT,) * 3).save(here / "bright.png")
    photograph = Image.new("RGB", (96, 64), (DARK,) * 3)
    photograph.paste((BRIGHT,) * 3, (64, 32, 96, 64))
    photograph.save(here / "photograph.png")
    return here


@pytest.fixture(autouse=True)
def in_the_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)


def refusal(member: str, *arguments: str) -> str:
    with pytest.raises(InputError) as refused:
        main(parse("look", [*arguments, "--member", member]))
    assert len(str(refused.value).splitlines()) == 1
    assert not Path("look.png").exists()
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "trial"),
    [
        ("one", 3),  # the best of those that did not fail
        ("results/one", 3),
        ("one/0", 0),
        ("one/0012", 12),
        ("results/one/0003/", 3),
        ("results/one/members/0000", 0),
    ],
)
def test_member_is_found_by_folder_by_trial_or_as_the_best_of_a_run(name: str, trial: int) -> None:
    member = find_member(name, under=Path("results"))
    assert member.trial == trial
    assert find_run_of(member) == Path("results/one").resolve()


def test_best_member_is_one_that_kept_its_weights(
    tmp_path: Path, write_member: Callable[..., Member]
) -> None:
    for trial in (0, 1):
        write_member(tmp_path / "members" / f"{trial:04}", trial=trial, val_f1=0.5 + trial / 10)
    write_json(tmp_path / "run.json", {"split_digest": "split"})
    (tmp_path / "trials.csv").write_text("trial,state\n0,COMPLETE\n1,COMPLETE\n")
    assert find_member(str(tmp_path), under=tmp_path).trial == 1
    drop_weights(tmp_path / "members" / "0001")
    assert find_member(str(tmp_path), under=tmp_path).trial == 0
    drop_weights(tmp_path / "members" / "0000")
    with pytest.raises(InputError, match="no finished trial with weights"):
        find_member(str(tmp_path), under=tmp_path)


def look_at(name: str, member: Member, run: Path = Path("results/one")) -> ScoredTile:
    with ExitStack() as archives:
        return read_tile(find_picture(name, run, archives), member, run)


def test_of_a_photograph_the_likeliest_tile_is_taken() -> None:
    member = open_member(Path("results/one/members/0003"))
    tile = look_at("photograph.png", member)
    assert tile.name == "photograph.png, tile r2-c3 of 6"
    assert (tile.pixels == BRIGHT).all()
    alone = look_at("bright.png", member)
    assert alone.name == "bright.png"
    assert alone.probability == pytest.approx(tile.probability)
    assert tile.probability > 0.5


def test_picture_of_another_size_is_made_a_tile() -> None:
    Image.new("RGB", (40, 24), (DARK,) * 3).save("other.png")
    tile = look_at("other.png", open_member(Path("results/one/members/0003")))
    assert tile.pixels.shape == (*TILE, 3)
    assert tile.probability < 0.5


@pytest.fixture(params=["folder", ".zip"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the run, whose data set has `D/CD/7001-1.png`, a bright tile."""
    data = tmp_path / "tiles"
    (data / "D" / "CD").mkdir(parents=True)
    shutil.copy("bright.png", data / "D" / "CD" / "7001-1.png")
    if request.param == ".zip":
        with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
            archive.write(data / "D" / "CD" / "7001-1.png", "D/CD/7001-1.png")
        shutil.rmtree(data)
        data = tmp_path / "tiles.zip"
    run = tmp_path / "of-data"
    shutil.copytree("results/one", run)
    write_json(run / "run.json", {**read_object(run / "run.json"), "data": str(data)})
    return run


def test_tile_of_the_data_set_is_found_by_its_name_there(run: Path, tmp_path: Path) -> None:
    main(
        parse(
            "look",
            ["--member", f"{run}/3", "D/CD/7001-1.png", "--png", str(tmp_path / "by-name.png")],
        )
    )
    member = open_member(run / "members" / "0003")
    tile = look_at("D/CD/7001-1.png", member, run)
    assert tile.name == "D/CD/7001-1.png"
    assert (tile.pixels == BRIGHT).all()
    assert tile.probability == look_at("bright.png", member).probability


@pytest.mark.parametrize(("label", "name"), [(0, "uncracked"), (1, "cracked")])
def test_label_of_a_tile_that_the_run_knows_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], label: int, name: str
) -> None:
    table = {"tile": ["D/CD/7001-1.png"], "photograph": ["7001"], "label": [label]}
    places = {"row_in_photograph": [0], "column_in_photograph": [0]}
    pd.DataFrame(table | places).to_csv(run / "validation.csv", index=False)
    png = str(tmp_path / "labelled.png")
    said = main(parse("look", ["--member", f"{run}/3", "D/CD/7001-1.png", "--png", png]))
    assert said["label"] == label
    assert f"best on validation); labelled {name}\n" in capsys.readouterr().out
    pd.DataFrame(table | places | {"label": [2]}).to_csv(run / "validation.csv", index=False)
    with pytest.raises(InputError, match="a label is neither 0 nor 1"):
        main(parse("look", ["--member", f"{run}/3", "D/CD/7001-1.png", "--png", png]))


def test_file_of_that_name_goes_before_the_tile_of_the_data_set(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("D/CD").mkdir(parents=True)
    Image.new("RGB", TILE, (DARK,) * 3).save("D/CD/7001-1.png")
    tile = look_at("D/CD/7001-1.png", open_member(run / "members" / "0003"), run)
    assert (tile.pixels == DARK).all()


def test_tile_that_is_nowhere_is_refused_with_where_it_was_looked_for(run: Path) -> None:
    message = refusal(f"{run}/3", "D/CD/7001-2.png")
    data = read_object(run / "run.json")["data"]
    assert f"D/CD/7001-2.png: no such picture, and no tile of that name in {data}" in message
    assert message.endswith("give a picture's path, or a tile's name as in of-data/validation.csv")


def test_tile_of_a_data_set_that_is_gone_is_refused_with_the_place_it_had(run: Path) -> None:
    data = Path(read_object(run / "run.json")["data"])
    data.rename(data.with_name("elsewhere"))
    message = refusal(f"{run}/3", "D/CD/7001-1.png")
    assert f"the data set of of-data is not in its place ({data})" in message
    assert message.endswith("give a picture's path, or put the data set back")


def test_picture_shows_the_tile_and_three_convolutions(capsys: pytest.CaptureFixture[str]) -> None:
    main(parse("look", ["--member", "one/3", "bright.png", "--png", "three.png"]))
    verdict, written = capsys.readouterr().out.splitlines()
    assert verdict.startswith("bright.png: probability of a crack ")
    assert written == "written: three.png"
    with Image.open("three.png") as image:
        picture = np.asarray(image.convert("RGB"))
    assert (picture[20:200, 20:200] == BRIGHT).all()
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("probability", "threshold", "verdict"),
    [
        (0.4, 0.4, ": called cracked (cracked from 0.400, best on validation)"),
        (0.399, 0.4, ": called uncracked (cracked from 0.400, best on validation)"),
        (0.4, None, ""),
    ],
)
def test_verdict_is_told_with_the_members_own_threshold(
    probability: float, threshold: float | None, verdict: str
) -> None:
    said = describe_verdict(probability, threshold)
    assert said == f"probability of a crack {probability:.3f}{verdict}"


def test_colours_of_the_map_are_explained_where_there_are_any(
    tmp_path: Path, write_member: Callable[..., Member]
) -> None:
    """A head of zeros finds no evidence anywhere; one that adds up all channels does."""
    bar = draw_heat_bar(*BAR_PX)
    pixels = np.full((1, *TILE, 3), BRIGHT, np.uint8)
    tiles = place_tiles(pixels, np.zeros(1), np.zeros(1), torch.device("cpu"))
    tile = ScoredTile(tiles, 0, "tile", 0.5)
    for weight in (0.0, 1.0):
        model = build_model("small_cnn")
        head = model.get_submodule("classifier.1")
        assert isinstance(head, nn.Linear)
        head.weight.data.zero_()[1] = weight
        member = write_member(tmp_path / str(weight), model=model)
        draw_look(member, tile, tmp_path / "look.png", run_name="one")
        with Image.open(tmp_path / "look.png") as image:
            below = np.asarray(image.convert("RGB"))[MARGIN_PX + TILE_PX :][:CAPTION_PX]
        (places,) = np.nonzero((below == bar[0, -1]).all(axis=2).any(axis=0))
        assert len(places) == (0 if weight == 0 else 1)
        assert (below < 128).any()  # words in any case


def test_deep_network_is_drawn_in_twelve_convolutions_or_in_all(
    tmp_path: Path, write_member: Callable[..., Member]
) -> None:
    """squeezenet1_1 has 26; a convolution takes the same height in any picture."""
    write_json(tmp_path / "run.json", {"split_digest": "split", "tile_size_px": [64, 64]})
    member = tmp_path / "members" / "0000"
    write_member(member, model=build_model("squeezenet1_1"))
    record = (member / "member.json").read_text().replace("small_cnn", "squeezenet1_1")
    (member / "member.json").write_text(record.replace('_px": 16', '_px": 64'))
    heights = {}
    for count, more in ((12, []), (26, ["--all"])):
        main(parse("look", ["--member", str(member), "bright.png", "--png", f"{count}.png", *more]))
        with Image.open(f"{count}.png") as image:
            heights[count] = image.height
    main(parse("look", ["--member", "one", "bright.png", "--png", "3.png"]))
    with Image.open("3.png") as image:
        above = image.height - 3 * (heights[26] - heights[12]) / 14
    assert heights[12] - above == pytest.approx(12 * (heights[26] - heights[12]) / 14)


def test_name_of_any_length_in_any_script_is_drawn() -> None:
    name = "裂缝 $x_1$ " + "a" * 200 + ".png"
    Image.new("RGB", TILE).save(name)
    for tile in (name, "bright.png"):
        main(parse("look", ["--member", "one", tile, "--png", f"of {tile[:6]}.png"]))
    with Image.open("of bright.png") as image, Image.open(f"of {name[:6]}.png") as other:
        assert other.size == image.size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["two", "bright.png"], "two: no run of that name in results"),
        (["one/7", "bright.png"], "no such member (there is 0000, 0003, 0012)"),
        (["results/one/members", "bright.png"], "is a folder, but not that of a run"),
        (["one", "none.png"], "(run.json names none) to look for a tile of that name"),
        (["one", "results"], "results: is a folder; name one picture in it"),
        (["one", "a" * 300], "cannot be opened (File name too long); name a picture"),
        (["one", "text.png"], "text.png: cannot be read (no JPEG"),
        (["one", "small.png"], "small.png: cannot be read (4 × 4 px is too small"),
        (["one", "bright.png", "--png", "look.jpg"], "--png look.jpg: must be a file called"),
        (["one", "bright.png", "--png", "none/look.png"], "in an existing folder"),
        (["one", "bright.png", "--out", "look.png"], "is the folder of the runs; give a picture"),
        (["one", "bright.png", "--out", "none"], "one: no run of that name in none"),
        (["alone", "bright.png"], "alone: lies in no run"),
        (["one", "pipe.png"], "pipe.png: is a device or a pipe; name a picture"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(
    arguments: list[str], message: str, write_member: Callable[..., Member]
) -> None:
    Path("text.png").write_text("text")
    Path("pipe.png").unlink(missing_ok=True)
    os.mkfifo("pipe.png")
    Image.new("RGB", (4, 4)).save("small.png")
    write_member(Path("alone"))
    assert message in refusal(*arguments)


def test_dropped_weights_are_said_to_be_dropped(
    tmp_path: Path, write_member: Callable[..., Member]
) -> None:
    write_json(tmp_path / "run.json", {"split_digest": "split", "tile_size_px": list(TILE)})
    write_member(tmp_path / "members" / "0000")
    drop_weights(tmp_path / "members" / "0000")
    assert "kept no weights" in refusal(f"{tmp_path}/0", "bright.png")


def test_command_ends_with_2_and_one_line_where_it_refuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refused:
        run_command(lambda: main(parse("look", ["none.png", "--member", "one"])))
    assert refused.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: none.png: no such picture, and the data set of one is not in")
