"""The benchmark's parts at tiny sizes: which rows there are, and that what they count is right."""

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from ensemble.cli import COMMANDS
from ensemble.data.batches import make_batch
from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.data.synthetic import draw_dataset
from ensemble.data.view import View
from ensemble.training.backbones import check_input_side
from ensemble.training.member import DevelopmentTiles

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def bench():
    """A function that imports a part as scripts/benchmark.py does."""
    sys.path.insert(0, str(SCRIPTS))
    yield lambda part: importlib.import_module(f"bench.{part}")
    sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """12 photographs of 12 tiles of 32 px."""
    folder = tmp_path_factory.mktemp("tiles") / "tiles"
    draw_dataset(folder, photographs_per_surface=4, rows=3, columns=4, tile_size_px=32)
    return folder


@pytest.fixture(scope="module")
def pack_folder(tiles, tmp_path_factory):
    return pack(open_source(tiles), under=tmp_path_factory.mktemp("packs")).folder


def check(rows, part):
    rows = list(rows)
    assert all(row.part == part and math.isfinite(row.value) for row in rows)
    names = [row.what for row in rows]
    assert len(set(names)) == len(names)
    return {row.what: row for row in rows}


def test_help_of_every_command_is_measured_beside_a_bare_python(bench):
    found = check(bench("commands").measure(), "commands")
    for command in COMMANDS:
        assert found[f"{command} --help"].verdict == "met"
        assert found[f"{command} --help ÷ python -c pass"].value > 1


def test_packing_is_compared_with_its_decoder_and_leaves_nothing(bench, tiles, tmp_path):
    rows = bench("packing").measure(tiles, tmp_path, side_px=16)
    found = check(rows, "packing")
    alone, whole, ratio, reduced = rows
    assert ratio.value == pytest.approx(whole.value / alone.value)
    assert found["packing, tiles/s ÷ what the decoder alone does on all cores"].target == ">= 0.85"
    assert reduced.what == "packing reduced to 16 px ÷ packing at full size"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def plan(bench, tiles, pack_folder, tmp_path):
    return bench("plan").Plan(
        scratch=tmp_path,
        pack_folder=pack_folder,
        source=tiles,
        backbone="small_cnn",
        weights=None,
        image_size_px=16,
        batch_size=8,
        trials=1,
        epochs=1,
        slots=1,
        rounds=1,
        small=True,
    )


def test_batches_that_stay_in_the_cache_are_compared_with_large_ones(bench, plan, monkeypatch):
    sizes = []
    count = bench("scoring").predict_margins

    def note(*given):
        sizes.append(bench("scoring").loop.CACHED_PIXELS)
        return count(*given)

    monkeypatch.setattr(bench("scoring"), "predict_margins", note)
    found = check(bench("scoring").measure(replace(plan, rounds=2)), "scoring")
    networks = (plan.backbone, *plan.networks)
    assert len(found) == 2 * len(networks)
    assert sizes == [sizes[0], 2**62] * 3 * len(networks)


def test_other_networks_than_the_plans_are_measured_and_take_its_sizes(bench, plan):
    networks = bench("plan").NETWORKS
    assert plan.networks == networks[:1]  # a small plan measures one
    whole = replace(plan, small=False, backbone=networks[0])
    assert whole.networks == networks[1:]
    for network in networks:
        for side_px in (64, 128):
            check_input_side(network, side_px)
            assert whole.config(backbone=network, image_size_px=side_px).model.backbone == network


def test_windows_are_compared_with_whole_tiles_that_give_the_same_batch(
    bench, tiles, pack_folder, plan
):
    windows = bench("windows")
    found = check(windows.measure(plan), "windows")
    assert [row.target for row in found.values()] == ["", ">= 0.95", ">= 0.95", "", "", ""]
    assert "batches with a margin of 8 px of the photograph" in list(found)[3]
    train = DevelopmentTiles(pack_folder, torch.device("cpu")).open().train
    index = torch.arange(8)
    plain = windows.gather_and_reduce(train, index, image_size_px=16)
    batch = make_batch(train, index, View(16))
    assert torch.equal(plain[1], batch[1])
    assert torch.allclose(plain[0], batch[0], atol=1e-5)


def test_selection_has_a_target_for_one_bag_and_reports_all(bench):
    one, all_bags = bench("selection").measure(num_members=4, num_tiles=600)
    assert (one.target, all_bags.target) == ("<= 1", "")
    assert one.what == "greedy selection, 25 picks, 4 candidates x 600 tiles, one bag"
    assert all_bags.what.endswith("20 bags")
    check([one, all_bags], "selection")


