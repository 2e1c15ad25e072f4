"""Members' weights in a .pt2 of torch.export, read as the plain numbers that they are there.

The program beside them is never opened. `torch.export.load` unpickles what a file asks it to,
evaluates its formulas as Python, and calls any function of torch's by name; none of that is needed,
because the file also holds the records of which an ensemble is made.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from ensemble.base.errors import InputError, short_repr

EXTRA = "extra/"
WEIGHTS = "data/weights/"
CONFIG = f"{WEIGHTS}model_weights_config.json"
NETWORKS = "networks."  # before a member's number and the name of a tensor
DTYPES = {4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64}


def read_network(file: Path, number: int, read: Callable[[str], bytes]) -> bytes:
    """The weights of a member, as a file of safetensors.

    Args:
        file: Path of the .pt2, for messages.
        number: Number of the member in the ensemble, from 0.
        read: Reads an entry by its name below the one folder of the file.

    Raises:
        InputError: A tensor is damaged, pickled, or of an unusual layout.
    """
    prefix = f"{NETWORKS}{number}."
    tensors = {}
    try:
        config = json.loads(read(CONFIG))["config"]
        for name, about in config.items():
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = _read_tensor(about, read)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = short_repr(str(error))
        raise InputError(f"{file}: damaged (its weights: {reason}); get the file anew") from None
    return safetensors.torch.save(tensors)


def _read_tensor(about: dict[str, Any], read: Callable[[str], bytes]) -> torch.Tensor:
    """Read a tensor of which `model_weights_config.json` says this."""
    meta = about["tensor_meta"]
    shape = [int(size["as_int"]) for size in meta["sizes"]]
    strides = [int(stride["as_int"]) for stride in meta["strides"]]
    dense = [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]
    plain = all(a == b or n < 2 for a, b, n in zip(strides, dense, shape, strict=True))
    if about["use_pickle"] is not False or not plain or meta["storage_offset"]["as_int"] != 0:
        raise ValueError("a tensor is pickled or not dense")
    content = bytearray(read(f"{WEIGHTS}{about['path_name']}"))
    dtype = DTYPES[meta["dtype"]]
    if len(content) != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise ValueError("a tensor has another size than its shape says")
    return torch.frombuffer(content, dtype=dtype).reshape(shape) if content else torch.empty(shape)
