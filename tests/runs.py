"""Writes the folder of a run as a search and an evaluation leave it, without running them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from PIL import Image

from ensemble.evaluation.figures import (
    Way,
    compute_figures,
    coverage_note,
    describe_ways,
    ensemble_figures,
    gain_over,
    gain_over_trivial,
    surface_figures,
)
from ensemble.evaluation.mistakes import relabelled_figures, suspect_labels
from ensemble.explanation.activation import Group, draw_gallery
from ensemble.explanation.errors import find_errors
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import JudgedMember

HOSTILE = 'SDNET/<script>alert("1")</script>&<b>.jpg'
MEMBERS = (2, 0)
FIGURES = {  # that the page of such a run shows
    "figure-samples",
    "figure-history",
    "figure-epochs",
    "figure-parallel",
    "figure-learning-2",
    "figure-learning-0",
    "figure-disagreement",
    "figure-error-correlation",
    "figure-intervals",
    "figure-precision-recall",
    "figure-roc",
    "figure-reliability",
    "figure-threshold",
    "figure-misses",
    "figure-finds",
    "figure-false-alarms",
}


def make_study(path: Path, num_trials: int) -> None:
    """Write a study in which `loss.crack_weight` decides the value, and dropout does not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.create_study(storage=storage, study_name="run", direction="maximize")
    generator = np.random.default_rng(0)
    for i in range(num_trials):
        weight, dropout = generator.random(2)
        study.add_trial(
            optuna.trial.create_trial(
                params={"loss.crack_weight": weight, "model.dropout": dropout},
                distributions=dict.fromkeys(
                    ("loss.crack_weight", "model.dropout"),
                    optuna.distributions.FloatDistribution(0, 1),
                ),
                value=weight,
                intermediate_values={1: weight},
                state=optuna.trial.TrialState.PRUNED if i % 2 else optuna.trial.TrialState.COMPLETE,
            )
        )
    storage.engine.dispose()


def make_searched(run: Path) -> None:
    """Write a run that was searched, with three finished trials and a failed one."""
    (run / "evaluation").mkdir(parents=True)
    tile = {"tile": ["a.jpg", "b.jpg"], "photograph": ["007", "8"], "surface": ["D", "W"]}
    pd.DataFrame(tile | {"label": [0, 1]}).to_csv(run / "validation.csv", index=False)
    (run / "space.toml").write_text('question = "Which <one>?"\n')
    about = {
        "command": "scripts/search.py --name 'a <b>'",
        "started_at": "2026-01-02T03:04:05+00:00",
        "pack_folder": "/nowhere/at/all",
        "data": "/nowhere/<data>.zip",
        "tile_size_px": [256, 256],
        "split_digest": "digest",
        "seed": 7,
        "epochs": 4,
        "image_size_px": 128,
        "weights": {"small_cnn": {"origin": "random weights", "digest": "d1"}},
        "commit": "abc+",
        "versions": {"python": "3.11"},
        "hardware": {"cpu": "C", "cores": 2, "gpus": []},
    }
    (run / "run.json").write_text(json.dumps(about))
    rows = [(0, 4), (1, 1), (2, 4)]
    epochs = [
        {
            "trial": trial,
            "backbone": "small_cnn",
            "epoch": epoch,
            "train_loss": 0.6 / epoch,
            "train_accuracy": 0.8 + epoch / 50,
            "val_loss": 0.4 + 0.1 * abs(epoch - 2),
            "val_accuracy": 0.8,
            "val_f1": 0.5 + trial / 10 + epoch / 100,
        }
        for trial, last in rows
        for epoch in range(1, last + 1)
    ]
    pd.DataFrame(epochs).to_csv(run / "epochs.csv", index=False)
    trials = [
        {
            "trial": trial,
            "state": state,
            "val_f1": f1,
            "best_epoch": epoch,
            "epochs": num_epochs,
            "seconds": 10.0,
            "reason": reason,
            "backbone": "small_cnn",
            "model.dropout": 0.1 * trial,
            "loss.kind": "focal" if trial else "cross_entropy",
            "loss.focal_gamma": 2.0 * trial if trial else None,
        }
        for trial, state, f1, epoch, num_epochs, reason in (
            (0, "COMPLETE", 0.54, 4, 4, ""),
            (1, "PRUNED", 0.61, 1, 1, ""),
            (2, "COMPLETE", 0.74, 4, 4, ""),
            (3, "FAIL", None, None, 0, "the loss is <nan>"),
        )
    ]
    pd.DataFrame(trials).to_csv(run / "trials.csv", index=False)
    make_study(run / "study.db", 3)


