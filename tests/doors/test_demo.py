"""What `make demo` claims, read from what it left; skipped where it has not run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble.data.pack import open_pack
from ensemble.training.metrics import best_threshold, threshold_metrics

RUN = Path(__file__).parents[2] / "results" / "demo"
EVALUATED = RUN / "evaluation" / "metrics.json"

pytestmark = pytest.mark.skipif(not EVALUATED.exists(), reason="run `make demo` first")


def grey_statistics(pixels: np.ndarray) -> np.ndarray:
    """Mean and variance of each tile's grey values: (N, H, W, 3) → (N, 2)."""
    grey = pixels.mean(axis=3)
    return np.stack([grey.mean(axis=(1, 2)), grey.var(axis=(1, 2))], axis=1)


def test_the_ensemble_sees_cracks_that_grey_statistics_do_not():
    pack = open_pack(Path(json.loads((RUN / "run.json").read_text())["pack_folder"]))
    features, labels = {}, {}
    for split in ("train", "val", "test"):
        table = pack.table(split)
        features[split] = grey_statistics(pack.pixels(split)[table["row"].to_numpy()])
        labels[split] = table["label"].to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    model.fit(features["train"], labels["train"])
    threshold, _ = best_threshold(labels["val"], model.predict_proba(features["val"])[:, 1])
    scores = model.predict_proba(features["test"])[:, 1]
    grey_f1 = threshold_metrics(labels["test"], scores, threshold)["f1"]
    assert grey_f1 < 0.5
    assert json.loads(EVALUATED.read_text())["ensemble"]["f1"] >= grey_f1 + 0.2


def test_six_trials_are_finished_or_stopped_each_with_a_member():
    trials = pd.read_csv(RUN / "trials.csv")
    assert trials["state"].isin(["COMPLETE", "PRUNED"]).sum() == 6
    assert all((RUN / "members" / f"{t:04}" / "member.json").exists() for t in trials["trial"])
