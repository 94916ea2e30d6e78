r"""Motion measured on pixels, by dense optical flow (OpenCV's DIS; no weights): how much, and which way.

**Camera moves.** The flows between consecutive frames are summed over the clip and a linear field is fitted to the sum
by least squares, ``flow(p) ~ (u, v) + A (p - centre)``. It has four components, all in pixels: the mean shift u (right)
and v (down), and the divergence ``A_xx + A_yy`` and the curl ``A_yx - A_xy``, both scaled to the displacement they mean
at the picture's border, i.e. times ``width / 4`` (a zoom by 1 + e has the divergence 2 e and shifts the border by
e width / 2). The fit rather than the mean of finite differences, because the latter depends on the border alone, where
new content appears and flow is least reliable. A clip moves as prompted if the prompted component is the largest of the
four in magnitude, has the right sign and is at least `SMALLEST_MOVE` of the width.

y points down: "the camera pans left" moves the content right, u > 0; a clockwise rotation has a curl > 0.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from trip.motion.flow import dis_flow, enlarged_grey, enlargement

Frames = Float[np.ndarray, "f H W 3"]
"""A clip, RGB in [0, 1]."""
Flow = Float[np.ndarray, "H W 2"]
"""(u, v) in pixels of the clip."""

SMALLEST_MOVE = 0.05
"""Displacement that counts as a motion, in widths of the picture."""

FLOW = "Flow magnitude (DIS), % of width"
"""What reports call the mean of `ClipMotion.flow`."""

CAMERA_MOVES = {
    "pan_left": ("u", 1),
    "pan_right": ("u", -1),
    "tilt_up": ("v", 1),
    "tilt_down": ("v", -1),
    "zoom_in": ("divergence", 1),
    "zoom_out": ("divergence", -1),
    "rotate_clockwise": ("curl", 1),
    "rotate_counterclockwise": ("curl", -1),
}
"""Prompted camera move -> (component that it moves, sign)."""

DYNAMIC_FLOW = 6 / 256
"""Flow between frames, in shorter sides, above which VBench counts a step as dynamic."""

DYNAMIC_TOP = 0.05
"""Share of the pixels, those that move most, whose mean flow VBench looks at."""

DYNAMIC_SHARE = 4 / 16
"""Share of the frames that must be dynamic for a clip to be."""

DYNAMIC_FPS = 8.0
"""Frames per second that VBench thins clips out to first."""


# ------------------------------------------------------------------------------------------------------- flow


def dense_flows(frames: Frames) -> Float[np.ndarray, "g H W 2"]:
    """Flow between consecutive frames in pixels, g = f - 1: ``frames[i + 1](p + flow[i](p)) = frames[i](p)``.

    Raises:
        ValueError: fewer than two frames, or frames that are not finite.
    """
    if len(frames) < 2:
        raise ValueError(f"{len(frames)} frame has no motion; pass a clip of at least 2")
    if not np.isfinite(frames).all():
        raise ValueError("frames have NaN or infinite values; generate them with dtype=torch.float32")
    height, width = frames.shape[1:3]
    scale = enlargement(height, width)
    grey = [enlarged_grey(frame, scale) for frame in frames]
    flows = [dis_flow(a, b) for a, b in pairwise(grey)]
    shrunk = [cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) for flow in flows]
    return np.stack(shrunk) / np.float32(scale)


# ----------------------------------------------------------------------------------------------- camera moves


@dataclass(frozen=True)
class CameraMotion:
    """Components of a clip's summed flow, in pixels; divergence and curl at the border."""

    u: float
    v: float
    divergence: float
    curl: float

    @property
    def largest(self) -> str:
        """Name of the component of largest magnitude."""
        return max(asdict(self), key=lambda name: abs(getattr(self, name)))

    def follows(self, kind: str, width: int) -> bool:
        """Whether the prompted component is the largest, has the right sign and is at least `SMALLEST_MOVE`.

        Raises:
            ValueError: `kind` is not one of `CAMERA_MOVES`.
        """
        if kind not in CAMERA_MOVES:
            raise ValueError(f"kind {kind!r} is no camera move; choose one of {', '.join(CAMERA_MOVES)}")
        name, sign = CAMERA_MOVES[kind]
        return self.largest == name and sign * getattr(self, name) >= SMALLEST_MOVE * width

    def classify(self, width: int) -> str:
        """The camera move that the clip shows, or "none"."""
        return next((kind for kind in CAMERA_MOVES if self.follows(kind, width)), "none")


