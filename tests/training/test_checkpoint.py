"""Facts about a member on disk: the same bits come back, or one line says why not."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles
from ensemble.data.view import View
from ensemble.run.members import rank_members
from ensemble.training import checkpoint
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.config import TrialConfig
from ensemble.training.initial_weights import digest_tensors, make_initial_state, save_initial_state
from ensemble.training.loop import fit, predict_margins
from ensemble.training.member import TrainingData, train_member

WriteMember = Callable[..., Member]
MARGINS = [-1.0, 0.5, 2.0]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)


def read_all_of(folder: Path) -> tuple[float, np.ndarray, torch.nn.Module]:
    """Everything that is ever read of a member."""
    (member,) = rank_members([open_member(folder)])
    return member.val_f1, member.val_margins(), member.load_model()


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        read_all_of(folder)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    return message


def change_record(folder: Path, **values: Any) -> None:
    record = json.loads((folder / "member.json").read_text())
    (folder / "member.json").write_text(json.dumps({**record, **values}))


def file_of(folder: Path, kind: str) -> Path:
    """The member's `weights`, `scores` or `record`."""
    record = folder / "member.json"
    return record if kind == "record" else folder / json.loads(record.read_text())[f"{kind}_file"]


def replace_file(folder: Path, kind: str, content: bytes) -> None:
    """Put `content` in place of the weights or scores, with a digest that is right."""
    record = json.loads((folder / "member.json").read_text())
    (folder / record[f"{kind}_file"]).write_bytes(content)
    change_record(folder, **{f"{kind}_sha256": hashlib.sha256(content).hexdigest()})


@pytest.fixture
def folder(tmp_path: Path, write_member: WriteMember) -> Path:
    write_member(tmp_path / "member", margins=MARGINS)
    return tmp_path / "member"


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory: pytest.TempPathFactory, write_member: WriteMember) -> Path:
    folder = tmp_path_factory.mktemp("fuzzed") / "member"
    write_member(folder, margins=MARGINS)
    return folder


# --- what comes back


def test_member_comes_back_bit_by_bit(
    tmp_path: Path, write_member: WriteMember, make_trial_config: Callable[..., TrialConfig]
) -> None:
    model = build_model("small_cnn").to(memory_format=torch.channels_last)
    model.get_submodule("features.1").running_mean.fill_(0.123)
    member = write_member(tmp_path, trial=7, number=3, val_f1=0.625, margins=MARGINS, model=model)
    loaded = member.load_model()
    assert not loaded.training
    assert digest_tensors(loaded.state_dict()) == digest_tensors(model.state_dict())
    assert member.val_margins().tolist() == MARGINS
    assert member.val_margins().dtype == np.float32
    assert (member.trial, member.record.epoch, member.val_f1) == (7, 3, 0.625)
    assert member.record.config == make_trial_config()


def test_what_a_member_sees_is_stored_with_it(folder: Path) -> None:
    """A later change of the table of backbones does not change what a member is shown."""
    assert open_member(folder).record.view == View(16)
    change_record(folder, mean=[0.5, 0.5, 0.5], std=[0.25, 0.5, 0.5], interpolation="bicubic")
    view = open_member(folder).record.view
    assert view == View(16, 0, (0.5, 0.5, 0.5), (0.25, 0.5, 0.5), "bicubic")
    assert open_member(folder).record.describe_training()["mean"] == (0.5, 0.5, 0.5)


def test_member_of_before_that_was_stored_sees_as_imagenets_networks(folder: Path) -> None:
    record = json.loads((folder / "member.json").read_text())
    for name in ("mean", "std", "interpolation"):
        del record[name]
    (folder / "member.json").write_text(json.dumps(record))
    assert open_member(folder).record.view == View(16)


def test_trained_member_scores_the_same_bits_after_loading(
    tmp_path: Path,
    make_trial_config: Callable[..., TrialConfig],
    make_bright_and_dark: Callable[..., SplitTiles],
) -> None:
    train, val = make_bright_and_dark(32), make_bright_and_dark(20, seed=1)
    state = make_initial_state("small_cnn", "none", seed=0)
    save_initial_state(state, tmp_path / "initial.safetensors")
    config = make_trial_config(optimisation={"epochs": 3})
    epochs = list(
        train_member(
            config,
            TrainingData(train, val, "split"),
            trial=0,
            initial_weights=tmp_path / "initial.safetensors",
            folder=tmp_path / "member",
        )
    )
    best = [epoch for epoch in epochs if epoch.improved][-1]
    member = open_member(tmp_path / "member")
    assert member.record.epoch == best.number
    assert member.record.metrics == best.row()
    assert member.record.initial_weights_digest == state.digest
    assert np.array_equal(member.val_margins(), best.val_margins)
    assert np.array_equal(predict_margins(member.load_model(), val, View(16)), best.val_margins)
    model = build_model("small_cnn")
    model.load_state_dict(state.tensors)
    again = list(fit(model, config, train, val))
    assert np.array_equal(again[-1].val_margins, epochs[-1].val_margins)


