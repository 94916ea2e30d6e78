"""The network, which is diffusers', and what is done to its weights besides training."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from lab.autoencoder.config import AutoencoderTraining
from lab.autoencoder.crops import PIXELS

MINIMUM_LOG_VARIANCE = -30.0  # diffusers clamps here: `sample()` and `mode()` then agree to 1e-6


def build_autoencoder(config: AutoencoderTraining) -> AutoencoderKL:
    """A randomly initialised AutoencoderKL with the configured widths; downsampling is 2^(levels - 1)."""
    levels = len(config.block_out_channels)
    settings: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_num_groups,
        "mid_block_add_attention": config.mid_block_add_attention,
        "sample_size": PIXELS,
        "scaling_factor": 1.0,
    }
    return AutoencoderKL(**settings)


@torch.no_grad()
def load_widened(vae: AutoencoderKL, source: AutoencoderKL) -> None:
    """Copy `source` into `vae`, whose latents may have more channels; the additional ones keep their initial weights.

    The decoder starts a tenth as sensitive to the additional channels, so that the reconstruction hardly changes.
    """
    old, new = source.config["latent_channels"], vae.config["latent_channels"]
    if old > new:
        raise ValueError(f"latent_channels (={new}) is below the initial model's {old}; pass {old} or more.")
    moments = torch.cat([torch.arange(old), torch.arange(new, new + old)])  # the mean's rows, then the variance's
    rows = {"encoder.conv_out": moments, "quant_conv": moments, "post_quant_conv": torch.arange(old)}
    columns = {"quant_conv": moments, "post_quant_conv": torch.arange(old), "decoder.conv_in": torch.arange(old)}
    for name, value in source.state_dict().items():
        target, module = vae.state_dict()[name], name.rpartition(".")[0]
        if target.shape == value.shape:
            target.copy_(value)
            continue
        row = rows.get(module, torch.arange(target.shape[0]))
        if target.ndim == 1:
            target[row] = value.to(target.dtype)
        else:
            target *= 0.1 if module == "decoder.conv_in" else 1.0
            column = columns.get(module, torch.arange(target.shape[1]))
            target[row] = 0 if module in ("quant_conv", "post_quant_conv") else target[row]
            target[row[:, None], column] = value.to(target.dtype)


def posterior_mean(vae: AutoencoderKL, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
    """Mean of q(z|x), the latent that diffusion works on."""
    return vae.encode(pixels, return_dict=False)[0].mean  # pyright: ignore[reportArgumentType]


def decode(vae: AutoencoderKL, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
    """Pixels of the latents, in about [-1, 1]."""
    return vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType, reportReturnType]


@torch.no_grad()
def fold_normalization(
    vae: AutoencoderKL, mean: Float[Tensor, "c"], std: Float[Tensor, "c"], invert: bool = True
) -> None:
    """Rewrite `quant_conv` to give latents (z - mean) / std; with `invert`, `post_quant_conv` undoes it.

    With `invert` the reconstruction stays the same. The posterior's variance becomes constant and negligible.
    """
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out is not None and into.bias is not None and out.bias is not None
    channels = mean.numel()
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.weight[channels:] = 0
    into.bias[channels:] = MINIMUM_LOG_VARIANCE
    if invert:
        out.bias += out.weight[:, :, 0, 0] @ mean
        out.weight *= std[None, :, None, None]


def save_autoencoder(vae: AutoencoderKL, folder: Path) -> AutoencoderKL:
    """Write the network in fp16 (`config.json`, safetensors) and return it as read back, in float32."""
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.half().save_pretrained(folder, safe_serialization=True)
    vae.float().load_state_dict(state)
    return AutoencoderKL.from_pretrained(folder).float().eval()
