"""What `--backbone` makes of a space: its networks alone are searched, and what is theirs."""

from pathlib import Path

import optuna
import pytest
from person import ROOT

from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.search.command import read_request
from ensemble.search.given_backbones import give_backbones
from ensemble.search.plan import plan_search
from ensemble.search.space_file import load_space

SPACE = """
question = "?"
weights = "none"
[default.model]
backbone = "small_cnn"
[search.model]
backbone = ["small_cnn", "resnet18", "squeezenet1_1"]
dropout = { low = 0.0, high = 0.5, when = { "model.backbone" = ["resnet18", "squeezenet1_1"] } }
[search.optimisation]
momentum = { low = 0.1, high = 0.9, when = { "model.backbone" = ["small_cnn"] } }
[[start]]
"model.backbone" = "resnet18"
[[start]]
"model.backbone" = "squeezenet1_1"
"model.dropout" = 0.1
[[start]]
"optimisation.momentum" = 0.5
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return path


def searched_by(space, *, num_trials=30):
    """Network → names of the settings that its trials searched; the start points come first."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    found = {}
    for _ in range(num_trials):
        trial = study.ask()
        config = space.ask(trial, seed=0)
        found[config.model.backbone] = set(trial.params)
    return found


def test_several_networks_are_the_choices_and_the_default_stays_if_it_is_one(path):
    space, said = give_backbones(load_space(path), ["resnet18", "small_cnn"])
    assert space.default.model.backbone == "small_cnn"
    assert searched_by(space) == {
        "small_cnn": {"model.backbone", "optimisation.momentum"},
        "resnet18": {"model.backbone", "model.dropout"},
    }
    assert said == "--backbone resnet18 small_cnn: a start is left out (squeezenet1_1)"


def test_one_network_is_fixed_and_settings_of_others_are_not_searched(path):
    space, said = give_backbones(load_space(path), ["squeezenet1_1"])
    assert searched_by(space) == {"squeezenet1_1": {"model.dropout"}}
    assert space.starts == ({"model.dropout": 0.1}, {"optimisation.momentum": 0.5})
    assert said == (
        "--backbone squeezenet1_1: trial 0 trains squeezenet1_1 in place of small_cnn; "
        "a start is left out (resnet18)"
    )


def test_networks_that_the_space_does_not_have_start_from_its_weights(path):
    space, said = give_backbones(load_space(path), ["mobilenet_v2", "resnet50", "mobilenet_v2"])
    assert space.initial_weights == {"mobilenet_v2": "none", "resnet50": "none"}
    assert searched_by(space) == {
        "mobilenet_v2": {"model.backbone"},
        "resnet50": {"model.backbone"},
    }
    assert "2 starts are left out (resnet18, squeezenet1_1)" in said


def test_a_space_with_one_network_can_be_given_several():
    space, said = give_backbones(
        load_space(ROOT / "search_spaces" / "demo.toml"), ["small_cnn", "small_cnn_deep"]
    )
    assert searched_by(space).keys() == {"small_cnn", "small_cnn_deep"}
    assert said == ""


def test_other_networks_are_another_space(path):
    spaces = [give_backbones(load_space(path), [name])[0] for name in ("resnet18", "resnet50")]
    assert spaces[0].describe() != spaces[1].describe() != load_space(path).describe()


def test_a_module_to_train_from_cannot_be_another_networks(path):
    path.write_text(
        'question = "?"\n[default.model]\nbackbone = "mobilenet_v2"\n'
        'fine_tuning = "from_module"\ntrainable_from = "features.12"\n'
    )
    space = load_space(path)
    assert give_backbones(space, ["mobilenet_v2"]) == (space, "")
    with pytest.raises(InputError, match=r"trains mobilenet_v2 from its module features\.12 on"):
        give_backbones(space, ["resnet18"])


def plan(*words: str, said: list[str], out: Path):
    typed = ["--data", "synthetic", "--gpus", "0", "--cpus", "1", "--out", str(out), *words]
    return plan_search(read_request(parse("search", typed)).named(), None, said.append)


def test_a_person_names_networks_together_or_one_by_one_and_what_is_lost_is_said(path, tmp_path):
    for given in (
        ["--backbone", "resnet18", "resnet50"],
        ["--backbone=resnet18", "--backbone", "resnet50"],
    ):
        said: list[str] = []
        planned = plan("--space", str(path), *given, said=said, out=tmp_path)
        assert planned.weights == {"resnet18": "none", "resnet50": "none"}
        assert said[0].startswith("--backbone resnet18 resnet50: trial 0 trains resnet18 in place")


def test_a_size_that_a_given_network_cannot_take_is_refused_unless_another_one_is_given(
    path, tmp_path
):
    words = ["--space", str(path), "--backbone", "timm/vit_tiny_patch16_224", "--image-size"]
    with pytest.raises(InputError, match=r"image_size_px = 100, .*timm/vit_tiny_patch16_224"):
        plan(*words, "100", said=[], out=tmp_path)
    path.write_text(SPACE + "[default.data]\nimage_size_px = 100\n")
    assert plan(*words, "96", said=[], out=tmp_path).space.largest("data.image_size_px") == 96


def test_a_recipe_whose_network_is_not_named_is_no_start(tmp_path):
    words = ["--space", "demo", "--start-from", "small-cnn"]
    with pytest.raises(InputError, match="it begins with small_cnn, which --backbone does not"):
        plan(*words, "--backbone", "resnet18", said=[], out=tmp_path)
    planned = plan(*words, "--backbone", "resnet18", "small_cnn", said=[], out=tmp_path)
    assert planned.space.backbones == ["resnet18", "small_cnn"]
    assert planned.space.default.model.backbone == "small_cnn"


def test_an_unknown_network_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match=r"--backbone 'resnet19': must be a backbone: resnet18, "):
        parse("search", ["--data", "synthetic", "--backbone", "resnet19"])


def test_names_with_commas_between_them_are_refused_with_how_they_are_separated():
    with pytest.raises(InputError, match=r"'resnet18,resnet50': .* with spaces between them"):
        parse("search", ["--data", "synthetic", "--backbone", "resnet18,resnet50"])


def test_stochastic_depth_of_trial_0_stays_with_its_network(path):
    path.write_text(
        'question = "?"\n[default.model]\nbackbone = "convnext_tiny"\ndrop_path_rate = 0.1\n'
        '[search.model]\nbackbone = ["convnext_tiny", "resnet18"]\ndrop_path_rate = '
        '{ low = 0.0, high = 0.3, when = { "model.backbone" = ["convnext_tiny"] } }\n'
    )
    space = load_space(path)
    assert give_backbones(space, ["resnet18"])[0].default.model.drop_path_rate is None
    chosen, _ = give_backbones(space, ["resnet50", "convnext_tiny"])
    assert chosen.default.model == space.default.model
    assert searched_by(chosen)["resnet50"] == {"model.backbone"}
