"""TripPipeline: check -> encode -> sample -> decode, with diffusers' conventions.

    >>> pipe = TripPipeline.from_pretrained("folder or hub id", dtype=torch.bfloat16)
    >>> frames = pipe(image, "the camera pans left", generator=torch.Generator().manual_seed(0)).frames[0]

**Saving and loading.** `model_index.json` names the parts that diffusers does not know by module
(`["trip.residual_unet", "ResidualUNet3D"]`). diffusers resolves such names among the modules that are already
imported, and importing this one imports them, so `TripPipeline.from_pretrained` needs no `trust_remote_code`.
Settings that are of no part alone stand in the network's config too, as `_pipeline`, so that parts make the same model
again: `TripPipeline(**pipe.components)`.

**Seeds.** Noise is drawn clip by clip, in float32, on the generator's device. With a list, clip k uses its own
generator: the same seed gives the same clip whatever the batch around it. With one generator for several clips,
their starting noise is drawn from it one clip after another, so the first clip is the one it gives alone;
schedulers that add noise at every step would share it, so give a list there. Clip k of prompt i is number
``i * num_videos_per_prompt + k``.

**Threads.** A call works on a scheduler and a state of its own (`trip.calls`), so threads may share a pipeline.
"""

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, no_type_check

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiffusionPipeline,
    UNet3DConditionModel,
    UNetMotionModel,
    pipelines,
)
from diffusers.callbacks import IPAdapterScaleCutoffCallback, MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_loading_utils import _fetch_class_library_tuple
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trip import calls, sampler
from trip.codec import codec_of
from trip.condition import Condition, first_frame
from trip.controls import Controls, check_mask, first_picture
from trip.denoiser import TripDenoiser
from trip.discovery import give_name
from trip.foreign import PerFrameText, load_whole, source_components, to_residual_unet
from trip.guidance import ALWAYS, Guidance, Interval
from trip.inputs import (
    Batch,
    ImageInput,
    as_features,
    as_texts,
    check_generator,
    check_latents,
    device_of,
    interval_of,
    one_per_clip,
    own_schedule,
    real,
    require_finite,
    same_shape,
    scale_of_frames,
    scale_of_lora,
    shown,
    size_of,
    to_pixels,
    whole,
)
from trip.loading import check_saveable
from trip.motion.camera import CameraPath
from trip.motion.drags import Drag
from trip.noise_fusion import NoiseFusion, TrainingFreeNoiseFusion
from trip.noise_prior import Clip
from trip.references import chained, chunk_lengths
from trip.schedule import for_latents, prediction_type, rehearse, warn_of_another_process
from trip.switches import Switches
from trip.text import check_text, count_tokens, encode_text, is_sentence_encoder, load_sentence_encoder, unread

logger = logging.get_logger(__name__)

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_STEPS = 10_000
OVERLAP = 4
"""Frames that a chunk of a long clip has from the one before."""
SETTINGS: Mapping[str, Any] = {
    "zero_text_padding": False,
    "max_text_length": None,
    "packaged_text_encoder": False,
    "default_guidance_scale": 7.5,
}
"""What no part says, and its defaults."""


@dataclass
class TripPipelineOutput(BaseOutput):
    """What `TripPipeline` returns.

    Attributes:
        frames: by `output_type` a list of lists of PIL images ("pil"), (b, f, H, W, 3) in [0, 1] ("np"),
            (b, f, 3, H, W) in [0, 1] ("pt"), or latents b c f h w ("latent").
    """

    frames: Any


