"""From a clip's bytes to frames for training: at a rate, from a random start, at a size; or a `ClipFault`.

Time. A clip's timeline are the presentation times of its packets, so files of variable rate keep their speed. The
frames of a sample are the source frames nearest to start, start + 1 / fps, start + 2 / fps, ...; every source frame
from which the sample fits into the clip is a possible start. A source slower than `fps` shows some frames twice,
and one slower than `Decoding.slowest * fps` is a fault.

Time-outs. The clock is checked before every packet and every frame, and inside FFmpeg while it opens a file or
waits for data. What no check reaches is a single call that does not return: a read from a dead network drive, or a
decoder that loops on one packet. `trip.data.sets.check` therefore decodes in processes that it can end from outside.

A fault is an error, never a substitute: no zeros, no repeated frames in place of what could not be read.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from trip.data.images import fit_image
from trip.data.sets.examples import Example, Location, TarMember, Unusable, read_bytes
from trip.data.text import printable
from trip.data.video.containers import FAULTS, MAX_PIXELS, Clip, Deadline, Fault, Shown, faults, open_video
from trip.data.video.frames import Frames

Times = Float64[np.ndarray, " n"]

SLOWEST_FPS, FASTEST_FPS = 0.1, 1000.0
UNIQUE_TIMES = 0.9
"""Least share of frames with a time of their own; below it the times are not believed."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How clips are decoded.

    Attributes:
        num_frames: frames of a sample.
        fps: frames per second of a sample; None takes the clip's own frames, one after the other.
        size: (height, width): the short side is reduced to it (antialiased), the rest cut off, centred.
        flip: mirror half of the samples, except those whose caption names a side or a sense of rotation.
        timeout: seconds of wall-clock time for one clip.
        max_pixels: largest width times height of a source frame.
        slowest: least source rate, as a share of `fps`.
    """

    num_frames: int = 16
    fps: float | None = 8.0
    size: tuple[int, int] = (256, 256)
    flip: bool = False
    timeout: float = 60.0
    max_pixels: int = MAX_PIXELS
    slowest: float = 0.75

    def __post_init__(self) -> None:
        for name, value in (("num_frames", self.num_frames), ("height", self.size[0]), ("width", self.size[1])):
            if value < 1:
                raise ValueError(f"{name} (={value}) must be at least 1")
        if self.fps is not None and not SLOWEST_FPS <= self.fps <= FASTEST_FPS:
            raise ValueError(f"fps (={self.fps}) must lie in {SLOWEST_FPS} to {FASTEST_FPS:g}; None is the clip's own")
        if not self.timeout > 0:
            raise ValueError(f"timeout (={self.timeout}) must be positive; it is in seconds")


class ClipFault(ValueError):
    """A clip that cannot be used.

    Attributes:
        key: of the example.
        reason: one of `FAULTS`.
        message: what is wrong, in one line.
    """

    def __init__(self, key: str, reason: str, message: str) -> None:
        assert reason in FAULTS, f"{reason} is no reason"
        super().__init__(key, reason, message)  # all three, so that pickling between processes works
        self.key, self.reason, self.message = key, reason, message

    def __str__(self) -> str:
        return f"{printable(self.key)}: {printable(self.message)}"


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """What a clip is.

    Attributes:
        frames: source frames.
        seconds: length.
        fps: mean source rate.
        width: pixels of the first frame, upright.
        height: pixels of the first frame, upright.
        motion: mean absolute difference of consecutive frames, in 8 bit levels, at the rate and size of training.
    """

    frames: int
    seconds: float
    fps: float
    width: int
    height: int
    motion: float


_DIRECTION = re.compile(
    r"\b(?:left|right)(?:s|wards?|most|y|ies|[ -]?hand(?:ed|er|ers)?)?\b|\b(?:counter|anti)?[ -]?clockwise\b",
    re.IGNORECASE,
)


def may_flip(caption: str) -> bool:
    """Whether a mirrored clip still fits its caption: no word for a side (left, rightwards, ...) or a turn in it.

    "right" in other senses ("right now") also forbids it, which costs a variation and no truth.
    """
    return _DIRECTION.search(caption) is None


def decode_example(example: Example, decoding: Decoding, rng: np.random.Generator) -> Frames:
    """A sample of an example's clip, see `decode_clip`."""
    return decode_clip(example.video, decoding, rng, caption=example.caption, key=example.key)


