"""Errors that a command prints in one line, and text that is safe to print."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_REPR = 100
LONGEST_LINE = 900
CREDENTIALS = re.compile(r"(\w:/{1,2})\S*@")  # key:secret@
SECRET_SETTING = re.compile(  # ?token=…
    r"([?&][\w.-]*(?:key|token|secret|sig|sas|pass|credential)[\w.-]*=)[^&\s]+", re.IGNORECASE
)


class InputError(Exception):
    """Bad input from a person: says what is wrong, where, and what to do about it."""


class CannotWriteError(InputError):
    """A file cannot be written: no room, no permission, or the disk fails."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into one line that names `path`.

    Raises:
        CannotWriteError: There is no room, no permission, or the disk fails.
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
    """Make `text` safe for a terminal: no line breaks, no control characters, not too long.

    Messages hold names and keys from foreign files, and a terminal obeys control characters.
    """
    shown = escape(" ".join(hide_passwords(text).split()))
    if len(shown) <= LONGEST_LINE:
        return shown
    return f"{shown[: LONGEST_LINE - 303]} … {shown[-300:]}"  # the end says what to do


def hide_passwords(text: str) -> str:
    """Replace what URLs hold before their host, and secrets in their queries, by ***."""
    return SECRET_SETTING.sub(r"\1***", CREDENTIALS.sub(r"\1***@", text))


def escape(text: str) -> str:
    """Write every character that cannot be printed as `ascii` does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def short_repr(value: object) -> str:
    """Return the `repr` of a foreign value, cut so that a message stays short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more than 4,300 digits; lists in lists
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= LONGEST_REPR else f"{text[: LONGEST_REPR - 23]} … {text[-20:]}"
