"""A file of ONNX → its metadata, read without a library of ONNX's, and its graph, run by one.

The metadata stands behind the graph, so that a digest in it can cover all bytes before. The layout
is that of a protocol buffer (https://protobuf.dev/programming-guides/encoding), a `ModelProto` of
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto, whose `metadata_props` is field 14.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ensemble.base.errors import InputError

FIRST_BYTE = b"\x08"  # of the field ir_version, which comes first
PROPERTIES, VARINT, LENGTH = 14, 0, 2
MAX_PROPERTIES_BYTES = 64 * 2**20
NO_ONNX = "pip install 'crack-ensemble[onnx]'"


class OnnxFile(NamedTuple):
    """What a file of ONNX holds beside its graph.

    Attributes:
        properties: Value of each entry of its `metadata_props`, by its key.
        body_bytes: Number of bytes before these.
    """

    properties: dict[str, bytes]
    body_bytes: int


def is_onnx(path: Path) -> bool:
    """Whether a file begins as one of ONNX does, and so is no .zip."""
    try:
        with path.open("rb") as file:
            return file.read(1) == FIRST_BYTE
    except OSError:
        return False


def read_properties(path: Path) -> OnnxFile:
    """Read the metadata of a file of ONNX whose last fields it is; the graph is passed over.

    Raises:
        InputError: The file is damaged, or holds another thing behind its metadata.
    """
    properties: dict[str, bytes] = {}
    body = 0
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            while (start := file.tell()) < size:
                field, kind = divmod(_read_number(file), 8)
                length = _read_number(file) if kind in (VARINT, LENGTH) else -1
                if kind == VARINT and not properties:
                    continue
                if kind != LENGTH or length > size - file.tell():
                    raise ValueError("a field is cut, or of a kind that is not known")
                if field != PROPERTIES:
                    if properties:
                        raise ValueError("the metadata is not the last part")
                    file.seek(length, 1)
                    continue
                if size - start > MAX_PROPERTIES_BYTES:
                    raise ValueError("its metadata is too large")
                body = body if properties else start
                key, value = _parse_property(file.read(length))
                if key in properties:
                    raise ValueError("its metadata names an entry twice")
                properties[key] = value
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged, or no file of ONNX ({error})") from None
    return OnnxFile(properties, body)


def _read_number(file: Any) -> int:
    """Read a number of seven bits a byte, the lowest first."""
    number = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            break
        number |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return number
    raise ValueError("a number is cut")


def _parse_property(content: bytes) -> tuple[str, bytes]:
    """Key and value of a `StringStringEntryProto`: fields 1 and 2, both text."""
    parts: dict[int, bytes] = {}
    place = 0
    while place < len(content):
        field = content[place] // 8
        length, shift = 0, 0
        while True:
            place += 1
            if place >= len(content) or shift > 63:
                raise ValueError("an entry of its metadata is cut")
            length |= (content[place] & 127) << shift
            shift += 7
            if content[place] < 128:
                break
        parts[field] = content[place + 1 : place + 1 + length]
        place += 1 + length
    return parts.get(1, b"").decode(), parts.get(2, b"")


class OnnxGraph:
    """The graph of a file of ONNX, which is run on the CPU.

    Args:
        path: Path of a file whose digests were compared.

    Raises:
        InputError: onnxruntime is not installed, or does not take the graph.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path}: needs onnxruntime to be run; {NO_ONNX}") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own kinds have no common parent but this
            reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
            raise InputError(f"{path}: onnxruntime does not take its graph ({reason})") from None
        (taken,) = self._session.get_inputs()
        self._name, self.window_px = taken.name, (int(taken.shape[1]), int(taken.shape[2]))

    def score(self, windows: np.ndarray) -> np.ndarray:
        """Each member's probability of a crack: (N, H, W, 3) uint8 windows → (M, N) float64."""
        (members,) = self._session.run(["members"], {self._name: windows})
        return np.asarray(members, dtype=np.float64).T
