"""Synthetic motion: seeded clips of camera moves, moving objects and effects over licensed photographs.

Everything about a clip follows from the first frame and the caption as far as possible: motion is linear in
time, its amount is bound to the caption's adverb (`AMOUNTS`, in widths of the picture), and a clip played
backwards is a clip of the opposite kind.

Directions (y points down): "pan_left" moves the content right, "tilt_up" moves it down, "zoom_in" enlarges
it, and "rotate_clockwise" turns it clockwise as seen.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from trip.data.synthetic.bank import LEVEL_STEP, Cutout, Photo, SceneBank, check_split
from trip.data.synthetic.captions import CAMERA_KINDS, EFFECT_KINDS, SPLITS, draw_caption
from trip.data.video.frames import Frame, Frames

AMOUNTS = {"slow": (0.10, 0.18), "normal": (0.18, 0.28), "fast": (0.28, 0.40)}
OBJECT_AMOUNTS = {"slow": (0.15, 0.20), "normal": (0.20, 0.29), "fast": (0.29, 0.40)}
SPIN_DEGREES = {"slow": (50.0, 90.0), "normal": (90.0, 160.0), "fast": (160.0, 270.0)}
SPEED_SHARES = {"slow": 0.25, "normal": 0.5, "fast": 0.25}
GROUP_SHARES = {"camera": 0.50, "object": 0.35, "effect": 0.15}
OBJECT_SHARES = {
    "move_left": 0.2,
    "move_right": 0.2,
    "move_up": 0.2,
    "move_down": 0.2,
    "bounce": 0.06,
    "sway": 0.05,
    "spin_clockwise": 0.045,
    "spin_counterclockwise": 0.045,
}
_DIRECTIONS = {
    "pan_left": (-1, 0),
    "pan_right": (1, 0),
    "tilt_up": (0, -1),
    "tilt_down": (0, 1),
    "move_left": (-1, 0),
    "move_right": (1, 0),
    "move_up": (0, -1),
    "move_down": (0, 1),
}


@dataclass(frozen=True)
class Clip:
    """A rendered clip.

    Attributes:
        frames: uint8 RGB, (f, height, width, 3).
        caption: the prompt that goes with it.
        kind: one of `trip.data.synthetic.captions.KINDS`.
        params: speed, amount, photo, subject (what a caption of this clip may name) and, for objects,
            position and size.
    """

    frames: Frames
    caption: str
    kind: str
    params: dict[str, Any] = field(default_factory=dict)


# Camera moves ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """A view of the scene in output pixels: offset of its centre, magnification, turn of the content."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0
    turn: float = 0.0

    def extent(self, size: int) -> tuple[float, float, float, float]:
        """Bounding box (left, top, right, bottom) of what the view shows."""
        half = size / 2 * (abs(math.cos(self.turn)) + abs(math.sin(self.turn))) / self.zoom
        return self.x - half, self.y - half, self.x + half, self.y + half


def camera_path(kind: str, amount: float, size: int, num_frames: int, upright: float = 0.0) -> list[_View]:
    """Returns the views of a camera move, linear in time (a zoom is geometric).

    Args:
        kind: one of the camera kinds, or anything else for a still view.
        amount: content displacement over the clip in widths of the picture; for zoom and rotation at the
            border, that is a magnification of 1 + 2 amount and a turn of 2 amount radians.
        size: width of the output in pixels.
        num_frames: number of views.
        upright: for rotations, the fraction of the clip at which the picture is upright.
    """
    times = np.linspace(0.0, 1.0, num_frames)
    if kind.startswith(("pan", "tilt")):
        dx, dy = _DIRECTIONS[kind]
        return [_View(x=dx * amount * size * t, y=dy * amount * size * t) for t in times]
    if kind.startswith("zoom"):
        exponents = times if kind == "zoom_in" else 1 - times
        return [_View(zoom=(1 + 2 * amount) ** t) for t in exponents]
    if kind.startswith("rotate"):
        sign = 1 if kind == "rotate_clockwise" else -1
        return [_View(turn=sign * 2 * amount * (t - upright)) for t in times]
    return [_View()] * num_frames


