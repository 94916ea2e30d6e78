"""What do narrower weights and activations change in a clip? Against float32, on the held-out set.

    python -m benchmarks.precision --json docs/results/precision.json --page docs/results/memory.md

Same pictures, prompts, noise and preset for all rows; measures and intervals are those of `benchmarks.presets`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from lab.motion.pairs import camera_pairs
from tyro.conf import arg

from benchmarks.command import command
from benchmarks.motion import circumstances, heldout_set, model_identity
from benchmarks.pages import fill_pages, markdown, write_json
from benchmarks.presets import agreement_row, all_clips, fidelity_rows, verdicts_of, with_interval
from trip.models import BUNDLED_MODEL
from trip.opening import load_pipeline
from trip.pipeline import TripPipeline
from trip.presets import PRESETS

REFERENCE = "float32"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    page: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Markdown file whose table `precision` is replaced."""
    model: str = BUNDLED_MODEL
    """Model folder or hub id."""
    preset: str = "balanced"
    """Of `trip animate`."""
    count: int = 48
    """Pairs of a held-out picture and a camera move."""
    seed: int = 0
    """Of wordings and noise."""
    batch_size: int = 8
    """Clips generated at once."""
    debug: bool = False
    """Traceback on errors."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset (={self.preset!r}) is unknown; choose one of {', '.join(PRESETS)}")


def pipelines(model: str) -> dict[str, TripPipeline]:
    """Row -> the pipeline in that precision."""
    cpu, found = torch.device("cpu"), {}
    for float8 in (False, True):
        for dtype in (REFERENCE, "bfloat16"):
            name = f"{dtype}, its weights at rest in float8" if float8 else dtype
            found[name] = load_pipeline(model, device=cpu, dtype=getattr(torch, dtype), float8=float8)
    return found


def measure(settings: Settings) -> dict[str, dict[str, Any]]:
    """Row -> agreement with the prompt, and fidelity to float32's clips."""
    made, chosen = pipelines(settings.model), {settings.preset: PRESETS[settings.preset]}
    size = (made[REFERENCE].default_size or (64, 64))[0]
    pairs = camera_pairs(heldout_set()[0], settings.count, size=size, seed=settings.seed, split="heldout")
    clips = {
        name: all_clips(pipeline, chosen, pairs, settings.batch_size)[settings.preset]
        for name, pipeline in made.items()
    }
    verdicts = {name: verdicts_of(clip, pairs) for name, clip in clips.items()}
    return {
        name: {"agreement": agreement_row(verdicts[name], verdicts[REFERENCE])}
        | ({} if name == REFERENCE else fidelity_rows(clip, clips[REFERENCE]))
        for name, clip in clips.items()
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    header = ["network in", "PSNR to float32, dB", "SSIM", "moves as prompted", "difference, points"]
    lines = []
    for name, row in rows.items():
        agreement = row["agreement"]
        low, high = agreement["points_interval"]
        change = "" if name == REFERENCE else f"{agreement['points_to_quality']:+.1f} ({low:+.1f} to {high:+.1f})"
        rate = f"{agreement['rate']:.1%}"
        lines.append([name, with_interval(row.get("psnr"), 1), with_interval(row.get("ssim"), 3), rate, change])
    return markdown(header, lines)


def main(settings: Settings) -> None:
    """Measure, write, and show."""
    rows = measure(settings)
    kept = {k: v for k, v in asdict(settings).items() if k not in ("json", "page", "debug")}
    write_json(
        settings.json,
        {"model": model_identity(settings.model), "settings": kept, **circumstances(), "rows": rows},
    )
    if settings.page is not None:
        fill_pages([settings.page], {"precision": table(rows)})
    print(table(rows))


if __name__ == "__main__":
    command("benchmarks.precision", Settings, __doc__, main)
