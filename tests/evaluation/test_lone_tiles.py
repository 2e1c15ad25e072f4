"""A run whose member sees what lies around a tile, evaluated; some tiles have no neighbour."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_recipe import write_recipe

from ensemble import train
from ensemble.cli import parse
from ensemble.data.synthetic import draw_dataset
from ensemble.evaluation.protocol import evaluate_run
from ensemble.prediction.verdicts import predict_pictures
from ensemble.selection.ensemble import load_ensemble

ROWS, COLUMNS = 3, 6
LONE = ((0, 3), (2, 3), (0, 5), (2, 5))  # the columns 0 and 1 are complete, all else is missing


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Photographs of six tiles beside each other and four lone ones."""
    folder = tmp_path / "tiles"
    draw_dataset(folder, photographs_per_surface=4, rows=ROWS, columns=COLUMNS, tile_size_px=32)
    for path in folder.rglob("*.jpg"):
        photograph, number = path.stem.split("-")
        place = divmod(int(number) - 1, COLUMNS)
        if place[1] < 2 or place in LONE:
            path.rename(path.with_stem(f"{photograph}-r{place[0]}-c{place[1]}"))
        else:
            path.unlink()
    return folder


@pytest.fixture
def run(tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run of one member that sees what lies around a tile."""
    monkeypatch.chdir(tmp_path)
    write_recipe(Path("context.toml"), epochs=2, context_px=16)
    train.main(parse("train", ["--recipe", "context.toml", "--data", str(tiles), "--name", "run"]))
    return Path("results/run")


def test_a_log_is_told_how_far_the_scoring_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.base.progress_bar.TELL_EVERY_SECONDS", 0)
    monkeypatch.setattr("ensemble.base.progress_bar.TELL_EVERY_SHARE", 0)
    said: list[str] = []
    evaluate_run(run, tta=True, log=said.append)
    turned = [line for line in said if line.startswith("scoring validation tiles, turned: ")]
    assert len(turned) == 7  # of eight turns; nothing is said when all is done
    assert any(line.startswith("scoring test tiles: 50\N{NO-BREAK SPACE}%") for line in said)


def test_a_lone_tile_is_tested_as_predict_judges_it(tiles: Path, run: Path) -> None:
    metrics = evaluate_run(run)
    ensemble = load_ensemble(run)
    assert ensemble.alone is not None
    assert ensemble.alone.temperature != ensemble.temperature
    tested = pd.read_csv(run / "evaluation" / "predictions.csv")
    places = list(zip(tested["row_in_photograph"], tested["column_in_photograph"], strict=True))
    is_lone = np.array([place in LONE for place in places])
    assert 0 < is_lone.sum() < len(tested)
    assert (tested["context"] == np.where(is_lone, "tile", "neighbours")).all()
    lone = tested[is_lone]
    predicted = predict_pictures(ensemble, [tiles / tile for tile in lone["tile"]])
    for column in ("ensemble", "calibrated", "refined"):
        np.testing.assert_allclose(lone[column], predicted[column], rtol=1e-5)
    wrong = set(pd.read_csv(run / "evaluation" / "errors.csv")["tile"]) & set(lone["tile"])
    is_wrong = (predicted["verdict"] == "cracked").to_numpy() != (lone["label"] == 1).to_numpy()
    assert wrong == set(lone["tile"][is_wrong])
    (only,) = metrics["members"]
    shared = set(only) & set(metrics["ensemble"])
    assert {key: only[key] for key in shared} == {key: metrics["ensemble"][key] for key in shared}