def _view_matrix(view: _View, centre: tuple[float, float], scale: float, flip: int, size: int) -> np.ndarray:
    """2x3 map from output pixel to photo pixel: centre + scale F (offset + R(-turn)(p - middle) / zoom)."""
    cos, sin, middle = math.cos(view.turn), math.sin(view.turn), (size - 1) / 2
    linear = np.array([[cos, sin], [-sin, cos]]) / view.zoom
    shift = np.array([view.x, view.y]) - linear @ np.array([middle, middle])
    matrix = scale * np.column_stack([linear, shift])
    matrix[0] *= flip
    matrix[:, 2] += centre
    return matrix


def _place(
    rng: np.random.Generator, photo: Photo, views: list[_View], size: int
) -> tuple[tuple[float, float], float, int]:
    """Draws centre, scale (photo pixels an output pixel) and flip; every view stays inside the photo."""
    boxes = np.array([view.extent(size) for view in views])
    left, top, right, bottom = *boxes[:, :2].min(0), *boxes[:, 2:].max(0)
    largest = min((photo.width - 2) / (right - left), (photo.height - 2) / (bottom - top))
    scale = rng.uniform(min(max(1.0, 0.45 * largest), largest), largest)
    flip = int(rng.choice((-1, 1)))
    if flip < 0:
        left, right = -right, -left
    low = 1 - scale * left, 1 - scale * top
    high = photo.width - 1 - scale * right, photo.height - 1 - scale * bottom
    x, y = (rng.uniform(a, max(a, b)) for a, b in zip(low, high, strict=True))  # they may meet, and cross by rounding
    return (x, y), scale, flip


def _level_for(photo: Photo, spacing: float) -> tuple[Frame, float]:
    """The level whose pixels are nearest to `spacing` apart, and its reduction (per axis, exact in width)."""
    index = min(len(photo.levels) - 1, max(0, round(math.log(max(spacing, 1e-6), LEVEL_STEP))))
    return photo.levels[index], photo.levels[0].shape[1] / photo.levels[index].shape[1]


def render_views(
    photo: Photo, views: list[_View], centre: tuple[float, float], scale: float, flip: int, size: int
) -> Frames:
    """Renders the views of a photograph; each frame samples the level that matches its scale."""
    frames = np.empty((len(views), size, size, 3), np.uint8)
    for frame, view in zip(frames, views, strict=True):
        level, reduction = _level_for(photo, scale / view.zoom)
        matrix = _view_matrix(view, centre, scale, flip, size) / reduction
        matrix[:, 2] += 0.5 / reduction - 0.5  # pixel centres, not corners, are at integers
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(level, matrix, (size, size), dst=frame, flags=flags, borderMode=cv2.BORDER_REFLECT)
    return frames


def colour_table(rng: np.random.Generator) -> UInt8[np.ndarray, "1 256 3"]:
    """Draws a lookup table: contrast, brightness, gamma and a slight tint."""
    x = np.linspace(0, 1, 256)[:, None]
    gamma, contrast, shift = rng.uniform(0.8, 1.25), rng.uniform(0.85, 1.15), rng.uniform(-0.06, 0.06)
    y = (x**gamma - 0.5) * contrast * rng.uniform(0.94, 1.06, 3) + 0.5 + shift
    return np.clip(np.rint(y * 255), 0, 255).astype(np.uint8)[None]


def _recolour(frames: Frames, table: UInt8[np.ndarray, "1 256 3"]) -> Frames:
    return cv2.LUT(frames.reshape(-1, frames.shape[2], 3), table).reshape(frames.shape)


