"""The command line that all benchmarks share: flags from a dataclass, quiet libraries, errors in one line."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import tyro

from trip.apps.errors import EXIT_ERROR, quiet_libraries, quiet_models, report

Settings = TypeVar("Settings")


def command(name: str, kind: type[Settings], about: str | None, body: Callable[[Settings], None]) -> None:
    """Run `body` on the settings of the command line.

    Args:
        name: of the module, for the usage line.
        kind: frozen dataclass of the flags, one of which is `debug`: show where an error was raised.
        about: the module's docstring, whose first line is shown.
    """
    settings: Any = tyro.cli(kind, description=(about or "").partition("\n")[0], prog=f"python -m {name}")
    try:
        with quiet_libraries(settings.debug):
            quiet_models()
            body(settings)
    except (ValueError, OSError) as error:
        if settings.debug:
            raise
        report(error)
        sys.exit(EXIT_ERROR)
