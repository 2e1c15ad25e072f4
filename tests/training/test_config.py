"""Facts about a trial's configuration: what it refuses, and that it says so in one line."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemble.base.errors import InputError
from ensemble.training.config import TrialConfig, flatten, parse_config, unflatten

WRONG = [
    ("model", "backbone", "vgg16"),
    ("model", "dropout", "0.2"),
    ("model", "dropout", 1.0),
    ("model", "dropout", -0.1),
    ("model", "drop_path_rate", 1.0),
    ("model", "drop_path_rate", "0.1"),
    ("model", "layer_decay", 0.0),
    ("model", "layer_decay", 1.5),
    ("model", "frozen_epochs", 0),
    ("model", "backbone_learning_rate_factor", 0.0),
    ("optimisation", "learning_rate", math.nan),
    ("optimisation", "learning_rate", math.inf),
    ("optimisation", "learning_rate", 0.0),
    ("optimisation", "learning_rate", True),
    ("optimisation", "optimizer", "lion"),
    ("optimisation", "epochs", "8"),
    ("optimisation", "epochs", 2.5),
    ("optimisation", "epochs", True),
    ("optimisation", "epochs", None),
    ("optimisation", "global_batch_size", 1),
    ("optimisation", "weight_decay", -1e-3),
    ("optimisation", "momentum", 1.0),
    ("loss", "focal_gamma", math.nan),
    ("loss", "crack_weight", 0),
    ("loss", "label_smoothing", [0.1]),
    ("loss", "doubted_weight", 1.1),
    ("data", "image_size_px", 15),
    ("data", "augmentation", 1.5),
]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
SECTIONS = st.sampled_from(["model", "optimisation", "loss", "data", "seed"])
FIELDS = st.sampled_from(["backbone", "dropout", "epochs", "kind", "augmentation"])


def refusal(values: Any) -> str:
    with pytest.raises(InputError) as refused:
        parse_config(values, where="space.json")
    return str(refused.value)


def with_setting(section: str, field: str, value: Any) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {"model": {"backbone": "small_cnn"}}
    values.setdefault(section, {})[field] = value
    return values


@pytest.mark.parametrize(("section", "field", "value"), WRONG)
def test_wrong_value_is_refused_in_one_line_with_file_field_and_value(
    section: str, field: str, value: Any
) -> None:
    message = refusal(with_setting(section, field, value))
    assert message.startswith(f"space.json: '{section}.{field}': ")
    assert message.endswith(f"but got {value!r}")
    assert "\n" not in message


def test_negative_seed_is_refused() -> None:
    assert "'seed'" in refusal({"model": {"backbone": "small_cnn"}, "seed": -1})


@pytest.mark.parametrize("section", ["model", "optimisation", "loss", "data"])
def test_unknown_key_of_a_section_is_named(section: str) -> None:
    message = refusal(with_setting(section, "droput", 0.1))
    assert message == f"space.json: unknown key '{section}.droput'"


def test_unknown_key_at_the_top_is_named() -> None:
    message = refusal({"model": {"backbone": "small_cnn"}, "modell": {}})
    assert message == "space.json: unknown key 'modell'"


def test_missing_backbone_is_named() -> None:
    assert refusal({}) == "space.json: 'model' is missing"
    assert refusal({"model": {}}) == "space.json: 'model.backbone' is missing"


@pytest.mark.parametrize("values", [None, [], "small_cnn", 3])
def test_settings_that_are_no_table_are_refused(values: Any) -> None:
    message = refusal(values)
    assert message.startswith("space.json: 'configuration': ")
    assert message.endswith(f"but got {values!r}")


@pytest.mark.parametrize(
    "model",
    [
        {"fine_tuning": "from_module"},
        {"fine_tuning": "full", "trainable_from": "features.4"},
        {"trainable_from": "features.4"},
    ],
)
def test_trainable_from_goes_with_from_module_only(model: dict[str, str]) -> None:
    message = refusal({"model": {"backbone": "small_cnn", **model}})
    assert "'model': trainable_from goes with fine_tuning = 'from_module'" in message
    assert "\n" not in message


def test_whole_number_is_a_float_and_stays_equal() -> None:
    config = parse_config(with_setting("optimisation", "learning_rate", 1), where="space.json")
    assert config.optimisation.learning_rate == 1.0


def test_a_setting_that_is_younger_than_some_runs_is_written_only_where_it_says_something() -> None:
    """So a run that was begun before there was it is the same run, and goes on."""
    plain = parse_config({"model": {"backbone": "resnet18"}}, where="")
    assert "doubted_weight" not in plain.model_dump()["loss"]
    assert flatten(plain)["loss.doubted_weight"] == 1
    careful = parse_config(unflatten(flatten(plain) | {"loss.doubted_weight": 0.5}), where="")
    assert careful.model_dump(mode="json")["loss"]["doubted_weight"] == 0.5
    assert parse_config(careful.model_dump(mode="json"), where="") == careful


def test_configuration_cannot_be_changed() -> None:
    config = parse_config({"model": {"backbone": "small_cnn"}}, where="space.json")
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.model.dropout = 0.5  # type: ignore[misc]


@settings(max_examples=50, deadline=None)
@given(
    dropout=st.floats(0, 1, exclude_max=True),
    learning_rate=st.floats(0, 10, exclude_min=True),
    epochs=st.integers(1, 10_000),
    crack_weight=st.floats(0, 1000, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
)
def test_configuration_survives_json_bit_by_bit(
    dropout: float, learning_rate: float, epochs: int, crack_weight: float, seed: int
) -> None:
    config = TrialConfig.model_validate(
        {
            "model": {"backbone": "resnet18", "dropout": dropout},
            "optimisation": {"learning_rate": learning_rate, "epochs": epochs},
            "loss": {"crack_weight": crack_weight},
            "seed": seed,
        }
    )
    text = json.dumps(config.model_dump(mode="json"), allow_nan=False)
    assert parse_config(json.loads(text), where="member.json") == config


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        SECTIONS | st.text(max_size=8),
        JSON | st.dictionaries(FIELDS | st.text(max_size=8), JSON, max_size=4),
        max_size=5,
    )
)
@example({"drop\nout": 0.1})
def test_whatever_json_comes_is_refused_in_one_line_or_taken_as_it_is(
    values: dict[str, Any],
) -> None:
    values = {"model": {"backbone": "small_cnn"}, **values}
    try:
        config = parse_config(values, where="space.json")
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        taken = config.model_dump(mode="json", exclude_unset=True)
        assert taken == values