class TripPipeline(Switches, DiffusionPipeline):
    """Image-to-video generation with the image noise prior (TRIP) and any fusion of `trip.noise_fusion`.

    Any part may be None in a pipeline that does not need it, for example to encode prompts only.

    Args:
        vae: `AutoencoderKL` or `AutoencoderTiny`.
        text_encoder: any transformers encoder with `last_hidden_state`; None if prompts come as embeddings.
        tokenizer: its tokenizer, or None.
        unet: the residual network: `ResidualUNet3D`, `UNetMotionModel`, or any that `TripDenoiser` takes.
        fusion: says how the prior is fused, and what the network's output means.
        scheduler: any scheduler that `trip.schedule` reads. One that clips z_0 to the range of pixels
            (`clip_sample=True`) is replaced by its copy that does not, since latents leave that range.
        zero_text_padding: mask the padding of prompts and zero its features; Stable Diffusion reads it.
        max_text_length: tokens a prompt is padded to; None for the tokenizer's limit.
        packaged_text_encoder: take text encoder and tokenizer out of the installed package that carries
            all-MiniLM-L6-v2 (`trip.text`) when none are given; they are then not saved with the pipeline.
        default_guidance_scale: text guidance where a call gives none.

    The last four are, where they are None, what the network's config says, or else off, and 7.5.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["fusion"]
    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents", "denoised_latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | None,
        unet: nn.Module | None,
        fusion: NoiseFusion | None,
        scheduler: Any,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        zero_text_padding: bool | None = None,
        max_text_length: int | None = None,
        packaged_text_encoder: bool | None = None,
        default_guidance_scale: float | None = None,
    ):
        super().__init__()
        said = {
            "zero_text_padding": zero_text_padding,
            "max_text_length": max_text_length,
            "packaged_text_encoder": packaged_text_encoder,
            "default_guidance_scale": default_guidance_scale,
        }
        settings = settings_of(unet, said)
        packaged = settings["packaged_text_encoder"] and (text_encoder is None or is_sentence_encoder(text_encoder))
        self.register_modules(
            vae=vae,
            text_encoder=None if packaged else text_encoder,
            tokenizer=None if packaged else tokenizer,
            unet=unet,
            fusion=fusion,
            scheduler=scheduler,
        )
        self.register_to_config(**settings)
        if packaged:  # set after registering None: left out of what is saved
            given = tokenizer is not None and text_encoder is not None
            self.tokenizer, self.text_encoder = (tokenizer, text_encoder) if given else load_sentence_encoder()
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_resize=False)

    # ------------------------------------------------------------------------------------------- construction

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any):
        """Load a folder or hub id; arguments of `DiffusionPipeline.from_pretrained`, safetensors only.

        Raises:
            ValueError: in one line: another kind of model, or a file, tensor or setting that is missing, damaged or
                does not fit (`trip.loading`).
        """
        if "text_encoder" in kwargs and kwargs["text_encoder"] is None:
            kwargs.setdefault("packaged_text_encoder", False)
        return load_whole(super().from_pretrained, cls, pretrained_model_name_or_path, ("trip",), kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any):
        """A pipeline with the parts and settings of another, sharing its weights; a text-to-video one is converted.

        Args:
            kwargs: parts and settings in place of the other's, and `dtype`, to which all weights are cast.

        Raises:
            ValueError: for anything else.
        """
        if not isinstance(pipeline, TripPipeline):
            return cls.from_text_to_video(pipeline, **kwargs)
        dtype = [kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs]
        settings = {name: pipeline.config[name] for name in SETTINGS}
        if unknown := sorted(set(kwargs) - set(settings) - set(pipeline.components)):
            raise ValueError(f"from_pipe takes no {unknown[0]}; pass parts or settings of TripPipeline")
        made = cls(**{**pipeline.components, **settings, **kwargs})
        return made.to(dtype=dtype[0]) if dtype and dtype[0] is not None else made

    @classmethod
    def from_text_to_video(
        cls,
        source: DiffusionPipeline | Mapping[str, Any] | str | os.PathLike,
        *,
        scheduler: Any = None,
        fusion: NoiseFusion | None = None,
        zero_text_padding: bool | None = None,
        max_text_length: int | None = None,
        **load_options: Any,
    ):
        """A training-free image-to-video pipeline out of a text-to-video checkpoint with per-frame latents.

        The network stays blind to the image; the prior is fused into its estimate of z_0 at every step
        (`TrainingFreeNoiseFusion`). A `UNet3DConditionModel` (ModelScopeT2V) is loaded key for key into
        `ResidualUNet3D`, sharing its weights; any other network (AnimateDiff's `UNetMotionModel`) stays as it is.

        Args:
            source: a pipeline, a folder or hub id of one, or its components by name: vae, text_encoder,
                tokenizer, unet, scheduler.
            scheduler: in place of the source's; its `prediction_type` is what the network predicts.
            fusion: in place of `TrainingFreeNoiseFusion` with its default tables, for measured ones.
            zero_text_padding, max_text_length: see the class.
            load_options: for `DiffusionPipeline.from_pretrained` (dtype, variant, revision, ...).

        Raises:
            ValueError: if a component is missing.
        """
        parts = source_components(source, load_options)
        scheduler = scheduler or parts["scheduler"]
        fusion = fusion or TrainingFreeNoiseFusion(prediction_type=prediction_type(scheduler))
        unet = parts["unet"]
        return cls(
            vae=parts["vae"],
            text_encoder=parts["text_encoder"],
            tokenizer=parts["tokenizer"],
            unet=to_residual_unet(unet) if isinstance(unet, UNet3DConditionModel) else unet,
            fusion=fusion.to(parts["vae"].device),
            scheduler=scheduler,
            zero_text_padding=zero_text_padding,
            max_text_length=max_text_length,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, safe_serialization: bool = True, **kwargs: Any):
        """`DiffusionPipeline.save_pretrained`, always as safetensors: nothing else is read again.

        Raises:
            ValueError: before anything is written, if a part has adapters or is otherwise not what would be loaded.
        """
        for name, part in self.components.items():
            if isinstance(part, nn.Module):
                check_saveable(part, name)
        if not safe_serialization:
            logger.warning("safe_serialization=False would write pickles, which are not read here; wrote safetensors")
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)

    # ---------------------------------------------------------------------------------- what the model allows

    @property
    def scheduler(self) -> Any:
        """The scheduler; in a callback, the running call's own copy of it."""
        return calls.of_thread(self).scheduler or self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        before = vars(self).get("_scheduler")
        if scheduler is not None:
            scheduler = for_latents(scheduler)
        if scheduler is not None and before is not None:
            warn_of_another_process(scheduler, before)
            self.register_to_config(scheduler=_fetch_class_library_tuple(scheduler))
        self._scheduler = scheduler

    @property
    def denoiser(self) -> TripDenoiser:
        """The two saved parts composed (`trip.denoiser`); it holds no weights of its own."""
        unet = getattr(self.unet, "_orig_mod", self.unet)
        return TripDenoiser(PerFrameText(self.unet) if isinstance(unet, UNetMotionModel) else self.unet, self.fusion)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of a side of one latent; 8 without an autoencoder."""
        return 8 if self.vae is None else codec_of(self.vae).spatial_factor

    @property
    def max_num_frames(self) -> int | None:
        """Longest clip that network and fusion allow; None = no limit."""
        config, in_front = self.unet.config, int(self.fusion.concat == "time")
        network = config.get("max_num_frames") or config.get("motion_max_seq_length")
        limits = [network and network - in_front, self.fusion.num_frames]
        return min((limit for limit in limits if limit), default=None)

    @property
    def still_only(self) -> bool:
        """Whether the network was trained with the picture alone, so that all else is said beside its estimate."""
        return not isinstance(self.fusion, TrainingFreeNoiseFusion)

    def chunk_lengths(self, num_frames: int) -> list[int]:
        """Frames of the chunks that a clip is made in, of which each begins with the last ones before it."""
        return chunk_lengths(num_frames, self.max_num_frames, 1 if self.still_only else OVERLAP)

    @property
    def chains(self) -> bool:
        """Whether longer clips are made in chunks: a table that was measured on shorter ones does not say how far."""
        limit, table = self.max_num_frames or 0, self.fusion.num_frames
        short = isinstance(self.fusion, TrainingFreeNoiseFusion) and limit == table
        return limit >= 2 * OVERLAP and "sigma" in self.fusion.config and not short

    @property
    def max_text_tokens(self) -> int:
        """Tokens a prompt is padded to, and may have at most."""
        assert self.tokenizer is not None and self.text_encoder is not None  # check_prompts
        positions = getattr(self.text_encoder.config, "max_position_embeddings", None) or 10**9
        return self.config["max_text_length"] or min(self.tokenizer.model_max_length, positions)

    @property
    def default_size(self) -> tuple[int, int] | None:
        """(height, width) in pixels of the clips it was trained on; None if the config does not say."""
        size = self.unet.config.get("sample_size")
        if not size:
            return None
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    # ------------------------------------------------------------------------------------------------- checks

    def check_inputs(
        self,
        batch: Batch,
        height: int,
        width: int,
        num_frames: int,
        num_videos_per_prompt: int = 1,
        guidance: Guidance | None = None,
        generator: Any = None,
        latents: Any = None,
        reference_latents: Any = None,
    ) -> None:
        """Raise ValueError, one line with value, rule and remedy, for what does not fit the model or each other."""
        batch.check()
        clips, guidance = batch.size * num_videos_per_prompt, guidance or Guidance()
        self.check_size(height, width, num_frames)
        self.check_prompts([*batch.prompts, *batch.negative_prompts] if guidance.needs_null_text else batch.prompts)
        encoded = bool(batch.prompts) or (guidance.needs_null_text and bool(batch.negative_prompts))
        width_of_text = self.unet.config.get("cross_attention_dim")
        batch.check_features(
            self.max_text_tokens if encoded else None, width_of_text if isinstance(width_of_text, int) else None
        )
        self.check_guidance(guidance.scale, guidance.image_scale, num_frames)
        size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        channels = codec_of(self.vae).channels
        check_latents("latents", latents, {clips}, {num_frames}, channels, size)
        frames = {1, num_frames}
        check_latents("reference_latents", reference_latents, {1, batch.size, clips}, frames, channels, size)
        check_generator(generator, clips)

    def check_parts(self) -> None:
        """A clip needs all networks, even if prompts come as embeddings."""
        if missing := [name for name in ("vae", "unet", "fusion", "scheduler") if getattr(self, name) is None]:
            raise ValueError(f"this pipeline has no {', '.join(missing)}; load the model whole to make clips")

    def check_size(self, height: int, width: int, num_frames: int) -> None:
        """Height and width must be multiples of the VAE's factor, the frames within the model's limit."""
        multiple, limit = self.vae_scale_factor, self.max_num_frames
        for name, value in (("height", height), ("width", width)):
            if value < 1 or value % multiple:
                nearest = max(round(value / multiple), 1) * multiple
                raise ValueError(f"{name} (={value}) is not a positive multiple of {multiple}; use {nearest}")
        if limit is not None and num_frames > limit and not self.chains:
            measured = isinstance(self.fusion, TrainingFreeNoiseFusion) and limit == self.fusion.num_frames
            whose, remedy = ("fusion's", ", or calibrate it on longer ones") if measured else ("model's", "")
            raise ValueError(f"num_frames (={num_frames}) exceeds the {whose} {limit}; shorten the clip{remedy}")

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Prompts must be texts that the encoder reads whole; nothing is cut off silently."""
        if prompts and (self.text_encoder is None or self.tokenizer is None):
            raise ValueError("this pipeline has no text encoder; pass prompt_embeds and negative_prompt_embeds")
        for prompt in prompts:
            check_text(prompt)
            if warning := unread(self.tokenizer, prompt):  # pyright: ignore
                logger.warning(warning)
            tokens, limit = count_tokens(self.tokenizer, prompt), self.max_text_tokens  # pyright: ignore
            if tokens > limit:
                start = prompt[:40] + "..."
                raise ValueError(f"prompt {start!r} has {tokens} tokens, over the limit of {limit}; shorten it")

    def check_guidance(self, guidance_scale: float | Tensor, image_guidance_scale: float, num_frames: int) -> None:
        """A guidance ramp has one value a frame; image guidance needs a network that sees the image."""
        if isinstance(guidance_scale, Tensor) and guidance_scale.shape != (num_frames,):
            shape, wanted = tuple(guidance_scale.shape), f"a number, or one for each of {num_frames} frames"
            raise ValueError(f"guidance_scale has shape {shape}; give {wanted}")
        if image_guidance_scale != 1 and self.fusion.concat == "none":
            raise ValueError(
                f"image_guidance_scale (={image_guidance_scale}) has no effect on a network that does not see the "
                "image (concat='none'); leave it at 1"
            )

    def check_controls(self, controls: Controls, batch: Batch, reference_latents: Any) -> None:
        """Controls need a fusion that weighs references, and drags and masks a picture that they belong to."""
        if not controls:
            return
        if reference_latents is not None:
            raise ValueError("reference_latents are the reference already; leave them, or the controls, out")
        if "sigma" not in self.fusion.config:
            raise ValueError(
                f"{type(self.fusion).__name__} has no measured sigma to weigh controls by; use a fusion that has one"
            )
        if (controls.drags or controls.mask is not None) and len(batch.images) > 1:
            raise ValueError(f"drags and masks belong to one picture, and {len(batch.images)} are given; call for each")
        if controls.mask is not None:
            check_mask(controls.mask, batch.images[0])

    def check_chunks(
        self, num_frames: int, guidance: Guidance, controls: Controls, latents: Any, reference_latents: Any
    ) -> None:
        """A clip beyond the model's limit is made in chunks, of which each goes on from the one before."""
        limit = self.max_num_frames
        if limit is None or num_frames <= limit:
            return
        given = {
            "controls": controls,
            "latents": latents is not None,
            "reference_latents": reference_latents is not None,
        }
        if names := [name for name, value in given.items() if value]:
            raise ValueError(
                f"num_frames (={num_frames}) exceeds the model's {limit}, and a clip in chunks takes no {names[0]}; "
                "shorten it, or leave them out"
            )

    def check_callback(self, callback: Any, names: Any) -> list[str]:
        """The tensors that a callback is given; one of diffusers' callback objects says itself."""
        if callback is not None and not callable(callback):
            raise ValueError(f"callback_on_step_end (={shown(callback)}) must be a function; pass one, or None")
        objects = callback.callbacks if isinstance(callback, MultiPipelineCallbacks) else [callback]
        if any(isinstance(each, IPAdapterScaleCutoffCallback) for each in objects):
            raise ValueError("IPAdapterScaleCutoffCallback needs an IP adapter, which this pipeline has not; leave it")
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            names = callback.tensor_inputs
        names = [names] if isinstance(names, str) else list(names or ())
        if unknown := [name for name in names if name not in self._callback_tensor_inputs]:
            raise ValueError(f"callback tensors {unknown} are unknown; choose from {self._callback_tensor_inputs}")
        return names

    # ------------------------------------------------------------------------------------------------- encode

    @no_type_check
    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        device: torch.device | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
        num_videos_per_prompt: int | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Text features (b, n, d) of prompts and negative prompts, in one pass over the distinct texts.

        Args:
            do_classifier_free_guidance: False leaves out the negative prompt, whose features are then None.
            negative_prompt: None is the empty text.
            num_images_per_prompt: copies of every text, one after the other; `num_videos_per_prompt` is the same.
            prompt_embeds, negative_prompt_embeds: features in place of texts.
            lora_scale: strength of the text encoder's LoRA. clip_skip: last layers left out.

        Raises:
            ValueError: other types, or texts for a pipeline without text encoder.
        """
        copies = whole("num_images_per_prompt", num_videos_per_prompt or num_images_per_prompt)
        prompts = as_texts("prompt", prompt) if prompt_embeds is None else []
        if not do_classifier_free_guidance or negative_prompt_embeds is not None:
            negatives = []
        else:
            negatives = as_texts("negative_prompt", "" if negative_prompt is None else negative_prompt)
        prompt_embeds = as_features("prompt_embeds", prompt_embeds)
        negative_prompt_embeds = as_features("negative_prompt_embeds", negative_prompt_embeds)
        device = device_of(device) if device is not None else self._execution_device
        if texts := list(dict.fromkeys([*prompts, *negatives])):
            if self.text_encoder is None or self.tokenizer is None:
                self.check_prompts(texts)
            length, zero_padding = self.max_text_tokens, self.config["zero_text_padding"]
            with self.lora_scaled(lora_scale):
                features = encode_text(
                    self.tokenizer, self.text_encoder, texts, length, zero_padding, device, clip_skip or 0
                )
            prompt_embeds = features[[texts.index(p) for p in prompts]] if prompts else prompt_embeds
            negative_prompt_embeds = (
                features[[texts.index(p) for p in negatives]] if negatives else negative_prompt_embeds
            )
        if prompt_embeds is None and negative_prompt_embeds is None:
            raise ValueError("prompt (=None) is missing; pass a text, or prompt_embeds")
        counts = {len(each) for each in (prompt_embeds, negative_prompt_embeds) if each is not None}
        if len(counts - {1}) > 1:
            raise ValueError(f"{min(counts)} texts do not match {max(counts)}; give as many negative prompts, or one")
        count = max(counts) * copies
        prompt_embeds = None if prompt_embeds is None else one_per_clip(prompt_embeds, count, device)
        if not do_classifier_free_guidance:
            negative_prompt_embeds = None
        elif negative_prompt_embeds is not None:
            negative_prompt_embeds = one_per_clip(negative_prompt_embeds, count, device)
        return prompt_embeds, negative_prompt_embeds

    def encode_image(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c 1 h w"]:
        """Latents of stills in [-1, 1], scaled as the network sees them; the mode of the VAE's posterior.

        Raises:
            ValueError: if they are not finite (a VAE that overflows in float16).
        """
        latents = codec_of(self.vae).encode(pixels.to(self._execution_device).unsqueeze(2))
        require_finite(latents, "the image's latents")
        return latents

    def prepare_latents(
        self,
        shape: tuple[int, ...],
        generator: sampler.Generator,
        device: torch.device,
        latents: Clip | None = None,
    ) -> Clip:
        """Standard normal noise b c f h w, float32, drawn clip by clip (see the module), or the given one."""
        if latents is not None:
            return latents.to(device, torch.float32)
        generators = generator if isinstance(generator, list) else [generator] * shape[0]
        one = (1, *shape[1:])
        return torch.cat([randn_tensor(one, generator=g, device=device, dtype=torch.float32) for g in generators])

    def decode_latents(self, latents: Clip, decode_chunk_size: int | None = None) -> Float[Tensor, "b 3 f H W"]:
        """Frames in [-1, 1], float32; `decode_chunk_size` at once, by default those of one clip."""
        return codec_of(self.vae).decode(latents, decode_chunk_size)

    # ------------------------------------------------------------------------------- what a running call shows

    @property
    def guidance_scale(self) -> Any:
        """Text guidance of the running or last call; set `pipe._guidance_scale` in a callback to change it."""
        return calls.of_thread(self).guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step evaluates the negative prompt; a scale up to 1, set in a callback, turns it off."""
        call = calls.of_thread(self)
        scale = torch.as_tensor(1.0 if call.guidance_scale is None else call.guidance_scale)
        return bool((scale > 1).any() if call.changed else (scale != 1).any())

    @property
    def num_timesteps(self) -> int:
        """Steps of the running or last call."""
        return calls.of_thread(self).num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` to stop after the current step; from another thread, it stops all calls."""
        return calls.of_thread(self).interrupt

    @property
    def cross_attention_kwargs(self) -> dict[str, Any] | None:
        """Of the running or last call."""
        return calls.of_thread(self).cross_attention_kwargs

    @property
    def clip_skip(self) -> int | None:
        """Of the running or last call."""
        return calls.of_thread(self).clip_skip

    @property
    def _guidance_scale(self) -> Any:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: Any) -> None:
        call = calls.of_thread(self)
        call.guidance_scale, call.changed = scale_of_frames("guidance_scale", scale), True

    @property
    def _num_timesteps(self) -> int:
        return self.num_timesteps

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        calls.interrupt(self, bool(value))

    # --------------------------------------------------------------------------------------------------- call

    @no_type_check  # arguments of every type are answered by the checks
    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput | None = None,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | Sequence[float] | Tensor | None = None,
        image_guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        motion_strength: float = 1.0,
        num_videos_per_prompt: int = 1,
        generator: sampler.Generator = None,
        latents: Clip | None = None,
        reference_latents: Clip | None = None,
        prompt_embeds: Float[Tensor, "b n d"] | None = None,
        negative_prompt_embeds: Float[Tensor, "b n d"] | None = None,
        eta: float = 0.0,
        exact_first_frame: bool = True,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        decode_chunk_size: int | None = None,
        guidance_interval: Interval = ALWAYS,
        guidance_every: int = 1,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        clip_skip: int | None = None,
        last_image: ImageInput | None = None,
        keyframes: Mapping[int, ImageInput] | None = None,
        video: ImageInput | None = None,
        loop: bool = False,
        mask: Any = None,
        camera: CameraPath | str | None = None,
        drags: Sequence[Drag | str] | str | None = None,
    ) -> TripPipelineOutput | tuple[Any]:
        """Animate stills.

        Args:
            image: PIL images of any mode, tensors (3, H, W) or (b, 3, H, W), arrays (H, W, 3) or (b, H, W, 3), or a
                list; one for all prompts or one each. Floats are in [0, 1], or all of them in [-1, 1].
            prompt: what happens; one for all images or one each. None with `prompt_embeds`.
            negative_prompt: what guidance leads away from; None is the empty text.
            num_frames: by default the model's longest clip, or 16. Longer ones are made in chunks that go on from
                each other.
            height, width: of the clip in pixels, multiples of the VAE's factor; images are resized to cover
                it and cut centrally. By default the model's own, or the image's if the model records none.
            num_inference_steps: of the scheduler.
            guidance_scale: text guidance; a sequence gives every frame its own. 1 is off, and twice as fast.
                None is the model's own default.
            image_guidance_scale: how strongly the network's own view of the image counts; 1 is off.
            guidance_rescale: 0 to 1, keeps the contrast under strong guidance (see `trip.guidance`).
            motion_strength: 0 the still, 1 as trained; more exaggerates.
            num_videos_per_prompt: clips of every image and prompt.
            generator: one, or a list with one a clip; see the module.
            latents: starting noise b c f h w, in place of the generator's.
            reference_latents: clean latents b c (1|f) h w for the prior, in place of the image's: keyframes,
                a warped or a last observed frame.
            prompt_embeds, negative_prompt_embeds: text features in place of prompts.
            eta: noise level of DDIM, 0 to 1.
            exact_first_frame: the first frame is the VAE's reconstruction of the reference's, exactly.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns the tuple `(frames,)`.
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)``, or a callback object of diffusers; may
                return any of its tensors anew: features and `pipe._guidance_scale` act from the next step on, and with
                new `denoised_latents`, the estimate of z_0, the step is made again.
            callback_on_step_end_tensor_inputs: the tensors it receives, of `_callback_tensor_inputs`.
            decode_chunk_size: frames decoded at once, by default those of one clip.
            guidance_interval: (low, high) of the schedule, 1 noise, 0 the clip, in which guidance acts; a step outside
                it costs half.
            guidance_every: in it, evaluate the network without the prompt in every n-th step only, and keep what it
                changed in between (see `trip.guidance.Guidance`).
            timesteps, sigmas: the schedule in place of `num_inference_steps`, for schedulers that take one.
            cross_attention_kwargs: {"scale": s} multiplies the strength of loaded LoRA.
            clip_skip: last layers of the text encoder left out.
            last_image, keyframes: pictures of the last frame, and of others by number. video: the first frames, seen
                already, in the place of `image`. loop: the first frame follows the last one.
            mask: white where the picture moves, black where it stays; an array (H, W) in [0, 1].
            camera: a path such as "zoom 1.3, pan 0.2 0" (`trip.motion.camera`). drags: strokes such as
                "0.5,0.5:0.7,0.5", in shares of what the clip shows (`trip.motion.drags`).

        Raises:
            ValueError: arguments that do not fit the model or each other; latents that became NaN.
        """
        # check
        self.check_parts()
        if guidance_scale is None:
            guidance_scale = self.config["default_guidance_scale"]
        guidance = Guidance(
            scale=scale_of_frames("guidance_scale", guidance_scale),
            image_scale=real("image_guidance_scale", image_guidance_scale),
            rescale=real("guidance_rescale", guidance_rescale, 0, 1),
            interval=interval_of("guidance_interval", guidance_interval),
            every=whole("guidance_every", guidance_every),
        )
        image = first_picture(image, video)
        batch = Batch.of(image, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds)
        height, width = self._size(batch.images, height, width)
        num_frames = whole("num_frames", self.max_num_frames or 16 if num_frames is None else num_frames)
        copies = whole("num_videos_per_prompt", num_videos_per_prompt)
        steps = whole("num_inference_steps", num_inference_steps, most=MOST_STEPS)
        clip_skip = None if clip_skip is None else whole("clip_skip", clip_skip, least=0)
        decode_chunk_size = None if decode_chunk_size is None else whole("decode_chunk_size", decode_chunk_size)
        motion_strength, eta = real("motion_strength", motion_strength), real("eta", eta, 0, 1)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type (={shown(output_type)}) is unknown; choose one of {OUTPUT_TYPES}")
        names = self.check_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        lora_scale = scale_of_lora(cross_attention_kwargs)
        self.check_inputs(batch, height, width, num_frames, copies, guidance, generator, latents, reference_latents)
        controls = Controls.of(
            num_frames,
            last_image=last_image,
            keys=keyframes,
            video=video,
            loop=loop,
            mask=mask,
            camera=camera,
            drags=drags,
        )
        self.check_controls(controls, batch, reference_latents)
        self.check_chunks(num_frames, guidance, controls, latents, reference_latents)
        schedule = own_schedule(timesteps, sigmas)
        scheduler = copy.deepcopy(for_latents(self._scheduler))
        num_timesteps = rehearse(scheduler, steps, codec_of(self.vae).channels, schedule, eta)
        call = calls.Call(
            guidance_scale=guidance.scale,
            num_timesteps=num_timesteps,
            cross_attention_kwargs=cross_attention_kwargs,
            clip_skip=clip_skip,
            scheduler=scheduler,
        )

        with calls.turn(self), calls.running(self, call), self.lora_scaled(lora_scale):
            # encode: every text and image once, then one copy a clip
            device, clips = self._execution_device, batch.size * copies
            embeds, null_embeds = self._text_states(batch, clips, device, guidance.needs_null_text, clip_skip)
            image_latents = self.encode_image(torch.cat([to_pixels(i, height, width) for i in batch.images]))
            reference = image_latents if reference_latents is None else reference_latents.float()
            image_latents, reference = (one_per_clip(z, clips, device) for z in (image_latents, reference))
            shape = (clips, image_latents.shape[1], num_frames, *image_latents.shape[3:])

            # sample
            lengths = self.chunk_lengths(num_frames)
            text = {"text": embeds, "null_text": null_embeds}
            if controls:
                condition = self._controlled(controls, batch, (lengths[0], height, width), clips, text)
            else:
                pinned = first_frame(lengths[0], device) if exact_first_frame else None
                condition = Condition(reference=reference, pinned=pinned, image=image_latents, **text)
            sample = partial(
                sampler.sample,
                self.denoiser,
                scheduler,
                steps=steps,
                guidance=guidance,
                motion_strength=motion_strength,
                generator=generator,
                eta=eta,
                schedule=schedule,
                revised="denoised_latents" in names,
            )
            null_text = partial(self._null_text, batch, embeds, clip_skip)
            follow = partial(self._follow, call=call, callback=callback_on_step_end, names=names, null_text=null_text)
            chunks: list[Clip] = []
            for length in lengths:
                if chunks:
                    condition = self._continued(chunks[-1], image_latents, length, text)
                    latents = None
                noise = self.prepare_latents((*shape[:2], length, *shape[3:]), generator, device, latents)
                chunks.append(follow(sample(noise, condition)))
                require_finite(chunks[-1], "the sampled latents")
                if call.interrupt:
                    break
            overlap = (sum(lengths) - num_frames) // max(len(lengths) - 1, 1)
            latents = torch.cat([chunks[0], *(chunk[:, :, overlap:] for chunk in chunks[1:])], dim=2)

            # decode
            frames = latents if output_type == "latent" else self.decode_latents(latents, decode_chunk_size)
        if output_type != "latent":
            frames = self.video_processor.postprocess_video(frames, output_type=output_type)
        self.maybe_free_model_hooks()
        return TripPipelineOutput(frames=frames) if return_dict else (frames,)

    def _continued(self, before: Clip, image: Tensor, length: int, text: dict) -> Condition:
        """What a chunk of a long clip is conditioned on.

        A network that was trained with a still alone is given one, the last latent: shown several frames beside the
        first still, trip-mini moves no further. Any other one is given the last frames, and still the first picture.
        """
        if self.still_only:
            last = before[:, :, -1:]
            return Condition(reference=last, image=last, pinned=first_frame(length, last.device), **text)
        return chained(before[:, :, -OVERLAP:], image, length, self.fusion.table("sigma", image.device), **text)

    def _controlled(
        self, controls: Controls, batch: Batch, size: tuple[int, int, int], clips: int, text: dict
    ) -> Condition:
        """What clips are conditioned on that are told more than their first picture."""
        return controls.condition(
            batch.images,
            size,
            lambda frames: codec_of(self.vae).encode(frames.to(self._execution_device)),
            clips,
            self.fusion.table("sigma", self._execution_device),
            still_only=self.still_only,
            **text,
        )

    def _follow(
        self,
        steps: Iterable[sampler.SamplerStep],
        call: calls.Call,
        callback: Callable[..., dict[str, Any] | None] | None,
        names: Sequence[str],
        null_text: Callable[[], Tensor],
    ) -> Clip:
        """Run the sampler with progress bar and callback, and return the last step's latents."""
        latents = None
        with self.progress_bar(total=call.num_timesteps) as bar:  # pyright: ignore[reportCallIssue]
            for step in steps:
                if callback is not None:
                    self._call_back(step, call, callback, names, null_text)
                latents = step.z_t
                bar.update()
                if call.interrupt:
                    break
        assert latents is not None  # at least one step
        return latents

    def _call_back(
        self,
        step: sampler.SamplerStep,
        call: calls.Call,
        callback: Callable[..., dict[str, Any] | None],
        names: Sequence[str],
        null_text: Callable[[], Tensor],
    ) -> None:
        """Give a step to the callback and take over what it changed, in place or by returning it."""
        old = {
            "latents": step.z_t,
            "denoised_latents": step.x0_hat,
            "prompt_embeds": step.condition.text,
            "negative_prompt_embeds": step.condition.null_text,
        }
        given = {name: old[name] if old[name] is None else old[name].clone() for name in names}
        returned = callback(self, step.index, step.timestep, dict(given))
        if not isinstance(returned, Mapping | None):
            raise ValueError(f"the callback returned {shown(returned)}; return a dict of tensors by name, or None")
        returned = returned or {}
        new = {name: same_shape(name, returned.get(name, given.get(name)), tensor) for name, tensor in old.items()}
        if new["denoised_latents"] is not None:
            step.z_t = step.remake(new["denoised_latents"])
        if new["latents"] is not None:
            step.z_t = new["latents"]
        texts = {"text": new["prompt_embeds"], "null_text": new["negative_prompt_embeds"]}
        if call.changed:
            scale = call.guidance_scale if self.do_classifier_free_guidance else 1.0
            self.check_guidance(scale, step.guidance.image_scale, step.z_t.shape[2])
            step.guidance = replace(step.guidance, scale=scale)
            if step.guidance.needs_null_text and step.condition.null_text is None and texts["null_text"] is None:
                texts["null_text"] = null_text()
        step.condition = replace(step.condition, **{k: v for k, v in texts.items() if v is not None})

    def _size(self, images: Sequence[Any], height: Any, width: Any) -> tuple[int, int]:
        """(height, width) of the clip in pixels: as asked, else the model's own, else the first image's."""
        default = self.default_size or size_of(images[0])
        sides = (default[0] if height is None else height), (default[1] if width is None else width)
        return whole("height", sides[0], least=0), whole("width", sides[1], least=0)

    def _text_states(
        self, batch: Batch, clips: int, device: torch.device, null: bool, clip_skip: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Text features of every clip, and those of its negative prompt if guidance needs them."""
        embeds, null_embeds = self.encode_prompt(
            batch.prompts,
            device,
            do_classifier_free_guidance=null,
            negative_prompt=batch.negative_prompts,
            prompt_embeds=batch.prompt_embeds,
            negative_prompt_embeds=batch.negative_prompt_embeds,
            clip_skip=clip_skip,
        )
        null_embeds = None if null_embeds is None else one_per_clip(null_embeds, clips, device)
        assert embeds is not None  # Batch.of
        return one_per_clip(embeds, clips, device), null_embeds

    def _null_text(self, batch: Batch, embeds: Tensor, clip_skip: int | None) -> Tensor:
        """Features of the negative prompts, for guidance that a callback has turned on."""
        self.check_prompts(batch.negative_prompts)
        _, null = self._text_states(batch, len(embeds), embeds.device, True, clip_skip)
        assert null is not None  # Batch.of: there is a negative prompt, or features of one
        if null.shape != embeds.shape:
            raise ValueError(
                f"negative prompt has shape {tuple(null.shape)}, prompt_embeds {tuple(embeds.shape)}; pass both"
            )
        return null.to(embeds)


def settings_of(unet: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said, else what the network's config says, else the defaults; and the network's config says it from now.

    Raises:
        ValueError: a setting of the wrong type.
    """
    recorded = getattr(unet, "config", {}).get("_pipeline") or {}
    settings = {
        name: next((value for value in (said[name], recorded.get(name)) if value is not None), default)
        for name, default in SETTINGS.items()
    }
    if settings["max_text_length"] is not None:
        whole("max_text_length", settings["max_text_length"])
    real("default_guidance_scale", settings["default_guidance_scale"])
    if hasattr(unet, "register_to_config") and settings != (recorded or SETTINGS):
        unet.register_to_config(_pipeline=settings)
    return settings


give_name(pipelines)  # where diffusers' own helpers look pipelines up
