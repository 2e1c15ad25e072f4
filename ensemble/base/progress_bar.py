"""Progress of something that takes a while: a bar on the terminal, or lines in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ensemble.base.wording import clock, percent

TELL_EVERY_SECONDS = 10.0  # at first, then
TELL_EVERY_SHARE = 0.2  # of the time until the last line


def progress_bar() -> Progress:
    """Make a bar on stderr with count and time left; it shows nothing if that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # if set later, its thread would never end
    )


@contextmanager
def telling_progress(
    what: str,
    total: int,
    log: Callable[[str], None],
    *,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[float], None]]:
    """Within, show a bar if stderr is a terminal, and else a line now and then.

    Args:
        what: What is done, for people.
        total: Number of things to do.
        log: Takes the lines.
        now: Returns seconds since any moment.

    Yields:
        A function that is told how many more things are done.
    """
    started = told = now()
    done = 0.0

    def tell(count: float) -> None:
        nonlocal told, done
        done += count
        bar.advance(task, count)
        # further and further apart, so that an hour takes no more than a few dozen lines
        wait = max(TELL_EVERY_SECONDS, TELL_EVERY_SHARE * (told - started))
        if bar.disable and now() - told >= wait and done < total:
            told = now()
            left = clock((told - started) * (total - done) / done)
            log(f"{what}: {percent(done / total, 0)}, about {left} left")

    with progress_bar() as bar:
        task = bar.add_task(what, total=total)
        yield tell
