"""`trip evaluate`: measure folders of clips, print the table and write the report."""

from pathlib import Path

from trip.apps.errors import quiet_models, say
from trip.apps.evaluate_options import Evaluate, EvaluateModel, Measuring
from trip.apps.progress import progress
from trip.evaluation.clips import ClipFolder, Clips
from trip.evaluation.error_curves import read_errors
from trip.evaluation.metric import Result
from trip.evaluation.report import DEFAULT_METRICS, EvaluationSettings, Report, evaluate_folders
from trip.files import check_target, write_json
from trip.opening import choose_device


def evaluate(options: Evaluate) -> int:
    """Measure, print the table and write the report; returns the exit code.

    Raises:
        ValueError: folders, metrics, weights or clips that cannot be measured.
    """
    prepare(options)
    generated = ClipFolder.of(options.generated)
    reference, floor = (None if side is None else ClipFolder.of(side) for side in (options.reference, options.floor))
    total = sum(len(side.files) for side in (generated, reference, floor) if side is not None)
    settings = settings_of(options, num_frames=options.num_frames)
    with progress(options, "measuring", total) as bar:
        report = evaluate_folders(generated, reference, floor, settings, progress=lambda file: bar.update())
    publish(report, options, generated, reference)
    return 0


def prepare(options: Measuring) -> None:
    """Quieten the libraries, and fail for the report's sake before the work rather than after it."""
    if not options.debug:
        quiet_models()
    for flag, file in (("--json", options.json), ("--html", options.html)):
        if file is not None:
            check_writable(file, flag)
    if options.errors is not None:
        if options.html is None:
            raise ValueError("--errors belongs to --html, which is missing; give it, or leave --errors out")
        read_errors(options.errors)


def settings_of(
    options: Measuring, *, metrics: tuple[str, ...] = DEFAULT_METRICS, num_frames: int | None = None
) -> EvaluationSettings:
    """The evaluation's settings from the flags; `metrics` where none are named."""
    return EvaluationSettings(
        metrics=metrics if options.metrics is None else names_in(options.metrics),
        num_frames=num_frames,
        weights=options.weights,
        clip=options.clip,
        videomae=options.videomae,
        allow_few=options.allow_few,
        seed=options.seed,
        batch_size=options.batch_size,
        device=str(choose_device(options.device)),
    )


def names_in(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_writable(file: Path, flag: str = "--json") -> None:
    """Fail before the work rather than after it."""
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"{flag} (={file}) cannot be written; name a file in a folder that exists")
    check_target(file)


def publish(report: Report, options: Evaluate | EvaluateModel, generated: Clips, reference: Clips | None) -> None:
    """Write the report where it is asked for, print the table, and warn."""
    if options.json is not None:
        write_json(options.json, report.as_dict(), named=True)
    if options.html is not None:
        from trip.apps.evaluate_page import write_html

        write_html(report, options, generated, reference)
    print(table(report))
    for line in report.warnings:
        say(f"warning: {line}")


def table(report: Report) -> str:
    """One line a number: value, interval, clips, network."""
    sides = (("", report.metrics), (", real clips", report.reference), (", real against real", report.floor))
    rows = [cells(f"{name}{of}", result) for of, results in sides for name, result in results.items()]
    return aligned([("metric", "value", "95 % interval", "n", "features"), *rows])


def cells(name: str, result: Result) -> tuple[str, ...]:
    """One number's line."""
    spread = f"{result.interval[0]:.4g} to {result.interval[1]:.4g}" if result.interval else ""
    return name, f"{result.value:.4g}", spread, str(result.n), result.features


def aligned(rows: list[tuple[str, ...]]) -> str:
    """Columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
