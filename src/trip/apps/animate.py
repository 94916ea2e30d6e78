"""`trip animate`: pictures in, clips out. What is wrong with the flags is said before torch is imported."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trip.adapters import read_adapters
from trip.apps.errors import EXIT_ERROR, quiet_models, report, say
from trip.apps.imports import quick_imports
from trip.apps.jobs import Job, collect_jobs, is_batch
from trip.apps.options import Animate
from trip.apps.progress import progress
from trip.data.images import load_image
from trip.data.text import printable
from trip.data.video.writing import check_output
from trip.loading import check_part_files
from trip.model_folder import find_model
from trip.request import pictures

SHOWN_FAULTS = 10
"""Faults of a list that are said one by one."""


def animate(options: Animate) -> int:
    """Make the clips and print their paths; returns the exit code.

    Raises:
        ValueError, OSError: with one picture, what is wrong; with many, what is wrong for all of them.
    """
    jobs, faults = collect_jobs(options)
    if not is_batch(options):
        for path in pictures(jobs[0].request):
            load_image(path)
    count, jobs = len(jobs) + len(faults), unfinished(jobs, options)
    if jobs:
        find_model(options.model)
        if options.fusion is not None:
            check_part_files(options.fusion, f"fusion {options.fusion}")
        read_adapters(options.lora)
    jobs, unwritable = writable(jobs, options.metadata)
    faults += unwritable
    if unwritable and not jobs:
        raise unwritable[0]
    for fault in faults[:SHOWN_FAULTS]:
        report(fault)
    if len(faults) > SHOWN_FAULTS:
        say(f"error: and {len(faults) - SHOWN_FAULTS} more rows")
    failed = len(faults) + (make(jobs, options) if jobs else 0)
    if failed:
        say(f"error: {failed} of {count} clips failed, the others are done; run again to retry the failed ones")
    return EXIT_ERROR if failed else 0


def writable(jobs: list[Job], recorded: bool) -> tuple[list[Job], list[Exception]]:
    """The jobs whose clip can be written, and what is wrong with the others; folders are made."""
    good, faults = [], []
    for job in jobs:
        try:
            Path(job.output).parent.mkdir(parents=True, exist_ok=True)
            check_output(job.output, recorded=recorded)
            good.append(job)
        except (OSError, ValueError) as error:
            faults.append(error)
    return good, faults


def make(jobs: list[Job], options: Animate) -> int:
    """Load the model, make clip by clip; returns how many of a batch failed."""
    with progress(options, f"loading {options.model}", total=1) as bar:
        with quick_imports():
            from trip.studio import Studio, controls_of
        if not is_batch(options):
            controls_of(jobs[0].request)
        if not options.debug:
            quiet_models()
        studio = Studio.open(options)
        bar.update()
    failed, said = 0, set()
    for number, job in enumerate(jobs, 1):
        label = f" {number}/{len(jobs)}" if len(jobs) > 1 else ""
        try:
            with told(options, label, said) as on_event:
                made = studio.make(job.request, on_event=on_event)
                made.save(job.output, recorded=options.metadata, on_event=on_event)
        except Exception as error:
            if not is_batch(options) or options.debug:
                raise
            report(error, about=job.request.image)
            failed += 1
            continue
        except KeyboardInterrupt:
            if len(jobs) > 1:
                say(f"{number - 1 - failed} of {len(jobs)} clips are done")
            raise
        print(printable(job.output), flush=True)
    return failed


@contextmanager
def told(options: Animate, label: str, said: set[str]) -> Iterator[Callable[[Any], None]]:
    """What a studio tells its events to: a progress bar a stage, and every warning once."""
    with ExitStack() as bars:
        current: dict[str, tqdm] = {}

        def on_event(event: Any) -> None:
            if hasattr(event, "text"):
                if event.text not in said:
                    say(f"warning: {event.text}")
                said.add(event.text)
                return
            if event.stage not in current:
                bars.close()
                current.clear()
                current[event.stage] = bars.enter_context(progress(options, event.stage + label, event.total))
            current[event.stage].total = event.total
            current[event.stage].update(event.done - current[event.stage].n)

        yield on_event


def unfinished(jobs: list[Job], options: Animate) -> list[Job]:
    """The jobs of a batch whose clip does not exist yet; one picture's clip is always made."""
    if not is_batch(options) or options.overwrite:
        return jobs
    left = [job for job in jobs if not Path(job.output).exists()]
    if len(left) < len(jobs):
        say(f"skipping {len(jobs) - len(left)} of {len(jobs)} clips that exist already (--overwrite makes them again)")
    return left
