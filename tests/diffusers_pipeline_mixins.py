"""diffusers' shared pipeline tests on `TripPipeline`; `tests/test_diffusers_mixins.py` runs this apart."""

import torch
from tests.pipelines import testing_utils as shared
from transformers import CLIPTextModel

from tiny_models import FRAMES, SIZE, trip_pipeline
from trip.noise_fusion import LinearNoiseFusion, OptimalNoiseFusion, TemporalNoiseFusion, TrainingFreeNoiseFusion
from trip.pipeline import TripPipeline

TEXTS = ("prompt", "negative_prompt", "prompt_embeds", "negative_prompt_embeds")


class Optimal(shared.BasePipelineTesterConfig):
    pipeline_class = TripPipeline
    fusion = OptimalNoiseFusion(sigma=[0.0, 0.3, 0.5, 0.6])
    required_input_params_in_call_signature = frozenset(
        [*TEXTS, "image", "height", "width", "guidance_scale", "cross_attention_kwargs"]
    )
    batch_input_params = frozenset(["prompt", "image"])
    callback_cfg_params = frozenset(["prompt_embeds"])
    optional_input_params = frozenset(
        ["num_inference_steps", "num_videos_per_prompt", "generator", "latents", "output_type", "return_dict"]
    )
    output_shape = (FRAMES, 3, SIZE, SIZE)

    def get_dummy_components(self) -> dict:
        """With a text encoder that reads the long prompts of these tests whole."""
        parts = trip_pipeline().components
        parts["tokenizer"].model_max_length = 1024
        parts["text_encoder"].config.max_position_embeddings = 1024
        torch.manual_seed(0)
        return {**parts, "text_encoder": CLIPTextModel(parts["text_encoder"].config), "fusion": self.fusion}

    def get_dummy_inputs(self) -> dict:
        return {
            "image": torch.rand(3, SIZE, SIZE, generator=self.get_generator(3)),
            "prompt": "a dog runs",
            "generator": self.get_generator(0),
            "num_inference_steps": 2,
            "num_frames": FRAMES,
            "guidance_scale": 6.0,
            "output_type": "pt",
        }


class TestOptimal(Optimal, shared.PipelineTesterMixin):
    pass


class TestLinear(Optimal, shared.PipelineTesterMixin):
    fusion = LinearNoiseFusion()


class TestTrainingFree(Optimal, shared.PipelineTesterMixin):
    fusion = TrainingFreeNoiseFusion()


class TestTemporal(Optimal, shared.PipelineTesterMixin):
    fusion = TemporalNoiseFusion(dim=16, depth=1, num_heads=2)


class TestLora(Optimal, shared.LoraTesterMixin):
    pass


class TestUNetLora(Optimal, shared.UNetLoraTesterMixin):
    pass


class TestLoraMemory(Optimal, shared.LoraMemoryTesterMixin):
    pass


class TestOffload(Optimal, shared.PipelineOffloadTesterMixin):
    pass


class TestGroupOffload(Optimal, shared.GroupOffloadTesterMixin):
    pass


class TestCasting(Optimal, shared.LayerwiseCastingTesterMixin):
    pass
