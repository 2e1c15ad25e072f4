"""crack-ensemble refit: the best configurations of a run, trained anew on every fold.

A trial is one configuration without one fold of the training and validation photographs. When all
folds of a configuration are trained, their networks are joined to one member, which has a score of
every one of these photographs from a network that never saw it. `evaluate` chooses among those
members on these scores.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table, table_rows
from ensemble.base.interruption import resumable
from ensemble.base.wording import plural
from ensemble.data.layout import Layout
from ensemble.data.pack import open_pack
from ensemble.evaluation.mistakes import contradicts
from ensemble.run.folder import display_path, identify_data, identify_weights, run_folder
from ensemble.run.members import (
    FOLDS,
    check_scored,
    find_run,
    member_folder,
    open_members,
    rank_members,
    read_validation,
)
from ensemble.run.pack import find_pack
from ensemble.search.cluster.connection import Head
from ensemble.search.command import (
    Prepared,
    make_states,
    refuse_hindered,
    run_trials,
    say_stopped,
)
from ensemble.search.comparison import compare_members, describe_comparison
from ensemble.search.joining import join_members
from ensemble.search.listed_space import list_space
from ensemble.search.plan import SearchPlan, find_means
from ensemble.search.request import SearchOutcome, SearchRequest
from ensemble.search.variants import (
    Changes,
    add_seeds,
    change,
    check_tries,
    name_variants,
    read_tries,
)
from ensemble.training.checkpoint import open_member
from ensemble.training.config import TrialConfig, flatten, parse_config
from ensemble.training.initial_weights import (
    InitialState,
    parse_weights,
    read_initial_state,
)
from ensemble.training.member import read_development
from ensemble.training.metrics import margins_to_probabilities

# entries of `run.json` that further seeds and changes may add to
GROWING = ("configurations", "searched", "epochs", "image_size_px", "context_px", "weights")
AS_SEARCHED = "as searched"  # in place of weights, where a backbone starts from those of the run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Refit as the command line says, and return the run's folder and what was tried."""
    request, refit = read_refit(options)
    with resumable(request.describe_way_on(), print):
        outcome = run_refit(request, refit)
    if outcome.stopped:
        say_stopped(request, outcome)
    tried = outcome.folder / "tried.csv"
    rows = table_rows(read_table(tried, text=("name",))) if tried.exists() else []
    return {"run": str(outcome.folder), "stopped": outcome.stopped, "tried": rows}


def read_refit(options: argparse.Namespace) -> tuple[SearchRequest, "Refit"]:
    """What the options of the command ask for: of its trials, and of what they train.

    Raises:
        InputError: There is no such run, or no such configuration of it.
    """
    source = find_run(options.run, under=options.out)
    refit = Refit.read(options, source)
    num_trials = len(refit.configurations) * options.folds
    return _read_request(options, source, num_trials=num_trials), refit


def run_refit(request: SearchRequest, refit: "Refit") -> SearchOutcome:
    """Refit as `read_refit` says; an unfinished refit of that name is continued.

    Returns:
        The outcome, whose folder is that of the new run, which has no members if it was stopped.

    Raises:
        InputError: Something that was given cannot be, or something ended the refit that a person
            must mend.
    """
    outcome = run_trials(request, refit.prepare)
    refuse_hindered(request, outcome)
    run = outcome.folder.parent
    outcome = replace(outcome, folder=run)
    if outcome.stopped:
        return outcome
    about = read_object(run / FOLDS / "run.json", source_trials=list)
    named = name_variants(refit.source.name, about["source_trials"], _read_configurations(run))
    members = join_members(run, named)
    with printing_result():
        print(f"joined: {plural(len(members), 'member')} of {refit.num_folds} networks each")
    if len(members) > len(refit.found):
        tried = compare_members(run, members)
        with printing_result():
            for line in describe_comparison(tried, read_validation(run)):
                print(line)
    with printing_result():
        print(f"next: {spell_command('evaluate')} {display_path(run)}")
    return outcome


