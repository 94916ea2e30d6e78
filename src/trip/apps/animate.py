"""`trip animate`: pictures in, clips out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from trip.apps.errors import EXIT_ERROR, quiet_models, report, say
from trip.apps.jobs import Job, collect_jobs, is_batch
from trip.apps.loading import choose_device, choose_dtype, load_pipeline, scheduler_class
from trip.apps.options import Animate
from trip.data.images import fit_image, load_image, output_size
from trip.data.metadata import ClipMetadata
from trip.data.video import FPS_RANGE, check_output, write_video
from trip.pipeline import TripPipeline
from trip.presets import SamplingPreset, preset
from trip.sampler import Interval, check_guidance

FALLBACK_AREA = 256 * 256
"""Pixels of a clip where neither the model nor the user says: the paper's size."""

PLAIN = {"preset": "quality", "guidance_interval": "0,1", "guidance_every": 1}
"""What a clip has that was made without a word about these."""


def animate(options: Animate, version: str) -> int:
    """Make the clips and print their paths; returns the exit code.

    Raises:
        ValueError, OSError: with one picture, what is wrong; with many, what is wrong for all of them.
    """
    if not options.debug:
        quiet_models()
    check_options(options)
    jobs = collect_jobs(options)
    if not is_batch(options):
        load_image(options.image)  # a bad picture should not have to wait for the model
    jobs = unfinished(jobs, options)
    if not jobs:
        return 0
    for job in jobs:
        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
        check_output(job.output)
    studio = Studio.open(options, version)
    failed = 0
    for number, job in enumerate(jobs, 1):
        try:
            studio.make(job, label=f" {number}/{len(jobs)}" if len(jobs) > 1 else "")
            print(job.output, flush=True)
        except Exception as error:
            if not is_batch(options) or options.debug:
                raise
            report(error, about=job.image)
            failed += 1
        except KeyboardInterrupt:
            if len(jobs) > 1:
                say(f"{number - 1 - failed} of {len(jobs)} clips are done")
            raise
    if failed:
        say(f"error: {failed} of {len(jobs)} clips failed, the others are done; run again to retry the failed ones")
    return EXIT_ERROR if failed else 0


def check_options(options: Animate) -> None:
    """What can be said before anything is loaded."""
    if options.scheduler is not None:
        scheduler_class(options.scheduler)
    chosen_preset(options)
    rules = {
        "--steps": (options.steps, 1, None),
        "--guidance-every": (options.guidance_every, 1, None),
        "--num-frames": (options.num_frames, 1, None),
        "--decode-chunk-size": (options.decode_chunk_size, 1, None),
        "--motion-strength": (options.motion_strength, 0, None),
        "--guidance-rescale": (options.guidance_rescale, 0, 1),
        "--fps": (options.fps, *FPS_RANGE),
    }
    for flag, (value, low, high) in rules.items():
        if value is not None and not (low <= value and (high is None or value <= high)):
            rule = f"at least {low}" if high is None else f"in {low} to {high}"
            raise ValueError(f"{flag} (={value}) must be {rule}; choose such a value")


def chosen_preset(options: Animate) -> SamplingPreset:
    """The preset, with the flags that were given in the place of its own settings.

    Raises:
        ValueError: an unknown preset, or an interval that is none.
    """
    chosen, interval = preset(options.preset), options.guidance_interval
    if options.scheduler is not None:  # `load_pipeline` puts it in place
        chosen = replace(chosen, scheduler=None, scheduler_options={})
    flags: dict[str, Any] = {
        "steps": options.steps,
        "guidance_interval": None if interval is None else read_interval(interval),
        "guidance_every": options.guidance_every,
    }
    return replace(chosen, **{name: value for name, value in flags.items() if value is not None})


def read_interval(text: str) -> Interval:
    """(low, high) of "LOW,HIGH"."""
    try:
        low, high = (float(part) for part in text.split(","))
        check_guidance((low, high), every=1)
    except ValueError:
        raise ValueError(
            f"--guidance-interval (={text}) must be LOW,HIGH with 0 <= LOW <= HIGH <= 1, such as 0.4,1; correct it"
        ) from None
    return low, high


def unfinished(jobs: list[Job], options: Animate) -> list[Job]:
    """The jobs of a batch whose clip does not exist yet; one picture's clip is always made."""
    if not is_batch(options) or options.overwrite:
        return jobs
    left = [job for job in jobs if not Path(job.output).exists()]
    if len(left) < len(jobs):
        say(f"skipping {len(jobs) - len(left)} of {len(jobs)} clips that exist already (--overwrite makes them again)")
    return left


