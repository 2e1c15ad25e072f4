"""What --try changes in a configuration, what is refused of it, and how variants are called."""

import re
from types import SimpleNamespace

import pytest

from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.search.variants import add_seeds, change, check_tries, name_variants, read_tries
from ensemble.training.config import flatten


@pytest.fixture
def base(make_trial_config):
    return make_trial_config(
        seed=3,
        model={"backbone": "efficientnet_b0", "drop_path_rate": 0.2},
        data={"image_size_px": 32},
    )


def read(*words):
    return read_tries(parse("refit", ["run", *words]).tries)


def try_on(base, words, *, stored_px=64, own_px=64, columns=5):
    """Try one change on tiles of a size."""
    packed = SimpleNamespace(
        tile_size_px=(own_px, own_px),
        record={"stored_size_px": [stored_px, stored_px], "grid": {"columns": columns}},
    )
    tries = read("--try", *words.split())
    configurations = [base, *add_seeds(base, 2), *(change(base, changes) for changes in tries)]
    check_tries(configurations, tries, packed, run="sdnet")
    return configurations[-1]


def test_each_try_is_one_configuration_and_values_are_those_of_toml():
    assert read() == []
    assert read(
        "--try", "data.context_px=0", "loss.kind=focal", "--try", "model.drop_path_rate = null"
    ) == [{"data.context_px": 0, "loss.kind": "focal"}, {"model.drop_path_rate": None}]
    (changes,) = read("--try", "a=1e-3", "b=true", 'c="null"', "d=null", "e=x=1", "f=1\ng=2", "h=")
    assert changes == {
        **{"a": 0.001, "b": True, "c": "null", "d": None},
        **{"e": "x=1", "f": "1\ng=2", "h": ""},
    }


def test_a_change_changes_these_settings_alone(base):
    changed = try_on(base, "optimisation.learning_rate=1 loss.label_smoothing=0.1")
    before, after = flatten(base), flatten(changed)
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        "optimisation.learning_rate": 1.0,
        "loss.label_smoothing": 0.1,
    }
    assert try_on(base, "model.drop_path_rate=null").model.drop_path_rate is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("context_px=0", r"no setting is called 'context_px' \(like it: data\.context_px"),
        ("zzz=0", r"no setting is called 'zzz' \(there are model\.backbone, "),
        ("data.context_px=wide", r"'data\.context_px': .* valid integer, but got 'wide'"),
        ("model.dropout=1", r"'model\.dropout': .* less than 1, but got 1"),
        ("loss.kind=hinge", r"'loss\.kind': .*'focal', but got 'hinge'"),
        ("model.backbone=resnet", r"'model\.backbone': .*resnet18"),
        ("model.dropout=0.0", "the best configuration of this refit has that already"),
        ("data.image_size_px=64", "image_size_px = 64, but sdnet stored its tiles at 48 px; .*64"),
        ("data.context_px=8", "nobody knows which tiles of sdnet lie side by side"),
        ("model.fine_tuning=from_module model.trainable_from=x", "no such module"),
        ("model.backbone=squeezenet1_1", "none of its blocks can be left out"),
    ],
)
def test_what_cannot_be_tried_is_refused_in_a_line_that_names_it(base, words, reason):
    with pytest.raises(InputError) as refused:
        try_on(base, words, stored_px=48, columns=None)
    line = str(refused.value)
    assert line.startswith(f"--try {words}: ")
    assert "\n" not in line
    assert re.search(reason, line), line


def test_a_margin_beyond_the_next_tile_is_refused(base):
    with pytest.raises(InputError, match=r"--try data\.context_px=65: .* choose from 0 to 64"):
        try_on(base, "data.context_px=65")


def test_tiles_that_are_stored_as_they_came_are_enlarged(base):
    assert try_on(base, "data.image_size_px=96").data.image_size_px == 96


@pytest.mark.parametrize("words", [["data.context_px"], ["=0"], ["data.context_px=0", "run"]])
def test_what_is_no_setting_with_a_value_is_refused(words):
    with pytest.raises(InputError, match=r"--try.*must be SETTING=VALUE, such as data\.context_px"):
        read("--try", *words)


def test_a_setting_that_is_given_twice_in_a_try_is_refused():
    with pytest.raises(InputError, match=r"data\.context_px is given twice"):
        read("--try", "data.context_px=0", "data.context_px=8")


def test_a_change_that_is_tried_twice_is_refused(base):
    changes = {"loss.label_smoothing": 0.1}
    configurations = [base, *[change(base, changes)] * 2]
    packed = SimpleNamespace(
        tile_size_px=(64, 64), record={"stored_size_px": [64, 64], "grid": {"columns": 5}}
    )
    with pytest.raises(InputError, match=r"--try loss\.label_smoothing=0\.1: another config"):
        check_tries(configurations, [changes] * 2, packed, run="sdnet")


def test_seeds_differ_from_each_other_and_nothing_else_does(base):
    seeds = [base, *add_seeds(base, 4)]
    assert len({config.seed for config in seeds}) == 4
    assert len({config.model_copy(update={"seed": 0}).model_dump_json() for config in seeds}) == 1
    assert add_seeds(base, 1) == []


def test_variants_are_called_by_what_makes_them_different(base, make_trial_config):
    second = make_trial_config(seed=9)
    tried = [
        change(base, changes)
        for changes in (
            {"data.context_px": 64},
            {"loss.kind": "focal", "model.drop_path_rate": None},
        )
    ]
    variants = name_variants("sdnet", [3, 7], [base, second, *add_seeds(base, 3), *tried])
    assert [variant.name for variant in variants] == [
        "sdnet/3",
        "sdnet/7",
        "sdnet/3, seed 2",
        "sdnet/3, seed 3",
        "data.context_px = 64",
        "model.drop_path_rate = null, loss.kind = focal",
    ]
