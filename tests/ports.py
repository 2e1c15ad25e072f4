"""Ports on which a process and its children listen beyond this host."""

import threading
from contextlib import suppress
from pathlib import Path

from nodes import title

Port = tuple[str, int]  # program and number
LOOPBACK = ("0100007F", f"{1 << 24:032X}", "0000000000000000FFFF00000100007F")


def listening_beyond_the_host(pid: int) -> set[Port]:
    """Everything below `pid` that listens on another address than the loopback."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    inodes = {}
    for member in family:
        with suppress(OSError):
            for link in Path(f"/proc/{member}/fd").iterdir():
                with suppress(OSError):
                    inodes[str(link.readlink())] = title(member).split("\0")[0]
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            address, _, port = columns[1].partition(":")
            owner = inodes.get(f"socket:[{columns[9]}]")
            if columns[3] == "0A" and owner is not None and address not in LOOPBACK:  # 0A: LISTEN
                found.add((owner, int(port, 16)))
    return found


class PortWatch:
    """Notes the ports of a process and its children while the block lasts.

    Attributes:
        found: Ports beyond this host.
        num_looks: Number of looks so far.
    """

    def __init__(self, pid: int):
        self.found: set[Port] = set()
        self.num_looks = 0
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(1):  # a look costs a tenth of a second of a core
            self.found |= listening_beyond_the_host(self._pid)
            self.num_looks += 1

    def __enter__(self) -> "PortWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