def _photo_frames(
    rng: np.random.Generator, photo: Photo, kind: str, amount: float, size: int, num_frames: int
) -> Frames:
    upright = float(rng.choice((0.0, 1.0), p=(0.7, 0.3)))
    views = camera_path(kind, amount, size, num_frames, upright)
    shown = views if kind in CAMERA_KINDS else views[:1]
    frames = _recolour(render_views(photo, shown, *_place(rng, photo, views, size), size), colour_table(rng))
    return frames if kind in CAMERA_KINDS else np.repeat(frames, num_frames, 0)


# Objects ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pose:
    """Where an object is: its centre in output pixels, its turn in radians about a pivot below the centre."""

    x: float
    y: float
    turn: float = 0.0
    pivot: float = 0.0


def object_path(
    kind: str, amount: float, start: tuple[float, float], height: float, size: int, num_frames: int
) -> list[_Pose]:
    """Returns the poses of an object from its starting centre.

    `amount` is the displacement in widths for moves, the height of the jumps for "bounce" (two of them), the
    turn in degrees for spins, and the amplitude of the turn in degrees for "sway" (one period about the
    object's foot).
    """
    times, (x, y) = np.linspace(0.0, 1.0, num_frames), start
    if kind.startswith("move"):
        dx, dy = _DIRECTIONS[kind]
        return [_Pose(x + dx * amount * size * t, y + dy * amount * size * t) for t in times]
    if kind == "bounce":
        return [_Pose(x, y - amount * size * abs(math.sin(2 * math.pi * t))) for t in times]
    if kind == "sway":
        swing = math.radians(amount)
        return [_Pose(x, y, swing * math.sin(2 * math.pi * t), height / 2) for t in times]
    sign = -1 if kind == "spin_counterclockwise" else 1
    return [_Pose(x, y, sign * math.radians(amount) * t) for t in times]


def _sprite(
    rng: np.random.Generator, cutout: Cutout, width: float, shadow: bool
) -> Float32[np.ndarray, "height width 4"]:
    """The object at its output size, randomly flipped, with a margin and, if asked, a soft shadow."""
    longest = max(cutout.rgba.shape[:2])
    shape = [max(2, round(side * width / longest)) for side in cutout.rgba.shape[:2]]
    small = cv2.resize(cutout.rgba, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        small = small[:, ::-1]
    margin = max(2, round(width * 0.2))
    small = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(0, 0, 0, 0))
    return _with_shadow(rng, small, width) if shadow else small


def _with_shadow(
    rng: np.random.Generator, sprite: Float32[np.ndarray, "height width 4"], width: float
) -> Float32[np.ndarray, "height width 4"]:
    offset = np.array([[1, 0, 0.08 * width], [0, 1, 0.08 * width]])
    shadow = cv2.warpAffine(np.ascontiguousarray(sprite[..., 3]), offset, sprite.shape[1::-1])
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.06 * width + 0.3) * rng.uniform(0.2, 0.45)
    shaded = sprite.copy()
    shaded[..., 3] += (1 - sprite[..., 3] / 255) * shadow
    return shaded


def _pose_matrix(pose: _Pose, sprite: np.ndarray) -> np.ndarray:
    """2x3 map from sprite to output pixel: turns about the pivot, puts the sprite's centre at the pose."""
    cos, sin = math.cos(pose.turn), math.sin(pose.turn)
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([(sprite.shape[1] - 1) / 2, (sprite.shape[0] - 1) / 2])
    pivot = np.array([0.0, pose.pivot])
    return np.column_stack([turn, np.array([pose.x, pose.y]) + pivot - turn @ (middle + pivot)])


def place_sprite(
    sprite: Float32[np.ndarray, "height width 4"], pose: _Pose, size: int
) -> Float32[np.ndarray, "size size 4"]:
    """Returns the sprite in a clear picture of the output size, at a sub-pixel position."""
    return cv2.warpAffine(sprite, _pose_matrix(pose, sprite), (size, size), flags=cv2.INTER_LINEAR)


def _blend(background: np.ndarray, layer: Float32[np.ndarray, "size size 4"]) -> Frame:
    clear = 1 - layer[..., 3:] / 255
    return np.clip(background * clear + layer[..., :3] + 0.5, 0, 255).astype(np.uint8)


