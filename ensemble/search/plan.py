"""What a search will do, worked out and refused before tiles are read and anything is written."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from ensemble.base.errors import InputError
from ensemble.base.files import find_toml
from ensemble.base.options import RECIPES, SPACES
from ensemble.base.process import count_cores
from ensemble.data.prepare import is_synthetic
from ensemble.data.sources import check_source
from ensemble.data.view import View
from ensemble.recipes.headline import describe_changes
from ensemble.run.folder import run_folder
from ensemble.search.budget import Budget, Node, plan_budget, wait_for_room
from ensemble.search.cluster.connection import Head, alive_nodes, ask_for_nodes
from ensemble.search.cluster.storage import Storage
from ensemble.search.given_backbones import give_backbones
from ensemble.search.networks import check_networks
from ensemble.search.request import SearchRequest
from ensemble.search.space import Space
from ensemble.search.space_file import load_space
from ensemble.search.start import start
from ensemble.training.backbone_table import find_backbone
from ensemble.training.initial_weights import parse_weights

LARGE_ON_A_CPU = 1.0  # billions of multiply-adds an image; the space cpu has at most a fifth


@dataclass(frozen=True)
class SearchPlan:
    """What a search will do.

    Attributes:
        folder: Folder of the run; it need not exist.
        space: Search space, as the request changes it.
        weights: What each backbone starts from: `imagenet`, `none` or a file.
        budget: Trials at a time and what each may use, on the nodes there were.
        storage: Place through which tiles and members travel between nodes, if any.
    """

    folder: Path
    space: Space
    weights: dict[str, str | Path]
    budget: Budget
    storage: Storage | None


def plan_search(
    request: SearchRequest, head: Head | None, log: Callable[[str], None]
) -> SearchPlan:
    """Work out what a search will do; connected to the cluster at `head`, if there is one.

    Args:
        request: A request with a name.
        head: Head of the cluster; None is this machine alone.
        log: Takes lines for the person.

    Raises:
        InputError: The request contradicts itself or what there is.
    """
    assert request.name is not None
    if not is_synthetic(request.data):
        check_source(Path(request.data))
    space, weights = _plan_space(request, log)
    folder = run_folder(request.name, under=request.out)
    budget, storage = find_means(request, space, head, log)
    return SearchPlan(folder, space, weights, budget, storage)


def find_means(
    request: SearchRequest, space: Space, head: Head | None, log: Callable[[str], None]
) -> tuple[Budget, Storage | None]:
    """Find the trials at a time, say how many, and the storage, which is tried.

    Raises:
        InputError: The request contradicts what there is.
    """
    if request.mlflow is not None:
        check_mlflow(request.mlflow)
    budget = find_budget(request, space, head, log)
    storage = Storage.parse(request.storage) if request.storage else None
    if storage is not None:
        storage.check()
    log(f"budget: {budget}")
    if request.cpus is not None and budget.num_gpus:
        log(
            f"--cpus {request.cpus} counts for nothing beside GPUs, as each trial trains on one; "
            "--gpus 0 trains on the CPU"
        )
    return budget, storage


def _plan_space(
    request: SearchRequest, log: Callable[[str], None]
) -> tuple[Space, dict[str, str | Path]]:
    """The space as the request changes it, and what its backbones start from."""
    recipe_instead = RECIPES, "a recipe, which `train --recipe` takes"
    space = load_space(find_toml(request.space, SPACES, what="--space", other=recipe_instead))
    if request.backbone:
        space, losses = give_backbones(space, request.backbone)
        if losses:
            log(losses)
    recipe = None
    if request.start_from is not None:
        space, recipe, changes = start(space, request.start_from, under=request.out)
        first = space.default.model.backbone
        if request.backbone and first not in request.backbone:
            raise InputError(
                f"--start-from {request.start_from}: it begins with {first}, which "
                "--backbone does not name; name it, too, or leave --backbone out"
            )
        log(changes)
    space = space.changed(epochs=request.epochs, image_size_px=request.image_size)
    check_networks(space)
    weights = parse_weights(request.weights, space.initial_weights)
    if recipe is not None:
        changes = describe_changes(
            recipe.base,
            space.default,
            asked_weights=recipe.weights,
            weights=weights[recipe.backbone],
        )
        if changes:
            log(f"trial 0 differs from the recipe: {changes}")
    return space, weights


def check_mlflow(uri: str) -> None:
    """Refuse what is no address of MLflow's, and any where MLflow is not installed.

    Raises:
        InputError: It is so.
    """
    if not uri.startswith(("http://", "https://", "sqlite:///")):
        raise InputError(
            f"--mlflow {uri}: expected the address of a server, such as http://HOST:5000, or "
            "of a file, sqlite:///mlflow.db"
        )
    if find_spec("mlflow") is None:
        raise InputError(
            "--mlflow: MLflow is not installed; pip install 'crack-ensemble[mlflow]' brings it"
        )


def find_budget(
    request: SearchRequest, space: Space, head: Head | None, log: Callable[[str], None]
) -> Budget:
    """Find the trials at a time, on this machine or on the nodes that a cluster has now."""

    def plan(nodes: list[Node]) -> Budget:
        return plan_budget(
            gpus=request.gpus,
            cpus=request.cpus,
            workers_per_trial=request.workers_per_trial or space.workers_per_trial,
            trials_per_gpu=request.trials_per_gpu,
            nodes=nodes,
            num_trials=request.trials,
            is_cluster=head is not None,
        )

    if head is None:
        return plan([this_machine()])
    return wait_for_room(
        plan, look=alive_nodes, ask=ask_for_nodes, wait_minutes=request.wait, log=log
    )


def this_machine() -> Node:
    """The cores and GPUs here."""
    return Node("this machine", count_cores(), torch.cuda.device_count())


def warn_of_large_networks(space: Space, tile_side_px: int) -> list[str]:
    """Say in a line what the largest network costs, where it is too large for CPUs.

    Args:
        space: Search space.
        tile_side_px: Side of a tile in its own pixels, in which a margin around it is measured.
    """
    view = View(
        int(space.largest("data.image_size_px")), context_px=int(space.largest("data.context_px"))
    )
    side = view.side_px(tile_side_px)
    costs = {name: find_backbone(name).forecast_multiply_adds(side) for name in space.backbones}
    largest = max(costs, key=lambda name: costs[name])
    billions = costs[largest] / 1000
    if billions < LARGE_ON_A_CPU:
        return []
    margin = f" ({view.margin_px(tile_side_px)} of them a margin on each side)"
    return [
        f"no GPU is used: {largest} takes {billions:.1f} billion multiply-adds an image of {side} "
        f"px{margin if view.context_px else ''}, so a trial may take hours; --space cpu is made "
        "for CPUs"
    ]
