"""The table of a test: every width reads, nothing is told twice, names stand where there are."""

import io
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from ensemble.base.wording import plural
from ensemble.evaluation.presentation import COLUMNS, cost_sentence, names_of, print_result

NAMES = {0: "base", 3: "class [weights]"}


def figures(trial: int | None = None, f1: float = 0.875, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(COLUMNS, 0.625) | {"f1": f1, "threshold": 0.315}
    found["intervals"] = {key: {"low": 0.34, "high": 0.99} for key in COLUMNS}
    found["val_f1"] = 0.9
    found["trivial_f1"] = 0.5
    found["confusion_matrix"] = {
        "true_positive": 54,
        "false_positive": 6,
        "false_negative": 6,
        "true_negative": 114,
    }
    if trial is not None:
        found |= {"trial": trial, "backbone": "mobilenet_v3_small"}
        found |= {"num_networks": 1, "num_folds": 1}
    return found | changes


def ways(surfaces: tuple[str, ...] = ("D", "W")) -> dict[str, Any]:
    """Context gains on all tiles and on each surface, and neighbours' scores are not used."""
    gain = {"f1": {"difference": 0.021, "low": -0.001, "high": 0.043, "verdict": "better"}}

    def way(f1: float, gain: dict[str, Any] | None) -> dict[str, Any]:
        parts = {name: {"figures": figures(f1=f1), "gain": gain} for name in surfaces}
        return {"figures": figures(f1=f1), "gain": gain, "surfaces": parts}

    return {
        "tile alone": way(0.854, None),
        "with context": way(0.875, gain),
        "with neighbours": {"same_as": "with context"},
    }


def metrics(*members: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "ensemble": figures(),
        "members": list(members),
        "best_single": members[0],
        "surfaces": {},
        "gain_over_best_single": {
            "f1": {"difference": 0.01, "low": -0.01, "high": 0.02, "verdict": "no difference shown"}
        },
        "choice": {
            "method": "mean",
            "members": list(members),
            "ingredients": [],
            "threshold_rule": "f1",
            "val_metrics": {"precision": 0.8, "recall": 0.7},
            "budget_members": None,
            "best_single": members[0],
            "tta": False,
            "tta_tried": None,
            "methods": [],
            "neighbours_note": "the grid of the photographs is not known",
            "optimism": None,
            "optimism_note": "only 2 photographs have cracked tiles",
            "seeds": [],
        },
        "ways": ways(),
        "num_test_tiles": 180,
        "num_test_photographs": 6,
        "intervals": "6 photographs are too few for intervals to be trusted",
        "split_by": "photograph",
        "leaky_split": False,
        "num_test_openings": 1,
        "openings_by_other_runs": {},
    } | changes


def printed(found: dict[str, Any], width: int = 240, names: dict[int, str] = NAMES) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_result(found, names, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 90, 100, 120, 160])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_broken(width):
    surfaces = {"D": figures(), "W": figures()}
    said = printed(metrics(figures(0), figures(3, f1=0.75), surfaces=surfaces), width)
    assert max(map(len, said.splitlines())) <= width
    assert "…" not in said
    for number in ("0.315", "0.900", "0.875", "0.750", "0.34–0.99"):
        assert number in said
    for word in ("base", "class [weights]", "mean of 2 members", "best single", "surface W"):
        assert word in said


def test_columns_that_do_not_fit_are_named():
    found = metrics(figures(0), figures(3))
    assert "not shown here: AP, AUC, accuracy, loss; all are in metrics.json" in printed(found, 80)
    assert "not shown here" not in printed(found)


def test_where_there_is_room_a_row_is_one_line():
    said = printed(metrics(figures(0), figures(3)))
    assert "│ ensemble (mean of 2 members) " in said
    assert "│ base (trial 0, mobilenet_v3_small, best single) " in said
    assert "│ class [weights] (trial 3, mobilenet_v3_small) " in said
    assert all(f" {title} ┃" in said for title in COLUMNS.values())
    assert "0.875 [0.34, 0.99]" in said


def test_a_trial_without_a_name_is_called_by_its_number():
    said = printed(metrics(figures(0), figures(3)), names={})
    assert "│ trial 3 (mobilenet_v3_small) " in said


def test_an_ensemble_that_is_its_only_member_has_one_row():
    said = printed(metrics(figures(0))).partition("The ensemble three ways")[0]
    assert said.count("│ ") == 2 * (1 + len(COLUMNS) + 2)  # its row, and that of every tile cracked
    assert "base (trial 0, mobilenet_v3_small, the only member)" in said
    assert "F1 minus" not in said


