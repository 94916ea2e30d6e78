"""A loaded model that makes clips out of requests. Every question a request leaves open is answered by `resolve`.

    >>> studio = Studio.open(ModelRequest())
    >>> made = studio.make(ClipRequest(image=Path("photo.jpg"), prompt="the camera pans left"), on_event=print)
    >>> made.save("out.mp4")

Clips may be made from several threads at once: a call shares no state with another.
"""

import inspect
import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from trip.adapters import read_adapters
from trip.cascade import upsampled
from trip.controls import Controls
from trip.data.images import fit_image, load_image, output_size, to_rgb
from trip.data.video.metadata import names_only
from trip.data.video.reading import read_video
from trip.data.video.writing import write_video
from trip.model_folder import find_model
from trip.motion.camera import parse_camera
from trip.motion.drags import parse_drag
from trip.motion.estimation import LEAST_SIDE
from trip.opening import change_scheduler, choose_device, choose_dtype, load_pipeline
from trip.pipeline import TripPipeline
from trip.request import CLIP_SUFFIXES, ClipRequest, ModelRequest, animate_command, plain, read_interval, record_of
from trip.text import load_sentence_encoder, unread
from trip.version import trip_version
from trip.wordings import Wordings

FALLBACK_AREA = 256 * 256
"""Pixels of a clip where neither the model nor the user says: the paper's size."""

FALLBACK_FRAMES = 16

UPSCALED_AREA = 512 * 512
"""Pixels of a clip that is upscaled, where the user does not say and the picture has as many."""

OTHER_PICTURES = ("last_image", "keyframe")
"""Settings that name what the clip shows beside its first picture: moving that one alone does not lead there."""

HAND_SIDE = 256
"""Longer side, pixels, of the fields of motion given by hand."""

OBSERVED = 4
"""Frames that a clip is continued from where the user does not say."""

FAR_SIZE = 2.5
"""Ratio of areas, or of aspects, from which on a size is far from the trained one; pictures have aspects up to 16:9."""


