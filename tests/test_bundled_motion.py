"""The bundled model moves a picture as the prompt says; benchmarks/motion.py measures how often."""

from pathlib import Path

import pytest
import torch

from trip.data.images import load_image
from trip.evaluation.motion import camera_motion, dense_flows
from trip.models import bundled_model_path
from trip.pipeline import TripPipeline
from trip.presets import PRESETS

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

PHOTO = Path(__file__).parents[1] / "examples" / "photos" / "castle.jpg"
PROMPTS = {
    "the camera pans left": "pan_left",
    "the camera pans right": "pan_right",
    "the camera zooms in": "zoom_in",
    "nothing moves": "none",
}


def test_fast_clips_move_as_prompted():
    pipeline, arguments = PRESETS["fast"].apply(TripPipeline.from_pretrained(bundled_model_path()))
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(0) for _ in PROMPTS]
    clips = pipeline(load_image(PHOTO), list(PROMPTS), generator=generators, output_type="np", **arguments).frames
    found = [camera_motion(dense_flows(clip).sum(0)).classify(clip.shape[2]) for clip in clips]
    assert dict(zip(PROMPTS, found, strict=True)) == PROMPTS
