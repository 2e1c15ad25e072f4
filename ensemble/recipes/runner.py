"""Configurations → members of a run, one after another; what was finished stays, the rest goes on.

The run's folder is that of a search with other trials in it, so evaluation, prediction and report
work on it unchanged. Needs neither Ray nor Optuna.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ensemble.base.errors import InputError
from ensemble.recipes.best_epochs import BestEpochs
from ensemble.recipes.recipe import BASE, Recipe
from ensemble.run.events import TrialEvents
from ensemble.run.members import member_folder
from ensemble.run.tables import RunTables
from ensemble.training.checkpoint import Member, open_member
from ensemble.training.config import TrialConfig
from ensemble.training.initial_weights import digest_tensors
from ensemble.training.loop import DivergedError, Epoch
from ensemble.training.member import TrainingData, train_member
from ensemble.training.settings import flatten
from ensemble.training.state import remove_state
from ensemble.training.weights_file import read_tensors


class RecipeRun:
    """A run's folder whose members are trained here.

    Args:
        folder: Of the run; it holds `initial/`.
        data: Training and validation tiles.
        log: Takes lines for the person.
    """

    def __init__(self, folder: Path, data: TrainingData, log: Callable[[str], None]):
        self.folder, self.data, self._log = folder, data, log
        self._tables = RunTables(folder)
        self._rows = {row["trial"]: row for row in self._tables.read_trial_rows()}

    def train(
        self,
        number: int,
        name: str,
        config: TrialConfig,
        initial_weights: Path,
        *,
        settings: Mapping[str, Any],
        best_epochs: BestEpochs | None = None,
    ) -> Member | None:
        """Train the member `number`, unless it is finished; None where it diverged.

        Args:
            number: Of the trial.
            name: For people.
            config: Of the training run.
            initial_weights: What it starts from.
            settings: That the table of trials shows beside its name.
            best_epochs: Keeps further epochs.

        Raises:
            InputError: The GPU's memory does not suffice, or the disk is full.
        """
        shown = {"name": name, **settings}
        folder = member_folder(self.folder, number)
        about = {
            "trial": number,
            "split_digest": self.data.split_digest,
            "initial_weights_digest": digest_tensors(read_tensors(initial_weights)),
        }
        member = self._find_finished(number, {**about, "config": config})
        if member is not None:
            remove_state(folder)
            self._log(f"{name}: finished before; {describe_member(member)}")
            return member
        self._note(number, "RUNNING", shown)
        events = TrialEvents(self.folder / "tensorboard" / f"{number:04}", config.model_dump())
        has_ended = False
        try:
            for epoch in train_member(
                config,
                self.data,
                trial=number,
                initial_weights=initial_weights,
                folder=folder,
                each_epoch=None
                if best_epochs is None
                else lambda model, epoch: best_epochs.take(model, epoch, config, **about),
            ):
                events.add_epoch(epoch.row())
                events.add_batches(epoch)
                self._tables.add_epoch(number, config.model.backbone, epoch.row())
                self._log(f"{name} {describe_epoch(epoch, config.optimisation.epochs)}")
            has_ended = True
        except DivergedError as error:
            self.give_up(number, str(error), shown)
            return None
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{name}: out of GPU memory ({str(error).splitlines()[0]}); give a smaller "
                "--image-size or batch, or train with --gpus 0"
            ) from None
        finally:
            events.close(finished=has_ended)
        if best_epochs is not None:
            for member in best_epochs.make_members():
                self._rows[member.trial] = self._describe_checkpoint(member, name)
        self._note(number, "COMPLETE", shown)
        if best_epochs is not None:
            best_epochs.forget()
        remove_state(folder)  # last: until then a command that was cut finds the run's end in it
        member = open_member(folder)
        self._log(f"{name}: {describe_member(member)}")
        return member

    def give_up(self, number: int, reason: str, shown: Mapping[str, Any]) -> None:
        """Write down and say that a trial cannot be trained, and why."""
        self._log(f"{shown['name']}: failed, {reason}")
        self._note(number, "FAIL", shown, reason=reason)

    def finished_among(self, numbers: range) -> list[Member]:
        """The members of the finished trials; a missing or damaged one is left out and said."""
        members = []
        for number in numbers:
            if self._rows.get(number, {}).get("state") != "COMPLETE":
                continue
            try:
                members.append(open_member(member_folder(self.folder, number)))
            except InputError as error:
                self._log(f"{error}: trial {number} is left out")
        return members

    def _describe_checkpoint(self, member: Member, name: str) -> dict[str, Any]:
        settings = {"name": f"{name}, epoch {member.record.epoch}"}
        return {
            **self._tables.describe_trial(member.trial, "COMPLETE", reason="", settings=settings),
            "val_f1": member.val_f1,
            "best_epoch": member.record.epoch,
            "backbone": member.record.config.model.backbone,
        }

    def _find_finished(self, number: int, expected: dict[str, Any]) -> Member | None:
        if self._rows.get(number, {}).get("state") != "COMPLETE":
            return None
        try:
            member = open_member(member_folder(self.folder, number))
            member.val_margins()
            member.load_model()
        except InputError as error:
            self._log(f"{error}; it is trained again")
            return None
        found = {name: getattr(member.record, name) for name in expected}
        return member if found == expected else None

    def _note(self, number: int, state: str, shown: Mapping[str, Any], *, reason: str = "") -> None:
        """Write the table of trials with this row."""
        row = self._tables.describe_trial(number, state, reason=reason, settings=dict(shown))
        self._rows[number] = row
        self._tables.write_trial_rows(self._rows[key] for key in sorted(self._rows))


def train_recipe(run: RecipeRun, recipe: Recipe) -> dict[str, Member]:
    """Train each variant of a recipe that is not finished, base first.

    Returns:
        Name → member, without variants that cannot be trained; those are told.

    Raises:
        InputError: Base cannot be trained.
    """
    start = run.folder / "initial" / f"{recipe.backbone}.safetensors"
    changed = {key: None for variant in recipe.variants for key in variant.changed}
    members: dict[str, Member] = {}
    for number, variant in enumerate(recipe.variants):
        settings = {key: flatten(variant.config)[key] for key in changed}
        weights = start
        if variant.starts_from is not None:
            if variant.starts_from not in members:
                reason = f"it starts from {variant.starts_from}, which failed"
                run.give_up(number, reason, {"name": variant.name, **settings})
                continue
            weights = weights_file(members[variant.starts_from])
        keeps = variant.name == BASE and len(recipe.checkpoint_numbers) > 0
        member = run.train(
            number,
            variant.name,
            variant.config,
            weights,
            settings=settings,
            best_epochs=BestEpochs(run.folder, recipe.checkpoint_numbers) if keeps else None,
        )
        if member is not None:
            members[variant.name] = member
        elif variant.name == BASE:
            raise InputError(
                f"{recipe.name} cannot be trained as it is; see trials.csv for the reason, and "
                "give the recipe a smaller learning_rate"
            )
    return members


def weights_file(member: Member) -> Path:
    """The file of a member's weights, which can be what another one starts from."""
    assert member.record.weights_file is not None  # a run without a search drops none
    return member.folder / member.record.weights_file


def describe_epoch(epoch: Epoch, num_epochs: int) -> str:
    """An epoch in one line."""
    val = epoch.val_metrics
    return (
        f"epoch {epoch.number}/{num_epochs}: "
        f"training loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.3f}; "
        f"validation loss {val['loss']:.4f}, accuracy {val['accuracy']:.3f}, "
        f"precision {val['precision']:.3f}, recall {val['recall']:.3f}, F1 {val['f1']:.3f}, "
        f"AUC {val['roc_auc']:.3f}; learning rate {epoch.learning_rate:.2e}, "
        f"{epoch.images_per_second:.0f} images/s{', best so far' * epoch.improved}"
    )


def describe_member(member: Member) -> str:
    """What was kept of a training run, in a few words."""
    return f"kept epoch {member.record.epoch}, validation F1 {member.val_f1:.3f}"
