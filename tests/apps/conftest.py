"""A tiny random pipeline folder and a picture, readable by any user, for the command line's tests."""

import shutil
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from trip.noise_fusion import OptimalNoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D

TEXT, TOKENS, FRAMES, SIZE = 16, 32, 4, 16


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.5,
    )


def tiny_text() -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Every letter is a token; at most 32."""
    letters = [*string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase)]
    vocab = {piece: i for i, piece in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=TOKENS)
    config = CLIPTextConfig(
        vocab_size=54, hidden_size=TEXT, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config)


def unet_config() -> dict:
    return {
        "sample_size": SIZE // 2,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT,
        "attention_head_dim": 4,
    }


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )


@pytest.fixture(scope="session")
def world() -> Iterator[Path]:
    """A scratch folder that unprivileged users can enter (pytest's own is private)."""
    folder = Path(tempfile.mkdtemp(prefix="trip-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def model(world: Path) -> Path:
    """Folder of a tiny random TRIP pipeline: 4 frames of 16x16."""
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    pipeline = TripPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=ResidualUNet3D(**unet_config()),
        fusion=OptimalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6]),
        scheduler=scheduler(),
    )
    pipeline.save_pretrained(world / "model")
    return world / "model"


@pytest.fixture(scope="session")
def text_to_video(world: Path) -> Path:
    """Folder of a tiny random text-to-video pipeline in the layout of ModelScopeT2V."""
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    pipeline = TextToVideoSDPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=UNet3DConditionModel(**unet_config()),
        scheduler=scheduler(),
    )
    pipeline.save_pretrained(world / "text-to-video")
    return world / "text-to-video"


@pytest.fixture(scope="session")
def picture(world: Path) -> Path:
    """A 24x16 PNG."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(world / "picture.png")
    return world / "picture.png"
