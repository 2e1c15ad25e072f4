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
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ensemble.choice import open_choice
from ensemble.data.archive import list_members
from ensemble.data.decode import UNREADABLE, decode_tiles, explain_unreadable, read_contents
from ensemble.data.pack import open_pack
from ensemble.data.pictures import list_pictures, read_picture
from ensemble.data.sources import Reader, Source, open_source
from ensemble.errors import InputError, run_command
from ensemble.members import open_members
from ensemble.mistakes import read_labels
from ensemble.report.run_files import read_run
from ensemble.search.space_file import load_space
from ensemble.training.backbones import build_model
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.weights import make_initial_state, read_tensors

SPACES = sorted((Path(__file__).parents[1] / "search_spaces").glob("*.toml"))
EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
MOST_SECONDS = 20.0
MOST_MEMORY = 2304 * 2**20  # a photograph of 250 megapixels, as it is and as RGB
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen"}
FORBIDDEN |= {"socket.connect", "pickle.find_class", "ctypes.dlopen"}

fuzz = settings(
    max_examples=int(EXAMPLES or "50"),
    deadline=None,
    derandomize=EXAMPLES is None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,  # a folder whose files each example writes anew
    ],
)

guarded = False


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


def outcome(work: Callable[[], Any]) -> Any:
    """What `work` returns, or None where it was refused as a person can be told."""
    global guarded
    results, printed = [], io.StringIO()
    began = time.monotonic()
    guarded = True
    try:
        with contextlib.redirect_stderr(printed):
            run_command(lambda: results.append(work()))
    except SystemExit as ended:
        assert ended.code == 2  # noqa: PT017
    finally:
        guarded = False
    assert time.monotonic() - began < MOST_SECONDS
    if results:
        assert printed.getvalue() == ""
        return results[0]
    line = printed.getvalue()
    assert line.startswith("error: ")
    assert line.endswith("\n")
    assert len(line) < 1000
    assert line[:-1].isprintable(), line
    return None


# Odd bytes and odd values

ODD_INTEGERS = st.sampled_from(
    [0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64 - 1, 10**400, -(10**25)]
)
ODD_TEXTS = st.sampled_from(
    [
        "",
        "\0",
        "\x1b[2J\x1b]0;title\x07",
        "two\nlines\r\n",
        "\u202egpj.exe",
        "\x9b31m",
        "x" * 5000,
        "../../etc/passwd",
        "/dev/zero",
        "ünïcödé 裂缝 🧱",
        "nan",
        "-inf",
        "__proto__",
        "{0.__class__}",
        "%s%n",
        "'; DROP TABLE trials;--",
        "[/bold]",
    ]
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | ODD_INTEGERS
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -math.inf, 5e-324, 1.8e308, -0.0])
    | ODD_TEXTS
    | st.text(max_size=20)
    | st.sampled_from([30, 300, 900]).map(nested),
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
def damaged(draw: st.DrawFn, content: bytes, *, most: int = 4) -> bytes:
    """Content with a few bits turned, parts cut out, doubled, or overwritten."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
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
def altered(draw: st.DrawFn, tree: Any, *, most: int = 2) -> Any:
    """A tree of JSON with values exchanged for others of any type, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        known = places(tree)
        if not known:
            break
        *path, last = draw(st.sampled_from(known))
        holder = tree
        for key in path:
            holder = holder[key]
        kind = draw(st.sampled_from(["value", "value", "value", "twin", "remove", "rename"]))
        if kind == "value":
            holder[last] = draw(ODD_VALUES)
        elif kind == "twin":
            *others, final = draw(st.sampled_from(known))
            value = tree
            with contextlib.suppress(KeyError, IndexError, TypeError):
                for key in (*others, final):
                    value = value[key]
                holder[last] = copy.deepcopy(value)
        elif kind == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(ODD_TEXTS | st.text(max_size=8))] = holder.pop(last)
    return tree


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def json_files(tree: Any) -> st.SearchStrategy[bytes]:
    return (
        altered(tree).map(as_json)
        | damaged(json.dumps(tree, indent=1).encode())
        | ODD_VALUES.map(as_json)
        | st.binary(max_size=60)
        | st.sampled_from([b"[" * 100_000, b"9" * 5000, b'{"a":' * 5000, b"\xff\xfe{", b"1e999999"])
    )


