"""Facts about continuing a run: with other labels, tiles or splits it is refused in plain words."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ensemble.base.errors import InputError
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack
from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.run.folder import begin_run, check_same_run, identify_data
from ensemble.training.initial_weights import InitialState

FOLDERS = ("UD", "CD")
NUM_TILES = 24


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Six photographs of four tiles of noise, two of them cracked."""
    folder = tmp_path / "tiles"
    generator = np.random.default_rng(0)
    for number in range(NUM_TILES):
        path = folder / "D" / FOLDERS[number % 2] / f"{number // 4}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def pack_anew(tiles: Path, **options: Any) -> Pack:
    positive = options.pop("positive", None)
    source = open_source(tiles, Layout(positive=positive))
    return pack(source, under=tiles.parent / "packs", log=str, **options)


def relabel(tiles: Path, *numbers: int) -> None:
    """Move uncracked tiles to the cracked ones."""
    for number in numbers:
        name = f"{number // 4}-{number}.png"
        (tiles / "D" / "UD" / name).rename(tiles / "D" / "CD" / name)


def identity_of(packed: Pack, **others: Any) -> dict[str, Any]:
    return {**identify_data(packed), "weights": {}, "space": {}, **others}


def begin(packed: Pack, run: Path) -> Path:
    begin_run(run, identity_of(packed), packed, {}, asked={})
    return run


