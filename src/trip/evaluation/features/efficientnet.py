"""EfficientNet-Lite0 (ImageNet): a small image network, 4.7 million parameters, where CLIP's weights are not at hand.

Names are those of the package efficientnet-lite-pytorch. No squeeze-and-excitation, ReLU6, TensorFlow's padding.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trip.evaluation.features.base import NORM_EPS, FrameFeatures, conv_same, load_strictly, squash

SIZE = 224
FEATURES = 1280
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Repeats, kernel, stride of the first, expansion, channels out."""


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'SAME' padding, without bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h1 w1"]:
        return conv_same(self, input)


class Block(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1; plus x where shapes allow."""

    folds = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        if expansion > 1:
            self._expand_conv = SameConv2d(in_channels, width)
            self._bn0 = nn.BatchNorm2d(width, eps=NORM_EPS)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width)
        self._bn1 = nn.BatchNorm2d(width, eps=NORM_EPS)
        self._project_conv = SameConv2d(width, out_channels)
        self._bn2 = nn.BatchNorm2d(out_channels, eps=NORM_EPS)
        self.expands, self.skips = expansion > 1, stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h1 w1"]:
        wide = F.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        wide = F.relu6(self._bn1(self._depthwise_conv(wide)), inplace=True)
        out = self._bn2(self._project_conv(wide))
        return x + out if self.skips else out


class EfficientNetLite0(nn.Module):
    """Pictures, (x - 127) / 128 -> the 1280 features of the last pool; `_fc` would turn them into 1000 logits."""

    folds = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"))

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(32, eps=NORM_EPS)
        self._blocks = nn.ModuleList()
        channels = 32
        for repeats, kernel, stride, expansion, out in STAGES:
            for number in range(repeats):
                self._blocks.append(Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
        self._conv_head = SameConv2d(channels, FEATURES)
        self._bn1 = nn.BatchNorm2d(FEATURES, eps=NORM_EPS)
        self._fc = nn.Linear(FEATURES, 1000)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1280"]:
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self._bn0(self._conv_stem(x)), inplace=True)
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)), inplace=True).mean(dim=(2, 3))


def efficientnet_features(weights: Path, device: str = "cpu") -> FrameFeatures:
    """Pooled features: frames squashed to 224 x 224, (x - 127) / 128 as the network was trained.

    Raises:
        ValueError: a file that is not this network's.
    """
    network = load_strictly(EfficientNetLite0(), weights, "EfficientNet-Lite0").to(device)
    return FrameFeatures(
        name="EfficientNet-Lite0",
        size=SIZE,
        network=network,
        prepare=lambda frames: squash(frames, SIZE, mean=127.0, std=128.0),
        chunk=4,  # maps of more frames outgrow what the allocator keeps: every one would be new memory
        device=device,
    )
