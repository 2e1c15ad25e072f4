"""Names that Ray, Optuna and torch promise to nobody, and that this project uses all the same.

Where a new version of theirs lacks one, this says which, and in which module it is used; the cap on
Ray in pyproject.toml is lifted only when all are there.
"""

import importlib
import inspect
from operator import attrgetter

import optuna
import pytest
from ray.core.generated import gcs_pb2
from ray.tune.experiment import Trial
from ray.tune.experiment.trial import _TemporaryTrialState

NAMES = {
    "ray._private.worker": ["_global_node", "print_to_stdstream"],  # lifeline.py, ray_log.py
    "ray._private.node": ["Node.dead_processes", "Node.is_head"],  # lifeline.py
    "ray._private.services": ["canonicalize_bootstrap_address", "find_node_ids"],  # connection.py
    "ray._raylet": ["GcsClient", "InnerGcsClient.get_all_node_info"],  # connection.py
    "ray._private.state": [  # reservations.py
        "state._connect_and_get_accessor",
        "GlobalStateAccessor.get_placement_group_table",
    ],
    "ray.train.torch": ["TorchTrainer._create_default_callbacks"],  # workers.py
    "ray.train.v2.api.data_parallel_trainer": [  # workers.py
        "DatasetsCallback",
        "PlacementGroupCleanerCallback",
    ],
    "ray.tune.experiment": ["Trial.should_recover", "Trial.PENDING"],  # watch.py, live_table.py
    "ray.tune": ["Callback.on_trial_recover"],  # watch.py
    "timm.models.vision_transformer": ["checkpoint_filter_fn"],  # training/timm_networks.py
    "torch.cpu": ["_is_avx512_bf16_supported"],  # training/precision.py
    "torch.nn.modules.batchnorm": ["_BatchNorm"],  # training/data_parallel.py
    "torch": ["UntypedStorage._cdata", "Tensor._version"],  # training/cost.py, feature_maps.py
    "optuna.storages": ["RDBStorage.set_trial_state_values"],  # study.py
}


@pytest.mark.parametrize(("module", "name"), [(m, name) for m in NAMES for name in NAMES[m]])
def test_a_private_name_that_is_used_is_there(module, name):
    assert attrgetter(name)(importlib.import_module(module)) is not NotImplemented


def test_rays_table_of_reservations_has_the_fields_that_are_read():
    table = gcs_pb2.PlacementGroupTableData
    used = {"placement_group_id", "creator_actor_id", "creator_actor_dead", "creator_job_id"}
    assert used | {"state"} <= set(table.DESCRIPTOR.fields_by_name)
    assert all(hasattr(table, name) for name in ("CREATED", "REMOVED"))


def test_tunes_trial_has_the_attributes_that_the_watch_reads_and_sets():
    source = inspect.getsource(Trial)
    for name in ("max_failures", "temporary_state", "last_result", "status"):
        assert f"self.{name}" in source, name
    assert {"num_failures", "error_file"} <= set(dir(Trial))
    assert "ray_actor" in inspect.getsource(_TemporaryTrialState)


def test_optunas_trials_and_studies_have_what_lets_a_trial_wait_again():
    study = optuna.create_study()
    trial = study.ask()
    study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.WAITING)
    assert study.ask().number == trial.number
    assert study.trials[0]._trial_id == trial._trial_id
