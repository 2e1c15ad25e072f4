"""Writes a run whose ensemble calls bright tiles cracked: two small networks, trained for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ensemble.base.files import write_json
from ensemble.data.batches import SplitTiles
from ensemble.selection.calibration import apply_temperature
from ensemble.selection.choice import Calibration, ChosenMember, EnsembleRecord, JudgedMember
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import fit

TILE = (32, 32)
THRESHOLD, TEMPERATURE = 0.4, 2.0


def make_bright_run(
    folder: Path,
    make_bright_and_dark: Callable[..., SplitTiles],
    make_trial_config: Callable[..., TrialConfig],
    write_member: Callable[..., Member],
) -> Path:
    """Write the run's folder, its members weighing 3 to 1, and return it."""
    members = []
    for trial in (2, 7):
        config = make_trial_config(seed=trial, optimisation={"learning_rate": 0.01})
        torch.manual_seed(trial)
        model = build_model("small_cnn")
        for _ in fit(model, config, make_bright_and_dark(96), make_bright_and_dark(32, seed=1)):
            pass
        members.append(write_member(folder / "members" / f"{trial:04}", trial=trial, model=model))
    write_json(folder / "run.json", {"split_digest": "split", "tile_size_px": list(TILE)})
    _write_choice(folder, members)
    return folder


def _write_choice(run: Path, members: list[Member]) -> None:
    none = Calibration(log_loss=0.1, brier=0.1, expected_calibration_error=0.1)
    chosen = [
        ChosenMember(
            trial=member.trial,
            folder=f"members/{member.trial:04}",
            weights_sha256=member.record.weights_sha256,
            weight=weight,
            temperature=1.0,
            threshold=0.5,
            val_f1=0.75,
        )
        for member, weight in zip(members, (0.75, 0.25), strict=True)
    ]
    EnsembleRecord(
        method="weighted",
        asked_method="weighted",
        top_k=5,
        members=chosen,
        best_single=JudgedMember(**chosen[0].model_dump(exclude={"weight"})),
        ingredients=[],
        temperature=TEMPERATURE,
        threshold_rule="f1",
        threshold=THRESHOLD,
        calibrated_threshold=float(apply_temperature(np.array(THRESHOLD), TEMPERATURE)),
        tta=False,
        tta_tried=None,
        alone=None,
        neighbours=None,
        neighbours_note="not tried",
        optimism=None,
        optimism_note="not tried",
        val_metrics={"f1": 0.75},
        before_calibration=none,
        after_calibration=none,
        methods=[],
        disagreement=[[0.0, 0.0], [0.0, 0.0]],
        error_correlation=[[1.0, None], [None, 1.0]],
        num_finished=len(chosen),
        num_candidates=len(chosen),
        split_digest="split",
    ).save(run)
