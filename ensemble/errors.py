"""What a person did wrong, in one line: raised anywhere, printed once, exit code 2."""

import sys
from collections.abc import Callable


class InputError(Exception):
    """Bad input from a person: says what is wrong, where, and what to do about it."""


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; an `InputError` becomes one line on stderr and exit code 2.

    Ctrl-C is exit code 130 without a traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except InputError as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
