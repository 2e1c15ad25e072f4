"""Facts about a run that is cut: it goes on from its last epoch and ends with the same bits."""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from ensemble.base.errors import InputError
from ensemble.data.batches import SplitTiles
from ensemble.training import member as member_module
from ensemble.training.checkpoint import (
    load_state,
    open_member,
    remove_state,
    save_state,
    write_state_tensors,
)
from ensemble.training.config import TrialConfig
from ensemble.training.initial_weights import digest_tensors, make_initial_state, save_initial_state
from ensemble.training.loop import Epoch
from ensemble.training.member import TrainingData, train_member

MakeTiles = Callable[..., SplitTiles]
MakeConfig = Callable[..., TrialConfig]
EPOCHS = 4


@dataclass(frozen=True)
class Run:
    """What `train_member` is given, whatever the folder; plain enough to cross a process border."""

    config: TrialConfig
    data: TrainingData
    initial_weights: Path
    trial: int = 0
    is_writer: bool = True

    def train(self, folder: Path, *, cut_after: int | None = None) -> list[Epoch]:
        """Train, and be gone after some epochs as if killed: nothing is written at the end."""
        epochs = train_member(
            self.config,
            self.data,
            trial=self.trial,
            initial_weights=self.initial_weights,
            folder=folder,
            is_writer=self.is_writer,
        )
        heard = list(islice(epochs, cut_after))
        epochs.close()  # type: ignore[attr-defined]
        return heard


def told(epochs: list[Epoch]) -> list[dict[str, Any]]:
    """Everything an epoch says but for how long it took."""
    return [
        {
            **{k: v for k, v in epoch.row().items() if "second" not in k},
            "improved": epoch.improved,
            "epochs_since_best": epoch.epochs_since_best,
            "last": epoch.last,
            "margins": epoch.val_margins.tobytes(),
        }
        for epoch in epochs
    ]


def bits_in(folder: Path) -> dict[str, Any]:
    """What a folder holds: weights, optimizer and scores after the last and the best epoch."""
    state = json.loads((folder / "state.json").read_text())
    record = open_member(folder).record
    return {
        "state": (state["epoch"]["number"], state["tensors_sha256"]),
        "member": (record.epoch, record.weights_sha256, record.scores_sha256),
        "files": {path.name for path in folder.iterdir()},
    }


def change_state(folder: Path, **values: Any) -> None:
    record = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**record, **values}))


def tensors_of(folder: Path) -> Path:
    (path,) = folder.glob("state-*.safetensors")
    return path


