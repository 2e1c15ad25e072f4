"""What TensorBoard, MLflow and optuna-dashboard show of a run, asked of these tools themselves.

What they show of a whole search is in test_searches.py.
"""

import io
import json
import pickle
import resource
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna_dashboard import wsgi
from tensorboard.plugins.hparams import metadata
from tracked import history, read_events, read_points, runs_of

from ensemble.base.errors import CannotWriteError, InputError
from ensemble.run.events import epoch_figures, hyperparameters
from ensemble.search.plan import check_mlflow
from ensemble.search.space_file import load_space
from ensemble.search.study import open_study
from ensemble.search.trackers.tensorboard import TensorBoardEvents, make_trackers

# MLflow's own tables with SQLAlchemy 2.1, once a process
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


class Trial:
    """What callbacks look at of Tune's trials."""

    def __init__(self, task, trial_id="a", **last_result):
        self.trial_id, self.config, self.last_result = trial_id, task.model_dump(), last_result


def as_result(epoch, val_f1):
    """An epoch as Tune hands it over: our row and what Tune adds."""
    return {
        **{"number": 3, "backbone": "small_cnn", "epoch": epoch, "last": False, "done": False},
        **{"train_loss": 0.5 / epoch, "learning_rate": 1e-3, "images_per_second": 100.0},
        **{"val_f1": val_f1, "best_val_f1": val_f1, "val_num_tiles": 7},
        **{"trial_id": "a", "training_iteration": 9, "pid": 4711, "config": {"a": 1}},
    }


# --- TensorBoard


def read_hparams(folder: Path) -> dict[str, Any]:
    content = read_events(folder).PluginTagToContent("hparams")[metadata.SESSION_START_INFO_TAG]
    start = metadata.parse_session_start_info_plugin_data(content)
    return {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}


def test_every_figure_of_an_epoch_stands_against_it(tmp_path, make_task):
    events, trial = TensorBoardEvents(tmp_path), Trial(make_task())
    for epoch, f1 in ((1, 0.5), (2, 0.75)):
        events.on_trial_result(0, [], trial, as_result(epoch, f1))
    events.on_trial_error(0, [], trial)
    folder = tmp_path / "tensorboard" / "0003"
    assert read_points(folder, "val_f1") == [(1, 0.5), (2, 0.75)]
    assert read_points(folder, "train_loss") == [(1, 0.5), (2, 0.25)]
    assert set(read_events(folder).Tags()["scalars"]) == set(epoch_figures(as_result(1, 0.5)))


