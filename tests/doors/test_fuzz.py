"""Whatever a file holds that somebody sent, it is read, or refused in one line safe to show.

Each parser gets files that begin valid and are then damaged, built from odd parts, or random. No
other exception passes, nothing takes more than seconds or memory out of proportion, no process is
started, no socket opened and nothing unpickled. FUZZ_EXAMPLES=10000 looks for longer.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import struct
import sys
import time
import tracemalloc
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import optuna
import pandas as pd
import pytest
import safetensors.torch
import torch
from hostile_files import (
    JPEG,
    ODD_TEXTS,
    STATE,
    SUFFIXES,
    TWO_TILES,
    Bomb,
    Files,
    as_json,
    csv_files,
    encode,
    exported_files,
    json_files,
    npy_files,
    picture_files,
    progressive_bomb,
    run_files,
    safetensors_files,
    saved,
    space_files,
    tiff_of_one_tile,
    tiff_with_sides_in_letters,
    torch_files,
    write_zip,
    zip_files,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import make_choice, make_evaluated, make_searched

from ensemble.base.door import run_command
from ensemble.base.errors import InputError
from ensemble.data.pack import FORMAT, open_pack
from ensemble.data.reading.archive import Archive
from ensemble.data.reading.decode import UNREADABLE, explain_unreadable
from ensemble.data.reading.exif import read_origin
from ensemble.data.reading.listing import Reader
from ensemble.data.reading.pictures import list_pictures, read_picture
from ensemble.data.sources import Source, open_source
from ensemble.data.tiles import decode_tiles, digest_tiles, find_common_size
from ensemble.evaluation.mistakes import correct_labels, read_labels
from ensemble.recipes.recipe import load_recipe
from ensemble.release.archive import export_run
from ensemble.report.run_files import read_run
from ensemble.run.exported import is_exported
from ensemble.run.members import find_run, open_members
from ensemble.search.space_file import load_space
from ensemble.selection.choice import open_choice
from ensemble.selection.ensemble import load_ensemble
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import (
    Member,
    load_state,
    open_member,
    save_state,
    write_state_tensors,
)
from ensemble.training.initial_weights import make_initial_state
from ensemble.training.loop import Epoch
from ensemble.training.timm_networks import list_networks
from ensemble.training.weights_file import read_tensors

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.toml"))
RECIPE = SPACES[0].parent / "recipes" / "mobilenetv2-finetune.toml"
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
MOST_SECONDS = 20.0
MOST_MEMORY = 2304 * 2**20  # a photograph of 250 megapixels, as it is and as RGB
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
FORBIDDEN |= {"socket.connect", "pickle.find_class", "ctypes.dlopen"}

fuzz = settings(
    max_examples=int(EXAMPLES or "150"),
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

list_networks()  # here, as the guard below would take what the import does for the work of a file
guarded = False
torch.set_warn_always(True)  # those that come once would belong to one input of many


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    if guarded and event in FORBIDDEN:
        raise AssertionError(f"a file that was read led to {event} {arguments!r}"[:300])


sys.addaudithook(forbid)


@pytest.fixture(autouse=True)
def memory_in_proportion() -> Iterator[None]:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of earlier tests
    before = peak_memory()
    yield
    grown = peak_memory() - before
    assert grown < MOST_MEMORY, f"{grown / 2**20:.0f} MiB"


def peak_memory() -> int:
    """Peak memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def is_read(work: Callable[[], Any]) -> bool:
    """Whether `work` came to its end; it was refused as a person can be told where it did not."""
    global guarded
    ended, printed = [], io.StringIO()
    began = time.process_time()  # of a core: other processes do not count
    guarded = True
    try:
        with contextlib.redirect_stderr(printed):
            run_command(lambda: ended.append(work()))
    except SystemExit as refused:
        assert refused.code == 2  # noqa: PT017
    finally:
        guarded = False
    assert time.process_time() - began < MOST_SECONDS
    line = printed.getvalue()
    if ended:
        assert line == ""
        return True
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert len(line) < 1000
    assert line[:-1].isprintable(), line
    return False


# What reads


def sample_space(path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space(path)
    json.dumps(space.describe(), allow_nan=False)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    for _ in range(len(space.starts) + 3):
        space.ask(study.ask(), seed=0)


def check_reason(reason: str) -> None:
    assert reason.isprintable(), reason
    assert 0 < len(reason) <= 300


def decode_all(tiles: pd.DataFrame, path: Path, folder: Path) -> None:
    bad: dict[str, str] = {}
    with contextlib.closing(Reader(path)) as reader:
        names = tiles["tile"].tolist()
        digest_tiles(names, reader, bad, max_bad_tiles=len(names))
        find_common_size(names, reader)
        tiles = tiles.assign(array="test", row=np.arange(len(names)))
        decode_tiles(tiles, reader, folder, (8, 12), bad, max_bad_tiles=len(names))
    for name, reason in bad.items():
        kinds = {unicodedata.category(character) for character in name}
        assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}, name
        check_reason(reason)


