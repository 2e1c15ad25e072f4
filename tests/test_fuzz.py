"""Whatever a file holds that somebody sent, it is read, or refused in one line safe to show.

Each parser gets files that begin valid and are then damaged, built from odd parts, or random. No
other exception passes, nothing takes more than seconds or memory out of proportion, no process is
started, no socket opened and nothing unpickled. FUZZ_EXAMPLES=10000 looks for longer.
"""

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import stat
import struct
import sys
import time
import tomllib
import tracemalloc
import unicodedata
import warnings
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_report import make_choice

from ensemble.choice import open_choice
from ensemble.data.archive import list_members
from ensemble.data.decode import UNREADABLE, decode_tiles, explain_unreadable, read_contents
from ensemble.data.pack import open_pack
from ensemble.data.pictures import list_pictures, read_picture
from ensemble.data.sources import Reader, Source, open_source
from ensemble.errors import InputError, run_command
from ensemble.members import open_members
from ensemble.mistakes import read_labels
from ensemble.recipe import load_recipe
from ensemble.report.run_files import read_run
from ensemble.search.space_file import load_space
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.weights import make_initial_state, read_tensors

Files = st.SearchStrategy[bytes]

SPACES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.toml"))
RECIPE = SPACES[0].parent / "recipes" / "mobilenetv2-finetune.toml"
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
MOST_SECONDS = 20.0
MOST_MEMORY = 2304 * 2**20  # a photograph of 250 megapixels, as it is and as RGB
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
FORBIDDEN |= {"socket.connect", "pickle.find_class", "ctypes.dlopen"}

fuzz = settings(
    max_examples=int(EXAMPLES or "300"),
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

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
    """Of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def is_read(work: Callable[[], Any]) -> bool:
    """Whether `work` came to its end; it was refused as a person can be told where it did not."""
    global guarded
    ended, printed = [], io.StringIO()
    began = time.monotonic()
    guarded = True
    try:
        with contextlib.redirect_stderr(printed):
            run_command(lambda: ended.append(work()))
    except SystemExit as refused:
        assert refused.code == 2  # noqa: PT017
    finally:
        guarded = False
    assert time.monotonic() - began < MOST_SECONDS
    line = printed.getvalue()
    if ended:
        assert line == ""
        return True
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert len(line) < 1000
    assert line[:-1].isprintable(), line
    return False


# Odd bytes and odd values

ODD_INTEGERS = st.sampled_from(
    [0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64 - 1, 10**400, -(10**25)]
)
ODD_TEXTS = st.sampled_from(
    [
        *("", "\0", "\x1b[2J\x1b]0;title\x07", "two\nlines\r\n", "\u202egpj.exe", "\x9b31m"),
        *("x" * 5000, "../../etc/passwd", "/dev/zero", "ünïcödé 裂缝 🧱", "nan", "-inf", "%s%n"),
        *("__proto__", "{0.__class__}", "'; DROP TABLE trials;--", "[/bold]"),
    ]
)


ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | ODD_INTEGERS
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, 1.8e308, -0.0])
    | ODD_TEXTS
    | st.text(max_size=20)
    | st.sampled_from([30, 300, 900]).map(lambda depth: json.loads("[" * depth + "]" * depth)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | ODD_TEXTS, inner, max_size=3)
    ),
    max_leaves=6,
)
ODD_NUMBER_BYTES = st.sampled_from(
    [struct.pack(f, v) for f, v in (("<H", 0), ("<H", 0xFFFF), ("<I", 0), ("<I", 0xFFFFFFFF))]
    + [struct.pack("<I", 0x7FFFFFFF), struct.pack(">I", 0x7FFFFFFF), struct.pack("<Q", 2**63)]
    + [struct.pack("<Q", 2**64 - 1), struct.pack(">I", 100_000), struct.pack("<I", 100_000)]
    + [b"\0" * 16, b"\xff" * 16, b'"' * 3, b"\n\r\n", b"[" * 50]
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Content with a few bits turned, parts cut out, doubled, or overwritten."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["bit", "cut", "remove", "insert", "over", "double", "byte"]))
        if kind == "bit" and data:
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and data:
            data[place] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[place:]
        elif kind == "remove":
            del data[place : place + draw(st.integers(1, 64))]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=20) | ODD_NUMBER_BYTES)
        elif kind == "over":
            value = draw(st.binary(min_size=1, max_size=8) | ODD_NUMBER_BYTES)
            data[place : place + len(value)] = value
        elif kind == "double":
            data[place:place] = data[place : place + draw(st.integers(1, 400))]
    return bytes(data)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a tree of JSON."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in inside:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


@st.composite
def altered(draw: st.DrawFn, tree: Any, odd: st.SearchStrategy[Any] = ODD_VALUES) -> Any:
    """A tree of JSON with values exchanged for others of any type, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        known = places(tree)
        if not known:
            break
        *path, last = draw(st.sampled_from(known))
        holder = tree
        for key in path:
            holder = holder[key]
        kind = draw(st.sampled_from(["value", "value", "value", "twin", "remove", "rename"]))
        if kind == "value":
            holder[last] = draw(odd)
        elif kind == "twin":
            value = tree
            for key in draw(st.sampled_from(known)):
                value = value[key]
            holder[last] = copy.deepcopy(value)
        elif kind == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(ODD_TEXTS | st.text(max_size=8))] = holder.pop(last)
    return tree


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def json_files(whole: bytes) -> Files:
    tree = json.loads(whole)
    return (
        altered(tree).map(as_json)
        | damaged(json.dumps(tree, indent=1).encode())
        | ODD_VALUES.map(as_json)
        | st.binary(max_size=60)
        | st.sampled_from([b"[" * 100_000, b"9" * 5000, b'{"a":' * 5000, b"\xff\xfe{", b"1e999999"])
    )


