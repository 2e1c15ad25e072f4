"""Search spaces: every shipped one opens and samples, and a wrong one is named in one line."""

import re
from functools import cache
from pathlib import Path

import optuna
import pytest
import timm
import torch

from ensemble.base.errors import InputError
from ensemble.data.pack import Pack
from ensemble.search.command import fit_space
from ensemble.search.networks import check_networks
from ensemble.search.space_file import load_space
from ensemble.training.backbone_table import TIMM
from ensemble.training.backbones import build_model, choose_trainable
from ensemble.training.cost import summarise

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.toml"))
MINIMAL = """
question = "?"
[default.model]
backbone = "resnet18"
"""


load_shipped = cache(load_space)  # its checks build each network of the space


def ask(space, seed=0, number=0):
    sampler = optuna.samplers.RandomSampler(seed=number)
    study = optuna.create_study(sampler=sampler)
    return space.ask(study.ask(), seed=seed)


@pytest.fixture
def write(tmp_path):
    def write_space(text: str) -> Path:
        path = tmp_path / "space.toml"
        path.write_text(text)
        return path

    return write_space


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_opens_and_samples(path):
    space = load_shipped(path)
    configs = [ask(space, number=number) for number in range(20)]
    assert {config.model.backbone for config in configs} <= set(space.backbones)
    assert configs[0].optimisation.epochs == space.default.optimisation.epochs


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_backbone_of_a_shipped_space_builds_and_can_be_fine_tuned(path):
    space = load_shipped(path)
    for backbone in space.backbones:
        with torch.device("meta"):
            model = build_model(backbone)
        for number in range(5):
            config = ask(space, number=number).model.model_copy(update={"backbone": backbone})
            choose_trainable(model, config, epoch=1)


@pytest.mark.parametrize("name", ["sdnet2018", "sdnet2018_large", "sdnet2018_quick"])
def test_a_space_for_gpus_says_what_each_of_its_networks_needs(name):
    path = SPACES[0].with_name(f"{name}.toml")
    text, space = path.read_text(), load_shipped(path)
    needed = {}
    for backbone in space.backbones:
        given = {"model.backbone": backbone, "data.context_px": 64}
        cost = summarise(space.fixed(given, where="test").default, tile_side_px=256)
        billions, gigabytes = cost.multiply_adds / 1e9, cost.memory_bytes / 1e9
        needed[backbone] = f"{gigabytes:.1f} GB, {billions:.1f} billion multiply-adds"
    assert dict(re.findall(r'^    "([^"]+)", +# (.+)$', text, re.MULTILINE)) == needed


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_weights_of_timm_that_a_shipped_space_offers_may_be_used_for_anything(path):
    named = [name.removeprefix(TIMM) for name in load_shipped(path).backbones if TIMM in name]
    licences = {timm.get_pretrained_cfg(name).license for name in named}
    assert licences <= {"apache-2.0", "bsd-3-clause", "mit"}


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_trial_0_is_the_default_configuration(path):
    space = load_shipped(path)
    study = optuna.create_study()
    for point in space.start_points():
        study.enqueue_trial(point)
    config = space.ask(study.ask(), seed=0)
    assert config.model_copy(update={"seed": 0}) == space.default


def test_a_start_cannot_give_what_is_not_searched(write):
    text = MINIMAL + "[[start]]\n'data.image_size_px' = 64\n"
    with pytest.raises(InputError, match=r"a start has data\.image_size_px, which is not searched"):
        load_space(write(text))


def test_a_conditional_parameter_is_asked_for_only_where_its_condition_holds(write):
    text = MINIMAL + (
        '[search.loss]\nkind = ["cross_entropy", "focal"]\n'
        'focal_gamma = { low = 0.5, high = 4.0, when = { "loss.kind" = ["focal"] } }\n'
    )
    space = load_space(write(text))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        trial = study.ask()
        config = space.ask(trial, seed=0)
        assert ("loss.focal_gamma" in trial.params) == (config.loss.kind == "focal")


def test_a_condition_may_name_a_setting_that_the_file_has_further_below(write):
    text = MINIMAL + (
        '[search.loss]\nfocal_gamma = { low = 0.5, high = 4, when = { "loss.kind" = ["focal"] } }\n'
        'kind = ["cross_entropy", "focal"]\n'
        '[[start]]\n"loss.kind" = "focal"\n"loss.focal_gamma" = 1.0\n'
    )
    space = load_space(write(text))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    losses = [space.ask(study.ask(), seed=0).loss for _ in range(20)]
    assert losses[1].focal_gamma == 1
    assert len({loss.focal_gamma for loss in losses if loss.kind == "focal"}) > 5