def _start(
    rng: np.random.Generator, kind: str, amount: float, extent: tuple[float, float], size: int
) -> tuple[float, float]:
    """Draws a starting centre such that the object stays in the picture (touching the edge at most)."""
    low, high = np.array(extent) / 2, size - 1 - np.array(extent) / 2
    dx, dy = _DIRECTIONS.get(kind, (0, -1 if kind == "bounce" else 0))
    travel = np.array([dx, dy]) * (amount * size if dx or dy else 0)
    low, high = np.maximum(low, low - travel), np.minimum(high, high - travel)
    low, high = np.minimum(low, (low + high) / 2), np.maximum(high, (low + high) / 2)
    return float(rng.uniform(low[0], high[0])), float(rng.uniform(low[1], high[1]))


def _object_amount(rng: np.random.Generator, kind: str, speed: str) -> float:
    if kind == "sway":
        return float(rng.uniform(12, 22))
    if kind == "bounce":
        return float(rng.uniform(0.15, 0.3))
    table = SPIN_DEGREES if kind.startswith("spin") else OBJECT_AMOUNTS
    return float(rng.uniform(*table[speed]))


def _object_extent(cutout: Cutout, width: float) -> tuple[float, float]:
    height, breadth = cutout.rgba.shape[:2]
    return breadth * width / max(height, breadth), height * width / max(height, breadth)


def composite(
    background: Frame,
    cutout: Cutout,
    kind: str,
    amount: float,
    width: float,
    rng: np.random.Generator,
    num_frames: int,
) -> tuple[Frames, dict[str, Any]]:
    """Moves one object over a background that stays still.

    Args:
        background: square RGB picture.
        cutout: the object.
        kind: one of the object kinds.
        amount: see `object_path`.
        width: the object's longer side in widths of the picture.
        rng: draws starting place, mirror image and shadow.
        num_frames: length of the clip.

    Returns:
        The frames, and a dict with the object's starting centre `x`, `y` in pixels and its boolean `mask` in
        the first frame.
    """
    size = background.shape[0]
    extent = _object_extent(cutout, width * size)
    sprite = _sprite(rng, cutout, width * size, bool(rng.random() < 0.5))
    start = _start(rng, kind, amount, extent, size)
    layers = [place_sprite(sprite, p, size) for p in object_path(kind, amount, start, extent[1], size, num_frames)]
    ground = background.astype(np.float32)
    frames = np.stack([_blend(ground, layer) for layer in layers])
    return frames, {"x": start[0], "y": start[1], "mask": layers[0][..., 3] > 127}


def _object_clip(
    rng: np.random.Generator, bank: SceneBank, photo: Photo, kind: str, speed: str, size: int, num_frames: int
) -> tuple[Frames, dict[str, Any]]:
    background = _photo_frames(rng, photo, "still", 0.0, size, 1)[0]
    cutout = bank.objects[int(rng.integers(len(bank.objects)))]
    if rng.random() < 0.15:
        background = _with_bystander(rng, bank, background, cutout.name)
    width, amount = float(rng.uniform(0.25, 0.5)), _object_amount(rng, kind, speed)
    frames, place = composite(background, cutout, kind, amount, width, rng, num_frames)
    del place["mask"]
    return frames, {"subject": cutout.name, "amount": amount, "object_width": width, **place}


def _with_bystander(rng: np.random.Generator, bank: SceneBank, background: Frame, mover: str) -> Frame:
    other = bank.objects[int(rng.integers(len(bank.objects)))]
    if other.name == mover:
        return background
    return composite(background, other, "still", 0.0, float(rng.uniform(0.2, 0.35)), rng, 1)[0][0]


# Effects ---------------------------------------------------------------------------------------------


