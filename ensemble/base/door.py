"""How every command begins and ends: its output, Ctrl-C, bad input, and the exit code.

What the person's terminal or log no longer takes is lost, and nothing else: `| tee` and `| head`
may end first, a disk may be full, a terminal closed, or in an encoding that lacks a character.
"""

import argparse
import atexit
import codecs
import errno
import gc
import importlib
import io
import json
import os
import select
import shlex
import shutil
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from ensemble.base.errors import InputError, one_line
from ensemble.base.process import spare_libraries
from ensemble.base.version import __version__

PLAIN = dict(zip("−–—×÷→“”‘’", "---x/>\"\"''", strict=True)) | {"≥": ">=", "≤": "<=", "±": "+-"}
UNUSABLE_PATH = (errno.ENAMETOOLONG, errno.EACCES)
OUR_HANDLER = "ensemble.plain"
OTHER_DOORS = {"inspect": "inspection"}  # commands called like a module of the standard library


def spell_command(command: str) -> str:
    """A command as it is typed, in the way in which this process was started."""
    if Path(sys.argv[0]).name == "crack-ensemble":
        return f"crack-ensemble {command}"
    return f"{_spell_python()} -m {door_of(command)}"


def door_of(command: str) -> str:
    """The module that `python -m` runs as a command."""
    return f"ensemble.{OTHER_DOORS.get(command, command.replace('-', '_'))}"


def _spell_python() -> str:
    """`python`, or the path of this one where a shell finds another than that of its environment.

    The path is relative to the working directory if it lies below that.
    """
    running, found = Path(sys.executable), shutil.which("python")
    is_found = found is not None and Path(found).absolute().parent == running.parent
    if sys.prefix == sys.base_prefix or is_found:
        return "python"
    here = Path.cwd()
    return shlex.quote(str(running.relative_to(here) if running.is_relative_to(here) else running))


def run_module(
    name: str, parse: Callable[[], argparse.Namespace], *, is_quick: bool = False
) -> NoReturn:
    """Run the `main` of a module, whose imports take seconds; then the process ends.

    Args:
        name: Name of the module, such as `ensemble.evaluate`. Its `main` takes the options and
            returns what --json prints.
        parse: Parses the command line before anything is imported: it prints help and refuses what
            is mistyped.
        is_quick: Whether nothing is imported that takes seconds, so that nothing need be announced.
    """
    parsed: list[argparse.Namespace] = []
    run_command(lambda: parsed.append(parse()))
    (options,) = parsed
    spare_libraries()
    with _ended_at_once(), _announced(options) if not is_quick else nullcontext():
        gc.disable()  # nothing that is imported is garbage: half a second of looking for some
        main = importlib.import_module(name).main
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # else libraries count at the end what they left in memory
    run_command(lambda: _run_main(main, options))
    sys.exit()


def _run_main(main: Callable[[argparse.Namespace], Any], options: argparse.Namespace) -> None:
    """Run a `main` and print what --quiet and --json ask for."""
    if options.json:
        with redirect_stdout(io.StringIO() if options.quiet else sys.stderr):
            result = main(options)
        print(json.dumps(result, indent=2, default=str, ensure_ascii=False))
    elif options.quiet:
        with redirect_stdout(_QuietOutput(sys.stdout)):
            main(options)
    else:
        main(options)


class _QuietOutput:
    """A stdout that prints results alone."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.prints = False

    def write(self, text: str) -> int:
        return self.stream.write(text) if self.prints else len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def printing_result() -> Iterator[None]:
    """Within, what is printed is the result of a command, which --quiet prints, too."""
    output = sys.stdout
    if isinstance(output, _QuietOutput):
        output.prints = True
    try:
        yield
    finally:
        if isinstance(output, _QuietOutput):
            output.prints = False


def run_command(main: Callable[[], None]) -> None:
    """Run a command's `main`; an `InputError` becomes one line on stderr and exit code 2.

    So does a path that is too long, or that nobody may read here. Ctrl-C is exit code 130 without a
    traceback.
    """
    survive_output()
    try:
        check_platform()
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in UNUSABLE_PATH:
            raise
        _refuse(f"{error.filename}: {error.strerror}")


def _refuse(reason: str) -> NoReturn:
    print(f"error: {one_line(reason)}", file=sys.stderr)
    sys.exit(2)


def check_platform() -> None:
    """Refuse an operating system whose kernel lacks what is used of Linux's: flock, /proc, ….

    Raises:
        InputError: It is another one.
    """
    if sys.platform != "linux":
        raise InputError(
            f"crack-ensemble runs on Linux alone, and this is {sys.platform}; on Windows use WSL2, "
            "on macOS a container or a virtual machine with Linux"
        )


def survive_output() -> None:
    """Make stdout and stderr lose what cannot be written, instead of raising."""
    codecs.register_error(OUR_HANDLER, _replace)
    _open_closed()
    sys.stdout, sys.stderr = _surviving(sys.stdout), _surviving(sys.stderr)


def _surviving(stream: TextIO) -> TextIO:
    """The same file, behind a layer that never fails; other kinds of streams are left as they are.

    A setting of the person's own, as in PYTHONIOENCODING=ascii:ignore, stays.
    """
    if not isinstance(stream, io.TextIOWrapper) or isinstance(_raw(stream), _Sink):
        return stream
    try:
        descriptor = stream.fileno()
        stream.flush()
    except OSError:
        return stream
    by_default = stream.errors in ("strict", "surrogateescape", "backslashreplace")
    return io.TextIOWrapper(
        io.BufferedWriter(_Sink(descriptor, "wb", closefd=False)),  # type: ignore[type-var]
        encoding=stream.encoding,
        errors=OUR_HANDLER if by_default else stream.errors,
        line_buffering=True,
    )


def _raw(stream: io.TextIOWrapper) -> object:
    return getattr(stream.buffer, "raw", None)


class _Sink(io.FileIO):
    """A file that takes everything."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write some of the bytes, and return how many; those that cannot be count as written."""
        try:
            while (written := super().write(data)) is None:  # another program made it non-blocking
                select.select([], [self], [])
        except OSError:
            return len(data)
        return written


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Characters that an encoding lacks, in the plainest form it has."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    shown = "".join(PLAIN.get(c) or unicodedata.normalize("NFKD", c) for c in found)
    shown = "".join(c for c in shown if not unicodedata.combining(c))
    return "".join(c if c.isascii() else "?" for c in shown), error.end


def _open_closed() -> None:
    """Put nothing in place of a closed stdin, stdout or stderr, lest another file become it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """Within, Ctrl-C ends the process there and then.

    An exception would not do: it would pass through whatever is being imported.
    """

    def end(number: int, _: FrameType | None) -> NoReturn:
        os.write(2, b"interrupted\n")
        os._exit(128 + number)

    before = signal.getsignal(signal.SIGINT)
    if before == signal.default_int_handler:  # else it is ignored, as in a shell's background job
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _announced(options: argparse.Namespace) -> Iterator[None]:
    """Say that a command begins: in a log for good, on a terminal for the time of the block."""
    if sys.stderr is None or not sys.stderr.isatty():
        if not options.quiet:
            line = f"crack-ensemble {__version__} is loading …"
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
        yield
        return
    print("loading …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
