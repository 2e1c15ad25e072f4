"""What a trial's process keeps on its node while a storage stands between the nodes."""

import pytest

from ensemble.base.files import write_json
from ensemble.search.cluster.storage import Storage
from ensemble.search.task import StorageLayout, _NodeFolder


@pytest.fixture
def task_and_storage(tmp_path, monkeypatch, make_task):
    monkeypatch.setenv("CRACK_ENSEMBLE_CACHE", str(tmp_path / "cache"))
    storage = Storage.parse(str(tmp_path / "storage"))
    layout = StorageLayout(run="run", pack="pack", pack_sha256="0" * 64)
    (tmp_path / "initial").mkdir()
    write_json(tmp_path / "initial" / "states.json", {})
    (tmp_path / "initial" / "small_cnn.safetensors").touch()
    storage.push(tmp_path / "initial", layout.initial)
    return make_task(storage=layout), layout, storage


def test_processes_that_share_a_cache_never_remove_each_others_folder(task_and_storage):
    """As on a cluster whose home folders lie on NFS: both processes may have the same number."""
    one = _NodeFolder(*task_and_storage, rank=1)
    (one.member / "state.json").touch()
    other = _NodeFolder(*task_and_storage, rank=0)
    assert one.member != other.member
    assert (one.member / "state.json").exists()
    one.leave()
    other.leave()


def test_the_folder_of_a_trial_that_is_over_goes_with_the_next_one(task_and_storage):
    one = _NodeFolder(*task_and_storage, rank=0)
    assert one.member.is_dir()
    one.leave()
    other = _NodeFolder(
        task_and_storage[0].model_copy(update={"number": 4}), *task_and_storage[1:], rank=0
    )
    assert not one.member.exists()
    assert other.initial.is_dir()
    other.leave()
