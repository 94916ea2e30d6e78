"""A loaded model that makes clips: what needs torch, apart from what can be said without it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from trip.apps.adapters import read_adapters
from trip.apps.errors import quiet_models, say
from trip.apps.jobs import Job
from trip.apps.loading import choose_device, choose_dtype, load_pipeline
from trip.apps.model_folder import find_model
from trip.apps.options import Animate
from trip.apps.progress import progress
from trip.apps.sampling_options import chosen_preset
from trip.apps.version import trip_version
from trip.data.images import fit_image, load_image, output_size
from trip.data.metadata import ClipMetadata
from trip.data.video import write_video
from trip.pipeline import TripPipeline
from trip.text import load_sentence_encoder, unread
from trip.wordings import Wordings

FALLBACK_AREA = 256 * 256
"""Pixels of a clip where neither the model nor the user says: the paper's size."""

PLAIN = {"preset": "quality", "guidance_interval": "0,1", "guidance_every": 1}
"""What a clip has that was made without a word about these."""

FAR_SIZE = 2.5
"""Ratio of areas, or of aspects, from which on a size is far from the trained one; pictures have aspects up to 16:9."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """A loaded pipeline and the settings that all clips share; `sampling` is the preset's and the flags'."""

    pipeline: TripPipeline
    sampling: dict[str, Any]
    options: Animate
    wordings: Wordings | None = None
    said: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, options: Animate) -> "Studio":
        """Load the model."""
        if not options.debug:
            quiet_models()
        device = choose_device(options.device)
        pipeline = load_pipeline(
            options.model,
            device=device,
            dtype=choose_dtype(options.dtype, device),
            fusion=options.fusion,
            scheduler=options.scheduler,
            offload=options.offload,
            float8=options.weights_dtype == "float8",
            compiled=options.compile,
            adapters=read_adapters(options.lora),
        )
        pipeline, sampling = chosen_preset(options).apply(pipeline)
        folder = Path(find_model(options.model))
        return cls(pipeline=pipeline, sampling=sampling, options=options, wordings=Wordings.load(folder))

    def make(self, job: Job, label: str = "") -> None:
        """Animate one picture and write the clip."""
        image = load_image(job.image)
        width, height = self.size(image)
        self.warn(self.prompt_warnings(job.prompt) + self.size_warnings(width, height))
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

    def warn(self, lines: list[str]) -> None:
        """Say every warning once."""
        for line in lines:
            if line not in self.said:
                say(f"warning: {line}")
                self.said.add(line)

    def prompt_warnings(self, prompt: str) -> list[str]:
        """What the encoder does not know, or how far the prompt is from what the model was trained with."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        if tokenizer is not None and (unknown := unread(tokenizer, prompt)):
            return [unknown]
        if self.wordings is None:
            return []
        if not (self.pipeline.config["packaged_text_encoder"] and encoder.device.type == "cpu"):
            tokenizer, encoder = load_sentence_encoder()
        far = self.wordings.warning(prompt, tokenizer, encoder)
        return [] if far is None else [f"{far}; trip info {self.options.model} lists what it understands"]

    def size_warnings(self, width: int, height: int) -> list[str]:
        """A size that is far from the trained one."""
        native = self.pipeline.default_size
        if native is None:
            return []
        ratios = (width * height / (native[0] * native[1]), width / height * native[0] / native[1])
        if all(1 / FAR_SIZE <= ratio <= FAR_SIZE for ratio in ratios):
            return []
        return [
            f"{width}x{height} is far from {native[1]}x{native[0]}, which the model was trained at; expect less of it"
        ]

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
            lora=options.lora or None,
            motion_strength=options.motion_strength,
            seed=job.seed,
            fps=options.fps,
            width=frames.shape[2],
            height=frames.shape[1],
            dtype=str(pipeline.unet.dtype).removeprefix("torch."),
            device=pipeline._execution_device.type,
            trip_version=trip_version(),
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
