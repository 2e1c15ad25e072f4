"""How the result of a test is shown: sentences, limits of axes, and a table on the terminal."""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ensemble.base.errors import escape
from ensemble.base.files import read_table
from ensemble.base.options import METHODS
from ensemble.base.wording import format_number, plural
from ensemble.data.augmentation import NUM_TURNS
from ensemble.selection.thresholds import name_score
from ensemble.training.metrics import METRICS

COLUMNS = {name: metric.column for name, metric in METRICS.items() if metric.column}
ALWAYS_SHOWN = 3  # what does not fit is left out from the end
WITH_INTERVAL = ("f1", "average_precision")
NARROW_TITLE = 22  # characters, where a row has two lines
LEAST_SPAN = 0.05  # shortest axis of scores
BEYOND = 0.01  # what an axis of scores shows below 0 and above 1


class Row(NamedTuple):
    """What was tested, with its figures."""

    title: str
    about: list[str]
    figures: dict[str, Any]
    group: int = 0  # a line is drawn between two groups


def read_names(run: Path) -> dict[int, str]:
    """Trial → the name that a recipe gives it; InputError where `trials.csv` is damaged."""
    path = run / "trials.csv"
    return names_of(read_table(path, text=("name",))) if path.exists() else {}


def names_of(trials: pd.DataFrame) -> dict[int, str]:
    """Trial → name, from the rows of `trials.csv`; empty where they have none."""
    if not {"trial", "name"} <= set(trials.columns):
        return {}
    named = trials[trials["name"].notna() & (trials["name"] != "")]
    return {row["trial"]: escape(str(row["name"])) for row in named.to_dict("records")}


