"""Facts about sizes of tiles: the most common one is taken; size that tells the class is said."""

from collections import Counter

import pandas as pd
import pytest

from ensemble.base.errors import InputError
from ensemble.data.tiles import explain_classes_by_size, most_common_size


def test_the_most_common_size_wins_and_of_equal_ones_the_smallest() -> None:
    assert most_common_size(Counter({(9, 9): 2, (8, 8): 3, (7, 7): 1}), where="here") == (8, 8)
    sizes = {(256, 256): 5, (64, 64): 5}
    assert most_common_size(Counter(sizes), where="here") == (64, 64)
    assert most_common_size(Counter(dict(reversed(sizes.items()))), where="here") == (64, 64)


@pytest.mark.parametrize(("extra", "words"), [(0, "no two the same"), (1, "only 2 have the most")])
def test_where_no_size_is_common_that_is_refused(extra: int, words: str) -> None:
    sizes = Counter({(10, width): 1 + extra * (width == 10) for width in range(10, 40)})
    with pytest.raises(InputError, match=f"here: no common tile size: .*{words}.* resize them"):
        most_common_size(sizes, where="here")


def table(*counts: tuple[tuple[int, int], int, int]) -> pd.DataFrame:
    """Tiles given as (size, number cracked, number uncracked)."""
    rows = [
        (size, label)
        for size, cracked, uncracked in counts
        for label in [1] * cracked + [0] * uncracked
    ]
    return pd.DataFrame(
        {"size": pd.Series([size for size, _ in rows], dtype=object), "label": [n for _, n in rows]}
    )


def test_size_that_tells_the_class_is_said_with_both_sizes() -> None:
    said = str(explain_classes_by_size(table(((256, 300), 120, 0), ((64, 64), 0, 119))))
    assert "tells the class (AUC 1.00)" in said
    assert "120 of 120 cracked tiles have 300 × 256 px; 119 of 119 uncracked tiles have 64" in said


@pytest.mark.parametrize(
    "tiles",
    [
        table(((64, 64), 50, 50)),
        table(((64, 64), 80, 80), ((256, 256), 20, 20)),
        table(((90, 160), 75, 60), ((160, 90), 5, 20)),
        table(((64, 64), 3, 3), ((256, 256), 1, 0)),
        table(((64, 64), 3, 0), ((256, 256), 2, 0)),
    ],
    ids=["one size", "as many of both", "turned", "too few to tell", "one class"],
)
def test_size_that_does_not_tell_the_class_is_not_mentioned(tiles: pd.DataFrame) -> None:
    assert explain_classes_by_size(tiles) is None
