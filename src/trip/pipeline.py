"""TripPipeline: check -> encode -> sample -> decode, with diffusers' conventions.

    >>> pipe = TripPipeline.from_pretrained("folder or hub id", dtype=torch.bfloat16)
    >>> frames = pipe(image, "the camera pans left", generator=torch.Generator().manual_seed(0)).frames[0]

**Saving and loading.** `model_index.json` names the parts that diffusers does not know by module
(`["trip.residual_unet", "ResidualUNet3D"]`). diffusers resolves such names among the modules that are already
imported, and importing this one imports them, so `TripPipeline.from_pretrained` needs no `trust_remote_code`.

**Seeds.** Noise is drawn clip by clip, in float32, on the generator's device. With a list, clip k uses its own
generator: the same seed gives the same clip whatever the batch around it. With one generator for several clips,
their starting noise is drawn from it one clip after another, so the first clip is the one it gives alone;
schedulers that add noise at every step would share it, so give a list there. Clip k of prompt i is number
``i * num_videos_per_prompt + k``.
"""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet3DConditionModel, UNetMotionModel
from diffusers.utils import BaseOutput, logging
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trip import sampler
from trip.condition import Condition, first_frame
from trip.denoiser import TripDenoiser
from trip.guidance import ALWAYS, Guidance, Interval
from trip.loading import check_class, check_finite, check_model, check_saveable, one_line, shown
from trip.noise_fusion import NoiseFusion, TrainingFreeNoiseFusion
from trip.noise_prior import Clip
from trip.residual_unet import ResidualUNet3D
from trip.schedule import prediction_type, set_timesteps
from trip.text import encode_text, load_sentence_encoder

logger = logging.get_logger(__name__)

ImageInput = Image.Image | Tensor | Sequence[Image.Image | Tensor]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


@dataclass
class TripPipelineOutput(BaseOutput):
    """What `TripPipeline` returns.

    Attributes:
        frames: by `output_type` a list of lists of PIL images ("pil"), (b, f, H, W, 3) in [0, 1] ("np"),
            (b, f, 3, H, W) in [0, 1] ("pt"), or latents b c f h w ("latent").
    """

    frames: Any


