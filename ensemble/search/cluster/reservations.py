"""Ray's reservations for trials: how many trials have a place, and which nobody owns any more.

A Train controller reserves a placement group and removes it when it ends by itself. If it is
killed, Ray keeps the reservation until the whole job ends, and the next trial would wait for ever.
Train's own remedy asks the state API, which needs the dashboard and exactly one Ray on the host
(ray-project/ray issues 54305, 65443); here the cluster's control store is asked.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import ray
from ray._private import state
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

T = TypeVar("T")


def release_orphans() -> int:
    """Remove the placement groups of this job whose creating actor is dead, and count them."""
    released = 0
    for table in _groups():
        by_actor = not ray.ActorID(table.creator_actor_id).is_nil()
        removed = table.state == gcs_pb2.PlacementGroupTableData.REMOVED
        if by_actor and table.creator_actor_dead and not removed:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(table.placement_group_id)))
            released += 1
    return released


def count_places() -> int:
    """Count the trials for which Tune has a place, whether or not a process runs there yet."""
    return sum(
        table.state == gcs_pb2.PlacementGroupTableData.CREATED
        and ray.ActorID(table.creator_actor_id).is_nil()
        for table in _groups()
    )


def ask_ray(call: Callable[[], T], otherwise: T) -> T:
    """Call into Ray so that a signal can end the wait.

    Ray itself waits within C++ where its control store is gone, and no Ctrl-C gets through.

    Args:
        call: Call of Ray's control store.
        otherwise: Answer if the call fails.
    """
    answers: list[T] = []

    def ask() -> None:
        with suppress(Exception):
            answers.append(call())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join()
    return answers[0] if answers else otherwise


def _groups() -> Iterator[Any]:
    """The placement groups of this job."""
    accessor = state.state._connect_and_get_accessor()
    job = ray.get_runtime_context().get_job_id()
    tables: list[bytes] = ask_ray(accessor.get_placement_group_table, [])
    for serialized in tables:
        table: Any = gcs_pb2.PlacementGroupTableData.FromString(serialized)
        if table.creator_job_id.hex() == job:
            yield table
