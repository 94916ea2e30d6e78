"""A run of seconds: cached clips whose content shifts to the right, on a tiny network."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from trip.data.cache.latents import open_cache, write_shard
from trip.training.config import TrainingConfig

UNET = {
    "sample_size": 4,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"],
    "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 384,
    "attention_head_dim": 8,
    "transformer_in_heads": 1,
    "frame_embedding": True,
    "pooled_text_embedding": True,
    "temporal_dropout": 0.0,
}
FUSION = {"concat": "channel", "latent_channels": 4, "dim": 16, "depth": 1, "num_heads": 2}


def tiny_run(folder: Path) -> TrainingConfig:
    """Four frames of 4 x 4 latents, twelve clips, four steps."""
    still = torch.randn(12, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    clips = torch.cat([still.roll(shift, dims=-1) for shift in (0, 0, 1, 1)], dim=1)
    about = {"kind": "pan_left", "reverse_kind": "pan_right", "subject": None, "speed": "normal"}
    open_cache(folder / "latents", {})
    write_shard(folder / "latents", 0, clips, [about] * 12)
    AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4).save_pretrained(folder / "vae")
    return TrainingConfig(
        data=str(folder / "latents"),
        vae=str(folder / "vae"),
        unet=UNET,
        fusion=FUSION,
        steps=4,
        batch_size=4,
        warmup_steps=1,
        checkpoint_every=1,
        mixed_precision="no",
        image_dropout=0.2,
        optimizer="muon",
        trackers=(),
    )
