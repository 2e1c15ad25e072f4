"""Ledgers: a line for each time that an ensemble was tested, written before a label is read."""

from datetime import UTC, datetime
from pathlib import Path

from ensemble.base.files import append_line, make_folder
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
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(bool(line.strip()) for line in lines) - 1