# Search spaces


def inline(value: Any) -> str:
    """A value as TOML writes it in one line; None as a date, which JSON has not."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        depth = 0
        while isinstance(value, list) and len(value) == 1:
            value, depth = value[0], depth + 1
        inside = ", ".join(map(inline, value)) if isinstance(value, list) else inline(value)
        return (
            "[" * (depth + isinstance(value, list))
            + inside
            + "]" * (depth + isinstance(value, list))
        )
    if value is None:
        return "1979-05-27T07:32:00Z"
    if isinstance(value, float):
        return (
            "nan"
            if math.isnan(value)
            else f"{'-' * (value < 0)}inf"
            if math.isinf(value)
            else repr(value)
        )
    return hex(value) if isinstance(value, int) and value > 2**64 else json.dumps(value)


def as_toml(tree: Any) -> bytes:
    return "\n".join(f"{json.dumps(k)} = {inline(v)}" for k, v in tree.items()).encode()


SPACE_FILES = st.sampled_from(SPACES).flatmap(
    lambda path: (
        altered(tomllib.loads(path.read_text()), most=3).map(as_toml) | damaged(path.read_bytes())
    )
) | st.binary(max_size=80)


def sample_space(path: Path) -> None:
    space = load_space(path)
    json.dumps(space.describe(), allow_nan=False)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.start_points():
        study.enqueue_trial(point)
    for _ in range(len(space.starts) + 3):
        space.ask(study.ask(), seed=0)


@fuzz
@given(content=SPACE_FILES)
def test_search_space_can_be_sampled_or_is_refused(content: bytes, tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path / "space.toml"
    path.write_bytes(content)
    outcome(lambda: sample_space(path))


# Pictures


def encode(mode: str, kind: str, size: tuple[int, int] = (24, 16), **options: Any) -> bytes:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    picture = Image.fromarray(pixels[..., :3])
    if mode == "I;16":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
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


PICTURES = {
    "JPEG": encode("RGB", "JPEG"),
    "grey JPEG": encode("L", "JPEG"),
    "CMYK JPEG": encode("CMYK", "JPEG"),
    "progressive JPEG": encode("RGB", "JPEG", progressive=True),
    "turned JPEG": encode("RGB", "JPEG", exif=exif(6)),
    "EXIF lie": encode("RGB", "JPEG", exif=exif(6)[:-9] + b"\xff" * 9),
    "large JPEG": encode("RGB", "JPEG", size=(400, 300)),
    "PNG": encode("RGB", "PNG"),
    "grey PNG": encode("L", "PNG"),
    "palette PNG": encode("P", "PNG"),
    "see-through palette": encode("P", "PNG", transparency=bytes(range(200))),
    "bits": encode("1", "PNG"),
    "alpha PNG": encode("RGBA", "PNG"),
    "16 bit PNG": encode("I;16", "PNG"),
    "animated PNG": frames("PNG"),
    "BMP": encode("RGB", "BMP"),
    "palette BMP": encode("P", "BMP"),
    "TIFF": encode("RGB", "TIFF"),
    "deflated TIFF": encode("RGB", "TIFF", compression="tiff_deflate"),
    "JPEG in TIFF": encode("RGB", "TIFF", compression="jpeg"),
    "CMYK TIFF": encode("CMYK", "TIFF", compression="tiff_lzw"),
    "fax": encode("1", "TIFF", compression="group4"),
    "16 bit TIFF": encode("I;16", "TIFF"),
    "float TIFF": encode("F", "TIFF"),
    "tiles": frames("TIFF"),
    "MPO": frames("MPO"),
    "WebP": encode("RGB", "WEBP"),
    "alpha WebP": encode("RGBA", "WEBP", lossless=True),
    "animated WebP": frames("WEBP"),
    "GIF": encode("P", "GIF"),
    "EPS": encode("RGB", "EPS"),
    "PDF": encode("RGB", "PDF"),
    "PPM": encode("RGB", "PPM"),
    "TGA": encode("RGB", "TGA"),
    "SGI": encode("RGB", "SGI"),
    "ICO": encode("RGB", "ICO"),
    "DDS": encode("RGB", "DDS"),
}
PICTURE_FILES = (
    st.sampled_from(sorted(PICTURES)).flatmap(
        lambda name: damaged(PICTURES[name]) | st.just(PICTURES[name])
    )
    | st.binary(max_size=100)
    | st.tuples(st.sampled_from(sorted(PICTURES)), st.binary(max_size=100)).map(
        lambda parts: PICTURES[parts[0]][:20] + parts[1]
    )
)
SUFFIXES = st.sampled_from([".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".JPG"])


def check_reasons(bad: dict[str, str]) -> None:
    for name, reason in bad.items():
        assert name.isprintable(), name
        assert reason.isprintable(), reason
        assert 0 < len(reason) <= 300


def read_and_decode(source: Source, folder: Path) -> None:
    bad: dict[str, str] = {}
    with contextlib.closing(Reader(source.path)) as reader:
        tiles = read_contents(source, reader, bad)
        tiles["row"] = np.arange(len(tiles))
        decode_tiles(tiles, reader, folder / "pixels.npy", (8, 12), bad)
    check_reasons(bad)


@fuzz
@given(content=PICTURE_FILES, suffix=SUFFIXES)
def test_tile_is_decoded_or_named_with_a_reason(
    content: bytes, suffix: str, tmp_path: Path
) -> None:
    name = f"Cracked/1{suffix}"
    (tmp_path / "Cracked").mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    table = pd.DataFrame({"tile": [name], "photograph": "", "surface": "", "label": 1})
    source = Source(tmp_path, table, ("Cracked",), ("Sound",), False, "")
    outcome(lambda: read_and_decode(source, tmp_path))


def look_at(file: io.BytesIO) -> None:
    for reduced_px in (None, 16):
        try:
            picture = read_picture(file, (16, 16), reduced_px=reduced_px)
        except UNREADABLE as error:
            reason = explain_unreadable(error)
            assert reason.isprintable()
            assert 0 < len(reason) <= 300
        else:
            assert picture.mode == "RGB"
        file.seek(0)


@fuzz
@given(content=PICTURE_FILES)
def test_picture_is_decoded_or_unreadable(content: bytes) -> None:
    outcome(lambda: look_at(io.BytesIO(content)))


# .zip files

TILE_NAMES = st.sampled_from(
    [
        *("Cracked/1.jpg", "Sound/1.jpg", "Sound/2.png", "D/CD/7001-1.jpg", "D/UD/7001-2.jpg"),
        *("W/UW/7069-1_2.jpg", "Cracked/inner.zip", "Cracked/", "loose.jpg", "Ünï/裂.jpg"),
        *("../up.jpg", "/abs/a.jpg", "C:\\a\\b.jpg", "a\\..\\..\\b.jpg", "Cracked/../../a.jpg"),
        *("Cracked/\x1b[2J.jpg", "Cracked/a\nb.jpg", "Cra\tcked/1.jpg", "Cracked/a\0b.jpg"),
        *("Cracked/\u202egpj.jpg", "Cracked/\x9b.jpg", "Cracked/" + "n" * 3000 + ".jpg"),
        *(
            "n" * 3000 + "/a.jpg",
            "a/" * 2000 + "a.jpg",
            "//.jpg",
            "./.jpg",
            " / .jpg",
            "[/x]/1.jpg",
        ),
    ]
)
CONTENTS = (
    st.sampled_from(sorted(PICTURES)).map(PICTURES.__getitem__)
    | st.binary(max_size=30)
    | st.just(bytes(2 * 2**20))
)
ENTRIES = st.tuples(
    TILE_NAMES,
    CONTENTS,
    st.sampled_from(
        [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    ),
    st.sampled_from([0, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o777, stat.S_IFIFO]),
    st.booleans(),
)
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


def write_zip(entries: list[tuple[str, bytes, int, int, bool]], patches: list[Any]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content, method, mode, zip64 in entries:
            info = zipfile.ZipInfo(name)
            info.filename, info.compress_type = name, method  # as it is, not made safe
            info.external_attr = mode << 16
            if zip64:
                with archive.open(info, "w", force_zip64=True) as member:
                    member.write(content)
            else:
                archive.writestr(info, content)
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


ZIP_FILES = st.builds(write_zip, st.lists(ENTRIES, max_size=5), st.lists(PATCHES, max_size=3))
ZIP_FILES = (
    ZIP_FILES
    | ZIP_FILES.filter(lambda data: len(data) < 20_000).flatmap(damaged)
    | st.builds(with_zip64_end, ZIP_FILES, st.integers(0, 2**64 - 1) | st.integers(0, 500))
    | st.binary(max_size=100)
)


def read_pictures_of(path: Path) -> None:
    with ExitStack() as archives:
        for picture in list_pictures([path], path.parent / "overlays", archives):
            assert picture.name.isprintable()
            try:
                with picture.open() as file:
                    read_picture(file, (16, 16))
            except UNREADABLE as error:
                assert explain_unreadable(error).isprintable()  # noqa: PT017


@fuzz
@given(content=ZIP_FILES)
def test_zip_of_tiles_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    path.write_bytes(content)
    source = outcome(lambda: open_source(path))
    if source is not None:
        outcome(lambda: read_and_decode(source, tmp_path))
    outcome(lambda: read_pictures_of(path))


@pytest.mark.slow
def test_zip_of_a_hundred_thousand_members_is_listed_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(100_000):
            archive.writestr(f"{'Cracked' if number % 9 == 0 else 'Sound'}/{number}.jpg", b"")
    source = outcome(lambda: open_source(path))
    assert len(source.tiles) == 100_000


# Weights

STATE = build_model("small_cnn").state_dict()


def safetensors_file(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = as_json(header)
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def split_safetensors(content: bytes) -> tuple[Any, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


WHOLE_SAFETENSORS = safetensors.torch.save({k: v.contiguous() for k, v in STATE.items()})
HEADER, DATA = split_safetensors(WHOLE_SAFETENSORS)
DTYPES = st.sampled_from(
    ["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "X"]
)


@st.composite
def retyped(draw: st.DrawFn) -> bytes:
    header = copy.deepcopy(HEADER)
    name = draw(st.sampled_from(sorted(header)))
    if draw(st.booleans()):
        header[name]["dtype"] = draw(DTYPES)
    else:
        header[name]["data_offsets"] = draw(
            st.lists(st.integers(-5, 2 * len(DATA)) | ODD_INTEGERS, min_size=2, max_size=2)
        )
    return safetensors_file(header, DATA)


SAFETENSORS_FILES = (
    altered(HEADER).map(lambda header: safetensors_file(header, DATA))
    | retyped()
    | damaged(WHOLE_SAFETENSORS)
    | st.tuples(ODD_INTEGERS.filter(lambda n: 0 <= n < 2**64), st.just(WHOLE_SAFETENSORS)).map(
        lambda parts: struct.pack("<Q", parts[0]) + parts[1][8:]
    )
    | st.sampled_from([math.nan, math.inf]).map(
        lambda number: safetensors.torch.save({k: v * number for k, v in STATE.items()})
    )
    | ODD_VALUES.map(lambda value: safetensors_file(value, DATA))
    | st.binary(max_size=60)
)


@fuzz
@given(content=SAFETENSORS_FILES)
def test_safetensors_are_taken_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    state = outcome(lambda: make_initial_state("small_cnn", path, seed=0))
    if state is not None:
        assert all(tensor.isfinite().all() for tensor in state.tensors.values())
        build_model("small_cnn").load_state_dict(state.tensors)
        safetensors.torch.save(state.tensors)


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


TORCH_FILE = saved(STATE)


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is going out of use
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


OLD_TORCH_FILE = saved(STATE, _use_new_zipfile_serialization=False)
BIAS = next(name for name in STATE if name.endswith("bias"))
ODD_TENSORS: list[Any] = [
    torch.zeros(STATE[BIAS].shape, dtype=torch.complex64),
    torch.zeros(STATE[BIAS].shape, device="meta"),
    torch.zeros(STATE[BIAS].shape).to_sparse(),
    torch.zeros(STATE[BIAS].shape, dtype=torch.float8_e4m3fn),
    torch.zeros(STATE[BIAS].shape, dtype=torch.uint16),
    torch.zeros(STATE[BIAS].shape, dtype=torch.bool),
    torch.zeros(STATE[BIAS].shape, dtype=torch.float64) + 1e300,
    quantised(STATE[BIAS]),
    torch.zeros(1).expand(10**6, 10**6),
    torch.zeros(1).expand(STATE[BIAS].shape),
    torch.nn.Parameter(STATE[BIAS].clone()),
    torch.nn.Parameter(STATE[BIAS].clone()) * 1.0,
    torch.full(STATE[BIAS].shape, math.nan),
    torch.zeros(0),
    torch.zeros(STATE[BIAS].shape, dtype=torch.bits8) if hasattr(torch, "bits8") else 0,
    None,
    "text",
    {"a": 1},
    [1, 2],
]


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


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
)


def with_pickle(content: bytes) -> bytes:
    """torch's file with another pickle in it."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(TORCH_FILE)) as whole, zipfile.ZipFile(file, "w") as other:
        for name in whole.namelist():
            is_pickle = name.endswith("data.pkl")
            other.writestr(name, content if is_pickle else whole.read(name))
    return file.getvalue()