# Search spaces


def as_toml(tree: Any) -> bytes:
    """Each key in one line; null as a date, which JSON has not."""
    lines = (
        f"{json.dumps(k)} = {json.dumps(v, separators=(', ', ' = '))}" for k, v in tree.items()
    )
    text = "\n".join(lines).replace("NaN", "nan").replace("Infinity", "inf")
    return text.replace("null", "1979-05-27T07:32:00Z").encode()


def space_files(whole: bytes) -> Files:
    tree = tomllib.loads(whole.decode())
    return altered(tree).map(as_toml) | damaged(whole) | st.binary(max_size=80)


def sample_space(path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space(path)
    json.dumps(space.describe(), allow_nan=False)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    for _ in range(len(space.starts) + 3):
        space.ask(study.ask(), seed=0)


# Pictures


def encode(mode: str, kind: str, size: tuple[int, int] = (24, 16), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(pixels[..., :3]).convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    values = Image.Exif()
    values[0x0112] = orientation
    values[0x010E] = "\x1b[2J"
    return values.tobytes()


def frames(kind: str) -> bytes:
    file = io.BytesIO()
    others = [Image.new("RGB", (24, 16), color) for color in ("red", "blue")]
    Image.new("RGB", (24, 16)).save(file, kind, save_all=True, append_images=others)
    return file.getvalue()


MODES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "PNG": ["RGB", "L", "P", "1", "RGBA", "I;16"],
    "BMP": ["RGB", "P"],
    "TIFF": ["RGB", "I;16", "F"],
    "WEBP": ["RGB"],
    "GIF": ["P"],
    **{kind: ["RGB"] for kind in ("EPS", "PDF", "PPM", "TGA", "SGI", "ICO", "DDS")},
}
PICTURES = [
    *(encode(mode, kind) for kind, modes in MODES.items() for mode in modes),
    *(frames(kind) for kind in ("PNG", "TIFF", "MPO", "WEBP")),
    encode("RGB", "JPEG", progressive=True),
    encode("RGB", "JPEG", exif=exif(6)),
    encode("RGB", "JPEG", exif=exif(6)[:-9] + b"\xff" * 9),
    encode("RGB", "JPEG", size=(400, 300)),
    encode("P", "PNG", transparency=bytes(range(200))),
    encode("RGB", "TIFF", compression="tiff_deflate"),
    encode("RGB", "TIFF", compression="jpeg"),
    encode("CMYK", "TIFF", compression="tiff_lzw"),
    encode("1", "TIFF", compression="group4"),
    encode("RGBA", "WEBP", lossless=True),
]
JPEG, SUFFIXES = encode("RGB", "JPEG"), ("jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "JPG")


def picture_files(_: bytes) -> Files:
    whole = st.sampled_from(PICTURES)
    return (
        whole.flatmap(damaged)
        | whole
        | st.binary(max_size=100)
        | st.builds(lambda start, rest: start[:20] + rest, whole, st.binary(max_size=100))
    )


def check_reason(reason: str) -> None:
    assert reason.isprintable(), reason
    assert 0 < len(reason) <= 300


def decode_source(source: Source, folder: Path) -> None:
    bad: dict[str, str] = {}
    with contextlib.closing(Reader(source.path)) as reader:
        tiles = read_contents(source, reader, bad)
        tiles["row"] = np.arange(len(tiles))
        decode_tiles(tiles, reader, folder / "pixels.npy", (8, 12), bad)
    for name, reason in bad.items():
        kinds = {unicodedata.category(character) for character in name}
        assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}, name
        check_reason(reason)


def decode_tile(path: Path) -> None:
    table = pd.DataFrame({"tile": [path.name], "photograph": "", "surface": "", "label": 1})
    decode_source(Source(path.parent, table, ("Cracked",), ("Sound",), False, ""), path.parent)


def view(open_picture: Callable[[], BinaryIO], **options: Any) -> None:
    try:
        with open_picture() as file:
            picture = read_picture(file, (16, 16), **options)
    except UNREADABLE as error:
        check_reason(explain_unreadable(error))
    else:
        assert picture.mode == "RGB"


def view_twice(path: Path) -> None:
    for reduced_px in (None, 16):
        view(lambda: path.open("rb"), reduced_px=reduced_px)


# .zip files

TILE_NAMES = st.sampled_from(
    [
        *("Cracked/1.jpg", "Sound/1.jpg", "Sound/2.png", "D/CD/7001-1.jpg", "D/UD/7001-2.jpg"),
        *("W/UW/7069-1_2.jpg", "Cracked/inner.zip", "Cracked/", "loose.jpg", "Ünï/裂.jpg"),
        *("../up.jpg", "/abs/a.jpg", "C:\\a\\b.jpg", "a\\..\\..\\b.jpg", "Cracked/../../a.jpg"),
        *("Cracked/\x1b[2J.jpg", "Cracked/a\nb.jpg", "Cra\tcked/1.jpg", "Cracked/a\0b.jpg"),
        *("Cracked/\u202egpj.jpg", "Cracked/\x9b.jpg", "Cracked/" + "n" * 3000 + ".jpg", "//.jpg"),
        *("n" * 3000 + "/a.jpg", "a/" * 2000 + "a.jpg", "./.jpg", " / .jpg", "[/x]/1.jpg"),
    ]
)
ZEROS = bytes(5 * 2**18)  # more than may unpack from so little
METHODS = [*2 * [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
ENTRIES = st.tuples(
    TILE_NAMES,
    st.sampled_from([*PICTURES, *4 * [ZEROS]]) | st.binary(max_size=30),
    st.sampled_from(METHODS),
    st.sampled_from([0, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o777, stat.S_IFIFO]),
    st.booleans(),
)
TWO_TILES = [
    (f"{kind}/7.jpg", JPEG, zipfile.ZIP_DEFLATED, 0, False) for kind in ("Cracked", "Sound")
]
FIELDS = [(4, 2), (6, 2), (8, 2), (10, 2), (14, 4), (16, 4), (18, 4), (20, 4), (22, 4), (24, 4)]
FIELDS += [(26, 2), (28, 2), (30, 2), (32, 2), (34, 2), (36, 2), (38, 4), (42, 4)]
FIELDS += [(48, 8), (40, 8), (8, 8)]
PATCHES = st.tuples(
    st.sampled_from([b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"]),
    st.integers(0, 3),
    st.sampled_from(FIELDS),
    st.sampled_from([0, 1, 8, 9, 12, 14, 93, 99, 2**11, 2**15, 2**16 - 1, 2**31, 2**32 - 1])
    | st.sampled_from([2**40, 2**63 - 1, 2**63, 2**64 - 1])
    | st.integers(0, 2000),
)


def write_zip(entries: list[Any], patches: list[Any]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content, method, mode, zip64 in entries:
            info = zipfile.ZipInfo(name)
            info.filename, info.compress_type = name, method  # as it is, not made safe
            info.external_attr = mode << 16
            with archive.open(info, "w", force_zip64=zip64) as member:
                member.write(content)
    data = bytearray(file.getvalue())
    for signature, number, (offset, width), value in patches:
        place = -1
        for _ in range(number + 1):
            place = data.find(signature, place + 1)
        if place >= 0 and place + offset + width <= len(data):
            packed = (value % 2 ** (8 * width)).to_bytes(width, "little")
            data[place + offset : place + offset + width] = packed
    return bytes(data)


def with_zip64_end(data: bytes, number: int) -> bytes:
    """A .zip whose end says "look at the zip64 record", which holds a number that may be a lie."""
    place = data.rfind(b"PK\x05\x06")
    if place < 0:
        return data
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, number, number)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)
    end = data[place : place + 8] + b"\xff" * 12 + data[place + 20 :]
    return data[:place] + record + locator + end


def zip_files(whole: bytes) -> Files:
    entries = st.lists(ENTRIES, max_size=4)
    built = st.builds(
        write_zip, entries | entries.map(TWO_TILES.__add__), st.lists(PATCHES, max_size=3)
    )
    return (
        built
        | built.flatmap(damaged)
        | damaged(whole)
        | st.builds(with_zip64_end, built, st.integers(0, 2**64 - 1) | st.integers(0, 500))
        | st.binary(max_size=100)
    )


def read_tiles_of_zip(path: Path) -> None:
    decode_source(open_source(path), path.parent)


def read_pictures_of_zip(path: Path) -> None:
    with ExitStack() as archives:
        for picture in list_pictures([path], path.parent / "overlays", archives):
            assert picture.name.isprintable()
            view(picture.open)


# Weights

STATE = build_model("small_cnn").state_dict()
BIAS = next(name for name in STATE if name.endswith("bias"))
SHAPE = STATE[BIAS].shape


def safetensors_file(header: Any, data: bytes) -> bytes:
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + data


DTYPES = st.sampled_from(["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X"])


def safetensors_files(whole: bytes) -> Files:
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    numbers = st.integers(-5, 2 * len(data)) | ODD_INTEGERS
    odd = ODD_VALUES | DTYPES | numbers | st.lists(numbers, min_size=2, max_size=2)
    return (
        altered(header, odd).map(lambda tree: safetensors_file(tree, data))
        | damaged(whole)
        | ODD_INTEGERS.filter(lambda number: 0 <= number < 2**64).map(
            lambda number: struct.pack("<Q", number) + whole[8:]
        )
        | st.sampled_from([math.nan, math.inf]).map(
            lambda number: safetensors.torch.save({k: v * number for k, v in STATE.items()})
        )
        | ODD_VALUES.map(lambda value: safetensors_file(value, data))
        | st.binary(max_size=60)
    )


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is going out of use
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


ODD_TENSORS: list[Any] = [
    *(torch.zeros(SHAPE, dtype=kind) for kind in (torch.complex64, torch.bool, torch.uint16)),
    torch.zeros(SHAPE, dtype=torch.float8_e4m3fn),
    torch.zeros(SHAPE, dtype=torch.bits8) if hasattr(torch, "bits8") else 0,
    torch.zeros(SHAPE, device="meta"),
    torch.zeros(SHAPE).to_sparse(),
    torch.zeros(SHAPE, dtype=torch.float64) + 1e300,
    quantised(STATE[BIAS]),
    torch.zeros(1).expand(10**6, 10**6),
    torch.zeros(1).expand(SHAPE),
    torch.nn.Parameter(STATE[BIAS].clone()),
    torch.nn.Parameter(STATE[BIAS].clone()) * 1.0,
    torch.full(SHAPE, math.nan),
    torch.zeros(0),
    *(None, "text", {"a": 1}, [1, 2]),
]
OPCODES = st.lists(
    st.sampled_from(
        [
            *(b"(", b")", b"]", b"}", b"N", b"0", b"2", b"t", b"u", b"s", b"R", b"b", b"Q", b"."),
            *(b"\x81", b"q\x00", b"h\x00", b"K\x05", b"r\xff\xff\xff\x7f", b"\x8a\xff"),
            *(b"X\x02\x00\x00\x00ls", b"X\xff\xff\xff\xffls", b"\x8b\xff\xff\xff\x7f"),
            *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n"),
            *(b"ctorch\nTensor\n", b"ctorch\nload\n", b"ctorch.storage\n_load_from_bytes\n"),
            b"ctorch._utils\n_rebuild_tensor_v2\n",
        ]
    ),
    max_size=12,
).map(b"".join)


def torch_files(whole: bytes) -> Files:
    old = saved(STATE, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (pickle,) = (name for name in parts if name.endswith("data.pkl"))

    def with_pickle(content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, content if name == pickle else part)
        return file.getvalue()

    return (
        damaged(whole)
        | damaged(old)
        | damaged(parts[pickle]).map(with_pickle)
        | OPCODES.map(lambda codes: with_pickle(b"\x80\x02" + codes))
        | OPCODES.map(lambda codes: old[:100] + codes)
        | OPCODES.map(lambda codes: b"\x80\x02" + codes)
        | st.builds(
            lambda name, value: saved({**STATE, name: value}),
            st.sampled_from(sorted(STATE)),
            st.sampled_from(ODD_TENSORS),
        )
        | ODD_VALUES.map(saved)
        | st.binary(max_size=60)
    )


def start_from(path: Path) -> None:
    state = make_initial_state("small_cnn", path, seed=0)
    assert all(tensor.isfinite().all() for tensor in state.tensors.values())
    build_model("small_cnn").load_state_dict(state.tensors)
    safetensors.torch.save(state.tensors)


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


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


# Members and choices


def read_choice_and_members(path: Path) -> None:
    choice, members = open_choice(path.parent)
    assert choice.weights.sum() == pytest.approx(1)
    assert len(members) == len(choice.weights)
    choice.save(path.parent)


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


def open_all_members(path: Path) -> None:
    open_members(path.parent, split_digest="split")


def read_scores(path: Path) -> None:
    margins = agreeing(path, "scores").val_margins()
    assert margins.shape == (3,)
    assert np.isfinite(margins).all()


def npy(header: str, data: bytes) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npy_files(whole: bytes) -> Files:
    headers = st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}".format,
        st.sampled_from(["'<f4'", "'|O'", "'<f8'", "'>f4'", "'<U9999999'", "[('a','<f4')]", "0"]),
        st.sampled_from(["True", "False", "1", "None", "__import__('os').system('true')"]),
        st.sampled_from(["(3,)", "(3", "(-1,)", "(10**12,)", f"({10**12},)", "(3,0)", "()", "3"])
        | st.sampled_from([f"({2**62},{2**62})", "(1e3,)", "('a',)", "(3,)" * 400, "(True,)"])
        | st.sampled_from(["(2**70,)", "-" * 9000 + "1", "1+" * 4000 + "1j", "(" * 90]),
    )
    return st.builds(npy, headers, st.binary(max_size=24)) | damaged(whole) | st.binary(max_size=60)


# Tables

CELLS = st.sampled_from(["", "0", "1", "-1", "0.5", "nan", "inf", "1e999", "9" * 400, "text"])
CELLS |= ODD_TEXTS | st.text(max_size=8)
COLUMNS = ["tile", "label", "trial", "state", "val_f1", "epoch", "photograph", "surface", "reason"]


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Rows of odd cells under known and odd columns, in one of the ways of writing CSV."""
    names = draw(st.lists(st.sampled_from(COLUMNS) | CELLS, max_size=6))
    rows = draw(st.lists(st.lists(CELLS, max_size=7), max_size=6))
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"]))
    lines = [separator.join(row) for row in [names, *rows]]
    coding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]))
    return end.join(lines).encode(coding, errors="ignore")


def csv_files(whole: bytes) -> Files:
    return (
        damaged(whole)
        | tables()
        | st.binary(max_size=60)
        | st.sampled_from([b'"' + b"x" * 200_000, b"," * 100_000, b"\0" * 100, b"a\n" * 50_000])
    )


def run_files(whole: bytes) -> Files:
    return json_files(whole) if whole.startswith(b"{") else csv_files(whole)


def read_two_labels(path: Path) -> None:
    predictions = pd.DataFrame({"tile": ["a.jpg", "b.jpg"], "label": [0, 1]})
    assert set(read_labels(path, predictions)) <= {0, 1}


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
    "tiles in a zip": Parser("set.zip", zip_files, read_tiles_of_zip),
    "pictures in a zip": Parser("set.zip", zip_files, read_pictures_of_zip),
    "safetensors": Parser("weights.safetensors", safetensors_files, start_from),
    "state dict": Parser("weights.pth", torch_files, start_from),
    "ensemble": Parser("run/ensemble.json", json_files, read_choice_and_members),
    "member": Parser("run/members/0000/member.json", json_files, read_all_of_member),
    "weights of a member": Parser("run/members/0000/*.saf*", safetensors_files, load_weights),
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
    "report/trials.csv": TRIALS,
    "report/epochs.csv": "trial,backbone,epoch,train_loss,train_accuracy,val_loss,val_accuracy,"
    "val_f1\n0,small_cnn,1,0.5,0.8,0.5,0.8,0.5\n0,small_cnn,2,0.4,0.8,0.5,0.8,0.6\n",
    "report/validation.csv": "tile,photograph,surface,label\na.jpg,007,D,1\nb.jpg,8,W,0\n",
    "report/space.toml": 'question = "Which?"\n',
    "report/evaluation/predictions.csv": "tile,photograph,surface,label,trial_0,ensemble,"
    "calibrated\na.jpg,007,D,1,0.5,0.5,0.5\n",
    "report/evaluation/ledger.csv": "opened_at,method,trials,threshold_rule,threshold,tta\n"
    "1,mean,0,f1,0,\n",
}


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory, write_member: Callable[..., Member]) -> Path:
    """A folder with a whole file, or several, for each parser."""
    sent = tmp_path_factory.mktemp("sent")
    member = write_member(sent / "run" / "members" / "0000")
    choice = make_choice({0: str(member.record.weights_sha256)})
    about = {"data_summary": {"num_tiles": {"val": 2}}, "epochs": 3, "seed": 0, "weights": {}}
    pack = {"format": 2, "split_digest": "d", "num_tiles": {"test": 1}, "bad_tiles": {}}
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
        "report/evaluation/metrics.json": as_json({"choice": choice, "members": []}),
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


@pytest.mark.slow
def test_zip_of_a_hundred_thousand_members_is_listed_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{'Cracked' if number % 9 == 0 else 'Sound'}/{number}.jpg", b"")
    sources: list[Source] = []
    assert is_read(lambda: sources.append(open_source(path)))
    assert len(sources[0].tiles) == 100_000


# What is printed


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=50) | ODD_TEXTS)
def test_message_is_one_printable_line_whatever_it_quotes(text: str) -> None:
    def refuse() -> None:
        raise InputError(text)

    assert not is_read(refuse)


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
    assert len(list_members(path, wanted=lambda _: True, max_bytes=10**7)) == 2
    tracemalloc.start()
    try:
        with contextlib.closing(Reader(path)) as reader, pytest.raises(zipfile.BadZipFile):
            reader.read("Cracked/1.jpg")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


# Found by these tests and mended, the least file of each


def tiff_of_one_tile(side_px: int) -> bytes:
    """A TIFF of 16 × 16 grey pixels, cut from a tile of `side_px`."""
    tags = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1)]
    tags += [(322, side_px), (323, side_px), (324, 8), (325, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", 10) + entries + bytes(4)


def progressive_bomb() -> bytes:
    content = encode("L", "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + 200 * scan + content[-2:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encode("RGB", "EPS"), "not a picture"),  # Pillow would start Ghostscript
        (progressive_bomb(), "a JPEG of 2"),
        (tiff_of_one_tile(32_000), "a TIFF with a tile of 32000"),
    ],
    ids=["EPS", "200 scans", "tile of a gigabyte"],
)
def test_picture_that_costs_more_than_it_shows_is_not_decoded(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    (tmp_path / "2.jpg").write_bytes(JPEG)
    table = pd.DataFrame({"tile": ["1.jpg", "2.jpg"], "label": 1})
    bad: dict[str, str] = {}
    with contextlib.closing(Reader(tmp_path)) as reader:
        read_contents(Source(tmp_path, table, (), (), False, ""), reader, bad)
    assert list(bad) == ["1.jpg"]
    assert bad["1.jpg"].startswith(reason)
    with pytest.raises(ValueError):
        read_picture(io.BytesIO(content), (16, 16))