def make_choice(digests: dict[int, str], **changes: Any) -> dict[str, Any]:
    """Contents of `ensemble.json` for trials whose weights have these digests."""
    kinds = {"log_loss": 0.4, "brier": 0.1, "expected_calibration_error": 0.05}
    members = [
        {
            "trial": trial,
            "folder": f"members/{trial:04}",
            "weights_sha256": digest,
            "num_networks": 1,
            "num_folds": 1,
            "weight": 1 / len(digests),
            "temperature": 1.1,
            "threshold": 0.5,
            "val_f1": 0.74,
        }
        for trial, digest in digests.items()
    ]
    pairs = range(len(digests))
    choice = {
        "format": 4,
        "method": "mean",
        "asked_method": "auto",
        "top_k": 5,
        "members": members,
        "ingredients": [],
        "temperature": 0.8,
        "budget_members": None,
        "threshold_rule": "f1",
        "threshold": 0.45,
        "calibrated_threshold": 0.44,
        "tta": False,
        "val_metrics": {"f1": 0.75},
        "tta_tried": None,
        "alone": None,
        "neighbours": None,
        "neighbours_note": "not tried",
        "best_single": {key: value for key, value in members[0].items() if key != "weight"},
        "before_calibration": kinds,
        "after_calibration": kinds,
        "methods": [
            {"method": "greedy", "inner_score": 0.8, "outer_score": 0.7, "outer_recall": 0.65}
        ],
        "optimism": {
            "num_folds": 5,
            "num_photographs": 12,
            "by_photograph": True,
            "ensemble": {"f1_where_chosen": 0.75, "f1": 0.71, "precision": 0.7, "recall": 0.72},
            "with_neighbours": None,
        },
        "optimism_note": "",
        "working_points": [[0.7, 0, 0], [0.45, 1, 0], [0.2, 1, 1]],
        "disagreement": [[0.0 if i == j else 0.125 for j in pairs] for i in pairs],
        "error_correlation": [[1.0 if i == j else None for j in pairs] for i in pairs],
        "seeds": [],
        "num_finished": len(digests),
        "num_candidates": len(digests),
        "split_digest": "split",
    }
    return choice | changes


def make_evaluated(run: Path) -> dict[str, Any]:
    """Add the evaluation of the run of `make_searched`; returns its metrics."""
    generator = np.random.default_rng(1)
    labels = np.arange(80) % 4 == 0
    scores = {
        trial: np.clip(0.25 + 0.4 * labels + generator.normal(0, 0.2, 80), 0.01, 0.99)
        for trial in MEMBERS
    }
    mean = np.mean(list(scores.values()), axis=0)
    predictions = pd.DataFrame(
        {
            "tile": [HOSTILE if i == 0 else f"D/CD/{i}.jpg" for i in range(80)],
            "photograph": [f"{i // 5:03}" for i in range(80)],
            "surface": np.where(np.arange(80) < 40, "D", "W"),
            "label": labels.astype(int),
            "context": "neighbours",
            **{f"trial_{trial}": row for trial, row in scores.items()},
            "ensemble": mean,
            "calibrated": apply_temperature(mean, 0.8),
            "refined": np.clip(apply_temperature(mean, 0.8) + 0.05 * labels, 0, 1),
        }
    )
    predictions.loc[0, ["ensemble", "calibrated", "refined", "trial_2", "trial_0"]] = 0.001
    predictions["alone"] = predictions["ensemble"]
    choice = make_choice(
        {trial: f"sha{trial}" for trial in MEMBERS},
        method="greedy",
    )
    members = [
        {
            "trial": trial,
            "backbone": "small_cnn",
            "epoch": 4,
            "val_f1": 0.74,
            "num_networks": 1,
            "num_folds": 1,
            **compute_figures(predictions, Way("member", f"trial_{trial}", 0.5)),
        }
        for trial in MEMBERS
    ]
    way = Way("ensemble", "ensemble", 0.45)
    metrics = {
        "ensemble": ensemble_figures(predictions, way, 0.75),
        "members": members,
        "best_single": members[0],
        "surfaces": surface_figures(predictions, way),
        "gain_over_best_single": gain_over(
            predictions, way, JudgedMember.model_validate(choice["best_single"])
        ),
        "gain_over_trivial": gain_over_trivial(predictions, way),
        "ways": describe_ways(
            predictions,
            [
                Way("tile alone", "alone", 0.45),
                Way("with context", "ensemble", 0.45),
                Way("with neighbours", "refined", 0.45),
            ],
        ),
        "choice": choice,
        "num_test_tiles": 80,
        "num_test_photographs": 16,
        "intervals": coverage_note(16),
        "split_by": "photograph",
        "split_digest": "digest",
        "num_test_openings": 1,
        "openings_by_other_runs": {},
        "evaluated_at": "2026-01-03T00:00:00+00:00",
        "commit": "abd",
        "versions": {"python": "3.11"},
        "hardware": {"cpu": "C", "cores": 2, "gpus": []},
    }
    folder = run / "evaluation"
    suspects = suspect_labels(predictions, [0.5, 0.5])
    assert HOSTILE in set(suspects["tile"])
    predictions.to_csv(folder / "predictions.csv", index=False)
    find_errors(predictions, 0.45).to_csv(folder / "errors.csv", index=False)
    suspects.to_csv(folder / "suspect_labels.csv", index=False)
    relabelled_figures(predictions, suspects, 0.45).to_csv(
        folder / "if_relabelled.csv", index=False
    )
    ledger = {
        "opened_at": "2026-01-03",
        "method": "greedy",
        "trials": "2 0",
        "threshold_rule": "f1",
        "threshold": 0.45,
        "tta": False,
    }
    pd.DataFrame([ledger]).to_csv(folder / "ledger.csv", index=False)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    Image.effect_noise((600, 300), 80).save(run / "samples.png")
    pixels = np.full((3, 32, 32, 3), 90, np.uint8)
    for name, title, captions in (
        ("misses", "3 of 3 misses", [f"{HOSTILE}\nprobability 0.001", "D/CD/4.jpg", "W/CW/8.jpg"]),
        ("false_alarms", "1 of 1 false alarm", ["D/CD/1.jpg\nprobability 0.7"]),
        ("finds", "3 of 17 finds", [f"D/CD/{i}.jpg\nprobability 0.{i}" for i in (9, 8, 7)]),
    ):
        count = len(captions)
        group = Group("", pixels[:count], np.zeros((count, 4, 4)), captions)
        draw_gallery(folder / f"{name}.png", title, [group])
    return metrics