with zipfile.ZipFile(io.BytesIO(TORCH_FILE)) as _archive:
    TORCH_PICKLE = _archive.read(next(n for n in _archive.namelist() if n.endswith("data.pkl")))

TORCH_FILES = (
    damaged(TORCH_FILE)
    | damaged(OLD_TORCH_FILE)
    | damaged(TORCH_PICKLE).map(with_pickle)
    | OPCODES.map(lambda parts: with_pickle(b"\x80\x02" + b"".join(parts)))
    | OPCODES.map(lambda parts: OLD_TORCH_FILE[:100] + b"".join(parts))
    | OPCODES.map(lambda parts: b"\x80\x02" + b"".join(parts))
    | st.tuples(st.sampled_from(sorted(STATE)), st.sampled_from(ODD_TENSORS)).map(
        lambda parts: saved({**STATE, parts[0]: parts[1]})
    )
    | ODD_VALUES.map(saved)
    | st.binary(max_size=60)
)


@fuzz
@given(content=TORCH_FILES)
def test_state_dict_is_taken_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    state = outcome(lambda: make_initial_state("small_cnn", path, seed=0))
    if state is not None:
        assert all(tensor.isfinite().all() for tensor in state.tensors.values())
        build_model("small_cnn").load_state_dict(state.tensors)
        safetensors.torch.save(state.tensors)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old form"])
