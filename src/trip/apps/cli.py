"""The command line `trip`: parses, dispatches, and turns every error into one line and an exit code.

Exit codes: 0 done, 2 error, 130 interrupted. torch and diffusers are imported by the commands that need them.
"""

import inspect
import io
import operator
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import reduce
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from trip.apps.errors import EXIT_ERROR, EXIT_INTERRUPTED, quiet_libraries, report, say
from trip.apps.options import Animate, Calibrate, Info

COMMANDS = {"animate": Animate, "info": Info, "calibrate": Calibrate}

DESCRIPTION = """Animate still pictures with a diffusion model (TRIP, arXiv 2403.17005).

examples:
  trip animate photo.jpg --prompt "the camera pans left" --output out.mp4
  trip animate photos/ --prompt "snow falls" --output clips
  trip info out.mp4

`trip COMMAND --help` lists the options of a command, `trip --version` prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--version"]:
        print(f"trip {trip_version()}")
        return 0
    options = parse(arguments)
    if isinstance(options, int):
        return options
    try:
        with quiet_libraries(options.debug):
            return run(options)
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        if options.debug:
            raise
        report(error)
        return EXIT_ERROR


def run(options: Animate | Info | Calibrate) -> int:
    """Import and call the command's function."""
    match options:
        case Animate():
            from trip.apps.animate import animate

            return animate(options, trip_version())
        case Info():
            from trip.apps.info import info

            return info(options)
        case Calibrate():
            from trip.apps.calibrate import calibrate

            return calibrate(options)


def parse(arguments: list[str]) -> Animate | Info | Calibrate | int:
    """The options, or the exit code where there is nothing to run: help was printed, or a flag is wrong."""
    messages = io.StringIO()
    try:
        with redirect_stderr(messages):
            return tyro.cli(
                command_types(whole_help=arguments[:1] != [] and arguments[0] in COMMANDS),
                args=arguments or ["--help"],
                prog="trip",
                description=DESCRIPTION,
                config=(FlagCreatePairsOff,),
            )
    except SystemExit as stop:
        if not stop.code:
            return 0
        say(f"error: {unboxed(messages.getvalue())}")
        return EXIT_ERROR


def command_types(whole_help: bool) -> Any:
    """The union of the commands, described by their whole docstrings or by the first lines."""
    members = []
    for name, options in COMMANDS.items():
        text = inspect.cleandoc(options.__doc__ or "")
        described = subcommand(name, description=text if whole_help else text.partition("\n")[0])
        members.append(Annotated[options, described])
    return reduce(operator.or_, members)


def unboxed(text: str) -> str:
    """The parser's framed message in one line."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│]", " ", text.partition("\n")[2])  # the first line is a title
    text = re.sub(r"\s*─{2,}\s*", "; ", text)
    text = re.sub(r"Argument helptext:.*?(?=For full)", "", " ".join(text.split()))
    text = re.sub(r"no type matching \S+\|(\w+) could .*? from \['(.*?)'\].*?;", r"\2 is no \1;", text)
    text = re.sub(r"For full helptext, (run|see):?", "see", text)
    return re.sub(r"[;\s]*;[;\s]*", "; ", text).strip("; ")


def trip_version() -> str:
    """Version of the installed distribution."""
    try:
        return version("trip-i2v")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