def decode_clip(
    video: Location, decoding: Decoding, rng: np.random.Generator, *, caption: str = "", key: str | None = None
) -> Frames:
    """Decode `decoding.num_frames` frames from a random start.

    Args:
        video: where the clip is.
        decoding: rate, size and limits.
        rng: draws the start, then (if `decoding.flip`) the mirror; the same state gives the same sample.
        caption: keeps clips from being mirrored, see `may_flip`.
        key: name of the clip in errors; the file's by default.

    Returns:
        uint8 sRGB, f H W 3.

    Raises:
        ClipFault: the clip cannot be used; `reason` says why.
    """
    with _faults(_name(video) if key is None else key):
        source = _Source(video, decoding)
        timeline = _read_timeline(source)
        wanted = timeline.sample(decoding, rng)
        mirrored = decoding.flip and rng.random() < 0.5 and may_flip(caption)
        frames = np.stack([picture for picture, _ in _pictures(source, timeline, wanted)])
        return np.ascontiguousarray(frames[:, :, ::-1]) if mirrored else frames


def inspect_clip(video: Location, decoding: Decoding, *, key: str | None = None) -> ClipFacts:
    """Decode the whole clip: finds damage anywhere in it, and measures it.

    Raises:
        ClipFault: `decode_clip` could fail on the clip, for some start.
    """
    with _faults(_name(video) if key is None else key):
        source = _Source(video, decoding)
        timeline = _read_timeline(source)
        timeline.starts(decoding)
        before, changes, shapes = None, [], []
        for picture, shape in _pictures(source, timeline, timeline.grid(decoding.fps)):
            now = picture.astype(np.int16)
            changes += [] if before is None else [float(np.abs(now - before).mean())]
            shapes.append(shape)
            before = now
        return ClipFacts(
            frames=len(timeline.times),
            seconds=timeline.seconds,
            fps=timeline.fps,
            width=shapes[0][1],
            height=shapes[0][0],
            motion=float(np.mean(changes)) if changes else 0.0,
        )


# --------------------------------------------------------------------------------------------------- faults


@contextmanager
def _faults(key: str) -> Iterator[None]:
    """Turn everything that a bad clip can cause into a `ClipFault`."""
    try:
        with faults():
            yield
    except Fault as fault:
        raise ClipFault(key, fault.reason, str(fault)) from None


def _name(video: Location) -> str:
    match video:
        case bytes():
            return f"{len(video)} bytes"
        case TarMember():
            return video.name
    return str(video)


# -------------------------------------------------------------------------------------------------- reading


class _Source:
    """A clip's bytes or path, and how to decode them."""

    def __init__(self, video: Location, decoding: Decoding) -> None:
        self.decoding, self.deadline = decoding, Deadline(decoding.timeout)
        if isinstance(video, Unusable):
            raise Fault(video.reason, video.message)
        self._content = video if isinstance(video, Path) else read_bytes(video)

    def open(self) -> AbstractContextManager[Clip]:
        return open_video(self._content, max_pixels=self.decoding.max_pixels, deadline=self.deadline)


@dataclass(frozen=True)
class _Timeline:
    """Presentation times of all frames in seconds, ascending.

    `stamped` is False where the file has no times (raw streams) and they are counted from the frame rate.
    """

    times: Times
    fps: float
    stamped: bool

    @property
    def period(self) -> float:
        return 1 / self.fps

    @property
    def seconds(self) -> float:
        return len(self.times) / self.fps

    def starts(self, decoding: Decoding) -> int:
        """Number of frames a sample may start from.

        Raises:
            Fault: none, or the source is far slower than asked for.
        """
        count = len(self.times) - decoding.num_frames + 1
        if decoding.fps is not None:
            if self.fps < decoding.slowest * decoding.fps:
                raise Fault("bad_fps", f"{self.fps:.3g} fps are too slow for {decoding.fps:g}; ask for a lower rate")
            span = (decoding.num_frames - 1) / decoding.fps
            count = int(np.searchsorted(self.times, self.times[-1] + self.period / 2 - span, side="right"))
        if count < 1:
            rate = "" if decoding.fps is None else f" at {decoding.fps:g} fps"
            have = f"{len(self.times)} frames ({self.seconds:.2f} s)"
            raise Fault("too_short", f"{have} are too few for {decoding.num_frames}{rate}; ask for fewer")
        return count

    def sample(self, decoding: Decoding, rng: np.random.Generator) -> Times:
        """Times of a sample from a random start."""
        start = int(rng.integers(self.starts(decoding)))
        if decoding.fps is None:
            return self.times[start : start + decoding.num_frames]
        return self.times[start] + np.arange(decoding.num_frames) / decoding.fps

    def grid(self, fps: float | None) -> Times:
        """Times over the whole clip."""
        if fps is None:
            return self.times
        span = self.times[-1] + self.period / 2 - self.times[0]
        return self.times[0] + np.arange(int(span * fps) + 1) / fps

    def distance(self, wanted: float) -> float:
        """Seconds from a time to the nearest frame."""
        return float(np.abs(self.times - wanted).min())