def refusal(run: Path, packed: Pack, **identity: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_same_run(run, identity_of(packed, **identity), packed)
    return str(caught.value)


def test_the_same_tiles_with_the_same_labels_continue_a_run(tiles: Path, tmp_path: Path) -> None:
    run = begin(pack_anew(tiles), tmp_path / "run")
    packed = pack_anew(tiles)
    check_same_run(run, identity_of(packed), packed)


@pytest.mark.parametrize("numbers", [(0,), (0, 6, 8, 22)], ids=["one", "four"])
def test_relabelled_tiles_are_counted_and_named_with_the_way_to_go_on(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = begin(pack_anew(tiles), tmp_path / "run")
    relabel(tiles, *numbers)
    said = refusal(run, pack_anew(tiles))
    counted = "1 tile" if len(numbers) == 1 else "4 tiles"
    assert f"the run run exists with other labels: {counted} labelled differently now (" in said
    assert "D/CD/0-0.png" in said
    assert "choose another --name (--start-from run makes this run's best trials its first)" in said


def test_a_run_of_a_recipe_is_begun_anew_under_another_name_alone(tiles: Path, tmp_path: Path):
    packed = pack_anew(tiles)
    run = tmp_path / "run"
    begin_run(run, {**identify_data(packed), "weights": {}}, packed, {}, asked={})
    relabel(tiles, 0)
    packed = pack_anew(tiles)
    with pytest.raises(InputError, match=r"now \(D/CD/0-0\.png\): choose another --name, or"):
        check_same_run(run, identify_data(packed), packed)


def test_swapped_classes_are_other_labels_of_all_tiles(tiles: Path, tmp_path: Path) -> None:
    run = begin(pack_anew(tiles, positive="CD"), tmp_path / "run")
    said = refusal(run, pack_anew(tiles, positive="UD"))
    assert f"other labels: {NUM_TILES} tiles, all of them: the classes are swapped" in said


def test_other_labels_are_told_where_the_older_pack_is_gone(tiles: Path, tmp_path: Path) -> None:
    old = pack_anew(tiles)
    run = begin(old, tmp_path / "run")
    shutil.rmtree(old.folder)
    relabel(tiles, 0)
    said = refusal(run, pack_anew(tiles))
    assert (
        "other labels: of the same tiles, some are labelled differently now: choose another --name"
        in said
    )


def test_other_backbones_are_told_by_name(tiles: Path, tmp_path: Path) -> None:
    packed = pack_anew(tiles)
    weights = {"resnet18": {"digest": "a"}, "small_cnn": {"digest": "b"}}
    state = InitialState({"weight": torch.zeros(1)}, origin="random weights", digest="a")
    run = tmp_path / "run"
    states = dict.fromkeys(weights, state)
    begin_run(run, identity_of(packed, weights=weights), packed, states, asked={})
    said = refusal(run, packed, weights={"resnet18": {"digest": "a"}})
    assert "exists with other backbones (resnet18, small_cnn, now resnet18): choose" in said
    moved = {name: {**each, "origin": "elsewhere"} for name, each in weights.items()}
    check_same_run(run, identity_of(packed, weights=moved), packed)
    other = refusal(run, packed, weights={**weights, "small_cnn": {"digest": "c"}})
    assert "exists with other weights: choose" in other


def test_another_split_of_the_same_tiles_is_told_as_that(tiles: Path, tmp_path: Path) -> None:
    run = begin(pack_anew(tiles), tmp_path / "run")
    said = refusal(run, pack_anew(tiles, split_seed=5))
    assert "another split of the same tiles (split seed 0, now 5): choose another --name" in said


def test_other_tiles_are_told_with_both_numbers(tiles: Path, tmp_path: Path) -> None:
    run = begin(pack_anew(tiles), tmp_path / "run")
    (tiles / "D/UD/0-0.png").unlink()
    said = refusal(run, pack_anew(tiles))
    assert (
        f"other data ({tiles} of 24 tiles, now {tiles} of 23 tiles): choose another --name" in said
    )


def test_a_run_whose_digest_did_not_cover_labels_is_not_continued(tiles: Path, tmp_path: Path):
    packed = pack_anew(tiles)
    run = begin(packed, tmp_path / "run")
    about = json.loads((run / "run.json").read_text())
    del about["data_summary"]["labels_digest"]
    (run / "run.json").write_text(json.dumps(about | {"split_digest": "of then"}))
    said = refusal(run, packed)
    assert "exists from a version whose digest of the split did not cover labels" in said
    assert "choose another --name (--start-from" in said


def test_a_run_that_goes_on_learns_where_its_tiles_are_packed_today(tiles: Path, tmp_path: Path):
    run = begin(pack_anew(tiles), tmp_path / "run")
    elsewhere = pack(open_source(tiles), under=tmp_path / "elsewhere", log=str)
    check_same_run(run, identity_of(elsewhere), elsewhere)
    begin_run(run, identity_of(elsewhere), elsewhere, {}, asked={})
    assert json.loads((run / "run.json").read_text())["pack_folder"] == str(elsewhere.folder)


def test_a_run_is_not_continued_with_another_context(tiles: Path, tmp_path: Path) -> None:
    packed = pack_anew(tiles)
    run = tmp_path / "run"
    begin_run(run, identity_of(packed, context_px=0), packed, {}, asked={})
    said = refusal(run, packed, context_px=4)
    assert said.startswith(
        "the run run exists with other context (0, now 4): choose another --name"
    )


@pytest.mark.parametrize(
    ("old", "new", "is_larger"),
    [
        ([1], [1, 2], True),
        ([1, 2], [2, 1, 3], False),
        ([1, 2], [1], False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1}, {"a": 2, "b": 2}, False),
        (3, 5, True),
        (5, 3, False),
        (None, 3, False),
    ],
)
def test_what_may_grow_keeps_all_that_it_held(tiles, tmp_path, old, new, is_larger) -> None:
    packed = pack_anew(tiles)
    run = tmp_path / "run"
    begin_run(run, identity_of(packed, what=old), packed, {}, asked={})
    asked = identity_of(packed, what=new)
    with pytest.raises(InputError, match="exists with other what"):
        check_same_run(run, asked, packed)
    with nullcontext() if is_larger else pytest.raises(InputError, match="with other what"):
        check_same_run(run, asked, packed, growing=("what",))
    begin_run(run, asked, packed, {}, asked={})
    assert json.loads((run / "run.json").read_text())["what"] == new