@pytest.fixture(scope="module")
def make_run(
    tmp_path_factory: pytest.TempPathFactory,
    make_bright_and_dark: MakeTiles,
    make_trial_config: MakeConfig,
) -> Callable[..., Run]:
    """A run of four epochs, of everything that could differ in the next process."""

    def make(*, trial: int = 0, split: str = "split", **sections: dict[str, Any]) -> Run:
        defaults: dict[str, dict[str, Any]] = {
            "model": {"backbone": "small_cnn", "dropout": 0.3},
            "optimisation": {
                "epochs": EPOCHS,
                "learning_rate": 0.01,
                "warmup_epochs": 1.5,
                "global_batch_size": 15,
            },
            "data": {"augmentation": 0.5},
        }
        config = make_trial_config(
            **{name: {**values, **sections.get(name, {})} for name, values in defaults.items()}
        )
        backbone = config.model.backbone
        initial_weights = tmp_path_factory.mktemp("initial") / f"{backbone}.safetensors"
        save_initial_state(make_initial_state(backbone, "none", seed=0), initial_weights)
        data = TrainingData(make_bright_and_dark(40), make_bright_and_dark(20, seed=1), split)
        return Run(config, data, initial_weights, trial)

    return make


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Run]
) -> tuple[list[Epoch], Path]:
    """The epochs and the folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "member"
    return make_run().train(folder), folder


@pytest.fixture
def run(make_run: Callable[..., Run]) -> Run:
    return make_run()


@pytest.fixture
def cut(tmp_path: Path, run: Run) -> Path:
    """The folder of a run that was cut after its second epoch."""
    run.train(tmp_path / "cut", cut_after=2)
    return tmp_path / "cut"


# --- the same bits


@pytest.mark.parametrize(
    "sections",
    [
        {"optimisation": {"optimizer": "adamw", "schedule": "cosine"}},
        {"optimisation": {"optimizer": "adam", "schedule": "constant", "warmup_epochs": 0.0}},
        {"optimisation": {"optimizer": "sgd", "momentum": 0.9}},
        {"optimisation": {"optimizer": "sgd", "momentum": 0.0, "precision": "bfloat16"}},
        {"model": {"fine_tuning": "unfreeze_later", "frozen_epochs": 2}},
        {
            "model": {"fine_tuning": "unfreeze_later", "frozen_epochs": 2},
            "optimisation": {"optimizer": "sgd"},
        },
        {"model": {"fine_tuning": "frozen"}},
        {
            "model": {"backbone": "mobilenet_v3_small"},
            "optimisation": {"ema_decay": 0.9},
            "data": {"image_size_px": 32},
        },
        {"model": {"backbone": "squeezenet1_1"}, "data": {"image_size_px": 32}},
    ],
    ids=[
        "adamw, warm-up and cosine",
        "adam",
        "sgd with momentum",
        "sgd in bfloat16",
        "head first, adamw",
        "head first, sgd",
        "head alone",
        "mobilenet with a moving average",
        "squeezenet",
    ],
)
def test_run_cut_after_any_epoch_ends_with_the_same_bits(
    sections: dict[str, dict[str, Any]], tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(**sections)
    expected = run.train(tmp_path / "whole")
    assert [epoch.last for epoch in expected] == [False] * (EPOCHS - 1) + [True]
    for cut_after in range(1, EPOCHS + 1):
        folder = tmp_path / f"cut after {cut_after}"
        first = run.train(folder, cut_after=cut_after)
        second = run.train(folder)
        assert told(first) == told(expected[:cut_after])
        assert told(second) == told(expected[cut_after - 1 :])
        assert bits_in(folder) == bits_in(tmp_path / "whole")


def test_run_cut_after_every_epoch_ends_with_the_same_bits(
    tmp_path: Path, run: Run, whole: tuple[list[Epoch], Path]
) -> None:
    expected, folder = whole
    for number in range(1, EPOCHS + 1):
        heard = run.train(tmp_path, cut_after=1 if number == 1 else 2)
        assert told(heard) == told(expected[max(0, number - 2) : number])
    assert bits_in(tmp_path) == bits_in(folder)


def test_first_epoch_heard_is_the_one_a_killed_process_may_not_have_told(
    tmp_path: Path, run: Run
) -> None:
    """Down to how long it took."""
    *_, before = run.train(tmp_path, cut_after=2)
    (after,) = run.train(tmp_path, cut_after=1)
    assert after.row() == before.row()
    assert told([after]) == told([before])


def test_state_of_the_last_epoch_is_told_and_nothing_is_trained(tmp_path: Path, run: Run) -> None:
    *_, last = run.train(tmp_path)
    before = bits_in(tmp_path)
    (again,) = run.train(tmp_path)
    assert again.row() == last.row()
    assert again.last
    assert bits_in(tmp_path) == before


def test_patience_is_counted_across_the_cut(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    """The first epoch is perfect: nothing can improve on it."""
    run = make_run(
        model={"dropout": 0.0},
        optimisation={"epochs": 20, "early_stopping_patience": 3, "warmup_epochs": 0.0},
        data={"augmentation": 0.0},
    )
    expected = run.train(tmp_path / "whole")
    best = next(epoch.number for epoch in expected if epoch.best_val_f1 == 1)
    assert [epoch.number for epoch in expected][-1] == best + 3
    for cut_after in range(1, best + 4):
        folder = tmp_path / f"cut after {cut_after}"
        run.train(folder, cut_after=cut_after)
        assert told(run.train(folder)) == told(expected[cut_after - 1 :])


def test_state_holds_all_that_the_optimizer_knows_and_no_more(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(model={"fine_tuning": "unfreeze_later", "frozen_epochs": 1})
    head = {f"classifier.1.{what}" for what in ("weight", "bias")}
    for number in (1, 2):
        *_, epoch = run.train(tmp_path, cut_after=number)
        trained = {key.partition(".")[2] for key in epoch.optimizer_state}
        assert {key.partition(".")[0] for key in epoch.optimizer_state} == {
            "step",
            "exp_avg",
            "exp_avg_sq",
        }
        assert trained == head if number == 1 else trained > head


# --- what is on disk


def test_folder_holds_one_state_and_one_member(whole: tuple[list[Epoch], Path]) -> None:
    _, folder = whole
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("epoch-"))
    assert names == [".lock", "member.json", tensors_of(folder).name, "state.json"]
    assert tensors_of(folder).name.startswith(f"state-{EPOCHS}-")
    assert len(list(folder.glob("epoch-*"))) == 2


def test_what_a_process_killed_while_writing_left_is_cleared_away(cut: Path, run: Run) -> None:
    for name in (".state-3-01234567.safetensors.99.tmp", ".state.json.99.tmp"):
        (cut / name).write_bytes(b"half")
    run.train(cut, cut_after=1)
    assert not list(cut.glob(".*.tmp"))


@pytest.mark.parametrize("failing", ["tensors", "record"])
def test_state_that_cannot_be_written_leaves_the_one_before(
    failing: str, cut: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = json.loads((cut / "state.json").read_text())["identity"]
    before = bits_in(cut)["state"]
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if (target.name == "state.json") == (failing == "record"):
            raise OSError("cut")
        return replace(path, target)

    state = load_state(cut, identity=identity)
    assert state is not None
    epoch = Epoch(**{**vars(state.epoch), "number": 3})
    monkeypatch.setattr(Path, "replace", fail)

    def save() -> None:
        tensors = write_state_tensors(cut, torch.nn.Identity(), 3, epoch.optimizer_state, {})
        save_state(cut, epoch, tensors, identity=identity)

    with pytest.raises(InputError, match="cut"):
        save()
    again = load_state(cut, identity=identity)
    assert again is not None
    assert (again.epoch.number, again.sha256) == before


def test_removed_state_leaves_the_member_and_can_be_removed_again(
    tmp_path: Path, cut: Path
) -> None:
    member = open_member(cut)
    for _ in range(2):
        remove_state(cut)
        assert {path.name for path in cut.iterdir()} == {
            ".lock",
            "member.json",
            member.record.weights_file,
            member.record.scores_file,
        }
    remove_state(tmp_path / "nowhere")


# --- what is no state


def set_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no record": lambda folder: (folder / "state.json").unlink(),
    "no tensors": lambda folder: tensors_of(folder).unlink(),
    "truncated tensors": lambda folder: os.truncate(tensors_of(folder), 1000),
    "a flipped bit": lambda folder: set_bit(tensors_of(folder)),
    "empty record": lambda folder: (folder / "state.json").write_bytes(b""),
    "half a record": lambda folder: os.truncate(folder / "state.json", 100),
    "not utf-8": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe"),
    "null": lambda folder: (folder / "state.json").write_bytes(b"null"),
    "deep record": lambda folder: (folder / "state.json").write_bytes(b"[" * 100_000),
    "another format": lambda folder: change_state(folder, format=3),
    "an unknown key": lambda folder: change_state(folder, more=1),
    "another run": lambda folder: change_state(folder, identity="0" * 64),
    "a path": lambda folder: change_state(folder, tensors_file="../state-2-01234567.safetensors"),
    "no figures": lambda folder: change_state(folder, epoch={}),
    "no member": lambda folder: (folder / "member.json").unlink(),
    "no weights": lambda folder: next(folder.glob("epoch-*.safetensors")).unlink(),
    "damaged weights": lambda folder: set_bit(next(folder.glob("epoch-*.safetensors"))),
    "damaged scores": lambda folder: set_bit(next(folder.glob("epoch-*.npy"))),
}


@pytest.fixture(scope="module")
def cut_without_improvement(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Run]
) -> tuple[Run, Path, list[Epoch]]:
    """A run cut after an epoch that was not its best, and the whole run."""
    run = make_run(model={"dropout": 0.0}, data={"augmentation": 0.0}, optimisation={"epochs": 6})
    folder = tmp_path_factory.mktemp("worse")
    expected = run.train(folder / "whole")
    number = next(epoch.number for epoch in expected if not epoch.improved)
    assert 1 < number < 6
    run.train(folder / "cut", cut_after=number)
    return run, folder, expected


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_or_foreign_state_starts_again_and_ends_the_same(
    damage: Callable[[Path], Any],
    tmp_path: Path,
    cut_without_improvement: tuple[Run, Path, list[Epoch]],
) -> None:
    run, folder, expected = cut_without_improvement
    damaged = Path(shutil.copytree(folder / "cut", tmp_path / "cut"))
    damage(damaged)
    assert told(run.train(damaged)) == told(expected)
    assert bits_in(damaged) == bits_in(folder / "whole")


@pytest.mark.parametrize(
    "other",
    [
        {"optimisation": {"learning_rate": 0.02}},
        {"data": {"augmentation": 0.4}},
        {"trial": 1},
        {"split": "other"},
    ],
    ids=["learning rate", "augmentation", "trial", "split"],
)
def test_state_of_another_run_is_not_gone_on_from(
    other: dict[str, Any], tmp_path: Path, cut: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(**other)
    expected = run.train(tmp_path / "whole")
    assert told(run.train(cut)) == told(expected)
    assert bits_in(cut) == bits_in(tmp_path / "whole")


def test_state_from_other_initial_weights_is_not_gone_on_from(
    tmp_path: Path, cut: Path, run: Run
) -> None:
    other = tmp_path / "other.safetensors"
    save_initial_state(make_initial_state("small_cnn", "none", seed=1), other)
    epochs = Run(run.config, run.data, other).train(cut)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]


# --- killed between the state and the member


def test_member_that_the_kill_prevented_is_made_from_the_state(
    tmp_path: Path, run: Run, whole: tuple[list[Epoch], Path]
) -> None:
    """Killed between the two files of the first epoch: a state, and no member."""
    run.train(tmp_path, cut_after=1)
    for path in [tmp_path / "member.json", *tmp_path.glob("epoch-*")]:
        path.unlink()
    (epoch,) = run.train(tmp_path, cut_after=1)
    member = open_member(tmp_path)
    assert (epoch.number, member.record.epoch) == (1, 1)
    assert np.array_equal(member.val_margins(), epoch.val_margins)
    weights = load_state(
        tmp_path, identity=json.loads((tmp_path / "state.json").read_text())["identity"]
    )
    assert weights is not None
    assert digest_tensors(member.load_model().state_dict()) == digest_tensors(weights.weights)
    run.train(tmp_path)
    assert bits_in(tmp_path) == bits_in(whole[1])


@pytest.mark.parametrize("cut_after", range(1, EPOCHS + 1))
def test_member_of_a_later_epoch_than_the_state_does_not_outlive_the_run(
    cut_after: int, tmp_path: Path, run: Run, whole: tuple[list[Epoch], Path]
) -> None:
    """Neither beside an older state nor beside none."""
    expected, folder = whole
    for older in (False, True):
        mixed = Path(shutil.copytree(folder, tmp_path / f"mixed {older}"))
        remove_state(mixed)
        if older:
            run.train(tmp_path / "older", cut_after=cut_after)
            for path in (tmp_path / "older").glob("state*"):
                shutil.copy(path, mixed)
        epochs = run.train(mixed)
        assert told(epochs) == told(expected[-len(epochs) :])
        assert bits_in(mixed) == bits_in(folder)


# --- several processes


def train_until_killed(_: int, run: Run, folder: Path, ready: Any) -> None:
    torch.set_num_threads(1)
    for epoch in train_member(
        run.config,
        run.data,
        trial=run.trial,
        initial_weights=run.initial_weights,
        folder=folder,
    ):
        if epoch.number == 2:
            ready.set()
            signal.pause()


def test_two_processes_never_train_one_member_and_the_second_goes_on_for_a_killed_one(
    tmp_path: Path,
    run: Run,
    whole: tuple[list[Epoch], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, folder = whole
    context = torch.multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=train_until_killed, args=(0, run, tmp_path, ready))
    other.start()
    try:
        assert ready.wait(120)
        monkeypatch.setattr(member_module, "LOCK_WAIT_SECONDS", 0.3)
        with pytest.raises(InputError, match="another process") as refused:
            run.train(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    finally:
        other.kill()
        other.join()
    monkeypatch.undo()
    assert told(run.train(tmp_path)) == told(expected[1:])
    assert bits_in(tmp_path) == bits_in(folder)


NUM_WORKERS = 2


def train_among_workers(rank: int, run: Run, folder: Path) -> None:
    """Three runs: whole, cut and gone on, and one where a worker does not find the state."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=NUM_WORKERS,
        timeout=timedelta(seconds=120),
    )
    try:
        own = Run(run.config, run.data, run.initial_weights, is_writer=rank == 0)
        heard = [own.train(folder / "whole")]
        for cut_after in (1, 2, 3):
            own.train(folder / f"cut after {cut_after}", cut_after=cut_after)
            heard.append(own.train(folder / f"cut after {cut_after}"))
        own.train(folder / "lost", cut_after=3)
        heard.append(own.train(folder / ("lost" if rank != 1 else "elsewhere")))
    finally:
        dist.destroy_process_group()
    digests = [digest_of(told(epochs), epochs[-1].optimizer_state) for epochs in heard]
    rows = [[epoch.number for epoch in epochs] for epochs in heard]
    (folder / f"{rank}.json").write_text(json.dumps({"digests": digests, "numbers": rows}))


