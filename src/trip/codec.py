r"""Pixels <-> latents: one interface over the autoencoders of diffusers, for single frames and for clips.

A diffusion model sees normalised latents, ``z = (x - mean) scale / std`` with x the autoencoder's own; the codec owns
the four numbers, the sizes, and how frames of pixels become frames of latents:

====================  ==========================================================  ======================  ==============
codec                 autoencoders                                                latent frames F of N    still clip
====================  ==========================================================  ======================  ==============
`ImageCodec`          AutoencoderKL, AutoencoderTiny                              N                       one frame
`CausalVideoCodec`    Wan, LTX, CogVideoX, HunyuanVideo, Mochi, EasyAnimate       1 + (N - 1) / k         F frames
====================  ==========================================================  ======================  ==============

A causal codec's first latent frame holds the first frame of pixels alone. Its latents of a clip that stands still
change over time (Wan), so the reference of a still is the encoding of a still *clip*, not one latent repeated.
`codec_of(vae)` chooses; `register_codec` adds a kind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from trip.noise_prior import Clip

Pixels = Float[Tensor, "b 3 N H W"]
"""Frames in [-1, 1]."""


@runtime_checkable
class Codec(Protocol):
    """What sampling, training and evaluation know of an autoencoder."""

    @property
    def spatial_factor(self) -> int:
        """Pixels of a side of one latent."""
        ...

    @property
    def temporal_factor(self) -> int:
        """k: frames of pixels that every latent frame but the first stands for."""
        ...

    @property
    def channels(self) -> int:
        """c of the latents."""
        ...

    def latent_frames(self, num_frames: int) -> int:
        """F, the latent frames of a clip of N frames; ValueError where there is no such clip."""
        ...

    def encode(self, pixels: Pixels) -> Clip:
        """Normalised latents b c F h w, float32: the mode of the posterior. Runs where the pixels are."""
        ...

    def decode(self, latents: Clip, chunk: int | None = None) -> Pixels:
        """Frames in about [-1, 1], float32; `chunk` frames (a causal codec: clips) at once."""
        ...

    def encode_still(self, pixels: Float[Tensor, "b 3 1 H W"], num_frames: int) -> Float[Tensor, "b c _ h w"]:
        """Latents of a still as a clip of `num_frames`: one frame where they do not change over time, else F."""
        ...


@dataclass(frozen=True)
class AutoencoderCodec:
    """What both kinds share: normalisation and sizes, read off the autoencoder's config."""

    vae: Any

    kinds: ClassVar[tuple[str, ...]] = ()
    """Class names of the autoencoders that it takes."""

    @property
    def spatial_factor(self) -> int:
        names = ("spatial_compression_ratio", "scale_factor_spatial")
        return int(self._number(*names) or 2 ** (len(self.vae.config["block_out_channels"]) - 1))

    @property
    def channels(self) -> int:
        return int(self.vae.config.get("latent_channels") or self.vae.config["z_dim"])

    def normalize(self, latents: Tensor) -> Tensor:
        """``(x - mean) scale / std``, in float32."""
        mean, scale, std = self._scaling(latents)
        latents = (latents.float() - mean) * scale
        return latents if std is None else latents / std

    def denormalize(self, latents: Tensor) -> Tensor:
        """``z std / scale + mean``, the inverse of `normalize`."""
        mean, scale, std = self._scaling(latents)
        return (latents if std is None else latents * std) / scale + mean

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError unless both sides, in pixels, are multiples of the spatial factor."""
        multiple = self.spatial_factor
        if height % multiple or width % multiple:
            raise ValueError(f"size (={width}x{height}) must be a multiple of the autoencoder's {multiple}; change it")

    def _scaling(self, like: Tensor) -> tuple[float | Tensor, float, Tensor | None]:
        """(mean, scale, std) of the config; mean and std of channels are shaped like the latents'."""
        config, buffers = self.vae.config, dict(self.vae.named_buffers(recurse=False))  # LTX keeps them as buffers

        def per_channel(name: str) -> Tensor | None:
            values = config.get(name) if buffers.get(name) is None else buffers[name]
            if values is None:
                return None
            values = torch.as_tensor(values, dtype=torch.float32, device=like.device)
            return values.reshape(-1, *[1] * (like.ndim - 2))

        mean = per_channel("latents_mean")
        shift = config.get("shift_factor") or 0.0 if mean is None else mean
        return shift, config.get("scaling_factor") or 1.0, per_channel("latents_std")

    def _number(self, *names: str) -> float | None:
        """The first of the names that the autoencoder or its config has a number for."""
        found = (self.vae.config.get(name) or vars(self.vae).get(name) for name in names)
        return next((value for value in found if value), None)


def mode(encoded: Any) -> Tensor:
    """The mode of what an autoencoder's `encode` returned."""
    return encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents


