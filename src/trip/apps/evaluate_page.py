"""`--html`: a report as a page, with the clips that were measured and what repeats it."""

import platform
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import torch

import trip
from trip.apps.evaluate_options import Evaluate, EvaluateModel
from trip.evaluation.clips import Clips
from trip.evaluation.error_curves import read_errors
from trip.evaluation.page import write_page
from trip.evaluation.report import Report
from trip.version import trip_version


def write_html(report: Report, options: Evaluate | EvaluateModel, generated: Clips, reference: Clips | None) -> None:
    """Write the page of two folders' report.

    Raises:
        ValueError: no error curves in --errors, or clips that can no longer be read.
    """
    assert options.html is not None
    errors = read_errors(options.errors) if options.errors is not None else None
    write_page(report, options.html, generated, reference, errors=errors, record=provenance(options))


def provenance(options: Evaluate | EvaluateModel) -> dict[str, str]:
    """What repeats the numbers, beside their settings: the command, the code, the machine."""
    lines = {
        "trip": " ".join(filter(None, (trip_version(), commit()))),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
    }
    return {
        "Command": shlex.join(["trip", options.command, *arguments_of(options)]),
        "Versions": "\n".join(f"{name} {text}" for name, text in lines.items()),
    }


def arguments_of(options: Evaluate | EvaluateModel) -> list[str]:
    """The flags that give these options: those that differ from the defaults, but for how much is printed.

    Of the options and not of `sys.argv`, which is another program's where this one is called from Python.
    """
    arguments = []
    for field in fields(options):
        value, flag = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if value == field.default or field.name in ("quiet", "debug"):
            continue
        if isinstance(value, bool):
            arguments.append(flag)
        else:  # a value that begins with a dash would be taken for a flag
            arguments += [f"{flag}={value}"] if str(value).startswith("-") else [flag, str(value)]
    return arguments


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; empty of an installed package."""

    def git(*command: str) -> str:
        folder = Path(trip.__file__).parent
        return subprocess.run(
            ["git", "-C", folder, *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
