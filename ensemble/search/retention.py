"""Which members keep their weights, and how much disk a search needs.

Each trial leaves its best epoch, so a search of two hundred trials would keep two hundred networks,
of which an ensemble uses five. All records and validation scores are kept. The best `keep` members,
by the order in which an ensemble is chosen, and the members of a chosen ensemble keep their
weights.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ensemble.base.errors import InputError
from ensemble.data.pack import Pack
from ensemble.run.members import member_folder, rank_members
from ensemble.search.budget import Budget
from ensemble.search.space import Space
from ensemble.selection.choice import read_choice
from ensemble.training.checkpoint import Member, drop_weights, open_member, remove_member

STATE_SIZE = 3  # in networks: the weights and an optimiser's two moments
BYTES_PER_EPOCH = 1024  # a row in the study and one in a table, there twice while it is written
BYTES_PER_TRIAL = 20 * 1024  # folder, records, rows
BYTES_PER_RUN = 6 * 1024**2  # the study (0.1 MB) with its journal (4.1 MB), pictures, tables


class Retention:
    """Drops the weights that a run no longer needs, whenever a trial has ended.

    Records that were read are remembered, so that a call only looks at each file's date.

    Args:
        run: Folder of the run.
        keep: Members that keep their weights, at least one.
        log: Takes a line for the person.
    """

    def __init__(self, run: Path, keep: int, log: Callable[[str], None] = print):
        assert keep >= 1
        self._run, self._keep, self._log = run, keep, log
        self._lost: set[int] = set()  # trials whose member is missing or damaged
        self._known: dict[int, tuple[tuple[int, int], Member]] = {}

    def keep_best(self, finished: Iterable[int], failed: Iterable[int] = ()) -> list[int]:
        """Drop the weights of all but the best finished trials, and the members of failed ones.

        The members that `ensemble.json` names keep their weights too, so that a chosen ensemble
        still works when its search is extended. Where `keep` was raised in between, dropped weights
        stay dropped and the best of the rest are kept. A trial in neither list may be training and
        is not touched. A finished trial whose member is missing or damaged is named and left as it
        is.

        Args:
            finished: Numbers of the trials that ended by themselves or by early stopping.
            failed: Numbers of the trials that failed.

        Returns:
            Numbers of the trials that lost weights, in order.

        Raises:
            InputError: The chosen ensemble is damaged.
        """
        lost = []
        for trial in failed:
            folder = member_folder(self._run, trial)
            if (folder / "member.json").exists():
                lost.append(trial)
            remove_member(folder)
        members = [self._member(trial) for trial in finished]
        kept = [member for member in members if member is not None and member.has_weights]
        choice = read_choice(self._run)
        named = {self._run / member.folder for member in choice.members} if choice else set()
        for member in rank_members(kept)[self._keep :]:
            if member.folder not in named:
                drop_weights(member.folder)
                lost.append(member.trial)
        return sorted(lost)

    def _member(self, trial: int) -> Member | None:
        folder = member_folder(self._run, trial)
        record = folder / "member.json"
        about = record.stat() if record.exists() else None
        stamp = (about.st_ino, about.st_mtime_ns) if about else (0, 0)
        if trial not in self._known or self._known[trial][0] != stamp:
            try:
                member = open_member(folder)
                member.check()
            except InputError as error:
                self._say_lost(trial, error)
                return None
            if not member.has_weights:
                drop_weights(folder)  # a process killed on the way left them
            self._known[trial] = stamp, member
        return self._known[trial][1]

    def _say_lost(self, trial: int, error: InputError) -> None:
        if trial not in self._lost:
            self._lost.add(trial)
            self._log(
                f"{error}: trial {trial} stays finished, and no ensemble can use it; a larger "
                "--trials trains another one"
            )


def forecast_disk(
    sizes: Mapping[str, int],
    *,
    keep: int,
    num_trials: int,
    epochs: int,
    max_concurrent_trials: int,
    num_val_tiles: int,
) -> int:
    """Forecast the most bytes that the folder of a run grows by, from an empty one to its end.

    Each network counts as the largest backbone. Counted are the weights of the best `keep` trials;
    the member and the training state of each running trial, both twice while new ones are written;
    the validation scores of all trials; study, records and tables. Not counted are `initial/`, the
    packed tiles, members that a chosen ensemble keeps beyond `keep`, evaluation and report.

    Args:
        sizes: Bytes of the weights of each backbone.
        keep: Members that keep their weights.
        num_trials: Trials of the search.
        epochs: Epochs of a trial, at most.
        max_concurrent_trials: Trials at a time.
        num_val_tiles: Tiles of the validation split.
    """
    num_running = min(max_concurrent_trials, num_trials)
    num_networks = min(keep, num_trials - num_running) + num_running * (2 + 2 * STATE_SIZE)
    # a running trial: its member's scores, a new member's or a state's two times
    num_scores = num_trials + 2 * num_running
    return (
        num_networks * max(sizes.values())
        + num_scores * 4 * num_val_tiles
        + num_trials * (BYTES_PER_TRIAL + epochs * BYTES_PER_EPOCH)
        + BYTES_PER_RUN
    )


def check_disk(
    folder: Path, space: Space, packed: Pack, budget: Budget, keep: int, num_trials: int
) -> str:
    """Say how large the run's folder becomes.

    Raises:
        InputError: The disk has less room.
    """
    sizes = {file.stem: file.stat().st_size for file in (folder / "initial").glob("*.safetensors")}
    needed = forecast_disk(
        sizes,
        keep=keep,
        num_trials=num_trials,
        epochs=int(space.largest("optimisation.epochs")),
        max_concurrent_trials=budget.max_concurrent_trials,
        num_val_tiles=packed.record["num_tiles"]["val"],
    )
    there = sum(file.stat().st_size for file in (folder / "members").rglob("epoch-*"))
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise InputError(
            f"{folder} may need {_gigabytes(needed - there)} more, {_gigabytes(free)} are free: "
            f"make room, choose another --out, or keep fewer members than --keep {keep}"
        )
    return f"disk: at most {_gigabytes(needed)} for the run, {_gigabytes(free)} are free"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count > 1e9 else f"{count / 1e6:.0f} MB"
