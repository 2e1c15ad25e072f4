"""What --start-from names comes first, and the space holds it; typed it is in test_searches.py."""

from pathlib import Path

import optuna
import pytest
from person import ROOT

from ensemble.base.errors import InputError
from ensemble.base.files import write_json
from ensemble.recipes.recipe import RECIPES, load_recipe
from ensemble.search.space_file import load_space
from ensemble.search.start import start, start_from

SPACES = sorted((ROOT / "search_spaces").glob("*.toml"))
NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))
SPACE = """
question = "?"
weights = "none"
[default.model]
backbone = "resnet18"
"""


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def trials_of(space, count):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    return [space.ask(study.ask(), seed=0) for _ in range(count)]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("error")  # Optuna warns of a start point outside of a range
def test_any_recipe_is_trial_0_of_any_space(name, path):
    recipe = load_recipe(name)
    space, how = start_from(load_space(path), recipe)
    first, *others = trials_of(space, 12)
    assert first.model_copy(update={"seed": 0}) == recipe.base
    assert how.startswith(f"trial 0 is the recipe {name}")
    assert {config.model.backbone for config in others} <= set(space.backbones)
    assert recipe.backbone in space.backbones


def test_a_choice_is_added_and_a_range_extended_and_said_so(write):
    path = write(
        "space.toml",
        SPACE + "[search.model]\nbackbone = ['resnet18']\ndropout = { low = 0.0, high = 0.4 }\n"
        "[search.optimisation]\nlearning_rate = { low = 1e-4, high = 1e-3, log = true }\n"
        "weight_decay = { low = 1e-5, high = 1e-1, log = true }\n",
    )
    space, how = start_from(load_space(path), load_recipe("small-cnn"))
    domains = {parameter.name: parameter.ends() for parameter in space.parameters}
    assert domains == {
        "model.backbone": ["resnet18", "small_cnn"],
        "model.dropout": [0.0, 0.5],
        "optimisation.learning_rate": [1e-4, 1e-3],
        "optimisation.weight_decay": [1e-5, 1e-1],
    }
    assert how == (
        "trial 0 is the recipe small-cnn; widened for it: "
        "model.backbone [resnet18] → [resnet18, small_cnn], model.dropout 0 … 0.4 → 0 … 0.5"
    )


def test_weights_of_the_recipe_are_those_of_a_backbone_that_the_space_lacks(write):
    space = load_space(write("space.toml", SPACE + "[search.model]\nbackbone = ['resnet18']\n"))
    started, _ = start_from(space, load_recipe("resnet50-metu"))
    assert started.initial_weights == {"resnet18": "none", "resnet50": "imagenet"}
    started, _ = start_from(space, load_recipe("sdnet2018-baseline"))
    assert started.initial_weights == {"resnet18": "none"}


def test_epochs_and_image_size_of_the_command_line_win():
    space, _ = start_from(
        load_space(ROOT / "search_spaces" / "demo.toml"), load_recipe("small-cnn")
    )
    first, *_ = trials_of(space.changed(epochs=2, image_size_px=32), 1)
    assert (first.optimisation.epochs, first.data.image_size_px) == (2, 32)


def test_a_module_to_train_from_keeps_its_backbone(write):
    recipe = write(
        "recipe.toml",
        'what = "?"\nstated = "?"\ndata = "metu"\n[config.model]\nbackbone = "mobilenet_v2"\n'
        'fine_tuning = "from_module"\ntrainable_from = "features.12"\n',
    )
    space = load_space(ROOT / "search_spaces" / "sdnet2018.toml")
    started, how = start_from(space, load_recipe(str(recipe)))
    assert "model.backbone is no longer searched, model.fine_tuning is no longer searched" in how
    assert {c.model.trainable_from for c in trials_of(started, 9)} == {"features.12"}


def test_a_setting_that_is_null_in_the_recipe_is_no_longer_searched(write):
    space = load_space(
        write(
            "space.toml",
            SPACE.replace("resnet18", "convnext_tiny") + "drop_path_rate = 0.1\n"
            "[search.model]\nbackbone = ['convnext_tiny']\n"
            "drop_path_rate = { low = 0.0, high = 0.3 }\n",
        )
    )
    started, how = start_from(space, load_recipe("small-cnn"))
    assert "model.drop_path_rate is no longer searched" in how
    assert {config.model.drop_path_rate for config in trials_of(started, 9)} == {None}


def test_a_value_that_a_logarithm_cannot_hold_is_named(write):
    recipe = write(
        "recipe.toml",
        'what = "?"\nstated = "?"\ndata = "metu"\n[config.model]\nbackbone = "small_cnn"\n'
        "[config.optimisation]\nweight_decay = 0.0\n",
    )
    space = load_space(ROOT / "search_spaces" / "demo.toml")
    with pytest.raises(InputError, match=r"weight_decay = 0 cannot be .* in the logarithm; give"):
        start_from(space, load_recipe(str(recipe)))


@pytest.fixture
def run(tmp_path, write_member, make_trial_config):
    """A run of three finished trials, of which the second is the best."""
    folder = tmp_path / "old"
    for trial, (val_f1, rate) in enumerate([(0.5, 1e-3), (0.7, 2e-3), (0.6, 5e-4)]):
        config = make_trial_config(optimisation={"learning_rate": rate})
        write_member(folder / f"members/{trial:04}", trial=trial, val_f1=val_f1, config=config)
    write_json(folder / "run.json", {"split_digest": "split"})
    (folder / "trials.csv").write_text("trial,state\n0,COMPLETE\n1,PRUNED\n2,COMPLETE\n")
    return folder


@pytest.mark.parametrize("by", ["name", "path"])
def test_the_best_trials_of_a_run_are_the_first_of_a_search(run, by):
    given = "old" if by == "name" else str(run)
    space = load_space(ROOT / "search_spaces" / "demo.toml")
    started, recipe, how = start(space, given, under=run.parent)
    rates = [config.optimisation.learning_rate for config in trials_of(started, 3)]
    assert rates == [2e-3, 5e-4, 1e-3]
    assert recipe is None
    assert how.startswith("the first trials are the best of old, there with the numbers 1, 2, 0; ")


def test_all_labels_count_alike_in_a_search_that_starts_from_a_refit_with_doubted_ones(
    run, write_member, make_trial_config
):
    config = make_trial_config(loss={"doubted_weight": 0.3, "crack_weight": 2.0})
    write_member(run / "members/0001", trial=1, val_f1=0.7, config=config)
    space = load_space(ROOT / "search_spaces" / "demo.toml")
    started, _, how = start(space, str(run), under=run.parent)
    loss = trials_of(started, 1)[0].loss
    assert (loss.doubted_weight, loss.crack_weight) == (1.0, 2.0)
    assert how.endswith("; all labels count alike, as only a refit knows which are doubted")


def test_a_run_without_a_finished_trial_is_no_start(run):
    (run / "trials.csv").write_text("trial,state\n")
    space = load_space(ROOT / "search_spaces" / "demo.toml")
    with pytest.raises(InputError, match="none of its trials is finished; name another run"):
        start(space, str(run), under=run.parent)


def test_a_space_that_lacks_the_network_of_a_run_is_refused(run, write):
    space = load_space(write("space.toml", SPACE))
    with pytest.raises(
        InputError, match=r"the space space lacks the network .* small_cnn; name it"
    ):
        start(space, str(run), under=run.parent)