class TripPipeline(DiffusionPipeline):
    """Image-to-video generation with the image noise prior (TRIP) and any fusion of `trip.noise_fusion`.

    Args:
        vae: `AutoencoderKL` or `AutoencoderTiny`.
        text_encoder: any transformers encoder with `last_hidden_state`; None if prompts come as embeddings.
        tokenizer: its tokenizer, or None.
        unet: the residual network: `ResidualUNet3D`, `UNetMotionModel`, or any that `TripDenoiser` takes.
        fusion: says how the prior is fused, and what the network's output means.
        scheduler: any scheduler that `trip.schedule` reads. One that clips z_0 to [-1, 1] (`clip_sample=True`)
            is replaced by its copy that does not, since latents leave that range.
        zero_text_padding: mask the padding of prompts and zero its features; Stable Diffusion reads it.
        max_text_length: tokens a prompt is padded to; None for the tokenizer's limit.
        packaged_text_encoder: take text encoder and tokenizer out of the installed package that carries
            all-MiniLM-L6-v2 (`trip.text`) when none are given; they are then not saved with the pipeline.
        default_guidance_scale: text guidance where a call gives none.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["fusion"]
    _optional_components = ["text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents", "denoised_latents", "prompt_embeds", "negative_prompt_embeds"]

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        unet: nn.Module,
        fusion: NoiseFusion,
        scheduler: Any,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        zero_text_padding: bool = False,
        max_text_length: int | None = None,
        packaged_text_encoder: bool = False,
        default_guidance_scale: float = 7.5,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            fusion=fusion,
            scheduler=without_clipping(scheduler),
        )
        self.register_to_config(
            zero_text_padding=zero_text_padding,
            max_text_length=max_text_length,
            packaged_text_encoder=packaged_text_encoder,
            default_guidance_scale=default_guidance_scale,
        )
        if packaged_text_encoder and text_encoder is None:  # set after registering None: left out of what is saved
            self.tokenizer, self.text_encoder = load_sentence_encoder()
        self.vae_scale_factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor, do_resize=False)

    # ------------------------------------------------------------------------------------------- construction

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any):
        """Load a folder or hub id; arguments of `DiffusionPipeline.from_pretrained`, safetensors only.

        Raises:
            ValueError: in one line: another kind of model, or a file, tensor or setting that is missing, damaged or
                does not fit (`trip.loading`).
        """
        return load_whole(super().from_pretrained, cls, pretrained_model_name_or_path, ("trip",), kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """`DiffusionPipeline.save_pretrained`.

        Raises:
            ValueError: before anything is written, if a part has adapters or is otherwise not what would be loaded.
        """
        for name, part in self.components.items():
            if isinstance(part, nn.Module):
                check_saveable(part, name)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_text_to_video(
        cls,
        source: DiffusionPipeline | Mapping[str, Any] | str | os.PathLike,
        *,
        scheduler: Any = None,
        fusion: NoiseFusion | None = None,
        zero_text_padding: bool = False,
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

    # ---------------------------------------------------------------------------------- what the model allows

    @property
    def denoiser(self) -> TripDenoiser:
        """The two saved parts composed (`trip.denoiser`); it holds no weights of its own."""
        unet = getattr(self.unet, "_orig_mod", self.unet)
        return TripDenoiser(PerFrameText(self.unet) if isinstance(unet, UNetMotionModel) else self.unet, self.fusion)

    @property
    def max_num_frames(self) -> int | None:
        """Longest clip that network and fusion allow; None = no limit."""
        config, in_front = self.unet.config, int(self.fusion.concat == "time")
        network = config.get("max_num_frames") or config.get("motion_max_seq_length")
        limits = [network and network - in_front, self.fusion.num_frames]
        return min((limit for limit in limits if limit), default=None)

    @property
    def max_text_tokens(self) -> int:
        """Tokens a prompt is padded to, and may have at most."""
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
        batch: "Batch",
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int = 1,
        num_videos_per_prompt: int = 1,
        guidance_scale: float | Tensor = 1.0,
        image_guidance_scale: float = 1.0,
        generator: sampler.Generator = None,
        output_type: str = "pil",
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
        latents: Clip | None = None,
        reference_latents: Clip | None = None,
    ) -> None:
        """Raise ValueError, one line with value, rule and remedy, for what cannot be generated."""
        batch.check()
        counts = {
            "num_frames": num_frames,
            "num_inference_steps": num_inference_steps,
            "num_videos_per_prompt": num_videos_per_prompt,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} (={value}) must be at least 1; raise it")
        clips = batch.size * num_videos_per_prompt
        self.check_size(height, width, num_frames)
        self.check_prompts([*batch.prompts, *batch.negative_prompts])
        self.check_guidance(guidance_scale, image_guidance_scale, num_frames)
        size = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        self.check_latents("latents", latents, {clips}, {num_frames}, size)
        self.check_latents("reference_latents", reference_latents, {1, batch.size, clips}, {1, num_frames}, size)
        if isinstance(generator, list) and len(generator) != clips:
            raise ValueError(f"{len(generator)} generators do not match {clips} clips; give one, or one a clip")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type (={output_type!r}) is unknown; choose one of {OUTPUT_TYPES}")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback tensors {unknown} are unknown; choose from {self._callback_tensor_inputs}")

    def check_size(self, height: int, width: int, num_frames: int) -> None:
        """Height and width must be multiples of the VAE's factor, the frames within the model's limit."""
        multiple, limit = self.vae_scale_factor, self.max_num_frames
        for name, value in (("height", height), ("width", width)):
            if value < 1 or value % multiple:
                nearest = max(round(value / multiple), 1) * multiple
                raise ValueError(f"{name} (={value}) is not a positive multiple of {multiple}; use {nearest}")
        if limit is not None and num_frames > limit:
            measured = isinstance(self.fusion, TrainingFreeNoiseFusion) and limit == self.fusion.num_frames
            whose, remedy = ("fusion's", ", or calibrate it on longer ones") if measured else ("model's", "")
            raise ValueError(f"num_frames (={num_frames}) exceeds the {whose} {limit}; shorten the clip{remedy}")

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Prompts must be texts that the encoder reads whole; nothing is cut off silently."""
        if prompts and (self.text_encoder is None or self.tokenizer is None):
            raise ValueError("this pipeline has no text encoder; pass prompt_embeds and negative_prompt_embeds")
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise ValueError(f"prompt (={prompt!r}) must be a text; pass a str or a list of them")
            tokens, limit = len(self.tokenizer(prompt, verbose=False).input_ids), self.max_text_tokens
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

    def check_latents(
        self, name: str, latents: Clip | None, batches: set[int], frames: set[int], size: tuple[int, int]
    ) -> None:
        """Latents from outside must be finite and fit the clip."""
        if latents is None:
            return
        b, c, f, *rest = latents.shape
        channels = self.vae.config["latent_channels"]
        if b not in batches or f not in frames or (c, *rest) != (channels, *size):
            raise ValueError(
                f"{name} has shape {tuple(latents.shape)}; expected b c f h w with b in {sorted(batches)}, "
                f"f in {sorted(frames)} and (c, h, w) = {(channels, *size)}"
            )
        require_finite(latents, name, remedy="check how they were computed")

    # ------------------------------------------------------------------------------------------------- encode

    def encode_prompt(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] = ()
    ) -> tuple[Float[Tensor, "b n d"] | None, Float[Tensor, "k n d"] | None]:
        """Text features of prompts and negative prompts, in one pass over the distinct texts."""
        groups = as_list(prompt), as_list(negative_prompt)
        texts = list(dict.fromkeys([*groups[0], *groups[1]]))
        if not texts:
            return None, None
        length, zero_padding = self.max_text_tokens, self.config["zero_text_padding"]
        device = self._execution_device
        features = encode_text(self.tokenizer, self.text_encoder, texts, length, zero_padding, device)
        positive, negative = (features[[texts.index(p) for p in group]] if group else None for group in groups)
        return positive, negative

    def _text_states(self, batch: "Batch", clips: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """Text features of every clip, and those of its negative prompt if guidance needs them."""
        embeds, null_embeds = self.encode_prompt(batch.prompts, batch.negative_prompts)
        embeds = batch.prompt_embeds if embeds is None else embeds
        null_embeds = batch.negative_prompt_embeds if null_embeds is None else null_embeds
        assert embeds is not None  # Batch.check
        null_embeds = None if null_embeds is None else one_per_clip(null_embeds, clips, device)
        return one_per_clip(embeds, clips, device), null_embeds

    def encode_image(self, pixels: Float[Tensor, "b 3 H W"]) -> Float[Tensor, "b c 1 h w"]:
        """Latents of stills in [-1, 1], scaled as the network sees them; the mode of the VAE's posterior.

        Raises:
            ValueError: if they are not finite (a VAE that overflows in float16).
        """
        encoded = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        scale, shift = self._latent_scaling()
        latents = (latents.float() - shift) * scale
        require_finite(latents, "the image's latents")
        return latents.unsqueeze(2)

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

    # ------------------------------------------------------------------------------------------------- decode

    def decode_latents(self, latents: Clip, decode_chunk_size: int | None = None) -> Float[Tensor, "b 3 f H W"]:
        """Frames in [-1, 1], float32; `decode_chunk_size` at once, by default those of one clip."""
        scale, shift = self._latent_scaling()
        stills = rearrange(latents, "b c f h w -> (b f) c h w") / scale + shift
        chunks = stills.to(self.vae.dtype).split(decode_chunk_size or latents.shape[2])
        frames = torch.cat([self.vae.decode(chunk).sample.float() for chunk in chunks])
        return rearrange(frames, "(b f) c h w -> b c f h w", f=latents.shape[2])

    def _latent_scaling(self) -> tuple[float, float]:
        """(scaling_factor, shift_factor) of the VAE; 1 and 0 for an AutoencoderTiny."""
        return self.vae.config.get("scaling_factor") or 1.0, self.vae.config.get("shift_factor") or 0.0

    # --------------------------------------------------------------------------------------------------- call

    @property
    def num_timesteps(self) -> int:
        """Steps of the current or last call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to stop after the current step."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] = "",
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
    ) -> TripPipelineOutput | tuple[Any]:
        """Animate stills.

        Args:
            image: PIL images, tensors (3, H, W) or (b, 3, H, W) in [0, 1], or a list; one
                for all prompts or one each.
            prompt: what happens; one for all images or one each. None with `prompt_embeds`.
            negative_prompt: what guidance leads away from.
            num_frames: by default the model's longest clip, or 16.
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
            eta: noise level of DDIM.
            exact_first_frame: the first frame is the VAE's reconstruction of the reference's, exactly.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns the tuple `(frames,)`.
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)``; may return new "latents".
            callback_on_step_end_tensor_inputs: the tensors it receives, of `_callback_tensor_inputs`.
            decode_chunk_size: frames decoded at once, by default those of one clip.
            guidance_interval: (low, high) of the schedule, 1 noise, 0 the clip, in which guidance acts; a step outside
                it costs half.
            guidance_every: in it, evaluate the network without the prompt in every n-th step only, and keep what it
                changed in between (see `trip.guidance.Guidance`).

        Raises:
            ValueError: arguments that do not fit the model or each other; latents that became NaN.
        """
        # check
        default = self.config["default_guidance_scale"]
        scale = torch.as_tensor(default if guidance_scale is None else guidance_scale, dtype=torch.float32)
        guidance_scale = scale if scale.ndim else float(scale)
        guidance = Guidance(
            scale=guidance_scale,
            image_scale=image_guidance_scale,
            rescale=guidance_rescale,
            interval=guidance_interval,
            every=guidance_every,
        )
        negative = negative_prompt if guidance.needs_null_text else ()
        batch = Batch.of(image, prompt, negative, prompt_embeds, negative_prompt_embeds)
        height, width = self._size(batch.images, height, width)
        num_frames = self.max_num_frames or 16 if num_frames is None else num_frames
        self.check_inputs(
            batch,
            height,
            width,
            num_frames,
            num_inference_steps,
            num_videos_per_prompt,
            guidance_scale,
            image_guidance_scale,
            generator,
            output_type,
            callback_on_step_end_tensor_inputs,
            latents=latents,
            reference_latents=reference_latents,
        )

        # encode: every text and image once, then one copy a clip
        device, clips = self._execution_device, batch.size * num_videos_per_prompt
        embeds, null_embeds = self._text_states(batch, clips, device)
        image_latents = self.encode_image(torch.cat([to_pixels(i, height, width) for i in batch.images]))
        reference = image_latents if reference_latents is None else reference_latents.float()
        image_latents, reference = (one_per_clip(z, clips, device) for z in (image_latents, reference))
        shape = (clips, image_latents.shape[1], num_frames, *image_latents.shape[3:])
        latents = self.prepare_latents(shape, generator, device, latents)

        # sample
        self._interrupt = False
        self._num_timesteps = len(set_timesteps(self.scheduler, num_inference_steps, device))
        condition = Condition(
            reference=reference,
            pinned=first_frame(num_frames, device) if exact_first_frame else None,
            image=image_latents,
            text=embeds,
            null_text=null_embeds,
        )
        steps = sampler.sample(
            self.denoiser,
            self.scheduler,
            latents,
            condition,
            steps=num_inference_steps,
            guidance=guidance,
            motion_strength=motion_strength,
            generator=generator,
            eta=eta,
        )
        texts = {"prompt_embeds": embeds, "negative_prompt_embeds": null_embeds}
        latents = self._follow(steps, callback_on_step_end, callback_on_step_end_tensor_inputs, texts)
        require_finite(latents, "the sampled latents")

        # decode
        frames = latents if output_type == "latent" else self.decode_latents(latents, decode_chunk_size)
        if output_type != "latent":
            frames = self.video_processor.postprocess_video(frames, output_type=output_type)
        self.maybe_free_model_hooks()
        return TripPipelineOutput(frames=frames) if return_dict else (frames,)

    def _follow(
        self,
        steps: Iterable[sampler.SamplerStep],
        callback: Callable[..., dict[str, Any] | None] | None,
        names: Sequence[str],
        texts: Mapping[str, Tensor | None],
    ) -> Clip:
        """Run the sampler with progress bar and callback, and return the last step's latents."""
        latents = None
        with self.progress_bar(total=self._num_timesteps) as bar:  # pyright: ignore[reportCallIssue]
            for step in steps:
                if callback is not None:
                    tensors = {"latents": step.z_t, "denoised_latents": step.x0_hat, **texts}
                    chosen = {name: tensors[name] for name in names}
                    step.z_t = (callback(self, step.index, step.timestep, chosen) or {}).get("latents", step.z_t)
                latents = step.z_t
                bar.update()
                if self.interrupt:
                    break
        assert latents is not None  # check_inputs: at least one step
        return latents

    def _size(self, images: Sequence[Image.Image | Tensor], height: int | None, width: int | None) -> tuple[int, int]:
        """(height, width) of the clip in pixels: as asked, else the model's own, else the first image's."""
        first = images[0]
        own = (first.height, first.width) if isinstance(first, Image.Image) else (first.shape[-2], first.shape[-1])
        default = self.default_size or own
        return (default[0] if height is None else height), (default[1] if width is None else width)


