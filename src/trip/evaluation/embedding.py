"""Pictures and clips as data URIs, so that a page carries all that it shows."""

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from trip.data.video.frames import Frame, Frames
from trip.data.video.writing import write_video

WEBP_LARGEST = 16383
"""Pixels a side that WebP can hold."""

SMALLEST_HEIGHT = 32
"""Pixels below which an animation is not made smaller to save bytes."""


def data_uri(content: bytes, kind: str = "image/webp") -> str:
    """A file's content in place of its address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture_uri(frame: Frame, quality: int = 85) -> str:
    """A still as WebP; quality is 0 to 100."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", quality=quality, method=4)
    return data_uri(buffer.getvalue())


def animation_uri(frames: Frames, fps: float, largest: int) -> str:
    """A clip as animated WebP that repeats, halved in size until it has at most `largest` bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.webp"
        while True:
            write_video(file, frames, fps)
            content = file.read_bytes()
            if len(content) <= largest or frames.shape[1] < 2 * SMALLEST_HEIGHT:
                return data_uri(content)
            frames = resized(frames, frames.shape[1] // 2, frames.shape[2] // 2)


def resized(frames: Frames, height: int, width: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames of another size."""
    if frames.shape[1:3] == (height, width):
        return frames
    size = (max(width, 1), max(height, 1))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames])


def at_height(frames: Frames, height: int) -> UInt8[np.ndarray, "f h w 3"]:
    """Frames of a height, their width in proportion."""
    return resized(frames, height, max(round(frames.shape[2] * height / frames.shape[1]), 1))


def strip(frames: Frames, count: int) -> UInt8[np.ndarray, "H w 3"]:
    """At most `count` frames, first and last among them, side by side."""
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return np.concatenate(list(frames[chosen]), axis=1)


def sheet(frames: Frames) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """All frames in one picture, row by row, and the number of its columns.

    Raises:
        ValueError: more pixels than WebP can hold.
    """
    count, height, width = frames.shape[:3]
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    if max(rows * height, columns * width) > WEBP_LARGEST:
        raise ValueError(
            f"a clip of {count} frames of {width}x{height} exceeds WebP's {WEBP_LARGEST} pixels a side; "
            "make it shorter or smaller"
        )
    padded = np.zeros((rows * columns, height, width, 3), np.uint8)
    padded[:count] = frames
    grid = padded.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(grid.reshape(rows * height, columns * width, 3)), columns
