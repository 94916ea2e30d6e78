"""How good an autoencoder is: PSNR beside linear PCA of equal latent size, latent statistics, cost, a picture."""

import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from lab.autoencoder.crops import PIXELS, to_pixels
from lab.autoencoder.network import decode, posterior_mean


def psnr(output: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """PSNR per image in dB, pixels in [-1, 1], after clamping and rounding to 8 bits."""
    rounded = output.float().clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)
    error = ((rounded - target) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: Float[Tensor, "b 3 h w"], batch: int = 64) -> Float[Tensor, "b 3 h w"]:
    """Decode the posterior mean of every image."""
    parts = [decode(vae, posterior_mean(vae, part.to(vae.dtype))).float() for part in pixels.split(batch)]
    return torch.cat(parts).clamp(-1, 1)


def patches(pixels: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "n d"]:
    """Non-overlapping size x size patches as rows."""
    return F.unfold(pixels, size, stride=size).transpose(1, 2).flatten(0, 1)


def pca_reconstruct(
    train: Float[Tensor, "n c h w"], test: Float[Tensor, "b c h w"], components: int, size: int = 8
) -> Float[Tensor, "b c h w"]:
    """Best linear code of equal latent size: the first principal components of the patches of `train`."""
    rows = patches(train, size).double()
    mean = rows.mean(0)
    basis = torch.linalg.eigh((rows - mean).T @ (rows - mean))[1][:, -components:]
    coded = (patches(test, size).double() - mean) @ basis @ basis.T + mean
    folded = coded.float().unflatten(0, (test.shape[0], -1)).transpose(1, 2)
    return F.fold(folded, tuple(test.shape[-2:]), size, stride=size).clamp(-1, 1)


def count_flops(vae: AutoencoderKL) -> tuple[int, int]:
    """Floating point operations (two per multiply-add) of encoding and of decoding one 64x64 frame."""
    from torch.utils.flop_counter import FlopCounterMode

    pixels = torch.zeros(1, 3, PIXELS, PIXELS, dtype=vae.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        latents = posterior_mean(vae, pixels)
    with torch.no_grad(), FlopCounterMode(display=False) as decoder:
        decode(vae, latents)
    return encoder.get_total_flops(), decoder.get_total_flops()


@torch.no_grad()
def encode_seconds(vae: AutoencoderKL, batch: int = 64, repeats: int = 3) -> float:
    """Seconds to encode one frame of a batch under bf16 autocast, the best of `repeats`."""
    pixels = torch.zeros(batch, 3, PIXELS, PIXELS).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            posterior_mean(vae, pixels)
        times.append(time.perf_counter() - start)
    return min(times) / batch


def evaluate(vae: AutoencoderKL, pool: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """PSNR on `images` (n, 64, 64, 3), PCA of equal latent size beside it, latent statistics and cost."""
    pixels = to_pixels(images)
    scores = psnr(reconstruct(vae, pixels), pixels)
    linear = psnr(pca_reconstruct(to_pixels(pool[:4096]), pixels, vae.config["latent_channels"]), pixels)
    with torch.no_grad():
        latents = posterior_mean(vae, pixels.to(vae.dtype)).float()
    encoder, decoder = count_flops(vae)
    return {
        "images": len(images),
        "psnr": scores.mean().item(),
        "psnr_minimum": scores.min().item(),
        "psnr_pca": linear.mean().item(),
        "latent_mean_largest": latents.mean((0, 2, 3)).abs().max().item(),
        "latent_std_range": [latents.std((0, 2, 3)).min().item(), latents.std((0, 2, 3)).max().item()],
        "parameters": sum(p.numel() for p in vae.parameters()),
        "encoder_gflop": encoder / 1e9,
        "decoder_gflop": decoder / 1e9,
    }


def comparison(vae: AutoencoderKL, images: np.ndarray, columns: int = 10, magnify: int = 2) -> np.ndarray:
    """Originals over reconstructions as one uint8 RGB picture."""
    images = images[: 3 * columns]
    output = reconstruct(vae, to_pixels(images)).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = []
    for start in range(0, len(images) - len(images) % columns, columns):
        rows += [np.concatenate(part[start : start + columns], 1) for part in (images, output)]
    if not rows:
        rows = [np.concatenate(part, 1) for part in (images, output)]
    return np.concatenate(rows).repeat(magnify, 0).repeat(magnify, 1)
