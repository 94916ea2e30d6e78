"""diffusers' shared model tests on our networks; `tests/test_diffusers_mixins.py` runs this in a process of its own."""

import torch
from diffusers.utils import BaseOutput
from tests.models import testing_utils as shared

from trip.condition import Condition
from trip.noise_fusion import (
    LinearNoiseFusion,
    OptimalNoiseFusion,
    TemporalNoiseFusion,
    TrainingFreeNoiseFusion,
)
from trip.residual_unet import ResidualUNet3D

SIGMA = [0.0, 0.3, 0.5, 0.6]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class UNet(shared.BaseModelTesterConfig):
    model_class = ResidualUNet3D
    main_input_name = "sample"
    output_shape = (4, 4, 16, 16)

    def get_init_dict(self) -> dict:
        return {
            "block_out_channels": (4, 8),
            "norm_num_groups": 4,
            "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
            "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "layers_per_block": 1,
            "sample_size": 16,
        }

    def get_dummy_inputs(self, height: int = 16, width: int = 16) -> dict:
        return {
            "sample": draw(4, 4, 4, height, width),
            "timestep": torch.tensor([10]),
            "encoder_hidden_states": draw(4, 4, 8),
        }


class TestUNet(UNet, shared.ModelTesterMixin):
    pass


class TestUNetTraining(UNet, shared.TrainingTesterMixin):
    pass


class TestUNetMemory(UNet, shared.MemoryTesterMixin):
    pass


class TestUNetAttention(UNet, shared.AttentionTesterMixin):
    pass


class TestUNetBackends(UNet, shared.AttentionBackendTesterMixin):
    pass


class TestUNetLora(UNet, shared.LoraTesterMixin):
    pass


class TestUNetHotSwap(UNet, shared.LoraHotSwappingForModelTesterMixin):
    @property
    def different_shapes_for_compilation(self) -> list:
        return [(16, 16), (8, 8)]


class TestUNetCompile(UNet, shared.TorchCompileTesterMixin):
    @property
    def different_shapes_for_compilation(self) -> list:
        return [(16, 16), (8, 8)]


# ------------------------------------------------------------------------------------------------------- fusions


class Output(BaseOutput):
    sample: torch.Tensor


def as_model(fusion: type, **settings) -> type:
    """A fusion with the call that the shared tests make: tensors by name, `return_dict`."""

    def forward(self, z_t, reference, residual, timestep, return_dict=True):
        given = Condition(reference=reference), residual, torch.tensor(0.6), torch.tensor(0.8), timestep
        sample = super(kind, self).forward(z_t, *given)
        return Output(sample=sample) if return_dict else (sample,)

    kind = type(fusion.__name__, (fusion,), {"forward": forward, "__module__": __name__})

    class Config(shared.BaseModelTesterConfig):
        model_class = kind
        main_input_name = "z_t"
        output_shape = (4, 4, 8, 8)

        def get_init_dict(self) -> dict:
            return dict(settings)

        def get_dummy_inputs(self) -> dict:
            z_t = draw(2, 4, 4, 8, 8)
            return {"z_t": z_t, "reference": z_t[:, :, :1] * 0.9, "residual": z_t.flip(0), "timestep": torch.tensor(10)}

    return Config


Temporal = as_model(TemporalNoiseFusion, dim=16, depth=1, num_heads=2, sigma=SIGMA)
Scratch = as_model(TemporalNoiseFusion, dim=16, depth=1, num_heads=2, sigma=SIGMA, base="none")
Optimal = as_model(OptimalNoiseFusion, sigma=SIGMA)
Linear = as_model(LinearNoiseFusion, num_frames=4)
TrainingFree = as_model(TrainingFreeNoiseFusion, sigma=SIGMA)


class TestTemporal(Temporal, shared.ModelTesterMixin):
    pass


class TestTemporalTraining(Temporal, shared.TrainingTesterMixin):
    pass


class TestTemporalMemory(Temporal, shared.MemoryTesterMixin):
    pass


class TestScratch(Scratch, shared.ModelTesterMixin):
    pass


class TestScratchMemory(Scratch, shared.MemoryTesterMixin):
    pass


class TestOptimal(Optimal, shared.ModelTesterMixin):
    pass


class TestOptimalMemory(Optimal, shared.MemoryTesterMixin):
    pass


class TestLinear(Linear, shared.ModelTesterMixin):
    pass


class TestTrainingFree(TrainingFree, shared.ModelTesterMixin):
    pass
