"""A search of three trials, typed once for all tests of a session, of which each module has a copy.

While it searches, the tiles that are to be tested are overwritten: it can have read none of them.
"""

import fcntl
import os
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from person import SEARCH, TINY, type_in

from ensemble.data.prepare import open_data, prepare_data
from ensemble.data.synthetic import draw_dataset

NUM_TRIALS = 3
WORDS = [*SEARCH, "--data", "tiles", *TINY, "--trials", str(NUM_TRIALS), "--name", "first"]
POISON = b"poison"


def copy_searched(made: pytest.TempPathFactory) -> Path:
    """A new folder with `tiles`, the finished run `first`, and what its search said.

    With several processes of tests, the first one that asks makes what all of them copy.
    """
    base = made.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "searched"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "search.log").exists():
            shutil.rmtree(shared, ignore_errors=True)
            draw_dataset(
                shared / "tiles", photographs_per_surface=4, rows=3, columns=4, tile_size_px=32
            )
            (shared / "search.log").write_text(_search_on_poison(shared))
    here = made.mktemp("work")
    shutil.copytree(shared, here, dirs_exist_ok=True)
    for about in (here / "results").glob("**/*.json"):
        if about.name in ("run.json", "pack.json"):
            about.write_text(about.read_text().replace(str(shared), str(here)))
    return here


def _search_on_poison(here: Path) -> str:
    """Pack the tiles as a search does, spoil those of the test, and search."""
    packs = here / "results" / "packs"
    with chdir(here):
        source = open_data("tiles", packs=packs, log=str)
        sizes = {"side_px": 32, "context_px": 16}
        pack = prepare_data(source, split_seed=0, max_bad_tiles=0, packs=packs, log=str, **sizes)
    saved = {path: path.read_bytes() for path in pack.folder.glob("test.*")}
    assert len(saved) == 2  # a table and pixels
    for path in saved:
        path.write_bytes(POISON)
    said = type_in(here, *WORDS)
    assert list(packs.glob("tiles-*")) == [pack.folder]  # the search packed nothing anew
    for path, content in saved.items():
        assert path.read_bytes() == POISON
        path.write_bytes(content)
    return said
