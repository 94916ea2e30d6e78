"""The command line `trip`: parses, dispatches, and turns every error into one line and an exit code.

Exit codes: 0 done, 1 faulty clips under `trip data check --strict`, 2 error, 130 interrupted, 141 the output is read
no more. torch and diffusers are imported by the commands that need them.
"""

import inspect
import io
import operator
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from functools import reduce
from importlib import import_module
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, subcommand

from trip.apps.ablate_options import Ablate
from trip.apps.cache_options import DataCache
from trip.apps.data_options import DATA_COMMANDS, DataCheck, DataShard, DataSynth
from trip.apps.errors import (
    EXIT_ERROR,
    EXIT_INTERRUPTED,
    EXIT_PIPE,
    drop_unwritable,
    open_streams,
    quiet_libraries,
    report,
    say,
    yield_to_first_process,
)
from trip.apps.evaluate_options import Evaluate, EvaluateModel, PreferencePage, PreferenceVotes, VBench, Weights
from trip.apps.imports import quick_imports
from trip.apps.options import Animate, Calibrate, Info, Train
from trip.apps.settings import chosen_settings
from trip.version import trip_version

COMMANDS = {
    "animate": Animate,
    "info": Info,
    "calibrate": Calibrate,
    "train": Train,
    "evaluate": Evaluate,
    "evaluate-model": EvaluateModel,
    "vbench": VBench,
    "weights": Weights,
    "ablate": Ablate,
}
GROUPS = {
    "data": (
        "Check a data set, pack it into shards, encode it for training, or make one.",
        {**DATA_COMMANDS, "cache": DataCache},
    ),
    "preference": (
        "Ask people which of two folders' clips they prefer, and count their votes.",
        {"page": PreferencePage, "votes": PreferenceVotes},
    ),
}

FUNCTIONS: dict[type, str] = {
    Animate: "animate:animate",
    Info: "info:info",
    Calibrate: "calibrate:calibrate",
    Train: "train:train",
    DataCheck: "data:data",
    DataShard: "data:data",
    DataSynth: "data:data",
    DataCache: "cache:cache",
    Evaluate: "evaluate:evaluate",
    EvaluateModel: "evaluate_model:evaluate_model",
    VBench: "evaluate_model:vbench",
    PreferencePage: "preference:page",
    PreferenceVotes: "preference:votes",
    Weights: "weights:weights",
    Ablate: "ablate:ablate",
}
"""Module in `trip.apps` and function of every command; imported only when it is called."""

Options = (
    Animate
    | Info
    | Calibrate
    | Train
    | DataCheck
    | DataShard
    | DataSynth
    | DataCache
    | Evaluate
    | EvaluateModel
    | VBench
    | PreferencePage
    | PreferenceVotes
    | Weights
    | Ablate
)

DESCRIPTION = """Animate still pictures with a diffusion model (TRIP, arXiv 2403.17005).

examples:
  trip animate photo.jpg --prompt "the camera pans left" --output out.mp4
  trip animate photos/ --prompt "snow falls" --output clips
  trip info out.mp4

`trip COMMAND --help` lists the options of a command, `trip --version` prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    open_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        code = dispatch(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk shows here at the latest
        return code
    except KeyboardInterrupt:
        say("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        return EXIT_PIPE
    except Exception as error:
        if debug:
            raise
        yield_to_first_process()
        report(error)
        return EXIT_ERROR
    finally:
        drop_unwritable()


def dispatch(arguments: list[str]) -> int:
    """Parse, then import and call the command's function."""
    if arguments[:1] == ["--version"]:
        print(f"trip {trip_version()}")
        return 0
    options = parse(arguments)
    if isinstance(options, int):
        return options
    module, _, name = FUNCTIONS[type(options)].partition(":")
    with quiet_libraries(options.debug):
        with quick_imports():
            function = getattr(import_module(f"trip.apps.{module}"), name)
            if file := getattr(options, "fusion_module", None):
                import_module("trip.noise_fusion").import_fusions(file)
        return function(options)


def parse(arguments: list[str]) -> Options | int:
    """The options, or the exit code where there is nothing to run: help was printed, or a flag is wrong."""
    messages = io.StringIO()
    try:
        with redirect_stderr(messages):
            return tyro.cli(
                command_types(arguments),
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


def command_types(arguments: list[str]) -> Any:
    """The union of the commands, described by their whole docstrings, or by the first lines where none is chosen.

    The defaults of `trip train` are those of its preset or config.
    """
    chosen, members = arguments[0] if arguments else None, []
    for name, options in COMMANDS.items():
        text = inspect.cleandoc(options.__doc__ or "")
        described = text if chosen in COMMANDS else text.partition("\n")[0]
        default: dict[str, Any] = (
            {"default": Train(settings=chosen_settings(arguments[1:]))} if name == chosen == "train" else {}
        )
        members.append(Annotated[options, subcommand(name, description=described, **default)])
    for name, (text, commands) in GROUPS.items():
        members.append(Annotated[group_type(commands, arguments[1:2]), subcommand(name, description=text)])
    return reduce(operator.or_, members)


def group_type(commands: dict[str, type], chosen: list[str]) -> Any:
    """The union of a group's commands, described like the others."""
    members = []
    for name, options in commands.items():
        text = inspect.cleandoc(options.__doc__ or "")
        described = text if chosen and chosen[0] in commands else text.partition("\n")[0]
        members.append(Annotated[options, subcommand(name, description=described)])
    return reduce(operator.or_, members)


def unboxed(text: str) -> str:
    """The parser's framed message in one line."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│]", " ", text.partition("\n")[2])  # the first line is a title
    text = re.sub(r"\s*(─{2,}|-{9,})\s*", "; ", text)  # a terminal without these signs gets hyphens
    text = re.sub(r"Argument helptext:.*?(?=For full)", "", " ".join(text.split()))
    # What a dataclass said itself, all of it; the settings that it names are flags here.
    said = r"Error parsing (?:__tyro-dummy-inner__\S*|[A-Z]\w+): *(?:(\w+)(?= \(=))?"
    text = re.sub(said, lambda found: f"--{found[1].replace('_', '-')}" if found[1] else "", text)
    text = re.sub(
        r"Error parsing (--\S+): invalid literal for int\(\) with base 10: ('.*?');",
        r"\1 (=\2) must be a whole number;",
        text,
    )
    text = re.sub(
        r"Error parsing (--\S+): could not convert string to float: ('.*?');", r"\1 (=\2) must be a number;", text
    )
    text = re.sub(r"no type matching \S+\|(\w+) could .*? from \['(.*?)'\].*?;", r"\2 is no \1;", text)
    text = re.sub(r"For full helptext, (run|see):?", "see", text)
    return re.sub(r"[;\s]*;[;\s]*", "; ", text).strip("; ")


if __name__ == "__main__":
    sys.exit(main())
