"""scripts/search.py: from what is asked to a run's folder; bad input is refused first."""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import read_table, table_rows, write_table
from ensemble.base.interruption import resumable
from ensemble.base.wording import plural
from ensemble.data.layout import layout_of
from ensemble.data.pack import Pack
from ensemble.data.prepare import open_data, prepare_data
from ensemble.run.folder import (
    begin_run,
    check_same_run,
    display_path,
    identify_data,
    identify_weights,
    run_lock,
)
from ensemble.search.budget import Budget
from ensemble.search.cluster.connection import (
    Head,
    check_wait,
    find_head,
    join_cluster,
    ray_environment,
    start_local_ray,
)
from ensemble.search.cluster.ray_log import log_ray_to
from ensemble.search.finished import find_finished
from ensemble.search.networks import check_networks
from ensemble.search.plan import (
    SearchPlan,
    find_budget,
    plan_search,
    this_machine,
    warn_of_large_networks,
)
from ensemble.search.request import SearchOutcome, SearchRequest
from ensemble.search.retention import check_disk
from ensemble.search.space import Space
from ensemble.search.task import DOUBTED, share_run
from ensemble.training.initial_weights import (
    InitialState,
    announce_download,
    make_initial_state,
)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Search as the command line says, and return the run's folder and its table of trials."""
    request = read_request(options).named()
    with resumable(request.describe_way_on(), print):
        outcome = run_search(request)
    if outcome.stopped:
        say_stopped(request, outcome)
    else:
        print(f"next: {spell_command('evaluate')} {display_path(outcome.folder)}")
    trials = table_rows(read_table(outcome.folder / "trials.csv"))
    return {"run": str(outcome.folder), "stopped": outcome.stopped, "trials": trials}


def read_request(options: argparse.Namespace) -> SearchRequest:
    """What the options of a command ask for."""
    names = {field.name for field in fields(SearchRequest)} - {"layout"}
    values: dict[str, Any] = {name: getattr(options, name) for name in names}
    return SearchRequest(layout=layout_of(options), **values)


def run_search(request: SearchRequest, console: Console | None = None) -> SearchOutcome:
    """Search as asked; a run of that name is continued.

    Args:
        request: What to search.
        console: Terminal or log of the person; stdout by default.

    Raises:
        InputError: The request cannot be met, or something ended the search that a person must
            mend; what is finished is written.
        KeyboardInterrupt: A second Ctrl-C.
    """
    console = console or _make_console()
    request = request.named()
    outcome = run_trials(request, _prepare_search, console)
    with printing_result():
        if outcome.best_trial is not None:
            f1 = f"{outcome.best_val_f1:.3f}"
            console.print(f"best: trial {outcome.best_trial}, validation F1 {f1}")
        console.print(f"run: {outcome.folder}")
    refuse_hindered(request, outcome)
    return outcome


def refuse_hindered(request: SearchRequest, outcome: SearchOutcome) -> None:
    """Raise InputError where something that a person must mend ended the trials."""
    if outcome.exit_code == 2:
        raise InputError(f"{outcome.stopped}; {request.describe_way_on(outcome.num_finished)}")


def say_stopped(request: SearchRequest, outcome: SearchOutcome) -> None:
    """Say how trials that were stopped go on, and end the command unless only its time was over."""
    with printing_result():
        print(f"stopped ({outcome.stopped}): {request.describe_way_on(outcome.num_finished)}")
    if outcome.exit_code:
        sys.exit(outcome.exit_code)


def _make_console() -> Console:
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


@dataclass(frozen=True)
class Prepared:
    """All that trials need, made or found before the run's folder is touched.

    Attributes:
        plan: What will be done.
        packed: Tiles.
        states: Backbone → what its trials start from.
        identity: Entries of `run.json` that must be the same for a run to be continued.
        asked: Name in the run's folder → file that the command was given.
        validation: Tiles that members are validated on; None takes those of the split.
        growing: Names of entries of `identity` that may become larger when a run is continued.
        doubted: Tiles whose label is doubted, for the trials that are to know; None without any.
        kind: What the run is, for people.
        doing: What is done with the trials, for people.
    """

    plan: SearchPlan
    packed: Pack
    states: dict[str, InitialState]
    identity: dict[str, Any]
    asked: dict[str, Path]
    validation: pd.DataFrame | None = None
    growing: Collection[str] = ()
    doubted: pd.DataFrame | None = None
    kind: str = "search"
    doing: str = "searching"


Prepare = Callable[[SearchRequest, Head | None, Console], Prepared]


def run_trials(
    request: SearchRequest, prepare: Prepare, console: Console | None = None
) -> SearchOutcome:
    """Train the trials of a run, or those that are missing.

    The outcome may be one that `refuse_hindered` refuses.

    Args:
        request: A request with a name.
        prepare: Works out what to do, connected to the cluster if there is one.
        console: Terminal or log of the person; stdout by default.
    """
    console = console or _make_console()
    head = find_head(request.address)
    check_wait(request.wait, head)
    with ray_environment(head), join_cluster(head) if head else nullcontext():
        if head is not None:
            console.print(f"joined the Ray cluster at {head.address} ({head.origin})")
        prepared = prepare(request, head, console)
        plan = prepared.plan
        with run_lock(plan.folder, what=prepared.kind):
            check_same_run(
                plan.folder,
                prepared.identity,
                prepared.packed,
                growing=prepared.growing,
                name=request.name,
            )
            outcome = None
            if head is None and plan.storage is None:
                outcome = find_finished(plan.folder, plan.space, request, console.print)
            if outcome is None:
                outcome = _search(request, head, prepared, console)
            else:
                _begin(prepared, plan.budget, request, console)
    return outcome