def test_drawn_members_differ_in_quality_and_err_together(bench):
    from ensemble.training.metrics import best_threshold

    probabilities, labels, photographs = bench("selection").draw_scores(20, 4000)
    assert probabilities.shape == (20, 4000)
    assert len(photographs) == len(labels) == 4000
    f1 = [best_threshold(labels, row)[1] for row in probabilities]
    assert 0.3 < min(f1) < 0.6 < max(f1) < 0.9
    of_uncracked = np.corrcoef(probabilities[:, labels == 0])
    assert of_uncracked[np.triu_indices(20, 1)].min() > 0.1


def test_only_the_fullest_study_has_a_target(bench, tmp_path):
    rows = bench("searcher").measure(num_stored=4, scratch=tmp_path)
    check(rows, "searcher")
    of_searcher = [row for row in rows if row.what.startswith("ask, reports and tell")]
    assert [row.target for row in of_searcher] == ["", "", "", "<= 50"]
    assert of_searcher[-1].what.endswith("with 4 trials stored")
    assert len(rows) == 2 * len(of_searcher)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_pixels_of_two_slots_are_in_memory_once(bench, tmp_path):
    """16 MB of pixels, so that a page at either end of a file does not count."""
    for number in range(120):
        label, photograph = ("Cracked", "Sound")[number % 2], number // 10
        path = tmp_path / "tiles" / label / f"{photograph}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256), (number, 0, 0)).save(path)
    folder = pack(open_source(tmp_path / "tiles"), under=tmp_path / "packs").folder
    rows = bench("memory").measure(folder, num_slots=2)
    check(rows, "memory")
    together, of_a_slot, private = (row.value for row in rows)
    assert together == pytest.approx(1, abs=0.05)
    assert of_a_slot == pytest.approx(1, abs=0.05)
    assert private > 0
    assert rows[0].target == "<= 1.1"


def test_growth_writes_a_table_a_picture_and_an_exponent_a_step(bench, tiles, tmp_path):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    rows = bench("growth").measure(tiles, scratch, out, small=True)
    check(rows, "growth")
    table = pd.read_csv(out / "growth.csv")
    assert list(table) == ["name", "unit", "work", "seconds"]
    assert (table["seconds"] > 0).all()
    assert {row.what.partition(":")[0] for row in rows} == set(table["name"])
    assert table.groupby("name")["work"].nunique().min() >= 3
    assert table.loc[table["name"] == "packing", "work"].max() == 144
    with Image.open(out / "growth.png") as picture:
        assert picture.format == "PNG"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_exponent_of_an_exact_power_law_is_found_without_error(bench, exponent):
    work = [1000, 2000, 4000, 11_000]
    found, error = bench("growth").fit_power_law(work, [3e-4 * w**exponent for w in work])
    assert found == pytest.approx(exponent, abs=1e-9)
    assert error == pytest.approx(0, abs=1e-9)


def test_standard_error_is_that_of_the_regression(bench):
    from scipy.stats import linregress

    work, seconds = [1, 2, 5, 10, 20], [0.9, 2.3, 4.1, 12.0, 18.5]
    expected = linregress(np.log(work), np.log(seconds))
    assert bench("growth").fit_power_law(work, seconds) == pytest.approx(
        (expected.slope, expected.stderr)
    )


def test_two_amounts_of_work_have_no_standard_error_and_are_refused(bench):
    with pytest.raises(ValueError, match="three different amounts"):
        bench("growth").fit_power_law([1, 1, 2], [1.0, 1.0, 2.0])


def test_a_row_is_written_at_once_and_a_part_measured_again_replaces_only_its_own(bench, tmp_path):
    row, report = bench("row").Row, bench("report").Report
    table, parts = tmp_path / "new" / "day.csv", ("a", "b")
    first = report(table, parts, {"commit": "one"})
    first.add(row("b", "seconds of b", 1.0, "s", "<= 2"))
    assert list(pd.read_csv(table)["what"]) == ["seconds of b"]  # and a kill would lose no more
    first.add(row("a", "a ÷ floor", 0.5, "ratio"))
    second = report(table, parts, {"commit": "two"})
    second.add(row("b", "seconds of b", 3.0, "s", "<= 2"))
    second.add(row("b", "more of b", 4.0, "s"))
    found = pd.read_csv(table, keep_default_na=False)
    assert list(zip(found["what"], found["value"], found["verdict"], strict=True)) == [
        ("a ÷ floor", 0.5, ""),
        ("seconds of b", 3.0, "missed"),
        ("more of b", 4.0, ""),
    ]
    about = json.loads(table.with_suffix(".json").read_text())
    assert {part: about[part]["commit"] for part in parts} == {"a": "one", "b": "two"}
    assert "| b: seconds of b | 3 s | ≤ 2 missed |" in table.with_suffix(".md").read_text()
