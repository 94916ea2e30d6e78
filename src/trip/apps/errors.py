"""What people see when something goes wrong: one line on stderr, with the remedy."""

import errno
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from trip.data.text import printable

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
LONGEST_MESSAGE = 600
PATIENCE = 5.0
"""Seconds."""

REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "check the permissions or choose another folder",
    errno.EPERM: "check the permissions or choose another folder",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
}


def describe(error: BaseException) -> str:
    """An error in one line, with a remedy."""
    match error:
        case OSError(strerror=str() as reason, filename=name) if name is not None:
            line = f"{name}: {reason}; {REMEDIES.get(error.errno or 0, 'check the path')}"
        case ImportError(name=str() as package):
            line = f"the package {package} is missing ({error}); install it with pip"
        case RecursionError():
            line = "something that was read is nested too deeply; give another file"
        case MemoryError():
            line = "out of memory; lower --width, --height or --num-frames"
        case _ if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            line = f"out of memory on the device; lower --width, --height or --num-frames ({error})"
        case ValueError() | OSError() if str(error):
            line = str(error)
        case _:
            line = f"{type(error).__name__}: {error}; run again with --debug for the traceback"
    return printable(" ".join(line.split()), LONGEST_MESSAGE)


def report(error: BaseException, about: object = None) -> None:
    """Print the line on stderr."""
    say(f"error: {about}: {describe(error)}" if about else f"error: {describe(error)}")


def yield_to_first_process() -> None:
    """What goes wrong in all processes of a run alike, the first says: its launcher ends the others while they wait."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)


def say(message: str) -> None:
    """Print `trip: message` on stderr, in one line; where that cannot be written, nothing can be said."""
    with suppress(OSError, ValueError):  # ValueError: closed
        print(f"trip: {printable(message)}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Put the null device where stdin, stdout or stderr is closed: files opened later would take its number."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", encoding="utf-8"))


def drop_unwritable() -> None:
    """Lead streams that cannot be written (a closed pipe, a full disk) to nowhere: Python flushes them at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep warnings, log messages and progress bars of the libraries underneath off the terminal, unless debugging.

    Some of their switches are environment variables read when they are imported, so this comes before their import.
    """
    if debug:
        yield
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def quiet_models() -> None:
    """Switch off the progress bars of the model libraries."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
