"""The best epochs of one training run but for the first become members of their own."""

import shutil

import numpy as np
import pytest
import torch

from ensemble.recipes.best_epochs import BestEpochs
from ensemble.run.members import member_folder
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import open_member
from ensemble.training.initial_weights import digest_tensors

SCORES = {1: 0.5, 2: 0.8, 3: 0.7, 4: 0.8, 5: 0.6}  # validation F1 by epoch


@pytest.fixture
def networks():
    """One for each epoch, all different."""
    made = {}
    for number in SCORES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            made[number] = build_model("small_cnn")
    return made


@pytest.fixture
def trained(tmp_path, networks, make_epoch, make_trial_config):
    """Five epochs were trained, of which the three best wait; the best is a member already."""
    best = BestEpochs(tmp_path, range(7, 9))
    for number, score in SCORES.items():
        epoch = make_epoch(number=number, val_f1=score, margins=[number, -1.0, 0.25])
        epoch = epoch.model_copy(update={"weights": networks[number].state_dict()})
        about = {"trial": 0, "split_digest": "split", "initial_weights_digest": "initial"}
        best.take(epoch, make_trial_config(), **about)
    return best


def test_the_best_but_one_become_members_with_their_weights_scores_and_record(
    trained, networks, tmp_path
):
    waiting = [open_member(tmp_path / "checkpoints" / name).record for name in ("0004", "0003")]
    members = trained.make_members()
    assert [member.record.epoch for member in members] == [4, 3]  # of 2 and 4 the earlier is best
    for number, member, before in zip((7, 8), members, waiting, strict=True):
        assert member.folder == member_folder(tmp_path, number)
        its_network = networks[before.epoch].state_dict()
        assert digest_tensors(member.load_model().state_dict()) == digest_tensors(its_network)
        assert np.array_equal(member.val_margins(), np.float32([before.epoch, -1.0, 0.25]))
        changed = {"trial": number, "written_at": member.record.written_at}
        assert member.record == before.model_copy(update=changed)
    trained.forget()
    assert not (tmp_path / "checkpoints").exists()
    members[0].load_model()


def test_what_a_cut_run_left_in_a_members_place_is_replaced(trained, tmp_path):
    expected = [member.record.weights_sha256 for member in trained.make_members()]
    first, second = (member_folder(tmp_path, number) for number in (7, 8))
    shutil.copytree(second, first, dirs_exist_ok=True)
    (second / "member.json").unlink()
    assert [member.record.weights_sha256 for member in trained.make_members()] == expected
    assert all(len(list(folder.iterdir())) == 3 for folder in (first, second))