def camera_motion(flow: Flow) -> CameraMotion:
    """Least-squares linear field of a flow (see the module)."""
    height, width = flow.shape[:2]
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    shifts = flow.astype(np.float64)
    by_x = np.einsum("ijk,j->k", shifts, x) / (height * (x**2).sum())
    by_y = np.einsum("ijk,i->k", shifts, y) / (width * (y**2).sum())
    u, v = shifts.mean(axis=(0, 1))
    divergence, curl = by_x[0] + by_y[1], by_x[1] - by_y[0]
    return CameraMotion(float(u), float(v), float(divergence * width / 4), float(curl * width / 4))


# ---------------------------------------------------------------------------------------------- how much moves


@dataclass(frozen=True, kw_only=True)
class ClipMotion:
    """Motion of one clip.

    Attributes:
        flow: mean magnitude of the flow between frames, percent of the width.
        dynamic: whether it counts as dynamic, see `is_dynamic`.
        warping_error: see `warping_error`.
    """

    flow: float
    dynamic: bool
    warping_error: float


def clip_motion(frames: UInt8[np.ndarray, "f H W 3"], fps: float = DYNAMIC_FPS) -> ClipMotion:
    """Flow, dynamic degree and warping error of a clip, all by OpenCV's DIS flow; no weights.

    Raises:
        ValueError: fewer than two frames.
    """
    pixels = frames.astype(np.float32) / np.float32(255)
    forward = dense_flows(pixels)
    backward = np.ascontiguousarray(dense_flows(pixels[::-1])[::-1])
    step = max(1, round(fps / DYNAMIC_FPS))
    thinned = pixels[::step]
    flows = forward if step == 1 else dense_flows(thinned) if len(thinned) > 1 else forward[:0]
    return ClipMotion(
        flow=float(100 * np.linalg.norm(forward, axis=-1).mean() / frames.shape[2]),
        dynamic=is_dynamic(flows),
        warping_error=warping_error(pixels, forward, backward),
    )


def is_dynamic(flows: Float[np.ndarray, "g H W 2"]) -> bool:
    """VBench's dynamic degree of one clip (Huang et al. 2024), given the flow between frames at about 8 a second.

    A step is dynamic if the mean flow of the 5 % of pixels that move most exceeds 6 pixels per 256 of the shorter side;
    a clip, if so many steps are as a quarter of its frames. VBench takes RAFT's flow; here it is DIS's.
    """
    sizes = np.linalg.norm(flows, axis=-1).reshape(len(flows), -1)
    top = max(int(sizes.shape[1] * DYNAMIC_TOP), 1)
    most = np.partition(sizes, -top, axis=1)[:, -top:].mean(1)
    steps = int((most > DYNAMIC_FLOW * min(flows.shape[1:3])).sum())
    return steps >= max(round(DYNAMIC_SHARE * (len(flows) + 1)), 1)


def warping_error(
    pixels: Float[np.ndarray, "f H W 3"],
    forward: Float[np.ndarray, "g H W 2"],
    backward: Float[np.ndarray, "g H W 2"],
) -> float:
    """Mean squared difference of a frame and the next one warped back onto it (Lai et al. 2018), pixels in [0, 1].

    Occluded pixels are left out: those whose flow and its return differ, ``|f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5``
    (Sundaram et al. 2010), and those whose flow leaves the picture. 0 where nothing is left.
    """
    errors, weights = 0.0, 0
    for i, flow in enumerate(forward):
        grid = pixel_grid(*flow.shape[:2]) + flow
        back = warped(backward[i], grid)
        gap = ((flow + back) ** 2).sum(-1)
        seen = gap <= 0.01 * ((flow**2).sum(-1) + (back**2).sum(-1)) + 0.5
        seen &= ((grid >= 0) & (grid <= np.float32(flow.shape[1::-1]) - 1)).all(-1)
        error = ((warped(pixels[i + 1], grid).astype(np.float64) - pixels[i]) ** 2).mean(-1)
        errors, weights = errors + float(error[seen].sum()), weights + int(seen.sum())
    return errors / weights if weights else 0.0


def pixel_grid(height: int, width: int) -> Float[np.ndarray, "H W 2"]:
    """(x, y) of every pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def warped(values: Float[np.ndarray, "H W c"], grid: Float[np.ndarray, "H W 2"]) -> Float[np.ndarray, "H W c"]:
    """Values at places (x, y), bilinear, held at the border."""
    maps = np.ascontiguousarray(grid, np.float32)
    return cv2.remap(np.ascontiguousarray(values), maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # pyright: ignore
