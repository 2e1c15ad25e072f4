"""How long a search will still take: values worked out by hand."""

import pytest

from ensemble.search.forecast import Forecast
from ensemble.search.live_table import RunningTrial


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def make(**settings):
    clock = Clock()
    return Forecast(clock=clock, **settings), clock


def test_nothing_is_said_before_the_first_epoch():
    forecast, _ = make(num_trials=4, num_finished=0, max_concurrent_trials=2)
    forecast.start("a", num_epochs=10)
    assert forecast.seconds_left() is None


def test_the_share_of_the_first_epoch_says_what_an_epoch_takes():
    forecast, clock = make(num_trials=1, num_finished=0, max_concurrent_trials=1)
    forecast.start("a", num_epochs=4)
    clock.now += 1
    forecast.expect("a", 0.01)
    assert forecast.seconds_left() is None  # too early to say
    clock.now += 19
    forecast.expect("a", 0.25)  # so an epoch takes 80 s
    assert forecast.seconds_left() == pytest.approx(4 * 80 - 20)
    assert forecast.seconds_until_stop() == pytest.approx(60)
    clock.now += 40
    forecast.report("a", 1)
    forecast.expect("a", 0.5)  # what an epoch took is known now
    assert forecast.seconds_until_stop() == pytest.approx(60)


def test_a_trial_that_goes_on_has_fewer_epochs_left_and_was_not_quick():
    forecast, clock = make(num_trials=1, num_finished=0, max_concurrent_trials=1)
    forecast.start("a", num_epochs=10)
    clock.now += 1
    forecast.resume("a", 4)
    assert forecast.seconds_left() is None
    assert forecast.seconds_until_stop() is None
    clock.now += 10
    forecast.report("a", 5)
    assert forecast.seconds_left() == pytest.approx(5 * 10)


def test_trials_to_come_last_as_long_as_those_seen():
    forecast, clock = make(num_trials=3, num_finished=0, max_concurrent_trials=1)
    forecast.start("a", num_epochs=4)
    for epoch in range(1, 5):
        clock.now += 10
        forecast.report("a", epoch)
    assert forecast.seconds_left() == pytest.approx((0.5 + 2 * 4) * 10)
    forecast.end("a", counts=True)
    assert forecast.seconds_left() == pytest.approx(2 * 4 * 10)


def test_early_stopping_shortens_what_is_expected():
    forecast, clock = make(num_trials=11, num_finished=0, max_concurrent_trials=2)
    forecast.start("a", num_epochs=10)
    clock.now += 5
    forecast.report("a", 1)
    forecast.end("a", counts=True)  # stopped after one epoch
    assert forecast.seconds_left() == pytest.approx(10 * 1 * 5 / 2)


def test_failed_and_interrupted_trials_are_still_to_come():
    forecast, clock = make(num_trials=2, num_finished=1, max_concurrent_trials=2)
    forecast.start("a", num_epochs=6)
    clock.now += 1
    forecast.report("a", 1)
    forecast.end("a", counts=False)
    forecast.start("a", num_epochs=6)
    assert forecast.seconds_left() == pytest.approx(6)


def test_a_finished_search_has_nothing_left():
    forecast, clock = make(num_trials=1, num_finished=0, max_concurrent_trials=1)
    forecast.start("a", num_epochs=1)
    clock.now += 1
    forecast.report("a", 1)
    forecast.end("a", counts=True)
    assert forecast.seconds_left() == 0


def test_the_time_left_of_a_trial_falls_while_its_next_epoch_runs():
    trial = RunningTrial(number=0, backbone="small_cnn", num_epochs=6)
    assert trial.seconds_left(now=70.0) is None
    trial.epoch, trial.epoch_seconds, trial.reported_at = 2, 10.0, 100.0
    assert [trial.seconds_left(now) for now in (100.0, 104.0, 109.0)] == [40.0, 36.0, 31.0]
    assert trial.seconds_left(now=200.0) == 30.0  # three more epochs are to come


def test_the_time_left_falls_between_epochs_by_an_epoch_at_most():
    forecast, clock = make(num_trials=2, num_finished=0, max_concurrent_trials=1)
    forecast.start("a", num_epochs=4)
    clock.now += 10
    forecast.report("a", 1)
    left = []
    for _ in range(4):
        left.append(forecast.seconds_left())
        clock.now += 4
    assert left == [70, 66, 62, 60]


def test_until_the_running_epochs_end_it_takes_what_is_left_of_the_youngest():
    forecast, clock = make(num_trials=2, num_finished=0, max_concurrent_trials=2)
    forecast.start("a", num_epochs=4)
    forecast.start("b", num_epochs=4)
    assert forecast.seconds_until_stop() is None
    clock.now += 10
    forecast.report("a", 1)
    forecast.report("b", 1)
    clock.now += 10
    forecast.report("a", 2)
    clock.now += 3
    assert forecast.seconds_until_stop() == 7
    clock.now += 30
    assert forecast.seconds_until_stop() == 0
    forecast.start("c", num_epochs=4)
    assert forecast.seconds_until_stop() is None  # the network of c may be a slow one
    forecast.end("c", counts=False)
    assert forecast.seconds_until_stop() == 0
