"""Whole tensors out of sharded ones and back: FSDP2 keeps a part of every weight, gradient and moment a process."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from trip.training.config import TrainingConfig


def set_up_fsdp2(plugin: Any, config: TrainingConfig) -> None:
    """Let mixed precision cast weights, but neither the network's inputs nor the sums of gradients.

    accelerate's own policy would round timesteps (bfloat16 has no odd number above 256), noise levels and latents.

    Raises:
        ValueError: Muon.
    """
    if config.optimizer == "muon":
        raise ValueError(
            "optimizer (='muon') needs whole matrices, and FSDP2 leaves every process a part; choose 'adamw', or "
            "configs/accelerate/ddp.yaml"
        )
    policy = plugin.mixed_precision_policy
    if policy is not None:
        exact = {"cast_forward_inputs": False, "output_dtype": None, "reduce_dtype": torch.float32}
        plugin.mixed_precision_policy = replace(policy, **exact)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or the whole of a sharded one; the latter is a collective call of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(named: Iterable[tuple[str, Tensor]], keep: bool = True) -> dict[str, Tensor]:
    """Whole tensors on the CPU, empty in processes that do not keep them; a collective call where any is sharded.

    No process holds more than one gathered tensor on its device at a time, and none after the call.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in named:
        all_of_it = whole(tensor.detach())
        if keep:
            kept[name] = all_of_it.to("cpu", copy=isinstance(tensor, DTensor)).contiguous()
        del all_of_it
    return kept


def local(tensor: Tensor) -> Tensor:
    """The tensor itself, or this process's part of a sharded one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, or one that is sharded alike, into `target`."""
    target.copy_(like(target, value))


def like(target: Tensor, value: Tensor) -> Tensor:
    """The value, sharded as the target is."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(target.device, target.dtype), target.device_mesh, target.placements)
