"""What a person did wrong, in one line: raised anywhere, printed once by the command's door."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUOTED = 100  # characters of something foreign in a message
LONGEST_LINE = 900
CREDENTIALS = re.compile(r"(\w:/{1,2})\S*@")  # key:secret@
SECRET_SETTING = re.compile(  # ?token=…
    r"([?&][\w.-]*(?:key|token|secret|sig|sas|pass|credential)[\w.-]*=)[^&\s]+", re.IGNORECASE
)


class InputError(Exception):
    """Bad input from a person: says what is wrong, where, and what to do about it."""


class CannotWriteError(InputError):
    """What belongs on a disk cannot be written there: no room, no right, no disk any more."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn whatever the system refuses while `path` is written into an error that names it.

    Raises:
        CannotWriteError: There is no room, no right to write, or the disk fails.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            words = f"no room on the disk for {path}: make room, then run again"
        else:
            words = (
                f"{path} cannot be written ({error.strerror or error}); mend that, then run again"
            )
        raise CannotWriteError(words) from None


def one_line(text: str) -> str:
    """`text` as a terminal may show it: no line break, nothing that moves a cursor, not too long.

    File names and keys of a file that somebody sent reach messages; a terminal would obey theirs.
    """
    shown = escape(" ".join(hide_passwords(text).split()))
    if len(shown) <= LONGEST_LINE:
        return shown
    return f"{shown[: LONGEST_LINE - 303]} … {shown[-300:]}"  # the end says what to do


def hide_passwords(text: str) -> str:
    """`text` with *** in place of what URLs hold before their host, and of secrets behind it."""
    return SECRET_SETTING.sub(r"\1***", CREDENTIALS.sub(r"\1***@", text))


def escape(text: str) -> str:
    """`text` with every character that is not printed in the form that `repr` gives it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def short_repr(value: object) -> str:
    """`repr` of something foreign, cut so that a message stays short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists in lists
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 23]} … {text[-20:]}"
