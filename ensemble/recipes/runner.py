"""Recipes → members of a run, one after another; what is finished stays, what was cut goes on.

The folder is like that of a search, so evaluation, prediction and report work on it unchanged.
Needs neither Ray nor Optuna.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ensemble.base.errors import InputError
from ensemble.data.pack import Pack
from ensemble.recipes.best_epochs import BestEpochs
from ensemble.recipes.comparison import for_tables, write_comparison
from ensemble.recipes.export import export_member
from ensemble.recipes.recipe import BASE, Recipe
from ensemble.run.events import TrialEvents
from ensemble.run.folder import (
    begin_run,
    check_same_run,
    display_path,
    identify_data,
    identify_weights,
    run_lock,
)
from ensemble.run.members import member_folder, rank_members
from ensemble.run.tables import RunTables
from ensemble.training.backbone_table import name_weights_file
from ensemble.training.checkpoint import Member, open_member, remove_state
from ensemble.training.config import TrialConfig, flatten
from ensemble.training.cost import print_layers, print_totals, summarise
from ensemble.training.initial_weights import InitialState, digest_tensors
from ensemble.training.loop import DivergedError, Epoch
from ensemble.training.member import DevelopmentTiles, TrainingData, train_member
from ensemble.training.metrics import check_both_classes
from ensemble.training.weights_file import read_tensors


def run_recipe(
    folder: Path,
    recipe: Recipe,
    state: InitialState,
    packed: Pack,
    *,
    device: torch.device,
    seed: int,
    export: bool,
    console: Console,
) -> None:
    """Train, compare and perhaps export; a run in `folder` that was cut goes on.

    `state` has the weights that the backbone starts from, `seed` is that of `recipe` and `state`.

    Raises:
        InputError: The folder holds another run, or the recipe cannot be trained.
    """
    states = {recipe.backbone: state}
    identity = {
        **identify_data(packed),
        "seed": seed,
        "epochs": recipe.base.optimisation.epochs,
        "image_size_px": recipe.base.data.image_size_px,
        "context_px": max(variant.config.data.context_px for variant in recipe.variants),
        "weights": identify_weights(states),
        "recipe": recipe.describe(),
    }
    with run_lock(folder, what="command"):
        check_same_run(folder, identity, packed)
        data = DevelopmentTiles(packed.folder, device).open()
        for split, tiles in (("training", data.train), ("validation", data.val)):
            check_both_classes(tiles.labels.cpu().numpy(), what=f"the {split} tiles")
        begin_run(
            folder,
            identity,
            packed,
            states,
            asked={"recipe.toml": recipe.path},
            settings={"device": device.type, "threads": torch.get_num_threads()},
            log=console.print,
        )
        console.print(f"{recipe.backbone} starts from {state.describe()}")
        run = RecipeRun(folder, data, console.print)
        members = train_recipe(run, recipe)
        checkpoints = run.finished_among(recipe.checkpoint_numbers)
        write_comparison(folder, recipe, members, checkpoints, data, console)
        if export:
            best = rank_members(list(members.values()))[0]
            size = packed.record["height_px"], packed.record["width_px"]
            export_member(best, folder / "export", name=recipe.name, tile_size_px=size)
            console.print(f"written: {display_path(folder)}/export, the best variant's kept epoch")


class RecipeRun:
    """A run's folder, with `initial/` in it, and the training of its members."""

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
        """Train one member unless it is finished; None if it diverged.

        `trials.csv` shows `settings` beside the name.

        Raises:
            InputError: The GPU's memory does not suffice, or the disk is full.
        """
        columns = {"name": name, **settings}
        origin = {
            "trial": number,
            "split_digest": self.data.split_digest,
            "initial_weights_digest": digest_tensors(read_tensors(initial_weights)),
        }
        folder = member_folder(self.folder, number)
        member = self._find_finished(number, {**origin, "config": config})
        if member is not None:
            remove_state(folder)
            self._log(f"{name}: finished before; {describe_member(member)}")
            return member
        self._note(number, "RUNNING", columns)
        try:
            self._train_epochs(name, config, initial_weights, origin, best_epochs)
        except DivergedError as error:
            self.give_up(number, str(error), columns)
            return None
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{name}: out of GPU memory ({str(error).splitlines()[0]}); give a smaller "
                "--image-size or batch, or train with --gpus 0"
            ) from None
        if best_epochs is not None:
            for member in best_epochs.make_members():
                self._rows[member.trial] = self._describe_checkpoint(member, name)
        self._note(number, "COMPLETE", columns)
        if best_epochs is not None:
            best_epochs.forget()
        remove_state(folder)  # last: until then a command that was cut finds the run's end in it
        member = open_member(folder)
        self._log(f"{name}: {describe_member(member)}")
        return member

    def _train_epochs(
        self,
        name: str,
        config: TrialConfig,
        initial_weights: Path,
        origin: dict[str, Any],
        best_epochs: BestEpochs | None,
    ) -> None:
        """Train to the end, and write and print each epoch."""
        number = origin["trial"]
        events = TrialEvents(self.folder / "tensorboard" / f"{number:04}", config)
        has_ended = False
        try:
            for epoch in train_member(
                config,
                self.data,
                trial=number,
                initial_weights=initial_weights,
                folder=member_folder(self.folder, number),
                each_epoch=None
                if best_epochs is None
                else lambda epoch: best_epochs.take(epoch, config, **origin),
            ):
                events.add_epoch(epoch.row())
                events.add_batches(epoch)
                self._tables.add_epoch(number, config.model.backbone, epoch.row())
                self._log(f"{name} {describe_epoch(epoch, config.optimisation.epochs)}")
            has_ended = True
        finally:
            events.close(finished=has_ended)

    def give_up(self, number: int, reason: str, columns: Mapping[str, Any]) -> None:
        """Write down and print that a trial cannot be trained, and why."""
        self._log(f"{columns['name']}: failed, {reason}")
        self._note(number, "FAIL", columns, reason=reason)

    def finished_among(self, numbers: range) -> list[Member]:
        """Members of the finished trials; a missing or damaged one is reported and left out."""
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
        """The whole and finished member whose record has the expected values, or None."""
        if self._rows.get(number, {}).get("state") != "COMPLETE":
            return None
        try:
            member = open_member(member_folder(self.folder, number))
            member.val_margins()
            member.load_model()
        except InputError as error:
            self._log(f"{error}; it is trained again")
            return None
        record = {name: getattr(member.record, name) for name in expected}
        return member if record == expected else None

    def _note(
        self, number: int, state: str, columns: Mapping[str, Any], *, reason: str = ""
    ) -> None:
        """Write `trials.csv` with the trial's new row."""
        row = self._tables.describe_trial(number, state, reason=reason, settings=dict(columns))
        self._rows[number] = row
        self._tables.write_trial_rows(self._rows[key] for key in sorted(self._rows))


