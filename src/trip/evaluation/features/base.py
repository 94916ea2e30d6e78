"""What all feature networks share: how clips go in and features come out, TensorFlow's padding, strict loading."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trip.data.text import printable

NORM_EPS = 1e-3
"""Of every batch normalisation in networks that come from TensorFlow."""


@runtime_checkable
class FeatureNetwork(Protocol):
    """uint8 clips "b f H W 3" -> float32 features on the CPU: "b d" of clips, "b f d" of frames.

    Attributes:
        name: goes into every output that these features are part of. size: side of the square that the network sees.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def __call__(self, clips: UInt8[Tensor, "b f H W 3"]) -> Float[Tensor, "b *f d"]: ...


@dataclass(frozen=True, kw_only=True)
class Features:
    """A network with what comes before it, shown `chunk` items at a time: memory does not grow with their number.

    Attributes:
        name, size: see `FeatureNetwork`. network: prepared items -> "n d". prepare: frames "n H W 3" -> "n 3 S S".
        chunk: frames or clips at once. device: of the network.
    """

    name: str
    size: int
    network: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor]
    chunk: int = 16
    device: str = "cpu"

    def in_chunks(self, items: Tensor, features: Callable[[Tensor], Tensor]) -> Float[Tensor, "n d"]:
        """Features of all items, on the CPU."""
        return torch.cat([features(part.to(self.device)) for part in items.split(self.chunk)]).float().cpu()


@dataclass(frozen=True, kw_only=True)
class FrameFeatures(Features):
    """Features of every frame."""

    @torch.inference_mode()
    def __call__(self, clips: UInt8[Tensor, "b f H W 3"]) -> Float[Tensor, "b f d"]:
        """Features of the frames."""
        frames = rearrange(clips, "b f H W c -> (b f) H W c")
        found = self.in_chunks(frames, lambda part: self.network(self.prepare(part)))
        return rearrange(found, "(b f) d -> b f d", b=len(clips))


@dataclass(frozen=True, kw_only=True)
class VideoFeatures(Features):
    """Features of whole clips, prepared as "b 3 f S S".

    Attributes:
        pick: indices of the frames that the network sees, given how many there are; by default all.
    """

    chunk: int = 1
    pick: Callable[[int], Sequence[int]] = range

    @torch.inference_mode()
    def __call__(self, clips: UInt8[Tensor, "b f H W 3"]) -> Float[Tensor, "b d"]:
        """Features of the clips."""
        return self.in_chunks(clips[:, list(self.pick(clips.shape[1]))], self._of_part)

    def _of_part(self, clips: UInt8[Tensor, "b f H W 3"]) -> Float[Tensor, "b d"]:
        frames = self.prepare(rearrange(clips, "b f H W c -> (b f) H W c"))
        return self.network(rearrange(frames, "(b f) c H W -> b c f H W", b=len(clips)))


def squash(
    frames: UInt8[Tensor, "n H W 3"], size: int, *, mean: float = 127.5, std: float = 127.5
) -> Float[Tensor, "n 3 S S"]:
    """(x - mean) / std of frames squashed to size x size; bilinear, align_corners=False, no antialias.

    As FVD and FID are computed in the literature; by default pixels then lie in [-1, 1].
    """
    pixels = rearrange(frames, "n H W c -> n c H W").float()
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False, antialias=False)
    return (pixels - mean) / std


def same_padding(sides: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Zeros (before, after) each axis as TensorFlow's 'SAME' has them: the smaller half first.

    A side of n needs ``max(k - s, 0)`` if s divides n, else ``max(k - n mod s, 0)``.
    """
    totals = [max(k - (n % s or s), 0) for n, k, s in zip(sides, kernel, stride, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around the last axes, see `same_padding`."""
    pads = same_padding(x.shape[-len(kernel) :], kernel, stride)
    return F.pad(x, [p for pair in reversed(pads) for p in pair]) if any(map(any, pads)) else x


def conv_same(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution with 'SAME' padding; where both halves are equal, it pads by itself, which saves a copy of x."""
    convolve = F.conv3d if isinstance(conv, nn.Conv3d) else F.conv2d
    pads = same_padding(x.shape[2:], conv.kernel_size, conv.stride)
    even = all(before == after for before, after in pads)
    x = x if even else pad_same(x, conv.kernel_size, conv.stride)
    padding = [before if even else 0 for before, _ in pads]
    return convolve(x, conv.weight, conv.bias, conv.stride, padding, groups=conv.groups)


def fold_norms(network: nn.Module) -> nn.Module:
    """Multiply every batch normalisation into the convolution before it; returns the network.

    The same function up to rounding, with one pass less over every map. Modules name their pairs in `folds`.
    """
    for module in list(network.modules()):
        for conv, norm in getattr(module, "folds", ()):
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network


def load_strictly(network: nn.Module, path: Path, title: str) -> nn.Module:
    """Load a safetensors file that holds exactly this network's tensors; returns it frozen, float32, norms folded.

    Raises:
        ValueError: an unreadable file, or tensors that are not this network's.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no readable safetensors file ({error}); get it again") from None
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    wrong = sorted(name for name in shapes.keys() | tensors.keys() if not _fits(name, shapes, tensors))
    if wrong:
        example = printable(wrong[0], 100)
        raise ValueError(f"{path} does not hold {title}: {len(wrong)} tensors differ, such as {example}; get it again")
    network.load_state_dict(tensors)
    return fold_norms(network.eval()).requires_grad_(False)


def _fits(name: str, shapes: dict[str, torch.Size], tensors: dict[str, Tensor]) -> bool:
    return name in shapes and name in tensors and shapes[name] == tensors[name].shape
