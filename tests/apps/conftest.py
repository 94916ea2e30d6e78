"""A tiny random pipeline folder and a picture, readable by any user, for the command line's tests."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from permissions import folder_for_all
from tiny_models import saved, text_to_video_pipeline, trip_pipeline


@pytest.fixture(scope="session")
def world() -> Iterator[Path]:
    """A scratch folder that unprivileged users can enter (pytest's own is private)."""
    with folder_for_all() as folder:
        yield folder


@pytest.fixture(scope="session")
def model(world: Path) -> Path:
    """Folder of a tiny random TRIP pipeline: 4 frames of 16x16."""
    folder = saved(trip_pipeline(), world / "model")
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    return folder


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
