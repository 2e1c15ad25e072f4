"""What several test modules start from: small tiles, a quick configuration, a member on disk.

Nothing here imports torch before a test needs it: `--pure` is for tests that never do.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported, as commands do

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from source_files import is_pure

from ensemble.data.synthetic import draw_dataset

if TYPE_CHECKING:
    from torch import nn

    from ensemble.data.batches import SplitTiles
    from ensemble.training.checkpoint import Member
    from ensemble.training.config import TrialConfig
    from ensemble.training.loop import Epoch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pure",
        action="store_true",
        help="only files of tests without torch, Ray, Optuna, a browser or processes of their own",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, with --pure, the files that are not: not even their imports are paid for."""
    is_test = collection_path.name.startswith("test_")
    return True if config.getoption("--pure") and is_test and not is_pure(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with most slow tests come first, so that workers of xdist end at the same time."""
    num_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -num_slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread(pytestconfig: pytest.Config) -> Iterator[None]:
    """The same sums on every machine, and no more than one core."""
    if pytestconfig.getoption("--pure"):
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a tiny data set in `tiles`."""
    here = tmp_path_factory.mktemp("work")
    draw_dataset(here / "tiles", photographs_per_surface=4, rows=3, columns=4, tile_size_px=32)
    return here


@pytest.fixture(scope="session")
def make_bright_and_dark() -> Callable[..., SplitTiles]:
    """Noisy 16-pixel tiles, every second one bright (1 = cracked): anyone can tell them apart."""
    import torch

    from ensemble.data.batches import place_tiles

    def make(count: int, *, seed: int = 0) -> SplitTiles:
        generator = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        noise = generator.integers(0, 100, (count, 16, 16, 3))
        pixels = (noise + 120 * labels[:, None, None, None]).astype(np.uint8)
        return place_tiles(pixels, np.arange(count), labels, torch.device("cpu"))

    return make


@pytest.fixture(scope="session")
def make_trial_config() -> Callable[..., TrialConfig]:
    """A configuration that trains in no time; settings by section."""
    from ensemble.training.config import parse_config

    def make(*, seed: int = 0, **sections: dict[str, Any]) -> TrialConfig:
        defaults: dict[str, dict[str, Any]] = {
            "model": {"backbone": "small_cnn", "dropout": 0.0},
            "optimisation": {"epochs": 2, "global_batch_size": 16, "precision": "float32"},
            "loss": {},
            "data": {"image_size_px": 16, "augmentation": 0.0},
        }
        merged = {name: {**values, **sections.get(name, {})} for name, values in defaults.items()}
        return parse_config({**merged, "seed": seed}, where="test")

    return make


@pytest.fixture(scope="session")
def make_epoch() -> Callable[..., Epoch]:
    """An epoch with a given number, validation F1 and margins."""
    from ensemble.training.loop import Epoch

    def make(*, number: int = 1, val_f1: float = 0.75, margins: list[float]) -> Epoch:
        return Epoch(
            number=number,
            train_loss=0.5,
            train_accuracy=0.75,
            learning_rate=1e-3,
            val_metrics={"f1": val_f1, "threshold": 0.5},
            val_margins=np.array(margins, dtype=np.float32),
            improved=True,
            best_val_f1=val_f1,
            epochs_since_best=0,
            train_seconds=1.0,
            val_seconds=1.0,
            images_per_second=64.0,
            last=False,
            precision="float32",
            batch_losses=np.zeros(0, np.float32),
            optimizer_state={},
            average={},
            weights={},
        )

    return make


@pytest.fixture(scope="session")
def write_member(
    make_epoch: Callable[..., Epoch], make_trial_config: Callable[..., TrialConfig]
) -> Callable[..., Member]:
    """Write a small_cnn (or a given network) as a member and open it."""
    import torch

    from ensemble.training import checkpoint
    from ensemble.training.backbones import build_model

    def write(
        folder: Path,
        *,
        trial: int = 0,
        number: int = 1,
        val_f1: float = 0.75,
        margins: list[float] | None = None,
        model: nn.Module | None = None,
        config: TrialConfig | None = None,
    ) -> Member:
        if model is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(trial)
                model = build_model("small_cnn")
        epoch = make_epoch(number=number, val_f1=val_f1, margins=margins or [-1.0, 0.5, 2.0])
        checkpoint.write_member(
            folder,
            model.state_dict(),
            epoch.val_margins,
            **epoch.describe_result(),
            config=config or make_trial_config(),
            trial=trial,
            split_digest="split",
            initial_weights_digest="initial",
        )
        return checkpoint.open_member(folder)

    return write
