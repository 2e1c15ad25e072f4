"""scripts/search.py: from the command line to a run's folder; bad input is refused first."""

import argparse
import shlex
import sys
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ensemble.base.door import printing_result, spell_command
from ensemble.base.errors import InputError
from ensemble.base.files import find_toml, read_table, table_rows
from ensemble.base.interruption import resumable
from ensemble.base.options import SPACES
from ensemble.base.process import count_cores
from ensemble.base.wording import plural
from ensemble.data.layout import layout_of
from ensemble.data.prepare import is_synthetic, prepare_data
from ensemble.recipes.headline import describe_changes, name_weights
from ensemble.run.folder import begin_run, check_same_run, display_path, run_folder, run_lock
from ensemble.search.budget import Budget, Node, plan_budget, wait_for_room
from ensemble.search.cluster.connection import (
    Head,
    alive_nodes,
    ask_for_nodes,
    check_wait,
    find_head,
    join_cluster,
    prepare_environment,
    start_local_ray,
)
from ensemble.search.cluster.ray_log import log_ray_to
from ensemble.search.cluster.storage import Storage
from ensemble.search.identity import check_disk, identify_search, share_run
from ensemble.search.space_file import load_space
from ensemble.search.start import start
from ensemble.training.initial_weights import make_initial_state, parse_weights


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Search as the command line says, and return the run's folder and its table of trials."""
    head = find_head(options.address)
    check_wait(options.wait, head)
    prepare_environment(head)
    leaky = "-leaky" * options.leaky_split
    options.name = (
        options.name or f"{Path(options.space).stem}{leaky}-{datetime.now():%Y%m%d-%H%M%S}"
    )
    how = f"the same command with --name {shlex.quote(options.name)} goes on"
    with resumable(how, print), join_cluster(head) if head else nullcontext():
        return _search(options, head)


def _search(options: argparse.Namespace, head: Head | None) -> dict[str, Any]:
    """Prepare, search, say what came out; connected to the cluster at `head` if there is one."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    space = load_space(find_toml(options.space, SPACES, what="--space"))
    recipe = None
    if options.start_from is not None:
        space, recipe, how = start(space, options.start_from, under=options.out)
        console.print(how)
    space = space.changed(epochs=options.epochs, image_size_px=options.image_size)
    folder = run_folder(options.name, under=options.out)
    weights = parse_weights(options.weights, space.initial_weights)
    if recipe is not None:
        used = name_weights(weights[recipe.backbone])
        said = name_weights(recipe.weights)
        if changes := describe_changes(
            recipe.base, space.default, asked_weights=said, weights=used
        ):
            console.print(f"trial 0 differs from the recipe: {changes}")
    workers = options.workers_per_trial or space.workers_per_trial
    cores, gpus = _cores_and_gpus_here()

    def plan(nodes: list[Node]) -> Budget:
        return plan_budget(
            gpus=options.gpus,
            cpus=options.cpus,
            workers_per_trial=workers,
            trials_per_gpu=options.trials_per_gpu,
            nodes=nodes,
            is_cluster=head is not None,
        )

    def plan_now() -> Budget:
        if head is None:
            return plan([Node("this machine", cores, gpus)])
        return wait_for_room(
            plan,
            look=alive_nodes,
            ask=ask_for_nodes,
            wait_minutes=options.wait,
            log=console.print,
        )

    if head is not None:
        console.print(f"joined the Ray cluster at {head.address} ({head.origin})")
    planned = plan_now()  # what cannot be placed is refused before anything is read
    if not is_synthetic(options.data) and not Path(options.data).exists():
        raise InputError(f"--data {options.data}: no such folder or .zip")
    storage = Storage.parse(options.storage) if options.storage else None
    if storage is not None:
        storage.check()
    console.print(f"budget: {planned}")
    if options.cpus is not None and planned.num_gpus:
        console.print(
            f"--cpus {options.cpus} counts for nothing beside GPUs, as each trial trains on one; "
            "--gpus 0 trains on the CPU"
        )
    states = {}
    for backbone, what in weights.items():
        if what == "imagenet":
            console.print(f"{backbone}: ImageNet weights, downloaded unless they are here already")
        states[backbone] = make_initial_state(backbone, what, seed=options.seed)
    packed = prepare_data(
        options.data,
        layout_of(options),
        split_seed=options.split_seed,
        leaky_split=options.leaky_split,
        max_bad_tiles=options.max_bad_tiles,
        packs=options.out.resolve() / "packs",
        log=console.print,
    )
    identity = identify_search(space, packed, options.seed, options.sampler, states)
    with run_lock(folder, what="search"):
        check_same_run(folder, identity, packed)
        if head is None:
            console.print("starting Ray on this machine")
        with nullcontext() if head else start_local_ray(num_cpus=cores, num_gpus=gpus):
            budget = plan_now()  # on a cluster the nodes may be others by now
            # these import Ray, which reads its environment then
            from ensemble.search.searching import Search, Settings
            from ensemble.search.study import count_finished, find_best
            from ensemble.search.trackers.tensorboard import make_trackers

            trackers = make_trackers(folder, options.mlflow)
            begin_run(
                folder,
                identity,
                packed,
                states,
                asked={"space.toml": space.path},
                settings={
                    "keep": options.keep,
                    "device": "cuda" if budget.gpus_per_worker else "cpu",
                    "threads": budget.threads_per_worker,
                },
                log=console.print,
            )
            for backbone, state in states.items():
                console.print(f"{backbone} starts from {state.describe()}")
            now = "" if budget == planned else f"; the budget is now {budget}"
            console.print(f"searching {plural(options.trials, 'trial')}{now}")
            console.print(check_disk(folder, space, packed, budget, options.keep, options.trials))
            shared = share_run(storage, folder, packed) if storage else None
            search = Search(
                folder,
                space,
                budget,
                Settings(
                    seed=options.seed,
                    sampler=options.sampler,
                    num_trials=options.trials,
                    max_failures=options.max_failures,
                    keep=options.keep,
                    trial_timeout_seconds=60 * options.trial_timeout,
                    max_seconds=options.max_hours and 3600 * options.max_hours,
                ),
                pack_folder=packed.folder,
                storage=storage,
                shared=shared,
                trackers=trackers,
                console=console,
            )
            with log_ray_to(folder / "ray.log"):
                study, stopped = search.run()
    finished = count_finished(study)
    if finished:
        number, f1 = find_best(study)
        with printing_result():
            console.print(f"best: trial {number}, validation F1 {f1:.3f}")
    with printing_result():
        console.print(f"run: {folder}")
    if stopped is not None:
        how = (
            f"{finished} of {plural(options.trials, 'trial')} are finished; the same command with "
            f"--name {shlex.quote(options.name)} goes on"
        )
        if stopped.exit_code == 2:
            raise InputError(f"{stopped.words}; {how}")
        with printing_result():
            console.print(f"stopped ({stopped.words}): {how}")
        sys.exit(stopped.exit_code)
    console.print(f"next: {spell_command('evaluate')} {display_path(folder)}")
    return {"run": str(folder), "trials": table_rows(read_table(folder / "trials.csv"))}


def _cores_and_gpus_here() -> tuple[int, int]:
    return count_cores(), torch.cuda.device_count()