@dataclass(frozen=True)
class Progress:
    """An event: `done` of `total` parts of a stage, "sampling", "upscaling" or "encoding"."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True)
class Warned:
    """An event: something that the user should know."""

    text: str


OnEvent = Callable[[Progress | Warned], None]


@dataclass(frozen=True, kw_only=True)
class MadeClip:
    """A clip and how it was made.

    Attributes:
        frames: uint8 sRGB f H W 3. request: with everything decided. record: what is kept with the clip.
    """

    frames: np.ndarray
    request: ClipRequest
    record: dict[str, Any]

    def save(
        self, path: str | os.PathLike[str], *, recorded: bool = True, on_event: OnEvent = lambda event: None
    ) -> None:
        """Write it, as `trip.data.video.writing.write_video`, with its record unless that is not wanted."""
        record = {**self.record, "output": os.fspath(path)} if recorded else None
        comment = None if record is None else animate_command(names_only(record))
        write_video(path, self._told(on_event), self.request.fps, record, comment=comment)

    def _told(self, on_event: OnEvent) -> Iterator[np.ndarray]:
        for done, frame in enumerate(self.frames, 1):
            yield frame
            on_event(Progress("encoding", done, len(self.frames)))


@dataclass(frozen=True, kw_only=True)
class Studio:
    """A pipeline, the request that it was loaded by, and what its model understands."""

    pipeline: TripPipeline
    model: ModelRequest
    wordings: Wordings | None = None

    @classmethod
    def open(cls, model: ModelRequest) -> "Studio":
        """Load the model.

        Raises:
            ValueError: no such model, fusion or adapter, or a damaged one; a device that cannot be used.
        """
        device = choose_device(model.device)
        pipeline = load_pipeline(
            model.model,
            device=device,
            dtype=choose_dtype(model.dtype, device),
            fusion=model.fusion,
            offload=model.offload,
            float8=model.weights_dtype == "float8",
            compiled=model.compile,
            adapters=read_adapters(model.lora),
        )
        model = plain(ModelRequest, model)
        return cls(pipeline=pipeline, model=model, wordings=Wordings.load(Path(find_model(model.model))))

    def make(
        self, request: ClipRequest, image: Image.Image | None = None, *, on_event: OnEvent = lambda event: None
    ) -> MadeClip:
        """Animate a picture.

        Args:
            image: in place of the file that the request names. on_event: is told of progress, and of warnings.

        Raises:
            ValueError: what is wrong with the request, before anything is computed; latents that became NaN.
        """
        controls = controls_of(request, image)
        image = controls["image"] if "image" in controls else controls["video"][0]
        assert isinstance(image, Image.Image)
        request = self.resolve(request, image)
        for line in self.warnings(request):
            on_event(Warned(line))
        make = self._upscale if request.upscale == "cascade" else self._sample
        frames = make(request, controls, on_event)
        return MadeClip(frames=frames, request=request, record=self._record(request))

    def resolve(self, request: ClipRequest, image: Image.Image) -> ClipRequest:
        """The request with everything decided that it leaves open: by the preset, the model, the picture, or chance."""
        upscale = "cascade" if self._is_upscaled(request, image) else "none"
        width, height = self._size(replace(request, upscale=upscale), image)
        sampling, scale, pipeline = request.sampling(), request.guidance_scale, self.pipeline
        return replace(
            request,
            num_frames=request.num_frames or pipeline.max_num_frames or FALLBACK_FRAMES,
            steps=sampling.steps,
            guidance_scale=pipeline.config["default_guidance_scale"] if scale is None else scale,
            guidance_interval="{:g},{:g}".format(*sampling.guidance_interval),
            guidance_every=sampling.guidance_every,
            seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
            width=width,
            height=height,
            upscale=upscale,
        )

    def _is_upscaled(self, request: ClipRequest, image: Image.Image) -> bool:
        """Whether the picture is moved at its own size: as asked, or where it is far larger than the model's clips.

        Raises:
            ValueError: it is asked for, and the clip shows other pictures too.
        """
        others = [f"--{name.replace('_', '-')}" for name in OTHER_PICTURES if getattr(request, name)]
        others += ["a clip to go on with"] * (request.image.suffix.lower() in CLIP_SUFFIXES)
        if request.upscale != "auto":
            if request.upscale == "cascade" and others:
                raise ValueError(f"upscale (=cascade) moves one picture and cannot reach {others[0]}; use none")
            return request.upscale == "cascade"
        native = self.pipeline.default_size
        if native is None or others:
            return False
        width, height = self._upscaled_size(request, image)
        seen = min(self._size(replace(request, upscale="none", width=None, height=None), image)) >= LEAST_SIDE
        return seen and width * height >= FAR_SIZE * native[0] * native[1]

    def _upscaled_size(self, request: ClipRequest, image: Image.Image) -> tuple[int, int]:
        """(width, height) of a clip that is upscaled; even, as video formats want it."""
        area = min(UPSCALED_AREA, image.width * image.height)
        return output_size(image, 2, area, width=request.width, height=request.height)

    def warnings(self, request: ClipRequest) -> list[str]:
        """What may come out otherwise than the user thinks, in lines."""
        return self._prompt_warnings(request.prompt or "") + self._size_warnings(request)

    def _size(self, request: ClipRequest, image: Image.Image) -> tuple[int, int]:
        """(width, height) of the clip."""
        if request.upscale == "cascade":
            return self._upscaled_size(request, image)
        native = self.pipeline.default_size
        area = native[0] * native[1] if native else FALLBACK_AREA
        multiple = self.pipeline.vae_scale_factor
        return output_size(image, multiple, area, width=request.width, height=request.height)

    def _prompt_warnings(self, prompt: str) -> list[str]:
        """What the encoder does not know, or how far the prompt is from what the model was trained with."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        if tokenizer is not None and (unknown := unread(tokenizer, prompt)):
            return [unknown]
        if self.wordings is None:
            return []
        if not (self.pipeline.config["packaged_text_encoder"] and encoder.device.type == "cpu"):
            tokenizer, encoder = load_sentence_encoder()
        far = self.wordings.warning(prompt, tokenizer, encoder)
        return [] if far is None else [f"{far}; trip info {self.model.model} lists what it understands"]

    def _size_warnings(self, request: ClipRequest) -> list[str]:
        """A size that is far from the trained one."""
        native, width, height = self.pipeline.default_size, request.width or 1, request.height or 1
        if native is None or request.upscale == "cascade":
            return []
        ratios = (width * height / (native[0] * native[1]), width / height * native[0] / native[1])
        if all(1 / FAR_SIZE <= ratio <= FAR_SIZE for ratio in ratios):
            return []
        return [
            f"{width}x{height} is far from {native[1]}x{native[0]}, which the model was trained at; expect less of it"
        ]

    def _pipeline(self, request: ClipRequest) -> TripPipeline:
        """The pipeline with the request's scheduler; it shares all networks with the studio's."""
        pipeline, _ = request.sampling().apply(self.pipeline)
        if request.scheduler is not None:
            pipeline.scheduler = change_scheduler(self.pipeline.scheduler, request.scheduler)
        return pipeline

    def _sample(self, request: ClipRequest, controls: dict[str, Any], on_event: OnEvent) -> np.ndarray:
        """Frames uint8 f H W 3. The noise is drawn on the CPU: the same on every device."""
        assert request.width is not None and request.height is not None and request.seed is not None  # resolve
        chunks = len(self.pipeline.chunk_lengths(request.num_frames or 1))
        done = itertools.count(1)

        def on_step(pipeline: TripPipeline, step: int, timestep: Any, tensors: dict) -> dict:
            if not tensors["latents"].isfinite().all():
                raise ValueError(
                    f"the latents became NaN or infinite at step {step + 1}; use --dtype float32, a lower "
                    "--guidance-scale, or check the model's weights"
                )
            on_event(Progress("sampling", next(done), pipeline.num_timesteps * chunks))
            return {}

        output: Any = self._pipeline(request)(
            **pipeline_arguments(request),
            **{name: shown_part(value, request.width, request.height) for name, value in controls.items()},
            generator=torch.Generator().manual_seed(request.seed),
            output_type="np",
            callback_on_step_end=on_step,
        )
        return np.rint(output.frames[0] * 255).astype(np.uint8)

    def _upscale(self, request: ClipRequest, controls: dict[str, Any], on_event: OnEvent) -> np.ndarray:
        """Frames uint8 f H W 3: the picture moved as a clip of the model's size moves, or as is given by hand."""
        width, height = request.width, request.height
        assert width is not None and height is not None and request.num_frames is not None  # resolve
        small = self._size(ClipRequest(image=request.image), Image.new("1", (width, height)))
        picture = controls["image"]
        # A picture of twice the size or more is moved at twice the size, for zooms.
        finer = 2 if picture.width >= 2 * width and picture.height >= 2 * height else 1
        photograph = as_tensor(fit_image(picture, finer * width, finer * height))
        squeezed = {name: shown_part(value, width, height, small) for name, value in controls.items()}
        by_hand = {name: controls[name] for name in ("camera", "drags") if name in controls}
        motion, base = None, None
        if by_hand:
            scale = min(1.0, HAND_SIDE / max(width, height))
            size = round(height * scale), round(width * scale)
            motion = Controls.of(request.num_frames, **by_hand).motion(picture, request.num_frames, *size)
        if request.prompt or motion is None:
            made = self._sample(replace(request, width=small[0], height=small[1]), squeezed, on_event)
            base = torch.from_numpy(made).permute(0, 3, 1, 2).float() / 255
        frames = np.empty((request.num_frames, height, width, 3), np.uint8)
        for index, frame in enumerate(upsampled(photograph, base, height=height, width=width, motion=motion)):
            frames[index] = (frame * 255).round().byte().permute(1, 2, 0).numpy()
            on_event(Progress("upscaling", index + 1, len(frames)))
        return frames

    def _record(self, request: ClipRequest) -> dict[str, Any]:
        """How the clip is made."""
        model = replace(self.model, dtype=str(self.pipeline.unet.dtype).removeprefix("torch."))
        facts = {"device": self.pipeline._execution_device.type, "trip_version": trip_version()}
        return {**record_of(request, model), **facts}


