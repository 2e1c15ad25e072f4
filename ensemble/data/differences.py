"""Two packs → what is other of the second one's tiles, labels or split, in words."""

from pathlib import Path
from typing import Any

import pandas as pd

from ensemble.base.errors import InputError
from ensemble.base.wording import plural
from ensemble.data.pack import Pack
from ensemble.data.split import SPLITS

NUM_NAMED = 3


def explain_difference(known: dict[str, Any], known_folder: Path, packed: Pack) -> str:
    """What is other of `packed`, as the end of "the run exists …".

    Args:
        known: What the `pack.json` of the older pack said.
        known_folder: Its folder, where tiles can be compared one by one if it is still there.
        packed: The newer pack.
    """
    about = packed.about
    if "labels_digest" not in known:
        return (
            "from a version whose digest of the split did not cover labels, so that nobody can say "
            "whether they are the same"
        )
    same_tiles = known.get("tiles_digest") == about["tiles_digest"]
    if same_tiles and known["labels_digest"] != about["labels_digest"]:
        return f"with other labels: {_count_relabelled(known_folder, packed)}"
    if same_tiles:
        seeds = known.get("split_seed"), about["split_seed"]
        detail = "their photographs, surfaces or split are told otherwise now"
        if seeds[0] != seeds[1]:
            detail = f"split seed {seeds[0]}, now {seeds[1]}"
        return f"with other split of the same tiles ({detail})"
    was, now = (
        f"{one['source']} of {plural(sum(one['num_tiles'].values()), 'tile')}"
        for one in (known, about)
    )
    return f"with other data ({was}, now {now})"


def _count_relabelled(known_folder: Path, packed: Pack) -> str:
    """How many tiles have another label, and the names of the first of them."""
    try:
        old, new = (_labels(one) for one in (Pack(known_folder, {}), packed))
    except InputError:  # the older pack is gone
        return "of the same tiles, some are labelled otherwise now"
    new = new[new["label"] != old["label"].reindex(new.index)]
    if len(new) == len(old):
        return f"{plural(len(new), 'tile')}, all of them: the classes are swapped (--positive)"
    named = ", ".join(new["tile"].sort_values()[:NUM_NAMED])
    more = ", …" if len(new) > NUM_NAMED else ""
    return f"{plural(len(new), 'tile')} labelled otherwise now ({named}{more})"


def _labels(packed: Pack) -> pd.DataFrame:
    """Name and label of each tile, by its content; nothing else is looked at."""
    tables = [packed.table(split)[["content", "tile", "label"]] for split in SPLITS]
    return pd.concat(tables).set_index("content")
