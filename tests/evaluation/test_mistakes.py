"""Facts about the list of errors, the suspect labels and the re-labelled list."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.base.errors import InputError
from ensemble.evaluation.mistakes import (
    check_tested,
    correct_labels,
    read_labels,
    relabelled_figures,
    suspect_labels,
)
from ensemble.explanation.errors import find_errors
from ensemble.training.metrics import confusion_counts, ranking_metrics, threshold_metrics

PROBABILITY = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
TILES = st.lists(st.tuples(st.integers(0, 1), PROBABILITY), min_size=1, max_size=25)


def make_predictions(labels: list[int], *members: list[float]) -> pd.DataFrame:
    """Tiles a, b, …; the ensemble is the first member, and calibrated already."""
    return pd.DataFrame(
        {
            "tile": [chr(ord("a") + number) for number in range(len(labels))],
            "photograph": "7001",
            "surface": "D",
            "label": labels,
            **{f"trial_{number}": row for number, row in enumerate(members)},
            "ensemble": members[0],
            "calibrated": members[0],
        }
    )


def test_errors_are_misses_then_false_alarms_each_the_worst_first() -> None:
    predictions = make_predictions([1, 1, 1, 0, 0, 0], [0.3, 0.1, 0.4, 0.5, 0.9, 0.39])
    errors = find_errors(predictions, 0.4)
    assert errors["tile"].tolist() == ["b", "a", "e", "d"]  # c is called cracked at its threshold
    assert errors["kind"].tolist() == ["miss", "miss", "false alarm", "false alarm"]
    assert errors["margin"].tolist() == pytest.approx([0.3, 0.1, 0.5, 0.1])
    assert errors.columns.tolist() == [
        *("kind", "tile", "photograph", "surface", "label", "ensemble", "calibrated", "margin")
    ]


def test_no_errors_are_an_empty_table_with_the_same_columns() -> None:
    errors = find_errors(make_predictions([1, 0], [0.9, 0.1]), 0.5)
    assert len(errors) == 0
    assert errors.columns[0] == "kind"


@settings(max_examples=100, deadline=None)
@given(TILES, PROBABILITY)
def test_there_are_as_many_errors_as_the_confusion_matrix_counts(
    tiles: list[tuple[int, float]], threshold: float
) -> None:
    labels, probabilities = (list(column) for column in zip(*tiles, strict=True))
    kinds = find_errors(make_predictions(labels, probabilities), threshold)["kind"]
    counts = confusion_counts(np.array(labels), np.array(probabilities), threshold)
    assert (kinds == "miss").sum() == counts["false_negative"]
    assert (kinds == "false alarm").sum() == counts["false_positive"]


def test_suspects_are_ranked_as_worked_out_by_hand() -> None:
    predictions = make_predictions(
        [1, 1, 1, 0, 0, 0],
        [0.9, 0.8, 0.1, 0.2, 0.1, 0.92],  # class means 0.6 and 0.593…: c and f reach the other's
        [0.9, 0.8, 0.1, 0.2, 0.1, 0.2],  # 0.6 and 0.833…: c alone
    )
    suspects = suspect_labels(predictions, [3, 1])
    assert suspects["rank"].tolist() == [1, 2]
    assert suspects["tile"].tolist() == ["f", "c"]
    assert suspects["label"].tolist() == [0, 1]
    assert suspects["suggested_label"].tolist() == [1, 0]
    assert suspects["confidence"].tolist() == pytest.approx([0.08, 0.1])
    assert suspects["members_contradicting"].tolist() == [0.75, 1.0]
    assert suspects.columns.tolist() == [
        *("rank", "tile", "photograph", "surface", "label", "suggested_label"),
        *("ensemble", "members_contradicting", "confidence"),
    ]


def test_a_class_of_low_probabilities_has_a_low_threshold() -> None:
    row = [0.5, 0.3, 0.45, 0.05]  # class means 0.4 (cracked) and 0.75
    suspects = suspect_labels(make_predictions([1, 1, 0, 0], row), [1])
    assert suspects["tile"].tolist() == ["c"]  # 0.45 ≥ 0.4, though below a half


def test_a_tile_that_reaches_both_thresholds_is_of_the_more_probable_class() -> None:
    row = [0.5, 0.2, 0.4, 0.7, 0.2]  # class means 0.35 and 0.566…; c reaches both with 0.4 and 0.6
    suspects = suspect_labels(make_predictions([1, 1, 0, 0, 0], row), [1])
    assert suspects["tile"].tolist() == ["b", "d"]


@settings(max_examples=100, deadline=None)
@given(TILES.filter(lambda tiles: len({label for label, _ in tiles}) == 2))
def test_suspects_are_those_off_the_diagonal_of_the_confident_joint(
    tiles: list[tuple[int, float]],
) -> None:
    labels, probabilities = (list(column) for column in zip(*tiles, strict=True))
    predictions = make_predictions(labels, probabilities)
    of_class = np.stack([1 - np.array(probabilities), np.array(probabilities)])
    means = [of_class[k, np.array(labels) == k].mean() for k in (0, 1)]
    expected = set()
    for tile, label, pair in zip(predictions["tile"], labels, of_class.T, strict=True):
        confident = [k for k in (label, 1 - label) if pair[k] >= means[k]]
        if confident and max(confident, key=lambda k: pair[k]) != label:
            expected.add(tile)
    assert set(suspect_labels(predictions, [1])["tile"]) == expected


def make_planted(num_wrong: int = 10) -> tuple[pd.DataFrame, set[str]]:
    """Three good members of 300 tiles, 60 of them cracked; some clear ones are labelled wrongly."""
    generator = np.random.default_rng(0)
    truth = (np.arange(300) % 5 == 0).astype(int)
    margins = generator.normal(4, 1.5, 300) + generator.normal(0, 0.3, (3, 300))
    rows = 1 / (1 + np.exp(-np.where(truth == 1, margins, -margins)))
    wrong = generator.choice(np.flatnonzero(margins.min(axis=0) > 5), num_wrong, replace=False)
    labels = truth.copy()
    labels[wrong] = 1 - truth[wrong]
    table = pd.DataFrame(
        {
            "tile": [f"{number:03}" for number in range(300)],
            "photograph": "",
            "surface": "",
            "label": labels,
            **{f"trial_{number}": row for number, row in enumerate(rows)},
            "ensemble": np.array([0.5, 0.3, 0.2]) @ rows,
        }
    )
    return table.assign(calibrated=table["ensemble"]), set(table["tile"].iloc[wrong])


def test_planted_wrong_labels_rank_first() -> None:
    predictions, wrong = make_planted()
    suspects = suspect_labels(predictions, [0.5, 0.3, 0.2])
    assert set(suspects["tile"].head(len(wrong))) == wrong
    assert (suspects["members_contradicting"].head(len(wrong)) == 1).all()


def test_the_order_and_the_scale_of_the_members_are_irrelevant() -> None:
    predictions, _ = make_planted()
    turned = predictions[[*predictions.columns[:4], "trial_2", "trial_0", "trial_1"]]
    turned = turned.join(predictions[["ensemble", "calibrated"]])
    one, other = (
        suspect_labels(predictions, [0.5, 0.3, 0.2]),
        suspect_labels(turned, [2.0, 5.0, 3.0]),
    )
    pd.testing.assert_frame_equal(one, other)


def test_one_class_alone_has_no_suspects() -> None:
    assert suspect_labels(make_predictions([0, 0], [0.1, 0.9]), [1]).empty


def test_a_weight_for_each_member_is_needed() -> None:
    with pytest.raises(ValueError, match="one weight a member"):
        suspect_labels(make_predictions([1, 0], [0.9, 0.1]), [0.5, 0.5])


def test_relabelling_none_leaves_the_figures_and_relabelling_all_turns_every_suspect() -> None:
    predictions, _ = make_planted()
    suspects = suspect_labels(predictions, [1, 1, 1]).head(7)
    table = relabelled_figures(predictions, suspects, 0.5)
    assert table["num_relabelled"].tolist() == [0, 5, 7]
    truly = predictions["label"].mask(
        predictions["tile"].isin(suspects["tile"]), 1 - predictions["label"]
    )
    probabilities = predictions["ensemble"].to_numpy()
    for row, labels in ((0, predictions["label"]), (2, truly)):
        figures = threshold_metrics(labels.to_numpy(), probabilities, 0.5)
        figures |= ranking_metrics(labels.to_numpy(), probabilities)
        for name in ("f1", "precision", "recall", "average_precision"):
            assert table[name].iloc[row] == figures[name]
    assert table["f1"].is_monotonic_increasing
    assert predictions["label"].sum() == make_planted()[0]["label"].sum()  # left as it was


def test_without_suspects_there_is_one_row() -> None:
    predictions = make_predictions([1, 0], [0.9, 0.1])
    table = relabelled_figures(predictions, suspect_labels(predictions, [1]), 0.5)
    assert table["num_relabelled"].tolist() == [0]


def test_a_list_replaces_the_labels_of_its_tiles_only(tmp_path: Path) -> None:
    predictions = make_predictions([1, 1, 0], [0.9, 0.8, 0.1]).set_index(pd.Index([7, 8, 9]))
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufeffrank,tile,label\r\n1, c ,1\r\n\r\n2,a,0\r\n3,a,0\r\n4,y,1\r\n", encoding="utf-8"
    )
    labels = correct_labels(predictions, read_labels(path))
    assert labels.tolist() == [0, 1, 1]  # y is no tested tile
    assert labels.index.tolist() == [7, 8, 9]
    assert labels.dtype == "int64"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tile;label\na;1\n", r"line 1: one column 'tile' is needed.*are tile;label"),
        ("tile,verdict\na,1\n", r"line 1: one column 'label' is needed"),
        ("tile,label,label\na,1,0\n", r"line 1: one column 'label' is needed"),
        ("", r"its columns are missing"),
        ("tile,label\n", r"has no rows"),
        ("tile,label\nx,1\ny,0\n", r"none of its tiles .* 3 tested .*'x'"),
        ("tile,label\na,1\nb,yes\n", r"line 3: label must be 0 or 1 .* got 'yes'"),
        ("tile,label\na\n", r"line 2: label must be 0 or 1 .* got ''"),
        ("tile,label\na,1\nb,1\na,0\n", r"line 4: tile 'a' has label 1 further up"),
    ],
)
def test_a_bad_list_is_one_line_with_file_row_and_fault(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        check_tested(read_labels(path), {"a", "b", "c"})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_no_text_or_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_labels(path)
    path.write_bytes(b"tile,label\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_labels(path)


def test_corrections_of_pictures_name_the_tiles_that_are_called_like_them(tmp_path: Path) -> None:
    path = tmp_path / "corrections.csv"
    path.write_text(
        "picture,tile,left_px,label\nvisit/wall.jpg,r2-c3,512,1\ndata/D/b.jpg,,0,0\nv/x.jpg,r1-c1,0,1\n"
    )
    tested = {"C/wall-r2-c3.png", "U/wall-r2-c4.png", "D/b.jpg", "P/b.jpg"}
    corrected = check_tested(read_labels(path), tested)
    assert corrected.tiles == {
        "C/wall-r2-c3.png": (2, 1),
        "D/b.jpg": (3, 0),
        "v/x-r1-c1.jpg": (4, 1),
    }
    with pytest.raises(
        InputError, match=r"line 3: 'data/D/b.jpg' may be 2 tiles of the data \(E/b"
    ):
        check_tested(read_labels(path), {"E/b.jpg", "P/b.jpg"})
