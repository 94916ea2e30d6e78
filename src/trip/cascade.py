r"""Clips at a photograph's own size: the photograph moved along the motion of a small clip.

A base model makes a small clip, which says what moves where. `upsample` reads that off the clip (`trip.motion`) and
moves the full-size photograph along it; nothing is sharper than the photograph itself. Per frame,

    x_i = a_i (warp(x, field_i) + t_i) + (1 - a_i) fill_i,

with the soft visibility a_i. What lies beyond the photograph's edge is filled from the enlarged base clip, brought to
the photograph's colours at low frequencies, with fine texture of the photograph mirrored at its edge; what an object
uncovers, from the colours around it. t_i is what the base shows beyond motion: light that flickers, rain, snow. Objects
are layers of their own with soft edges. Frame 1 is the photograph.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from trip.motion.estimation import Estimate, estimate_motion
from trip.motion.fields import Motion, from_matrices, grid, inside, sample, warp

Picture = Float32[np.ndarray, "_ _ 3"]
Share = Float32[np.ndarray, "_ _"]

FEATHER = 0.03
"""Width of the soft edge between photograph and fill, in widths."""

COLOUR_SIDE = 32
"""Shorter side, pixels, at which the colours of the fill are brought to those of the photograph."""

TEXTURE = 0.08
"""Largest amplitude of the mirrored photograph's detail in the fill: grass and leaves, but no second castle."""

LIGHT_ERROR, REST_ERROR = 0.05, 0.03
"""What a model's errors amount to in a clip that stands still: of the log of the light, and of the rest."""


def upsample(
    photograph: Float[Tensor, "3 H W"],
    base: Float[Tensor, "f 3 h w"] | None,
    *,
    height: int,
    width: int,
    motion: Motion | None = None,
) -> Float[Tensor, "f 3 height width"]:
    """A clip of the photograph that moves as the base clip does.

    Args:
        photograph: RGB in [0, 1] at its own size. base: a clip of all of it at any size, RGB in [0, 1]; None with a
            motion given by hand, where what is uncovered is the photograph mirrored at its edges.
        height, width: of the frames, pixels. motion: in place of the one read off the base clip.

    Raises:
        ValueError: neither base nor motion, values that are not finite, or a base that `estimate_motion` refuses.
    """
    return torch.stack(list(upsampled(photograph, base, height=height, width=width, motion=motion)))


def upsampled(
    photograph: Float[Tensor, "3 H W"],
    base: Float[Tensor, "f 3 h w"] | None,
    *,
    height: int,
    width: int,
    motion: Motion | None = None,
) -> Iterator[Float[Tensor, "3 height width"]]:
    """The frames of `upsample` one by one: memory is that of a few frames."""
    if motion is None:
        if base is None:
            raise ValueError("there is neither a base clip nor a motion; pass one of them")
        motion = estimate_motion(base)
    photograph = photograph.detach().cpu().float().clamp(0, 1)
    yield _picture(photograph, height, width)
    layers = _layers(photograph, motion, height, width)
    extra = None if base is None else _Beyond.of(base.detach().cpu().float(), motion)
    for index in range(1, len(motion.field)):
        yield _frame(photograph, layers, extra, index, height, width)


# ------------------------------------------------------------------------------------------------------- layers


@dataclass(frozen=True)
class _Layer:
    """What moves as one: everything, or an object.

    Attributes:
        motion: fields of all frames at the base's size; maps: exact ones in place of them, where there are.
        alpha: share of the photograph's pixels that belong to it, 1 h w; None for everything.
    """

    motion: Motion
    maps: Tensor | None
    alpha: Tensor | None

    def field(self, index: int, height: int, width: int) -> Float[Tensor, "1 2 height width"]:
        if self.maps is not None:
            return _from_maps(self.maps[index : index + 1], self.motion, height, width)
        part = slice(index, index + 1)
        return (
            Motion(self.motion.field[part], self.motion.visible[part], self.motion.confidence[part])
            .resize(height, width)
            .field
        )


def _from_maps(maps: Tensor, motion: Motion, height: int, width: int) -> Tensor:
    """The field of maps that were read off frames of other proportions (rounded sizes)."""
    rows, columns = motion.field.shape[-2:]
    taller = torch.diag(torch.tensor([1.0, (height / width) / (rows / columns), 1.0], dtype=maps.dtype))
    return from_matrices(taller @ maps @ taller.inverse(), height, width)


