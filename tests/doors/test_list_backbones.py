"""The command `backbones`: which networks it lists, and what it says of them."""

from argparse import Namespace
from typing import Any

import pytest

from ensemble.backbones import MOST_COUNTED, main
from ensemble.base.errors import InputError
from ensemble.cli import parse
from ensemble.training.backbone_table import BACKBONES
from ensemble.training.timm_networks import find_names


def rows_of(*words: str) -> dict[str, Any]:
    return {row["name"]: row for row in main(parse("backbones", words))}


def test_networks_that_match_are_counted_at_the_size_or_at_their_own(capsys) -> None:
    rows = rows_of("timm/test_[rm]*", "--size", "128")
    said = capsys.readouterr().out
    assert rows.keys() == {"timm/test_resnet", "timm/test_maxvit", "timm/test_mambaout"}
    assert rows["timm/test_resnet"]["side_px"] == 128
    assert rows["timm/test_maxvit"]["side_px"] == 160  # its windows take no other
    assert "at 160" in said
    for name, row in rows.items():
        (line,) = (line for line in said.splitlines() if line.startswith(name))
        assert f"{row['parameters'] / 1e6:.2f} M" in line
        assert row["weights"] in line


def test_without_a_pattern_they_are_those_of_the_table(monkeypatch, capsys) -> None:
    monkeypatch.setattr("ensemble.backbones.BACKBONES", {"small_cnn": BACKBONES["small_cnn"]})
    rows = rows_of()
    assert rows.keys() == {"small_cnn"}
    assert rows["small_cnn"]["weights"] == "none"
    about = BACKBONES["small_cnn"]
    assert round(rows["small_cnn"]["multiply_adds"] / 1e6) == about.million_multiply_adds
    assert "1,300 more of timm's" in capsys.readouterr().out


def test_the_licence_of_weights_is_told_and_none_where_there_are_no_weights(capsys) -> None:
    licences = {"timm/convnextv2_atto.fcmae": "cc-by-nc-4.0", "timm/ghostnet_050": ""}
    for name, licence in licences.items():
        rows = rows_of(f"{name}*")
        (line,) = (line for line in capsys.readouterr().out.splitlines() if f"{name} " in line)
        assert rows[name]["licence"] == licence
        assert line.endswith(f"to download  {licence}" if licence else "none")


def test_of_many_the_names_are_listed_and_how_to_narrow(capsys) -> None:
    rows = rows_of("timm/resnet*")
    assert len(rows) > MOST_COUNTED
    said = capsys.readouterr().out.splitlines()
    assert said[:-1] == [*rows]
    assert said[-1].startswith(f"{len(rows)} names; a pattern that {MOST_COUNTED} or fewer match")


def test_a_part_of_a_name_is_enough_and_a_dot_lists_tags() -> None:
    assert {"efficientnet_b0", "timm/efficientnet_b0"} <= {*find_names("efficientnet_b0")}
    assert find_names("timm/test_resnet.") == ["timm/test_resnet.r160_in1k"]


def test_a_network_that_cannot_be_a_backbone_says_why(capsys) -> None:
    rows = rows_of("timm/cait_xxs24_*")
    assert rows["timm/cait_xxs24_224"]["refusal"]
    assert capsys.readouterr().out.splitlines() == [
        "these cannot be backbones (no map of places before its head):",
        "  timm/cait_xxs24_224",
        "  timm/cait_xxs24_384",
    ]


def test_networks_that_cannot_be_backbones_stand_below_the_table(capsys) -> None:
    rows = rows_of("timm/c*it_tiny*", "--size", "224")
    assert [row["name"] for row in rows.values()] == ["timm/convit_tiny", "timm/crossvit_tiny_240"]
    head, row, note, reason, refused = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "parameters", "multiply-adds", "weights", "their", "licence"]
    assert row.startswith("timm/convit_tiny ")
    assert head.index("their licence") == row.index("apache-2.0")
    assert note.startswith("multiply-adds are millions for an image of 224 px")
    assert reason == "this one cannot be a backbone (no map of places before its head):"
    assert refused == "  timm/crossvit_tiny_240"


def test_no_such_name_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="nonsense: no backbone of such a name"):
        main(Namespace(pattern="nonsense", size=64))
    like = r"squeeznet: no backbone of such a name \(like it: squeezenet1_1\)"
    with pytest.raises(InputError, match=like):
        main(Namespace(pattern="squeeznet", size=64))
