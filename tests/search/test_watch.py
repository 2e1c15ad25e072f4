"""The watch on a search's trials: what counts as silence, and what a death is a sign of."""

from types import SimpleNamespace

import pytest

from ensemble.data.pack import PackError
from ensemble.search.cluster.heartbeat import Beat
from ensemble.search.stopping import StopByErrors, Stopping
from ensemble.search.watch import Watch

TIMEOUT = 30.0


class Watched:
    """A watch with a clock that a test moves, and what it said."""

    def __init__(self, **settings):
        self.now, self.said, self.beats = 0.0, [], {}
        self.stopping = Stopping(self.said.append)
        self.watch = Watch(
            self.stopping,
            self.said.append,
            trial_timeout_seconds=TIMEOUT,
            max_seconds=None,
            workers_need={},
            read_beats=lambda numbers: {n: self.beats[n] for n in numbers if n in self.beats},
            clock=lambda: self.now,
            **settings,
        )

    def looks_on(self, seconds):
        """Tune lets it look ten times a second."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.watch.on_step_end(iteration=0, trials=[])

    def stands_still(self, seconds):
        """The process is stopped, or the machine is."""
        self.now += seconds

    def has_ended(self, trial):
        return self.watch.explain(trial.trial_id) is not None


def trial(number):
    return SimpleNamespace(
        trial_id=f"id{number}",
        config={"number": number},
        status="RUNNING",
        num_failures=0,
        error_file=None,
        temporary_state=SimpleNamespace(ray_actor=None),
    )


def test_a_trial_that_reports_nothing_for_longer_than_the_timeout_is_ended():
    one, watched = trial(0), Watched()
    watched.watch.on_trial_start(iteration=0, trials=[], trial=one)
    watched.looks_on(TIMEOUT - 1)
    assert not watched.has_ended(one)
    watched.looks_on(2)
    assert watched.has_ended(one)
    assert watched.said == [
        "trial 0 reported nothing for 0.5 minutes (--trial-timeout) and is ended"
    ]


def test_a_trial_that_trains_on_within_its_epoch_is_not_silent_until_its_batches_stop():
    one, watched = trial(0), Watched()
    watched.watch.on_trial_start(iteration=0, trials=[], trial=one)
    for share in (0.1, 0.2, 0.3, 0.4):
        watched.beats[0] = Beat(epoch=1, share=share)
        watched.looks_on(TIMEOUT - 5)
    assert watched.watch.beat_of(0) == Beat(1, 0.4)
    assert not watched.has_ended(one)
    watched.looks_on(8)
    assert watched.has_ended(one)


@pytest.mark.parametrize("seconds", [6, 45, 10_000])
def test_a_search_that_was_stopped_longer_than_the_timeout_ends_no_trial(seconds):
    """Ctrl-Z, a suspended machine, a paused container: nobody listened, so nobody was silent."""
    one, watched = trial(0), Watched()
    watched.watch.on_trial_start(iteration=0, trials=[], trial=one)
    watched.looks_on(TIMEOUT - 5)
    watched.stands_still(seconds)
    watched.looks_on(4)  # the trial's process, stopped as well, is still in its epoch
    assert not watched.has_ended(one)
    watched.watch.on_trial_result(iteration=0, trials=[], trial=one, result={})
    watched.looks_on(TIMEOUT - 1)
    assert not watched.has_ended(one)
    assert watched.said == []


def test_a_trial_that_hangs_is_ended_also_where_the_search_was_stopped_before():
    one, watched = trial(0), Watched()
    watched.watch.on_trial_start(iteration=0, trials=[], trial=one)
    watched.looks_on(10)
    watched.stands_still(100)
    watched.looks_on(TIMEOUT - 11)
    assert not watched.has_ended(one)
    watched.looks_on(2)
    assert watched.has_ended(one)


def test_a_process_that_damaged_tiles_killed_ends_the_search_and_is_not_started_again():
    def check():
        raise PackError("packs/data/development.npy is damaged")

    watched = Watched(check_data=check)
    one = trial(0)
    careful = StopByErrors(watched.watch, watched.stopping)
    careful.on_trial_start(iteration=0, trials=[], trial=one)
    careful.on_trial_recover(iteration=0, trials=[], trial=one)
    assert watched.stopping.request.words == "packs/data/development.npy is damaged"
    assert watched.stopping.request.exit_code == 2
    assert watched.watch.is_idle()
