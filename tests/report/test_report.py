"""The page says what the files say, needs nothing else, and shows everything to everyone."""

import base64
import hashlib
import itertools
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from runs import FIGURES, HOSTILE, make_evaluated, make_searched, make_study
from sklearn.metrics import average_precision_score

from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.evaluation.figures import (
    coverage_note,
)
from ensemble.evaluation.mistakes import relabelled_figures, suspect_labels
from ensemble.evaluation.presentation import score_limits
from ensemble.explanation.activation import SHEET_KEY
from ensemble.report.data_urls import embed_picture, embed_sheet
from ensemble.report.learning import describe_learning, draw_learning, group_by_verdict
from ensemble.report.page import main, write_report
from ensemble.report.parallel_plot import parallel_coordinates, stagger
from ensemble.report.run_files import read_run
from ensemble.report.score_plots import precision_recall_steps
from ensemble.report.sections import first_pictures, label_section, photograph_rows
from ensemble.report.sentences import (
    alarms_a_photograph,
    command_without_folders,
    describe_rule,
    headline,
    seed_caveat,
    trust_sentences,
)
from ensemble.search.importance import LEAST_TRIALS, find_importance
from ensemble.training.metrics import METRICS

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Every element of a page with its attributes and its text, and the cells of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "attrs": dict(attrs), "text": "", "inside": list(self.open)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": "", "inside": self.open[:]})

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()["tag"] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def find(self, *tags: str) -> list[dict[str, Any]]:
        return [element for element in self.elements if element["tag"] in tags]

    @property
    def text(self) -> str:
        """All text of the page."""
        return " ".join(element["text"] for element in self.find("main"))

    def rows(self, table: str) -> list[list[str]]:
        """The text of every cell of a table's body."""
        inside = [
            e for e in self.elements if any(a["attrs"].get("id") == table for a in e["inside"])
        ]
        rows = [e for e in inside if e["tag"] == "tr"]
        cells = [e for e in inside if e["tag"] in ("td", "th")]
        found = [
            [c["text"].strip() for c in cells if any(a is row for a in c["inside"])] for row in rows
        ]
        return found[1:]


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("searched") / "run"
    make_searched(run)
    return run


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evaluated") / "run <1>"
    make_searched(run)
    make_evaluated(run)
    write_report(run)
    return run