def digest_of(rows: list[dict[str, Any]], optimizer_state: dict[str, Tensor]) -> str:
    """Digest of the last two epochs, which all runs have in common."""
    text = repr(rows[-2:]) + digest_tensors(optimizer_state)
    return hashlib.sha256(text.encode()).hexdigest()


def train_as_other_worker(index: int, *arguments: Any) -> None:
    torch.set_num_threads(1)
    train_among_workers(index + 1, *arguments)


@pytest.fixture(scope="module")
def heard_by_workers(
    tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Run]
) -> tuple[list[dict[str, Any]], Path]:
    """What each of three workers heard, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("workers")
    run = make_run(model={"fine_tuning": "unfreeze_later", "frozen_epochs": 2})
    others = torch.multiprocessing.spawn(
        train_as_other_worker, (run, folder), nprocs=NUM_WORKERS - 1, join=False
    )
    train_among_workers(0, run, folder)  # this process is the first worker
    while not others.join():
        pass
    files = [folder / f"{rank}.json" for rank in range(NUM_WORKERS)]
    return [json.loads(file.read_text()) for file in files], folder


@pytest.mark.slow
def test_workers_go_on_together_and_end_with_the_same_bits(
    heard_by_workers: tuple[list[dict[str, Any]], Path],
) -> None:
    heard, folder = heard_by_workers
    for worker in heard:
        assert worker["numbers"][:4] == [[1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [3, 4]]
        assert len({*worker["digests"], *heard[0]["digests"]}) == 1
    for cut_after in (1, 2, 3):
        assert bits_in(folder / f"cut after {cut_after}") == bits_in(folder / "whole")


@pytest.mark.slow
def test_workers_start_again_together_where_one_does_not_find_the_state(
    heard_by_workers: tuple[list[dict[str, Any]], Path],
) -> None:
    heard, folder = heard_by_workers
    assert [worker["numbers"][4] for worker in heard] == [[1, 2, 3, 4]] * NUM_WORKERS
    assert not (folder / "elsewhere").exists()
    assert bits_in(folder / "lost") == bits_in(folder / "whole")