def _read_timeline(source: _Source) -> _Timeline:
    """Read all packets, without decoding them.

    Raises:
        Fault: cut off, damaged, or without usable times.
    """
    with source.open() as clip:
        return _timeline([time for time, _ in clip.stamps()], clip.rate)


def _timeline(stamps: list[float | None], rate: float) -> _Timeline:
    """Timeline of the seconds of frames, in decoding order."""
    given = np.unique(np.array([stamp for stamp in stamps if stamp is not None], np.float64))
    stamped = None not in stamps
    if stamped and len(given) < UNIQUE_TIMES * len(stamps):
        raise Fault("bad_fps", f"{len(stamps)} frames share {len(given)} times; make the clip again")
    if stamped and len(given) > 1:
        rate = (len(given) - 1) / (given[-1] - given[0])
    elif stamped and not rate:  # a single frame needs no rate
        rate = 1.0
    if not SLOWEST_FPS <= rate <= FASTEST_FPS:
        raise Fault("bad_fps", f"{rate:.4g} fps lies outside {SLOWEST_FPS} to {FASTEST_FPS:g}; make the clip again")
    return _Timeline(given if stamped else np.arange(len(stamps)) / rate, rate, stamped)


# ------------------------------------------------------------------------------------------------- decoding

Timed = tuple[float, Shown]


def _pictures(
    source: _Source, timeline: _Timeline, wanted: Times
) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], tuple[int, int]]]:
    """For each time, the nearest frame at the size of training, and its (height, width) before.

    Raises:
        Fault: the decoder has no frame near a time at which the file announces one.
    """
    height, width = source.decoding.size
    seconds = iter(wanted.tolist())
    for at, shown in nearest(_decoded(source, timeline, float(wanted[0])), wanted.tolist()):
        goal = next(seconds)
        if abs(at - goal) > timeline.distance(goal) + 0.75 * timeline.period:
            raise Fault("corrupt", f"no frame can be decoded at {goal - timeline.times[0]:.2f} s; make it again")
        picture = shown()
        yield np.asarray(fit_image(Image.fromarray(picture), width, height)), picture.shape[:2]
    if next(seconds, None) is not None:
        raise Fault("corrupt", "no frame can be decoded; make or copy it again")


def nearest(frames: Iterator[Timed], wanted: list[float]) -> Iterator[Timed]:
    """For each of the ascending times, the (time, frame) nearest to it; of two as near, the earlier."""
    before, index = None, 0
    for now in frames:
        while index < len(wanted) and wanted[index] <= now[0]:
            closer = before is not None and wanted[index] - before[0] <= now[0] - wanted[index] + 1e-6
            yield before if before is not None and closer else now
            index += 1
        if index == len(wanted):
            return
        before = now
    if before is not None:
        yield from [before] * (len(wanted) - index)


def _decoded(source: _Source, timeline: _Timeline, start: float) -> Iterator[Timed]:
    """Frames with their times, from `start` or before it on."""
    if timeline.stamped and start > timeline.times[0]:
        with source.open() as clip:
            if clip.seek(start):
                frames = _timed(clip, timeline)
                first = next(frames, None)
                if first is not None and first[0] <= start + 1e-6:
                    yield first
                    yield from frames
                    return
    with source.open() as clip:  # no index, or a wrong one: from the beginning
        yield from _timed(clip, timeline)


def _timed(clip: Clip, timeline: _Timeline) -> Iterator[Timed]:
    """Frames with the times of the timeline."""
    for count, (at, shown) in enumerate(clip.frames()):
        if timeline.stamped and at is None:
            raise Fault("bad_fps", f"frame {count} has no time; make the clip again")
        yield at if timeline.stamped and at is not None else count * timeline.period, shown
