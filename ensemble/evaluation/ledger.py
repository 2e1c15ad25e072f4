"""Ledgers: a line for each time that an ensemble was tested, written before a label is read."""

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


def count_elsewhere(run: Path, split_digest: str) -> dict[str, int]:
    """How often each run beside this one has opened the same test photographs, by its name.

    A run whose files cannot be read is passed over.

    Args:
        run: Folder of the run.
        split_digest: Digest of its split.
    """
    found = {}
    for path in sorted(run.parent.glob("*/evaluation/ledger.csv")):
        other = path.parents[1]
        try:
            digest = read_object(other / "run.json").get("split_digest")
        except InputError:
            continue
        if other != run and digest == split_digest:
            found[other.name] = _count_lines(path)
    return found


def _count_lines(path: Path) -> int:
    """The number of lines of a ledger, less its header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(bool(line.strip()) for line in lines) - 1