@pytest.fixture(scope="session")
def text(evaluated: Path) -> str:
    return (evaluated / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_asks_for_no_other_file(text: str, page: Page):
    for element in page.elements:
        for name, value in element["attrs"].items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                assert value.startswith(("#", "data:")), (element["tag"], value[:80])
    assert not page.find("iframe", "object", "embed")
    [script] = page.find("script")
    assert not script["attrs"]
    assert not re.search(r"fetch|XMLHttp|import|src\s*=|innerHTML", script["text"])
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert all(reference.startswith("#") for reference in re.findall(r"url\(([^)]*)\)", text))


def test_no_script_runs_but_the_one_of_the_page(page: Page):
    [script] = page.find("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    [policy] = [e for e in page.find("meta") if "http-equiv" in e["attrs"]]
    rules = dict(rule.strip().split(" ", 1) for rule in policy["attrs"]["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_every_figure_is_there_with_a_title_and_a_caption(page: Page):
    figures = page.find("figure")
    assert {figure["attrs"]["id"] for figure in figures} == FIGURES
    captions = page.find("figcaption")
    assert len(captions) == len(figures)
    assert all(len(caption["text"]) > 30 for caption in captions)


def test_every_picture_says_what_it_shows(page: Page):
    images = page.find("img")
    first, galleries, suspects, samples = 3, 3 + 1 + 3, 1, 1
    assert len(images) == first + galleries + suspects + samples
    assert all(len(image["attrs"]["alt"]) > 20 for image in images)
    drawings = page.find("svg")
    assert len(drawings) == len(FIGURES) - 4
    assert all(len(svg["attrs"]["aria-label"]) > 20 for svg in drawings)
    assert {svg["attrs"]["role"] for svg in drawings} == {"img"}


def test_no_two_elements_share_a_name_and_every_reference_is_met(text: str, page: Page):
    names = [element["attrs"]["id"] for element in page.elements if "id" in element["attrs"]]
    assert len(names) == len(set(names))
    references = re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text)
    assert set(references) <= set(names)


def test_drawings_have_no_colour_of_their_own(page: Page):
    for element in page.elements:
        if any(outer["tag"] == "svg" for outer in element["inside"]):
            colours = re.findall(
                r"(?:fill|stroke): (#\w+|rgb\S+)", element["attrs"].get("style", "")
            )
            assert not colours, element


def test_headings_are_in_order(page: Page):
    levels = [int(heading["tag"][1]) for heading in page.find("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_every_head_of_a_table_says_what_it_heads(page: Page):
    assert {cell["attrs"]["scope"] for cell in page.find("th")} == {"col", "row"}
    assert len(page.find("caption")) == len(page.find("table"))


def test_numbers_of_the_result_table_are_those_of_metrics(evaluated: Path, page: Page):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    rows = {row[0]: row[1:] for row in page.rows("table-results")}
    models = [metrics["ensemble"], metrics["best_single"]]
    for name, shown in (("threshold", "threshold"), ("val_f1", "validation F1")):
        assert rows[shown][:2] == [f"{model[name]:.3f}" for model in models]
    for key, shown in (("true_positive", "found"), ("false_positive", "false alarms")):
        assert rows[shown][:2] == [str(model["confusion_matrix"][key]) for model in models]
    trivial = {shown: cells[2] for shown, cells in rows.items()}
    assert (trivial["found"], trivial["missed"], trivial["false alarms"]) == ("20", "0", "60")
    assert (trivial["F1"], trivial["recall"]) == ("0.400", "1.000")
    assert trivial["precision"] == f"{20 / 80:.3f}"
    assert trivial["validation F1"] == f"{2 / 3:.3f}"
    for name, metric in METRICS.items():
        for model, cell in zip(models, rows[metric.title], strict=False):
            bounds = model["intervals"][name]
            wanted = f"{model[name]:.3f}"
            if bounds["low"] is not None:
                wanted += f"{bounds['low']:.2f} to {bounds['high']:.2f}"
            assert cell == wanted
    singles = page.rows("table-singles")
    assert [row[3][:5] for row in singles] == [
        f"{model['f1']:.3f}" for model in (metrics["ensemble"], *metrics["members"])
    ]


def test_what_was_tested_beside_the_ensemble_has_a_row_for_each_way_that_differs(
    evaluated: Path, page: Page, tmp_path: Path
):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    assert "table-compared" not in str([e["attrs"] for e in page.find("table")])
    way = metrics["ways"]["tile alone"] | {"difference": metrics["gain_over_best_single"]}
    way["figures"] |= {"val_f1": None}
    ways = {"tile alone": way, "with context": {"same_as": "tile alone"}}
    whats = ["ensemble (mean)", "trial 2, best small_cnn"]
    members = [[{"trial": 2, "num_networks": 2}, {"trial": 0, "num_networks": 1}]]
    members.append([{"trial": 2, "num_networks": 3}])
    for member, count in zip(metrics["members"], (2, 1), strict=True):
        member |= {"num_networks": count, "num_folds": 3}
    compared = [
        {"what": what, "is_chosen": not n, "is_reference": bool(n), "ways": ways}
        | {"members": members[n]}
        for n, what in enumerate(whats)
    ]
    shown = Page(change(evaluated, tmp_path, compared=compared, members=metrics["members"]))
    rows = shown.rows("table-compared")
    assert [row[0] for row in rows] == [f"{what}tile alone, 3 networks" for what in whats]
    gain = metrics["gain_over_best_single"]["f1"]["difference"]
    assert rows[0][2].replace("−", "-").startswith(f"{gain:+.3f}")
    assert "trial 2 (3 here, 2 within the ensemble)" in shown.text
    assert "2 of 3 networks" in shown.rows("table-singles")[1][0]
    assert "choose nothing by them" in shown.text


def test_gain_and_surfaces_are_those_of_metrics(evaluated: Path, page: Page):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    gains = [row for row in metrics["gain_over_best_single"].values() if row["difference"]]
    shown = page.rows("table-gain")
    first, *others = [row[2] for row in shown]
    assert first == gains[0]["verdict"]
    assert others == [f"{row['verdict']} descriptive" for row in gains[1:]]
    assert [float(row[1].replace("−", "-")[:6]) for row in shown] == [
        round(row["difference"], 3) for row in gains
    ]
    parts = metrics["surfaces"].values()
    assert [(row[4], row[3][:5]) for row in page.rows("table-surfaces")] == [
        (f"{figures['trivial_f1']:.3f}", f"{figures['f1']:.3f}") for figures in parts
    ]
    counts = [figures["confusion_matrix"] for figures in parts]
    assert [row[1] for row in page.rows("table-surfaces")] == [
        f"{c['true_positive']} of {c['true_positive'] + c['false_negative']}" for c in counts
    ]


def test_the_first_screen_says_what_is_found_and_how_far_to_trust_it(evaluated: Path, page: Page):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    figures, counts = metrics["ensemble"], metrics["ensemble"]["confusion_matrix"]
    hits, misses, alarms = (
        counts[key] for key in ("true_positive", "false_negative", "false_positive")
    )
    [screen] = page.find("section")
    inside = [e for e in page.elements if screen in e["inside"]]
    [said] = [e["text"] for e in inside if e["attrs"].get("class") == "headline"]
    assert said == (
        f"On photographs that it had never seen, it finds {hits} of {hits + misses} cracked tiles "
        f"and misses {misses}, with {alarms_a_photograph(alarms, 16)}."
    )
    [trust] = [e["text"] for e in inside if e["attrs"].get("class") == "trust"]
    bounds = figures["intervals"]["false_alarms_per_photograph"]
    assert "tested on 80 tiles of 16 photographs, on which nothing was trained or chosen" in trust
    assert f"gives {bounds['low']:.1f} to {bounds['high']:.1f} false alarms a photograph" in trust
    assert f"F1 is {figures['f1']:.3f}; 95 % interval" in trust
    assert "calling every tile cracked would reach 0.400" in trust
    shown = [e["text"] for e in inside if e["tag"] == "span" and ": " in e["text"]]
    assert shown == [
        "Found crack: D/CD/8.jpg",
        f"Missed crack: {HOSTILE}",
        "False alarm: D/CD/1.jpg",
    ]
    assert metrics["intervals"] in screen["text"]
    assert "other seeds" in screen["text"]


def test_a_headline_claims_no_more_than_is_known(evaluated: Path):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    counts = {"true_positive": 2, "false_positive": 3, "false_negative": 1, "true_negative": 9}
    known = metrics | {"ensemble": metrics["ensemble"] | {"confusion_matrix": counts}}
    assert headline(known).endswith("misses 1, with 0.2 false alarms a photograph (3 in 16).")
    unnamed = known | {"num_test_photographs": None, "split_by": "content"}
    finds = "Finds 2 of 3 cracked tiles and misses 1"
    assert headline(unnamed) == f"{finds}, with 3 false alarms among 12 uncracked tiles."
    assert "may have been trained on" in trust_sentences(unnamed)[0]
    assert headline(known, leak="leaky").startswith(finds)
    counts |= {"false_positive": 0}
    assert headline(known).endswith("misses 1, without a false alarm.")
    counts |= {"true_positive": 0}
    assert headline(known) == "Calls no tile cracked: it misses all of 1 cracked tile."
    metrics["ensemble"]["intervals"]["recall"] |= {"low": 0.704, "high": 0.989}
    assert "it finds 70 to 99 of 100 cracked tiles and gives" in trust_sentences(metrics)[1]
    for bounds in metrics["ensemble"]["intervals"].values():
        bounds["low"] = bounds["high"] = None
    few = trust_sentences(metrics | {"intervals": "9 photographs are too few"})
    assert few[1].startswith("9 photographs are too few. So how far")


def test_an_ensemble_that_is_not_better_than_nothing_is_said_to_be_so_on_the_first_screen(
    evaluated: Path, tmp_path: Path
):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    assert "no better than" not in (evaluated / "report.html").read_text(encoding="utf-8")
    worse = Page(change(evaluated, tmp_path, ensemble=metrics["ensemble"] | {"f1": 0.39}))
    warnings = [e["text"] for e in worse.find("p") if e["attrs"].get("class") == "warning"]
    assert warnings[0].startswith("The ensemble is no better than calling every tile cracked")
    shutil.rmtree(tmp_path / "run")
    unclear = metrics["gain_over_trivial"] | {"low": -0.1}
    page = Page(change(evaluated, tmp_path, gain_over_trivial=unclear))
    warnings = [e["text"] for e in page.find("p") if e["attrs"].get("class") == "warning"]
    assert warnings[0].startswith("The ensemble is not shown to be better than calling every tile")


def test_the_find_of_the_first_screen_is_not_the_surest_one(evaluated: Path):
    sheets = {
        name: embed_sheet(evaluated / "evaluation" / f"{name}.png") for name in ("finds", "misses")
    }
    assert [shown.lines[0] for shown in first_pictures(sheets)] == ["D/CD/8.jpg", HOSTILE]
    assert first_pictures({}) == []


def test_counts_of_photographs_add_up_to_those_of_the_test(evaluated: Path, page: Page):
    rows = photograph_rows(read_run(evaluated))
    counts = read_run(evaluated).metrics["ensemble"]["confusion_matrix"]
    for key, name in (("found", "true_positive"), ("missed", "false_negative")):
        assert sum(row[key] for row in rows) == counts[name]
    assert sum(row["false_alarms"] for row in rows) == counts["false_positive"]
    shown = [*page.rows("table-photographs"), *page.rows("table-photographs-more")]
    assert [int(row[2]) for row in shown] == [row["missed"] for row in rows]
    noticed = sum(row["found"] > 0 for row in rows)
    with_cracks = sum(row["cracked"] > 0 for row in rows)
    assert f"In {noticed} of {with_cracks} photographs with cracks" in page.text


def test_the_slider_has_the_points_of_validation_and_stands_at_the_threshold_in_use(page: Page):
    [slider] = [e for e in page.find("div") if e["attrs"].get("id") == "slider"]
    points = json.loads(slider["attrs"]["data-points"])  # on the calibrated scale
    assert [counts for _, *counts in points] == [[0, 0], [1, 0], [1, 1]]
    assert [threshold for threshold, *_ in points] == pytest.approx(
        [0.7425, 0.4376, 0.1502], abs=1e-4
    )
    [handle] = [e for e in page.find("input") if e["attrs"]["type"] == "range"]
    assert (handle["attrs"]["value"], handle["attrs"]["max"]) == ("1", "2")
    assert slider["attrs"]["data-cracked"] == "1"
    assert page.rows("table-thresholds") == [["0.438in use", "1", "0", "0", "1.000"]]
    [command] = [e["attrs"] for e in page.find("pre") if "data-command" in e["attrs"]]
    assert command["data-command"].endswith("--method auto --top-k 5")


def test_an_ensemble_whose_points_are_not_known_has_no_slider(evaluated: Path, tmp_path: Path):
    choice = json.loads((evaluated / "evaluation" / "metrics.json").read_text())["choice"]
    for points in ([], [[0.5, 1, 0]], [[0.45, 0, 0]]):
        page = Page(change(evaluated, tmp_path, choice=choice | {"working_points": points}))
        assert not [e for e in page.find("div") if e["attrs"].get("id") == "slider"]
        shutil.rmtree(tmp_path / "run")


def test_every_suspect_can_be_ticked_once_and_those_with_a_picture_come_first(
    evaluated: Path, page: Page
):
    suspects = pd.read_csv(evaluated / "evaluation" / "suspect_labels.csv")
    boxes = [e["attrs"] for e in page.find("input") if e["attrs"]["type"] == "checkbox"]
    assert {(box["data-tile"], int(box["data-label"])) for box in boxes} == set(
        zip(suspects["tile"], suspects["suggested_label"], strict=True)
    )
    assert len(boxes) == len(suspects)
    assert boxes[0]["data-tile"] == HOSTILE


def test_what_is_said_of_suspects_tells_strong_ones_from_those_near_the_threshold(evaluated: Path):
    run = read_run(evaluated)
    assert run.suspect_labels is not None
    said = label_section(run, {})["sentence"]
    strongly = (run.suspect_labels["confidence"] <= 0.25).sum()
    assert f"{strongly} of them the ensemble contradicts strongly" in said
    called = run.suspect_labels["ensemble"] >= 0.45
    near = (called != (run.suspect_labels["suggested_label"] == 1)).sum()
    assert (f"{near} it judges as" in said) == (near > 0)


def test_every_table_of_f1_names_what_calling_every_tile_cracked_reaches(page: Page):
    for table in page.find("table"):
        inside = [e for e in page.elements if table in e["inside"]]
        heads = [e["text"] for e in inside if e["tag"] == "th"]
        if table["attrs"]["id"] != "table-gain" and any("F1" in head for head in heads):
            assert re.search(
                r"(every tile|all) called cracked|calling every tile", table["text"].lower()
            ), table["attrs"]


def test_a_refit_shows_what_each_change_was_worth(evaluated: Path, tmp_path: Path):
    shutil.copytree(evaluated, tmp_path / "run")
    gains = {
        f"{metric}_{end}": [None, 0.01]
        for metric in ("f1", "average_precision")
        for end in ("difference", "low", "high")
    }
    tried = {
        "trial": [0, 1],
        "name": ["a/3", "loss.kind = <focal>"],
        "f1": [0.7, 0.71],
        "average_precision": [0.8, 0.81],
        **gains,
        "f1_verdict": ["", "better"],
        "average_precision_verdict": ["", "no difference shown"],
        "seconds": [60.0, 90.0],
    }
    pd.DataFrame(tried).to_csv(tmp_path / "run" / "tried.csv", index=False)
    about = {"refit_of": "a", "folds": 5}
    shutil.move(tmp_path / "run", tmp_path / "copy")
    page = Page(change(tmp_path / "copy", tmp_path, run=about))
    bounds = "+0.010+0.010 to +0.010"
    assert page.rows("table-tried") == [
        ["a/3", "0.700", "–", "0.800", "–", "1.0"],
        [
            "loss.kind = <focal>",
            "0.710",
            f"{bounds}better",
            "0.810",
            f"{bounds}no difference shown",
            "1.5",
        ],
    ]
    assert "Drawn at random from the training split of a, the search that was refitted" in page.text
    (tmp_path / "run" / "tried.csv").write_text("trial,name\n0,a\n")
    with pytest.raises(InputError, match=r"tried\.csv: damaged"):
        read_run(tmp_path / "run")


def test_other_data_that_was_judged_is_shown_beside_the_trivial_f1(evaluated: Path, tmp_path: Path):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    judged = {key: metrics[key] for key in ("ensemble", "surfaces", "choice", "intervals")} | {
        "name": "METU<1>",
        "num_tiles": 80,
        "num_photographs": None,
        "num_known_tiles": 3,
        "num_tiles_beside_known": 1,
        "num_own_test_tiles": 0,
        "num_namesakes": 1,
        "num_judgements": 2,
        "trained_on": {"data": "SDNET2018.zip", "num_tiles": {"train": 1, "val": 1}},
    }
    folder = tmp_path / "copy" / "judged" / "METU"
    shutil.copytree(evaluated, tmp_path / "copy")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(judged))
    page = Page(write_report(tmp_path / "copy").read_text(encoding="utf-8"))
    counts = metrics["ensemble"]["confusion_matrix"]
    [row] = page.rows("table-judged")
    assert row[0] == "METU<1>80 tiles"
    assert row[1] == f"{counts['true_positive']} of 20"
    assert row[3][:5] == f"{metrics['ensemble']['f1']:.3f}"
    assert row[4] == "0.400"
    assert "3 tiles that the run was trained or chosen on, and 1 other tile" in page.text
    assert "1 tile of it has the name of a tile that the run was trained or chosen on" in page.text
    assert "another ensemble of this run" not in page.text
    other = judged | {"choice": judged["choice"] | {"threshold": 0.2}}
    (folder / "metrics.json").write_text(json.dumps(other))
    page = Page(write_report(tmp_path / "copy").read_text(encoding="utf-8"))
    assert "another ensemble of this run" in page.text
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"damaged.*judge the data again"):
        read_run(tmp_path / "copy")


def test_what_is_for_those_who_train_is_folded(page: Page):
    folded = [e for e in page.find("details") if e["attrs"].get("class") == "fold"]
    figures = [e["attrs"]["id"] for f in folded for e in page.find("figure") if f in e["inside"]]
    assert {"figure-history", "figure-learning-2", "figure-disagreement"} <= set(figures)
    assert not {"figure-misses", "figure-false-alarms", "figure-finds"} & set(figures)


def test_trials_are_grouped_by_what_their_curves_say():
    courses = {0: [0.6, 0.4, 0.5, 0.6], 1: [0.6, 0.5], 2: [0.5, 0.6]}
    epochs = pd.concat(
        [curve([0.9, 0.5, 0.3, 0.1][: len(val)], val).assign(trial=t) for t, val in courses.items()]
    )
    notes = [describe_learning(epochs, trial, planned_epochs=4) for trial in courses]
    assert group_by_verdict(notes) == (
        "Overfitting in later epochs: trial 0. Too few epochs to tell: trials 1, 2."
    )


def test_a_threshold_that_was_fixed_is_never_said_to_be_chosen(evaluated: Path, tmp_path: Path):
    choice = json.loads((evaluated / "evaluation" / "metrics.json").read_text())["choice"]
    text = Page(change(evaluated, tmp_path, choice=choice | {"threshold_rule": "0.5"})).text
    assert text.count("fixed at 0.5 beforehand") >= 3
    assert not re.search(r"threshold (was|were) chosen|threshold, chosen", text)
    assert describe_rule("recall=0.9").startswith("chosen on validation, as the highest")


def test_the_area_below_the_drawn_precision_recall_curve_is_the_average_precision():
    generator = np.random.default_rng(0)
    for decimals in (1, 6):
        labels = (generator.random(200) < 0.2).astype(int)
        scores = np.clip(0.3 * labels + generator.random(200), 0, 1).round(decimals)
        recall, precision = precision_recall_steps(labels, scores)
        assert np.trapezoid(precision, recall) == pytest.approx(
            average_precision_score(labels, scores)
        )
        assert (recall[0], recall[-1]) == (0, 1)
        top = scores == scores.max()
        assert precision[0] == labels[top].mean()


def test_an_axis_of_scores_makes_no_mountain_of_noise():
    assert score_limits(0.640, 0.646) == pytest.approx((0.618, 0.668))
    assert score_limits(0.2, 0.9) == (0.2, 0.9)
    assert score_limits(0.99, 1.02) == pytest.approx((0.96, 1.01))
    assert score_limits(-0.02, 0.0) == pytest.approx((-0.01, 0.04))


def test_relabelling_suspects_can_lower_the_figures_and_the_page_does_not_deny_it(page: Page):
    labels = np.array([1] * 4 + [0] * 6)
    calibrated = np.array([0.9, 0.9, 0.9, 0.01, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    table = pd.DataFrame(
        {
            "tile": [f"{i}.jpg" for i in range(10)],
            "photograph": "1",
            "surface": "D",
            "label": labels,
            "trial_0": calibrated,
            "ensemble": calibrated,
            "calibrated": calibrated,
        }
    )
    suspects = suspect_labels(table, [1.0])
    f1 = relabelled_figures(table, suspects, 0.0)["f1"]
    assert f1.iloc[-1] < f1.iloc[0]
    assert "upper bound" not in page.text
    assert "these figures bound nothing" in page.text


def test_a_run_of_an_installed_package_has_a_page_though_no_commit_is_known(
    evaluated: Path, tmp_path: Path
):
    page = Page(change(evaluated, tmp_path, commit=None))
    assert "commit of the evaluation" not in [row[0] for row in page.rows("table-provenance")]


def test_hostile_names_are_shown_and_not_run(text: str, page: Page):
    assert text.count("<script") == 1  # the page's own
    assert HOSTILE in [span["text"] for span in page.find("span")]
    assert "run <1>" in page.find("h1")[0]["text"]
    assert "Which <one>?" in page.text
    assert page.rows("table-failed") == [["3", "the loss is <nan>"]]


def test_tables_of_search_and_ensemble_are_complete(page: Page):
    [head, *_] = [
        e
        for e in page.find("tr")
        if any(a["attrs"].get("id") == "table-trials" for a in e["inside"])
    ]
    assert head["text"].split() == ["trial2member10member"]
    assert page.rows("table-trials")[0] == ["validation F1", "0.740", "0.610", "0.540"]
    assert page.rows("table-methods") == [["greedy (taken)", "0.800", "0.700", "+0.100", "0.650"]]
    assert [row[2] for row in page.rows("table-members")] == ["0.500", "0.500"]
    assert len(page.rows("table-ledger")) == 1
    assert page.rows("table-splits")[0][1:] == ["–", "–", "–", "–"]
    assert page.rows("table-splits")[2][1:] == ["80", "20", "25.0\N{NO-BREAK SPACE}%", "16"]


def test_the_spread_over_seeds_stands_behind_what_no_interval_holds():
    figure = {"mean": 0.8, "standard_deviation": 0.01, "lowest": 0.79, "highest": 0.81}
    spread = {"trials": [0, 1], "f1": figure, "average_precision": figure}
    assert seed_caveat({"seeds": []}).endswith("is not in them.")
    said = "is not in them. 2 seeds of one configuration (trials 0, 1)"
    assert said in seed_caveat({"seeds": [spread]})


def test_what_choosing_flatters_stands_in_the_page(text: str):
    said = "Chosen and scored on the same 12 photographs: F1 0.750; chosen on others: 0.710"
    assert said in text
    assert "choice anew without each of 5 folds" in text


def test_the_same_run_gives_the_same_page(evaluated: Path, text: str):
    assert write_report(evaluated).read_text(encoding="utf-8") == text


def test_nothing_but_the_page_is_written(evaluated: Path):
    before = {path: path.read_bytes() for path in evaluated.rglob("*") if path.is_file()}
    write_report(evaluated)
    after = {path: path.read_bytes() for path in evaluated.rglob("*") if path.is_file()}
    assert after == before


def test_a_run_without_evaluation_says_how_to_evaluate(searched: Path, capsys):
    main(parse("report", [str(searched)]))
    assert "written: " in capsys.readouterr().out
    page = Page((searched / "report.html").read_text(encoding="utf-8"))
    shown = {figure["attrs"]["id"] for figure in page.find("figure")}
    assert shown == {"figure-history", "figure-epochs", "figure-parallel", "figure-learning-2"}
    commands = [element["text"] for element in page.find("pre")]
    assert any(f"python -m ensemble.evaluate {searched.name}" in text for text in commands)


def test_a_page_tells_no_folder_of_the_machine(evaluated: Path, tmp_path: Path):
    run = tmp_path / "secret" / "run"
    shutil.copytree(evaluated, run)
    about = json.loads((run / "run.json").read_text())
    about |= {
        "command": "/secret/bin/crack-ensemble search --data '/secret/my tiles' --labels=/secret/l",
        "data": "/secret/my tiles",
        "pack_folder": "/secret/results/packs/tiles-0",
        "weights": {"small_cnn": {"origin": "weights of /secret/cnn.pth", "digest": "d1"}},
    }
    (run / "run.json").write_text(json.dumps(about))
    text = write_report(run).read_text(encoding="utf-8")
    assert "secret" not in text
    assert sys.prefix not in text
    for shown in (
        "crack-ensemble search --data &#39;my tiles&#39; --labels=l\n",
        "<code>my tiles</code>",
        ">tiles-0<",
        "weights of cnn.pth (digest d1)",
        "-m ensemble.report run<",
    ):
        assert shown in text


def test_a_command_is_told_without_the_folder_of_its_program():
    typed = "/some/where/ensemble/search/__main__.py --weights vgg16=/data/w.pth --out runs/a"
    assert command_without_folders(typed) == (
        "python -m ensemble.search --weights vgg16=w.pth --out runs/a"
    )
    typed = "search --mlflow sqlite:////some/where/runs.db --storage s3://runs/a"
    assert (
        command_without_folders(typed) == "search --mlflow sqlite:///runs.db --storage s3://runs/a"
    )
    assert command_without_folders("search --name 'cut") == "search --name ''\"'\"'cut'"


def test_a_run_where_commands_look_for_it_is_named_without_its_path(
    searched: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    shutil.copytree(searched, tmp_path / "results" / "run")
    monkeypatch.chdir(tmp_path)
    page = Page(write_report(Path("results/run")).read_text(encoding="utf-8"))
    commands = [element["text"] for element in page.find("pre")]
    assert any("python -m ensemble.evaluate run\n" in f"{text}\n" for text in commands)


def test_a_run_without_a_trial_has_a_page(searched: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "space.toml", "validation.csv"):
        shutil.copy(searched / name, run)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert not page.find("figure")


def change(evaluated: Path, to: Path, **changes: Any) -> str:
    """The page of a copy of the run with other metrics; `run` changes run.json."""
    run = to / "run"
    shutil.copytree(evaluated, run)
    about = json.loads((run / "run.json").read_text()) | changes.pop("run", {})
    (run / "run.json").write_text(json.dumps(about))
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text()) | changes
    (run / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return write_report(run).read_text(encoding="utf-8")


def test_a_leaky_split_is_marked_in_every_section(evaluated: Path, tmp_path: Path):
    page = Page(change(evaluated, tmp_path, leaky_split=True, split_by="tile"))
    marks = [e for e in page.find("p") if "LEAKY SPLIT" in e["text"]]
    folded = [e for e in page.find("details") if e["attrs"].get("class") == "fold"]
    assert len(marks) == len(page.find("h2")) + len(folded)
    assert "which nothing was trained" not in " ".join(e["text"] for e in page.find("p"))


def test_other_warnings_are_given(evaluated: Path, tmp_path: Path):
    page = Page(change(evaluated, tmp_path, split_by="content", num_test_openings=3))
    [*warnings, _] = [e["text"] for e in page.find("p") if e["attrs"].get("class") == "warning"]
    assert "leakage cannot be ruled out" in warnings[0]
    assert "opened 3 times" in warnings[1]


def test_predictions_that_do_not_give_the_metrics_are_told(evaluated: Path, tmp_path: Path):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    metrics["ensemble"]["confusion_matrix"]["true_positive"] += 1
    assert "one of them was changed" in change(evaluated, tmp_path, ensemble=metrics["ensemble"])


def test_data_summary_and_corrected_labels_are_shown(evaluated: Path, tmp_path: Path):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    summary = {
        "num_tiles": {"train": 1234, "val": 2, "test": 80},
        "num_cracked": {"train": 617, "val": 1, "test": 20},
        "num_photographs": {"train": 10, "val": 2, "test": 8},
        "duplicates": ["<i>.jpg"],
        "contradictory_tiles": [],
        "bad_tiles": {"x.jpg": "no picture"},
        "split_by": "photograph",
    }
    relabelled = {"labels": "new.csv", "num_changed": 1, "num_ignored": 2, **metrics["ensemble"]}
    text = change(evaluated, tmp_path, relabelled=relabelled, run={"data_summary": summary})
    page = Page(text)
    share = "50.0\N{NO-BREAK SPACE}%"
    assert page.rows("table-splits")[0] == ["training", "1,234", "617", share, "10"]
    assert "&lt;i&gt;.jpg" in text
    assert "changes 1 label and has 2 rows of tiles that are not tested" in text
    first, second, *_ = page.rows("table-corrected")
    assert first == ["F1, every tile called cracked", "0.400", "0.400"]
    assert second[1] == second[2]


@pytest.mark.parametrize("context_px", [0, 32])
def test_what_is_seen_around_a_tile_is_said(evaluated: Path, tmp_path: Path, context_px: int):
    text = change(evaluated, tmp_path, run={"context_px": context_px})
    margin = ", with up to 32 pixels of the photograph around a tile" if context_px else ""
    assert f"shown to the networks at 128 × 128{margin}." in text


def test_intervals_are_named_only_where_there_are_some(evaluated: Path, text: str, tmp_path: Path):
    assert "Test F1 with 95 % intervals" in text
    assert "Test figures with 95 % intervals below them" in text
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    for figures in (metrics["ensemble"], *metrics["members"]):
        for bounds in figures["intervals"].values():
            bounds["low"] = bounds["high"] = None
    changed = {name: metrics[name] for name in ("ensemble", "members")}
    few = change(evaluated, tmp_path, intervals="9 photographs are too few", **changed)
    assert "Test F1 with" not in few
    assert "There is no interval, so do not read an order into them" in few
    assert "Test figures; for log loss" in few
    assert "9 photographs are too few. The table judges" in few


SCORED = {"state": "COMPLETE", "trial": [0, 1, 2], "val_f1": [0.5, 0.6, 0.7]}


def test_a_setting_that_one_trial_had_is_drawn_beside_those_of_the_space():
    trials = pd.DataFrame(
        SCORED | {"loss.kind": ["a", "focal", "a"], "model.dropout": [0.1, 0.2, 0.3]}
        | {"loss.focal_gamma": [None, 2.0, None], "data.augmentation": 0.5}
    )  # fmt: skip
    space: dict[str, Any] = {"loss.kind": {}, "loss.focal_gamma": {}, "model.dropout": {}}
    drawing = parallel_coordinates(trials, space, [])
    assert drawing is not None
    titles = ["loss kind", "focal gamma", "dropout", "validation F1"]
    found = re.findall(">(loss kind|focal gamma|dropout|augmentation|validation F1)<", drawing.svg)
    assert found == titles
    assert "nan" not in drawing.svg.lower()


def test_labels_of_parallel_coordinates_lie_over_the_lines_and_not_over_each_other():
    networks = [f"timm/a_network_with_a_long_name_{i}" for i in range(3)]
    drawing = parallel_coordinates(pd.DataFrame(SCORED | {"model.backbone": networks}), {}, [2])
    assert drawing is not None
    last_line = max(found.start() for found in re.finditer("stroke: var", drawing.svg))
    assert last_line < drawing.svg.index("<text")
    placed = stagger([(i / 2, name) for i, name in enumerate(networks)])
    assert [line for *_, line in placed] == [0, 1, 2]
    assert [side for *_, side, _ in placed] == ["left", "center", "right"]
    assert [line for *_, line in stagger([(0, "0"), (0.5, "1"), (1, "2")])] == [0, 0, 0]


def test_a_whole_number_is_its_choice_in_a_column_that_some_trials_lack():
    trials = pd.DataFrame(SCORED | {"data.context_px": [None, 0, 64]})
    space = {"data.context_px": {"distribution": {"attributes": {"choices": [0, 64]}}}}
    drawing = parallel_coordinates(trials, space, [])
    assert drawing is not None
    assert re.findall(r">(0|64|64\.0|0\.0)<", drawing.svg) == ["0", "64"]


def test_bad_input_is_one_line(tmp_path: Path, evaluated: Path):
    with pytest.raises(InputError, match="no run"):
        main(parse("report", ["missing", "--out", str(tmp_path)]))
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    (run / "report.html").unlink()
    (run / "evaluation" / "metrics.json").write_text('{"choice": {"format": 1}}')
    with pytest.raises(InputError, match=r"another version of this package .* evaluate the run"):
        write_report(run)
    assert not (run / "report.html").exists()


DAMAGES: dict[str, tuple[str, str, str]] = {
    "no trivial F1": ("evaluation/metrics.json", '"trivial_f1"', '"other"'),
    "no verdict": ("evaluation/metrics.json", '"verdict"', '"other"'),
    "text for a number": (
        "evaluation/metrics.json",
        '"num_test_tiles": 80',
        '"num_test_tiles": "80"',
    ),
    "another method": ("evaluation/metrics.json", '"method": "greedy"', '"method": "magic"'),
    "no epochs": ("run.json", '"epochs"', '"other"'),
    "no column": ("epochs.csv", "val_loss", "other"),
    "no number": ("trials.csv", "0.74", "much"),
    "no label": ("validation.csv", "a.jpg,007,D,0", "a.jpg,007,D,"),
    "no probability": ("evaluation/predictions.csv", "0.001", "1.5"),
    "no score of the best": ("evaluation/predictions.csv", "trial_2", "other"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_before_the_page_is_drawn(
    evaluated: Path, tmp_path: Path, damage: str
):
    name, old, new = DAMAGES[damage]
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    whole = (run / name).read_text()
    assert old in whole
    (run / name).write_text(whole.replace(old, new))
    with pytest.raises(InputError) as refused:
        read_run(run)
    assert str(refused.value).startswith(f"{run / name}: damaged")
    again = "evaluate the run again" if name.startswith("evaluation") else "put back a copy"
    assert str(refused.value).endswith(again)


def curve(train: list[float], val: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "trial": 0,
            "epoch": range(1, len(val) + 1),
            "train_loss": train,
            "val_loss": val,
            "train_accuracy": 0.9,
            "val_accuracy": 0.85,
            "val_f1": 0.5,
        }
    )


@pytest.mark.parametrize("num_epochs", [1, 2, 4])
def test_a_learning_curve_of_any_length_has_whole_epochs(num_epochs: int):
    losses = [0.9, 0.5, 0.4, 0.3][:num_epochs]
    epochs = curve(losses, losses)
    note = describe_learning(epochs, 0, planned_epochs=4)
    [drawing] = draw_learning(epochs, [note], {0: "t"}, faint=[0])
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)
    ticks = texts[: texts.index("epoch")][-num_epochs:]
    assert ticks == [str(epoch) for epoch in range(1, num_epochs + 1)]
    assert drawing.caption == note.sentence


def test_learning_curves_of_all_members_have_the_same_axes():
    courses = {0: [0.9, 0.5, 0.4, 0.3], 1: [2.0, 1.5]}
    epochs = pd.concat([curve(val, val).assign(trial=t) for t, val in courses.items()])
    notes = [describe_learning(epochs, trial, planned_epochs=4) for trial in courses]
    drawings = draw_learning(epochs, notes, {0: "a", 1: "b"}, faint=[0, 1])
    numbers = [re.findall(r"<text[^>]*>([\d.]+)</text>", each.svg) for each in drawings]
    assert numbers[0] == numbers[1]


def test_an_ensemble_of_one_member_has_one_row_and_no_comparison(evaluated: Path, tmp_path: Path):
    metrics = json.loads((evaluated / "evaluation" / "metrics.json").read_text())
    single = metrics["best_single"]
    page = Page(
        change(evaluated, tmp_path, ensemble=metrics["ensemble"] | single, members=[single])
    )
    heads = [e["text"] for e in page.find("th") if e["attrs"].get("scope") == "col"]
    assert "trial 2, the only membersmall_cnn" in heads
    assert {len(row) for row in page.rows("table-results")} == {3}
    assert page.rows("table-gain") == page.rows("table-singles") == []
    told = " ".join(e["text"] for e in page.find("p"))
    assert "Trial 2 (small_cnn) is its only member" in told


@pytest.mark.parametrize(
    ("train", "val", "verdict"),
    [
        ([0.9, 0.5, 0.3, 0.1], [0.6, 0.4, 0.5, 0.6], "overfits"),
        ([0.9, 0.5, 0.3, 0.1], [0.6, 0.5, 0.4, 0.3], "still improving"),
        ([0.9, 0.5, 0.3, 0.1], [0.6, 0.5, 0.4, 0.41], "no clear sign"),
        ([0.9, 0.5, 0.3, 0.4], [0.6, 0.5, 0.3, 0.5], "no clear sign"),  # training loss rose too
        ([0.9, 0.5, 0.4, 0.3], [0.4, 0.6, 0.3, 0.36], "no clear sign"),  # rose more before
        ([0.9, 0.5], [0.4, 0.8], "too short"),
    ],
)
def test_overfitting_is_said_by_rule(train: list[float], val: list[float], verdict: str):
    found = describe_learning(curve(train, val), 0, planned_epochs=4)
    assert found.verdict == verdict
    assert found.accuracy_gap == pytest.approx(0.05)
    assert found.kept_epoch == 1


def test_importance_finds_the_parameter_that_decides(tmp_path: Path):
    make_study(tmp_path / "study.db", 40)
    before = (tmp_path / "study.db").read_bytes()
    found = find_importance(tmp_path / "study.db")
    assert next(iter(found.shares)) == "loss.crack_weight"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares["loss.crack_weight"] > found.by_chance["loss.crack_weight"]
    assert found.shares["model.dropout"] < found.by_chance["model.dropout"]
    assert found == find_importance(tmp_path / "study.db")
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]
    assert (tmp_path / "study.db").read_bytes() == before


def test_importance_that_cannot_be_told_says_why(tmp_path: Path):
    assert "no study.db" in find_importance(tmp_path / "study.db").reason
    (tmp_path / "study.db").write_bytes(b"no database at all")
    assert "cannot be read" in find_importance(tmp_path / "study.db").reason
    make_study(tmp_path / "small.db", LEAST_TRIALS - 1)
    assert f"at least {LEAST_TRIALS}" in find_importance(tmp_path / "small.db").reason


def test_pictures_are_made_small_enough(tmp_path: Path):
    Image.effect_noise((3000, 2000), 100).save(tmp_path / "noise.png")
    picture = embed_picture(tmp_path / "noise.png", most_bytes=200_000)
    assert picture is not None
    assert len(picture.url) < 280_000
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    assert embed_picture(tmp_path / "broken.png") is None
    assert embed_picture(tmp_path / "missing.png") is None


def test_a_gallery_is_laid_out_anew_tile_by_tile_with_its_names_as_text(page: Page):
    [figure] = [f for f in page.find("figure") if f["attrs"]["id"] == "figure-misses"]
    inside = [e for e in page.elements if any(outer is figure for outer in e["inside"])]
    tiles = [e for e in inside if e["tag"] == "img"]
    assert [(e["attrs"]["width"], e["attrs"]["height"]) for e in tiles] == [("322", "160")] * 3
    shown = [e["text"] for e in inside if e["tag"] == "span"]
    assert shown == [HOSTILE, "probability 0.001", "D/CD/4.jpg", "W/CW/8.jpg"]
    assert "3 of 3 misses" in figure["text"]
    assert "colours of two tiles do not compare" in page.text


@pytest.mark.parametrize(
    "about",
    [
        "no JSON",
        '{"title": "t", "tiles": []}',
        '{"title": "t", "tiles": [{"box": [0, 0, 9, 9]}]}',
        '{"title": "t", "tiles": [{"box": [0, 0, 9999, 9], "caption": ""}]}',
        '{"title": "t", "tiles": [{"box": [5, 0, 4, 9], "caption": ""}]}',
    ],
)
def test_a_gallery_whose_text_is_damaged_is_left_out(tmp_path: Path, about: str):
    text = PngInfo()
    text.add_itxt(SHEET_KEY, about)
    Image.new("RGB", (60, 30)).save(tmp_path / "misses.png", pnginfo=text)
    assert embed_sheet(tmp_path / "misses.png") is None
    assert embed_picture(tmp_path / "misses.png") is not None
    assert embed_sheet(tmp_path / "missing.png") is None


def test_the_note_on_intervals_names_what_was_resampled_and_claims_what_was_measured():
    assert coverage_note(300).startswith("95 % intervals resample 300 photographs; in simulation")
    assert coverage_note(300, unit="tile") == (
        "95 % intervals resample 300 tiles; how often such intervals hold the true value was not "
        "measured"
    )
    assert (
        coverage_note(9) == "9 photographs are too few to resample for intervals: ten is the least"
    )
    assert (
        coverage_note(1, unit="tile")
        == "1 tile is too few to resample for intervals: ten is the least"
    )
