"""Precision: as asked, or the quicker one of those that the device computes in; recorded."""

import pytest
import torch

from ensemble.training import precision as precision_module
from ensemble.training.config import ModelConfig
from ensemble.training.precision import (
    _faster_on_cpu,
    choose_precision,
    describe_scoring,
    has_bfloat16,
    name_precision,
    scoring_precision,
)

CPU = torch.device("cpu")


def test_a_precision_that_is_asked_for_is_used(make_trial_config):
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        config = make_trial_config(optimisation={"precision": name})
        assert choose_precision(config, CPU, config.data.image_size_px) == dtype
        assert name_precision(dtype) == name


@pytest.mark.skipif(has_bfloat16(CPU), reason="this processor computes in bfloat16")
def test_auto_is_float32_where_bfloat16_is_only_emulated(make_trial_config):
    config = make_trial_config(optimisation={"precision": "auto"})
    assert choose_precision(config, CPU, config.data.image_size_px) == torch.float32
    assert scoring_precision("bfloat16", CPU) == torch.float32


@pytest.mark.parametrize(
    ("slow", "expected"),
    [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32), (None, torch.float32)],
    ids=["float32 is slow", "bfloat16 is slow", "both are alike"],
)
def test_the_quicker_precision_is_chosen_and_remembered(monkeypatch, slow, expected):
    clock, steps = [0.0], []

    def step(network, images, dtype):
        steps.append(dtype)
        clock[0] += 2.0 if dtype == slow else 1.0

    monkeypatch.setattr(precision_module, "_step", step)
    monkeypatch.setattr(precision_module.time, "perf_counter", lambda: clock[0])
    _faster_on_cpu.cache_clear()
    model = ModelConfig(backbone="small_cnn")
    assert _faster_on_cpu(model, 16, 1) == expected
    tried = len(steps)
    assert _faster_on_cpu(model, 16, 1) == expected
    assert len(steps) == tried
    _faster_on_cpu(model, 32, 1)
    assert len(steps) == 2 * tried
    _faster_on_cpu.cache_clear()


def test_trying_computes_in_both_precisions_and_leaves_the_global_generator():
    _faster_on_cpu.cache_clear()
    before = torch.get_rng_state()
    assert _faster_on_cpu(ModelConfig(backbone="small_cnn"), 16, 1) in (
        torch.float32,
        torch.bfloat16,
    )
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor does not compute in bfloat16")
def test_trials_that_differ_in_dropout_are_timed_once(make_trial_config):
    _faster_on_cpu.cache_clear()
    for dropout in (0.1, 0.2, 0.3):
        config = make_trial_config(model={"dropout": dropout}, optimisation={"precision": "auto"})
        choose_precision(config, CPU, 16)
    assert _faster_on_cpu.cache_info().misses == 1


def test_another_precision_than_the_thresholds_came_from_is_said(monkeypatch):
    recorded = {3: "bfloat16", 5: "float32", 8: "bfloat16"}
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert describe_scoring(recorded, CPU) == ""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert describe_scoring(recorded, CPU).startswith(
        "scored in float32: this machine does not compute in bfloat16, in which trials 3, 8 and "
    )
    assert describe_scoring({5: "float32"}, CPU) == ""
