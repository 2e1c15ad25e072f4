"""What a search asks of the machine or of each node, and what it refuses to ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune import PlacementGroupFactory

from ensemble.base.errors import InputError
from ensemble.search.budget import Node, TooLittleError, plan_budget, wait_for_room
from ensemble.search.trainable import trial_resources


def plan(*, nodes=((8, 0),), **changes):
    asked = {"gpus": None, "cpus": None, "workers_per_trial": 1, "trials_per_gpu": 1}
    there = [Node(f"10.0.0.{5 + i}", cpus, gpus) for i, (cpus, gpus) in enumerate(nodes)]
    return plan_budget(**{"is_cluster": len(there) > 1, **asked, **changes}, nodes=there)


def test_four_gpus_are_four_trials_of_one_gpu():
    budget = plan(gpus=4, nodes=[(64, 4)])
    assert budget.max_concurrent_trials == 4
    assert trial_resources(budget) == {"CPU": 1.0, "GPU": 1.0}


def test_four_workers_a_trial_make_one_trial_of_four_gpus():
    budget = plan(gpus=4, workers_per_trial=4, nodes=[(64, 4)])
    assert budget.max_concurrent_trials == 1
    assert budget.gpus_per_worker == 1


def test_two_trials_a_gpu_ask_for_half_a_gpu_each():
    budget = plan(gpus=2, trials_per_gpu=2, nodes=[(64, 2)])
    assert budget.max_concurrent_trials == 4
    assert trial_resources(budget) == {"CPU": 1.0, "GPU": 0.5}


def test_fewer_trials_than_cores_share_all_of_them():
    budget = plan(nodes=[(8, 0)], num_trials=3)
    assert (budget.num_slots, budget.threads_per_worker) == (3, 2)
    assert trial_resources(budget) == {"CPU": 2.0}
    assert str(plan(cpus=4, num_trials=1)) == "1 slot: 1 trial at a time, 4 threads each"
    assert plan(num_trials=8) == plan(num_trials=100) == plan()
    workers = plan(workers_per_trial=2, num_trials=1)
    assert (workers.num_slots, workers.max_concurrent_trials) == (2, 1)
    assert (workers.cpus_per_worker, workers.threads_per_worker) == (4, 4)


def test_the_cores_of_a_worker_are_on_one_node():
    assert plan(nodes=[(4, 0), (3, 0)], num_trials=3).threads_per_worker == 2
    assert plan(nodes=[(1, 0), (7, 0)], num_trials=2).threads_per_worker == 3
    assert plan(nodes=[(1, 0)] * 8, num_trials=1).threads_per_worker == 1


def test_a_trial_on_a_gpu_takes_no_other_trials_cores():
    assert plan(nodes=[(8, 2)], num_trials=1) == plan(nodes=[(8, 2)])


def test_few_cores_are_shared_by_many_gpus():
    budget = plan(gpus=4, nodes=[(2, 4)])
    assert trial_resources(budget) == {"CPU": 0.5, "GPU": 1.0}
    assert budget.threads_per_worker == 1


def test_cores_of_another_node_do_not_help_the_one_with_the_gpus():
    budget = plan(gpus=4, nodes=[(8, 0), (1, 4)])
    assert trial_resources(budget) == {"CPU": 0.25, "GPU": 1.0}
    assert budget.threads_per_worker == 1


def test_gpus_on_several_nodes_take_what_the_poorest_one_needs():
    budget = plan(nodes=[(32, 4), (2, 4)])
    assert budget.num_slots == 8
    assert trial_resources(budget) == {"CPU": 0.5, "GPU": 1.0}


def test_where_the_rich_node_is_enough_a_worker_has_a_whole_core():
    budget = plan(gpus=4, nodes=[(32, 4), (2, 4)])
    assert trial_resources(budget) == {"CPU": 1.0, "GPU": 1.0}
    assert budget.threads_per_worker == 1  # two of them may come to the node with two cores


def test_a_node_without_cores_can_train_on_its_gpus():
    budget = plan(nodes=[(4, 0), (0, 2)])
    assert trial_resources(budget) == {"CPU": 0.0, "GPU": 1.0}
    assert PlacementGroupFactory([trial_resources(budget)]).bundles == [{"GPU": 1.0}]


def test_six_and_seven_trials_fit_on_a_gpu_as_ray_rounds():
    for count in (3, 6, 7, 9, 11):
        budget = plan(gpus=1, trials_per_gpu=count, nodes=[(1, 1)])
        assert count * round(budget.gpus_per_worker * 10_000) <= 10_000
        assert count * round(budget.cpus_per_worker * 10_000) <= 10_000


def test_gpus_are_used_where_there_are_some_and_the_cpu_where_there_are_none():
    assert plan(nodes=[(8, 3)]).num_gpus == 3
    assert plan().num_gpus == 0


def test_a_budget_is_told_in_one_line():
    assert str(plan()) == "8 slots: 8 trials at a time, 1 thread each"
    assert str(plan(cpus=1, nodes=[(1, 0)])) == "1 slot: 1 trial at a time, 1 thread each"
    four = {"gpus": 4, "nodes": [(64, 4)]}
    shared = "8 slots on 4 GPUs: 8 trials at a time, 0.5 GPU and 8 threads each"
    assert str(plan(**four, trials_per_gpu=2)) == shared
    assert str(plan(**four, workers_per_trial=4)) == (
        "4 slots on 4 GPUs: 1 trial at a time, on 4 Ray Train workers of 1 GPU and 16 threads each"
    )


@pytest.mark.parametrize("cpus", [1, 2, 7])
def test_without_gpus_no_more_cores_are_used_than_asked_for(cpus):
    budget = plan(cpus=cpus)
    assert budget.max_concurrent_trials == cpus
    assert budget.threads_per_worker == 1
    assert trial_resources(budget) == {"CPU": 1.0}


def test_a_cluster_of_cpus_has_a_slot_for_each_core():
    budget = plan(nodes=[(3, 0), (0, 0), (2, 0)])
    assert budget.num_slots == 5
    assert budget.threads_per_worker == 1


def test_threads_are_those_of_the_node_on_which_all_workers_may_meet():
    assert plan(gpus=2, nodes=[(4, 1), (6, 1)]).threads_per_worker == 4


def test_a_trial_on_workers_takes_no_core_itself():
    assert "CPU" not in trial_resources(plan(workers_per_trial=2))


def test_workers_of_a_trial_may_be_spread_over_nodes():
    assert plan(workers_per_trial=2, nodes=[(1, 0), (1, 0)]).max_concurrent_trials == 1


@given(
    nodes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=4),
    asked=st.integers(1, 20),
    trials_per_gpu=st.integers(1, 7),
    num_trials=st.none() | st.integers(1, 12),
    order=st.randoms(use_true_random=False),
)
def test_whatever_is_planned_can_be_placed_in_any_order(
    nodes, asked, trials_per_gpu, num_trials, order
):
    has_gpus = any(gpus for _, gpus in nodes)
    changes = {"gpus": asked, "trials_per_gpu": trials_per_gpu} if has_gpus else {"cpus": asked}
    try:
        budget = plan(nodes=nodes, num_trials=num_trials, **changes)
    except TooLittleError:
        assert asked > sum(gpus if has_gpus else cpus for cpus, gpus in nodes)
        return
    asks = [round(10_000 * part) for part in (budget.cpus_per_worker, budget.gpus_per_worker)]
    free = [[10_000 * cpus, 10_000 * gpus] for cpus, gpus in nodes]
    for _ in range(budget.num_slots):
        fitting = [node for node in free if node[0] >= asks[0] and node[1] >= asks[1]]
        assert fitting
        node = order.choice(fitting)
        node[0], node[1] = node[0] - asks[0], node[1] - asks[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 4}, "--gpus 4: this machine has none; .*--gpus 0"),
        ({"gpus": 4, "nodes": [(8, 2)]}, "--gpus 4: this machine has 2;"),
        ({"gpus": -1}, "--gpus -1: must be at least 0"),
        ({"cpus": 0}, "--cpus 0: must be at least 1"),
        ({"cpus": 9}, "--cpus 9: this machine has 8 cores"),
        ({"workers_per_trial": 0}, "--workers-per-trial 0"),
        ({"workers_per_trial": 9}, "could never start"),
        ({"gpus": 0, "trials_per_gpu": 2}, "no GPU is used"),
        (
            {"gpus": 2, "nodes": [(8, 2)], "workers_per_trial": 2, "trials_per_gpu": 2},
            "cannot share a GPU",
        ),
        (
            {"gpus": 8, "nodes": [(8, 4), (8, 0)]},
            r"--gpus 8: the cluster has 4 \(10\.0\.0\.5: 4, 10\.0\.0\.6: 0\); .* or --wait 30 ",
        ),
        (
            {"cpus": 8, "nodes": [(1, 0), (2, 0)]},
            r"--cpus 8: the cluster has 3 \(10\.0\.0\.5: 1, 10\.0\.0\.6: 2\) cores",
        ),
        ({"nodes": [(0, 0), (0, 0)]}, "neither cores nor GPUs"),
        ({"nodes": [(1, 0)] * 9, "cpus": 10}, "and 1 more node[)]"),
    ],
)
def test_what_cannot_be_placed_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        plan(**changes)


def test_only_what_more_nodes_would_mend_can_be_waited_for():
    for changes, bundle, count in (
        ({"gpus": 8}, {"CPU": 1, "GPU": 1}, 8),
        ({"cpus": 9}, {"CPU": 1}, 9),
        ({"workers_per_trial": 9}, {"CPU": 1}, 9),
    ):
        with pytest.raises(TooLittleError) as refusal:
            plan(**changes)
        assert (refusal.value.bundle, refusal.value.num_bundles) == (bundle, count)
    with pytest.raises(InputError) as contradiction:
        plan(cpus=2, workers_per_trial=3)
    assert not isinstance(contradiction.value, TooLittleError)


def test_a_cluster_is_asked_to_grow_until_there_is_room():
    asked, said = [], []
    sizes = iter([[(1, 0)], [(1, 0), (0, 4)], [(1, 0), (1, 0)]])

    def look():
        return [Node(f"10.0.0.{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(next(sizes))]

    def plan_two(nodes):
        return plan(nodes=[(node.num_cpus, node.num_gpus) for node in nodes], cpus=2, gpus=0)

    budget = wait_for_room(plan_two, look=look, ask=asked.append, wait_minutes=1, log=said.append)
    assert budget.num_slots == 2
    assert asked == [[{"CPU": 1}] * 2, []]
    assert said == ["waiting for nodes: --cpus 2: this machine has 1 cores"]


def test_the_wait_ends_as_told_and_the_request_is_taken_back():
    asked = []
    with pytest.raises(InputError, match=r"--cpus 9: .* after --wait 0.001 \(minutes\); ask for"):
        wait_for_room(
            lambda nodes: plan(cpus=9), look=list, ask=asked.append, wait_minutes=0.001,
            log=lambda line: None,
        )  # fmt: skip
    assert asked[-1] == []
