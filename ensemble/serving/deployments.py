"""The two kinds of processes of a server on Ray Serve.

One takes what comes over HTTP (`Door`), and replicas of the other judge (`Judge`), each with the
ensemble on its GPU or on cores of its own. A replica that dies is started again by Serve, and what
it was judging is judged by another one: judging changes nothing, so it can be done twice.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ensemble.run.members import choose_device
from ensemble.serving.application import BusyError, Limits, make_application
from ensemble.serving.photographs import (
    Answer,
    Photograph,
    judge_photographs,
    open_ensemble,
)

APPLICATION = "crack-ensemble"
MOST_AT_ONCE = 8  # photographs that are cut into tiles together
WAIT_SECONDS = 0.01  # for further photographs
TRIES = 3


class Judge:
    """A replica that judges.

    Args:
        exported: Content of the file that `export` writes.
        num_threads: Threads of torch on a CPU.
        gpus: 0 judges on the CPU, 1 on the GPU that Ray gave this replica.
        max_pixels: Most pixels of a photograph.
        run_name: Name of the run, for pages.
    """

    def __init__(
        self, exported: bytes, num_threads: int, gpus: int, *, max_pixels: int, run_name: str
    ) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self._ensemble = open_ensemble(exported, choose_device(gpus))
        self._how: Any = {"max_pixels": max_pixels, "run_name": run_name}

    async def judge(self, photograph: Photograph) -> Answer:
        """Judge a photograph, together with others that wait."""
        answer: Answer = await self._judge_together(photograph)
        return answer

    @serve.batch(max_batch_size=MOST_AT_ONCE, batch_wait_timeout_s=WAIT_SECONDS)
    async def _judge_together(self, photographs: list[Photograph]) -> list[Answer]:
        return await asyncio.to_thread(judge_photographs, self._ensemble, photographs, **self._how)


@serve.ingress()
class Door:
    """What takes photographs over HTTP and hands them to a replica.

    Args:
        judges: Handle of the replicas.
        settings: What `make_application` takes beside who judges.
    """

    def __init__(self, judges: DeploymentHandle[Any], settings: Mapping[str, Any]) -> None:
        self._judges = judges
        self._settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_application(self._judge, self._count_replicas, **self._settings)

    async def _judge(self, photograph: Photograph) -> Answer:
        for _ in range(TRIES):
            try:
                answer: Answer = await self._judges.judge.remote(photograph)
                return answer
            except BackPressureError:
                raise BusyError("the queue is full; try again") from None
            except (RayActorError, DeploymentUnavailableError):
                await asyncio.sleep(WAIT_SECONDS)  # the replica died; another one may judge
        raise BusyError("nobody is there to judge; try again")

    async def _count_replicas(self) -> tuple[int, int]:
        status = await asyncio.to_thread(serve.status)
        judges = status.applications[APPLICATION].deployments[Judge.__name__]
        states = {str(state): count for state, count in judges.replica_states.items()}
        return states.get("RUNNING", 0), sum(states.values())


def make_deployments(
    exported: bytes,
    *,
    num_replicas: int,
    cores_per_replica: int,
    gpus_per_replica: int,
    limits: Limits,
    settings: Mapping[str, Any],
) -> serve.Application:
    """What Serve runs.

    Args:
        exported: Content of the file that `export` writes.
        num_replicas: Replicas that judge.
        cores_per_replica: Cores of each.
        gpus_per_replica: 1 where each has a GPU, else 0.
        limits: What is taken.
        settings: What `make_application` takes beside who judges.
    """
    judges = serve.deployment(
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": cores_per_replica, "num_gpus": gpus_per_replica},
        max_ongoing_requests=2 * MOST_AT_ONCE,
        max_queued_requests=limits.max_queued,
        health_check_period_s=2,
    )(Judge).bind(
        exported,
        cores_per_replica,
        gpus_per_replica,
        max_pixels=limits.max_pixels,
        run_name=settings["about"]["run"],
    )
    door = serve.deployment(
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=num_replicas * 2 * MOST_AT_ONCE + 2 * limits.max_queued + 100,
    )(Door)
    return door.bind(judges, settings)
