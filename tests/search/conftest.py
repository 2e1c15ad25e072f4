"""What the tests of the search share."""

import pytest

from ensemble.search.task import Task


@pytest.fixture
def make_task(make_trial_config):
    """A trial's task; settings by section, and fields of the task."""

    def make(number=3, *, storage=None, **sections):
        return Task(
            number=number,
            config=make_trial_config(**sections),
            pack_folder="/secret/pack",
            initial_folder="/secret/initial",
            member_folder="/secret/member",
            workers_per_trial=1,
            cpus_per_worker=1,
            gpus_per_worker=0,
            threads_per_worker=1,
            storage=storage,
        )

    return make
