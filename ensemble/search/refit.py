"""crack-ensemble refit: the best configurations of a run, trained anew on every fold.

A trial is one configuration without one fold of the training and validation photographs. When all
folds of a configuration are trained, their networks are joined to one member, which has a score of
every one of these photographs from a network that never saw it. `evaluate` chooses among those
members on these scores.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import safetensors
import safetensors.torch
from optuna.distributions import IntDistribution
from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table, write_json, write_table
from ensemble.base.interruption import resumable
from ensemble.base.wording import plural
from ensemble.data.layout import Layout
from ensemble.data.pack import open_pack
from ensemble.run.folder import display_path, identify_data, identify_weights, run_folder
from ensemble.run.members import (
    find_run,
    member_folder,
    open_members,
    rank_members,
    read_validation,
)
from ensemble.run.pack import find_pack
from ensemble.search.cluster.connection import Head
from ensemble.search.cluster.storage import Storage
from ensemble.search.command import Prepared, refuse_hindered, run_trials
from ensemble.search.plan import SearchPlan, find_budget
from ensemble.search.request import SearchRequest
from ensemble.search.space import EarlyStopping, Parameter, Space
from ensemble.training.backbone_table import name_weights_file
from ensemble.training.checkpoint import Member, drop_weights, open_member
from ensemble.training.config import TrialConfig, flatten
from ensemble.training.cross_fitting import join_folds
from ensemble.training.initial_weights import InitialState, digest_tensors
from ensemble.training.member import Fold, read_development

FOLDS = "folds"  # folder, in that of the run, of the trials that leave out a fold each


@dataclass(frozen=True)
class ListedSpace(Space):
    """Given configurations, each with each fold, instead of ranges to search.

    Attributes:
        configurations: What is trained.
        num_folds: Number of folds.
    """

    configurations: tuple[TrialConfig, ...] = ()
    num_folds: int = 2

    @property
    def can_grow(self) -> bool:
        """Whether there are further trials; there are as many as configurations and folds say."""
        return False

    @property
    def backbones(self) -> list[str]:
        """Backbones of the configurations."""
        return list(dict.fromkeys(config.model.backbone for config in self.configurations))

    def start_points(self) -> list[dict[str, Any]]:
        """All trials: the folds of the first configuration, then those of the next one."""
        return [
            {"configuration": number, "fold": fold}
            for number in range(len(self.configurations))
            for fold in range(self.num_folds)
        ]

    def ask(self, trial: optuna.trial.BaseTrial, *, seed: int) -> TrialConfig:
        """The configuration of a trial; its seed is that of the trial that it was found in."""
        number = trial.suggest_int("configuration", 0, len(self.configurations) - 1)
        trial.suggest_int("fold", 0, self.num_folds - 1)
        return self.configurations[number]

    def fold_of(self, params: Mapping[str, Any]) -> Fold:
        """The fold that a trial with these parameters leaves out."""
        return Fold(params["fold"], self.num_folds)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Refit as the command line says, and return the run's folder."""
    source = find_run(options.run, under=options.out)
    request = _read_request(options, source)
    with resumable(request.describe_way_on(), print):
        refit = _Refit(source, options.top_k, options.folds, options.epochs)
        outcome = run_trials(request, refit.prepare)
        refuse_hindered(request, outcome)
    if outcome.stopped:
        with printing_result():
            print(f"stopped ({outcome.stopped}): {request.describe_way_on(outcome.num_finished)}")
        sys.exit(outcome.exit_code)
    run = outcome.folder.parent
    members = join_members(run)
    with printing_result():
        print(f"joined: {plural(len(members), 'member')} of {options.folds} networks each")
        print(f"next: {spell_command('evaluate')} {display_path(run)}")
    return {"run": str(run)}


def _read_request(options: argparse.Namespace, source: Path) -> SearchRequest:
    """What a search would have been asked for that trains these trials."""
    num_trials = options.top_k * options.folds
    about = read_object(source / "run.json", seed=int)
    values: dict[str, Any] = {
        "data": str(about.get("data")),
        "layout": Layout(),
        "split_seed": 0,
        "leaky_split": False,
        "max_bad_tiles": 0,
        "space": source.name,
        "start_from": None,
        "image_size": None,
        "backbone": [],
        "weights": [],
        "sampler": "random",
        "seed": about["seed"],
        "trials": num_trials,
        "keep": num_trials,
        "max_failures": 0,
        "name": options.name or f"{source.name}-refit",
    }
    names = {field.name for field in fields(SearchRequest)} - values.keys()
    asked = {name: getattr(options, name) for name in names}
    return SearchRequest(**values, **asked)


