"""Render synthetic clips and encode them once: `python -m trip.training.cache --photos DIR --vae DIR --output DIR`.

Several processes may fill one cache, each with its own `--worker K --workers N`. A killed run goes on at the first
missing shard. Clip i depends on (seed, i) alone.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import tyro
from diffusers import AutoencoderKL
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from trip.data.captions import OPPOSITE
from trip.data.latents import open_cache, shard_paths, write_shard
from trip.data.synthetic import Clip, SyntheticMotion


@torch.no_grad()
def encode_clips(vae: AutoencoderKL, clips: list[Clip]) -> Tensor:
    """Posterior means of uint8 clips, scaled as the pipeline scales them: n f c h w.

    In bfloat16, twice as fast on a CPU that has it; the error (0.5 % of the latents) is far below the autoencoder's.
    """
    pixels = torch.from_numpy(np.stack([clip.frames for clip in clips])).float() / 127.5 - 1
    images = rearrange(pixels, "n f h w c -> (n f) c h w").contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16):
        latents = vae.encode(images, return_dict=False)[0].mode() * vae.config["scaling_factor"]
    return rearrange(latents.float(), "(n f) c h w -> n f c h w", n=len(clips))


def describe_clip(clip: Clip) -> dict:
    """What is needed to draw captions for a cached clip, in either direction of time."""
    return {"kind": clip.kind, "reverse_kind": OPPOSITE.get(clip.kind), **_plain(clip.params)}


def _plain(params: dict) -> dict:
    return {k: v for k, v in params.items() if isinstance(v, str | int | float | bool) or v is None}


def fill_cache(
    photos: Path,
    vae: Path,
    output: Path,
    clips: int = 24576,
    shard_size: int = 512,
    size: int = 64,
    num_frames: int = 16,
    seed: int = 0,
    worker: int = 0,
    workers: int = 1,
) -> None:
    """Write every missing shard of this worker.

    Args:
        photos: folder prepared by trip.data.photographs. vae: folder of an AutoencoderKL. output: the cache.
        clips: how many in all. shard_size: clips a shard. size: pixels. num_frames: frames a clip. seed: of the set.
        worker, workers: this process takes shards worker, worker + workers, ...
    """
    weights = (vae / "diffusion_pytorch_model.safetensors").read_bytes()
    open_cache(
        output,
        {
            "vae_sha256": hashlib.sha256(weights).hexdigest(),
            "size": size,
            "num_frames": num_frames,
            "seed": seed,
            "shard_size": shard_size,
        },
    )
    network: AutoencoderKL = AutoencoderKL.from_pretrained(vae)
    network = nn.Module.to(network.eval(), torch.float32, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    source = SyntheticMotion(photos, size=size, num_frames=num_frames, seed=seed)
    for shard in tqdm(range(worker, -(-clips // shard_size), workers), unit="shard"):
        if shard_paths(output, shard)[0].exists():
            continue
        rendered = [source[i] for i in range(shard * shard_size, (shard + 1) * shard_size)]
        latents = torch.cat([encode_clips(network, rendered[i : i + 8]) for i in range(0, shard_size, 8)])
        write_shard(output, shard, latents, [describe_clip(clip) for clip in rendered])


if __name__ == "__main__":
    tyro.cli(fill_cache)