def _layers(photograph: Tensor, motion: Motion, height: int, width: int) -> list[_Layer]:
    """The background first, objects over it."""
    if not isinstance(motion, Estimate) or motion.kind == "dense":
        return [_Layer(motion, None, None)]
    masks = [_refined(share[0].numpy(), photograph, height, width) for share in motion.objects]
    objects = [_Layer(motion, maps, mask) for maps, mask in zip(motion.maps, masks, strict=True)]
    return [_Layer(motion, motion.camera, None), *objects]


def _refined(share: np.ndarray, photograph: Tensor, height: int, width: int) -> Float[Tensor, "1 height width"]:
    """A coarse mask whose edge follows the photograph's (guided filter, He et al. 2010, by luma)."""
    picture = _picture(photograph, height, width).permute(1, 2, 0).numpy()
    guide = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    mask = cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR)
    size = (2 * round(0.02 * width) + 1,) * 2

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, size)

    slope = (mean(guide * mask) - mean(guide) * mean(mask)) / (mean(guide * guide) - mean(guide) ** 2 + 1e-3)
    alpha = mean(slope) * guide + mean(mean(mask) - slope * mean(guide))
    return torch.from_numpy(np.clip((alpha - 0.25) / 0.5, 0, 1).astype(np.float32))[None]


# -------------------------------------------------------------------------------------------------------- frames


def _frame(
    photograph: Tensor, layers: list[_Layer], extra: "_Beyond | None", index: int, height: int, width: int
) -> Float[Tensor, "3 height width"]:
    """One frame: background with fill, what the base shows beyond motion, objects."""
    ground, *objects = layers
    field = ground.field(index, height, width)
    shown = warp(photograph[None], field)[0, :, 0].permute(1, 2, 0).numpy()
    behind = _behind(field, [each.alpha for each in objects if each.alpha is not None])
    if ground.maps is None:
        part = F.interpolate(ground.motion.visible[index : index + 1], (height, width), mode="bilinear")
        behind = np.maximum(behind, (1 - part[0, 0].numpy()) * inside(field)[0, 0].numpy())
    if behind.any():
        shown = _covered(shown, behind)
    beyond = _beyond_edge(field)
    if beyond.any() and extra is not None:
        shown = _filled(shown, beyond, extra.clip[index])
    if extra is not None:
        shown = extra.added(shown, index)
    out = torch.from_numpy(shown).permute(2, 0, 1)
    for each in objects:
        own = each.field(index, height, width)
        alpha = sample(each.alpha[None], grid(height, width) + own, border="zeros")[0]  # pyright: ignore
        out = out + alpha * (warp(photograph[None], own)[0, :, 0] - out)
    return out.clamp(0, 1)


def _behind(field: Tensor, alphas: list[Tensor]) -> Share:
    """Share of a frame's pixels where the photograph shows an object in place of its background, soft."""
    height, width = field.shape[-2:]
    covered = np.zeros((height, width), np.float32)
    for alpha in alphas:
        grown = cv2.dilate(alpha[0].numpy(), np.ones((_odd(0.02 * width),) * 2, np.uint8))
        grown = cv2.GaussianBlur(grown, (0, 0), 0.005 * width)
        covered = np.maximum(
            covered, sample(torch.from_numpy(grown)[None, None], grid(height, width) + field)[0, 0].numpy()
        )
    return covered


def _beyond_edge(field: Tensor) -> Share:
    """1 where a frame shows what lies beyond the photograph's edge, falling to 0 over `FEATHER` on this side of it."""
    outside = inside(field)[0, 0].numpy() < 1
    if not outside.any():
        return np.zeros(outside.shape, np.float32)
    room = cv2.distanceTransform((~outside).astype(np.uint8), cv2.DIST_L2, 3) / (FEATHER * outside.shape[1])
    room = np.clip(room, 0, 1)
    return 1 - room * room * (3 - 2 * room)


def _covered(shown: Picture, behind: Share) -> Picture:
    """The background behind an object: the colours around it, carried on."""
    known = (1 - behind)[..., None] ** 2
    return shown + behind[..., None] * (_spread(shown, known) - shown)


