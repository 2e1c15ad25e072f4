"""A file of weights as people save them → tensors in the names of a backbone.

DataParallel and DDP put `module.` before every name, Lightning and other trainers a name of their
own, torch.compile `_orig_mod.`; a checkpoint holds the tensors beside an epoch and an optimizer.
All of these can be read. Nothing but tensors, numbers and text is unpickled.
"""

import re
import textwrap
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ensemble.base.errors import InputError, short_repr
from ensemble.data.reading.archive import Archive

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
COUNTER = "num_batches_tracked"
STATISTICS = (COUNTER, "running_mean", "running_var")
NUM_NAMED = 3
NUM_LOOKED_AT = 200  # bytes that tell text from tensors
MOST_WORDS = 8  # of a prefix such as _orig_mod.module.model.backbone.
SAVE = "torch.save(model.state_dict(), 'FILE')"
# for a file that holds more than tensors, if its owner trusts it
CONVERT = (
    "import torch; x = torch.load({path}, map_location='cpu', weights_only=False); "
    "torch.save(x.get('state_dict', x) if isinstance(x, dict) else x.state_dict(), 'tensors.pth')"
)


def read_weights(
    path: Path, expected: Collection[str], *, backbone: str
) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a network from a file, wherever they stand in it.

    Args:
        path: .safetensors, a state dict, or a checkpoint that holds one.
        expected: Names of tensors that the network must get.
        backbone: Name of the network, for people.

    Returns:
        Tensors in the names of the backbone (those of its last layer as the file has them), and
        what was ignored in the file, for people; "" for nothing.

    Raises:
        InputError: The file is missing, holds more than tensors, or two networks that both fit.
    """
    loaded = _unwrap(_load(path), path)
    prefixes = Counter(
        prefix
        for name in loaded
        for prefix in _prefixes(name)
        if name.removeprefix(prefix) in expected
    )
    whole = [prefix for prefix, count in prefixes.items() if count == len(expected)]
    if len(whole) > 1:
        raise InputError(
            f"weights file {path}: holds {len(whole)} networks that fit {backbone}, with names "
            f"that begin with {name_first([short_repr(prefix) for prefix in whole])}; save one of "
            f"them alone: {SAVE}"
        )
    (prefix, count), *_ = prefixes.most_common(1) or [("", 0)]
    if 2 * count < len(expected):
        prefix = ""  # another network, which has some of the names by chance
    ignored = [f"names without their {prefix!r}"] if prefix else []
    if left_out := [name for name in loaded if not name.startswith(prefix)]:
        shown = [short_repr(name) for name in put_statistics_last(left_out)]
        ignored.append(f"left out: {name_first(shown)}")
    tensors = {
        name.removeprefix(prefix): t for name, t in loaded.items() if name.startswith(prefix)
    }
    return tensors, "; ".join(ignored)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors without unpickling anything but tensors.

    Raises:
        InputError: The file is missing or is no file of named tensors.
    """
    return _unwrap(_load(path), path)


def _prefixes(name: str) -> list[str]:
    """List the possible prefixes of a name: nothing, or its first words."""
    words = name.split(".", MOST_WORDS)[:-1]
    return ["".join(f"{word}." for word in words[:count]) for count in range(len(words) + 1)]


def name_first(names: Sequence[str]) -> str:
    """Name the first three, and say how many more there are."""
    more = len(names) - NUM_NAMED
    return ", ".join(names[:NUM_NAMED]) + (f" and {more} more" if more > 0 else "")


def put_statistics_last(names: Iterable[str]) -> list[str]:
    """Names of tensors, of BatchNorm's statistics and counters last: a weight tells more."""
    return sorted(names, key=lambda name: name.endswith(STATISTICS))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"weights file {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():  # about strange files
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"weights file {path}: not readable ({error})") from None
    except Exception as error:  # torch.load raises whatever its parsers do
        raise InputError(f"weights file {path}: {_why_not(str(error), path, error)}") from None


def _why_not(text: str, path: Path, error: Exception) -> str:
    """Say why torch could not read a file as tensors, and what to do."""
    if "TorchScript" in text:
        return (
            "a TorchScript program, not a file of tensors; where you trust it, save its tensors: "
            f"torch.save(torch.jit.load({str(path)!r}).state_dict(), 'tensors.pth')"
        )
    if archive := _why_no_archive(path):
        return archive
    pickled = re.search(r"GLOBAL (\S{1,100}) was not", text)
    if pickled:
        return (
            f"not a file of tensors alone: it holds a pickled {pickled[1]}, which could run any "
            f"code and is not loaded; where you trust it, save its tensors in Python: "
            f"{CONVERT.format(path=repr(str(path)))}"
        )
    if begins := _begin_of_text(path):
        return (
            f"is text, not a file of tensors (it begins with {short_repr(begins)}); download it "
            f"again, or save tensors with {SAVE}"
        )
    reason = text.splitlines()[0] if text else type(error).__name__
    shortened = textwrap.shorten(reason, 120, placeholder=" …")
    return f"not a file of tensors ({shortened}); save them with {SAVE}"


def _why_no_archive(path: Path) -> str:
    """Say what a .zip is that torch did not save as tensors, and what to do; "" if it is none."""
    if not zipfile.is_zipfile(path):
        return ""
    try:
        with Archive(path) as archive:
            names = sorted(archive.members)
    except InputError:
        return ""
    if any(name.endswith("/data.pkl") for name in names):
        return ""  # torch's own, of which torch knows best
    if any(name.endswith("/models/model.json") for name in names):
        return "is a program of torch.export, not a file of tensors; give the weights of a member"
    inside = [name for name in names if name.endswith(".safetensors")]
    if "contents.json" in names and inside:
        return (
            "is an exported ensemble, not a file of tensors; unpack it and give the weights of one "
            f"member in it, such as {short_repr(inside[0])}"
        )
    return "is a .zip, not a file of tensors; unpack it and give one file of them"


def _begin_of_text(path: Path) -> str:
    """The first words of a file of text, such as a web page in place of a download; "" if none."""
    with path.open("rb") as file:
        head = file.read(NUM_LOOKED_AT)
    text = head.decode("ascii", errors="replace")
    is_text = all(c.isprintable() or c.isspace() for c in text) and head.isascii()
    return textwrap.shorten(text, 60, placeholder=" …") if is_text else ""


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    """Find the names and tensors in a loaded file, and check that they are ones."""
    for _ in range(len(WRAPPERS)):
        if not isinstance(loaded, Mapping) or _is_state_dict(loaded):
            break
        inner = [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if len(inner) != 1:
            break
        loaded = loaded[inner[0]]
    if not isinstance(loaded, Mapping) or not _is_state_dict(loaded):
        has = ""
        if isinstance(loaded, Mapping) and loaded:
            has = f"; it has {name_first([short_repr(key) for key in loaded])}"
        raise InputError(
            f"weights file {path}: expected a state dict (names → tensors), alone or as "
            f"'state_dict', 'model_state_dict' or 'model'{has}; save one with {SAVE}"
        )
    return dict(loaded)


def _is_state_dict(loaded: Mapping[Any, Any]) -> bool:
    return bool(loaded) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