@pytest.mark.parametrize("columns", [None, 6])
def test_a_margin_that_shows_nothing_is_not_searched(write, tmp_path, columns):
    """Nor is a start tried that differs from trial 0 in nothing else."""
    text = MINIMAL + (
        "[search.data]\ncontext_px = [0, 16]\naugmentation = { low = 0.0, high = 1.0 }\n"
        "[[start]]\n'data.context_px' = 16\n[[start]]\n'data.augmentation' = 0.2\n"
    )
    space, said = load_space(write(text)), []
    fitted = fit_space(space, Pack(tmp_path, {"grid": {"columns": columns}}), said.append)
    if columns:
        assert (fitted, said) == (space, [])
        return
    assert fitted.largest("data.context_px") == 0
    assert [p.name for p in fitted.parameters] == ["data.augmentation"]
    assert fitted.starts == ({"data.augmentation": 0.2},)
    assert said == ["  so data.context_px is no longer searched and is 0 in every trial"]


def test_settings_of_the_command_line_are_not_searched(write):
    text = MINIMAL + "[search.data]\nimage_size_px = { low = 64, high = 224 }\n"
    space = load_space(write(text)).changed(epochs=3, image_size_px=96)
    assert ask(space).data.image_size_px == 96
    assert ask(space).optimisation.epochs == 3
    assert space.parameters == ()


def test_whole_numbers_are_sampled_as_whole_numbers(write):
    text = MINIMAL + "[search.data]\nimage_size_px = { low = 64, high = 224, log = true }\n"
    assert isinstance(ask(load_space(write(text))).data.image_size_px, int)


def test_trials_have_seeds_of_their_own_that_depend_on_the_study_seed(write):
    space = load_space(write(MINIMAL))
    study = optuna.create_study()
    first, second = (space.ask(study.ask(), seed=0).seed for _ in range(2))
    assert first != second
    assert ask(space, seed=0).seed == first
    assert ask(space, seed=1).seed != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question = 1\n[default.model]\nbackbone = 'resnet18'", "'question'"),
        ("[default.model]\nbackbone = 'resnet18'", "'question' is missing"),
        ("question = '?'\n[default.model]\nbackbone = 'resnet19'", "model.backbone"),
        (MINIMAL + "dropout = '0.5'", "model.dropout.*'0.5'"),
        (MINIMAL + "dropout = nan", "model.dropout"),
        (MINIMAL + "colour = 1", "unknown key 'model.colour'"),
        (MINIMAL + "[surch]", "unknown key 'surch'"),
        (MINIMAL + "[search.model]\ncolour = [1]", "unknown key 'search.model.colour'"),
        (MINIMAL + "[search.model]\ndropout = [0.1, 1.5]", "search.model.dropout"),
        (MINIMAL + "[search.model]\ndropout = []", "search.model.dropout"),
        (MINIMAL + "[search.model]\ndropout = 0.5", "search.model.dropout"),
        (MINIMAL + "[search.model]\ndropout = { low = 0.5, high = 0.1 }", "low < high must hold"),
        (MINIMAL + "[search.model]\ndropout = { low = 0, high = 0.5, log = true }", "low > 0"),
        (MINIMAL + "[search.model]\ndropout = { low = 0.3, high = 0.5 }", "a start has"),
        (MINIMAL + "[search.model]\nbackbone = { low = 1, high = 2 }", "list of choices"),
        (MINIMAL + "[search.data]\nimage_size_px = { low = 64.5, high = 224 }", "whole number"),
        (
            MINIMAL + '[search.loss]\nfocal_gamma = { low = 1, high = 2, when = { "x.y" = [1] } }',
            "unknown key 'x.y' in when",
        ),
        (
            MINIMAL + "[search.model]\nbackbone = ['resnet18', 'resnet-18', 'xyz', 3]",
            r"'search\.model\.backbone': no backbone: 'resnet-18' \(like it: resnet18, .*\); 'xyz'"
            "; `backbones` lists",
        ),
        (MINIMAL + '[[start]]\n"model.colour" = 1', "unknown key 'model.colour'"),
        (MINIMAL + "[early_stopping]\nreduction_factor = 1", "reduction_factor"),
        (MINIMAL + "[search.loss]\ndoubted_weight = [0.5]", "is for `refit --try` alone"),
        (MINIMAL + "[default.loss]\ndoubted_weight = 0.5", "is for `refit --try` alone"),
        ("question = ", "not a readable TOML file"),
        ("question = " + "9" * 5000, "not a readable TOML file"),
        ("question = 0x" + "f" * 5000, "'question'.*too large to show"),
        ("a." * 20_000 + "b = 1", "at most 32,768 bytes"),
        (
            MINIMAL
            + '[search.loss]\nfocal_gamma = { low = 1, high = 2, when = {"loss.kind" = []} }',
            "'loss.kind' in when has no values",
        ),
        (
            MINIMAL + '[search.loss]\nkind = ["focal"]\n'
            'focal_gamma = { low = 1, high = 2, when = {"loss.kind" = ["focal", "focel"]} }',
            r"search\.loss\.focal_gamma.*'focel'",
        ),
        (
            MINIMAL + "[search.model]\ndropout = { low = 0, high = 0.2, "
            'when = { "optimisation.epochs" = [8] } }\n'
            '[search.optimisation]\nepochs = { low = 4, high = 8, when = {"model.dropout" = [0]} }',
            r"conditions of model\.dropout, optimisation\.epochs wait for each other",
        ),
        (
            MINIMAL + "[search.optimisation]\nearly_stopping_patience = { low = 0, high = 1e300 }",
            "early_stopping_patience",
        ),
    ],
)
def test_a_wrong_space_is_named_in_one_line(write, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load_space(write(text))
    assert "\n" not in str(caught.value).strip() or "TOML" in str(caught.value)


def test_a_missing_space_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_space(tmp_path / "none.toml")


# --- stochastic depth

TWO_NETWORKS = """
question = "?"
[default.model]
backbone = "efficientnet_b0"
drop_path_rate = 0.1
[search.model]
backbone = ["efficientnet_b0", "resnet18", "timm/ghostnet_050"]
"""
LIMITED = 'when = { "model.backbone" = ["efficientnet_b0"] }'


def test_stochastic_depth_is_searched_only_with_the_networks_that_its_condition_names(write):
    rate = f"drop_path_rate = {{ low = 0.0, high = 0.3, {LIMITED} }}\n"
    space = load_space(write(TWO_NETWORKS + rate + '[[start]]\n"model.backbone" = "resnet18"\n'))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    models = [space.ask(study.ask(), seed=0).model for _ in range(20)]
    assert models[0] == space.default.model
    assert (models[1].backbone, models[1].drop_path_rate) == ("resnet18", None)
    for model in models:
        assert (model.drop_path_rate is not None) == (model.backbone == "efficientnet_b0")
    assert len({model.drop_path_rate for model in models}) > 2


def test_the_search_chooses_what_trial_0_leaves_null(write):
    text = TWO_NETWORKS.replace("drop_path_rate = 0.1\n", "")
    space = load_space(write(text + f"drop_path_rate = {{ low = 0.2, high = 0.3, {LIMITED} }}\n"))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    (point,) = space.start_points()
    study.enqueue_trial(point)
    model = space.ask(study.ask(), seed=0).model
    assert model.backbone == "efficientnet_b0"
    assert 0.2 <= model.drop_path_rate <= 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TWO_NETWORKS,
            "model.drop_path_rate is given to resnet18, timm/ghostnet_050, which cannot leave "
            f"blocks out; under [search.model], limit it by {LIMITED}",
        ),
        (
            TWO_NETWORKS + "drop_path_rate = { low = 0.0, high = 0.3 }\n",
            f"is given to resnet18, timm/ghostnet_050, which cannot leave blocks out; under "
            f"[search.model], limit it by {LIMITED}",
        ),
        (
            MINIMAL + "drop_path_rate = 0.1\n",
            "is given to resnet18, which cannot leave blocks out; leave the setting out",
        ),
        (
            TWO_NETWORKS + f"drop_path_rate = {{ low = 0.0, high = 1.3, {LIMITED} }}\n",
            "search.model.drop_path_rate': 'model.drop_path_rate'",
        ),
    ],
)
def test_stochastic_depth_that_a_network_lacks_is_refused_when_the_space_is_read(
    write, text, message
):
    with pytest.raises(InputError) as refused:
        load_space(write(text))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


