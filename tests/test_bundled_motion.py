"""The bundled model moves pictures as the prompt says; benchmarks/motion.py measures how often."""

import numpy as np
import pytest
import torch

from trip.data.images import load_image
from trip.evaluation.motion import camera_motion, dense_flows
from trip.models import bundled_model_path
from trip.pipeline import TripPipeline
from trip.presets import PRESETS

PROMPTS = {  # (component, sign, share of the width): a camera that pans left moves the picture to the right
    "the camera pans left": ("u", 1),
    "the camera pans right": ("u", -1),
    "the camera zooms in": ("divergence", 1),
    "the camera zooms out": ("divergence", -1),
    "nothing moves": None,
}


@pytest.fixture(scope="module")
def motions(request):
    """Camera motion of a `fast` clip of every prompt."""
    picture = load_image(request.config.rootpath / "examples" / "photos" / "castle.jpg")
    pipeline, arguments = PRESETS["fast"].apply(TripPipeline.from_pretrained(bundled_model_path()))
    pipeline.set_progress_bar_config(disable=True)
    found = {}
    for prompt in PROMPTS:
        generator = torch.Generator().manual_seed(0)
        frames = pipeline(picture, prompt, generator=generator, output_type="np", **arguments).frames[0]
        found[prompt] = camera_motion(dense_flows(np.rint(frames * 255).astype(np.uint8)).sum(0))
    return found


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_fast_clip_moves_as_prompted(motions, prompt):
    motion, wanted = motions[prompt], PROMPTS[prompt]
    sizes = {name: getattr(motion, name) for name in ("u", "v", "divergence")}
    if wanted is None:
        assert max(map(abs, sizes.values())) < 0.05
        return
    name, sign = wanted
    assert sign * sizes[name] >= 0.05 and abs(sizes[name]) == max(map(abs, sizes.values()))
