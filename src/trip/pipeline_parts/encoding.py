"""From texts, pictures and seeds to tensors, and from latents to frames."""

from collections.abc import Sequence
from logging import WARNING
from typing import no_type_check

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from trip import sampler
from trip.codec import codec_of
from trip.condition import Condition, first_frame
from trip.controls import Controls
from trip.inputs import (
    Batch,
    as_features,
    as_texts,
    device_of,
    one_per_clip,
    require_finite,
    shown,
    whole,
)
from trip.noise_prior import Clip
from trip.pipeline_parts.checks import OVERLAP
from trip.references import chained
from trip.text import count_tokens, encode_text, unread

logger = logging.get_logger(__name__)


class Encoding(DiffusionPipeline):
    """Encoding and decoding, and what a clip is conditioned on."""

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
            self._warn_of(texts)
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

    def _warn_of(self, texts: Sequence[str]) -> None:
        """Say what of texts is not read: words that the encoder does not know, and what lies beyond its limit."""
        if not logger.isEnabledFor(WARNING):
            return
        for text in texts:
            if line := unread(self.tokenizer, text):
                logger.warning(line)
            if (tokens := count_tokens(self.tokenizer, text)) > (limit := self.max_text_tokens):
                logger.warning(f"prompt {shown(text)} has {tokens} tokens, over the limit of {limit}; its end is cut")

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
