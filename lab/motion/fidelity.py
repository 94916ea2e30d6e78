"""Whether clips move as their prompts ask, over many pairs of picture and prompt.

Camera moves are judged as `trip.evaluation.motion` says. **Objects.** The pixels of the object's first-frame mask are
carried along by the flow; their mean displacement is the object's. (Flow summed at fixed pixels would fall behind as
soon as the object leaves its mask.) The object moves as prompted if that displacement's larger component has the
prompted direction and is at least `SMALLEST_MOVE` of the width. The background is still if the magnitude of the summed
flow, averaged over the pixels that the object never came near, is below `STILL_BACKGROUND` of the width.

On clips rendered with known motion from held-out photographs at 64 pixels all verdicts are right
(`python -m benchmarks.motion --baseline truth`). Shifts come out within 3 %, a zoom by s as ``log(s) width / 2`` and
an object's displacement some 20 % short, since DIS blurs it with the still background.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from trip.evaluation.intervals import Rate
from trip.evaluation.motion import SMALLEST_MOVE, CameraMotion, Frames, camera_motion, dense_flows

Image = UInt8[np.ndarray, "H W 3"]
Generate = Callable[[Sequence[Image], Sequence[str], Sequence[int]], Float[np.ndarray, "b f H W 3"]]
"""``generate(images, prompts, seeds)``: one clip in [0, 1] for each."""

STILL_BACKGROUND = 0.025
"""Mean background flow that still counts as still, in widths: half the smallest motion."""

MARGIN = 0.06
"""Width of the band around a moving object that belongs to neither object nor background, in widths."""

OBJECT_MOVES = {"move_left": ("u", -1), "move_right": ("u", 1), "move_up": ("v", -1), "move_down": ("v", 1)}
"""Prompted object move -> (component of the object's displacement, sign)."""


# ---------------------------------------------------------------------------------------------------- objects


@dataclass(frozen=True)
class ObjectMotion:
    """Mean displacement (u, v) of an object's pixels and mean magnitude of the background's flow, in pixels."""

    u: float
    v: float
    background: float

    def moves(self, kind: str, width: int) -> bool:
        """Whether the object's displacement has the prompted direction.

        Raises:
            ValueError: `kind` is not one of `OBJECT_MOVES`.
        """
        if kind not in OBJECT_MOVES:
            raise ValueError(f"kind {kind!r} is no move of an object; choose one of {', '.join(OBJECT_MOVES)}")
        name, sign = OBJECT_MOVES[kind]
        along, across = (self.u, self.v) if name == "u" else (self.v, self.u)
        return sign * along >= SMALLEST_MOVE * width and abs(along) > abs(across)

    def is_still_behind(self, width: int) -> bool:
        """Whether the background stays where it is."""
        return self.background < STILL_BACKGROUND * width

    def follows(self, kind: str, width: int) -> bool:
        """Whether the object moves as prompted and the background is still."""
        return self.moves(kind, width) and self.is_still_behind(width)


def object_motion(flows: Float[np.ndarray, "g H W 2"], mask: Bool[np.ndarray, "H W"]) -> ObjectMotion:
    """Carry the pixels of a first-frame mask along the flows, and look at what they never came near.

    Raises:
        ValueError: an empty mask, or no background left.
    """
    if not mask.any():
        raise ValueError("the object's mask is empty; pass its pixels in the first frame")
    path = carried_points(flows, np.argwhere(mask)[:, ::-1].astype(np.float32))
    u, v = (path[-1] - path[0]).mean(0)
    background = ~swept_area(path, *mask.shape)
    if not background.any():
        raise ValueError("the object passes over the whole picture; use a smaller object")
    behind = np.linalg.norm(flows.sum(0), axis=-1)[background].mean()
    return ObjectMotion(float(u), float(v), float(behind))


def carried_points(flows: Float[np.ndarray, "g H W 2"], points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "_ n 2"]:
    """Places (x, y) of points in every frame: ``p[i + 1] = p[i] + flow[i](p[i])``, bilinear, held at the border."""
    path = [points.astype(np.float32)]
    for flow in flows.astype(np.float32):
        step = cv2.remap(flow, path[-1][:, None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore
        path.append(path[-1] + step.reshape(-1, 2))
    return np.stack(path)


def swept_area(path: Float[np.ndarray, "_ n 2"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """Pixels that any of the points came within `MARGIN` of."""
    seen = np.zeros((height, width), np.uint8)
    x, y = np.rint(path).astype(int).reshape(-1, 2).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    seen[y[inside], x[inside]] = 1
    reach = 2 * math.ceil(MARGIN * width) + 1
    return cv2.dilate(seen, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))).astype(bool)


# -------------------------------------------------------------------------------------------------- sharpness


def gradient_energy(frame: Float[np.ndarray, "H W 3"]) -> float:
    """Mean squared difference of neighbouring pixels' luma, along x plus along y."""
    grey = cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY).astype(np.float64)
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def sharpness_ratio(frames: Frames) -> float:
    """Gradient energy of the last frame over the first's; 1 = as sharp as at the start."""
    return gradient_energy(frames[-1]) / max(gradient_energy(frames[0]), 1e-12)


# ---------------------------------------------------------------------------------------------- many clips


@dataclass(frozen=True)
class Pair:
    """One question put to a model: a picture and a prompt, and what should come of them.

    Attributes:
        image: the still, uint8 RGB. prompt: the text. kind: the move that the text asks for.
        seed: of the model's noise; unique within a set. photo, speed: name of the picture, speed that the text names.
        mask: the moving object's pixels in the still, for moves of objects.
        truth: a clip of that move as rendered, in [0, 1], where there is one. details: more for the record.
    """

    image: Image
    prompt: str
    kind: str
    seed: int
    photo: str = ""
    speed: str = "normal"
    mask: Bool[np.ndarray, "H W"] | None = None
    truth: Frames | None = None
    details: dict[str, Any] = field(default_factory=dict)


Measured = TypeVar("Measured")


def measure_clips(
    generate: Generate, pairs: Sequence[Pair], measure: Callable[[Frames, Pair], Measured], batch_size: int = 8
) -> list[Measured]:
    """Generate a clip for every pair, `batch_size` at a time, and keep what `measure(frames, pair)` makes of it."""
    results = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        clips = generate([p.image for p in batch], [p.prompt for p in batch], [p.seed for p in batch])
        if len(clips) != len(batch):
            raise ValueError(f"generate returned {len(clips)} clips for {len(batch)} pairs; return one for each")
        results += [measure(frames, pair) for frames, pair in zip(clips, batch, strict=True)]
    return results


@dataclass(frozen=True)
class Agreement:
    """How many clips moved as prompted, over all and per move, and each clip's motion and verdict."""

    rate: Rate
    per_kind: dict[str, Rate]
    motions: list[CameraMotion]
    verdicts: list[bool]


def direction_agreement(generate: Generate, pairs: Sequence[Pair], batch_size: int = 8) -> Agreement:
    """Share of camera-move prompts whose clip moves as prompted; chance is about 1 in 8.

    Cheap enough for a trainer's validation (64 pairs, 10 to 20 sampling steps): the flow takes 30 ms a clip.

    Args:
        generate: any model. pairs: pictures with prompts of kinds in `CAMERA_MOVES`. batch_size: clips at once.
    """

    def measure(frames: Frames, pair: Pair) -> CameraMotion:
        return camera_motion(dense_flows(frames).sum(0))

    motions = measure_clips(generate, pairs, measure, batch_size)
    width = pairs[0].image.shape[1] if pairs else 0
    verdicts = [motion.follows(pair.kind, width) for motion, pair in zip(motions, pairs, strict=True)]
    return Agreement(Rate.of(verdicts), rate_per_kind([p.kind for p in pairs], verdicts), motions, verdicts)


def rate_per_kind(kinds: Sequence[str], verdicts: Sequence[bool]) -> dict[str, Rate]:
    """A rate for every kind, in order of first appearance."""
    total = Counter(kinds)
    right = Counter(kind for kind, verdict in zip(kinds, verdicts, strict=True) if verdict)
    return {kind: Rate(right[kind], total[kind]) for kind in total}
