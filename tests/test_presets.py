"""Presets: `quality` is the pipeline's default bit for bit, the others are cheaper, and no pipeline is changed."""

import inspect
import json
import subprocess
import sys
from itertools import pairwise

import diffusers
import pytest
import torch

from tiny_models import SIZE, scheduler, tiny_text, tiny_vae, unet_config
from trip.models import bundled_model_path
from trip.noise_fusion import OptimalNoiseFusion
from trip.pipeline import TripPipeline
from trip.presets import PRESETS, SamplingPreset, preset
from trip.residual_unet import ResidualUNet3D

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

CHANGED = [name for name in PRESETS if name != "quality"]


def make(**parts) -> TripPipeline:
    torch.manual_seed(0)
    tokenizer, text_encoder = tiny_text()
    pipe = TripPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=ResidualUNet3D(**unet_config()),
        fusion=OptimalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6]),
        scheduler=parts.get("scheduler") or scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> TripPipeline:
    return make()


def run(pipe, **arguments):
    generator = torch.Generator().manual_seed(0)
    picture = torch.linspace(0, 1, 3 * SIZE * SIZE).reshape(3, SIZE, SIZE)
    return pipe(picture, "pan", generator=generator, output_type="pt", **arguments).frames


def evaluations(pipe, **arguments) -> int:
    """Clips that the network sees."""
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    run(pipe, **arguments)
    handle.remove()
    return sum(seen)


def test_quality_is_the_default_bit_for_bit(pipe):
    same, arguments = PRESETS["quality"].apply(pipe)
    default = inspect.signature(TripPipeline.__call__).parameters
    assert arguments == {name: default[name].default for name in arguments}
    assert same.scheduler is pipe.scheduler
    assert torch.equal(run(same, **arguments), run(pipe))


@pytest.mark.parametrize("name", CHANGED)
def test_apply_shares_the_networks_and_leaves_the_pipeline_as_it_was(name, pipe):
    before, own, index = run(pipe, num_inference_steps=3), pipe.scheduler, dict(pipe.config)
    fast, arguments = PRESETS[name].apply(pipe)
    assert fast.unet is pipe.unet and fast.vae is pipe.vae and fast.fusion is pipe.fusion
    frames = run(fast, **arguments)
    assert frames.isfinite().all() and frames.shape == before.shape
    assert pipe.scheduler is own and dict(pipe.config) == index
    assert torch.equal(run(pipe, num_inference_steps=3), before)


def test_every_preset_is_cheaper_than_the_one_before(pipe):
    counts = []
    for chosen in PRESETS.values():
        changed, arguments = chosen.apply(pipe)
        counts.append(evaluations(changed, **arguments))
    assert counts[0] == 100
    assert all(later < earlier for earlier, later in pairwise(counts))


@pytest.mark.parametrize("name", CHANGED)
def test_the_noise_schedule_stays_the_models(name):
    """Bundled model: what a scheduler class does not know would be dropped in silence."""
    config = json.loads((bundled_model_path() / "scheduler" / "scheduler_config.json").read_text())
    own = diffusers.DDIMScheduler.from_config(config)
    made = PRESETS[name].scheduler_for(own)
    assert torch.equal(made.alphas_cumprod, own.alphas_cumprod)
    for option, value in PRESETS[name].scheduler_options.items():
        assert option in inspect.signature(type(made).__init__).parameters and made.config[option] == value


@pytest.mark.parametrize("name", PRESETS)
def test_a_flow_model_keeps_its_scheduler(name):
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    assert PRESETS[name].scheduler_for(flow) is flow


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"preset 'best' is unknown; choose one of quality, balanced, fast, draft"):
        preset("best")
    assert preset("fast") is PRESETS["fast"]


def test_settings_are_values():
    assert SamplingPreset() == PRESETS["quality"]
    with pytest.raises(AttributeError):
        PRESETS["fast"].steps = 3


def test_presets_import_nothing_heavy():
    code = "import sys, trip.presets; print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