# ------------------------------------------------------------------------------------------------- the inputs


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a call animates: `size` pairs of an image and a text, each given once or `size` times."""

    images: list[Image.Image | Tensor]
    prompts: list[str]
    negative_prompts: list[str]
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None

    @classmethod
    def of(cls, image, prompt, negative_prompt, prompt_embeds, negative_prompt_embeds) -> "Batch":
        """Lists of what `TripPipeline.__call__` was given; embeddings take the place of texts."""
        return cls(
            images=as_images(image),
            prompts=as_list(prompt) if prompt_embeds is None else [],
            negative_prompts=as_list(negative_prompt) if negative_prompt_embeds is None else [],
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many of each were given."""
        return {name: len(value) for name, value in vars(self).items() if value is not None}

    @property
    def size(self) -> int:
        """Pairs of an image and a text."""
        return max(self.counts.values())

    def check(self) -> None:
        """Raise ValueError unless every part was given once or `size` times and the images are images."""
        if not self.prompts and self.prompt_embeds is None:
            raise ValueError("prompt (=None) is missing; pass a text, or prompt_embeds")
        for name, count in self.counts.items():
            if count not in (0, 1, self.size):
                raise ValueError(f"{count} {name} do not match {self.size} clips; give 1 or {self.size}")
        for image in self.images:
            if isinstance(image, Tensor) and not is_picture(image):
                raise ValueError(
                    f"image tensor of shape {tuple(image.shape)} and type {image.dtype} is no picture; pass "
                    "floats in [0, 1], (3, H, W) or (b, 3, H, W)"
                )


