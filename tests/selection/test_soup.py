"""Facts about soups: what is averaged, what stays, and when there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from ensemble.data.batches import SplitTiles
from ensemble.selection.soup import BATCH, estimate_batch_norm, make_soup, write_soup
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, open_member, write_member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import Epoch
from ensemble.training.member import TrainingData


@pytest.fixture
def make_members(
    tmp_path: Path, make_epoch: Callable[..., Epoch], make_trial_config: Callable[..., TrialConfig]
) -> Callable[..., list[Member]]:
    """Two members that started alike, with statistics of BatchNorm that are not 0 and 1."""

    def make(fine_tuning: str, contexts_px: tuple[int, int] = (0, 0)) -> list[Member]:
        torch.manual_seed(0)
        model = build_model("mobilenet_v3_small")
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
        members = []
        for trial, context_px in enumerate(contexts_px):
            epoch = make_epoch(margins=[0.0])
            write_member(
                tmp_path / str(trial),
                model.state_dict(),
                epoch.val_margins,
                **epoch.describe_result(),
                config=make_trial_config(
                    model={"backbone": "mobilenet_v3_small", "fine_tuning": fine_tuning},
                    data={"context_px": context_px},
                ),
                trial=trial,
                split_digest="split",
                initial_weights_digest="initial",
            )
            members.append(open_member(tmp_path / str(trial)))
        return members

    return make


@pytest.mark.parametrize("fine_tuning", ["frozen", "full"])
def test_batch_norm_that_was_frozen_keeps_its_statistics_and_other_is_estimated_again(
    make_members: Callable[..., list[Member]],
    make_bright_and_dark: Callable[..., SplitTiles],
    fine_tuning: str,
) -> None:
    tiles = make_bright_and_dark(16)
    members = make_members(fine_tuning)
    soup = make_soup(members, tiles, tiles)
    assert len(soup.ingredients) == 2  # the same twice: validation does not lose
    before, after = members[0].load_model().state_dict(), soup.model.state_dict()
    for name in before:
        if name.endswith("running_mean"):
            assert torch.equal(before[name], after[name]) == (fine_tuning == "frozen"), name


@pytest.mark.parametrize(("contexts_px", "count"), [((0, 4), 1), ((4, 0), 1), ((4, 4), 2)])
def test_members_that_see_more_or_less_of_the_photograph_are_never_mixed(
    make_members: Callable[..., list[Member]],
    make_bright_and_dark: Callable[..., SplitTiles],
    contexts_px: tuple[int, int],
    count: int,
) -> None:
    """They have one backbone, one tile size and one start, and are the same network twice."""
    tiles = make_bright_and_dark(16)
    soup = make_soup(make_members("frozen", contexts_px), tiles, tiles)
    assert len(soup.ingredients) == count


def test_batch_norm_is_estimated_from_batches_none_of_which_is_one_tile(
    make_members: Callable[..., list[Member]], make_bright_and_dark: Callable[..., SplitTiles]
) -> None:
    """At 16 px the last map has one place: a tile by itself has no variance there."""
    tiles = make_bright_and_dark(BATCH + 1)
    assert len(make_soup(make_members("full"), tiles, tiles).ingredients) == 2


def test_estimated_statistics_are_the_mean_over_batches_without_dropout() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(1), nn.BatchNorm2d(1).eval())
    kept = model[2].running_mean.clone()
    batches = [torch.full((2, 1, 1, 1), 1.0), torch.full((2, 1, 1, 1), 3.0)]
    estimate_batch_norm(model, [model[1]], batches)
    assert model[1].running_mean.item() == 2.0
    assert torch.equal(model[2].running_mean, kept)
    assert not model.training
    assert model[1].momentum == 0.1


def test_a_soup_of_one_is_that_member_and_writes_nothing(
    make_members: Callable[..., list[Member]],
    make_bright_and_dark: Callable[..., SplitTiles],
    tmp_path: Path,
) -> None:
    (member, _), tiles = make_members("frozen"), make_bright_and_dark(8)
    data = TrainingData(tiles, tiles, "split")
    assert write_soup([member], data, tmp_path / "soup") == (member, [member])
    assert not (tmp_path / "soup").exists()
