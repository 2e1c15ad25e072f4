"""The ledger of openings, and what other runs opened of the same test photographs."""

import json
from pathlib import Path

from ensemble.evaluation.ledger import count_elsewhere


def make_run(folder: Path, digest: str, openings: int | None) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"split_digest": digest}))
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
