"""What helps, one thing at a time: of which configuration each figure is."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.base.files import write_json
from ensemble.selection.choose import choose_ensemble

FOLDER = Path(__file__).parents[2] / "scripts" / "evidence"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield importlib.import_module("what_helps")


def test_what_needs_no_training_is_told_of_the_unchanged_configuration(
    script, tmp_path, write_member
):
    """It is trial 0, and not the one that is best by itself."""
    photograph, tile = np.divmod(np.arange(48), 8)
    labels = (tile < 3).astype(int)
    about = {"data": "tiles", "data_summary": {"num_photographs": {"train": 4, "val": 2}}}
    keys = dict.fromkeys(script.RUN_KEYS, "split")
    write_json(tmp_path / "run.json", {**about, **keys, "split_digest": "split"})
    table = {"tile": [f"{n}.jpg" for n in range(48)], "photograph": photograph, "surface": ""}
    places = {"row_in_photograph": tile // 4, "column_in_photograph": tile % 4}
    pd.DataFrame({**table, "label": labels, **places}).to_csv(
        tmp_path / "validation.csv", index=False
    )
    noise = np.random.default_rng(0).normal(size=48)
    for trial, sharpness in enumerate((1.0, 9.0)):
        margins = (sharpness * (labels - 0.5) + noise).tolist()
        folder = tmp_path / "members" / f"{trial:04}"
        write_member(folder, trial=trial, val_f1=0.5 + trial / 4, margins=margins)
    notes = []
    for trials in ([0], [1], [0, 1]):
        pd.DataFrame({"trial": trials, "state": "COMPLETE"}).to_csv(
            tmp_path / "trials.csv", index=False
        )
        notes.append(choose_ensemble(tmp_path, top_k=1).neighbours_note)
    assert notes[2] == notes[1] != notes[0]
    assert script.describe(tmp_path, tta=False)["neighbours"] == notes[0]