def controls_of(request: ClipRequest, image: Image.Image | None = None) -> dict[str, Any]:
    """The pictures that a request names, and motion given by hand, as arguments of the pipeline.

    Args:
        image: in place of the first picture's file.

    Raises:
        ValueError, OSError: a picture or clip that cannot be read, or a path or drag that cannot be understood.
    """
    if image is not None:
        given: dict[str, Any] = {"image": to_rgb(image)}
    elif request.image.suffix.lower() in CLIP_SUFFIXES:
        clip = read_video(request.image)
        observed = min(request.observe or OBSERVED, len(clip.frames))
        given = {"video": [Image.fromarray(frame) for frame in clip.frames[-observed:]]}
    elif request.observe is not None:
        raise ValueError(f"observe (={request.observe}) is of clips, and {request.image} is a picture; leave it out")
    else:
        given = {"image": load_image(request.image)}
    given |= {name: load_image(path) for name in ("last_image", "mask") if (path := getattr(request, name)) is not None}
    if request.keyframe:
        given["keyframes"] = {number: load_image(path) for number, path in request.keyframes().items()}
    if request.camera is not None:
        given["camera"] = parse_camera(request.camera)
    if request.drag:
        given["drags"] = [parse_drag(text) for text in request.drag]
    return given


def shown_part(value: Any, width: int, height: int, squeezed: tuple[int, int] | None = None) -> Any:
    """Pictures brought to the size of the clip, and from there to a small one of about its shape; others as is."""
    if isinstance(value, Image.Image):
        picture = fit_image(value, width, height)
        return picture if squeezed is None else picture.resize(squeezed, Image.Resampling.LANCZOS)
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = {key: shown_part(item, width, height, squeezed) for key, item in items}
        return parts if isinstance(value, dict) else list(parts.values())
    return value


def as_tensor(picture: Image.Image) -> Float[torch.Tensor, "3 H W"]:
    """An RGB picture in [0, 1]."""
    return torch.from_numpy(np.array(picture, np.float32)).permute(2, 0, 1) / 255


def pipeline_arguments(request: ClipRequest) -> dict[str, Any]:
    """What the pipeline is called with: the settings that it has by the same name, and two by another."""
    parameters = inspect.signature(TripPipeline.__call__).parameters
    named = {field.name: getattr(request, field.name) for field in fields(request) if field.name in parameters}
    for name in ("image", "last_image", "mask", "camera"):  # `controls_of` reads them
        del named[name]
    return named | {
        "num_inference_steps": request.steps,
        "guidance_interval": read_interval(request.guidance_interval or "0,1"),
    }