@pytest.mark.parametrize("used", [True, False])
def test_whether_flips_and_turns_are_used_is_said_with_what_they_changed(used):
    tried = {"tta": used, "tta_tried": {"plain": 0.65, "turned": 0.65 + 0.01 * used}}
    found = metrics(figures(0), figures(3))
    assert "flips and turns" not in printed(found)
    said = printed(found | {"choice": found["choice"] | tried})
    if used:
        assert "flips and turns are used: validation F1 is 0.660 with them and 0.650" in said
    else:
        assert "flips and turns are not used: validation F1 is 0.650 with them and 0.650" in said


def test_how_methods_were_compared_is_said_with_what_that_leaves_out():
    score = {"method": "mean", "inner_score": 0.7, "outer_score": 0.4, "outer_recall": 0.85}
    found = metrics(figures(0), figures(3))
    asked = {"threshold_rule": "recall=0.9", "methods": [score]}
    said = printed(found | {"choice": found["choice"] | asked})
    assert "cross-validation of mean: precision at a recall of 0.9 0.700 on the" in said
    assert "0.400 on those left out (where its threshold reached a recall of 0.850)" in said
    assert "the kept epochs, and in a search the settings, were chosen by all validation" in said


def test_what_a_tile_costs_is_always_said_with_what_was_kept():
    found = metrics(figures(0), figures(3))
    assert "a tile costs 2 forward passes, one for each of 2 members" in printed(found)
    choice = found["choice"]
    dealt = [
        member | {"num_networks": kept, "num_folds": 3}
        for member, kept in zip(choice["members"], (3, 1), strict=True)
    ]
    single = figures(7) | {"num_networks": 2, "num_folds": 3}
    asked = {"members": dealt, "best_single": single, "tta": True, "budget_members": 4}
    assert cost_sentence(choice | asked) == (
        "a tile costs 32 forward passes: all 3 networks of trial 0, 1 of 3 networks of trial 3, "
        "each in its 8 flips and turns (at most 4 were asked for); the best single member is "
        "judged by 2 of 3 networks of trial 7"
    )


def test_how_far_seeds_lie_apart_stands_beside_the_intervals():
    f1 = {"mean": 0.8, "standard_deviation": 0.0125, "lowest": 0.79, "highest": 0.815}
    ap = f1 | {"mean": 0.85}
    found = metrics(figures(0), figures(3))
    assert "seeds of one configuration" not in printed(found)
    spread = {"trials": [0, 2, 3], "f1": f1, "average_precision": ap}
    lines = printed(found | {"choice": found["choice"] | {"seeds": [spread]}}).splitlines()
    beside = lines[[line.strip() for line in lines].index(found["intervals"]) + 1]
    assert beside.startswith(
        "3 seeds of one configuration (trials 0, 2, 3) have on validation, mean ± standard "
        "deviation (range): F1 0.800 ± 0.013 (0.790 to 0.815), AP 0.850 ± 0.013 (0.790 to 0.815);"
    )


def test_what_choosing_flatters_is_one_sentence_or_the_reason_why_there_is_none():
    found = metrics(figures(0), figures(3))
    assert "only 2 photographs have cracked tiles" in printed(found)
    nested = {"f1_where_chosen": 0.812, "f1": 0.797, "precision": 0.801, "recall": 0.793}
    optimism = {"by_photograph": True, "num_photographs": 195, "ensemble": nested}
    choice = found["choice"] | {"optimism": optimism | {"with_neighbours": None}}
    line = "F1 0.812; chosen on others: 0.797 (precision 0.801, recall 0.793)"
    said = printed(found | {"choice": choice}).splitlines()
    assert f"chosen and scored on the same 195 photographs: {line}" in map(str.rstrip, said)
    second = nested | {"f1_where_chosen": 0.85, "f1": 0.84}
    choice = choice | {"tta": True, "optimism": optimism | {"with_neighbours": second}}
    said = printed(found | {"choice": choice})
    assert f"195 photographs, without flips and turns: {line}, and F1 0.850 with the second" in said


def test_an_ensemble_of_one_that_is_not_the_best_single_is_called_one_member():
    found = metrics(figures(0), figures(3))
    found["choice"]["members"] = [figures(3)]
    assert "ensemble (one member)" in printed(found)


def test_names_are_those_of_the_table_of_trials_and_move_no_cursor():
    trials = pd.DataFrame({"trial": [0, 1, 2], "name": ["base", None, "a\x1b[2Jb"]})
    assert names_of(trials) == {0: "base", 2: "a\\x1b[2Jb"}
    assert names_of(trials.drop(columns="name")) == {}
    assert names_of(pd.DataFrame()) == {}