def as_list(value: Any) -> list:
    """A list of one, or of the items; None is the empty list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def as_images(image: Any) -> list[Image.Image | Tensor]:
    """Separate stills out of a PIL image, a tensor (3, H, W) or (b, 3, H, W), or a sequence of them."""
    if isinstance(image, Image.Image) or (isinstance(image, Tensor) and image.ndim == 3):
        return [image]
    if isinstance(image, Tensor):
        return list(image)
    images = [still for item in image if isinstance(item, Image.Image | Tensor) for still in as_images(item)]
    if not images or len(images) < len(image):
        raise ValueError(f"image (={type(image).__name__}) must hold pictures; pass PIL images or tensors")
    return images


def is_picture(image: Tensor) -> bool:
    """Whether a tensor is (3, H, W) with finite values in [0, 1]."""
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        return False
    return bool(((image >= 0) & (image <= 1)).all())


def to_pixels(image: Image.Image | Tensor, height: int, width: int) -> Float[Tensor, "1 3 H W"]:
    """Resize a still so that it covers height x width, cut it centrally, and map it to [-1, 1]."""
    if isinstance(image, Image.Image):
        fitted = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None].float() / 255
    else:
        pixels = cover(image[None].float().cpu(), height, width)
    return pixels * 2 - 1


def cover(pixels: Float[Tensor, "b 3 H W"], height: int, width: int) -> Float[Tensor, "b 3 h w"]:
    """Resize by the larger of the two ratios and cut the middle."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    ratio = max(height / pixels.shape[-2], width / pixels.shape[-1])
    size = [max(round(pixels.shape[-2] * ratio), height), max(round(pixels.shape[-1] * ratio), width)]
    pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def one_per_clip(tensor: Tensor, clips: int, device: torch.device) -> Tensor:
    """Repeat the items of a batch, one after the other, until there are as many as clips."""
    return tensor.to(device).repeat_interleave(clips // len(tensor), dim=0)


def require_finite(latents: Tensor, name: str, remedy: str = "load the model with dtype=torch.float32") -> None:
    """Raise ValueError if latents hold NaN or infinity."""
    if not bool(latents.isfinite().all()):
        raise ValueError(f"{name} have NaN or infinite values; {remedy}")


# ---------------------------------------------------------------------------------------------- foreign parts


class PerFrameText(nn.Module):
    """`UNetMotionModel` as a backbone: it wants the text features once for every frame."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, latents: Clip, timestep: Tensor, text: Float[Tensor, "b n d"]) -> Any:
        """Call with b c f h w, (b,) and b n d."""
        return self.unet(latents, timestep, text.repeat_interleave(latents.shape[2], dim=0))


def source_components(
    source: Any, load_options: dict[str, Any], takes: Sequence[str] = ("per-frame",)
) -> dict[str, Any]:
    """The components of a pipeline, given as itself, as a folder or hub id that `takes` names, or one by one."""
    if isinstance(source, str | os.PathLike):
        source = load_whole(DiffusionPipeline.from_pretrained, DiffusionPipeline, source, takes, load_options)
    parts = source.components if isinstance(source, DiffusionPipeline) else source
    if missing := [name for name in COMPONENTS if parts.get(name) is None]:
        raise ValueError(f"the text-to-video model has no {', '.join(missing)}; pass a complete pipeline")
    return dict(parts)


def load_whole(
    load: Callable[..., Any], kind: type[DiffusionPipeline], source: Any, takes: Sequence[str], options: dict[str, Any]
) -> Any:
    """`load(source, **options)` of a model that was looked through before, and whose weights are finite after."""
    options = {"use_safetensors": True, **options}
    check_class(source, takes)
    where = f"model {shown(source)}"
    parts = inspect.signature(kind.__init__).parameters if kind is TripPipeline else COMPONENTS
    given = [name for name in parts if name in options]
    with one_line(where):
        folder = source if os.path.isdir(source) else kind.download(source, **options)
    check_model(Path(folder), given, options.get("variant"))
    with one_line(where):
        pipeline = load(source, **options)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and name not in given:
            check_finite(part, name, where)
    return pipeline


def to_residual_unet(unet: UNet3DConditionModel) -> ResidualUNet3D:
    """Our network with the same configuration and the same tensors, key for key."""
    names = inspect.signature(ResidualUNet3D.__init__).parameters
    with torch.device("meta"):
        ours = ResidualUNet3D(**{name: value for name, value in unet.config.items() if name in names})
    ours.load_state_dict(unet.state_dict(), strict=True, assign=True)
    return ours.train(unet.training)


def without_clipping(scheduler: Any) -> Any:
    """The scheduler, or its copy with `clip_sample=False`: latents leave [-1, 1]."""
    if not scheduler.config.get("clip_sample"):
        return scheduler
    logger.warning(f"{type(scheduler).__name__} clips samples to [-1, 1], which latents leave; using clip_sample=False")
    return type(scheduler).from_config(scheduler.config, clip_sample=False)
