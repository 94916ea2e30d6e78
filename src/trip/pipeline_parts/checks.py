"""What a model allows, and what does not fit it or each other: said before any work is done."""

from collections.abc import Sequence
from typing import Any

from diffusers import (
    DiffusionPipeline,
)
from diffusers.callbacks import IPAdapterScaleCutoffCallback, MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging
from torch import Tensor

from trip.codec import codec_of
from trip.controls import Controls, check_mask
from trip.guidance import Guidance
from trip.inputs import (
    Batch,
    check_generator,
    check_latents,
    shown,
)
from trip.noise_fusion import TrainingFreeNoiseFusion
from trip.pipeline_parts.starts import NEEDED
from trip.references import chunk_lengths
from trip.text import check_text, count_tokens

logger = logging.get_logger(__name__)

OVERLAP = 4
"""Frames that a chunk of a long clip has from the one before."""


class Checks(DiffusionPipeline):
    """Limits of the model, and the checks of a call."""

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
        if not self.chains:
            return [num_frames]
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
        if missing := [name for name in NEEDED if getattr(self, name) is None]:
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
            tokens, limit = count_tokens(self.tokenizer, prompt), self.max_text_tokens  # pyright: ignore
            if tokens > limit:
                start = prompt[:40] + "..."
                raise ValueError(f"prompt {start!r} has {tokens} tokens, over the limit of {limit}; shorten it")

    def fitting(self, prompt: str) -> str:
        """As many of a prompt's words as the text encoder reads."""
        words = prompt.split(" ")
        while len(words) > 1 and count_tokens(self.tokenizer, " ".join(words)) > self.max_text_tokens:
            words.pop()
        return " ".join(words)

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
