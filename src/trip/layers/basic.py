"""Small parts that all layers share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, computed in float32 on CPUs: their half-precision channels-last kernel is 3x slower.

    Their channels-last backward crashes where the weights need gradients and the input does not (torch 2.13), as
    behind frozen layers; such an input is given a gradient that nobody reads.
    """

    def forward(self, input: Tensor) -> Tensor:
        """b c ... -> b c ..., same dtype and memory layout."""
        if input.device.type == "cpu" and torch.is_grad_enabled() and not input.requires_grad:
            input = input.detach().requires_grad_()
        if input.device.type != "cpu" or input.dtype == torch.float32 or self.weight is None:
            return super().forward(input)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


def zero_init(layer: nn.Module) -> None:
    """Set a layer to zero: a residual branch that ends in it adds nothing until training moves it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