def train_recipe(run: RecipeRun, recipe: Recipe) -> dict[str, Member]:
    """Train each variant of a recipe that is not finished, base first.

    Returns:
        Name → member, without variants that cannot be trained; those are reported.

    Raises:
        InputError: Base cannot be trained.
    """
    start = run.folder / "initial" / name_weights_file(recipe.backbone)
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
    """The file of a member's weights, from which another member can start."""
    assert member.record.weights_file is not None  # a run without a search drops none
    return member.folder / member.record.weights_file


def describe_epoch(epoch: Epoch, num_epochs: int) -> str:
    """Describe an epoch in one line."""
    val = epoch.val_metrics
    return (
        f"epoch {epoch.number}/{num_epochs}: "
        f"training loss {epoch.train_loss:.4f}, accuracy {epoch.train_accuracy:.3f}; "
        f"validation loss {val['loss']:.4f}, accuracy {val['accuracy']:.3f}, "
        f"precision {val['precision']:.3f}, recall {val['recall']:.3f}, F1 {val['f1']:.3f}, "
        f"AUC {val['roc_auc']:.3f}; learning rate {epoch.learning_rate:.2e}, "
        f"{epoch.images_per_second:.0f} images/s{', moving average' * epoch.is_average}"
        f"{', best so far' * epoch.improved}"
    )


def describe_member(member: Member) -> str:
    """Describe the epoch that a member kept, in a few words."""
    return f"kept epoch {member.record.epoch}, validation F1 {member.val_f1:.3f}"


def print_summary(recipe: Recipe, console: Console) -> None:
    """Print the layers of a recipe's network, and what each of its variants costs."""
    summaries = [
        summarise(variant.config, tile_side_px=recipe.tile_side_px) for variant in recipe.variants
    ]
    print_layers(summaries[0], for_tables(console))
    for variant, summary in zip(recipe.variants, summaries, strict=True):
        print_totals(variant.name, variant.config, summary, console)
