"""crack-ensemble refit: the best configurations of a run, trained anew on every fold.

A trial is one configuration without one fold of the training and validation photographs. When all
folds of a configuration are trained, their networks are joined to one member, which has a score of
every one of these photographs from a network that never saw it. `evaluate` chooses among those
members on these scores.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_object, read_table, table_rows
from ensemble.base.interruption import resumable
from ensemble.base.wording import plural
from ensemble.data.layout import Layout
from ensemble.data.pack import Pack, open_pack
from ensemble.run.folder import display_path, identify_data, identify_weights, run_folder
from ensemble.run.members import FOLDS, find_run, open_members, rank_members, read_validation
from ensemble.run.pack import find_pack
from ensemble.search.cluster.connection import Head
from ensemble.search.cluster.storage import Storage
from ensemble.search.command import Prepared, make_states, refuse_hindered, run_trials
from ensemble.search.comparison import compare_members, describe_comparison
from ensemble.search.joining import join_members
from ensemble.search.listed_space import list_space
from ensemble.search.plan import SearchPlan, find_budget
from ensemble.search.request import SearchOutcome, SearchRequest
from ensemble.search.variants import (
    Changes,
    Variant,
    add_seeds,
    change,
    check_tries,
    name_variants,
    read_tries,
)
from ensemble.training.config import TrialConfig
from ensemble.training.initial_weights import (
    InitialState,
    parse_weights,
    read_initial_state,
)
from ensemble.training.member import read_development

AS_SEARCHED = "as searched"  # in place of weights, where a backbone starts from those of the run


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Refit as the command line says, and return the run's folder and what was tried."""
    outcome, way_on = run_refit(options)
    if outcome.stopped:
        with printing_result():
            print(f"stopped ({outcome.stopped}): {way_on}")
        sys.exit(outcome.exit_code)
    tried = outcome.folder / "tried.csv"
    rows = table_rows(read_table(tried, text=("name",))) if tried.exists() else []
    return {"run": str(outcome.folder), "tried": rows}


def run_refit(options: argparse.Namespace) -> tuple[SearchOutcome, str]:
    """Refit as the options of the command ask; an unfinished refit of that name is continued.

    Returns:
        The outcome, whose folder is that of the new run unless it was stopped before; and how the
        refit goes on then.

    Raises:
        InputError: Something that was given cannot be, or something ended the refit that a person
            must mend.
    """
    source = find_run(options.run, under=options.out)
    refit = _Refit.read(options, source)
    request = _read_request(options, source, num_trials=refit.num_configurations * options.folds)
    with resumable(request.describe_way_on(), print):
        outcome = run_trials(request, refit.prepare)
        refuse_hindered(request, outcome)
    way_on = request.describe_way_on(outcome.num_finished)
    if outcome.stopped:
        return outcome, way_on
    run = outcome.folder.parent
    about = read_object(outcome.folder / "run.json", configurations=list, source_trials=list)
    configurations = [TrialConfig.model_validate(each) for each in about["configurations"]]
    members = join_members(run, name_variants(source.name, about["source_trials"], configurations))
    with printing_result():
        print(f"joined: {plural(len(members), 'member')} of {options.folds} networks each")
    if len(members) > options.top_k:
        tried = compare_members(run, members)
        with printing_result():
            for line in describe_comparison(tried, read_validation(run)):
                print(line)
    with printing_result():
        print(f"next: {spell_command('evaluate')} {display_path(run)}")
    return replace(outcome, folder=run), way_on


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
        num_seeds: Seeds of the best configuration in all.
        tries: What is changed in the best configuration, for a further one each.
    """

    source: Path
    top_k: int
    num_folds: int
    epochs: int | None
    num_seeds: int
    tries: Sequence[Changes]

    @classmethod
    def read(cls, options: argparse.Namespace, source: Path) -> "_Refit":
        """What the options of the command ask for."""
        return cls(
            source,
            options.top_k,
            options.folds,
            options.epochs,
            options.seeds,
            read_tries(options.tries),
        )

    @property
    def num_configurations(self) -> int:
        """Number of configurations that are trained."""
        return self.top_k + self.num_seeds - 1 + len(self.tries)

    def prepare(self, request: SearchRequest, head: Head | None, console: Console) -> Prepared:
        """Find configurations, tiles and initial weights of the run.

        Raises:
            InputError: The run has fewer finished trials, its tiles are gone, there are too few
                photographs for the folds, or what is tried cannot be.
        """
        assert request.name is not None
        packed = open_pack(find_pack(self.source), splits=("train", "val"))
        found = self._find_configurations()
        folder = run_folder(request.name, under=request.out)
        is_taken = (folder / "run.json").exists() and not (folder / FOLDS).exists()
        if folder == self.source or is_taken:
            raise InputError(f"--name {request.name}: is another run; choose another name")
        variants = self._list_variants(found, packed)
        space = list_space(self.source, variants, self.num_folds)
        states = self._find_states(space.backbones, request, console)
        storage = Storage.parse(request.storage) if request.storage else None
        if storage is not None:
            storage.check()
        budget = find_budget(request, space, head, console.print)
        console.print(f"budget: {budget}")
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
        tried = [name for changes in self.tries for name in changes]
        identity = {
            **identify_data(packed),
            "seed": request.seed,
            "refit_of": self.source.name,
            "source_trials": list(found),
            "folds": self.num_folds,
            "epochs": int(space.largest("optimisation.epochs")),
            "image_size_px": int(space.largest("data.image_size_px")),
            "context_px": int(space.largest("data.context_px")),
            "configurations": [each.config.model_dump(mode="json") for each in variants],
            "searched": list(dict.fromkeys([*_list_searched(self.source), *tried])),
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

    def _list_variants(self, found: dict[int, TrialConfig], packed: Pack) -> list[Variant]:
        """All that is trained: what was found, the best one's further seeds, and its changes."""
        base = next(iter(found.values()))
        tried = [change(base, changes) for changes in self.tries]
        configurations = [*found.values(), *add_seeds(base, self.num_seeds), *tried]
        check_tries(configurations, self.tries, packed, run=self.source.name)
        return name_variants(self.source.name, list(found), configurations)

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


def _list_searched(run: Path) -> list[str]:
    """The settings by which the trials of a run differ."""
    return [str(name) for name in read_table(run / "trials.csv") if "." in str(name)]
