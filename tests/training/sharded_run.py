"""The command line with its weights sharded by FSDP2 over CPU processes; started by test_run.py under torchrun.

accelerate takes FSDP to need an accelerator, so it is told here what it tells itself there.
"""

import sys

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from trip.apps.cli import main
from trip.residual_unet import ResidualUNet3D
from trip.training import run


class ShardingAccelerator(Accelerator):
    """Launched as `accelerate launch` does with configs/accelerate/fsdp2.yaml."""

    def __init__(self, mixed_precision, **settings):
        super().__init__(mixed_precision=mixed_precision, **settings)
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=ResidualUNet3D._no_split_modules,
            reshard_after_forward=True,
            cpu_ram_efficient_loading=False,
        )
        if mixed_precision != "no":
            plugin.set_mixed_precision(mixed_precision)
        self.state.fsdp_plugin, self.state.distributed_type = plugin, DistributedType.FSDP

    def prepare(self, *parts):
        denoiser, *optimizers = super().prepare(*parts)
        assert all(isinstance(parameter, DTensor) for parameter in denoiser.parameters())
        assert self.mixed_precision == "no" or self.state.fsdp_plugin.mixed_precision_policy.param_dtype
        denoiser.register_forward_pre_hook(see_inputs)
        return denoiser, *optimizers


def see_inputs(denoiser, inputs):
    """Neither timesteps nor noise levels nor latents may be rounded."""
    dtypes = [x.dtype for x in inputs]
    assert dtypes == [torch.float32] * 7, dtypes


if __name__ == "__main__":
    run.Accelerator = ShardingAccelerator
    sys.exit(main(sys.argv[1:]))
