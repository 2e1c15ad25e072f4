"""The ensemble of a run: chosen on validation, then tested once. The only reader of its test tiles.

The ensemble is chosen on the validation split and written to `ensemble.json` before the test split
is opened; each opening is written to `evaluation/ledger.csv` before a test label is read. What is
compared with it is chosen before the opening, too, and tested in the same one. What can be refused
without a test label is refused before either is written. What is tested is the choice in memory, so
that nothing that happens to the file changes it. Everything else that wants to know about the test
reads what is written here.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ensemble.base.files import remove_file, write_json, write_table
from ensemble.base.provenance import describe_code_and_machine
from ensemble.data.batches import place_split
from ensemble.data.pack import Pack, open_pack
from ensemble.evaluation.comparison import Rival, describe_compared, flatten_compared
from ensemble.evaluation.figures import (
    Way,
    compute_figures,
    coverage_note,
    describe_ways,
    ensemble_figures,
    gain_over,
    gain_over_trivial,
    member_figures,
    photograph_of,
    surface_figures,
    way_of,
)
from ensemble.evaluation.ledger import count_elsewhere, note_opening
from ensemble.evaluation.mistakes import (
    CorrectedLabels,
    check_tested,
    correct_labels,
    read_labels,
    relabelled_figures,
    suspect_labels,
)
from ensemble.evaluation.presentation import describe_method
from ensemble.evaluation.scoring import judge_tiles, score_members, tabulate
from ensemble.explanation.errors import ABOUT_A_TILE, find_errors
from ensemble.explanation.gallery import draw_galleries
from ensemble.run.folder import run_lock
from ensemble.run.pack import find_pack
from ensemble.selection.choice import EnsembleRecord, open_chosen
from ensemble.selection.choose import KnownScores, choose_ensemble
from ensemble.selection.contenders import Contender, choose_contenders
from ensemble.selection.ensemble import Ensemble, load_ensemble
from ensemble.selection.neighbours import Places
from ensemble.training.checkpoint import Member
from ensemble.training.metrics import check_both_classes
from ensemble.training.precision import describe_scoring


def evaluate_run(
    run: Path,
    *,
    method: str = "mean",
    top_k: int | None = None,
    rule: str = "f1",
    tta: bool = False,
    budget_members: int | None = None,
    labels_file: Path | None = None,
    compare: bool = False,
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Choose on validation, open the test split, write `evaluation/` and return its metrics.

    Args:
        run: A run's folder.
        method: Way of choosing members.
        top_k: Number of members of `mean`.
        rule: Rule of the threshold: f1, f2, a number, or recall=R.
        tta: Whether to try test-time augmentation on validation.
        budget_members: Forward passes that a tile may cost, before `tta`.
        labels_file: Corrected labels of test tiles, for figures beside those on the original ones.
        compare: Whether other methods and the best member of each backbone are tested, too.
        log: Takes a line for each damaged member, and now and then one while tiles are scored.

    Returns:
        What `evaluation/metrics.json` holds.

    Raises:
        InputError: There are too few members, the packed tiles are gone, others, damaged or of one
            class, no tile of `labels_file` is tested, or another evaluation is at work in the run.
    """
    corrected = None if labels_file is None else read_labels(labels_file)
    folder = run / "evaluation"
    with run_lock(folder, what="evaluation"):
        pack, corrected = _open_test(run, corrected)
        chosen = _choose(run, method, top_k, rule, tta, budget_members, compare, log)
        record, ensemble, singles = chosen.record, chosen.ensemble, chosen.singles
        record.save(run)
        num_openings = _note_opening(run, chosen)
        elsewhere = count_elsewhere(run, record.split_digest, pack.record.get("test_digest"))
        tiles, table = place_split(pack, "test", ensemble.device)
        labels = None if corrected is None else correct_labels(table, corrected)
        scores = score_members(tiles, chosen.ensembles, singles, what="test tiles", log=log)
        judged = judge_tiles(ensemble, scores, tiles, Places.of(table))
        predictions = tabulate(table, judged, scores, singles)
        rows, probabilities = describe_compared(table, tiles, scores, chosen.rivals)
        metrics = {
            **_describe_test(predictions, record, singles),
            "ways": describe_ways(predictions, judged.ways),
            "compared": rows,
            **_describe_data(pack, predictions),
            **_describe_opening(chosen, num_openings, elsewhere),
        }
        if labels is not None and corrected is not None:
            metrics["relabelled"] = _describe_relabelled(predictions, labels, corrected, record)
        _write(folder, predictions, metrics, record, probabilities)
        draw_galleries(folder, predictions, ensemble, tiles)
    return metrics


class _Chosen(NamedTuple):
    """What is tested, as it was chosen on validation."""

    record: EnsembleRecord
    ensemble: Ensemble
    singles: list[Member]  # members with figures of their own
    rivals: list[Rival]  # the ensemble and those compared with it; none where none are

    @property
    def ensembles(self) -> list[Ensemble]:
        """The ensemble, and what is compared with it."""
        return [self.ensemble, *(rival.ensemble for rival in self.rivals[1:])]


def _choose(
    run: Path,
    method: str,
    top_k: int | None,
    rule: str,
    tta: bool,
    budget_members: int | None,
    compare: bool,
    log: Callable[[str], None],
) -> _Chosen:
    """Choose the ensemble and what is compared with it, and load all of them."""
    known: KnownScores = {}
    how: Any = {"tta": tta, "budget_members": budget_members, "known": known, "log": log}
    record = choose_ensemble(run, method=method, top_k=top_k, rule=rule, **how)
    ensemble = load_ensemble(run, record=record)
    rivals = []
    if compare:
        what = f"ensemble ({describe_method(record.model_dump())})"
        others = choose_contenders(run, record, known=known, log=log)
        rivals = [
            Rival(Contender("chosen", what, record, is_reference=False), ensemble),
            *(
                Rival(other, load_ensemble(run, ensemble.device, record=other.record))
                for other in others
            ),
        ]
    return _Chosen(record, ensemble, open_chosen(run, record.shown), rivals)