def test_one_is_no_plural():
    said = printed(metrics(figures(0), num_test_tiles=1, num_test_photographs=1))
    assert "Test split: 1 tile of 1 photograph\n" in "\n".join(map(str.rstrip, said.split("\n")))
    assert said.rstrip().endswith("was opened 1 time")
    assert [plural(n, "epoch") for n in (0, 1, 1000)] == ["0 epochs", "1 epoch", "1,000 epochs"]


def test_openings_of_the_same_photographs_by_other_runs_are_told():
    found = metrics(figures(0), openings_by_other_runs={"all": 2, "first": 1})
    assert (
        printed(found)
        .rstrip()
        .endswith(
            "was opened 1 time; its photographs were also opened by all (2 times), first (1 time)"
        )
    )


def test_what_calling_every_tile_cracked_reaches_stands_beside_every_f1():
    surfaces = {"D": figures(trivial_f1=0.25), "W": figures(trivial_f1=0.125)}
    said = printed(metrics(figures(0), figures(3), surfaces=surfaces))
    row = next(line for line in said.splitlines() if "every tile cracked" in line)
    assert [cell.strip() for cell in row.split("│")[4:7]] == ["0.500", "0.333", "1.000"]
    assert "ensemble on surface D (all cracked: F1 0.250)" in said
    assert "ensemble on surface W (all cracked: F1 0.125)" in said
    assert "no better" not in said


def test_an_ensemble_no_better_than_calling_every_tile_cracked_is_said_first():
    found = metrics(figures(0), figures(3), ensemble=figures(f1=0.5))
    first = printed(found).splitlines()[0]
    assert first == (
        "The ensemble is no better than calling every tile cracked: its F1 is 0.500, and that "
        "alone reaches 0.500."
    )
    counts = {"true_positive": 9, "false_positive": 21, "false_negative": 0, "true_negative": 0}
    found = metrics(figures(0), figures(3), ensemble=figures(f1=0.5, confusion_matrix=counts))
    first = printed(found).splitlines()[0]
    assert first == "The ensemble calls all of 30 test tiles cracked: it tells nothing apart."


def test_an_ensemble_that_is_not_shown_to_be_better_than_calling_every_tile_cracked_is_said_to_be():
    gain = {"difference": 0.375, "low": -0.01, "high": 0.7, "verdict": "no difference shown"}
    first = printed(metrics(figures(0), figures(3), gain_over_trivial=gain)).splitlines()[0]
    assert first.startswith("The ensemble is not shown to be better than calling every tile")
    assert "anything from −0.010 to +0.700 (95 %)" in first
    for low in (0.01, None):
        said = printed(metrics(figures(0), figures(3), gain_over_trivial=gain | {"low": low}))
        assert "not shown to be better" not in said


def test_a_member_that_answers_with_fewer_networks_has_their_number_in_its_row():
    kept = {"num_networks": 2, "num_folds": 5}
    said = printed(metrics(figures(0), figures(3) | kept))
    (row,) = [line for line in said.splitlines() if "class [weights]" in line]
    assert "2 of 5 networks" in row


def test_a_surface_on_which_calling_every_tile_cracked_is_as_good_is_named_first():
    surfaces = {"D": figures(), "W": figures(f1=0.25, trivial_f1=0.375)}
    first = printed(metrics(figures(0), figures(3), surfaces=surfaces)).splitlines()[0]
    assert first == (
        "By F1 the ensemble is no better than calling every tile cracked on surface W "
        "(0.250 against 0.375)."
    )


@pytest.mark.parametrize("width", [80, 240])
def test_the_ensemble_is_shown_three_ways_with_what_each_gains(width):
    said = printed(metrics(figures(0), figures(3)), width)
    table = said[said.index("three ways") :].splitlines()
    rows = {row.split("│")[1].strip(): row for row in table if row.startswith("│")}
    ways_told = ["tile alone", "with context", "with neighbours"]
    assert list(rows) == [*ways_told, "every tile cracked", "gain with context"]
    assert rows["every tile cracked"].count("0.500") == 3
    assert "0.854 [0.34, 0.99]" in rows["tile alone"]
    assert "as with context" in rows["with neighbours"]
    assert rows["gain with context"].count("+0.021") == 3  # on all tiles, D and W
    assert rows["gain with context"].count("[−0.001, +0.043]") == (1 if width == 80 else 3)
    assert "second stage: the grid of the photographs is not known" in said