def _filled(shown: Picture, beyond: Share, base: Picture) -> Picture:
    """The fill beyond the edge: the base's colours, the mirrored photograph's texture."""
    height, width = beyond.shape
    scale = COLOUR_SIDE / min(height, width)
    size = max(2, round(width * scale)), max(2, round(height * scale))
    enlarged = cv2.resize(base, (width, height), interpolation=cv2.INTER_CUBIC)
    weight = cv2.resize((beyond == 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)[..., None] ** 2
    gap = cv2.resize(shown - enlarged, size, interpolation=cv2.INTER_AREA)
    offset = cv2.resize(_spread(gap, weight), (width, height), interpolation=cv2.INTER_CUBIC)
    detail = TEXTURE * np.tanh((shown - cv2.GaussianBlur(shown, (0, 0), width / base.shape[1])) / TEXTURE)
    return shown + beyond[..., None] * (enlarged + offset + detail - shown)


def _spread(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values where they have weight, carried on smoothly to where they have none (pull and push)."""
    held = values * weight
    if min(values.shape[:2]) <= 2:
        return np.broadcast_to(held.sum((0, 1)) / max(float(weight.sum()), 1e-6), values.shape).astype(np.float32)
    size = (values.shape[1] + 1) // 2, (values.shape[0] + 1) // 2
    less = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)[..., None]
    coarse = cv2.resize(held, size, interpolation=cv2.INTER_AREA) / np.maximum(less, 1e-6)
    below = cv2.resize(_spread(coarse, np.minimum(2 * less, 1)), values.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return held + (1 - weight) * below


def _picture(photograph: Tensor, height: int, width: int) -> Float[Tensor, "3 height width"]:
    """The photograph at a size."""
    if photograph.shape[-2:] == (height, width):
        return photograph
    resized = F.interpolate(photograph[None], (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].clamp(0, 1)


def _odd(length: float) -> int:
    return 2 * round(length / 2) + 1


# ------------------------------------------------------------------------------------------------ beyond motion


@dataclass(frozen=True)
class _Beyond:
    """What a base clip shows beyond motion, at its own size.

    Light: the ratio of the colours' low frequencies to those of the moved still. Rest: what is left then, without what
    changes slowly: a model loses detail frame by frame, rain and snow come and go. Both are shrunk by what the model's
    errors amount to (Wiener), so that a clip that stands still is the still.

    Attributes:
        clip: the base, light, rest: f h w 3; None where a camera moves, or motion is given by hand.
    """

    clip: np.ndarray
    light: np.ndarray | None = None
    rest: np.ndarray | None = None

    @classmethod
    def of(cls, base: Float[Tensor, "f 3 h w"], motion: Motion) -> "_Beyond":
        clip = base.permute(0, 2, 3, 1).numpy()
        if not (
            isinstance(motion, Estimate) and torch.equal(motion.camera, motion.camera[:1].expand_as(motion.camera))
        ):
            return cls(clip)
        still = warp(base[:1], motion.field, "bilinear")[0].permute(1, 2, 3, 0).numpy()
        width = clip.shape[2]
        light = np.log(_low(clip, width) + 0.05) - np.log(_low(still, width) + 0.05)
        light = np.exp(_shrunk(light, LIGHT_ERROR, width))
        rest = clip - light * still
        rest = rest - _low(rest, width)
        rest = rest - _slow(rest)
        rest[0] = 0
        return cls(clip, light, _shrunk(rest, REST_ERROR, width))

    def added(self, shown: Picture, index: int) -> Picture:
        """A frame with light and rest."""
        if self.light is None or self.rest is None:
            return shown
        size = shown.shape[1::-1]
        light, rest = (cv2.resize(each[index], size, interpolation=cv2.INTER_CUBIC) for each in (self.light, self.rest))
        return shown * light + rest


def _low(clip: np.ndarray, width: int) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(each, (0, 0), 0.1 * width) for each in clip])


def _slow(clip: np.ndarray) -> np.ndarray:
    """Median over up to seven frames around each."""
    padded = np.pad(clip, ((3, 3), (0, 0), (0, 0), (0, 0)), mode="reflect" if len(clip) > 3 else "edge")
    return np.median(np.stack([padded[i : i + len(clip)] for i in range(7)]), 0)


def _shrunk(values: np.ndarray, error: float, width: int) -> np.ndarray:
    """Values times the share of their power, around every pixel over the clip, that errors do not explain."""
    power = cv2.GaussianBlur((values**2).mean((0, -1)), (0, 0), 0.1 * width)
    return values * np.maximum(0, 1 - error**2 / np.maximum(power, 1e-12))[None, ..., None]
