"""Facts about scoring the members of several ensembles together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ensemble.base.files import read_object, write_json
from ensemble.data.batches import SplitTiles
from ensemble.evaluation.scoring import score_members
from ensemble.run.members import score_tiles
from ensemble.selection.ensemble import Ensemble
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.fold_networks import FoldNetworks


def test_a_member_with_all_and_with_some_of_its_networks_has_scores_of_both(
    tmp_path: Path,
    write_member: Callable[..., Member],
    make_bright_and_dark: Callable[..., SplitTiles],
) -> None:
    torch.manual_seed(0)
    networks = FoldNetworks([build_model("small_cnn") for _ in range(3)])
    write_member(tmp_path / "0", model=networks)
    record = tmp_path / "0" / "member.json"
    write_json(record, read_object(record) | {"num_folds": 3})
    whole, tiles = open_member(tmp_path / "0"), make_bright_and_dark(8)
    some = [replace(whole, num_networks=count) for count in (1, 2, 3)]
    first, *others = (
        Ensemble([member], np.ones(1), 0.5, (16, 16), (16, 16), torch.device("cpu"))
        for member in some
    )
    scores = score_members(tiles, [first, *others], [whole], what="tiles", log=print)
    assert len(scores.seen) == 3  # all three networks are the whole member
    for member in (whole, *some):
        assert np.array_equal(scores.rows([member]), score_tiles([member], tiles))
    assert not np.array_equal(scores.rows([some[0]]), scores.rows([whole]))