@pytest.mark.parametrize("inside", [False, True], ids=["bare", "inside a state dict"])
def test_pickle_bomb_is_refused_and_does_not_go_off(
    old: bool, inside: bool, tmp_path: Path
) -> None:
    bomb: Any = Bomb(str(tmp_path / "crater"))
    content = saved(
        {**STATE, "bomb": bomb} if inside else bomb, _use_new_zipfile_serialization=not old
    )
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert outcome(lambda: read_tensors(path)) is None
    assert not (tmp_path / "crater").exists()


# Members, choices, runs and packs


@pytest.fixture
def run(tmp_path: Path, write_member: Callable[..., Member]) -> Path:
    """A run's folder with one member and an ensemble of it."""
    run = tmp_path / "run"
    member = write_member(run / "members" / "0000")
    numbers = {"log_loss": 0.4, "brier": 0.1, "expected_calibration_error": 0.05}
    choice = {
        "format": 1,
        "method": "mean",
        "asked_method": "auto",
        "members": [
            {
                "trial": 0,
                "folder": "members/0000",
                "weights_sha256": member.record.weights_sha256,
                "weight": 1.0,
                "temperature": 1.1,
                "threshold": 0.5,
            }
        ],
        "ingredients": [],
        "temperature": 0.8,
        "threshold_rule": "f1",
        "threshold": 0.45,
        "calibrated_threshold": 0.44,
        "tta": False,
        "val_metrics": {"f1": 0.75},
        "best_single_trial": 0,
        "best_single_val_f1": 0.75,
        "before_calibration": numbers,
        "after_calibration": numbers,
        "methods": [{"method": "mean", "inner_f1": 0.8, "outer_f1": 0.7}],
        "disagreement": [[0.0]],
        "error_correlation": [[None]],
        "split_digest": "split",
    }
    (run / "ensemble.json").write_text(json.dumps(choice))
    about = {"pack_folder": "/nowhere", "tile_size_px": [16, 16], "split_digest": "split"}
    (run / "run.json").write_text(json.dumps(about | {"epochs": 4, "seed": 0}))
    trials = {"trial": [0, 1], "state": ["COMPLETE", "FAIL"], "val_f1": [0.75, None]}
    trials |= {"epochs": [1, 0], "seconds": [1.0, 0.0], "reason": ["", "diverged"]}
    pd.DataFrame(trials).to_csv(run / "trials.csv", index=False)
    return run


