"""The Inception-v3 of FID: TensorFlow's network of 2015-12-05, up to its last pool of 2048 features.

Parameter names are pytorch-fid's. Against torchvision's Inception-v3: batch normalisation with eps 1e-3, average pools
that do not count their padding, a max-pool in the last block, and no classifier. Modules are declared branch by branch
in TensorFlow's order, which `trip.evaluation.convert` relies on.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trip.evaluation.features.base import NORM_EPS, FrameFeatures, load_strictly, squash

SIZE = 299
FEATURES = 2048

Maps = Float[Tensor, "n _ _ _"]


class BasicConv2d(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    folds = (("conv", "bn"),)

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        pads = (padding, padding) if isinstance(kernel, int) else (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(in_channels, out_channels, sides, stride, pads, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=NORM_EPS)

    def forward(self, x: Maps) -> Maps:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def average(x: Maps) -> Maps:
    """3x3 mean of the pixels that exist."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(nn.Module):
    """35 x 35: 1, 1 -> 5, 1 -> 3 -> 3, mean -> 1."""

    def __init__(self, in_channels: int, pool_features: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 64)
        self.branch5x5_1 = BasicConv2d(in_channels, 48)
        self.branch5x5_2 = BasicConv2d(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, padding=1)
        self.branch_pool = BasicConv2d(in_channels, pool_features)

    def forward(self, x: Maps) -> Maps:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], dim=1)


class InceptionB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3 = BasicConv2d(in_channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 64)
        self.branch3x3dbl_2 = BasicConv2d(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = BasicConv2d(96, 96, 3, stride=2)

    def forward(self, x: Maps) -> Maps:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, stride=2)], dim=1)


class InceptionC(nn.Module):
    """17 x 17: 1, 1 -> 1x7 -> 7x1, twice that, mean -> 1."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = BasicConv2d(in_channels, 192)
        self.branch7x7_1 = BasicConv2d(in_channels, width)
        self.branch7x7_2 = BasicConv2d(width, width, (1, 7))
        self.branch7x7_3 = BasicConv2d(width, 192, (7, 1))
        self.branch7x7dbl_1 = BasicConv2d(in_channels, width)
        self.branch7x7dbl_2 = BasicConv2d(width, width, (7, 1))
        self.branch7x7dbl_3 = BasicConv2d(width, width, (1, 7))
        self.branch7x7dbl_4 = BasicConv2d(width, width, (7, 1))
        self.branch7x7dbl_5 = BasicConv2d(width, 192, (1, 7))
        self.branch_pool = BasicConv2d(in_channels, 192)

    def forward(self, x: Maps) -> Maps:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), seven, twice, self.branch_pool(average(x))], dim=1)


class InceptionD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = BasicConv2d(in_channels, 192)
        self.branch3x3_2 = BasicConv2d(192, 320, 3, stride=2)
        self.branch7x7x3_1 = BasicConv2d(in_channels, 192)
        self.branch7x7x3_2 = BasicConv2d(192, 192, (1, 7))
        self.branch7x7x3_3 = BasicConv2d(192, 192, (7, 1))
        self.branch7x7x3_4 = BasicConv2d(192, 192, 3, stride=2)

    def forward(self, x: Maps) -> Maps:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, stride=2)], dim=1)


class InceptionE(nn.Module):
    """8 x 8: 1, 1 -> (1x3, 3x1), 1 -> 3 -> (1x3, 3x1), pool -> 1; the pool is a maximum in the last block."""

    def __init__(self, in_channels: int, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.branch1x1 = BasicConv2d(in_channels, 320)
        self.branch3x3_1 = BasicConv2d(in_channels, 384)
        self.branch3x3_2a = BasicConv2d(384, 384, (1, 3))
        self.branch3x3_2b = BasicConv2d(384, 384, (3, 1))
        self.branch3x3dbl_1 = BasicConv2d(in_channels, 448)
        self.branch3x3dbl_2 = BasicConv2d(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = BasicConv2d(384, 384, (1, 3))
        self.branch3x3dbl_3b = BasicConv2d(384, 384, (3, 1))
        self.branch_pool = BasicConv2d(in_channels, 192)

    def forward(self, x: Maps) -> Maps:
        three, twice = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        split = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        split += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.last else average(x)
        return torch.cat([self.branch1x1(x), *split, self.branch_pool(pooled)], dim=1)


class FIDInception(nn.Module):
    """Pictures in [-1, 1] -> the 2048 features of the last pool."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = BasicConv2d(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = BasicConv2d(32, 32, 3)
        self.Conv2d_2b_3x3 = BasicConv2d(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = BasicConv2d(64, 80)
        self.Conv2d_4a_3x3 = BasicConv2d(80, 192, 3)
        self.Mixed_5b = InceptionA(192, pool_features=32)
        self.Mixed_5c = InceptionA(256, pool_features=64)
        self.Mixed_5d = InceptionA(288, pool_features=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, width=128)
        self.Mixed_6c = InceptionC(768, width=160)
        self.Mixed_6d = InceptionC(768, width=160)
        self.Mixed_6e = InceptionC(768, width=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, last=False)
        self.Mixed_7c = InceptionE(2048, last=True)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "n 3 299 299"]) -> Float[Tensor, "n 2048"]:
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  #  64  147 x 147
        x = self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2))  #               80   73 x 73
        x = F.max_pool2d(self.Conv2d_4a_3x3(x), 3, stride=2)  #              192   35 x 35
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))  #                288   35 x 35
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))  #                768   17 x 17
        x = self.Mixed_6e(self.Mixed_6d(x))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  #               2048    8 x 8
        return x.mean(dim=(2, 3))


def inception_features(weights: Path, device: str = "cpu") -> FrameFeatures:
    """The features of FID: frames squashed to 299 x 299, x / 127.5 - 1 as in pytorch-fid.

    Raises:
        ValueError: a file that is not this network's.
    """
    network = load_strictly(FIDInception(), weights, "the FID Inception-v3 without its classifier").to(device)
    return FrameFeatures(
        name="Inception-v3 (FID)",
        size=SIZE,
        network=network,
        prepare=lambda frames: squash(frames, SIZE),
        device=device,
        chunk=8,
    )
