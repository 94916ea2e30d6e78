"""The training loop: it learns, resumes exactly, and exports a pipeline that loads."""

import dataclasses
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL

from trip.data.latents import LatentClips, open_cache, write_shard
from trip.pipeline import TripPipeline
from trip.training.config import TrainingConfig
from trip.training.trainer import (
    CaptionedLatents,
    build_denoiser,
    draw_noising,
    export_pipeline,
    make_scheduler,
    training_loop,
)

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
}
FUSION = {"concat": "channel", "latent_channels": 4, "dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """A run of seconds: clips whose content shifts to the right, on a tiny network."""
    still = torch.randn(12, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    clips = torch.cat([still.roll(shift, dims=-1) for shift in (0, 0, 1, 1)], dim=1)
    about = {"kind": "pan_left", "reverse_kind": "pan_right", "subject": None, "speed": "normal"}
    open_cache(tmp_path / "latents", {})
    write_shard(tmp_path / "latents", 0, clips, [about] * 12)
    AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4).save_pretrained(tmp_path / "vae")
    return TrainingConfig(
        cache=str(tmp_path / "latents"),
        vae=str(tmp_path / "vae"),
        unet=UNET,
        fusion=FUSION,
        steps=4,
        batch_size=4,
        warmup_steps=1,
        checkpoint_seconds=0,
        mixed_precision="no",
        image_dropout=0.2,
        optimizer="muon",
    )


def run(config: TrainingConfig, folder: Path, stop: int | None = None):
    """(denoiser, records) after training in `folder`, abandoned after `stop` steps if given."""
    accelerator = Accelerator(cpu=True)
    clips = LatentClips(config.cache)
    denoiser = build_denoiser(config, clips)
    data = CaptionedLatents(config, clips, accelerator)
    records = []
    for record in training_loop(denoiser, data, config, folder, accelerator):
        records.append(record)
        if record["step"] == stop:
            break
    return denoiser, records


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(config: TrainingConfig, tmp_path: Path, optimizer: str) -> None:
    config = dataclasses.replace(config, optimizer=optimizer)
    whole, records = run(config, tmp_path / "whole")
    run(config, tmp_path / "parts", stop=2)
    parts, rest = run(config, tmp_path / "parts")
    assert [r["step"] for r in rest] == [3, 4]
    assert [r["loss"] for r in rest] == [r["loss"] for r in records[2:]]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name


def test_training_lowers_the_loss(config: TrainingConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, steps=80, unet_lr=5e-3, checkpoint_seconds=1e9)
    _, records = run(config, tmp_path / "run")
    losses = [record["loss"] for record in records]
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])


def test_export_loads_and_animates(config: TrainingConfig, tmp_path: Path) -> None:
    denoiser, _ = run(config, tmp_path / "run")
    export_pipeline(denoiser, config, tmp_path / "final")
    assert not (tmp_path / "final" / "text_encoder").exists()
    pipeline = TripPipeline.from_pretrained(tmp_path / "final")
    assert pipeline.text_encoder is not None
    torch.testing.assert_close(pipeline.fusion.table("sigma"), denoiser.fusion.table("sigma"), atol=0, rtol=0)
    image = torch.zeros(1, 3, 8, 8)
    frames = pipeline(image, "the camera pans left", num_inference_steps=2, output_type="pt").frames
    assert frames.shape == (1, 4, 3, 8, 8)


def test_processes_share_the_draws_of_one_global_batch(config: TrainingConfig) -> None:
    shape, scheduler = torch.Size((2, 4, 4, 4, 4)), make_scheduler()
    whole = draw_noising(7, shape, scheduler, config, 0, 1)
    halves = [draw_noising(7, shape, scheduler, config, rank, 2) for rank in (0, 1)]
    for name in ("t", "eps", "keep"):
        shares = torch.stack([getattr(h, name) for h in halves], dim=1).flatten(0, 1)
        assert torch.equal(shares, getattr(whole, name))


def test_config_round_trips_and_names_unknown_settings(config: TrainingConfig, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config.save(path)
    assert TrainingConfig.load(path) == config
    path.write_text('{"stepps": 3}')
    with pytest.raises(ValueError, match="stepps"):
        TrainingConfig.load(path)
