"""Measurements behind docs/questions.md: the ten questions that a reader of the paper asks.

    python -m benchmarks.questions --held-out runs/held-out --real CLIPS \\
      --json docs/results/questions.json --figures docs/images/questions --page docs/results/questions.md
    python -m benchmarks.questions ... --parts network,chain      only what depends on the model's weights
    python -m benchmarks.questions ... --parts none               tables and figures again, from what was measured

===========  =======================================================================  ===========================
part         measured                                                                 questions
===========  =======================================================================  ===========================
`data`       prior, lambda and residual targets on latents, no network                1, 2, 3, 5, 8
`network`    errors of prior, network and TNF on the same noise; TNF's attention      4, 7
`chain`      clips chained from held-out photographs                                  9
===========  =======================================================================  ===========================

Held-out clips are a cache of synthetic motion over photographs that the model was not trained on; real ones, if given,
a folder of clips, of which one piece a source is taken. Parts that are left out are kept from the JSON.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.command import command
from benchmarks.motion import heldout_set, model_identity, strip
from benchmarks.pages import with_tables
from benchmarks.questions_data import (
    Latents,
    cached_clips,
    measure_clips,
    measure_lambda,
    measure_prediction,
    real_clips,
    shortened,
)
from benchmarks.questions_model import measure_chain, measure_network
from benchmarks.questions_page import figures, tables
from trip.ablation.scores import TIMESTEPS, held_out_clips
from trip.files import atomic, write_text
from trip.models import BUNDLED_MODEL
from trip.opening import load_pipeline
from trip.pipeline import TripPipeline

EQ9_ENDS = (0.9, 0.5)
"""Lambda of Eq. 9 at the first and the last frame, where the paper leaves them open."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    json: Path
    """File for the results."""
    held_out: Path = Path("runs/held-out")
    """Cache of clips that the model was not trained on."""
    real: Path | None = None
    """Folder of real clips."""
    figures: Path | None = None
    """Folder for the figures."""
    page: Path | None = None
    """Markdown file whose tables are replaced."""
    model: str = BUNDLED_MODEL
    """Model folder or hub id."""
    parts: str = "data,network,chain"
    """What to measure: some of data, network, chain, separated by commas, or none."""
    clips: int = 256
    """Held-out clips for the closed forms."""
    error_clips: int = 64
    """Held-out camera moves for the network's errors."""
    photos: int = 8
    """Held-out photographs to chain clips from."""
    segments: int = 2
    """Clips in a chain."""
    steps: int = 20
    """Sampling steps of a clip."""
    seed: int = 0
    """Of wordings and noise of the chains."""
    debug: bool = False
    """Traceback on errors."""

    @property
    def asked(self) -> tuple[str, ...]:
        """The parts to measure.

        Raises:
            ValueError: an unknown part.
        """
        asked = tuple(part.strip() for part in self.parts.split(",") if part.strip() not in ("", "none"))
        if unknown := set(asked) - set(PARTS):
            raise ValueError(f"parts (={self.parts!r}) has {min(unknown)!r}; name some of {','.join(PARTS)}, or none")
        return asked


def measure_data(settings: Settings, pipeline: TripPipeline) -> dict[str, Any]:
    """What needs no network; the optimal fusion uses the model's own table, measured on its training clips."""
    table = torch.tensor(pipeline.fusion.config["sigma"])
    sets = [cached_clips(settings.held_out, settings.clips)]
    if settings.real is not None:
        size = (pipeline.default_size or (64, 64))[0]
        sets.append(real_clips(settings.real, pipeline, size, len(table)))
    return {
        "training_sigma": table,
        "timesteps": TIMESTEPS,
        "clips": [measured_set(clips, pipeline.scheduler, table) for clips in sets],
        "lambda": measure_lambda(pipeline.scheduler, sets[0].sigma.double().numpy(), EQ9_ENDS),
    }


def measured_set(clips: Latents, scheduler: Any, table: torch.Tensor) -> dict[str, Any]:
    """All closed forms on one set of clips."""
    measured = measure_clips(clips, scheduler, table, EQ9_ENDS)
    return measured | {"prediction": measure_prediction(clips, scheduler)}


def measure_errors(settings: Settings, pipeline: TripPipeline) -> dict[str, Any]:
    """Errors and attention of the model."""
    return measure_network(pipeline, held_out_clips(settings.held_out, settings.error_clips))


def measure_chains(settings: Settings, pipeline: TripPipeline) -> dict[str, Any]:
    """Chains of the first photographs of `benchmarks/heldout`, and a filmstrip beside the figures."""
    photos = heldout_set()[0][: settings.photos]
    measured, frames = measure_chain(
        pipeline, photos, segments=settings.segments, steps=settings.steps, seed=settings.seed
    )
    if settings.figures is not None:
        settings.figures.mkdir(parents=True, exist_ok=True)
        write_filmstrip(frames, len(photos), settings.figures / "chain.jpg")
    return measured | {"steps": settings.steps, "seed": settings.seed, "photos": [photo.name for photo in photos]}


def write_filmstrip(frames: np.ndarray, photos: int, file: Path) -> None:
    """One chain that was asked for stillness and three for moves, eleven frames of each."""
    rows = [0, *range(photos, photos + min(photos, 3))]
    sheet = np.concatenate([strip(frames[k], "", shown=11, side=96)[16:] for k in rows])
    with atomic(file, "wb") as opened:
        Image.fromarray(sheet).save(opened, format="JPEG", quality=88)


PARTS: dict[str, Callable[[Settings, TripPipeline], dict[str, Any]]] = {
    "data": measure_data,
    "network": measure_errors,
    "chain": measure_chains,
}


def run(settings: Settings) -> dict[str, Any]:
    """Measure the parts asked for and keep the others.

    Raises:
        ValueError: a part that is neither asked for nor there.
    """
    asked = settings.asked
    results = json.loads(settings.json.read_text()) if settings.json.is_file() else {}
    if missing := [part for part in PARTS if part not in asked and part not in results]:
        raise ValueError(f"{settings.json} has no {missing[0]}; add it to --parts")
    if asked:
        pipeline = load_pipeline(settings.model, device=torch.device("cpu"), dtype=torch.float32)
        about = {"date": datetime.now(UTC).date().isoformat(), "model": model_identity(settings.model)}
        for part in asked:
            results[part] = about | shortened(PARTS[part](settings, pipeline))
            print(f"{part} measured", file=sys.stderr)
    return {part: results[part] for part in PARTS}


def write(settings: Settings, results: dict[str, Any]) -> None:
    """JSON, figures and page."""
    settings.json.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=None, separators=(",", ":")).replace('},"', '},\n"').replace('],"', '],\n"')
    write_text(settings.json, text + "\n")
    if settings.figures is not None:
        settings.figures.mkdir(parents=True, exist_ok=True)
        for name, svg in figures(results).items():
            (settings.figures / f"{name}.svg").write_text(svg, encoding="utf-8")
    if settings.page is not None:
        page = with_tables(settings.page.read_text(encoding="utf-8"), tables(results))
        write_text(settings.page, page)


def main(settings: Settings) -> None:
    """Measure or read, write, and show."""
    results = run(settings)
    write(settings, results)
    for name, table in tables(results).items():
        print(f"{name}\n{table}", end="\n\n")


if __name__ == "__main__":
    command("benchmarks.questions", Settings, __doc__, main)