@dataclass(frozen=True, kw_only=True)
class Studio:
    """A loaded pipeline and the settings that all clips share; `sampling` is the preset's and the flags'."""

    pipeline: TripPipeline
    sampling: dict[str, Any]
    options: Animate
    version: str

    @classmethod
    def open(cls, options: Animate, version: str) -> "Studio":
        """Load the model."""
        device = choose_device(options.device)
        dtype = choose_dtype(options.dtype, device)
        with progress(options, f"loading {options.model}", total=1) as bar:
            pipeline = load_pipeline(
                options.model,
                device=device,
                dtype=dtype,
                fusion=options.fusion,
                scheduler=options.scheduler,
                offload=options.offload,
                float8=options.weights_dtype == "float8",
                compiled=options.compile,
            )
            bar.update()
        pipeline, sampling = chosen_preset(options).apply(pipeline)
        return cls(pipeline=pipeline, sampling=sampling, options=options, version=version)

    def make(self, job: Job, label: str = "") -> None:
        """Animate one picture and write the clip."""
        image = load_image(job.image)
        width, height = self.size(image)
        call = self.call_options()
        frames = self.sample(fit_image(image, width, height), job, call, label)
        record = self.record(job, call, frames) if self.options.metadata else None
        with progress(self.options, f"encoding{label}", total=len(frames)) as bar:
            write_video(job.output, self.shown(frames, bar), self.options.fps, record)

    def size(self, image: Image.Image) -> tuple[int, int]:
        """(width, height) of the clip."""
        options, native = self.options, self.pipeline.default_size
        area = native[0] * native[1] if native else FALLBACK_AREA
        multiple = self.pipeline.vae_scale_factor
        return output_size(image, multiple, area, width=options.width, height=options.height)

    def call_options(self) -> dict[str, Any]:
        """The pipeline's arguments, with its defaults filled in, so that the record is complete."""
        options, pipeline, scale = self.options, self.pipeline, self.options.guidance_scale
        return {
            **self.sampling,
            "negative_prompt": options.negative_prompt,
            "num_frames": options.num_frames or pipeline.max_num_frames or 16,
            "guidance_scale": scale if scale is not None else pipeline.config["default_guidance_scale"],
            "image_guidance_scale": options.image_guidance_scale,
            "guidance_rescale": options.guidance_rescale,
            "motion_strength": options.motion_strength,
            "decode_chunk_size": options.decode_chunk_size,
        }

    def sample(self, image: Image.Image, job: Job, call: dict[str, Any], label: str) -> np.ndarray:
        """Frames uint8 f H W 3. The noise is drawn on the CPU: the same on every device."""
        with progress(self.options, f"sampling{label}", total=call["num_inference_steps"]) as bar:

            def on_step(pipeline: TripPipeline, step: int, timestep: Any, tensors: dict) -> dict:
                if not tensors["latents"].isfinite().all():
                    raise ValueError(
                        f"the latents became NaN or infinite at step {step + 1}; use --dtype float32, a lower "
                        "--guidance-scale, or check the model's weights"
                    )
                bar.total = pipeline.num_timesteps
                bar.update()
                return {}

            output: Any = self.pipeline(
                image,
                job.prompt,
                width=image.width,
                height=image.height,
                generator=torch.Generator().manual_seed(job.seed),
                output_type="np",
                callback_on_step_end=on_step,
                **call,
            )
        return np.rint(output.frames[0] * 255).astype(np.uint8)

    def record(self, job: Job, call: dict[str, Any], frames: np.ndarray) -> ClipMetadata:
        """How the clip was made."""
        options, pipeline = self.options, self.pipeline
        return ClipMetadata(
            image=os.fspath(job.image),
            prompt=job.prompt,
            negative_prompt=options.negative_prompt or None,
            output=job.output,
            model=options.model,
            num_frames=call["num_frames"],
            steps=call["num_inference_steps"],
            scheduler=options.scheduler,
            guidance_scale=call["guidance_scale"],
            image_guidance_scale=options.image_guidance_scale,
            guidance_rescale=options.guidance_rescale or None,
            fusion=None if options.fusion is None else os.fspath(options.fusion),
            motion_strength=options.motion_strength,
            seed=job.seed,
            fps=options.fps,
            width=frames.shape[2],
            height=frames.shape[1],
            dtype=str(pipeline.unet.dtype).removeprefix("torch."),
            device=pipeline._execution_device.type,
            trip_version=self.version,
            extra=self.preset_record(call) | self.storage_record(),
        )

    def preset_record(self, call: dict[str, Any]) -> dict[str, Any]:
        """The preset and what it may set, by flag; nothing where all is as it is without such flags."""
        low, high = call["guidance_interval"]
        settings = {
            "preset": self.options.preset,
            "guidance_interval": f"{low:g},{high:g}",
            "guidance_every": call["guidance_every"],
        }
        return {} if settings == PLAIN else settings

    def storage_record(self) -> dict[str, Any]:
        """How the weights rest, where that changes the clip."""
        kind = self.options.weights_dtype
        return {} if kind == "auto" else {"weights_dtype": kind}

    @staticmethod
    def shown(frames: np.ndarray, bar: tqdm) -> Iterator[np.ndarray]:
        """Frames one by one, counted by a progress bar."""
        for frame in frames:
            yield frame
            bar.update()


@contextmanager
def progress(options: Any, what: str, total: int) -> Iterator[tqdm]:
    """A progress bar on stderr; none where that is no terminal, or with --quiet."""
    with tqdm(total=total, desc=what, leave=False, disable=True if options.quiet else None) as bar:
        yield bar
