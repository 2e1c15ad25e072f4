"""The best epochs of one training run, each kept as a member: an ensemble of checkpoints.

During the run they are kept in a folder of their own. When it has ended, all but the best one,
which is the run's own member, become members with numbers of their own.
"""

import shutil
from pathlib import Path
from typing import Any

from ensemble.run.members import member_folder
from ensemble.training.checkpoint import Member, open_member, write_member
from ensemble.training.config import TrialConfig
from ensemble.training.loop import Epoch


class BestEpochs:
    """Keeps the epochs with the highest validation F1; of equal ones the earlier, as `fit` does.

    All but the best one become members of the run, with trial numbers from `numbers`.
    """

    def __init__(self, run: Path, numbers: range):
        self._run, self._numbers = run, numbers
        self._folder = run / "checkpoints"

    def take(self, epoch: Epoch, config: TrialConfig, **about: Any) -> None:
        """Keep the network as it is after `epoch` if that epoch is among the best so far.

        Later epochs, which a cut run left, are removed. `about` goes to `write_member`.
        """
        kept = [member for member in self._ranked() if member.record.epoch < epoch.number]
        better = [member for member in kept if member.val_f1 >= epoch.val_metrics["f1"]]
        self._remove_all_but(kept)
        if len(better) <= len(self._numbers):
            write_member(
                self._folder / f"{epoch.number:04}",
                epoch.weights,
                epoch.val_margins,
                config=config,
                **epoch.describe_result(),
                **about,
            )
        self._remove_all_but(self._ranked()[: len(self._numbers) + 1])

    def make_members(self) -> list[Member]:
        """Write the epochs after the best one as members, the better ones first."""
        made = []
        for number, waiting in zip(self._numbers, self._ranked()[1:], strict=False):
            folder = member_folder(self._run, number)
            fields = waiting.record.describe_training(trial=number)
            write_member(folder, waiting.load_model().state_dict(), waiting.val_margins(), **fields)
            made.append(open_member(folder))
        return made

    def forget(self) -> None:
        """Remove the kept epochs."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ranked(self) -> list[Member]:
        # a process that is killed while it writes or removes one leaves a folder without a record
        waiting = [open_member(path.parent) for path in self._folder.glob("*/member.json")]
        return sorted(waiting, key=lambda member: (-member.val_f1, member.record.epoch))

    def _remove_all_but(self, kept: list[Member]) -> None:
        names = [member.folder.name for member in kept]
        for path in self._folder.glob("*"):
            if path.name not in names:
                (path / "member.json").unlink(missing_ok=True)  # first: it names what goes next
                shutil.rmtree(path)