def sole_member(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """The figures of the only member; None where there are several."""
    return metrics["members"][0] if len(metrics["members"]) == 1 else None


def trivial_sentences(metrics: dict[str, Any]) -> list[str]:
    """Say where an ensemble is no better than calling every tile cracked; `metrics.json` in.

    With a share p of cracked tiles, that reaches an F1 of 2p / (1 + p) without any network.
    """
    figures, counts = metrics["ensemble"], metrics["ensemble"]["confusion_matrix"]
    sentences = []
    if counts["false_negative"] + counts["true_negative"] == 0:
        tiles = plural(sum(counts.values()), "test tile")
        sentences.append(f"The ensemble calls all of {tiles} cracked: it tells nothing apart.")
    elif figures["f1"] <= figures["trivial_f1"]:
        sentences.append(
            f"The ensemble is no better than calling every tile cracked: its F1 is "
            f"{format_number(figures['f1'])}, and that alone reaches "
            f"{format_number(figures['trivial_f1'])}."
        )
    elif (gain := metrics.get("gain_over_trivial")) and gain["low"] is not None and gain["low"] < 0:
        sentences.append(
            "The ensemble is not shown to be better than calling every tile cracked: its F1 is "
            f"{format_number(figures['f1'])}, that alone reaches "
            f"{format_number(figures['trivial_f1'])}, and the difference may be anything from "
            f"{format_number(gain['low'], '+.3f')} to {format_number(gain['high'], '+.3f')} (95 %)."
        )
    worse = [
        f"{escape(surface)} ({format_number(part['f1'])} against "
        f"{format_number(part['trivial_f1'])})"
        for surface, part in metrics["surfaces"].items()
        if part["f1"] <= part["trivial_f1"] and 0 < part["trivial_f1"] < 1  # has both classes
    ]
    if worse and not sentences and len(metrics["surfaces"]) > 1:
        sentences.append(
            "By F1 the ensemble is no better than calling every tile cracked on surface "
            f"{', '.join(worse)}."
        )
    return sentences


def print_result(metrics: dict[str, Any], names: Mapping[int, str], console: Console) -> None:
    """Print ensemble, members and surfaces, a row each, and the comparison.

    Args:
        metrics: What `metrics.json` holds.
        names: Trial → name, of trials that have one.
        console: Terminal, whose width decides how many columns there are.
    """
    for line in trivial_sentences(metrics):
        console.print(line, style="bold", highlight=False, markup=False)
    title = _title("Test split", metrics["num_test_tiles"], metrics["num_test_photographs"])
    _print_figures(title, _rows(metrics, names), metrics["ways"], console)
    choice = metrics["choice"]
    reached = choice["val_metrics"]
    console.print(
        f"threshold rule {choice['threshold_rule']}: precision {reached['precision']:.3f} and "
        f"recall {reached['recall']:.3f} on validation",
        highlight=False,
    )
    if "relabelled" in metrics:
        new = metrics["relabelled"]
        console.print(
            f"on corrected labels ({new['num_changed']} changed, "
            f"{plural(new['num_ignored'], 'row')} of tiles that are not tested): "
            f"F1 {format_number(new['f1'])} (all called cracked: "
            f"{format_number(new['trivial_f1'])}), precision {format_number(new['precision'])}, "
            f"recall {format_number(new['recall'])}",
            highlight=False,
        )
    for line in choice_sentences(choice):
        console.print(line, highlight=False, markup=False)
    gain = metrics["gain_over_best_single"]["f1"]
    if gain["difference"] is not None and sole_member(metrics) is None:
        difference = describe_f1(gain["difference"], gain, is_gain=True)
        line = f"F1 minus the best single member's: {difference}, {gain['verdict']}"
        console.print(line, highlight=False, markup=False)
    console.print(metrics["intervals"], highlight=False)
    for line in seed_sentences(choice):
        console.print(line, highlight=False, markup=False)
    if metrics["leaky_split"]:
        console.print(
            "LEAKY SPLIT: tiles of one photograph stand in train and test; this shows what leakage "
            "is worth and is no result",
            style="bold red",
        )
    elif metrics["split_by"] != "photograph":
        console.print(
            "split by content: tiles of one photograph may be in train and test, so leakage cannot "
            "be ruled out",
            style="bold",
        )
    openings = plural(metrics["num_test_openings"], "time")
    console.print(
        f"the test split of this run was opened {openings}{openings_elsewhere(metrics)}",
        highlight=False,
        markup=False,
    )


def openings_elsewhere(metrics: dict[str, Any]) -> str:
    """What follows on a run's openings where other runs have opened the same test photographs."""
    others = metrics["openings_by_other_runs"]
    if not others:
        return ""
    named = ", ".join(f"{escape(name)} ({plural(n, 'time')})" for name, n in others.items())
    return f"; its photographs were also opened by {named}"


def print_judged(metrics: dict[str, Any], console: Console) -> None:
    """Print the ensemble on another data set, by surface, three ways, and what was left out.

    Args:
        metrics: What `metrics.json` of the judged data holds.
        console: Terminal, whose width decides how many columns there are.
    """
    for line in trivial_sentences(metrics):
        console.print(line, style="bold", highlight=False, markup=False)
    title = _title("Judged", metrics["num_tiles"], metrics["num_photographs"])
    about = [describe_method(metrics["choice"])]
    rows = [Row("ensemble", about, metrics["ensemble"]), *_rows_beside(metrics)]
    _print_figures(title, rows, metrics["ways"], console)
    trained, sizes = metrics["trained_on"], metrics["trained_on"]["num_tiles"]
    surfaces = ", ".join(trained["surfaces"])
    lines = [
        f"trained on {trained['data']}: {plural(sizes['train'], 'training tile')} and "
        f"{plural(sizes['val'], 'validation tile')}{f' of surfaces {surfaces}' * bool(surfaces)}",
        metrics["intervals"],
    ]
    if known := metrics["num_known_tiles"]:
        beside = plural(metrics["num_tiles_beside_known"], "other tile")
        lines.append(
            f"left out: {plural(known, 'tile')} that the run was trained or chosen on, and "
            f"{beside} of the same photographs"
        )
    else:
        lines.append("no tile is known to the run, by the bytes of its file or by its pixels")
    if alike := metrics["num_namesakes"]:
        lines.append(
            f"{plural(alike, 'tile')} have the names of tiles that the run was trained or chosen "
            "on, and other pixels: if they are the same photographs, saved anew, the figures are "
            "too good"
        )
    if own := metrics["num_own_test_tiles"]:
        lines.append(f"{plural(own, 'tile')} of the run's test split: it was opened once more")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _title(what: str, num_tiles: int, num_photographs: int | None) -> str:
    of = f" of {plural(num_photographs, 'photograph')}" if num_photographs else ""
    return f"{what}: {plural(num_tiles, 'tile')}{of}"


def _print_figures(title: str, rows: list[Row], ways: dict[str, Any], console: Console) -> None:
    """Print the table of all rows, and the ensemble three ways."""
    most = len(COLUMNS)
    stacked = (_draw(title, rows, n, stacked=True) for n in range(most, ALWAYS_SHOWN - 1, -1))
    table = print_widest(chain([_draw(title, rows, most, stacked=False)], stacked), console)
    left_out = list(COLUMNS.values())[len(table.columns) - 3 :]
    if left_out:
        console.print(f"not shown here: {', '.join(left_out)}; all are in metrics.json")
    print_widest((draw_ways(ways, bounds=each) for each in (True, False)), console)


def draw_ways(ways: dict[str, Any], *, bounds: bool) -> Table:
    """F1 of the ensemble three ways, on all test tiles and on each surface, and the gains.

    Args:
        ways: What `describe_ways` returned.
        bounds: Whether surfaces have intervals, as all tiles have.
    """
    shown = {name: way for name, way in ways.items() if "same_as" not in way}
    surfaces = list(next(iter(shown.values()))["surfaces"])
    has_bounds = [True, *[bounds] * len(surfaces)]
    table = Table(title="The ensemble three ways, F1", title_justify="left", title_style="bold")
    for title in ("judged", "all", *map(escape, surfaces)):
        table.add_column(title, justify="left" if title == "judged" else "right")
    for name, way in ways.items():
        if "same_as" in way:
            table.add_row(name, f"as {way['same_as']}")
            continue
        figures = [part["figures"] for part in (way, *map(way["surfaces"].get, surfaces))]
        table.add_row(
            name,
            *(
                describe_f1(each["f1"], each["intervals"]["f1"], is_bounded=is_bounded)
                for each, is_bounded in zip(figures, has_bounds, strict=True)
            ),
        )
    seen = next(iter(shown.values()))
    trivial = [seen, *(seen["surfaces"][surface] for surface in surfaces)]
    table.add_row(
        "every tile cracked", *(format_number(part["figures"]["trivial_f1"]) for part in trivial)
    )
    table.add_section()
    for name, way in shown.items():
        if way["gain"] is None:
            continue
        gains = [part["gain"]["f1"] for part in (way, *map(way["surfaces"].get, surfaces))]
        table.add_row(
            f"gain {name}",
            *(
                describe_f1(gain["difference"], gain, is_bounded=is_bounded, is_gain=True)
                for gain, is_bounded in zip(gains, has_bounds, strict=True)
            ),
        )
    return table


def describe_f1(
    value: float | None, bounds: dict[str, Any], *, is_bounded: bool = True, is_gain: bool = False
) -> str:
    """An F1, or a gain in F1, with its interval where there is one and it `is_bounded`."""
    form, form_of_bounds = ("+.3f", "+.3f") if is_gain else (".3f", ".2f")
    figure = format_number(value, form)
    if value is None or not is_bounded or bounds["low"] is None:
        return figure
    low, high = (format_number(bounds[end], form_of_bounds) for end in ("low", "high"))
    return f"{figure} [{low}, {high}]"


def choice_sentences(choice: dict[str, Any]) -> list[str]:
    """Say what was tried on validation, and how far that can be trusted; `ensemble.json` in."""
    name, sentences = name_score(choice["threshold_rule"]), []
    if choice["tta_tried"] is not None:
        plain, turned = (f"{choice['tta_tried'][key]:.3f}" for key in ("plain", "turned"))
        sentences.append(
            f"flips and turns are {'' if choice['tta'] else 'not '}used: validation {name} is "
            f"{turned} with them and {plain} without"
        )
    sentences.append(f"second stage: {choice['neighbours_note']}")
    sentences.append(optimism_sentence(choice))
    sentences.append(cost_sentence(choice))
    for score in choice["methods"]:
        sentences.append(
            f"cross-validation of {score['method']}: {name} {score['inner_score']:.3f} on the "
            f"validation photographs it chose with, {score['outer_score']:.3f} on those left out "
            f"(where its threshold reached a recall of {score['outer_recall']:.3f})"
        )
    if choice["methods"]:
        sentences.append(
            "figures on photographs left out are still too good: the kept epochs, and in a search "
            "the settings, were chosen by all validation photographs"
        )
    return sentences


def seed_sentences(choice: dict[str, Any]) -> list[str]:
    """Say how far trainings that differ in their seed alone lie apart; `ensemble.json` in."""
    sentences = []
    for spread in choice["seeds"]:
        trials = ", ".join(map(str, spread["trials"]))
        figures = (
            f"{title} {figure['mean']:.3f} ± {figure['standard_deviation']:.3f} "
            f"({figure['lowest']:.3f} to {figure['highest']:.3f})"
            for title, figure in (("F1", spread["f1"]), ("AP", spread["average_precision"]))
        )
        sentences.append(
            f"{plural(len(spread['trials']), 'seed')} of one configuration (trials {trials}) have "
            f"on validation, mean ± standard deviation (range): {', '.join(figures)}; an interval "
            "over photographs holds nothing of this spread"
        )
    return sentences


def cost_sentence(choice: dict[str, Any]) -> str:
    """Say how many forward passes a tile costs, and what was kept; `ensemble.json` in."""
    members, single = choice["members"], choice["best_single"]
    networks = sum(member["num_networks"] for member in members)
    passes = networks * (NUM_TURNS if choice["tta"] else 1)
    of = [_name_networks(member) for member in members if member["num_folds"] > 1]
    parts = [f"a tile costs {passes} forward pass{'es' * (passes != 1)}"]
    if of:
        parts.append(f": {', '.join(of)}")
    elif networks > 1:
        parts.append(f", one for each of {networks} members")
    if choice["tta"]:
        parts.append(f", each in its {NUM_TURNS} flips and turns")
    if choice["budget_members"] is not None:
        parts.append(f" (at most {choice['budget_members']} were asked for)")
    is_kept = single["trial"] in {member["trial"] for member in members}
    if single["num_networks"] < single["num_folds"] and not is_kept:
        parts.append(f"; the best single member is judged by {_name_networks(single)}")
    return "".join(parts)


def count_networks(member: dict[str, Any]) -> str:
    """How many of its networks answer for a member of a refit."""
    kept, number = member["num_networks"], member["num_folds"]
    return f"{f'all {number}' if kept == number else f'{kept} of {number}'} networks"


def _name_networks(member: dict[str, Any]) -> str:
    return f"{count_networks(member)} of trial {member['trial']}"


def optimism_sentence(choice: dict[str, Any]) -> str:
    """Say how much too good F1 is where the ensemble was chosen; `ensemble.json` in."""
    optimism = choice["optimism"]
    if optimism is None:
        return str(choice["optimism_note"])
    unit = "photograph" if optimism["by_photograph"] else "tile"
    turned = ", without flips and turns" if choice["tta"] else ""
    parts = []
    for name, how in (("ensemble", ""), ("with_neighbours", " with the second stage")):
        if (nested := optimism[name]) is not None:
            parts.append(
                f"F1 {nested['f1_where_chosen']:.3f}{how}; chosen on others: {nested['f1']:.3f} "
                f"(precision {nested['precision']:.3f}, recall {nested['recall']:.3f})"
            )
    same = plural(optimism["num_photographs"], unit)
    return f"chosen and scored on the same {same}{turned}: {', and '.join(parts)}"


def describe_method(choice: dict[str, Any]) -> str:
    """The method and its number of members in a few words."""
    count = len(choice["ingredients"]) or len(choice["members"])
    return "one member" if count == 1 else METHODS[choice["method"]].format(count=count)


def _rows(metrics: dict[str, Any], names: Mapping[int, str]) -> list[Row]:
    """The ensemble first; its only member stands for it where the two are the same."""
    choice, only = metrics["choice"], sole_member(metrics)
    rows = []
    if only is None:
        about = [describe_method(choice)]
        rows.append(Row("ensemble", about, metrics["ensemble"]))
    for member in metrics["members"]:
        trial, name = f"trial {member['trial']}", names.get(member["trial"])
        about = [member["backbone"] if name is None else f"{trial}, {member['backbone']}"]
        if only is not None:
            about.append("the only member")
        elif member["trial"] == metrics["best_single"]["trial"]:
            about.append("best single")
        if member["num_folds"] > 1:
            about.append(count_networks(member))
        rows.append(Row(name or trial, about, member))
    return [*rows, *_rows_beside(metrics)]


def _rows_beside(metrics: dict[str, Any]) -> list[Row]:
    """What calling every tile cracked reaches, and the ensemble on each surface."""
    trivial = trivial_figures(metrics["ensemble"])
    trivial["val_f1"] = metrics["choice"]["val_metrics"].get("trivial_f1")
    rows = [Row("every tile cracked", [], trivial, group=1)]
    if len(metrics["surfaces"]) > 1:
        for surface, figures in metrics["surfaces"].items():
            about = [f"all cracked: F1 {format_number(figures['trivial_f1'])}"]
            rows.append(Row(f"ensemble on surface {escape(surface)}", about, figures, group=2))
    return rows


def trivial_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """What calling every tile cracked would reach, from the ensemble's own figures."""
    counts = figures["confusion_matrix"]
    share = (counts["true_positive"] + counts["false_negative"]) / sum(counts.values())
    known = {"f1": figures["trivial_f1"], "precision": share, "recall": 1.0, "accuracy": share}
    nothing: dict[str, float | None] = dict.fromkeys(("threshold", *COLUMNS))
    bounds = {name: {"low": None, "high": None} for name in COLUMNS}
    return {**nothing, **known, "intervals": bounds}


def print_widest(tables: Iterable[Table], console: Console) -> Table:
    """Print and return the first table, of which the widest comes first, that fits, or the last."""
    unbounded = console.options.update_width(10_000)
    for table in tables:  # the last one stays
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print(table)
    return table


def _draw(title: str, rows: list[Row], num_shown: int, *, stacked: bool) -> Table:
    """The table with the first figures; stacked, an interval stands below its figure."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("tested", max_width=NARROW_TITLE if stacked else None, overflow="fold")
    shown = dict(list(COLUMNS.items())[:num_shown])
    for name in ("threshold", "val F1", *shown.values()):
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        figures = row.figures
        cells = [format_number(figures["threshold"]), format_number(figures.get("val_f1"))]
        for metric in shown:
            bounds = figures["intervals"][metric]
            cell = format_number(figures[metric])
            if metric in WITH_INTERVAL and bounds["low"] is not None:
                low, high = f"{bounds['low']:.2f}", f"{bounds['high']:.2f}"
                cell += f"\n{low}–{high}" if stacked else f" [{low}, {high}]"
            cells.append(cell)
        if row.group != rows[number - 1].group and number:
            table.add_section()
        name = "\n".join([row.title, *row.about])
        if not stacked and row.about:
            name = f"{row.title} ({', '.join(row.about)})"
        table.add_row(*map(Text, (name, *cells)), style=None if number else "bold")
    return table


def score_limits(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis for `low` to `high`, at least 0.05 apart, so that noise looks small."""
    lack = max(LEAST_SPAN - (high - low), 0) / 2
    low, high = low - lack, high + lack
    up, down = max(-BEYOND - low, 0), max(high - 1 - BEYOND, 0)
    return max(low - down, -BEYOND), min(high + up, 1 + BEYOND)
