"""What a search asks of the machine, and what it refuses to ask."""

import pytest

from ensemble.errors import InputError
from ensemble.search.budget import plan_budget
from ensemble.search.run import trial_resources


def plan(**changes):
    asked = {
        "gpus": None,
        "cpus": None,
        "workers_per_trial": 1,
        "trials_per_gpu": 1,
        "available_gpus": 0,
        "available_cpus": 8,
    }
    return plan_budget(**{**asked, **changes})


def test_four_gpus_are_four_trials_of_one_gpu():
    budget = plan(gpus=4, available_gpus=4, available_cpus=64)
    assert budget.max_concurrent_trials == 4
    assert trial_resources(budget) == {"CPU": 1.0, "GPU": 1.0}


def test_four_workers_a_trial_make_one_trial_of_four_gpus():
    budget = plan(gpus=4, workers_per_trial=4, available_gpus=4, available_cpus=64)
    assert budget.max_concurrent_trials == 1
    assert budget.gpus_per_worker == 1


def test_two_trials_a_gpu_ask_for_half_a_gpu_each():
    budget = plan(gpus=2, trials_per_gpu=2, available_gpus=2, available_cpus=64)
    assert budget.max_concurrent_trials == 4
    assert trial_resources(budget) == {"CPU": 1.0, "GPU": 0.5}


def test_few_cores_are_shared_by_many_gpus():
    budget = plan(gpus=4, available_gpus=4, available_cpus=2)
    assert trial_resources(budget) == {"CPU": 0.5, "GPU": 1.0}
    assert budget.threads_per_worker == 1


def test_gpus_are_used_where_there_are_some_and_the_cpu_where_there_are_none():
    assert plan(available_gpus=3).num_gpus == 3
    assert plan().num_gpus == 0


def test_fewer_slots_than_cores_get_more_threads_each():
    budget = plan(cpus=2)
    assert budget.max_concurrent_trials == 2
    assert budget.threads_per_worker == 4
    assert trial_resources(budget) == {"CPU": 1.0}


def test_a_trial_on_workers_takes_no_core_itself():
    assert "CPU" not in trial_resources(plan(workers_per_trial=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 4}, "--gpus 4: there are none"),
        ({"gpus": 4, "available_gpus": 2}, "--gpus 4: there are 2"),
        ({"gpus": -1}, "--gpus -1: must be at least 0"),
        ({"cpus": 0}, "--cpus 0: must be at least 1"),
        ({"cpus": 9}, "--cpus 9: there are 8 cores"),
        ({"workers_per_trial": 0}, "--workers-per-trial 0"),
        ({"workers_per_trial": 9}, "could never start"),
        ({"gpus": 0, "trials_per_gpu": 2}, "no GPU is used"),
        (
            {"gpus": 2, "available_gpus": 2, "workers_per_trial": 2, "trials_per_gpu": 2},
            "cannot share a GPU",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        plan(**changes)
