"""Facts about folds: no network validates what it was trained on, and all are one member."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ensemble.base.errors import InputError
from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.explanation.activation import class_activation_map
from ensemble.run.members import score_tiles
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.config import TrialConfig
from ensemble.training.cross_fitting import join_folds
from ensemble.training.fold_networks import FoldNetworks
from ensemble.training.loop import predict_margins
from ensemble.training.member import DevelopmentTiles, Fold, read_development

CPU = torch.device("cpu")
NUM_FOLDS = 3
MakeConfig = Callable[..., TrialConfig]
WriteMember = Callable[..., Member]


@pytest.fixture(scope="module")
def packed(folder):
    return pack(open_source(folder / "tiles"), under=folder / "packs")


@pytest.fixture(scope="module")
def tiles(packed):
    return DevelopmentTiles(packed.folder, CPU)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model("small_cnn").eval()


@pytest.fixture
def joined(tiles, packed, tmp_path, write_member: WriteMember, make_trial_config: MakeConfig):
    """A member of three networks, and its folder; each scored the tiles of its fold."""
    config = make_trial_config(data={"image_size_px": 32})
    parts = []
    for fold in range(NUM_FOLDS):
        model, val = network(fold), tiles.open(Fold(fold, NUM_FOLDS)).val
        margins = predict_margins(model, val, config.view)
        parts.append(
            write_member(tmp_path / f"{fold}", trial=10 + fold, model=model, config=config,
                         margins=margins.tolist())
        )  # fmt: skip
    table = read_development(packed, NUM_FOLDS)
    labels, folds = table["label"].to_numpy(), table["fold"].to_numpy()
    join_folds(tmp_path / "joined", parts, number=4, split_digest="s", labels=labels, folds=folds)
    return open_member(tmp_path / "joined")


def test_each_photograph_is_left_out_once_and_never_trained_on_then(tiles, packed):
    table = read_development(packed, NUM_FOLDS)
    assert set(table["tile"]) == {*packed.table("train")["tile"], *packed.table("val")["tile"]}
    photograph_of = dict(zip(table["row"], table["photograph"], strict=True))
    seen = []
    for fold in range(NUM_FOLDS):
        data = tiles.open(Fold(fold, NUM_FOLDS))
        trained, left_out = (
            {photograph_of[row] for row in each.rows.tolist()} for each in (data.train, data.val)
        )
        assert not trained & left_out
        assert trained | left_out == set(table["photograph"])
        assert len(data.train) + len(data.val) == len(table)
        seen += left_out
    assert sorted(seen) == sorted(set(table["photograph"]))


def test_doubted_labels_are_those_of_the_table_and_in_no_other_training(tiles, packed, tmp_path):
    table = read_development(packed, NUM_FOLDS)
    doubted = table["tile"].iloc[::7]
    doubted.to_frame().to_csv(tmp_path / "doubted.csv", index=False)
    rows = set(table.loc[doubted.index, "row"])
    num_found = 0
    for fold in range(NUM_FOLDS):
        train = tiles.open(Fold(fold, NUM_FOLDS), tmp_path / "doubted.csv").train
        assert train.doubted is not None
        assert [row in rows for row in train.rows.tolist()] == train.doubted.tolist()
        some = train.take(torch.arange(1, len(train), 2))
        assert torch.equal(some.doubted, train.doubted[1::2])
        assert tiles.open(Fold(fold, NUM_FOLDS)).train.doubted is None
        num_found += int(train.doubted.sum())
    assert num_found == (NUM_FOLDS - 1) * len(doubted)


def test_pixels_are_placed_once_and_each_split_is_what_the_pack_says(tiles, packed):
    data = tiles.open()
    for name, split in (("train", data.train), ("val", data.val)):
        table = packed.table(name)
        assert split.rows.tolist() == table["row"].tolist()
        assert split.labels.tolist() == table["label"].tolist()
        assert split.pixels.data_ptr() == tiles.open(Fold(0, 2)).train.pixels.data_ptr()
    assert tiles.open() is data
    digests = {tiles.open(fold).split_digest for fold in (None, Fold(0, 2), Fold(1, 2), Fold(0, 3))}
    assert len(digests) == 4


def test_tiles_of_all_folds_are_in_the_order_of_their_table(tiles, packed):
    table = read_development(packed, NUM_FOLDS)
    data = tiles.open_all(NUM_FOLDS)
    for split in (data.train, data.val):
        assert split.rows.tolist() == table["row"].tolist()
        assert split.labels.tolist() == table["label"].tolist()
    assert data.val.folds is not None
    assert data.val.folds.tolist() == table["fold"].tolist()
    assert data.val.take(torch.tensor([3, 1])).folds.tolist() == table["fold"][[3, 1]].tolist()


def test_the_margin_of_networks_of_folds_is_the_mean_of_theirs():
    networks = [network(seed) for seed in range(3)]
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = FoldNetworks(networks)(images)
        each = [model(images) for model in networks]
    expected = torch.stack([one[:, 1] - one[:, 0] for one in each]).mean(0)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], expected)


def test_a_joined_member_holds_scores_of_what_each_network_left_out(joined, tiles):
    assert joined.trial == 4
    assert joined.record.num_folds == NUM_FOLDS
    data = tiles.open_all(NUM_FOLDS)
    probabilities = score_tiles([joined], data.val)[0]
    margins = joined.val_margins()
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-margins.astype(float))), rtol=1e-4)
    for fold in range(NUM_FOLDS):
        val = tiles.open(Fold(fold, NUM_FOLDS)).val
        expected = predict_margins(network(fold), val, joined.record.view)
        np.testing.assert_allclose(margins[data.val.folds == fold], expected, rtol=1e-5, atol=1e-6)
    assert 0 <= joined.val_f1 <= 1


def test_new_tiles_are_scored_by_all_networks_of_a_joined_member(joined, tiles):
    val = tiles.open().val
    found = predict_margins(joined.load_model(), val, joined.record.view)
    each = [predict_margins(network(fold), val, joined.record.view) for fold in range(NUM_FOLDS)]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_new_tiles_are_scored_by_as_many_networks_as_are_kept(joined, tiles, count):
    val = tiles.open().val
    kept = replace(joined, num_networks=count).load_model()
    assert not kept.training
    found = predict_margins(kept, val, joined.record.view)
    each = [predict_margins(network(fold), val, joined.record.view) for fold in range(count)]
    np.testing.assert_allclose(found, np.mean(each, axis=0), rtol=1e-4, atol=1e-5)
    if count == 1:  # it is the network itself
        assert np.array_equal(found, each[0])


def test_the_activation_map_of_a_joined_member_is_the_mean_of_its_networks(joined):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = np.mean(
        [class_activation_map(network(fold), "small_cnn", images) for fold in range(NUM_FOLDS)],
        axis=0,
    )
    found = class_activation_map(joined.load_model(), "small_cnn", images)
    np.testing.assert_allclose(found, mean / mean.max((1, 2), keepdims=True), rtol=1e-4, atol=1e-6)


def test_scores_of_other_tiles_than_those_of_the_fold_are_refused(
    tmp_path: Path, write_member: WriteMember
) -> None:
    parts = [write_member(tmp_path / f"{fold}", margins=[0.1, 0.2]) for fold in range(2)]
    with pytest.raises(InputError, match="scores of other tiles than those of fold 1"):
        join_folds(
            tmp_path / "joined", parts, number=0, split_digest="s",
            labels=np.array([0, 1, 1]), folds=np.array([0, 0, 1]),
        )  # fmt: skip
