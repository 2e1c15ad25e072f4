"""Hyperparameter search on Ray and ensembles for concrete crack classification.

The folder is the flow: `data` turns tiles into batches, `training` trains one member, `search` runs
many, `selection` chooses on validation data, `evaluation` opens the test split once.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ensemble.base.version import __version__

if TYPE_CHECKING:
    from ensemble.api import cut_photographs, label_tiles, load_ensemble, open_run, run_search
    from ensemble.base.errors import InputError

__all__ = [
    "InputError",
    "__version__",
    "cut_photographs",
    "label_tiles",
    "load_ensemble",
    "open_run",
    "run_search",
]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first asked for: it takes seconds."""
    if name in __all__:
        module = "ensemble.base.errors" if name == "InputError" else "ensemble.api"
        return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