@dataclass(frozen=True)
class _Refit:
    """What a refit is asked to do.

    Attributes:
        source: Folder of the run whose configurations are trained.
        top_k: How many of them, the best first.
        num_folds: Number of folds.
        epochs: Epochs of each training; None takes the configuration's.
    """

    source: Path
    top_k: int
    num_folds: int
    epochs: int | None

    def prepare(self, request: SearchRequest, head: Head | None, console: Console) -> Prepared:
        """Find configurations, tiles and initial weights of the run.

        Raises:
            InputError: The run has fewer finished trials, its tiles are gone, or there are too few
                photographs for the folds.
        """
        assert request.name is not None
        packed = open_pack(find_pack(self.source), splits=("train", "val"))
        found = self._find_configurations()
        configurations = tuple(found.values())
        folder = run_folder(request.name, under=request.out)
        is_taken = (folder / "run.json").exists() and not (folder / FOLDS).exists()
        if folder == self.source or is_taken:
            raise InputError(f"--name {request.name}: is another run; choose another name")
        space = list_space(self.source, configurations, self.num_folds)
        states = {name: _read_state(self.source, name) for name in space.backbones}
        storage = Storage.parse(request.storage) if request.storage else None
        if storage is not None:
            storage.check()
        budget = find_budget(request, space, head, console.print)
        console.print(f"budget: {budget}")
        validation = read_development(packed, self.num_folds)
        photographs = set(validation["photograph"]) - {""}
        of = f" of {plural(len(photographs), 'photograph')}" if photographs else ""
        console.print(
            f"{plural(len(configurations), 'configuration')} of {self.source.name}, found in "
            f"trials {', '.join(str(number) for number in found)}; {self.num_folds} folds of "
            f"{plural(len(validation), 'tile')}{of}"
        )
        identity = {
            **identify_data(packed),
            "seed": request.seed,
            "refit_of": self.source.name,
            "source_trials": list(found),
            "searched": _list_searched(self.source),
            "folds": self.num_folds,
            "epochs": max(config.optimisation.epochs for config in configurations),
            "image_size_px": max(config.data.image_size_px for config in configurations),
            "context_px": max(config.data.context_px for config in configurations),
            "configurations": [config.model_dump(mode="json") for config in configurations],
            "weights": identify_weights(states),
        }
        plan = SearchPlan(folder / FOLDS, space, {}, budget, storage)
        return Prepared(plan, packed, states, identity, {}, validation, doing="training")

    def _find_configurations(self) -> dict[int, TrialConfig]:
        """The best configurations of the run, by the number of their trial."""
        about = read_object(self.source / "run.json", split_digest=str)
        if "folds" in about:
            raise InputError(f"{self.source}: is a refit itself; name the run that it came from")
        members = rank_members(open_members(self.source, split_digest=about["split_digest"]))
        if len(members) < self.top_k:
            raise InputError(
                f"--top-k {self.top_k}: {self.source} has {plural(len(members), 'finished trial')}"
            )
        found = {}
        for member in members[: self.top_k]:
            config = member.record.config
            if self.epochs is not None:
                optimisation = config.optimisation.model_copy(update={"epochs": self.epochs})
                config = config.model_copy(update={"optimisation": optimisation})
            found[member.trial] = config
        return found


def list_space(run: Path, configurations: tuple[TrialConfig, ...], num_folds: int) -> ListedSpace:
    """The space of these configurations with each of the folds; nothing is stopped early.

    Args:
        run: Folder of the run that they come from.
        configurations: What is trained.
        num_folds: Number of folds.
    """
    longest = max(configurations, key=lambda config: config.optimisation.epochs)
    return ListedSpace(
        path=run,
        question="",
        weights="",
        workers_per_trial=1,
        default=longest,
        parameters=(
            Parameter("configuration", IntDistribution(0, len(configurations) - 1), {}),
            Parameter("fold", IntDistribution(0, num_folds - 1), {}),
        ),
        starts=(),
        early_stopping=EarlyStopping(grace_epochs=longest.optimisation.epochs),
        configurations=configurations,
        num_folds=num_folds,
    )


