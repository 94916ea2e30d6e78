"""I3D: Inception-v1 inflated to video (Carreira and Zisserman 2017), 400 classes of Kinetics; the network of FVD.

Parameter names are those of pytorch-i3d, the padding is TensorFlow's, so that the original weights give the original
logits. FVD takes the 400 logits, before the softmax (Unterthiner et al. 2018).
"""

from functools import reduce
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from trip.evaluation.features.base import NORM_EPS, VideoFeatures, conv_same, load_strictly, pad_same, squash

SIZE = 224
CLASSES = 400
FEWEST_FRAMES = 9
"""The last pool spans 2 steps of 8 frames each."""

MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Block -> channels in, and out of `b0`, `b1a`, `b1b`, `b2a`, `b2b`, `b3b`."""


class Unit3D(nn.Module):
    """Convolution with 'SAME' padding, batch normalisation, ReLU."""

    folds = (("conv3d", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f1 h1 w1"]:
        return F.relu(self.bn(conv_same(self.conv3d, x)), inplace=True)


class InceptionModule(nn.Module):
    """Four branches side by side: 1, 1 -> 3, 1 -> 3, pool -> 1."""

    def __init__(self, in_channels: int, out: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit3D(in_channels, out[0])
        self.b1a = Unit3D(in_channels, out[1])
        self.b1b = Unit3D(out[1], out[2], 3)
        self.b2a = Unit3D(in_channels, out[3])
        self.b2b = Unit3D(out[3], out[4], 3)
        self.b3b = Unit3D(in_channels, out[5])

    def forward(self, x: Float[Tensor, "b c f h w"]) -> Float[Tensor, "b d f h w"]:
        pooled = max_pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


def max_pool(
    x: Float[Tensor, "b c f h w"], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> Float[Tensor, "b c f1 h1 w1"]:
    """Max-pool with 'SAME' padding; zeros do for minus infinity, since x comes out of a ReLU.

    Axis by axis: the same maxima, without the indices that PyTorch's pools also work out on a CPU, a third of the
    network's time.
    """
    x = pad_same(x, kernel, stride)
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        x = axis_maxima(x, axis, k, s)
    return x


def axis_maxima(x: Tensor, axis: int, kernel: int, stride: int) -> Tensor:
    """Maxima of windows of `kernel` places along one axis, `stride` apart."""
    reach = (x.shape[axis] - kernel) // stride * stride + 1
    return reduce(torch.maximum, (x.narrow(axis, k, reach)[every(axis, stride)] for k in range(kernel)))


def every(axis: int, stride: int) -> tuple[slice, ...]:
    """The index that takes each `stride`-th place of an axis."""
    return (*(slice(None),) * axis, slice(None, None, stride))


class I3D(nn.Module):
    """Clips in [-1, 1] -> logits of Kinetics-400, averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit3D(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        for name, (in_channels, out) in MIXED.items():
            self.add_module(name, InceptionModule(in_channels, out))
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, CLASSES, 1)})
        self.to(memory_format=torch.channels_last_3d)  # pyright: ignore[reportCallIssue]

    def forward(self, video: Float[Tensor, "b 3 f 224 224"]) -> Float[Tensor, "b 400"]:
        """Logits.

        Raises:
            ValueError: fewer than `FEWEST_FRAMES` frames.
        """
        if video.shape[2] < FEWEST_FRAMES:
            raise ValueError(f"I3D needs at least {FEWEST_FRAMES} frames, got {video.shape[2]}; use longer clips")
        x = video.contiguous(memory_format=torch.channels_last_3d)
        x = max_pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))  #    64   f/2  56 x 56
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        x = self._blocks(max_pool(x, (1, 3, 3), (1, 2, 2)), "3bc")  #   480  f/2  28 x 28
        x = self._blocks(max_pool(x, (3, 3, 3), (2, 2, 2)), "4bcdef")  # 832 f/4  14 x 14
        x = self._blocks(max_pool(x, (2, 2, 2), (2, 2, 2)), "5bc")  #  1024  f/8   7 x 7
        x = self.logits["conv3d"](F.avg_pool3d(x, (2, 7, 7), stride=1))
        return rearrange(x, "b k f 1 1 -> b k f").mean(-1)

    def _blocks(self, x: Float[Tensor, "b c f h w"], names: str) -> Float[Tensor, "b d f h w"]:
        for letter in names[1:]:
            x = self.get_submodule(f"Mixed_{names[0]}{letter}")(x)
        return x


def i3d_features(weights: Path, device: str = "cpu") -> VideoFeatures:
    """The 400 logits that FVD is made of: frames squashed to 224 x 224, in [-1, 1].

    Raises:
        ValueError: a file that is not I3D's.
    """
    network = load_strictly(I3D(), weights, "I3D").to(device)
    return VideoFeatures(
        name="I3D-K400",
        size=SIZE,
        network=network,
        prepare=lambda frames: squash(frames, SIZE),
        chunk=2,  # of a single small clip, PyTorch convolves without oneDNN, more slowly
        device=device,
    )
