"""Facts about the three ways in which an ensemble is tested."""

import numpy as np
import pandas as pd
import pytest

from ensemble.evaluation.figures import Way, describe_ways, gain_over_trivial, thresholds_of


def predictions(seed: int = 0) -> pd.DataFrame:
    """Twenty photographs of ten tiles on two surfaces; `sure` tells cracks better than `unsure`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(200) % 4 == 0
    noise = generator.normal(size=200)
    table = {
        "tile": [f"{n}.jpg" for n in range(200)],
        "photograph": [f"{n // 10}" for n in range(200)],
        "surface": np.where(np.arange(200) < 100, "D", "W"),
        "label": labels.astype(int),
        "unsure": np.clip(0.5 + 0.1 * labels + 0.15 * noise, 0, 1),
        "sure": np.clip(0.5 + 0.3 * labels + 0.15 * noise, 0, 1),
    }
    return pd.DataFrame(table)


def test_each_way_has_its_figures_and_its_gain_over_the_way_before():
    table = predictions()
    ways = describe_ways(table, [Way("first", "unsure", 0.6), Way("second", "sure", 0.65)])
    first, second = ways["first"], ways["second"]
    assert first["gain"] is None
    difference = second["figures"]["f1"] - first["figures"]["f1"]
    gain = second["gain"]["f1"]
    assert gain["difference"] == difference > 0.2
    assert gain["low"] < difference < gain["high"]
    assert gain["low"] > 0


def test_the_gain_over_calling_every_tile_cracked_is_f1_minus_2p_over_1_plus_p():
    table, way = predictions(), Way("first", "sure", 0.65)
    gain = gain_over_trivial(table, way)
    f1 = describe_ways(table, [way])["first"]["figures"]["f1"]
    assert gain["difference"] == pytest.approx(f1 - 2 * 0.25 / 1.25)
    assert 0 < gain["low"] < gain["difference"] < gain["high"]
    assert gain["verdict"] == "better"


def test_surfaces_have_figures_and_gains_of_their_own_tiles():
    table = predictions()
    ways = [Way("first", "unsure", 0.6), Way("second", "sure", 0.65)]
    whole = describe_ways(table, ways)
    for surface in ("D", "W"):
        part = describe_ways(table[table["surface"] == surface], ways)
        assert part["second"]["surfaces"] == {}  # there is one
        expected = {key: part["second"][key] for key in ("figures", "gain")}
        assert whole["second"]["surfaces"][surface] == expected


def test_a_threshold_of_each_tile_is_taken_where_there_is_one():
    table = predictions()
    thresholds = np.where(table["photograph"] == "3", 1.1, 0.65)  # nothing is called there
    ways = describe_ways(table, [Way("one", "sure", 0.65), Way("own", "sure", 0.65, thresholds)])
    counts = [ways[name]["figures"]["confusion_matrix"] for name in ("one", "own")]
    called = [each["true_positive"] + each["false_positive"] for each in counts]
    in_photograph = table["photograph"] == "3"
    assert called[0] - called[1] == (table.loc[in_photograph, "sure"] >= 0.65).sum() > 0


def test_tiles_that_were_seen_alone_have_the_threshold_of_such_tiles():
    table = predictions().assign(context="neighbours")
    assert thresholds_of(table, 0.6, 0.7) is None  # one for all
    table.loc[[3, 5], "context"] = "tile"
    assert thresholds_of(table, 0.6, None) is None
    thresholds = thresholds_of(table, 0.6, 0.7)
    assert thresholds[[3, 5]].tolist() == [0.7, 0.7]
    assert (np.delete(thresholds, [3, 5]) == 0.6).all()


def test_a_way_that_judges_every_tile_as_the_one_before_only_says_so():
    ways = describe_ways(predictions(), [Way("first", "sure", 0.6), Way("second", "sure", 0.6)])
    assert ways["second"] == {"same_as": "first"}
    each = Way("each", "sure", 0.5, np.full(200, 0.6))
    ways = describe_ways(predictions(), [Way("first", "sure", 0.6), each])
    assert ways["each"] == {"same_as": "first"}
