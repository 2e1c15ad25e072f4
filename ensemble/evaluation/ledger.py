"""Ledgers: a line for each time that an ensemble was tested, written before a tile is scored."""

from datetime import UTC, datetime
from pathlib import Path

from ensemble.base.errors import InputError
from ensemble.base.files import append_line, make_folder, read_object
from ensemble.selection.choice import EnsembleRecord


def note_opening(path: Path, record: EnsembleRecord, end: str = "") -> int:
    """Write to a ledger that tiles are being opened to test an ensemble.

    Args:
        path: The ledger; made if missing.
        record: The ensemble.
        end: Text without commas that is put behind the method.

    Returns:
        The number of lines by now.
    """
    line = {
        "opened_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": f"{record.method}{end}",
        "trials": " ".join(str(member.trial) for member in record.members),
        "threshold_rule": record.threshold_rule,
        "threshold": record.threshold,
        "tta": record.tta,
    }
    make_folder(path.parent)
    append_line(path, ",".join(map(str, line.values())), header=",".join(line))
    return _count_lines(path)


def count_elsewhere(run: Path, split_digest: str, test_digest: str | None = None) -> dict[str, int]:
    """How often each run beside this one has opened the same test photographs, by its name.

    A run whose files cannot be read is passed over.

    Args:
        run: Folder of the run.
        split_digest: Digest of its split.
        test_digest: Digest of its test tiles alone, which runs share whose training tiles differ,
            as those of `learn-from`; None where its pack, of an older version, does not hold it.
    """
    found = {}
    for path in sorted(run.parent.glob("*/evaluation/ledger.csv")):
        other = path.parents[1]
        try:
            about = read_object(other / "run.json")
        except InputError:
            continue
        summary = about.get("data_summary")
        tested = summary.get("test_digest") if isinstance(summary, dict) else None
        is_same = about.get("split_digest") == split_digest or (tested and tested == test_digest)
        if other != run and is_same:
            found[other.name] = _count_lines(path)
    return found


def _count_lines(path: Path) -> int:
    """The number of lines of a ledger, less its header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(bool(line.strip()) for line in lines) - 1
