"""A tiny random pipeline folder and a picture, readable by any user, for the command line's tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from permissions import folder_for_all
from tiny_models import saved, scheduler, text_to_video_pipeline, tiny_text, tiny_vae, unet_config
from trip.noise_fusion import OptimalNoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D


@pytest.fixture(scope="session")
def world() -> Iterator[Path]:
    """A scratch folder that unprivileged users can enter (pytest's own is private)."""
    with folder_for_all() as folder:
        yield folder


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
    return saved(text_to_video_pipeline(), world / "text-to-video")


@pytest.fixture(scope="session")
def picture(world: Path) -> Path:
    """A 24x16 PNG."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(world / "picture.png")
    return world / "picture.png"
