"""Named runs: every choice of each, in one place.

===========  ===========================================================================================
`paper`      TRIP as published: ModelScopeT2V's UNet, image in front of the frames, TNF from scratch, Eq. 10.
             The paper leaves batch size, duration and TNF's size open; those here are ours. Not run here.
`mini`       the bundled model, from scratch: `trip.models.trip-mini`'s card has its results
`smoke`      half a minute on a CPU, on pictures it draws itself; shows that everything works, learns little
`fine-tune`  the bundled model on a few dozen clips of one's own, all weights: docs/fine-tuning.md has its results
`lora`       the same with adapters in the place of all weights, on half as many clips an update
===========  ===========================================================================================
"""

import dataclasses

from trip.training.config import TrainingConfig

MINI_UNET = {
    "sample_size": 8,
    "in_channels": 48,
    "out_channels": 24,
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"],
    "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
    "block_out_channels": [96, 128],
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "cross_attention_dim": 384,
    "attention_head_dim": 32,
    "transformer_in_heads": 3,
    "resnet_time_scale_shift": "scale_shift",
    "frame_embedding": True,
    "pooled_text_embedding": True,
    "max_num_frames": 16,
    "temporal_dropout": 0.0,
}
MINI_FUSION = {"latent_channels": 24, "dim": 96, "depth": 1, "num_heads": 3, "patch_size": 2, "concat": "channel"}
CAMERA = ("pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out")
CAMERA += ("rotate_clockwise", "rotate_counterclockwise")


def paper() -> TrainingConfig:
    """16 frames of 256 x 256 at 4 fps, AdamW at 2e-6 (UNet) and 2e-4 (TNF), for 8 GPUs."""
    return TrainingConfig(
        initial="damo-vilab/text-to-video-ms-1.7b",
        data="webvid",
        num_frames=16,
        size=256,
        fps=4.0,
        workers=8,
        fusion={"kind": "tnf", "base": "none", "concat": "time", "dim": 512, "depth": 2, "num_heads": 8},
        objective="epsilon",
        steps=100_000,
        batch_size=64,
        optimizer="adamw",
        unet_lr=2e-6,
        fusion_lr=2e-4,
        warmup_steps=1000,
        decay=0.0,
        ema_decay=0.9999,
        gradient_checkpointing=True,
        checkpoint_every=1000,
        validation_every=1000,
        guidance_scale=7.5,
    )


def mini() -> TrainingConfig:
    """64 x 64 from a latent cache of synthetic motion, 2 CPU cores."""
    return TrainingConfig(
        data="runs/latents",
        unet=MINI_UNET,
        fusion=MINI_FUSION,
        warm_start_text=True,
        shares={**dict.fromkeys(CAMERA, 0.75), "rain": 0.5, "snow": 0.5, "flicker": 0.4, "ripple": 0.5, "still": 0.5},
        balance_clips=True,
        timestep_power=1.25,
        steps=4000,
        batch_size=32,
        optimizer="muon",
        unet_lr=2e-3,
        fusion_lr=2e-3,
        warmup_steps=40,
        decay=0.3,
        ema_decay=0.995,
        checkpoint_every=100,
        validation_every=500,
    )


def smoke() -> TrainingConfig:
    """Procedural pictures, a tiny UNet on the bundled autoencoder's latents."""
    tiny = {"block_out_channels": [16, 32], "norm_num_groups": 8, "attention_head_dim": 16, "transformer_in_heads": 1}
    return TrainingConfig(
        data="procedural",
        size=32,
        num_frames=8,
        unet={**MINI_UNET, **tiny, "sample_size": 4, "max_num_frames": 8},
        fusion={**MINI_FUSION, "dim": 32, "num_heads": 2},
        balance_clips=True,
        steps=40,
        batch_size=8,
        optimizer="muon",
        unet_lr=4e-3,
        fusion_lr=4e-3,
        warmup_steps=5,
        ema_decay=0.9,
        sigma_clips=32,
        checkpoint_every=10,
        validation_every=40,
        validation_clips=2,
        validation_steps=5,
        mixed_precision="no",
    )


def fine_tune() -> TrainingConfig:
    """All weights of trip-mini, on the objective that it was made with."""
    return TrainingConfig(
        initial="trip-mini",
        data="latents",
        num_frames=16,
        size=64,
        balance_clips=True,
        timestep_power=1.25,
        steps=40,
        batch_size=8,
        unet_lr=5e-4,
        fusion_lr=5e-4,
        warmup_steps=5,
        ema_decay=0.9,
        checkpoint_every=20,
    )


def lora() -> TrainingConfig:
    """Adapters of rank 16 alone: the fusion stays as it is, so that RUN/lora is all that was learnt."""
    return dataclasses.replace(fine_tune(), trainable="lora", batch_size=4, unet_lr=5e-3, fusion_lr=0.0)


PRESETS = {"paper": paper, "mini": mini, "smoke": smoke, "fine-tune": fine_tune, "lora": lora}
