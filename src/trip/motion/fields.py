r"""Displacement fields and their algebra: composition, inversion, resizing, warping, visibility.

**Convention.** A field says for every pixel p of frame i where in the still its content lies, ``p + field[i](p)``
(a backward warp: ``frame_i(p) = still(p + field[i](p))``, without holes). Shape ``f 2 h w``; channel 0 is x (right),
channel 1 is y (down).

**Unit.** Places and displacements are in *widths of the clip*, on both axes, with the origin in the upper left corner:
the centre of pixel (row i, column j) lies at ``((j + 1/2) / w, (i + 1/2) / w)``. So a field means the same at 64
pixels, in latents and in the full-size photograph. One unit for both axes keeps a turn a turn on oblong pictures, which
shares of each side would not. Where a size is rounded (a photograph of 640 x 427 in 80 x 53 latents), `resize` rescales
y by the ratio of the heights.

Everything is computed in float32 by default and follows the dtype of its input.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Field = Float[Tensor, "f 2 h w"]
Share = Float[Tensor, "f 1 h w"]
"""Values in [0, 1] of every pixel of every frame."""
Matrices = Float[Tensor, "f 3 3"]
"""Maps of the plane, in widths: place in frame i -> place in the still, ``(x, y, 1)`` columns."""

BORDERS = {"reflect": "reflection", "replicate": "border", "zeros": "zeros"}
MODES = ("bicubic", "bilinear", "nearest")


@dataclass(frozen=True)
class Motion:
    """What moves where.

    Attributes:
        field: where in the still the content of every pixel lies.
        visible: 1 where that place of the still is what the pixel shows, 0 where it shows something that the still does
            not have: from outside the picture, or from behind an object.
        confidence: how far the field itself is to be trusted; 1 for motion given by hand.
    """

    field: Field
    visible: Share
    confidence: Share

    def resize(self, height: int, width: int) -> "Motion":
        """The same motion for frames of another size."""
        shares = (resize_share(share, height, width) for share in (self.visible, self.confidence))
        return Motion(resize(self.field, height, width), *shares)

    def then(self, later: "Motion") -> "Motion":
        """This motion, and then `later` of what it shows."""
        places = grid(*later.field.shape[-2:], like=later.field) + later.field
        visible, confidence = (sample(share, places) for share in (self.visible, self.confidence))
        field = compose(self.field, later.field)
        return Motion(field, visible * later.visible * inside(field), confidence * later.confidence)


# ----------------------------------------------------------------------------------------------------- places


def grid(height: int, width: int, like: Tensor | None = None) -> Float[Tensor, "2 h w"]:
    """Places (x, y) of the pixels' centres, in widths."""
    options = {"dtype": like.dtype, "device": like.device} if like is not None else {}
    x = (torch.arange(width, **options) + 0.5) / width
    y = (torch.arange(height, **options) + 0.5) / width
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def identity(num_frames: int, height: int, width: int) -> Field:
    """Nothing moves."""
    return torch.zeros(num_frames, 2, height, width)


def sample(
    values: Float[Tensor, "#f c h w"],
    places: Float[Tensor, "f 2 H W"],
    mode: str = "bilinear",
    border: str = "replicate",
) -> Float[Tensor, "f c H W"]:
    """Values at places given in widths; one frame of values serves all.

    Args:
        values: f c h w. places: f 2 H W, of frames with the same proportions. mode: "bicubic", "bilinear" or "nearest".
        border: what lies beyond the edge: "reflect", "replicate" or "zeros".

    Raises:
        ValueError: unknown border or mode.
    """
    for name, choice, choices in (("border", border, BORDERS), ("mode", mode, MODES)):
        if choice not in choices:
            raise ValueError(f"{name} (={choice!r}) is unknown; choose from {', '.join(choices)}")
    height, width = values.shape[-2:]
    scale = places.new_tensor([1.0, width / height]).view(2, 1, 1)
    at = (places * scale).movedim(1, -1)
    values = values.expand(len(places), -1, -1, -1)
    if mode == "bicubic":
        at = _straightened(at, at.new_tensor([width, height]))
    return F.grid_sample(values, (2 * at - 1).to(values.dtype), mode, BORDERS[border], align_corners=False)


def _straightened(at: Tensor, size: Tensor) -> Tensor:
    """Places, in shares of the sides, that make torch's bicubic interpolation reproduce a ramp.

    Its kernel (a = -0.75; OpenCV's too) puts what lies at the fraction t between two pixels at ``u^3 + 3 u / 4 + 1/2``,
    u = t - 1/2: up to 0.05 pixels off, to and fro with every pixel crossed, a tremble in slow moves. The inverse of
    that cubic is ``sinh(asinh(4 u) / 3)``.
    """
    pixel = at * size - 0.5
    start = pixel.floor()
    return (start + 1 + torch.sinh(torch.asinh(4 * (pixel - start - 0.5)) / 3)) / size