def test_worker_that_is_no_writer_writes_nothing(
    tmp_path: Path,
    make_trial_config: Callable[..., TrialConfig],
    make_bright_and_dark: Callable[..., SplitTiles],
) -> None:
    tiles = make_bright_and_dark(16)
    initial = tmp_path / "initial.safetensors"
    save_initial_state(make_initial_state("small_cnn", "none", seed=0), initial)
    list(
        train_member(
            make_trial_config(),
            TrainingData(tiles, tiles, "split"),
            trial=0,
            initial_weights=initial,
            folder=tmp_path / "member",
            is_writer=False,
        )
    )
    assert list(tmp_path.iterdir()) == [initial]


# --- what is written when


def test_files_of_an_earlier_epoch_are_gone_after_a_better_one(
    folder: Path, write_member: WriteMember
) -> None:
    write_member(folder, number=4)
    expected = {file_of(folder, kind) for kind in ("weights", "scores", "record")}
    assert set(folder.iterdir()) == expected
    assert all(path.name.startswith("epoch-4-") for path in expected if path.suffix != ".json")


def test_same_epoch_written_again_never_touches_the_files_in_use(
    folder: Path, write_member: WriteMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "write_json", lambda *_: (_ for _ in ()).throw(OSError("cut")))
    with pytest.raises(OSError, match="cut"):
        write_member(folder, number=1, margins=[9.0, 9.0])
    assert open_member(folder).val_margins().tolist() == MARGINS


def test_what_a_killed_process_began_is_gone_after_a_better_epoch(
    folder: Path, write_member: WriteMember
) -> None:
    (folder / ".epoch-2-0a1b2c3d.safetensors.4711.tmp").write_bytes(b"half")
    write_member(folder, number=4)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("failing_sync", range(1, 7))
