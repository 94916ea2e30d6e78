r"""Motion by hand: points or strokes that carry a part of the still along, "0.3,0.5:0.6,0.4".

A drag starts on the part that is to move and ends where it is to be. Coordinates are shares of width and height, from
the upper left corner. What moves is, in this order:

* *what a mask covers*, if one is given: with a sharp edge it cuts out an object, which moves as one piece (one drag
  shifts it; two turn and scale it too; three or more give an affine motion) and uncovers what lay beneath;
* *the object under the point*, if the still is given and GrabCut finds one there: the same;
* else, or with a mask whose edge is broad and soft, *the surroundings of the point*: they flow along with it, wholly
  near it and less farther off, without folds or holes however long the drag is: the field is integrated in small steps.

Everything else stays where it is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from trip.motion.camera import EASES
from trip.motion.fields import (
    Field,
    Motion,
    compose,
    from_matrices,
    grid,
    identity,
    inside,
    resize,
    sample,
    seen_from_frames,
)

CORE, REACH = 0.06, 0.2
"""Distances from a dragged point, in widths, up to which its surroundings follow wholly, and at all."""

SHORTEST = 0.002
"""Length below which a drag is none, in widths."""

STEPS = 4
"""Steps of integration between two frames."""

FINEST = 160
"""Width, pixels, at which soft drags are integrated: their fields are smooth."""

SEGMENT_SIDE = 256
"""Longer side, pixels, at which GrabCut runs."""

SMALLEST_SEGMENT, LARGEST_SEGMENT = 0.002, 0.4
"""Areas between which what GrabCut finds is an object, in shares of the picture."""

EXAMPLE = '"0.3,0.5:0.6,0.4"'

Point = tuple[float, float]
Mask = Float[Tensor, "H W"]


@dataclass(frozen=True)
class Drag:
    """A stroke through two or more points, shares of width and height."""

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise ValueError(f"drag (={self}) has {len(self.points)} point; give start and end, as in {EXAMPLE}")
        outside = [point for point in self.points if not all(0 <= part <= 1 for part in point)]
        if outside:
            raise ValueError(
                f"drag (={self}): {_text(outside[0])} is outside the picture; give shares of its sides, from 0 to 1"
            )
        if sum(math.dist(a, b) for a, b in pairwise(self.points)) < SHORTEST:
            raise ValueError(f"drag (={self}) has no length; end it elsewhere than where it starts")

    def __str__(self) -> str:
        """The text that `parse_drag` reads."""
        return ":".join(map(_text, self.points))

    def at(self, share: float, height: int, width: int) -> Float[Tensor, "2"]:
        """Place, in widths, after a share of the way."""
        points = torch.tensor(self.points, dtype=torch.float64) * torch.tensor([1.0, height / width])
        lengths = (points[1:] - points[:-1]).norm(dim=1)
        ways = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        way = share * ways[-1]
        leg = int(torch.searchsorted(ways[1:-1].contiguous(), way))
        return points[leg] + (points[leg + 1] - points[leg]) * (way - ways[leg]) / lengths[leg].clamp_min(1e-12)


def _text(point: Point) -> str:
    return ",".join(repr(float(part)) for part in point)


def parse_drag(text: str) -> Drag:
    """Read "x,y:x,y" or a stroke "x,y:x,y:x,y".

    Raises:
        ValueError: anything else, a point outside the picture, no length; in one line.
    """
    points = []
    for part in text.split(":"):
        try:
            x, y = (float(number) for number in part.split(","))
        except ValueError:
            raise ValueError(f"drag (={text!r}): {part.strip()!r} is not x,y; write it as in {EXAMPLE}") from None
        points.append((x, y))
    return Drag(tuple(points))


def drag_motion(
    drags: Sequence[Drag],
    num_frames: int,
    height: int,
    width: int,
    *,
    still: Float[Tensor, "3 H W"] | None = None,
    masks: Sequence[Tensor | None] | None = None,
    ease: str = "linear",
) -> Motion:
    """What the drags do to a still.

    Args:
        drags: one or more. num_frames, height, width: of the fields.
        still: RGB in [0, 1], to find the objects under the points in; None moves the points' surroundings.
        masks: for every drag what it moves, H W in [0, 1] with the proportions of the still, or None to choose by
            itself. ease: one of `trip.motion.camera.EASES`.

    Raises:
        ValueError: no drags, another number of masks, a mask that is empty, misshapen or not in [0, 1], unknown ease.
    """
    if not drags:
        raise ValueError(f"no drags; give at least one, as in {EXAMPLE}")
    if ease not in EASES:
        raise ValueError(f"ease (={ease!r}) is unknown; choose from {', '.join(EASES)}")
    given: list[Tensor | None] = list(masks) if masks is not None else [None] * len(drags)
    if len(given) != len(drags):
        raise ValueError(f"{len(given)} masks do not fit {len(drags)} drags; give one mask, or None, for each")
    for mask in given:
        _check_mask(mask, height, width)
    shares = [EASES[ease](index / max(num_frames - 1, 1)) for index in range(num_frames)]
    cut, soft = _parts(drags, given, still)
    field = _flowing(soft, shares, height, width) if soft else identity(num_frames, height, width)
    visible = inside(field)
    layers = [(mask, from_matrices(_maps(each, shares, height, width), height, width)) for each, mask in cut]
    for mask, _ in layers:  # what lay beneath an object, the still does not show
        visible = visible * (1 - seen_from_frames(mask.expand(num_frames, 1, -1, -1), field))
    for mask, own in layers:
        here = sample(mask[None, None], grid(height, width) + own, border="zeros") > 0.5
        field, visible = torch.where(here, own, field), torch.where(here, inside(own), visible)
    return Motion(field, visible, torch.ones_like(visible))


def _check_mask(mask: Tensor | None, height: int, width: int) -> None:
    if mask is None:
        return
    if mask.ndim != 2 or abs(mask.shape[0] / mask.shape[1] - height / width) > 1.5 / min(*mask.shape, height, width):
        raise ValueError(
            f"mask of {' x '.join(map(str, mask.shape[::-1]))} does not fit the picture's {width} x {height}; "
            "give one of its proportions"
        )
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(
            f"mask has values from {float(mask.min()):g} to {float(mask.max()):g}; give 0 (still) to 1 (moves)"
        )
    if float(mask.max()) <= 0.5:
        raise ValueError("mask is empty; give 1 where something moves")


def _parts(
    drags: Sequence[Drag], masks: list[Tensor | None], still: Tensor | None
) -> tuple[list[tuple[list[Drag], Tensor]], list[tuple[Drag, Tensor | None]]]:
    """(drags of every cut-out object with its mask, soft drags with the mask that weighs them)."""
    cut: list[tuple[list[Drag], Tensor]] = []
    soft: list[tuple[Drag, Tensor | None]] = []
    for drag, given in zip(drags, masks, strict=True):
        mask = given
        if mask is None:
            owner = next((each for each in cut if _covers(each[1], drag.points[0])), None)
            if owner is not None:
                owner[0].append(drag)
                continue
            mask = segment(still, drag.points[0]) if still is not None else None
        if mask is None or _is_broad(mask):
            soft.append((drag, mask))
            continue
        mask = mask.float()
        same = next((each for each in cut if each[1].shape == mask.shape and torch.equal(each[1], mask)), None)
        if same is None:
            cut.append(([drag], mask))
        else:
            same[0].append(drag)
    return cut, soft


def _covers(mask: Tensor, point: Point) -> bool:
    rows, columns = mask.shape
    return bool(mask[min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)] > 0.5)


def _is_broad(mask: Tensor) -> bool:
    """Whether a mask's edge takes more room than its inside."""
    return bool(((mask > 0.1) & (mask < 0.9)).sum() > (mask >= 0.9).sum())


