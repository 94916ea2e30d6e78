"""A study of seconds: two caches of moving dots, a tiny network, six steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from trip.ablation import variants
from trip.ablation.study import Study
from trip.ablation.variants import base_config
from trip.data.cache.latents import open_cache, write_shard

TINY = {"sample_size": 4, "in_channels": 4, "out_channels": 4, "block_out_channels": [8, 16], "norm_num_groups": 4}
TINY |= {"attention_head_dim": 8, "transformer_in_heads": 1, "max_num_frames": 5}


def write_cache(folder: Path, seed: int, clips: int = 12) -> None:
    still = torch.randn(clips, 1, 4, 4, 4, generator=torch.Generator().manual_seed(seed))
    moving = torch.cat([still.roll(shift, dims=-1) for shift in (0, 0, 1, 1)], dim=1)
    about = {"kind": "pan_left", "reverse_kind": "pan_right", "subject": None, "speed": "normal"}
    open_cache(folder, {})
    write_shard(folder, 0, moving, [about] * clips)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Eight held-out clips, of which four are animated in two steps."""
    write_cache(tmp_path / "latents", 0)
    write_cache(tmp_path / "held-out", 1)
    AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4).save_pretrained(tmp_path / "vae")
    tnf = {"latent_channels": 4, "dim": 16, "depth": 1, "num_heads": 2}
    for name, variant in variants.VARIANTS.items():
        if variant.fusion.get("kind") == "tnf":
            monkeypatch.setitem(variants.VARIANTS, name, replace(variant, fusion=variant.fusion | tnf))
    base = replace(
        base_config(),
        data=str(tmp_path / "latents"),
        vae=str(tmp_path / "vae"),
        unet=variants.SMALL_UNET | TINY,
        warm_start_text=False,
        steps=6,
        batch_size=4,
        warmup_steps=1,
        checkpoint_every=2,
        mixed_precision="no",
    )
    counts = {"error_clips": 8, "made_clips": 4, "sampling_steps": 2, "tuning_steps": 1}
    return Study(base=base, held_out=str(tmp_path / "held-out"), variants=("tnf", "trip-minus"), seeds=1, **counts)
