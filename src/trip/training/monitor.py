"""What a person sees of a run: a progress bar, log.jsonl, accelerate's trackers, filmstrips of the first clips."""

import json
import resource
import statistics
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from trip.data.sources import Source
from trip.data.text import parse_json, read_lines
from trip.files import atomic, write_text
from trip.pipeline import TripPipeline
from trip.training.batches import Positions, encode
from trip.training.config import TrainingConfig
from trip.training.export import averaged_pipeline
from trip.training.folder import LOG, VALIDATION
from trip.training.trainer import Run

WINDOW = 50
"""Records that the bar averages over."""


class Monitor:
    """Shows one record a step; a context manager that closes what it opened.

    Args:
        folder: of the run. Records of a log from beyond the run's step are dropped: they are made again.
        quiet: no bar.
    """

    def __init__(self, run: Run, source: Source, folder: Path, quiet: bool):
        self.run, self.source, self.config, self.folder = run, source, run.config, folder
        self.accelerator, self.main = run.accelerator, run.accelerator.is_main_process
        self.recent: deque[dict] = deque(maxlen=WINDOW)
        self.notes: list[str] = []
        self.bar = tqdm(
            total=self.config.steps, initial=run.step, disable=quiet or not self.main, unit="step", dynamic_ncols=True
        )
        if self.main:
            self.log = Log(folder / LOG, run.step)
        self.accelerator.init_trackers(folder.name or "trip", config=plain_settings(self.config))

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self.main:
            self.log.close()

    def show(self, record: dict) -> None:
        """Log a record, move the bar, and make filmstrips when they are due."""
        for note in record["notes"]:
            self.bar.write(f"trip: {note}", file=sys.stderr)  # of every process: each has its own clips
        if self.main:
            self.write(record)
        every = self.config.validation_every
        if every and record["step"] % every == 0:
            self.validate(record["step"])

    def write(self, record: dict) -> None:
        """Log, trackers and bar, of the first process."""
        self.bar.update()
        self.notes += record.pop("notes")
        if "loss" not in record:
            return
        self.recent.append(record)
        notes, self.notes = self.notes, []
        self.log.write(record | ({"notes": notes} if notes else {}))
        self.accelerator.log({k: v for k, v in numbers(record).items() if k != "step"}, step=record["step"])
        self.bar.set_postfix(summary(self.recent, self.config), refresh=False)

    def say(self, message: str) -> None:
        """A line above the bar, from the first process."""
        if self.main:
            self.bar.write(f"trip: {message}", file=sys.stderr)

    def validate(self, step: int) -> None:
        """Draw validation/step-N.png: the run's first clips, real and made, with fixed seeds and captions.

        All processes call it, see `averaged_pipeline`; the first one samples.
        """
        pipeline = averaged_pipeline(self.run)
        if pipeline is None:
            return
        picture = validation_picture(pipeline.to(self.accelerator.device), self.source, self.config)
        with atomic(self.folder / VALIDATION / f"step-{step}.png", "wb") as file:
            picture.save(file, "PNG")
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                tracker.log_images({"validation": np.asarray(picture)[None]}, step=step, dataformats="NHWC")


class Log:
    """log.jsonl, for writing after the record of `step`; later ones are dropped, since they are made again.

    Raises:
        OSError: a full disk and the like; names the file.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        write_text(path, "".join(line for number, line in read_log(path) if number <= step))
        self.file = path.open("ab", buffering=0)

    def write(self, record: dict) -> None:
        """Append one record."""
        line = memoryview((json.dumps(record) + "\n").encode())
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read_log(path: Path) -> Iterator[tuple[int, str]]:
    """(step, line) of every record but one that a kill cut short; nothing where there is no log.

    Raises:
        ValueError: a line that is no record of a run.
    """
    if not path.exists():
        return
    for number, line in enumerate(read_lines(path, newline=""), 1):
        if line.endswith("\n"):
            record = parse_json(line, f"{path} line {number}")
            step = record.get("step") if isinstance(record, dict) else None
            if not isinstance(step, int):
                raise ValueError(f"{path} line {number} is no record of a run; move the file away, and go on")
            yield step, line


def check_log(path: Path) -> None:
    """Raise ValueError for a file that is no log of a run."""
    deque(read_log(path), maxlen=0)


def plain_settings(config: TrainingConfig) -> dict[str, Any]:
    """The config in the types that trackers take."""
    values = asdict(config)
    return {k: v if isinstance(v, int | float | str) else json.dumps(v) for k, v in values.items()}


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's numbers, those of its lists and tables by name."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, list):
            flat |= {f"{key}/{index}": x for index, x in enumerate(value, 2)}
        elif isinstance(value, dict):
            flat |= {f"{key}/{name}": x for name, x in value.items()}
        else:
            flat[key] = value
    return flat


def summary(records: deque[dict], config: TrainingConfig) -> dict[str, str]:
    """Postfix of the bar: means over the last steps."""
    seconds = sum(r["step_seconds"] for r in records)
    waited = sum(r["data_wait"] * r["step_seconds"] for r in records)
    return {
        "loss": f"{statistics.fmean(r['loss'] for r in records):.4f}",
        "lr": f"{records[-1]['lr']:.1e}",
        "clips/s": f"{config.batch_size * len(records) / seconds:.1f}",
        "wait": f"{100 * waited / seconds:.1f}%",
        "mem": f"{memory() / 2**30:.1f}G",
    }


def memory() -> int:
    """Peak bytes: of the accelerator's memory where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ------------------------------------------------------------------------------------------------ filmstrips


@torch.no_grad()
def validation_picture(pipeline: TripPipeline, source: Source, config: TrainingConfig) -> Image.Image:
    """Rows of frames, two a clip: the real one as the autoencoder shows it, and what the pipeline makes of its first
    frame and caption."""
    positions = Positions(source, config)
    samples = [positions[p] for p in range(min(config.validation_clips, len(source)))]
    latents = encode(samples, pipeline, pipeline.device).latents
    stills = pipeline.decode_latents(latents[:, :, :1])[:, :, 0] / 2 + 0.5
    call: Any = pipeline
    made = call(
        list(stills.clamp(0, 1)),
        [pipeline.fitting(sample.caption) for sample in samples],
        generator=[torch.Generator().manual_seed(k) for k in range(len(samples))],
        num_frames=latents.shape[2],
        num_inference_steps=config.validation_steps,
        guidance_scale=config.guidance_scale,
        output_type="np",
    ).frames
    real = to_frames(pipeline.decode_latents(latents))
    return filmstrips([row for pair in zip(real, made, strict=True) for row in pair])


def to_frames(pixels: torch.Tensor) -> np.ndarray:
    """[-1, 1] b 3 f H W -> [0, 1] b f H W 3."""
    return (pixels.float().cpu() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy()


def filmstrips(clips: list[np.ndarray]) -> Image.Image:
    """Clips f H W 3 in [0, 1], one a row."""
    rows = [np.concatenate(list(clip), axis=1) for clip in clips]
    return Image.fromarray((np.concatenate(rows, axis=0) * 255 + 0.5).astype(np.uint8))