def decode_tile(path: Path) -> None:
    decode_all(pd.DataFrame({"tile": [path.name], "label": 1}), path.parent, path.parent)


def view(open_picture: Callable[[], BinaryIO], **options: Any) -> None:
    try:
        with open_picture() as file:
            picture = read_picture(file, (16, 16), **options)
    except UNREADABLE as error:
        check_reason(explain_unreadable(error))
    else:
        assert picture.mode in ("RGB", "RGBA")


def read_where_it_was_taken(path: Path) -> None:
    with path.open("rb") as file:
        origin = read_origin(file)
    assert (origin.latitude is None) == (origin.longitude is None)


def view_twice(path: Path) -> None:
    for reduced_px in (None, 16):
        view(lambda: path.open("rb"), reduced_px=reduced_px)


def read_tiles_of_zip(path: Path) -> None:
    decode_all(open_source(path).tiles, path, path.parent)


def read_pictures_of_zip(path: Path) -> None:
    with ExitStack() as archives:
        for picture in list_pictures([path], path.parent / "overlays", archives).pictures:
            assert picture.name.isprintable()
            view(picture.open)


def start_from(path: Path) -> None:
    state = make_initial_state("small_cnn", path, seed=0)
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())
    build_model("small_cnn").load_state_dict(state.tensors)
    safetensors.torch.save(state.tensors)


def read_choice_and_members(path: Path) -> None:
    choice, members = open_choice(path.parent)
    assert choice.weights.sum() == pytest.approx(1)
    assert len(members) == len(choice.weights)
    choice.save(path.parent)


def read_exported_ensemble(path: Path) -> None:
    run = find_run(str(path), under=path.parent, takes_exported=True)
    assert is_exported(path)
    assert all(size > 0 for size in load_ensemble(run, torch.device("cpu")).tile_size_px)
    for member in open_choice(run)[1]:
        member.load_model()


def read_all_of_member(path: Path) -> None:
    member = open_member(path.parent)
    member.val_margins()
    member.load_model()


def agreeing(path: Path, kind: str) -> Member:
    """The member whose file this is, its record holding the digest of what is in it now."""
    member = open_member(path.parent)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Member(path.parent, member.record.model_copy(update={f"{kind}_sha256": digest}))


def load_weights(path: Path) -> None:
    agreeing(path, "weights").load_model()


def continue_from_state(path: Path) -> None:
    for identity in ("this run", "another"):
        state = load_state(path.parent, identity=identity)
        assert state is None or set(state.weights) == {"weight"}