# ------------------------------------------------------------------------------------------------- whole objects


def _maps(drags: Sequence[Drag], shares: list[float], height: int, width: int) -> Tensor:
    """Place in frame i -> place in the still, of a piece that its drags carry along."""
    start = torch.stack([drag.at(0.0, height, width) for drag in drags])
    maps = [_fit(start, torch.stack([drag.at(share, height, width) for drag in drags])).inverse() for share in shares]
    return torch.stack(maps)


def _fit(start: Float[Tensor, "n 2"], end: Float[Tensor, "n 2"]) -> Float[Tensor, "3 3"]:
    """The shift (n = 1), similarity (2, or points in a row) or affine map that carries points best."""
    matrix = torch.eye(3, dtype=torch.float64)
    centre, goal = start.mean(0), end.mean(0)
    a, b = start - centre, end - goal
    spread = torch.linalg.svdvals(a) if len(a) > 1 else a.new_zeros(2)
    if len(a) > 2 and spread[1] > 0.1 * spread[0]:
        matrix[:2, :2] = torch.linalg.lstsq(a, b).solution.T
    elif spread[0] > SHORTEST:
        power = a.square().sum()
        cos, sin = (a * b).sum() / power, (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / power
        matrix[:2, :2] = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    if torch.linalg.det(matrix) < 1e-3:
        raise ValueError("these drags fold the object over; let its points end as they lie to each other now")
    matrix[:2, 2] = goal - matrix[:2, :2] @ centre
    return matrix


def segment(still: Float[Tensor, "3 H W"], point: Point) -> Mask | None:
    """The object under a point by GrabCut, H W in [0, 1]; None where there is none that stands out.

    Args:
        still: RGB in [0, 1]. point: shares of width and height.
    """
    picture = (still.detach().cpu().permute(1, 2, 0).float().clamp(0, 1).numpy() * 255).astype(np.uint8)
    height, width = picture.shape[:2]
    scale = min(1.0, SEGMENT_SIDE / max(height, width))
    size = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    seed = min(int(point[0] * size[0]), size[0] - 1), min(int(point[1] * size[1]), size[1] - 1)
    labels = np.full(small.shape[:2], cv2.GC_BGD, np.uint8)
    for radius, label in ((0.45, cv2.GC_PR_BGD), (0.18, cv2.GC_PR_FGD), (0.03, cv2.GC_FGD)):
        cv2.circle(labels, seed, max(1, round(radius * min(size))), label, cv2.FILLED)
    cv2.setRNGSeed(0)  # GrabCut starts from k-means
    try:
        cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)  # pyright: ignore
    except cv2.error:  # too few pixels on one side
        return None
    found = ((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    found = cv2.morphologyEx(found, cv2.MORPH_OPEN, disc)
    _, parts = cv2.connectedComponents(found)
    if not parts[seed[1], seed[0]]:
        return None
    mask = (parts == parts[seed[1], seed[0]]).astype(np.float32)
    if not SMALLEST_SEGMENT < mask.mean() < LARGEST_SEGMENT or not _stands_out(small, mask):
        return None
    return torch.from_numpy(cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR))


def _stands_out(picture: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a picture's edges are stronger along a mask's outline than elsewhere; GrabCut always finds something."""
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1)
    slope = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)).mean(-1)
    outline = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return bool(outline.any() and slope[outline].mean() > max(1.5 * float(slope[~outline].mean()), 8.0))


# -------------------------------------------------------------------------------------------------- soft drags


def _flowing(soft: list[tuple[Drag, Tensor | None]], shares: list[float], height: int, width: int) -> Field:
    """Fields of soft drags, traced back from frame to frame."""
    scale = min(1.0, FINEST / width)
    rows, columns = max(2, round(height * scale)), max(2, round(width * scale))
    fields = [torch.zeros(1, 2, rows, columns)]
    for before, after in pairwise(shares):
        fields.append(compose(fields[-1], _step(soft, before, after, rows, columns)))
    return resize(torch.cat(fields), height, width)


def _step(soft: list[tuple[Drag, Tensor | None]], before: float, after: float, rows: int, columns: int) -> Field:
    """Where a frame's places were in the frame before: midpoint rule, backwards in time."""
    start = grid(rows, columns)[None]
    places, times = start, torch.linspace(after, before, STEPS + 1).tolist()
    for late, early in pairwise(times):
        half = places - 0.5 * _carried(soft, places, early, late)
        places = places - _carried(soft, half, early, late)
    return places - start


def _carried(soft: list[tuple[Drag, Tensor | None]], places: Tensor, early: float, late: float) -> Tensor:
    """How far places are carried between two moments: the drags' ways, weighted; a mean where they overlap."""
    size = places.shape[-2:]
    total, weights = torch.zeros_like(places), torch.zeros_like(places[:, :1])
    for drag, mask in soft:
        begin, middle = drag.at(0.0, *size), drag.at((early + late) / 2, *size)
        way = (drag.at(late, *size) - drag.at(early, *size)).float().view(1, 2, 1, 1)
        if mask is None:
            distance = (places - middle.float().view(1, 2, 1, 1)).norm(dim=1, keepdim=True)
            share = ((REACH - distance) / (REACH - CORE)).clamp(0, 1)
            weight = share * share * (3 - 2 * share)
        else:
            shift = (middle - begin).float().view(1, 2, 1, 1)
            weight = sample(mask.float()[None, None], places - shift, border="zeros")
        total, weights = total + weight * way, weights + weight
    return total / weights.clamp_min(1)