def test_a_disk_that_takes_no_events_is_an_input_error(tmp_path, make_task):
    """A file that may not grow stands for a disk without room."""
    events, trial = TensorBoardEvents(tmp_path), Trial(make_task())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(CannotWriteError, match=r"tensorboard/0003 cannot be written"):
            deque(events.on_trial_result(0, [], trial, as_result(n, 0.5)) for n in range(1, 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    events.on_trial_error(0, [], trial)


def test_figures_are_those_of_the_epochs_row(make_epoch):
    row = make_epoch(margins=[0.0]).row()
    assert epoch_figures({**row, "pid": 1, "training_iteration": 2}) == {
        name: value for name, value in row.items() if name != "epoch"
    }


def test_finished_epoch_is_on_the_disk_while_the_trial_runs(tmp_path, make_task):
    code = (
        "import json, os, sys, types\n"
        "from pathlib import Path\n"
        "from ensemble.search.trackers.tensorboard import TensorBoardEvents\n"
        "task, result = json.loads(sys.argv[2])\n"
        "trial = types.SimpleNamespace(trial_id='a', config=task)\n"
        "TensorBoardEvents(Path(sys.argv[1])).on_trial_result(0, [], trial, result)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    message = json.dumps([make_task().model_dump(), as_result(1, 0.5)])
    command = [sys.executable, "-c", code, str(tmp_path), message]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9
    assert read_points(tmp_path / "tensorboard" / "0003", "val_f1") == [(1, 0.5)]


def test_continued_trial_shows_no_point_twice(tmp_path, make_task):
    for name, epochs, f1 in (("a", (1, 2, 3), 0.1), ("b", (2, 3, 4), 0.2)):
        events, trial = TensorBoardEvents(tmp_path), Trial(make_task(), name)
        for epoch in epochs:
            events.on_trial_result(0, [], trial, as_result(epoch, f1))
        events.on_trial_error(0, [], trial)
    points = read_points(tmp_path / "tensorboard" / "0003", "val_f1")
    assert points == [(1, 0.1), (2, 0.2), (3, 0.2), (4, 0.2)]


def test_hyperparameters_are_the_trials_and_no_folder_is_among_them(tmp_path, make_task):
    task = make_task(optimisation={"learning_rate": 0.0125})
    events, trial = TensorBoardEvents(tmp_path), Trial(task, last=True)
    events.on_trial_result(0, [], trial, as_result(1, 0.5))
    events.on_trial_complete(0, [], trial)
    folder = tmp_path / "tensorboard" / "0003"
    shown = read_hparams(folder)
    assert shown == hyperparameters(task.config)
    assert shown["optimisation.learning_rate"] == 0.0125
    assert shown["model.backbone"] == "small_cnn"
    assert metadata.SESSION_END_INFO_TAG in read_events(folder).PluginTagToContent("hparams")
    assert not any("secret" in str(value) for value in shown.values())


def test_trial_that_failed_before_its_first_epoch_leaves_no_events(tmp_path, make_task):
    events, trial = TensorBoardEvents(tmp_path), Trial(make_task(), failure="diverged")
    events.on_trial_result(0, [], trial, {"number": 3, "failure": "diverged", "done": True})
    events.on_trial_complete(0, [], trial)
    assert list(tmp_path.iterdir()) == []


# --- MLflow


def log_epochs(tracker, trial, epochs, val_f1):
    tracker.on_trial_start(0, [], trial)
    for epoch in epochs:
        tracker.on_trial_result(0, [], trial, as_result(epoch, val_f1))


def test_continued_trial_is_the_same_run_of_mlflow(tmp_path, make_task):
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "walls"
    log_epochs(make_trackers(folder, uri)[1], Trial(make_task()), (1, 2), 0.1)  # then killed
    tracker, trial = make_trackers(folder, uri)[1], Trial(make_task(), last=True)
    log_epochs(tracker, trial, (2, 3), 0.2)
    tracker.on_trial_complete(0, [], trial)
    (run,) = runs_of(uri, "walls")
    assert history(uri, run, "val_f1") == [(1, 0.1), (2, 0.1), (3, 0.2)]
    assert run.info.status == "FINISHED"


def test_runs_of_the_same_name_elsewhere_are_not_mixed(tmp_path, make_task):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for place in ("here", "there"):
        tracker = make_trackers(tmp_path / place / "walls", uri)[1]
        log_epochs(tracker, Trial(make_task()), (1,), 0.1)
    assert len(runs_of(uri, "walls")) == 2


def test_a_refit_has_its_name_in_mlflow_and_its_trials_have_theirs(tmp_path, make_task):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = make_trackers(tmp_path / "walls-refit" / "folds", uri, name="walls-refit")[1]
    task = make_task().model_copy(update={"name": "walls/3, fold 1 of 2"})
    log_epochs(tracker, Trial(task), (1,), 0.1)
    (run,) = runs_of(uri, "walls-refit")
    assert run.info.run_name == "walls/3, fold 1 of 2"


def test_trial_with_a_reason_failed_in_mlflow(tmp_path, make_task):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = make_trackers(tmp_path / "walls", uri)[1]
    trial = Trial(make_task(), failure="out of GPU memory")
    log_epochs(tracker, trial, (1,), 0.1)
    tracker.on_trial_result(0, [], trial, {"number": 3, "failure": "out of GPU memory"})
    tracker.on_trial_complete(0, [], trial)
    (run,) = runs_of(uri, "walls")
    assert run.info.status == "FAILED"


@pytest.fixture
def silent_server() -> Iterator[str]:
    """It takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1:9", "cannot be used"),
        ("sqlite:////dev/null/mlflow.db", "cannot be used"),
    ],
)
def test_mlflow_that_is_not_there_is_refused_at_once(uri, said, tmp_path):
    with pytest.raises(InputError, match=said):
        make_trackers(tmp_path / "run", uri)
    assert list(tmp_path.iterdir()) == []


def test_server_that_never_answers_is_refused_and_no_hang(tmp_path, silent_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # ours would be ten seconds, twice
    with pytest.raises(InputError, match="cannot be used"):
        make_trackers(tmp_path / "run", silent_server)


def test_search_goes_on_without_an_mlflow_that_went_away(tmp_path, make_task, capsys):
    database = tmp_path / "mlflow.db"
    tracker = make_trackers(tmp_path / "walls", f"sqlite:///{database}")[1]
    trial = Trial(make_task())
    log_epochs(tracker, trial, (1,), 0.1)
    database.write_bytes(b"no database any more" * 1000)
    for epoch in (2, 3):
        tracker.on_trial_result(0, [], trial, as_result(epoch, 0.2))
    tracker.on_trial_complete(0, [], trial)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("MLflow: ")
    assert line.endswith("; the search goes on and tells it nothing more")


def test_mlflow_that_is_not_installed_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # makes importing it a ModuleNotFoundError
    assert len(make_trackers(tmp_path / "run", None)) == 1
    with pytest.raises(InputError) as refused:
        check_mlflow("http://127.0.0.1:9")
    assert str(refused.value) == (
        "--mlflow: MLflow is not installed; pip install 'crack-ensemble[mlflow]' brings it"
    )


def test_callbacks_are_pickled_as_nothing(tmp_path, make_task):
    trackers = make_trackers(tmp_path / "walls", f"sqlite:///{tmp_path}/mlflow.db")
    log_epochs(trackers[1], Trial(make_task()), (1,), 0.1)
    for tracker in trackers:
        assert vars(pickle.loads(pickle.dumps(tracker))) == {}


# --- optuna-dashboard

SPACE = """
question = "?"
[default.model]
backbone = "small_cnn"
[search.optimisation]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
"""


def get(app: Any, path: str) -> Any:
    """GET `path` of a WSGI application."""
    status: list[str] = []
    environment = {
        **{"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "", "SCRIPT_NAME": ""},
        **{"SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http"},
        **{"wsgi.input": io.BytesIO(), "wsgi.errors": io.StringIO()},
    }
    body = b"".join(app(environment, lambda line, *_: status.append(line)))
    assert status == ["200 OK"], body
    return json.loads(body)


def test_optuna_dashboard_opens_the_study_of_a_run(tmp_path):
    run = tmp_path / "decks"
    run.mkdir()
    (run / "space.toml").write_text(SPACE)
    space = load_space(run / "space.toml")
    study = open_study(run / "study.db", space, sampler="tpe", seed=0)
    trial = study.ask()
    config = space.ask(trial, seed=0)
    for epoch, f1 in ((1, 0.5), (2, 0.625)):
        trial.report(f1, step=epoch)
    study.tell(trial, 0.625)
    app = wsgi(f"sqlite:///{run / 'study.db'}")
    (shown,) = get(app, "/api/studies")["study_summaries"]
    assert shown["study_name"] == "search"
    (row,) = get(app, f"/api/studies/{shown['study_id']}")["trials"]
    assert (row["number"], row["state"], row["values"]) == (0, "Complete", [0.625])
    points = [(point["step"], point["value"]) for point in row["intermediate_values"]]
    assert points == [(1, 0.5), (2, 0.625)]
    (parameter,) = row["params"]
    assert float(parameter["param_external_value"]) == config.optimisation.learning_rate
