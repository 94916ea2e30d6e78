"""What people see when something goes wrong: one line on stderr, with the remedy."""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
LONGEST_MESSAGE = 600

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
        case MemoryError():
            line = "out of memory; lower --width, --height or --num-frames"
        case _ if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
            line = f"out of memory on the device; lower --width, --height or --num-frames ({error})"
        case ValueError() | OSError() if str(error):
            line = str(error)
        case _:
            line = f"{type(error).__name__}: {error}; run again with --debug for the traceback"
    line = " ".join(line.split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 3] + "..."


def report(error: BaseException, about: object = None) -> None:
    """Print the line on stderr."""
    say(f"error: {about}: {describe(error)}" if about else f"error: {describe(error)}")


def say(message: str) -> None:
    """Print `trip: message` on stderr."""
    print(f"trip: {message}", file=sys.stderr, flush=True)


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