def from_matrices(matrices: Matrices, height: int, width: int) -> Field:
    """The field of a map of the plane per frame, exact; computed in the matrices' precision, returned in float32."""
    places = grid(height, width, like=matrices)
    ones = torch.ones_like(places[:1])
    moved = torch.einsum("fij,jhw->fihw", matrices, torch.cat([places, ones]))
    return (moved[:, :2] / moved[:, 2:] - places).float()


# ---------------------------------------------------------------------------------------------------- algebra


def displacement_at(field: Field, places: Float[Tensor, "f 2 H W"]) -> Float[Tensor, "f 2 H W"]:
    """A field at any places; beyond the outermost pixels it goes on linearly, so that affine fields stay exact."""
    height, width = field.shape[-2:]
    low = places.new_tensor([0.5 / width, 0.5 / width]).view(2, 1, 1)
    high = places.new_tensor([1 - 0.5 / width, (height - 0.5) / width]).view(2, 1, 1)
    held = places.clamp(low, high)
    value = sample(field, held)
    if torch.equal(held, places) or min(height, width) < 2:
        return value
    by_x, by_y = (sample(part, held) for part in gradients(field))
    beyond = places - held
    return value + by_x * beyond[:, :1] + by_y * beyond[:, 1:]


def gradients(field: Field) -> tuple[Field, Field]:
    """Derivatives of a field by x and by y, both in widths."""
    by_y, by_x = torch.gradient(field, spacing=1 / field.shape[-1], dim=(-2, -1))
    return by_x, by_y


def compose(first: Field, later: Field) -> Field:
    """The field of `first`, and then `later` of what it shows: ``later(p) + first(p + later(p))``."""
    return later + displacement_at(first, grid(*later.shape[-2:], like=later) + later)


def invert(field: Field, iterations: int = 20) -> Field:
    """The field g that undoes f: ``g(p) + f(p + g(p)) = 0``, by Newton's fixed point iteration.

    Plain iteration ``g <- -f(p + g)`` diverges where f shrinks the picture to half or less; a Newton step needs one
    iteration for any affine field. Where the field folds (its Jacobian is not positive), the plain step is taken, and
    the result is one of several places or none: `round_trip` tells which.
    """
    places, inverse = grid(*field.shape[-2:], like=field), -field
    by_x, by_y = gradients(field) if min(field.shape[-2:]) > 1 else (torch.zeros_like(field),) * 2
    for _ in range(iterations):
        at = places + inverse
        gap = inverse + displacement_at(field, at)
        if float(gap.abs().max()) < 1e-7:
            break
        inverse = inverse - _newton_step(gap, sample(by_x, at), sample(by_y, at))
    return inverse


def _newton_step(gap: Field, by_x: Field, by_y: Field) -> Field:
    """``(1 + J)^-1 gap``, or the gap itself where ``1 + J`` turns the plane over."""
    a, b, c, d = 1 + by_x[:, 0], by_y[:, 0], by_x[:, 1], 1 + by_y[:, 1]
    area = a * d - b * c
    solved = torch.stack([d * gap[:, 0] - b * gap[:, 1], a * gap[:, 1] - c * gap[:, 0]], 1)
    folded = (area < 0.05)[:, None]
    return torch.where(folded, gap, solved / area[:, None].clamp_min(0.05))


def accumulate(steps: Float[Tensor, "g 2 h w"]) -> Field:
    """Fields to frame 1 of a chain of steps, g + 1 frames; ``steps[i]`` leads from frame i + 1 back to frame i."""
    fields = [torch.zeros_like(steps[:1])]
    for step in steps.split(1):
        fields.append(compose(fields[-1], step))
    return torch.cat(fields)


def resize(field: Field, height: int, width: int) -> Float[Tensor, "f 2 H W"]:
    """The same motion for frames of another size: bilinear, averaged where it shrinks, y rescaled by the heights."""
    rows, columns = field.shape[-2:]
    if (rows, columns) == (height, width):
        return field
    taller = field.new_tensor([1.0, (height / width) / (rows / columns)]).view(2, 1, 1)
    if height >= rows and width >= columns:
        places = grid(height, width, like=field) / taller
        return displacement_at(field, places.expand(len(field), -1, -1, -1)) * taller
    return F.interpolate(field, (height, width), mode="bilinear", align_corners=False, antialias=True) * taller