def _read_request(options: argparse.Namespace, source: Path, *, num_trials: int) -> SearchRequest:
    """What a search would have been asked for that trains these trials."""
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
        "sampler": "random",
        "seed": about["seed"],
        "trials": num_trials,
        "keep": num_trials,
        "max_failures": 0,
        "name": _name(options, source),
    }
    names = {field.name for field in fields(SearchRequest)} - values.keys()
    asked = {name: getattr(options, name) for name in names}
    return SearchRequest(**values, **asked)


def _name(options: argparse.Namespace, source: Path) -> str:
    """Name of the refit."""
    return str(options.name or f"{source.name}-refit")


@dataclass(frozen=True)
class Refit:
    """What a refit is asked to do, together with what it did before.

    Attributes:
        source: Folder of the run whose configurations are trained.
        folder: Folder of the refit; it need not exist.
        num_folds: Number of folds.
        found: The best configurations of the run, by the number of their trial.
        asked: All that is asked for: what was found, the best one's further seeds, its changes.
        tries: What is changed in each of the last configurations that are asked for.
        configurations: What the refit has trained or begun, and behind it what is asked for anew.
    """

    source: Path
    folder: Path
    num_folds: int
    found: Mapping[int, TrialConfig]
    asked: Sequence[TrialConfig]
    tries: Sequence[Changes]
    configurations: Sequence[TrialConfig]

    @classmethod
    def read(cls, options: argparse.Namespace, source: Path) -> "Refit":
        """What the options of the command ask for, of a run.

        Raises:
            InputError: The run has fewer finished trials, or there is no such setting to change.
        """
        folder = run_folder(_name(options, source), under=options.out)
        found = _find_configurations(source, options.top_k, options.epochs)
        base, tries = next(iter(found.values())), read_tries(options.tries)
        tried = [change(base, changes) for changes in tries]
        asked = [*found.values(), *add_seeds(base, options.seeds), *tried]
        more = _read_configurations(folder)[len(found) :]
        more += [config for config in asked[len(found) :] if config not in more]
        configurations = [*found.values(), *more]
        return cls(source, folder, options.folds, found, asked, tries, configurations)

    def prepare(self, request: SearchRequest, head: Head | None, console: Console) -> Prepared:
        """Find configurations, tiles and initial weights of the run.

        Raises:
            InputError: The tiles of the run are gone, there are too few photographs for the folds,
                or what is tried cannot be.
        """
        packed = open_pack(find_pack(self.source), splits=("train", "val"))
        found, folder = self.found, self.folder
        is_taken = (folder / "run.json").exists() and not (folder / FOLDS).exists()
        if folder == self.source or is_taken:
            raise InputError(f"--name {request.name}: is another run; choose another name")
        check_tries(self.asked, self.tries, packed, run=self.source.name)
        variants = name_variants(self.source.name, list(found), self.configurations)
        space = list_space(self.source, variants, self.num_folds)
        states = self._find_states(space.backbones, request, console)
        budget, storage = find_means(request, space, head, console.print)
        validation = read_development(packed, self.num_folds)
        photographs = set(validation["photograph"]) - {""}
        of = f" of {plural(len(photographs), 'photograph')}" if photographs else ""
        console.print(
            f"{plural(len(found), 'configuration')} of {self.source.name}, found in "
            f"trials {', '.join(str(number) for number in found)}; {self.num_folds} folds of "
            f"{plural(len(validation), 'tile')}{of}"
        )
        if more := variants[len(found) :]:
            console.print(f"beside them: {'; '.join(each.name for each in more)}")
        identity = {
            **identify_data(packed),
            "seed": request.seed,
            "refit_of": self.source.name,
            "source_trials": list(found),
            "folds": self.num_folds,
            "epochs": int(space.largest("optimisation.epochs")),
            "image_size_px": int(space.largest("data.image_size_px")),
            "context_px": int(space.largest("data.context_px")),
            "configurations": [each.model_dump(mode="json") for each in self.configurations],
            "searched": self._list_shown(),
            "weights": identify_weights(states),
        }
        plan = SearchPlan(folder / FOLDS, space, {}, budget, storage)
        return Prepared(
            plan,
            packed,
            states,
            identity,
            asked={},
            validation=validation,
            growing=GROWING,
            doubted=self._find_doubted(console),
            kind="refit",
            doing="training",
        )

    def _find_doubted(self, console: Console) -> pd.DataFrame | None:
        """The tiles whose label is contradicted by the best configuration's own scores of them.

        Each score is of the network that had not seen the tile. None where all labels count alike.

        Raises:
            InputError: There are no such scores yet, or they are damaged.
        """
        careful = [each for each in self.configurations if each.loss.needs_doubted]
        if not careful:
            return None
        folder = member_folder(self.folder, 0)
        if not (folder / "member.json").exists():
            raise InputError(
                f"--try loss.doubted_weight={careful[0].loss.doubted_weight:g}: which labels are "
                "doubted is known when the best configuration is trained on all folds; give the "
                "same command without it first, and then with it"
            )
        tiles, member = read_validation(self.folder), open_member(folder)
        check_scored(member, len(tiles))
        probabilities = margins_to_probabilities(member.val_margins())
        labels = tiles["label"].to_numpy()
        doubted = contradicts(labels, probabilities)
        console.print(
            f"doubted labels: {doubted.sum():,} of {plural(len(tiles), 'tile')}, "
            f"{(doubted & (labels == 1)).sum():,} of them cracked"
        )
        columns = ["tile", "photograph", "label"]
        return tiles[columns].assign(probability=probabilities)[doubted]

    def _list_shown(self) -> list[str]:
        """The settings by which the configurations differ, or the trials of the run."""
        searched = [
            str(name) for name in read_table(self.source / "trials.csv") if "." in str(name)
        ]
        base, *others = [flatten(each) for each in self.configurations]
        more = others[len(self.found) - 1 :]
        changed = [name for each in more for name in each if each[name] != base[name]]
        return list(dict.fromkeys([*searched, *(name for name in changed if name != "seed")]))

    def _find_states(
        self, backbones: Sequence[str], request: SearchRequest, console: Console
    ) -> dict[str, InitialState]:
        """What each backbone starts from: that of the run, or what is given in its place."""
        folder = self.source / "initial"
        given = parse_weights(request.weights, dict.fromkeys(backbones, AS_SEARCHED))
        has = read_object(folder / "states.json")
        lacking = [name for name in backbones if name not in has and given[name] == AS_SEARCHED]
        if lacking:
            raise InputError(
                f"--try model.backbone={lacking[0]}: {self.source.name} has no initial weights of "
                f"it; say --weights {lacking[0]}=imagenet, =none or =FILE"
            )
        read = {
            name: read_initial_state(folder, name)
            for name, weights in given.items()
            if weights == AS_SEARCHED
        }
        others = {name: weights for name, weights in given.items() if name not in read}
        made = make_states(others, seed=request.seed, console=console)
        return {name: (read | made)[name] for name in backbones}


