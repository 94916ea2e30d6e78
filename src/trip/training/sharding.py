"""Whole tensors out of sharded ones and back: FSDP2 keeps a part of every weight, gradient and moment a process."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or the whole of a sharded one; the latter is a collective call of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor, or one that is sharded alike, into `target`."""
    target.copy_(like(target, value))


def like(target: Tensor, value: Tensor) -> Tensor:
    """The value, sharded as the target is."""
    if not isinstance(target, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(target.device, target.dtype), target.device_mesh, target.placements)