def continue_from_tensors(path: Path) -> None:
    """With a record that holds the digest of what is in the file now."""
    record = json.loads((path.parent / "state.json").read_text())
    record["tensors_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    agreeing = path.parent / "agreeing"
    agreeing.mkdir(exist_ok=True)
    (agreeing / "state.json").write_text(json.dumps(record))
    (agreeing / path.name).write_bytes(path.read_bytes())
    load_state(agreeing, identity="this run")


def open_all_members(path: Path) -> None:
    open_members(path.parent, split_digest="split")


def read_scores(path: Path) -> None:
    margins = agreeing(path, "scores").val_margins()
    assert margins.shape == (3,)
    assert np.isfinite(margins).all()


def read_two_labels(path: Path) -> None:
    predictions = pd.DataFrame({"tile": ["a.jpg", "b.jpg"], "label": [0, 1]})
    assert set(correct_labels(predictions, read_labels(path))) <= {0, 1}


def read_for_report(path: Path) -> None:
    run = path.parent.parent if path.parent.name == "evaluation" else path.parent
    found = read_run(run)
    assert isinstance(found.about, dict)
    assert found.choice is None or isinstance(found.choice, dict)


# All of them


class Parser(NamedTuple):
    """Which files of `sent` it reads, what somebody may put in their place, and how it reads."""

    pattern: str
    files: Callable[[bytes], Files]
    read: Callable[[Path], object]


PARSERS = {
    "search space": Parser("spaces/*", space_files, sample_space),
    "recipe": Parser("recipe.toml", space_files, lambda path: load_recipe(str(path))),
    "tile": Parser("tiles/1.*", picture_files, decode_tile),
    "picture": Parser("picture", picture_files, view_twice),
    "place of a picture": Parser("picture", picture_files, read_where_it_was_taken),
    "tiles in a zip": Parser("set.zip", zip_files, read_tiles_of_zip),
    "pictures in a zip": Parser("set.zip", zip_files, read_pictures_of_zip),
    "safetensors": Parser("weights.safetensors", safetensors_files, start_from),
    "state dict": Parser("weights.pth", torch_files, start_from),
    "ensemble": Parser("run/ensemble.json", json_files, read_choice_and_members),
    "exported ensemble": Parser("exported.zip", exported_files, read_exported_ensemble),
    "member": Parser("run/members/0000/member.json", json_files, read_all_of_member),
    "weights of a member": Parser("run/members/0000/*.saf*", safetensors_files, load_weights),
    "state of a trial": Parser("state/state.json", json_files, continue_from_state),
    "tensors of a state": Parser("state/*.saf*", safetensors_files, continue_from_tensors),
    "scores of a member": Parser("run/members/0000/*.npy", npy_files, read_scores),
    "members of a run": Parser("run/trials.csv", csv_files, open_all_members),
    "pack": Parser("pack.json", json_files, lambda path: open_pack(path.parent)),
    "labels": Parser("labels.csv", csv_files, read_two_labels),
    "run for its report": Parser("report/**/*.*", run_files, read_for_report),
}
TRIALS = "trial,state,val_f1,epochs,seconds,reason\n0,COMPLETE,0.5,3,1.5,\n1,FAIL,,0,,x\n"
TEXTS = {
    "labels.csv": "tile,label\na.jpg,1\nb.jpg,0\n",
    "run/trials.csv": TRIALS,
    "report/trials.csv": "trial,state,val_f1,best_epoch,epochs,seconds,reason\n"
    "0,COMPLETE,0.5,2,3,1.5,\n1,FAIL,,,0,,x\n",
    "report/epochs.csv": "trial,backbone,epoch,train_loss,train_accuracy,val_loss,val_accuracy,"
    "val_f1\n0,small_cnn,1,0.5,0.8,0.5,0.8,0.5\n0,small_cnn,2,0.4,0.8,0.5,0.8,0.6\n",
    "report/validation.csv": "tile,photograph,surface,label\na.jpg,007,D,1\nb.jpg,8,W,0\n",
    "report/space.toml": 'question = "Which?"\n',
    "report/evaluation/predictions.csv": "tile,photograph,surface,label,context,trial_0,ensemble,"
    "trial_2,calibrated\na.jpg,007,D,1,tile,0.5,0.5,0.5,0.5\n",
    "report/evaluation/ledger.csv": "opened_at,method,trials,threshold_rule,threshold,tta\n"
    "1,mean,0,f1,0,\n",
}


@pytest.fixture(scope="module")
def sent(
    tmp_path_factory: pytest.TempPathFactory,
    write_member: Callable[..., Member],
    make_epoch: Callable[..., Epoch],
) -> Path:
    """A folder with a whole file, or several, for each parser."""
    sent = tmp_path_factory.mktemp("sent")
    (sent / "state").mkdir()
    momentum = {"step": torch.zeros(1)}
    tensors = write_state_tensors(
        sent / "state", torch.nn.Linear(2, 2, bias=False), 1, momentum, {}
    )
    save_state(sent / "state", make_epoch(margins=[0.5]), tensors, identity="this run")
    member = write_member(sent / "run" / "members" / "0000")
    choice = make_choice({0: str(member.record.weights_sha256)})
    counts = {"num_tiles": {"val": 2}, "num_cracked": {"val": 1}}
    about = {"data_summary": counts, "epochs": 3, "seed": 0, "weights": {}}
    elsewhere = tmp_path_factory.mktemp("evaluated") / "run"
    make_searched(elsewhere)
    metrics = make_evaluated(elsewhere) | {"choice": choice}
    shutil.copytree(sent / "run" / "members", elsewhere / "members")
    (elsewhere / "ensemble.json").write_bytes(as_json(choice))
    (elsewhere / "evaluation" / "metrics.json").write_bytes(as_json(metrics))
    export_run(elsewhere, sent / "exported.zip")
    pack = {
        "format": FORMAT,
        "split_digest": "d",
        "num_tiles": {"test": 1},
        "bad_tiles": {},
        "files": {},
    }
    quick = RECIPE.read_bytes().replace(b"mobilenet_v2", b"small_cnn")
    contents: dict[str, bytes] = {
        **{f"spaces/{path.name}": path.read_bytes() for path in SPACES},
        "recipe.toml": quick.replace(b"features.12.conv.1", b"features.8"),
        **{f"tiles/1.{suffix}": JPEG for suffix in SUFFIXES},
        "picture": JPEG,
        "set.zip": write_zip(TWO_TILES, []),
        "weights.safetensors": safetensors.torch.save(STATE),
        "weights.pth": saved(STATE),
        "run/ensemble.json": as_json(choice),
        "pack.json": as_json(pack),
        "report/run.json": as_json(about),
        "report/ensemble.json": as_json(choice),
        "report/evaluation/metrics.json": as_json(metrics),
        **{name: text.encode() for name, text in TEXTS.items()},
    }
    for name, content in contents.items():
        (sent / name).parent.mkdir(parents=True, exist_ok=True)
        (sent / name).write_bytes(content)
    return sent


class Damages:
    """What a parser reads, whole, and what somebody may put in its place."""

    def __init__(self, parser: Parser, folder: Path):
        self.read = parser.read
        self.wholes = {path: path.read_bytes() for path in sorted(folder.glob(parser.pattern))}
        self.files = st.one_of(
            [st.tuples(st.just(path), parser.files(whole)) for path, whole in self.wholes.items()]
        )


@pytest.fixture(scope="module", params=PARSERS)
def damages(request: pytest.FixtureRequest, sent: Path) -> Damages:
    return Damages(PARSERS[request.param], sent)


def test_whole_file_is_read(damages: Damages) -> None:
    assert damages.wholes
    for path in damages.wholes:
        assert is_read(lambda path=path: damages.read(path)), path


@fuzz
@given(data=st.data())
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(
    data: st.DataObject, damages: Damages
) -> None:
    path, content = data.draw(damages.files)
    path.write_bytes(content)
    try:
        is_read(lambda: damages.read(path))
    finally:
        path.write_bytes(damages.wholes[path])


# Files that would cost more than they show, or do more than be read


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old form"])
@pytest.mark.parametrize("inside", [False, True], ids=["bare", "inside a state dict"])
def test_pickle_bomb_is_refused_and_does_not_go_off(
    old: bool, inside: bool, tmp_path: Path
) -> None:
    bomb: Any = Bomb(str(tmp_path / "crater"))
    path = tmp_path / "weights.pth"
    tree = {**STATE, "bomb": bomb} if inside else bomb
    path.write_bytes(saved(tree, _use_new_zipfile_serialization=not old))
    assert not is_read(lambda: read_tensors(path))
    assert not (tmp_path / "crater").exists()


@pytest.mark.slow
def test_zip_of_a_hundred_thousand_members_is_listed_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{'Cracked' if number % 9 == 0 else 'Sound'}/{number}.jpg", b"")
    sources: list[Source] = []
    assert is_read(lambda: sources.append(open_source(path)))
    assert len(sources[0].tiles) == 100_000


def test_zip_member_of_another_size_than_listed_takes_no_more_memory(tmp_path: Path) -> None:
    """100 MiB of zeros, which the directory lists as 1 MB."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("Cracked/1.jpg", "w") as member:
            for _ in range(100):
                member.write(bytes(2**20))
        archive.writestr("Sound/1.jpg", JPEG)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 10**6)
    path.write_bytes(content)
    with Archive(path) as archive:
        assert len(archive.members) == 2
        for name in archive.members:
            archive.check(name, 10**7)
    tracemalloc.start()
    try:
        with contextlib.closing(Reader(path)) as reader, pytest.raises(zipfile.BadZipFile):
            reader.read("Cracked/1.jpg")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode("RGB", "EPS"), "not a picture"),  # Pillow would start Ghostscript
        (progressive_bomb(), "a JPEG of 2"),
        (tiff_of_one_tile(32_000), "a TIFF with a tile of 32000"),
        (tiff_with_sides_in_letters(), "a TIFF whose tiles have no whole sides"),
    ],
    ids=["EPS", "200 scans", "tile of a gigabyte", "sides in letters"],
)
def test_picture_that_costs_more_than_it_shows_is_not_decoded(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    (tmp_path / "2.jpg").write_bytes(JPEG)
    tiles = pd.DataFrame({"tile": ["1.jpg", "2.jpg"], "array": "test", "row": [0, 1]})
    bad: dict[str, str] = {}
    with contextlib.closing(Reader(tmp_path)) as reader:
        decode_tiles(tiles, reader, tmp_path, (8, 12), bad, max_bad_tiles=1)
    assert list(bad) == ["1.jpg"]
    assert bad["1.jpg"].startswith(reason)
    with pytest.raises(ValueError):
        read_picture(io.BytesIO(content), (16, 16))


# What is printed


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=50) | ODD_TEXTS)
def test_message_is_one_printable_line_whatever_it_quotes(text: str) -> None:
    def refuse() -> None:
        raise InputError(text)

    assert not is_read(refuse)
