"""Temporal convolution: what makes a stack of frames a clip.

Parameter names follow diffusers' `TemporalConvLayer`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from trip.layers.basic import GroupNorm, zero_init


class FrameConv(nn.Conv3d):
    """Convolution over neighbouring frames, position by position: kernel (k, 1, 1), stride 1.

    Its weight is a (k, 1, 1) volume, its arithmetic that of a (k, 1) image convolution over `f x (h w)`, which is a
    view of channels-last memory and the case that convolution libraries are tuned for. Views are taken of `b f h w c`,
    because torch gives a batch of one a stride that hides the layout when it flattens `b c f h w` (4x slower in bf16).
    """

    def forward(self, x: Tensor) -> Tensor:
        """b c f h w -> b c f h w."""
        frames = x.permute(0, 2, 3, 4, 1).contiguous().flatten(2, 3)  # b f (h w) c
        y = F.conv2d(frames.permute(0, 3, 1, 2), self.weight.squeeze(-1), self.bias, padding=self.padding[:2])
        frames = y.permute(0, 2, 3, 1).contiguous().unflatten(2, x.shape[3:])  # b f h w c
        return frames.permute(0, 4, 1, 2, 3)


class TemporalConv(nn.Module):
    """x + conv4(conv3(conv2(conv1(x)))), each conv being GroupNorm, SiLU, dropout (not in the first), `FrameConv`.

    The last convolution starts at zero, so that a fresh layer is the identity and a fresh stack of 2-D layers and
    temporal convolutions treats every frame alone. GroupNorm takes its statistics over the whole clip.
    """

    def __init__(self, channels: int, groups: int, dropout: float = 0.1):
        super().__init__()

        def stage(*regularize: nn.Module) -> nn.Sequential:
            conv = FrameConv(channels, channels, (3, 1, 1), padding=(1, 0, 0))
            return nn.Sequential(GroupNorm(groups, channels), nn.SiLU(), *regularize, conv)

        self.conv1 = stage()
        self.conv2 = stage(nn.Dropout(dropout))
        self.conv3 = stage(nn.Dropout(dropout))
        self.conv4 = stage(nn.Dropout(dropout))
        self.zero_residual()

    def zero_residual(self) -> None:
        """Make the layer the identity: its residual branch returns zero until training moves it."""
        zero_init(self.conv4[-1])

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """(b f) c h w -> (b f) c h w."""
        frames = x.permute(0, 2, 3, 1).unflatten(0, (-1, num_frames))  # b f h w c
        clip = frames.permute(0, 4, 1, 2, 3)  # b c f h w
        y = clip + self.conv4(self.conv3(self.conv2(self.conv1(clip))))
        return y.transpose(1, 2).flatten(0, 1)
