"""Facts about `--storage`: what is there equals what was pushed, whole, and no secret is shown."""

import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from s3_server import SECRET, Server, s3_server

from ensemble.base.errors import InputError
from ensemble.data.pack import Pack
from ensemble.data.packing import pack
from ensemble.data.sources import open_source
from ensemble.search.cluster import storage as storage_module
from ensemble.search.cluster.storage import Storage, StorageError, local_pack, push_pack
from ensemble.training.checkpoint import Member, open_member

ROOT = Path(__file__).parents[2]
WriteMember = Callable[..., Member]

PUSH_AND_DIE = (
    "import os, signal, sys; from pathlib import Path\n"
    "from ensemble.search.cluster import storage\n"
    "kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    "storage._Folder.{method} = kill\n"
    "storage.Storage.parse(sys.argv[1]).push(Path(sys.argv[2]), 'member')\n"
)
LOCAL_PACK = (
    "import sys; from pathlib import Path\n"
    "from ensemble.search.cluster.storage import Storage, local_pack\n"
    "url, name, cache, sha256 = sys.argv[1:]\n"
    "print(local_pack(Storage.parse(url), name, Path(cache), sha256=sha256))\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server with one bucket."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage.parse(request.getfixturevalue("server").url())
    if request.param == "memory":
        return Storage.parse(f"memory://{uuid.uuid4().hex}")
    return Storage.parse(str(tmp_path / "shared"))


@pytest.fixture(params=["folder", "s3"])
def reachable(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A place that other processes reach too."""
    if request.param == "s3":
        return Storage.parse(request.getfixturevalue("server").url())
    return Storage.parse(str(tmp_path / "shared"))


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def content_at(place: Storage, name: str) -> dict[str, bytes]:
    folder = place._folder(name)
    return {file: folder.read(file) for file in folder.sizes()}


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(StorageError) as refused:
        action()
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("--storage ")
    for secret in (SECRET, SECRET.replace("/", "%2F")):
        assert secret not in message
    return message


# --- members


def test_member_comes_back_byte_by_byte(
    place: Storage, tmp_path: Path, write_member: WriteMember
) -> None:
    write_member(tmp_path / "there")
    place.check()
    place.push(tmp_path / "there", "members/3")
    assert place.fetch("members/3", tmp_path / "deep/back")
    assert content_of(tmp_path / "deep/back") == content_of(tmp_path / "there")
    open_member(tmp_path / "deep/back").load_model()


def test_replaced_member_leaves_nothing_of_the_old_one(
    place: Storage, tmp_path: Path, write_member: WriteMember
) -> None:
    for number in (1, 2):
        write_member(tmp_path / "there", number=number)
        place.push(tmp_path / "there", "member")
        assert place.fetch("member", tmp_path / "back")
        assert content_at(place, "member") == content_of(tmp_path / "there")
        assert content_of(tmp_path / "back") == content_of(tmp_path / "there")


def test_deleted_name_is_gone_and_others_stay(
    place: Storage, tmp_path: Path, write_member: WriteMember
) -> None:
    write_member(tmp_path / "there")
    for name in ("1", "11"):
        place.push(tmp_path / "there", name)
    place.delete("1")
    place.delete("never there")
    assert not place.fetch("1", tmp_path / "back")
    assert not (tmp_path / "back").exists()
    assert content_at(place, "11") == content_of(tmp_path / "there")


def test_file_that_carries_its_digest_is_sent_once(
    tmp_path: Path, write_member: WriteMember
) -> None:
    place = Storage.parse(str(tmp_path / "shared"))
    weights = write_member(tmp_path / "there").record.weights_file
    place.push(tmp_path / "there", "member")
    before = (tmp_path / "shared/member" / weights).stat()
    record = (tmp_path / "shared/member/member.json").stat()
    place.push(tmp_path / "there", "member")
    assert (tmp_path / "shared/member" / weights).stat() == before
    assert (tmp_path / "shared/member/member.json").stat().st_ino != record.st_ino


def test_damaged_copy_is_mended_by_the_next_fetch(
    place: Storage, tmp_path: Path, write_member: WriteMember
) -> None:
    weights = write_member(tmp_path / "there").record.weights_file
    place.push(tmp_path / "there", "member")
    place.fetch("member", tmp_path / "back")
    flip_byte(tmp_path / "back" / weights)
    place.fetch("member", tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(tmp_path / "there")


def test_hidden_files_do_not_travel(place: Storage, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in (".hidden", ".hidden.json", "member.json"):
        (tmp_path / "there" / name).write_text("{}")
    place.push(tmp_path / "there", "member")
    assert content_at(place, "member") == {"member.json": b"{}"}


@pytest.mark.parametrize("method", ["copy", "write", "remove"])
def test_push_that_is_killed_leaves_a_whole_member(
    method: str, reachable: Storage, tmp_path: Path, write_member: WriteMember
) -> None:
    """Killed before the first file, before the record, or before the old files are deleted."""
    there = tmp_path / "there"
    write_member(there, number=1)
    reachable.push(there, "member")
    write_member(there, number=2, margins=[1.0, 2.0, 3.0])
    command = [sys.executable, "-c", PUSH_AND_DIE.format(method=method), reachable.url, str(there)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert reachable.fetch("member", tmp_path / "back")
    member = open_member(tmp_path / "back")
    assert member.record.epoch == (2 if method == "remove" else 1)
    member.load_model()
    reachable.push(there, "member")
    assert content_at(reachable, "member") == content_of(there)


def test_record_is_never_fetched_without_the_files_that_it_names(
    tmp_path: Path, write_member: WriteMember
) -> None:
    """One process replaces the member all the time, this one fetches it all the time."""
    place = Storage.parse(str(tmp_path / "shared"))
    for number in (1, 2):
        write_member(tmp_path / str(number), number=number)
    place.push(tmp_path / "1", "member")
    code = (
        "import sys; from pathlib import Path\n"
        "from ensemble.search.cluster.storage import Storage\n"
        "place = Storage.parse(sys.argv[1])\n"
        "for turn in range(60): place.push(Path(sys.argv[2 + turn % 2]), 'member')\n"
    )
    arguments = [place.url, str(tmp_path / "2"), str(tmp_path / "1")]
    fetched = 0
    with subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT) as process:
        while process.poll() is None:
            try:
                assert place.fetch("member", tmp_path / "back")
            except StorageError:  # replaced three times while it was copied
                continue
            open_member(tmp_path / "back").load_model()
            fetched += 1
    assert process.returncode == 0
    assert fetched


FILES = st.dictionaries(
    st.sampled_from(["member.json", "state.json", "notes.txt", "weights-{}.bin", "epoch-2-{}.npy"]),
    st.sampled_from([b"", b"one", b"two", b"longer"]),
)


@settings(max_examples=40, deadline=None)
@given(states=st.lists(FILES, min_size=1, max_size=5), is_memory=st.booleans())
def test_any_sequence_of_pushes_leaves_what_the_folder_holds(
    states: list[dict[str, bytes]], is_memory: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        there, shared = Path(folder) / "there", Path(folder) / "shared"
        place = Storage.parse(f"memory://{uuid.uuid4().hex}" if is_memory else str(shared))
        for state in states:
            shutil.rmtree(there, ignore_errors=True)
            there.mkdir()
            for name, content in state.items():
                (there / name.format(hashlib.sha256(content).hexdigest()[:8])).write_bytes(content)
            place.push(there, "member")
            assert content_at(place, "member") == content_of(there)
            has_record = any(name.endswith(".json") for name in state)
            assert place.fetch("member", Path(folder) / "back") == has_record
            if has_record:
                assert content_of(Path(folder) / "back") == content_of(there)


# --- packs


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = tmp_path_factory.mktemp("packed")
    generator = np.random.default_rng(0)
    for number in range(24):
        kind = ("Cracked", "Sound")[number % 2]
        path = folder / "tiles" / kind / f"{number // 4}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return pack(open_source(folder / "tiles"), under=folder / "packs")


def test_local_pack_is_the_pack_without_the_test_split(
    place: Storage, packed: Pack, tmp_path: Path
) -> None:
    name, sha256 = push_pack(place, packed)
    assert push_pack(place, packed) == (name, sha256)
    folder = local_pack(place, name, tmp_path / "cache", sha256=sha256)
    assert folder == tmp_path / "cache" / name
    expected = {
        file: data
        for file, data in content_of(packed.folder).items()
        if not file.startswith((".", "test."))
    }
    found = content_of(folder)
    assert found.pop(".verified.json")
    assert found == expected
    assert content_at(place, f"packs/{name}") == expected


@pytest.mark.slow
def test_four_processes_of_a_node_fetch_a_pack_once(
    server: Server, packed: Pack, tmp_path: Path
) -> None:
    place = Storage.parse(server.url())
    name, sha256 = push_pack(place, packed)
    before = server.count_reads("development.npy")
    local_pack(place, name, tmp_path / "alone", sha256=sha256)
    reads_of_one = server.count_reads("development.npy") - before
    command = [sys.executable, "-c", LOCAL_PACK]
    command += [place.url, name, str(tmp_path / "cache"), sha256]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for process in processes:
        with process:
            printed, _ = process.communicate(timeout=100)
        assert (process.returncode, printed.strip()) == (0, str(tmp_path / "cache" / name))
    assert reads_of_one > 0
    assert server.count_reads("development.npy") == before + 2 * reads_of_one, (
        server.log.read_text()
    )


def test_second_use_reads_no_array_again(packed: Pack, tmp_path: Path) -> None:
    """Only size and time are looked at: a byte that is flipped behind them is not seen."""
    place = Storage.parse(str(tmp_path / "shared"))
    name, sha256 = push_pack(place, packed)
    folder = local_pack(place, name, tmp_path / "cache", sha256=sha256)
    shutil.rmtree(tmp_path / "shared")
    assert local_pack(place, name, tmp_path / "cache", sha256=sha256) == folder


@pytest.mark.parametrize(
    "damage",
    [
        flip_byte,
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["flipped byte", "missing", "truncated", "empty"],
)
@pytest.mark.parametrize("file", ["development.npy", "val.csv", "pack.json", ".verified.json"])
def test_damaged_local_pack_is_mended(
    damage: Callable[[Path], object], file: str, packed: Pack, tmp_path: Path
) -> None:
    place = Storage.parse(str(tmp_path / "shared"))
    name, sha256 = push_pack(place, packed)
    folder = local_pack(place, name, tmp_path / "cache", sha256=sha256)
    before = content_of(folder)
    damage(folder / file)
    local_pack(place, name, tmp_path / "cache", sha256=sha256)
    assert content_of(folder).keys() == before.keys()
    for path in packed.folder.iterdir():
        if not path.name.startswith((".", "test.")):
            assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("file", ["development.npy", "pack.json"])
def test_pack_that_is_damaged_in_the_storage_is_an_error(
    file: str, packed: Pack, tmp_path: Path
) -> None:
    place = Storage.parse(str(tmp_path / "shared"))
    name, sha256 = push_pack(place, packed)
    flip_byte(tmp_path / "shared/packs" / name / file)
    message = refusal(lambda: local_pack(place, name, tmp_path / "cache", sha256=sha256))
    assert f"packs/{name} is damaged" in message
    place.delete(f"packs/{name}")
    push_pack(place, packed)
    local_pack(place, name, tmp_path / "cache", sha256=sha256)


def test_pack_that_is_not_there_is_an_error(place: Storage, tmp_path: Path) -> None:
    message = refusal(lambda: local_pack(place, "none", tmp_path / "cache", sha256="0" * 64))
    assert "packs/none" in message


# --- addresses, secrets and errors


def test_secret_is_in_no_text(server: Server) -> None:
    storage = Storage.parse(server.url("folder"))
    assert str(storage) == repr(storage) == f"{storage}" == "s3://bucket/folder"
    wrong = Storage(storage.url.replace("bucket", "other-bucket"))
    assert "s3://other-bucket/folder" in refusal(wrong.check)
    assert "NO_SUCH_BUCKET" in refusal(wrong.check)


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{SECRET}@bucket/x",
        f"s3://key:{SECRET}#@bucket/x",
        f"s3://key:{SECRET}@",
        f"s3://key:{SECRET}@bucket?secret={SECRET}",
        f"nope://key:{SECRET}@bucket/x",
        f"gs://key:{SECRET}@[bucket/x",
    ],
)
def test_secret_is_not_in_the_refusal_of_a_url(url: str) -> None:
    refusal(lambda: Storage.parse(url))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nope://bucket", "nope"),
        ("abfs://container/x", "adlfs"),
        ("s3://", "bucket"),
        ("s3://bucket?regoin=x", "region"),
        ("s3:/bucket", "s3://bucket"),
        ("", "folder"),
    ],
)
def test_what_is_no_storage_is_refused_with_what_it_should_be(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        Storage.parse(text)


def test_relative_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Storage.parse("shared").url == str(tmp_path / "shared")
    assert Storage.parse(f"file://{tmp_path}/shared") == Storage.parse("shared")


def test_endpoint_may_come_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    Storage.parse(f"s3://bucket/{uuid.uuid4().hex}").check()


def test_check_leaves_nothing(place: Storage) -> None:
    place.check()
    assert place._folder("").sizes() == {}


def test_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in refusal(Storage.parse(str(tmp_path / "file/shared")).check)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nobody listens", "nobody answers"])
def test_unreachable_endpoint_is_one_line_within_20_s(kind: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if kind == "nobody answers":
            silent.listen()
        options = f"endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http"
        storage = Storage.parse(f"s3://key:secret@bucket/x?{options}&region=us-east-1")
        start = time.monotonic()
        message = refusal(storage.check)
    assert time.monotonic() - start < 20
    assert "NETWORK_CONNECTION" in message


def test_what_a_client_of_its_own_kind_raises_is_tried_again_and_then_one_line(
    tmp_path: Path, write_member: WriteMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_member(tmp_path / "there")
    storage = Storage.parse(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setattr(storage_module.time, "sleep", lambda _: None)
    fails = iter([True, True, False])

    def open_file(self: MemoryFileSystem, *words: Any, **more: Any) -> Any:
        if next(fails, True):
            raise RuntimeError("429 too many requests")
        monkeypatch.undo()
        return opens(self, *words, **more)

    opens = MemoryFileSystem._open
    monkeypatch.setattr(MemoryFileSystem, "_open", open_file)
    storage.push(tmp_path / "there", "member")
    assert content_at(storage, "member") == content_of(tmp_path / "there")
    monkeypatch.setattr(storage_module.time, "sleep", lambda _: None)
    monkeypatch.setattr(MemoryFileSystem, "_open", open_file)
    message = refusal(lambda: storage.push(tmp_path / "there", "other"))
    assert "failed three times (429 too many requests)" in message


def test_server_that_ends_is_one_line_after_three_attempts(
    tmp_path: Path, write_member: WriteMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_member(tmp_path / "there")
    pauses: list[float] = []
    monkeypatch.setattr(storage_module.time, "sleep", pauses.append)
    storage = Storage.parse(
        "s3://key:secret@bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    )
    assert "failed three times" in refusal(lambda: storage.push(tmp_path / "there", "member"))
    assert pauses == [0.5, 2.0]