@fuzz
@given(data=st.data())
def test_ensemble_is_opened_or_refused(data: st.DataObject, run: Path) -> None:
    path = run / "ensemble.json"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        path.rename(whole)
    path.write_bytes(data.draw(json_files(json.loads(whole.read_text()))))
    opened = outcome(lambda: open_choice(run))
    if opened is not None:
        choice, members = opened
        assert choice.weights.sum() == pytest.approx(1)
        assert len(members) == len(choice.weights)
        choice.save(run)


@fuzz
@given(data=st.data())
def test_member_is_opened_or_refused(data: st.DataObject, run: Path) -> None:
    path = run / "members" / "0000" / "member.json"
    whole = path.with_suffix(".whole")
    if not whole.exists():
        path.rename(whole)
    path.write_bytes(data.draw(json_files(json.loads(whole.read_text()))))
    member = outcome(lambda: open_member(path.parent))
    if member is not None:
        outcome(member.val_margins)
        outcome(member.load_model)


def exchange(folder: Path, kind: str, content: bytes) -> Member:
    """A member with other weights or scores, and the digest that goes with them."""
    record = json.loads((folder / "member.json").read_text())
    (folder / record[f"{kind}_file"]).write_bytes(content)
    record[f"{kind}_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "member.json").write_text(json.dumps(record))
    return open_member(folder)


@fuzz
@given(content=SAFETENSORS_FILES)
def test_weights_of_a_member_are_loaded_or_refused(content: bytes, run: Path) -> None:
    member = exchange(run / "members" / "0000", "weights", content)
    outcome(member.load_model)


def npy(header: str, data: bytes) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


NPY_HEADERS = st.builds(
    lambda descr, order, shape: f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}",
    st.sampled_from(["'<f4'", "'|O'", "'<f8'", "'>f4'", "'<U9999999'", "[('a','<f4')]", "None"]),
    st.sampled_from(["True", "False", "1", "None", "__import__('os').system('true')"]),
    st.sampled_from(["(3,)", "(3", "(-1,)", "(10**12,)", f"({10**12},)", "(3,0)", "()", "(2**70,)"])
    | st.sampled_from([f"({2**62},{2**62})", "(1e3,)", "3", "('a',)", "(3,)" * 400, "(True,)"]),
)
NPY_FILES = (
    st.builds(npy, NPY_HEADERS, st.binary(max_size=24))
    | damaged(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", b"\0" * 12))
    | st.binary(max_size=60)
)


@fuzz
@given(content=NPY_FILES)
def test_scores_of_a_member_are_read_or_refused(content: bytes, run: Path) -> None:
    member = exchange(run / "members" / "0000", "scores", content)
    margins = outcome(member.val_margins)
    assert margins is None or (margins.shape == (3,) and np.isfinite(margins).all())


PACK = {"format": 2, "split_digest": "d", "num_tiles": {"test": 1}, "bad_tiles": {}}


@fuzz
@given(content=json_files(PACK))
def test_pack_is_opened_or_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_bytes(content)
    outcome(lambda: open_pack(tmp_path))


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


def csv_files(whole: bytes) -> st.SearchStrategy[bytes]:
    return (
        damaged(whole)
        | tables()
        | st.binary(max_size=60)
        | st.sampled_from([b'"' + b"x" * 200_000, b"," * 100_000, b"\0" * 100, b"a\n" * 50_000])
    )


LABELS = b"tile,label\na.jpg,1\nb.jpg,0\n"


@fuzz
@given(content=csv_files(LABELS))
def test_labels_are_taken_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    predictions = pd.DataFrame({"tile": ["a.jpg", "b.jpg"], "label": [0, 1]})
    labels = outcome(lambda: read_labels(path, predictions))
    assert labels is None or set(labels) <= {0, 1}


WHOLE_TABLES = {
    "trials.csv": b"trial,state,val_f1,epochs,seconds,reason\n0,COMPLETE,0.5,3,1.5,\n"
    b"1,FAIL,,0,,x\n",
    "epochs.csv": b"trial,backbone,epoch,train_loss,train_accuracy,val_loss,val_accuracy,val_f1\n"
    b"0,small_cnn,1,0.5,0.8,0.5,0.8,0.5\n0,small_cnn,2,0.4,0.8,0.5,0.8,0.6\n",
    "validation.csv": b"tile,photograph,surface,label\na.jpg,007,D,1\nb.jpg,8,W,0\n",
    "space.toml": b'question = "Which?"\n',
    "evaluation/predictions.csv": b"tile,photograph,surface,label,trial_0,ensemble,calibrated\n"
    b"a.jpg,007,D,1,0.5,0.5,0.5\n",
    "evaluation/ledger.csv": b"opened_at,method,trials,threshold_rule,threshold,tta\n"
    b"1,mean,0,f1,0,\n",
}


@fuzz
@given(data=st.data())
def test_run_is_read_for_its_report_or_refused(data: st.DataObject, run: Path) -> None:
    (run / "evaluation").mkdir(exist_ok=True)
    about = {"data_summary": {"num_tiles": {"val": 2}}, "epochs": 3, "seed": 0, "weights": {}}
    choice = {"members": [{"trial": 0}], "ingredients": []}
    wholes = {
        **WHOLE_TABLES,
        "run.json": as_json(about),
        "ensemble.json": as_json(choice),
        "evaluation/metrics.json": as_json({"choice": choice, "members": []}),
    }
    for name, content in wholes.items():
        (run / name).write_bytes(content)
    name = data.draw(st.sampled_from(sorted(wholes)))
    content = wholes[name]
    trees = json_files(json.loads(content)) if name.endswith(".json") else csv_files(content)
    (run / name).write_bytes(data.draw(trees))
    found = outcome(lambda: read_run(run))
    if found is not None:
        assert isinstance(found.about, dict)
        assert found.choice is None or isinstance(found.choice, dict)


@fuzz
@given(content=csv_files(WHOLE_TABLES["trials.csv"]))
def test_members_of_a_run_are_opened_or_refused(content: bytes, run: Path) -> None:
    (run / "trials.csv").write_bytes(content)
    outcome(lambda: open_members(run, split_digest="split"))


# What is printed


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=50) | ODD_TEXTS)
def test_message_is_one_printable_line_whatever_it_quotes(text: str) -> None:
    def refuse() -> None:
        raise InputError(text)

    assert outcome(refuse) is None


