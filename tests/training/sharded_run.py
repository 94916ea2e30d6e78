"""The command line with its weights sharded by FSDP2 over CPU processes; started by test_run.py under torchrun.

accelerate takes FSDP to need an accelerator, so it is told here what it tells itself there.
"""

import sys
import weakref

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from trip.apps.cli import main
from trip.condition import Condition
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


def hold_one_gathered_tensor():
    """No process may hold two tensors that were gathered from all."""
    real, living = DTensor.full_tensor, []

    def full_tensor(sharded, **options):
        assert all(reference() is None for reference in living), "a gathered tensor is still held"
        gathered = real(sharded, **options)
        living[:] = [weakref.ref(gathered)]
        return gathered

    DTensor.full_tensor = full_tensor


def see_inputs(denoiser, inputs):
    """Neither timesteps nor noise levels nor latents may be rounded."""
    tensors = [x for value in inputs for x in (vars(value).values() if isinstance(value, Condition) else [value])]
    dtypes = [x.dtype for x in tensors if x is not None]
    assert len(dtypes) >= 7 and set(dtypes) == {torch.float32}, dtypes


if __name__ == "__main__":
    run.Accelerator = ShardingAccelerator
    hold_one_gathered_tensor()
    sys.exit(main(sys.argv[1:]))
