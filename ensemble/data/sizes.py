"""Sizes of tiles: which one they all get, and whether size alone tells the class."""

from collections import Counter

import numpy as np
import pandas as pd

from ensemble.base.errors import InputError

LEAST_SHARE = 0.1  # of the tiles must have the most common size
LEAST_AUC_DIFFERENCE = 0.1  # from 0.5, before it is said that size tells the class
LEAST_STANDARD_ERRORS = 4

Size = tuple[int, int]  # height, width


def most_common_size(sizes: Counter[Size], *, where: object) -> Size:
    """The size that most tiles have; of equally frequent ones the smallest.

    Args:
        sizes: How many tiles have each size.
        where: The data, for the message.

    Raises:
        InputError: None is common.
    """
    size, count = max(sizes.items(), key=lambda item: (item[1], -item[0][0] * item[0][1], item))
    if count < LEAST_SHARE * sizes.total():
        most = f"only {count} have the most common one" if count > 1 else "no two the same"
        raise InputError(
            f"{where}: no common tile size: {sizes.total():,} pictures have {len(sizes):,} sizes, "
            f"{most}; cut them into tiles of one size, or resize them to one"
        )
    return size


def explain_classes_by_size(tiles: pd.DataFrame) -> str | None:
    """In words, how well the number of pixels alone tells the class; None if it does not.

    By the AUC of the area as a score, where it differs from 0.5 by more than chance explains
    (Mann and Whitney 1947).

    Args:
        tiles: `size` as (height, width), `label`.
    """
    areas = np.array([height * width for height, width in tiles["size"]])
    is_cracked = tiles["label"].to_numpy() == 1
    num_cracked, num_others = int(is_cracked.sum()), int((~is_cracked).sum())
    if not num_cracked or not num_others or len(set(areas.tolist())) == 1:
        return None
    ranks = pd.Series(areas).rank().to_numpy()
    wins = ranks[is_cracked].sum() - num_cracked * (num_cracked + 1) / 2
    auc = wins / (num_cracked * num_others)
    error = np.sqrt((num_cracked + num_others + 1) / (12 * num_cracked * num_others))
    if abs(auc - 0.5) < max(LEAST_AUC_DIFFERENCE, LEAST_STANDARD_ERRORS * error):
        return None
    usual = {
        kind: Counter(tiles["size"][mask]).most_common(1)[0]
        for kind, mask in (("cracked", is_cracked), ("uncracked", ~is_cracked))
    }
    shown = "; ".join(
        f"{count} of {total} {kind} tiles have {size[1]} × {size[0]} px"
        for (kind, (size, count)), total in zip(
            usual.items(), (num_cracked, num_others), strict=True
        )
    )
    return (
        f"the size of the files tells the class (AUC {auc:.2f}): {shown}; after resizing a network "
        "may learn how sharp a tile is in place of cracks, so take both classes from equal pictures"
    )
