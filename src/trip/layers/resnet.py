"""Spatial convolutions of the 3D-UNet: residual block, halving and doubling of the resolution.

They see a clip as a batch of frames, `(b f) c h w`. Parameter names follow diffusers' `ResnetBlock2D`,
`Downsample2D` and `Upsample2D`.
"""

import torch
import torch.nn.functional as F
from diffusers.models.activations import get_activation
from torch import Tensor, nn

from trip.layers.basic import GroupNorm


class ResnetBlock(nn.Module):
    """Residual block of two 3x3 convolutions, told the time by a shift, or by a scale and a shift.

    "default":      h = conv1(act(norm1(x))) + W e;  y = (skip(x) + conv2(act(norm2(h)))) / output_scale
    "scale_shift":  [s, m] = W e;  norm2(h) becomes norm2(h) (1 + s) + m, and nothing is added to h

    Args:
        in_channels, out_channels: a 1x1 convolution carries the skip connection where they differ.
        emb_channels: width of the time embedding e.
        groups, eps, activation: of the two GroupNorms and their activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        emb_channels: int,
        groups: int,
        eps: float,
        activation: str = "silu",
        time_scale_shift: str = "default",
        output_scale: float | int = 1,
    ):
        super().__init__()
        self.scale_shift = time_scale_shift == "scale_shift"
        self.output_scale = output_scale
        self.nonlinearity = get_activation(activation)
        self.norm1 = GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(emb_channels, out_channels * (2 if self.scale_shift else 1))
        self.norm2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: (b f) c h w; emb: (b f) d, already activated. Returns (b f) c' h w."""
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        time = self.time_emb_proj(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + time)
        h = self.conv2(self.nonlinearity(h))
        skip = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return skip + h if self.output_scale == 1 else (skip + h) / self.output_scale


class Downsample(nn.Module):
    """Strided 3x3 convolution; `padding=0` pads the right and bottom edges only, as diffusers does."""

    def __init__(self, channels: int, padding: int = 1):
        super().__init__()
        self.uneven = padding == 0
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c h/2 w/2, odd sizes rounded up (padding 1) or down (padding 0)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.uneven else x)


class Upsample(nn.Module):
    """Nearest-neighbour enlargement to the size of the skip connection that follows, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """b c h w -> b c *size."""
        return self.conv(F.interpolate(x, size=size, mode="nearest"))