def _find_configurations(run: Path, top_k: int, epochs: int | None) -> dict[int, TrialConfig]:
    """The best configurations of a run, by the number of their trial.

    Args:
        run: Folder of the run.
        top_k: How many, the best first.
        epochs: Epochs of each training; None takes the configuration's.

    Raises:
        InputError: The run has fewer finished trials.
    """
    about = read_object(run / "run.json", split_digest=str)
    if "folds" in about:
        raise InputError(f"{run}: is a refit itself; name the run that it came from")
    members = rank_members(open_members(run, split_digest=about["split_digest"]))
    if len(members) < top_k:
        raise InputError(f"--top-k {top_k}: {run} has {plural(len(members), 'finished trial')}")
    found = {}
    for member in members[:top_k]:
        config = member.record.config
        if epochs is not None:
            optimisation = config.optimisation.model_copy(update={"epochs": epochs})
            config = config.model_copy(update={"optimisation": optimisation})
        found[member.trial] = config
    return found


def _read_configurations(folder: Path) -> list[TrialConfig]:
    """What a refit has trained or begun, by its number; nothing where there is none yet."""
    path = folder / FOLDS / "run.json"
    if not path.exists():
        return []
    known = read_object(path, configurations=list)["configurations"]
    return [parse_config(each, where=str(path)) for each in known]
