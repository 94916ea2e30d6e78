"""Tiny clips whose content says which frame is which, and the ways in which clips are broken."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 5
"""Grey levels between consecutive frames of a numbered clip."""

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4", ".mpg": "mpeg2video"}


def encode(
    path: Path, frames: Sequence[np.ndarray], fps: int = 8, gop: int = 4, times: Sequence[int] | None = None
) -> Path:
    """Write RGB frames; `times` are their presentation times in ticks of 1 / (100 fps)."""
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", container_options=options) as container:
        stream = container.add_stream(CODECS[path.suffix], rate=fps)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        unit = Fraction(1, 100 * fps)
        if times is not None:
            stream.codec_context.time_base = unit
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (number, Fraction(1, fps)) if times is None else (times[number], unit)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(path: Path, count: int = 24, fps: int = 8, size: int = 32, **options) -> Path:
    """Frame i is flat grey of level STEP * i; `numbers` reads it back."""
    return encode(path, [np.full((size, size, 3), STEP * i, np.uint8) for i in range(count)], fps, **options)


def numbers(frames: np.ndarray) -> list[int]:
    """Source index of every frame."""
    means = frames.reshape(len(frames), -1).mean(1) / STEP
    assert np.abs(means - means.round()).max() < 0.45, f"{means} are no frames of a numbered clip"
    return means.round().astype(int).tolist()


def noisy(path: Path, count: int = 40, size: int = 64, gop: int = 12) -> Path:
    """A clip that takes many bytes."""
    rng = np.random.default_rng(0)
    return encode(path, list(rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8)), gop=gop)


def sound(path: Path) -> None:
    """A file that holds no pictures."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def without_rate(content: bytes) -> bytes:
    """An mp4 whose frames all last zero ticks."""
    patched = bytearray(content)
    table = patched.find(b"stts")
    for entry in range(struct.unpack_from(">I", patched, table + 8)[0]):
        struct.pack_into(">I", patched, table + 16 + 8 * entry, 0)
    return bytes(patched)


def bomb(width: int, height: int) -> bytes:
    """A GIF of a few bytes with three frames of width x height pixels."""
    frame = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    header = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    return header + frame * 3 + b"\x3b"


def scrambled(content: bytes) -> bytes:
    """An mp4 with a damaged stretch in the middle of its frames."""
    patched = np.frombuffer(content, np.uint8).copy()
    start = content.find(b"mdat") + len(content) // 3
    patched[start : start + len(content) // 3] = patched[start : start + len(content) // 3] * 7 + 13
    return patched.tobytes()


def broken_clips(folder: Path) -> dict[str, str]:
    """Write a clip of every kind of damage into a folder; returns {name: reason}."""
    good = numbered(folder / "short.mp4", count=1).read_bytes()
    long = noisy(folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(long[: len(long) * 6 // 10])
    (folder / "damaged.mp4").write_bytes(scrambled(long))
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no clip\n" * 50)
    (folder / "norate.mp4").write_bytes(without_rate(numbered(folder / "norate.mp4").read_bytes()))
    (folder / "huge.mp4").write_bytes(bomb(15000, 15000))
    (folder / "private.mp4").write_bytes(good)
    (folder / "private.mp4").chmod(0)
    sound(folder / "sound.mp4")
    return {
        "short.mp4": "too_short",
        "cut.mp4": "truncated",
        "damaged.mp4": "corrupt",
        "nothing.mp4": "empty",
        "text.mp4": "not_video",
        "norate.mp4": "bad_fps",
        "huge.mp4": "too_large",
        "private.mp4": "unreadable",
        "sound.mp4": "no_video",
    }