# --- networks of timm's


def timm_space(backbone: str, **data: str) -> str:
    searched = "".join(f"{name} = {values}\n" for name, values in data.items())
    return (
        f"question = '?'\n[default.model]\nbackbone = {backbone!r}\n"
        f"[default.data]\nimage_size_px = 160\n[search.data]\n{searched}"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            timm_space("timm/test_vit", image_size_px="[96, 100, 160]"),
            "image_size_px = 100, timm/test_",
        ),
        (timm_space("timm/test_vit", image_size_px="{low = 96, high = 160}"), "image_size_px = 97"),
        (timm_space("timm/test_maxvit", image_size_px="[160, 192]"), "it takes 160 px"),
        (
            timm_space("timm/test_vitt", augmentation="[0.5, 1.0]"),
            "must be a backbone: timm/test_vit, ",
        ),
        (timm_space("timm/cait_xxs24_224", augmentation="[0.5, 1.0]"), "no map of places"),
    ],
)
def test_what_a_network_of_timms_cannot_take_is_refused_when_the_space_is_read(
    tmp_path, text, message
):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_space(path)
    assert message in str(refused.value)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_a_margin_is_counted_once_the_tiles_are_known(tmp_path):
    """8 of a tile's 160 px are a margin of 8 px, so the input of 160 px has 176."""
    path = tmp_path / "space.toml"
    path.write_text(timm_space("timm/test_vit", image_size_px="[160]", context_px="[0, 8]"))
    space = load_space(path)
    check_networks(space, tile_side_px=160)
    with pytest.raises(InputError, match=r"and data.context_px = 8, .* no input of 166 × 166 px"):
        check_networks(space, tile_side_px=400)