def _list_searched(run: Path) -> list[str]:
    """The settings by which the trials of a run differ."""
    return [str(name) for name in read_table(run / "trials.csv") if "." in str(name)]


def _read_state(run: Path, backbone: str) -> InitialState:
    """What the trials of a run started from.

    Raises:
        InputError: The file is damaged.
    """
    about = read_object(run / "initial" / "states.json")[backbone]
    path = run / "initial" / name_weights_file(backbone)
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(f"{path}: damaged ({error}); search again") from None
    state = InitialState(tensors, str(about["origin"]), digest_tensors(tensors))
    if state.digest != about["digest"]:
        raise InputError(f"{path}: damaged (its digest is not that of states.json); search again")
    return state


def join_members(run: Path) -> list[Member]:
    """Make a run of the trials in its folder `folds`, whose members are the configurations.

    The networks of a configuration become one member, and its row in `trials.csv` and its epochs
    are those of all folds together. `run.json` comes last: before, there is no run.

    Returns:
        The members, by the number of their configuration.

    Raises:
        InputError: A network or a table is damaged.
    """
    inner = run / FOLDS
    about = read_object(inner / "run.json", split_digest=str, folds=int, refit_of=str)
    validation = read_validation(inner)
    trials = read_table(inner / "trials.csv", columns=("trial", "configuration", "fold"))
    epochs = read_table(inner / "epochs.csv", columns=("trial", "epoch"))
    epochs = epochs.merge(trials[["trial", "configuration"]], on="trial")
    members = []
    for number in range(len(about["configurations"])):
        of_this = trials[(trials["configuration"] == number) & (trials["state"] != "FAIL")]
        parts = of_this.set_index("fold")["trial"].sort_index()
        folder = member_folder(run, number)
        if not (folder / "member.json").exists():
            join_folds(
                folder,
                [open_member(member_folder(inner, trial)) for trial in parts],
                number=number,
                split_digest=about["split_digest"],
                labels=validation["label"].to_numpy(),
                folds=validation["fold"].to_numpy(),
            )
        for trial in parts:
            drop_weights(member_folder(inner, trial))  # the joined member has them
        members.append(open_member(folder))
    write_table(run / "epochs.csv", _join_epochs(epochs))
    write_table(run / "trials.csv", _join_trials(trials, members, about))
    for name in ("validation.csv", "samples.png"):
        shutil.copy(inner / name, run / name)
    write_json(run / "run.json", about)
    return members


def _join_epochs(epochs: pd.DataFrame) -> pd.DataFrame:
    """The epochs of each configuration: sums of seconds, and means of all else over its folds."""
    how = {
        name: "sum" if name in ("train_seconds", "val_seconds") else "mean"
        for name in epochs.select_dtypes("number")
        if name not in ("trial", "configuration", "epoch")
    }
    joined = epochs.groupby(["configuration", "epoch"]).agg({"backbone": "first", **how})
    return joined.reset_index().rename(columns={"configuration": "trial"})


def _join_trials(
    trials: pd.DataFrame, members: list[Member], about: dict[str, Any]
) -> pd.DataFrame:
    """A row for each configuration, with the trial that it comes from as its name."""
    rows = []
    for member, settings, source in zip(
        members, about["configurations"], about["source_trials"], strict=True
    ):
        of_this = trials[trials["configuration"] == member.trial]
        rows.append(
            {
                "trial": member.trial,
                "name": f"{about['refit_of']}/{source}",
                "state": "COMPLETE",
                "val_f1": member.val_f1,
                "best_epoch": member.record.epoch,
                "epochs": int(of_this["epochs"].sum()),
                "seconds": of_this["seconds"].sum(),
                "reason": "",
                "backbone": settings["model"]["backbone"],
                **{name: flatten(member.record.config)[name] for name in about["searched"]},
            }
        )
    return pd.DataFrame(rows)
