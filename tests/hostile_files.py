"""What somebody might send in the place of a whole file: `…_files(whole)` is a strategy of such.

They begin valid and are then damaged, are built from odd parts, or are random.
"""

import copy
import hashlib
import io
import json
import math
import os
import stat
import struct
import tomllib
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors.torch
import torch
from hypothesis import reject
from hypothesis import strategies as st
from PIL import Image

from ensemble.training.backbones import build_model

Files = st.SearchStrategy[bytes]

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
            with rejected_if_too_deep():
                holder[last] = copy.deepcopy(value)
        elif kind == "remove":
            del holder[last]
        elif isinstance(holder, dict):
            holder[draw(ODD_TEXTS | st.text(max_size=8))] = holder.pop(last)
    return tree


def as_json(tree: Any) -> bytes:
    with rejected_if_too_deep():
        return json.dumps(tree).encode()


@contextmanager
def rejected_if_too_deep() -> Iterator[None]:
    """Draw another input where Python cannot make this one; files that are deeper are samples."""
    try:
        yield
    except RecursionError:
        reject()


def json_files(whole: bytes) -> Files:
    tree = json.loads(whole)
    return (
        altered(tree).map(as_json)
        | damaged(json.dumps(tree, indent=1).encode())
        | ODD_VALUES.map(as_json)
        | st.binary(max_size=60)
        | st.sampled_from([b"[" * 100_000, b"9" * 5000, b'{"a":' * 5000, b"\xff\xfe{", b"1e999999"])
    )


# TOML


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


def tiff_of_one_tile(side_px: int) -> bytes:
    """A TIFF of 16 × 16 grey pixels, cut from a tile of `side_px`."""
    return _tiff((322, 4, side_px), (323, 4, side_px), (324, 4, 8), (325, 4, 8))


def tiff_with_sides_in_letters() -> bytes:
    """A TIFF in one strip that says all the same how large its tiles are, and that in letters."""
    return _tiff((273, 4, 8), (278, 4, 16), (279, 4, 8), (322, 2, 97), (323, 2, 97))


def _tiff(*more: tuple[int, int, int]) -> bytes:
    """A TIFF of 16 × 16 grey pixels with `more` tags, each with its type and a value."""
    known = [(256, 16), (257, 16), (258, 8), (259, 1), (262, 1), (277, 1)]
    tags = sorted([*((tag, 4, value) for tag, value in known), *more])
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    start = b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(tags))
    return start + entries + bytes(4)


def progressive_bomb() -> bytes:
    content = encode("L", "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + 200 * scan + content[-2:]


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


def exported_files(whole: bytes) -> Files:
    """Damaged as a .zip, or an entry of it, with the digests of what it holds or with others."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}

    def with_entry(name: str, content: bytes, *, lists_it: bool = True) -> bytes:
        held = parts | {name: content}
        if lists_it:
            about = json.loads(held["contents.json"])
            about["sha256"][name] = hashlib.sha256(content).hexdigest()
            held["contents.json"] = json.dumps(about).encode()
        return write_zip([(n, c, zipfile.ZIP_STORED, 0, False) for n, c in held.items()], [])

    def with_json(name: str) -> Files:
        return json_files(parts[name]).map(lambda content: with_entry(name, content))

    def with_weights(name: str) -> Files:
        return safetensors_files(parts[name]).map(lambda content: with_entry(name, content))

    records = [name for name in parts if name.endswith(".json") and name != "contents.json"]
    weights = [name for name in parts if name.endswith(".safetensors")]
    return (
        damaged(whole)
        | zip_files(whole)
        | json_files(parts["contents.json"]).map(
            lambda content: with_entry("contents.json", content, lists_it=False)
        )
        | st.sampled_from(records).flatmap(with_json)
        | st.sampled_from(weights).flatmap(with_weights)
    )


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


class Bomb:
    """Unpickling it would make a folder."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.folder,)


# Scores


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