def _prepare_search(request: SearchRequest, head: Head | None, console: Console) -> Prepared:
    plan = plan_search(request, head, console.print)
    packs = request.out.resolve() / "packs"
    # before the weights, which may have to be downloaded: a wrong --data is told first
    source = open_data(request.data, request.layout, packs=packs, log=console.print)
    states = make_states(plan.weights, seed=request.seed, console=console)
    packed = prepare_data(
        source,
        split_seed=request.split_seed,
        leaky_split=request.leaky_split,
        max_bad_tiles=request.max_bad_tiles,
        side_px=int(plan.space.largest("data.image_size_px")),
        context_px=int(plan.space.largest("data.context_px")),
        packs=packs,
        log=console.print,
    )
    plan = replace(plan, space=fit_space(plan.space, packed, console.print))
    check_networks(plan.space, min(packed.tile_size_px))
    if not plan.budget.num_gpus:
        for line in warn_of_large_networks(plan.space, min(packed.tile_size_px)):
            console.print(line)
    identity = _identify_search(plan.space, packed, request.seed, request.sampler, states)
    return Prepared(plan, packed, states, identity, {"space.toml": plan.space.path})


def fit_space(space: Space, packed: Pack, log: Callable[[str], None]) -> Space:
    """The space without what shows nothing in these tiles: a margin where no grid is known.

    A margin that all trials have stays, as a person states it.
    """
    if packed.record["grid"]["columns"] or not space.searches("data.context_px"):
        return space
    log("  so data.context_px is no longer searched and is 0 in every trial")
    return space.fixed({"data.context_px": 0}, where=f"{space.path}, without a grid")


def make_states(
    weights_of: Mapping[str, str | Path], *, seed: int, console: Console
) -> dict[str, InitialState]:
    """Make what each backbone starts from, and say so where it may be downloaded."""
    states = {}
    for backbone, weights in weights_of.items():
        if weights == "imagenet":
            console.print(announce_download(backbone))
        states[backbone] = make_initial_state(backbone, weights, seed=seed)
    return states


def _begin(prepared: Prepared, budget: Budget, request: SearchRequest, console: Console) -> None:
    """Make the run's folder, or note in it with what it is continued."""
    begin_run(
        prepared.plan.folder,
        prepared.identity,
        prepared.packed,
        prepared.states,
        asked=prepared.asked,
        validation=prepared.validation,
        settings={
            "keep": request.keep,
            "device": "cuda" if budget.gpus_per_worker else "cpu",
            "threads": budget.threads_per_worker,
        },
        log=console.print,
    )
    if prepared.doubted is not None:
        write_table(prepared.plan.folder / "initial" / DOUBTED, prepared.doubted)


def _search(
    request: SearchRequest, head: Head | None, prepared: Prepared, console: Console
) -> SearchOutcome:
    """Search in the run's folder, which is locked, on the cluster or on a Ray of our own."""
    plan, packed, here = prepared.plan, prepared.packed, this_machine()
    folder, space = plan.folder, plan.space
    if head is None:
        console.print("starting Ray on this machine")
    own_ray = start_local_ray(
        num_cpus=here.num_cpus, num_gpus=here.num_gpus, way_on=request.describe_way_on()
    )
    with nullcontext() if head else own_ray:
        budget = find_budget(request, space, head, console.print)  # nodes may have come or gone
        # these import Ray, which reads its environment then
        from ensemble.search.searching import Search
        from ensemble.search.trackers.tensorboard import make_trackers

        trackers = make_trackers(folder, request.mlflow, name=request.name)
        _begin(prepared, budget, request, console)
        for backbone, state in prepared.states.items():
            console.print(f"{backbone} starts from {state.describe()}")
        now = "" if budget == plan.budget else f"; the budget is now {budget}"
        console.print(f"{prepared.doing} {plural(request.trials, 'trial')}{now}")
        console.print(check_disk(folder, space, packed, budget, request.keep, request.trials))
        layout = None
        if plan.storage is not None:
            layout = share_run(plan.storage, folder, packed, name=str(request.name))
        search = Search(
            folder,
            space,
            budget,
            request,
            pack_folder=packed.folder,
            storage=plan.storage,
            layout=layout,
            trackers=trackers,
            console=console,
        )
        with log_ray_to(folder / "ray.log"):
            return search.run()


def _identify_search(
    space: Space, packed: Pack, seed: int, sampler: str, states: dict[str, InitialState]
) -> dict[str, Any]:
    """What must be the same for a run to be continued, in the order a person would look."""
    return {
        **identify_data(packed),
        "seed": seed,
        "sampler": sampler,
        "epochs": space.default.optimisation.epochs,
        "image_size_px": space.default.data.image_size_px,
        "context_px": int(space.largest("data.context_px")),
        "weights": identify_weights(states),
        "space": space.describe(),
    }
