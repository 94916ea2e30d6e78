"""The command line with its weights sharded by FSDP2 over CPU processes; started by test_run.py under torchrun.

accelerate itself takes FSDP to need an accelerator, so its `prepare` is done here in the way it does it there.
"""

import sys

from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from trip.apps.cli import main
from trip.residual_unet import ResidualUNet3D
from trip.training import run


class ShardingAccelerator(Accelerator):
    """Shards every layer and the rest, and hands the optimizers the sharded parameters."""

    def prepare(self, denoiser, *optimizers):
        mesh = init_device_mesh("cpu", (self.num_processes,))
        names = {id(parameter): name for name, parameter in denoiser.named_parameters()}
        for module in denoiser.modules():
            if type(module).__name__ in ResidualUNet3D._no_split_modules:
                fully_shard(module, mesh=mesh)
        fully_shard(denoiser, mesh=mesh)
        sharded = dict(denoiser.named_parameters())
        assert all(isinstance(parameter, DTensor) for parameter in sharded.values())
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["params"] = [sharded[names[id(parameter)]] for parameter in group["params"]]
        return denoiser, *optimizers


if __name__ == "__main__":
    run.Accelerator = ShardingAccelerator
    sys.exit(main(sys.argv[1:]))
