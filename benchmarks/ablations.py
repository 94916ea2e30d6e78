"""The tables of docs/results/ablations.md, from finished studies of `trip ablate`.

    files="--json docs/results/ablations.json --page docs/results/ablations.md"
    python -m benchmarks.ablations --synthetic runs/ablation $files
    python -m benchmarks.ablations --real runs/ablation-real $files

Nothing is trained here: `trip ablate` does that, in folders that it can be stopped in and go on from. A set that is not
given stays as the JSON has it. Date, commit and machine are those of this command.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from benchmarks.command import command
from benchmarks.motion import circumstances
from benchmarks.pages import fill_pages, markdown, write_json
from trip.ablation.study import missing, plain, read_study
from trip.ablation.table import METRICS, grid, tabulate

ERRORS = ("eps-1", "eps-2", "eps-3", "eps-4", "x0")
CLIPS = tuple(name for name in METRICS if name not in ERRORS)
DIFFERENCES = (*ERRORS, "follows", "consistency-4-consecutive", "consistency-all-consecutive")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the numbers."""
    page: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Markdown file whose tables are replaced."""
    synthetic: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Study of synthetic motion."""
    real: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Study of real clips."""
    debug: bool = False
    """Traceback on errors."""


def numbers_of(folder: Path) -> dict[str, Any]:
    """A study's settings, rows, paired differences and what Eq. 9 was tuned by.

    Raises:
        ValueError: no study, or one that is not done.
    """
    study = read_study(folder)
    if left := missing(study, folder):
        raise ValueError(f"{folder} is not done, {left[0]} is one of {len(left)} without scores; run its command again")
    tuning = folder / "tuning.json"
    tuned = {"tuning": json.loads(tuning.read_text())} if tuning.is_file() else {}
    return {"study": plain(study), **circumstances(), **tabulate(study, folder), **tuned}


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """All tables of the page."""
    found: dict[str, str] = {}
    for name, study in results.items():
        found[f"{name}-errors"] = grid(study["rows"], ERRORS, bold=False)
        found[f"{name}-clips"] = grid(study["rows"], CLIPS, bold=False)
        for reference, rows in study["differences"].items():
            found[f"{name}-less-{reference}"] = grid(rows, DIFFERENCES, bold=True)
        if "tuning" in study:
            found["tuning"] = tuning_table(study["tuning"])
    return found


def tuning_table(losses: Mapping[str, float]) -> str:
    """Ends of lambda that were tried, and the loss on training clips."""
    rows = [["{} to {}".format(*json.loads(ends)), f"{loss:.3g}"] for ends, loss in losses.items()]
    return markdown(["lambda, frame 1 to last", "loss on training clips after the short run"], rows)


def main(settings: Settings) -> None:
    """Read, write, and show."""
    results = json.loads(settings.json.read_text()) if settings.json.is_file() else {}
    given = {"synthetic": settings.synthetic, "real": settings.real}
    results |= {name: numbers_of(folder) for name, folder in given.items() if folder is not None}
    if not results:
        raise ValueError(f"{settings.json} holds no results yet; name a study with --synthetic or --real")
    made = tables(results)
    write_json(settings.json, results)
    if settings.page is not None:
        fill_pages([settings.page], made)
    print("\n\n".join(f"{name}\n\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    command("benchmarks.ablations", Settings, __doc__, main)