def _describe_opening(
    chosen: _Chosen, num_openings: int, elsewhere: dict[str, int]
) -> dict[str, Any]:
    """How often the test was opened, here and by other runs, when, and with what."""
    scored = [*chosen.singles, *chosen.ensemble.members]
    scored += [member for rival in chosen.rivals for member in rival.ensemble.members]
    return {
        "precision_note": describe_scoring(
            {member.trial: member.record.precision for member in scored}, chosen.ensemble.device
        ),
        "num_test_openings": num_openings,
        "openings_by_other_runs": elsewhere,
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_code_and_machine(),
    }


def _open_test(run: Path, corrected: CorrectedLabels | None) -> tuple[Pack, CorrectedLabels | None]:
    """Open the test split of a run, after all that can be refused without one of its labels."""
    pack = open_pack(find_pack(run), splits=("test",))
    _check_test_classes(pack)
    if corrected is not None:
        corrected = check_tested(corrected, set(pack.table("test", columns=["tile"])["tile"]))
    return pack, corrected


def _check_test_classes(pack: Pack) -> None:
    """Refuse a test split of one class by the counts of the pack; no label is read for that."""
    tiles, cracked = (pack.record[key]["test"] for key in ("num_tiles", "num_cracked"))
    check_both_classes((np.arange(tiles) < cracked).astype(int), what="the test tiles")


def _note_opening(run: Path, chosen: _Chosen) -> int:
    """Write to the ledger that the test split is being opened; return the number of openings."""
    compared = " ".join(rival.contender.name for rival in chosen.rivals[1:])
    end = f" (compared with {compared})" if compared else ""
    return note_opening(run / "evaluation" / "ledger.csv", chosen.record, end)


def _judged(predictions: pd.DataFrame, record: EnsembleRecord) -> Way:
    """The ensemble without its second stage, as `evaluate` judges it and `predict` does."""
    return way_of(predictions, "ensemble", record)


def _describe_relabelled(
    predictions: pd.DataFrame,
    labels: pd.Series,
    corrected: CorrectedLabels,
    record: EnsembleRecord,
) -> dict[str, Any]:
    """The ensemble's figures on corrected labels, and how many labels were changed."""
    return {
        "labels": str(corrected.path),
        "num_changed": int((labels != predictions["label"]).sum()),
        "num_ignored": len(corrected.tiles.keys() - set(predictions["tile"])),
        **compute_figures(predictions.assign(label=labels), _judged(predictions, record)),
    }


def _describe_test(
    predictions: pd.DataFrame, record: EnsembleRecord, singles: Sequence[Member]
) -> dict[str, Any]:
    """All figures of the test, at the thresholds of the record."""
    judged = _judged(predictions, record)
    members = [
        member_figures(predictions, member, own)
        for member, own in zip(singles, record.shown, strict=True)
    ]
    return {
        "ensemble": ensemble_figures(predictions, judged, record.val_metrics["f1"]),
        "members": members,
        "best_single": next(
            figures for figures in members if figures["trial"] == record.best_single.trial
        ),
        "surfaces": surface_figures(predictions, judged),
        "gain_over_best_single": gain_over(predictions, judged, record.best_single),
        "gain_over_trivial": gain_over_trivial(predictions, judged),
        "choice": record.model_dump(mode="json"),
        "num_finished_trials": record.num_finished,
        "num_candidates": record.num_candidates,
    }


def _describe_data(pack: Pack, predictions: pd.DataFrame) -> dict[str, Any]:
    photographs = pack.record["num_photographs"]["test"]
    unit = "photograph" if photographs else "tile"
    return {
        "num_test_tiles": len(predictions),
        "num_test_photographs": photographs,
        "intervals": coverage_note(len(set(photograph_of(predictions))), unit=unit),
        "split_by": pack.record["split_by"],
        "leaky_split": pack.record["leaky_split"],
        "split_digest": pack.record["split_digest"],
    }


def member_columns(predictions: pd.DataFrame, record: EnsembleRecord) -> pd.DataFrame:
    """The predictions with the columns of the ensemble's members, and of no other trial.

    The member of a soup is the soup itself, not the trial whose number it bears.
    """
    trials = [f"trial_{member.trial}" for member in record.members]
    if record.ingredients:
        predictions = predictions.assign(**{trials[0]: predictions["ensemble"]})
    return predictions[[*ABOUT_A_TILE, *trials, "ensemble", "calibrated"]]


def _write(
    folder: Path,
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    record: EnsembleRecord,
    compared: pd.DataFrame,
) -> None:
    """Write the files of the evaluation; `compared` has the probabilities of what is compared."""
    thresholds = _judged(predictions, record).bounds
    suspects = suspect_labels(member_columns(predictions, record), record.weights)
    tables = {
        "predictions": predictions,
        "errors": find_errors(predictions, thresholds),
        "suspect_labels": suspects,
        "if_relabelled": relabelled_figures(predictions, suspects, thresholds),
    }
    others = {"compared": flatten_compared(metrics["compared"]), "compared_predictions": compared}
    for name, table in (tables | (others if metrics["compared"] else {})).items():
        write_table(folder / f"{name}.csv", table)
    for name in others.keys() if not metrics["compared"] else ():
        remove_file(folder / f"{name}.csv")  # of the evaluation before
    write_json(folder / "metrics.json", metrics)
