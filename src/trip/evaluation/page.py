"""An evaluation as one HTML file that needs no other: numbers, filmstrips, moving clips, error plots, how to repeat it.

Everything is inside the file, and its content policy forbids the browser to fetch anything. Texts from outside (names
of files, prompts, settings) are escaped by the template engine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trip.data.video.frames import Frames
from trip.data.video.reading import Video, read_video
from trip.evaluation.charts import Chart
from trip.evaluation.clips import ClipFolder, Clips, prompt_of
from trip.evaluation.embedding import animation_uri, at_height, picture_uri, resized, strip
from trip.evaluation.error_curves import ErrorCurves
from trip.evaluation.metric import GENERATED
from trip.evaluation.published import PUBLISHED, compare
from trip.evaluation.rendering import rendered
from trip.evaluation.report import Report
from trip.files import write_text

SHOWN_CLIPS = 12
"""Clips of a page; more are taken at even distances in order of name."""

STRIP_FRAMES, STRIP_HEIGHT = 8, 128
CELL_HEIGHT = 192
"""Pixels of a moving clip."""

LARGEST_ANIMATION = 500_000
"""Bytes of a pair of moving clips; a page of `SHOWN_CLIPS` thus stays below 10 MB."""

GAP = 1 / 48
"""Width between generated and real, in heights."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One clip of the page, as data URIs; those of the real clip are empty where there is none."""

    name: str
    prompt: str
    real_name: str
    made_strip: str
    real_strip: str
    moving: str
    still: str


def write_page(
    report: Report,
    path: Path,
    generated: Clips,
    reference: Clips | None = None,
    *,
    errors: ErrorCurves | None = None,
    record: Mapping[str, str] | None = None,
) -> None:
    """Write a report as a page.

    Args:
        report: to show. path: file to write; one that is there is replaced by the complete page only.
        generated, reference: the folders that were measured, for pictures.
        errors: to plot. record: what else is needed to repeat the numbers, such as ``{"Command": ..., "Commit": ...}``.

    Raises:
        ValueError: folders without clips, broken clips.
    """
    paired, pairs = pair_clips(generated, reference)
    place = generated if isinstance(generated, Path) else generated.path
    page = rendered(
        "report.html",
        title=f"Evaluation of {place.name or place}",
        report=report,
        generated=report.sides[GENERATED],
        comparisons={name: compare(result, report) for name, result in report.metrics.items()},
        published=PUBLISHED,
        clips=[shown(made, real, report.num_frames) for made, real in evenly(pairs)],
        clip_count=len(pairs),
        paired=paired,
        plots=plots_of(errors or ErrorCurves()),
        settings=json.dumps(report.record(), indent=2, default=str, ensure_ascii=False),
        record=record or {},
    )
    write_text(path, page, named=True)


# ------------------------------------------------------------------------------------------------------ clips


def pair_clips(generated: Clips, reference: Clips | None) -> tuple[bool, list[tuple[Path, Path | None]]]:
    """(whether the pairs are of one name, pairs of generated and real clips).

    NAME-2, one of several samples, is paired with NAME. Folders that share no name, as sets for a Fréchet distance
    may, are paired in order of name.
    """
    made = ClipFolder.of(generated).files
    if reference is None:
        return True, [(file, None) for file in made]
    folder = ClipFolder.of(reference)
    real, by_name = folder.files, folder.by_name
    pairs = [(file, by_name.get(file.stem) or by_name.get(file.stem.rpartition("-")[0])) for file in made]
    if any(other is not None for _, other in pairs):
        return True, pairs
    return False, [(file, real[index] if index < len(real) else None) for index, file in enumerate(made)]


def evenly(pairs: Sequence[tuple[Path, Path | None]]) -> list[tuple[Path, Path | None]]:
    """At most `SHOWN_CLIPS`, at even distances: nobody has chosen them."""
    chosen = np.linspace(0, len(pairs) - 1, min(SHOWN_CLIPS, len(pairs))).round().astype(int)
    return [pairs[index] for index in chosen]


def shown(made: Path, real: Path | None, num_frames: int | None) -> Shown:
    """Decode and embed one pair."""
    video = read_video(made, max_frames=num_frames)
    other = read_video(real, max_frames=num_frames) if real else None
    moving = side_by_side(video, other)
    return Shown(
        name=made.stem,
        prompt=prompt_of(made, video.metadata),
        real_name=real.stem if real else "",
        made_strip=strip_uri(video.frames),
        real_strip=strip_uri(other.frames) if other else "",
        moving=animation_uri(moving, video.fps, LARGEST_ANIMATION),
        still=picture_uri(moving[0]),
    )


def strip_uri(frames: Frames) -> str:
    """A clip as a filmstrip."""
    height = min(STRIP_HEIGHT, frames.shape[1])
    return picture_uri(strip(at_height(frames, height), STRIP_FRAMES))


def side_by_side(made: Video, real: Video | None) -> Frames:
    """Generated left, real right, at the height of the generated clip and its frame rate, for as long as both last."""
    height = min(CELL_HEIGHT, made.frames.shape[1])
    left = at_height(made.frames, height)
    if real is None:
        return left
    times = np.arange(len(left)) / made.fps
    places = np.floor(times * real.fps + 1e-6).astype(int)
    places = places[places < len(real.frames)]
    right = (
        resized(real.frames[places], *left.shape[1:3])
        if same_shape(made, real)
        else at_height(real.frames[places], height)
    )
    gap = np.full((len(places), height, max(round(GAP * height), 1), 3), 128, np.uint8)
    return np.concatenate([left[: len(places)], gap, right], axis=2)


def same_shape(made: Video, real: Video) -> bool:
    """Whether both have the same proportions, up to rounding."""
    (h, w), (height, width) = made.frames.shape[1:3], real.frames.shape[1:3]
    return abs(w / h - width / height) < 0.02


# ------------------------------------------------------------------------------------------------------ plots


def plots_of(errors: ErrorCurves) -> list[Chart]:
    """The plots that there are numbers for."""
    wanted = (
        ("Error by timestep", "timestep t (0: clean, 999: noise)", errors.timesteps),
        ("Error by frame", "frame", errors.frames),
    )
    return [Chart(series, title=title, x_label=x, y_label="error") for title, x, series in wanted if series]