def test_write_that_fails_anywhere_leaves_a_whole_member(
    failing_sync: int, folder: Path, write_member: WriteMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, scores and record are synced twice each; the disk fills up at one of the six."""
    sync, calls = os.fsync, iter(range(1, 7))

    def fsync(descriptor: int) -> None:
        if next(calls) == failing_sync:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match="no room on the disk"):
        write_member(folder, number=2, trial=0, margins=[9.0, 9.0])
    is_new = failing_sync == 6  # the record is in its place, only its folder was not synced
    member = open_member(folder)
    assert member.record.epoch == (2 if is_new else 1)
    assert member.val_margins().tolist() == ([9.0, 9.0] if is_new else MARGINS)
    member.load_model()
    assert not list(folder.glob(".*"))


# --- what is refused


@pytest.mark.parametrize("kind", ["weights", "scores"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: bytes([content[0] ^ 128]) + content[1:],
    ],
    ids=["truncated", "empty", "longer", "last bit", "first bit"],
)
def test_damaged_file_is_refused(kind: str, damage: Callable[[bytes], bytes], folder: Path) -> None:
    path = file_of(folder, kind)
    path.write_bytes(damage(path.read_bytes()))
    assert refusal(folder).endswith("damaged member (its digest is not that of member.json)")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_is_noticed(data: st.DataObject, module_folder: Path) -> None:
    path = file_of(module_folder, data.draw(st.sampled_from(["weights", "scores"])))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        path.write_bytes(flipped)
        refusal(module_folder)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["weights", "scores", "record"])
def test_missing_file_is_named(kind: str, folder: Path) -> None:
    path = file_of(folder, kind)
    path.unlink()
    assert f"{path} is missing" in refusal(folder)


def test_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "is missing" in refusal(tmp_path / "nowhere")


def test_weights_of_another_network_are_refused(folder: Path) -> None:
    foreign = make_initial_state("squeezenet1_1", "none", seed=0).tensors
    replace_file(folder, "weights", safetensors.torch.save(foreign))
    assert "damaged or foreign member" in refusal(folder)


def test_weights_of_another_width_are_refused(folder: Path) -> None:
    tensors = make_initial_state("small_cnn", "none", seed=0).tensors
    tensors["classifier.1.weight"] = torch.zeros(1000, 64)
    replace_file(folder, "weights", safetensors.torch.save(tensors))
    assert "damaged or foreign member" in refusal(folder)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    torch.save(build_model("small_cnn").state_dict(), tmp_path / "weights.pt")
    replace_file(folder, "weights", (tmp_path / "weights.pt").read_bytes())
    assert "damaged or foreign member" in refusal(folder)


def as_npy(path: Path, array: Any) -> bytes:
    np.save(path, array)
    return path.read_bytes()


@pytest.mark.parametrize(
    "scores",
    [
        np.zeros(4, dtype=np.float32),
        np.zeros((3, 1), dtype=np.float32),
        np.zeros(3, dtype=np.float64),
        np.array([0.0, np.nan, 0.0], dtype=np.float32),
        np.array([{"a": 1}, None, 3], dtype=object),
    ],
    ids=["of other tiles", "two axes", "float64", "not a number", "pickled"],
)
def test_scores_that_are_not_the_tiles_are_refused(
    scores: np.ndarray, folder: Path, tmp_path: Path
) -> None:
    replace_file(folder, "scores", as_npy(tmp_path / "scores.npy", scores))
    assert file_of(folder, "scores").name in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x93NUMPY"], ids=["empty", "text", "cut"])
def test_scores_that_are_no_array_are_refused(content: bytes, folder: Path) -> None:
    replace_file(folder, "scores", content)
    assert file_of(folder, "scores").name in refusal(folder)


def test_scores_that_are_several_arrays_are_refused(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "scores.npz", a=np.zeros(3, dtype=np.float32))
    replace_file(folder, "scores", (tmp_path / "scores.npz").read_bytes())
    assert file_of(folder, "scores").name in refusal(folder)


@pytest.mark.parametrize("field", ["weights_file", "scores_file"])
@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/b", "./a", "..", ".", "", "a/"])
def test_file_name_that_leaves_the_folder_is_refused(field: str, name: str, folder: Path) -> None:
    change_record(folder, **{field: name})
    refusal(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "nul\0byte", "\ud800"], ids=["long", "nul", "half"])
def test_impossible_file_name_is_refused(name: str, folder: Path) -> None:
    change_record(folder, weights_file=name)
    refusal(folder)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe", b"[" * 100_000, b"9" * 5000],
    ids=["empty", "open", "null", "list", "number", "text", "not utf-8", "deep", "long number"],
)
def test_record_that_is_no_record_is_refused(content: bytes, folder: Path) -> None:
    (folder / "member.json").write_bytes(content)
    assert "member.json" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"format": 2}, "'format'"),
        ({"trial": "first"}, "'trial'"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"config": {"model": {"backbone": "vgg16"}}}, "'config.model.backbone'"),
        ({"config": {"model": {"backbone": "small_cnn"}, "lr": 1}}, "unknown key 'config.lr'"),
        ({"metrics": {}}, "val_f1"),
        ({"metrics": {"val_f1": "good"}}, "val_f1"),
        ({"metrics": {"val_f1": float("nan")}}, "val_f1"),
    ],
)
def test_wrong_field_of_the_record_is_named(
    values: dict[str, Any], named: str, folder: Path
) -> None:
    change_record(folder, **values)
    assert named in refusal(folder)


@pytest.mark.parametrize("field", ["weights_file", "weights_sha256"])
def test_weights_with_a_name_but_no_digest_or_the_reverse_are_refused(
    field: str, folder: Path
) -> None:
    change_record(folder, **{field: None})
    message = "'weights_sha256': must be null where 'weights_file' is, and nowhere else"
    assert message in refusal(folder)


def test_dropped_weights_are_said_to_be_dropped_not_damaged(folder: Path) -> None:
    assert open_member(folder).has_weights
    checkpoint.drop_weights(folder)
    assert not open_member(folder).has_weights
    assert "trial 0 kept no weights (only the best --keep do)" in refusal(folder)
    assert open_member(folder).val_margins().tolist() == MARGINS


def test_a_better_epoch_brings_weights_back(folder: Path, write_member: WriteMember) -> None:
    checkpoint.drop_weights(folder)
    write_member(folder, number=2).load_model()


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40) | JSON.map(json.dumps))
def test_whatever_text_the_record_holds_it_is_refused(text: str, module_folder: Path) -> None:
    other = module_folder.parent / "text"
    other.mkdir(exist_ok=True)
    (other / "member.json").write_bytes(text.encode(errors="surrogatepass"))
    refusal(other)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), value=JSON)
def test_whatever_a_field_of_the_record_holds_it_is_read_or_refused(
    data: st.DataObject, value: Any, module_folder: Path
) -> None:
    other = module_folder.parent / "field"
    if not other.exists():
        shutil.copytree(module_folder, other)
    record = json.loads((module_folder / "member.json").read_text())
    field = data.draw(st.sampled_from(sorted(record)))
    if isinstance(record[field], dict) and record[field] and data.draw(st.booleans()):
        record[field][data.draw(st.sampled_from(sorted(record[field])))] = value
    else:
        record[field] = value
    (other / "member.json").write_text(json.dumps(record))
    try:
        read_all_of(other)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
