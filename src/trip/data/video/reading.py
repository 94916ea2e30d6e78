"""Reading whole clips: any file that FFmpeg decodes, animated GIF and WebP, stills, and folders of pictures."""

import math
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from trip.data.images import load_image, open_still
from trip.data.video.containers import MAX_PIXELS, Fault, open_video
from trip.data.video.frames import DEFAULT_FPS, FPS_RANGE, Frame, Frames
from trip.data.video.metadata import find_metadata

MAX_FRAMES = 10_000
"""Most frames read at once."""

MAX_TOTAL_PIXELS = 150_000_000
"""Most pixels read at once: 72 frames of 1920x1080 in 450 MB."""


class Video(NamedTuple):
    """What `read_video` returns."""

    frames: Frames
    """uint8 sRGB, f H W 3."""
    fps: float
    """Frames per second."""
    metadata: dict[str, Any] | None
    """Record of how trip made the clip, see `trip.data.video.metadata`; None where there is none."""


def read_video(
    path: str | os.PathLike[str], *, max_frames: int | None = None, max_total: int = MAX_TOTAL_PIXELS
) -> Video:
    """Read a clip: any file that FFmpeg decodes, animated GIF and WebP, a still, or a folder of PNGs or JPEGs.

    Frames are as they are meant to be seen, see `trip.data.video.frames` and `trip.data.images`. Frames of unequal
    duration (GIF, APNG, WebP) are repeated to a constant rate.

    Args:
        path: the clip.
        max_frames: stop after so many frames; None reads all, at most `MAX_FRAMES`.
        max_total: most pixels of all frames together, each of which takes 3 bytes.

    Raises:
        ValueError: missing, empty, damaged or cut off, without video, or too large.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, False for names that the system refuses
        raise ValueError(f"{path} does not exist; check the path of the clip")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames (={max_frames}) must be at least 1; pass None for all frames")
    metadata = None
    with suppress(ValueError):  # a record of a later version: its frames are readable all the same
        metadata = find_metadata(path)
    collected = _Collected(path, max_frames, max_total)
    if path.is_dir():
        fps = _read_folder(path, collected, _usable_fps((metadata or {}).get("fps")))
    else:
        try:
            fps = _read_file(path, collected, _usable_fps((metadata or {}).get("fps")))
        except Fault as fault:
            raise ValueError(f"{path} cannot be read as a clip: {fault}") from None
    return Video(collected.frames(), fps, metadata)


def _usable_fps(value: Any) -> float | None:
    """A rate that a stranger's file records, if it is one."""
    try:
        fps = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return fps if FPS_RANGE[0] <= fps <= FPS_RANGE[1] else None


class _Collected:
    """Frames as they come, within limits."""

    def __init__(self, path: Path, max_frames: int | None, max_total: int) -> None:
        self._path, self._max_frames, self._max_total = path, max_frames, max_total
        self._pixels = bytearray()  # which grows in place: no moment holds the clip twice
        self._size: tuple[int, int] | None = None
        self.count = 0

    @property
    def full(self) -> bool:
        return self._max_frames is not None and self.count >= self._max_frames

    def like(self, frame: Frame) -> None:
        """All frames must have this one's size."""
        self._size = self._size or frame.shape[:2]

    def add(self, frame: Frame, name: object = None) -> None:
        """Append a frame.

        Raises:
            ValueError: of another size than the first, or beyond the limits.
        """
        self.like(frame)
        if frame.shape[:2] != self._size:
            what = (
                f"differs in size at frame {self.count}" if name is None else f"differs in size from the first: {name}"
            )
            raise ValueError(f"{self._path} {what}; bring the frames to one size")
        self.count += 1
        self.expect(self.count)
        self._pixels += np.ascontiguousarray(frame).data.cast("B")

    def room(self, count: int) -> bool:
        """Whether so many frames like the first are within the limits."""
        count = count if self._max_frames is None else min(count, self._max_frames)
        return count <= MAX_FRAMES and count * math.prod(self._size or (0, 0)) <= self._max_total

    def expect(self, count: int) -> None:
        """Refuse a clip of so many frames like the first before they are decoded.

        Raises:
            ValueError: beyond the limits.
        """
        if not self.room(count):
            height, width = self._size or (0, 0)
            most = min(MAX_FRAMES, self._max_total // (width * height))
            limit = f"more than {most:,} frames of {width}x{height}, the most that are read at once"
            raise ValueError(f"{self._path} has {limit}; pass a smaller max_frames, or cut or shrink the clip")

    def frames(self) -> Frames:
        assert self._size is not None, "callers refuse clips without frames"
        return np.frombuffer(self._pixels, np.uint8).reshape(self.count, *self._size, 3)


def _read_file(path: Path, collected: _Collected, recorded: float | None) -> float:
    """Fill in the frames of a file; returns its rate."""
    with open_video(path) as clip:
        animated, fps = clip.animated, clip.rate
        durations = [duration for _, duration in islice(clip.stamps(), MAX_FRAMES + 1)] if animated else []
    with open_video(path) as clip:
        repeats: list[int] = []
        for index, (_, shown) in enumerate(clip.frames()):
            frame = shown()
            if index == 0:
                collected.like(frame)
                if animated:
                    repeats, fps = _repeats(durations, recorded, collected.room)
                collected.expect(sum(repeats) or clip.announced)
            for _ in range(repeats[index] if index < len(repeats) else 1):
                collected.add(frame)
                if collected.full:
                    return fps or recorded or DEFAULT_FPS
    if not collected.count or collected.count < len(durations):
        expected = max(len(durations), 1)
        raise Fault("truncated", f"cut off, {collected.count} of {expected} frames are there; copy it again")
    return fps or recorded or DEFAULT_FPS


def _repeats(
    durations: list[float], recorded: float | None, room: Callable[[int], bool]
) -> tuple[list[int], float | None]:
    """How often each frame is shown at a constant rate, and the rate: the recorded one, else the shortest frame's.

    An odd file that would grow beyond all measure keeps its own frames, at the mean rate.
    """
    once = [1] * len(durations)
    if min(durations) <= 0:
        return once, recorded
    period = 1 / recorded if recorded else min(durations)
    repeats = [max(round(duration / period), 1) for duration in durations]
    if not room(sum(repeats)):
        return once, len(durations) / math.fsum(durations)
    return repeats, recorded or sum(repeats) / math.fsum(durations)


def _read_folder(path: Path, collected: _Collected, recorded: float | None) -> float:
    """Fill in the pictures of a folder; returns their rate."""
    names = [
        file
        for file in path.iterdir()
        if file.suffix.lower() in (".png", ".jpg", ".jpeg") and not file.name.startswith(".")
    ]
    if not names:
        raise ValueError(f"{path} holds no PNG or JPEG pictures; choose a folder of frames")
    names.sort(key=lambda file: (len(file.name), file.name))  # frame_9999.png before frame_10000.png
    fps = recorded or _recorded_in_picture(names[0])
    for name in names:
        image = load_image(name, min_side=1, max_pixels=MAX_PIXELS, formats=("PNG", "JPEG", "MPO"))
        frame = np.asarray(image)
        if not collected.count:
            collected.like(frame)
            collected.expect(len(names))
        collected.add(frame, name.name)
        if collected.full:
            break
    return fps or DEFAULT_FPS


def _recorded_in_picture(path: Path) -> float | None:
    """Frames per second that `write_video` put into a PNG."""
    with suppress(Exception), warnings.catch_warnings(), open_still(path) as file:
        warnings.simplefilter("ignore")
        with Image.open(file, formats=["PNG"]) as image:
            return _usable_fps(image.info.get("fps"))
    return None