class ImageCodec(AutoencoderCodec):
    """Frame by frame, by an autoencoder of images.

    Args:
        vae: `AutoencoderKL` or `AutoencoderTiny`, whose own `encode` gives scaled latents already (scale 1).
    """

    kinds = ("AutoencoderKL", "AutoencoderTiny")
    temporal_factor = 1

    def latent_frames(self, num_frames: int) -> int:
        """N."""
        return num_frames

    def encode(self, pixels: Pixels) -> Clip:
        self.check_size(*pixels.shape[-2:])
        stills = rearrange(pixels, "b c f H W -> (b f) c H W").to(self.vae.dtype)
        if _channels_last(self.vae):
            stills = stills.contiguous(memory_format=torch.channels_last)
        latents = self.normalize(mode(self.vae.encode(stills)))
        return rearrange(latents, "(b f) c h w -> b c f h w", b=len(pixels))

    def decode(self, latents: Clip, chunk: int | None = None) -> Pixels:
        stills = self.denormalize(rearrange(latents, "b c f h w -> (b f) c h w"))
        chunks = stills.to(self.vae.dtype).split(chunk or latents.shape[2])
        frames = torch.cat([self.vae.decode(part).sample.float() for part in chunks])
        return rearrange(frames, "(b f) c h w -> b c f h w", f=latents.shape[2])

    def encode_still(self, pixels: Float[Tensor, "b 3 1 H W"], num_frames: int) -> Float[Tensor, "b c 1 h w"]:
        return self.encode(pixels)


class CausalVideoCodec(AutoencoderCodec):
    """Whole clips, by a causal video autoencoder: F = 1 + (N - 1) / k.

    Args:
        vae: a video autoencoder of diffusers.
    """

    kinds = (
        *("AutoencoderKLWan", "AutoencoderKLLTXVideo", "AutoencoderKLCogVideoX", "AutoencoderKLHunyuanVideo"),
        *("AutoencoderKLHunyuanVideo15", "AutoencoderKLMochi", "AutoencoderKLMagvit"),
    )

    @property
    def temporal_factor(self) -> int:
        return int(self._number("temporal_compression_ratio", "scale_factor_temporal") or 4)

    def latent_frames(self, num_frames: int) -> int:
        """1 + (N - 1) / k.

        Raises:
            ValueError: N is not 1 + m k.
        """
        k = self.temporal_factor
        if num_frames < 1 or (num_frames - 1) % k:
            nearest = max(round((num_frames - 1) / k), 0) * k + 1
            raise ValueError(
                f"num_frames (={num_frames}) must be 1 plus a multiple of {k} for this autoencoder; use {nearest}"
            )
        return 1 + (num_frames - 1) // k

    def encode(self, pixels: Pixels) -> Clip:
        self.check_size(*pixels.shape[-2:])
        frames = self.latent_frames(pixels.shape[2])
        with _whole_clips(self.vae):
            latents = torch.cat([mode(self.vae.encode(clip)) for clip in pixels.to(self.vae.dtype).split(1)])
        assert latents.shape[2] == frames, f"{type(self.vae).__name__} made {latents.shape[2]} frames, not {frames}"
        return self.normalize(latents)

    def decode(self, latents: Clip, chunk: int | None = None) -> Pixels:
        own = self.denormalize(latents.float()).to(self.vae.dtype)
        # LTX's decoder may have been trained to remove the last of the noise; at time 0 there is none.
        time = {"temb": own.new_zeros(1)} if self.vae.config.get("timestep_conditioning") else {}
        with _whole_clips(self.vae):
            return torch.cat([self.vae.decode(part, **time).sample.float() for part in own.split(chunk or 1)])

    def encode_still(self, pixels: Float[Tensor, "b 3 1 H W"], num_frames: int) -> Clip:
        return self.encode(pixels.expand(-1, -1, num_frames, -1, -1))


@contextmanager
def _whole_clips(vae: Any) -> Iterator[None]:
    """Mochi's and Hunyuan's autoencoders cut long clips in time by default, each part with a first frame of its own."""
    names = [name for name in ("use_framewise_encoding", "use_framewise_decoding") if getattr(vae, name, False)]
    for name in names:
        setattr(vae, name, False)
    try:
        yield
    finally:
        for name in names:
            setattr(vae, name, True)


def _channels_last(module: nn.Module) -> bool:
    """Whether the module's convolutions have their weights so; images that lie otherwise are then copied in each."""
    weight = next((p for p in module.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1), None)
    return weight is not None and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


# ------------------------------------------------------------------------------------------------------ registry

_CODECS: dict[str, Callable[[Any], Codec]] = {}
Kind = TypeVar("Kind", bound=type)


def register_codec(codec: Kind) -> Kind:
    """Class decorator: `codec(vae)` is the codec of autoencoders of the classes named in `codec.kinds`."""
    _CODECS.update(dict.fromkeys(codec.kinds, codec))
    return codec


register_codec(ImageCodec)
register_codec(CausalVideoCodec)


def codec_of(vae: Any) -> Codec:
    """The codec of an autoencoder; a subclass has its parent's.

    Raises:
        ValueError: an autoencoder of no known kind.
    """
    for kind in type(vae).__mro__:
        if kind.__name__ in _CODECS:
            return _CODECS[kind.__name__](vae)
    raise ValueError(f"{type(vae).__name__} has no codec; choose one of {', '.join(_CODECS)}, or register_codec")
