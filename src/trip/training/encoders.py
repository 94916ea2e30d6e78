"""The frozen encoders of a cache: clips to latents, captions to features, and the hashes that tell them apart."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trip.codec import codec_of
from trip.data.cache.latents import cast_finite
from trip.data.sources import RenderedClip
from trip.pipeline import TripPipeline
from trip.text import encode_text

INCIDENTAL = ("architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of a transformers config that say how it was saved, not what it is."""


@dataclass(frozen=True, kw_only=True)
class LatentEncoder:
    """Latents of clips, as the pipeline's codec makes them.

    Attributes:
        vae: an `AutoencoderKL` or `AutoencoderTiny` in float32.
        dtype: of the latents.
        precision: of the computation, by autocast; bfloat16 is faster where the hardware has it, and off by some
            0.5 % of the latents.
        device: where to compute.
    """

    vae: Any
    dtype: torch.dtype = torch.float16
    precision: torch.dtype = torch.float32
    device: str = "cpu"

    def describe(self) -> dict[str, Any]:
        """The settings that latents depend on."""
        names = {"dtype": self.dtype, "precision": self.precision}
        return {"vae_sha256": module_sha256(self.vae), **{k: dtype_name(v) for k, v in names.items()}}

    @torch.no_grad()
    def __call__(self, clips: list[RenderedClip]) -> Float[Tensor, "n f c h w"]:
        """Encode clips of one size.

        Raises:
            ValueError: a size that the autoencoder cannot halve as often as it does, or latents that are not finite.
        """
        vae = nn.Module.to(self.vae.eval(), self.device, memory_format=torch.channels_last)  # pyright: ignore
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).to(self.device).float() / 127.5 - 1
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, self.precision == torch.bfloat16):
            latents = codec_of(vae).encode(rearrange(frames, "n f H W c -> n c f H W"))
        latents = rearrange(latents, "n c f h w -> n f c h w").cpu()
        return cast_finite(latents, self.dtype, [clip.key for clip in clips], "latents")


@dataclass(frozen=True, kw_only=True)
class CaptionEncoder:
    """Last hidden states of captions, as `trip.text.encode_text` computes them.

    Attributes:
        tokenizer: of the encoder.
        model: any transformers encoder.
        max_length: tokens a caption is cut and padded to.
        zero_padding: see `encode_text`.
    """

    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel
    max_length: int
    zero_padding: bool

    @classmethod
    def of(cls, pipeline: TripPipeline) -> "CaptionEncoder":
        """The text encoder of a pipeline, with its settings."""
        assert pipeline.tokenizer is not None and pipeline.text_encoder is not None
        return cls(
            tokenizer=pipeline.tokenizer,
            model=pipeline.text_encoder,
            max_length=pipeline.max_text_tokens,
            zero_padding=pipeline.config["zero_text_padding"],
        )

    def describe(self) -> dict[str, Any]:
        """The settings that features depend on."""
        return {
            "text_sha256": module_sha256(self.model, self.tokenizer.get_vocab()),
            "text_tokens": self.max_length,
            "zero_text_padding": self.zero_padding,
        }

    def __call__(self, captions: list[str]) -> Float[Tensor, "b n d"]:
        """Features on the CPU; every distinct caption is encoded once, 64 in a pass."""
        distinct = list(dict.fromkeys(captions))
        passes = [distinct[i : i + 64] for i in range(0, len(distinct), 64)]
        features = [encode_text(self.tokenizer, self.model, p, self.max_length, self.zero_padding) for p in passes]
        places = {caption: place for place, caption in enumerate(distinct)}
        return torch.cat(features).cpu()[[places[caption] for caption in captions]]


def module_sha256(module: Any, also: object = None) -> str:
    """SHA-256 of a model's weights and config, however it was saved, and of one more JSON value."""
    config = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    config = {k: v for k, v in config.items() if not k.startswith("_") and k not in INCIDENTAL}
    digest = hashlib.sha256(json.dumps([type(module).__name__, config, also], sort_keys=True, default=str).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def dtype_name(dtype: torch.dtype) -> str:
    """float16 for torch.float16."""
    return str(dtype).removeprefix("torch.")
