"""What TensorBoard and MLflow have of a run, asked of these tools themselves."""

from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read_events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def read_points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, round(point.value, 6)) for point in read_events(folder).Scalars(tag)]


def runs_of(uri: str, name: str) -> list[Any]:
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
    return sorted(runs, key=lambda run: run.info.run_name)


def history(uri: str, run: Any, figure: str) -> list[tuple[int, float]]:
    points = MlflowClient(uri).get_metric_history(run.info.run_id, figure)
    return sorted((point.step, point.value) for point in points)
