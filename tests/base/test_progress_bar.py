"""Progress in a log: a line now and then, with what is left."""

from ensemble.base.progress_bar import telling_progress


def test_a_log_has_a_line_every_ten_seconds_and_none_when_all_is_done() -> None:
    said: list[str] = []
    now = 100.0
    with telling_progress("scoring", 40, said.append, now=lambda: now) as tell:
        for _ in range(8):
            now += 4
            tell(5)
    assert said == [
        "scoring: 38\N{NO-BREAK SPACE}%, about 0:00:20 left",
        "scoring: 75\N{NO-BREAK SPACE}%, about 0:00:08 left",
    ]


def test_lines_of_what_takes_long_are_further_and_further_apart() -> None:
    told: list[float] = []
    now = 0.0
    with telling_progress("scoring", 7200, lambda line: told.append(now), now=lambda: now) as tell:
        for _ in range(7200):
            now += 1
            tell(1)
    assert told[:6] == [10, 20, 30, 40, 50, 60]
    assert told[-1] - told[-2] > 600
    assert len(told) < 40