def _streaks(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "size size"]:
    """A tile of falling drops that wraps around, values in [0, 1]."""
    seeds = (rng.random((size, size)) < rng.uniform(0.01, 0.02)).astype(np.float32)
    length = max(3, size // 10)
    drops = cv2.filter2D(np.tile(seeds, (2, 1)), -1, np.ones((length, 1), np.float32), borderType=cv2.BORDER_REFLECT)
    return np.minimum(drops[size // 2 : size // 2 + size], 1.0)


def _flakes(rng: np.random.Generator, size: int, radius: float) -> Float32[np.ndarray, "size size"]:
    """A tile of snowflakes that wraps around, values in [0, 1]."""
    seeds = (rng.random((size, size)) < rng.uniform(0.006, 0.012)).astype(np.float32)
    soft = cv2.GaussianBlur(np.tile(seeds, (3, 3)), (0, 0), radius)[size : 2 * size, size : 2 * size]
    return np.minimum(soft * (2 * math.pi * radius**2), 1.0)


def _scroll(tile: Float32[np.ndarray, "size size"], x: float, y: float) -> Float32[np.ndarray, "size size"]:
    matrix = np.array([[1.0, 0.0, x % tile.shape[1]], [0.0, 1.0, y % tile.shape[0]]])
    flags = cv2.INTER_LINEAR
    return cv2.warpAffine(tile, matrix, tile.shape[::-1], flags=flags, borderMode=cv2.BORDER_WRAP)


def _falling(frames: Frames, layers: list[tuple[np.ndarray, float, float]], colour: float, strength: float) -> Frames:
    """Lays scrolling tiles over the frames; the first is clear, the fall sets in over four."""
    out = np.empty_like(frames)
    for index, frame in enumerate(frames):
        cover = np.zeros(frame.shape[:2], np.float32)
        for tile, dx, dy in layers:
            cover = np.maximum(cover, _scroll(tile, dx * index, dy * index))
        cover = (cover * strength * min(1.0, index / 4))[..., None]
        out[index] = frame * (1 - cover) + colour * cover + 0.5
    return out


def _rain(rng: np.random.Generator, frames: Frames) -> Frames:
    size = frames.shape[1]
    tile, speed = _streaks(rng, size), rng.uniform(0.09, 0.14) * size
    return _falling(frames, [(tile, 0.0, speed)], rng.uniform(190, 235), rng.uniform(0.35, 0.6))


def _snow(rng: np.random.Generator, frames: Frames) -> Frames:
    size, drift = frames.shape[1], rng.uniform(-0.008, 0.008)
    near = (_flakes(rng, size, size / 75), drift * size, rng.uniform(0.03, 0.05) * size)
    far = (_flakes(rng, size, size / 110), 0.6 * drift * size, rng.uniform(0.018, 0.028) * size)
    return _falling(frames, [near, far], 250.0, rng.uniform(0.7, 0.95))


def _flicker(rng: np.random.Generator, frames: Frames) -> Frames:
    """Brightness falls and returns twice; symmetric in time."""
    times = np.linspace(0.0, 1.0, len(frames))
    gain = 1 - rng.uniform(0.3, 0.55) * (1 - np.cos(4 * np.pi * times)) / 2
    return (frames * gain[:, None, None, None] + 0.5).astype(np.uint8)


def _ripple(rng: np.random.Generator, frames: Frames) -> Frames:
    """A travelling sine wave along y and x; the first frame is undistorted."""
    size, count = frames.shape[1], len(frames)
    grid = np.arange(size, dtype=np.float32)
    height, wavelength, phase = (
        rng.uniform(0.015, 0.03) * size,
        rng.uniform(0.25, 0.45) * size,
        rng.uniform(0, 2 * math.pi),
    )
    out = np.empty_like(frames)
    for index, frame in enumerate(frames):
        wave = height * min(1.0, index / 4) * np.sin(2 * np.pi * (grid / wavelength - 2 * index / count) + phase)
        x = (grid[None] + wave[:, None]).astype(np.float32)
        y = (grid[:, None] + 0.6 * wave[None]).astype(np.float32)
        out[index] = cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return out


_EFFECTS: dict[str, Callable[[np.random.Generator, Frames], Frames]] = {
    "rain": _rain,
    "snow": _snow,
    "flicker": _flicker,
    "ripple": _ripple,
    "still": lambda rng, frames: frames,
}


# Clips -----------------------------------------------------------------------------------------------


def draw_kind(rng: np.random.Generator) -> str:
    """Draws a kind: half camera moves, a third objects, the rest effects."""
    group = rng.choice(list(GROUP_SHARES), p=list(GROUP_SHARES.values()))
    if group == "camera":
        return str(rng.choice(CAMERA_KINDS))
    if group == "effect":
        return str(rng.choice(EFFECT_KINDS))
    return str(rng.choice(list(OBJECT_SHARES), p=list(OBJECT_SHARES.values())))


def _has_speed(kind: str) -> bool:
    return kind in _DIRECTIONS or kind.startswith(("zoom", "rotate", "spin"))


def draw_clip(
    rng: np.random.Generator,
    bank: SceneBank,
    *,
    size: int = 64,
    num_frames: int = 16,
    split: str = "train",
    kind: str | None = None,
    speed: str | None = None,
) -> Clip:
    """Draws and renders one clip.

    Args:
        rng: source of all randomness.
        bank: photographs and objects.
        size: width and height in pixels.
        num_frames: length of the clip.
        split: which wordings to use, "train" or "heldout".
        kind: one of `trip.data.synthetic.captions.KINDS`; drawn when None.
        speed: "slow", "normal" or "fast"; drawn when None.
    """
    kind = kind or draw_kind(rng)
    drawn = str(rng.choice(list(SPEED_SHARES), p=list(SPEED_SHARES.values())))
    speed = (speed or drawn) if _has_speed(kind) else "normal"
    photo = bank.photos[int(rng.integers(len(bank.photos)))]
    frames, details = _render(rng, bank, photo, kind, speed, size, num_frames)
    params = {"speed": speed, "photo": photo.name, **details}
    return Clip(frames, draw_caption(kind, rng, split, params["subject"], speed), kind, params)


def _render(
    rng: np.random.Generator, bank: SceneBank, photo: Photo, kind: str, speed: str, size: int, num_frames: int
) -> tuple[Frames, dict[str, Any]]:
    if kind in CAMERA_KINDS:
        amount = float(rng.uniform(*AMOUNTS[speed]))
        return _photo_frames(rng, photo, kind, amount, size, num_frames), {
            "subject": photo.caption,
            "amount": amount,
        }
    if kind in EFFECT_KINDS:
        frames = _EFFECTS[kind](rng, _photo_frames(rng, photo, "still", 0.0, size, num_frames))
        return frames, {"subject": photo.caption, "amount": 0.0}
    return _object_clip(rng, bank, photo, kind, speed, size, num_frames)


class SyntheticMotion:
    """An endless, seeded set of synthetic clips: item i depends on (seed, split, i) alone.

    Args:
        photos: folder prepared by `lab.photographs`, or pictures at hand, such as
            `trip.data.synthetic.procedural.procedural_bank` draws.
        size: width and height in pixels.
        num_frames: length of the clips.
        seed: non-negative seed of the set.
        split: "train" or "heldout"; photographs, objects and wordings all follow it.
        length: what `len()` reports, for samplers that need it.
    """

    def __init__(
        self,
        photos: str | Path | SceneBank,
        size: int = 64,
        num_frames: int = 16,
        seed: int = 0,
        split: str = "train",
        length: int = 1_000_000,
    ) -> None:
        check_split(split)
        self.bank = photos if isinstance(photos, SceneBank) else SceneBank.load(photos, split, size)
        self.size, self.num_frames, self.seed, self.split, self.length = size, num_frames, seed, split, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Clip:
        if not 0 <= index < self.length:
            raise IndexError(f"index (={index}) is outside 0...{self.length - 1}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        return draw_clip(rng, self.bank, size=self.size, num_frames=self.num_frames, split=self.split)