def resize_share(share: Share, height: int, width: int) -> Float[Tensor, "f 1 H W"]:
    """Visibility or confidence for frames of another size."""
    if share.shape[-2:] == (height, width):
        return share
    return F.interpolate(share, (height, width), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


# ----------------------------------------------------------------------------------------------------- warping


def warp(
    still: Float[Tensor, "b c H W"], field: Field, mode: str = "bicubic", border: str = "reflect"
) -> Float[Tensor, "b c f h w"]:
    """The still moved along a field: pixels or latents, at the field's size, whatever the still's.

    Where the frames show the still smaller than their own pixels, it is averaged first (a pyramid of halved stills), so
    that zooming out does not shimmer.

    Args:
        still: b c H W, with the proportions of the frames. field: f 2 h w.
        mode: "bicubic", "bilinear" or "nearest". border: "reflect", "replicate" or "zeros".
    """
    places = grid(*field.shape[-2:], like=field) + field
    level = _pyramid_level(field, still.shape[-1] / field.shape[-1])
    levels = [still]
    while len(levels) <= float(level.max()) and min(levels[-1].shape[-2:]) >= 4:
        levels.append(_halved(levels[-1]))
    clips = [
        _blended([sample(each[index : index + 1], places, mode, border) for each in levels], level)
        for index in range(len(still))
    ]
    return torch.stack(clips).transpose(1, 2)


def _halved(picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    size = (max(1, height // 2), max(1, width // 2))
    return F.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)


def _pyramid_level(field: Field, pixels: float) -> Share:
    """log2 of the still's pixels that one pixel of a frame covers, at least 0; up to a fifth more is left sharp."""
    level = torch.log2((stretch(field) * pixels).clamp_min(1e-6))
    return torch.where(level < 0.26, torch.zeros_like(level), level).clamp_min(0)


def _blended(levels: list[Tensor], level: Share) -> Tensor:
    out = levels[-1]
    for index in range(len(levels) - 2, -1, -1):
        share = (level - index).clamp(0, 1).to(out.dtype)
        out = levels[index] * (1 - share) + out * share
    return out


def stretch(field: Field) -> Share:
    """Side of the patch of the still that a pixel shows, in pixels: root of the area ratio; below 1 it is magnified."""
    if min(field.shape[-2:]) < 2:
        return torch.ones_like(field[:, :1])
    by_x, by_y = gradients(field)
    area = (1 + by_x[:, :1]) * (1 + by_y[:, 1:]) - by_x[:, 1:] * by_y[:, :1]
    return area.abs().sqrt()


# -------------------------------------------------------------------------------------------------- visibility


def inside(field: Field) -> Share:
    """1 where a pixel comes from inside the still, 0 from beyond its edge; a ramp of one pixel between."""
    height, width = field.shape[-2:]
    places = grid(height, width, like=field) + field
    far = places.new_tensor([1.0, height / width]).view(2, 1, 1) - places
    room = torch.minimum(places, far).amin(1, keepdim=True)
    return (room * width + 0.5).clamp(0, 1)


def round_trip(backward: Field, forward: Field) -> Float[Tensor, "f 1 h w"]:
    """Length of the way from a frame to the still and back, in widths; 0 where the two fields agree.

    Args:
        backward: from pixels of frame i to the still. forward: from pixels of the still to frame i.
    """
    return compose(forward, backward).norm(dim=1, keepdim=True)


def times_shown(field: Field) -> Share:
    """How many pixels of a frame show each place of the still, per pixel area: 0 where it left, 2 where doubled.

    Every pixel of the frame is splatted bilinearly onto the still, weighted with the area that it covers there, so that
    a zoom counts 1 where it looks.
    """
    frames, _, height, width = field.shape
    at = (grid(height, width, like=field) + field) * width - 0.5
    weight = (stretch(field) ** 2).flatten(1)
    low = at.floor()
    total = field.new_zeros(frames, height * width)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = low[:, 0] + dx, low[:, 1] + dy
        share = (1 - (at[:, 0] - x).abs()) * (1 - (at[:, 1] - y).abs())
        held = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long().flatten(1)
        total.scatter_add_(1, index, (share * held).flatten(1) * weight)
    return total.view(frames, 1, height, width)


def interpolation_spread(
    still: Float[Tensor, "b c h w"], field: Field, mode: str = "bicubic"
) -> Float[Tensor, "b 1 f h w"]:
    """Measured RMS error, in the still's unit, that interpolation leaves in a warped still, smoothed over 5 pixels.

    The still goes along the field and back; what it lost is lost in two passes of the same filter, hence the half. 0
    for shifts by whole pixels, largest for half pixels in fine texture.
    """
    back = invert(field)
    spreads = []
    for picture in still.split(1):
        there = sample(picture, grid(*field.shape[-2:], like=field) + field, mode, "reflect")
        again = sample(there, grid(*field.shape[-2:], like=field) + back, mode, "reflect")
        lost = (again - picture).square().mean(1, keepdim=True).to(field.dtype) / 4
        seen = inside(back) * inside(field)
        mean = F.avg_pool2d(lost * seen, 5, 1, 2) / F.avg_pool2d(seen, 5, 1, 2).clamp_min(1e-3)
        spreads.append(seen_from_frames(mean.clamp_min(0).sqrt(), field))
    return torch.stack(spreads).transpose(1, 2)


def seen_from_frames(values: Float[Tensor, "f 1 h w"], field: Field) -> Float[Tensor, "f 1 h w"]:
    """Values that lie on the still, seen from the frames."""
    return sample(values, grid(*field.shape[-2:], like=field) + field)
