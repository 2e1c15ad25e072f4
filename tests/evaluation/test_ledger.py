"""The ledger of openings, and what other runs opened of the same test photographs."""

import json
from pathlib import Path

from ensemble.evaluation.ledger import count_elsewhere


def make_run(folder: Path, digest: str, openings: int | None, tested: str | None = None) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    about = {"split_digest": digest, "data_summary": {"test_digest": tested} if tested else None}
    (folder / "run.json").write_text(json.dumps(about))
    if openings is not None:
        lines = ["opened_at,method", *["2026-11-27T00:00:00+00:00,mean"] * openings]
        (folder / "evaluation" / "ledger.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_runs_that_opened_the_same_test_photographs_are_counted(tmp_path):
    run = make_run(tmp_path / "refit", "abc", 4)
    make_run(tmp_path / "search", "abc", 2)
    make_run(tmp_path / "untested", "abc", None)
    make_run(tmp_path / "other", "xyz", 3)
    (make_run(tmp_path / "damaged", "abc", 1) / "run.json").write_text("{")
    assert count_elsewhere(run, "abc") == {"search": 2}


def test_a_run_with_other_training_tiles_and_the_same_test_tiles_is_counted(tmp_path):
    run = make_run(tmp_path / "learned", "new", 1, tested="same")
    make_run(tmp_path / "first", "old", 2, tested="same")
    make_run(tmp_path / "other", "old", 3, tested="others")
    make_run(tmp_path / "older", "old", 4)
    assert count_elsewhere(run, "new", "same") == {"first": 2}
    assert count_elsewhere(run, "new") == {}
