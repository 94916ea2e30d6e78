"""Small parts that all layers share."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NATIVE_POSITIONS = 1024
"""From this many positions on, torch's channels-last GroupNorm on CPUs is vectorised in half precision too."""


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, computed in float32 where that is faster: half precision on CPUs, unless only evaluated
    over many positions. (There, bfloat16 takes half the time forward, and twice the time backward.)

    Their channels-last backward crashes where the weights need gradients and the input does not (torch 2.13), as
    behind frozen layers; such an input is given a gradient that nobody reads.
    """

    def forward(self, input: Tensor) -> Tensor:
        """b c ... -> b c ..., same dtype and memory layout."""
        if input.device.type == "cpu" and torch.is_grad_enabled() and not input.requires_grad:
            input = input.detach().requires_grad_()
        half = input.device.type == "cpu" and input.dtype != torch.float32 and self.weight is not None
        if not half or (math.prod(input.shape[2:]) >= NATIVE_POSITIONS and not torch.is_grad_enabled()):
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


def zero_init(layer: nn.Module) -> None:
    """Set a layer to zero: a residual branch that ends in it adds nothing until training moves it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