def test_zip_member_of_another_size_than_listed_takes_no_more_memory(tmp_path: Path) -> None:
    """100 MiB of zeros, which the directory lists as 1 MB."""
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("Cracked/1.jpg", "w") as member:
            for _ in range(100):
                member.write(bytes(2**20))
        archive.writestr("Sound/1.jpg", PICTURES["JPEG"])
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
        (PICTURES["EPS"], "not a picture"),  # Pillow would start Ghostscript
        (progressive_bomb(), "a JPEG of 2"),
        (tiff_of_one_tile(32_000), "a TIFF with a tile of 32000"),
    ],
    ids=["EPS", "200 scans", "tile of a gigabyte"],
)
def test_picture_that_costs_more_than_it_shows_is_not_decoded(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(content)
    (tmp_path / "2.jpg").write_bytes(PICTURES["JPEG"])
    table = pd.DataFrame({"tile": ["1.jpg", "2.jpg"], "label": 1})
    bad: dict[str, str] = {}
    with contextlib.closing(Reader(tmp_path)) as reader:
        read_contents(Source(tmp_path, table, (), (), False, ""), reader, bad)
    assert list(bad) == ["1.jpg"]
    assert bad["1.jpg"].startswith(reason)
    with pytest.raises(ValueError):
        read_picture(io.BytesIO(content), (16, 16))
