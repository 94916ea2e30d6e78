"""The door to FFmpeg: what a stranger's clip may make it do. Every reader of clips goes through `open_video`.

* FFmpeg gets bytes and never a name, so neither names such as ``concat:a|b`` nor the name's suffix mean anything to it.
* Formats that name other files (playlists, lists, session descriptions) are not on its list, and no protocol is.
* One packet may make it read only so many bytes, and one clip only so many samples, since both are memory.

What is not FFmpeg's, stills and animated WebP, is Pillow's; `Clip` is the same for both.
"""

import errno
import io
import math
import os
import stat
import struct
import time
import warnings
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from av.container import InputContainer
from av.error import ArgumentError, ExitError, InvalidDataError
from av.video.codeccontext import VideoCodecContext
from PIL import Image

from trip.data.images import to_rgb
from trip.data.text import open_regular
from trip.data.video.frames import Frame, Unshowable, frame_to_rgb

FAULTS = {
    "missing": "there is no such file",
    "unreadable": "the file may not be read, or reading fails",
    "empty": "0 bytes",
    "not_video": "no format fits the content: another kind of file, or cut off before its index",
    "no_video": "sound or subtitles without pictures",
    "truncated": "fewer frames than the header announces",
    "corrupt": "damaged data",
    "bad_fps": "no usable frame rate or times, or far slower than asked for",
    "bad_picture": "turned by an odd angle, pixels of an absurd shape, or colours that cannot be converted",
    "too_short": "fewer frames than asked for, at the rate asked for",
    "too_large": "frames of more pixels than allowed, or more data than a clip needs",
    "too_slow": "not decoded within the time-out",
    "crashed": "the decoder ended its process",
    "no_caption": "no caption, or an empty one",
    "bad_entry": "its row, name, record or caption is wrong",
    "outside": "a URL, or a path or link that leads out of the data's folder",
}
"""Reason codes of faults and what they mean. Codes are stable: scripts may compare them."""

DEMUXERS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv", "live_flv", "ogg", "mxf", "nut", "nsv", "rm"),
    *("mpeg", "mpegvideo", "mpegts", "mpegtsraw", "dv", "wtv", "gif", "apng", "yuv4mpegpipe"),
    *("m4v", "h261", "h263", "h264", "hevc", "vvc", "obu", "av1", "ivf", "vc1", "mjpeg", "dirac", "cavsvideo"),
)
"""FFmpeg's names of the formats tried: those that hold all of a clip themselves."""

LIBVPX = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that know of alpha, which FFmpeg's own leave out."""

PNG = b"\x89PNG\r\n\x1a\n"
STILLS = (b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
"""How JPEG, BMP and TIFF start."""

MAX_PIXELS = 6144 * 4096
"""Most pixels of a frame: decoders keep several, and an 8K clip takes a gigabyte."""

ANIMATION_SHARE = 2
"""Such a part of the pixels may a frame of GIF, PNG or WebP have, whose decoders keep several whole canvases."""

MAX_READ = 128 * 2**20
"""Most bytes read for a header, a packet or a still."""

MAX_SAMPLES = 5_000_000
"""Most frames and stretches of sound that the index of an mp4 may announce: a day at 50 frames a second."""

MAX_FRAMES, MAX_ANIMATED = 1_000_000, 20_000
"""Most frames of a clip (nine hours at 30 frames a second), and of a GIF or APNG."""

MAX_BOXES = 500_000
"""Most boxes of an mp4."""


class Fault(Exception):
    """Why a clip cannot be used: a reason out of `FAULTS`, and a message without the clip's name."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Deadline:
    """A moment on the clock by which a clip must be decoded."""

    def __init__(self, seconds: float = float("inf")) -> None:
        self.seconds, self.end = seconds, time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then.

        Raises:
            Fault: it has passed.
        """
        left = self.end - time.monotonic()
        if left <= 0:
            raise Fault("too_slow", f"not decoded within {self.seconds:g} s; allow more time or leave it out")
        return left


File = io.BytesIO | io.BufferedReader

Shown = Callable[[], Frame]
"""Makes the picture of a decoded frame, see `trip.data.video.frames`."""


class Clip(ABC):
    """An open clip, which is read once: its stamps, or its frames.

    Attributes:
        rate: mean frames per second by the header; 0 where unknown.
        animated: of a format whose frames last as long as they like (GIF, APNG, WebP).
        announced: number of frames by the header; 0 where unknown.
    """

    rate: float
    animated: bool
    announced: int

    @abstractmethod
    def stamps(self) -> Iterator[tuple[float | None, float]]:
        """(time, duration) in seconds of every frame in the order of decoding, without decoding; times may be missing.

        Raises:
            Fault: cut off or damaged.
        """

    @abstractmethod
    def frames(self) -> Iterator[tuple[float | None, Shown]]:
        """(time, picture) of every frame in the order of showing.

        Raises:
            Fault: cut off, damaged or too large.
        """

    def seek(self, seconds: float) -> bool:
        """Go to the last key frame before a time; False where the file cannot be searched."""
        return False


@contextmanager
def open_video(
    video: Path | bytes, *, max_pixels: int = MAX_PIXELS, deadline: Deadline | None = None
) -> Iterator[Clip]:
    """Open a clip: any file that FFmpeg decodes, animated WebP, or a still as a clip of one frame.

    Args:
        video: a file or its content; what it is, is told by its content.
        max_pixels: most pixels of a frame, as stored and as shown.
        deadline: for opening and reading it; none by default.

    Raises:
        Fault: it cannot be used.
    """
    deadline = deadline or Deadline()
    with faults(), _opened(video) as file:
        head = file.read(64)
        if not head:
            raise Fault("empty", "0 bytes; make or copy it again")
        if announced := _announced_size(head):
            max_pixels //= ANIMATION_SHARE
            _check_size(announced, max_pixels)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            yield _PillowClip(file, max_pixels, deadline, _webp_durations(file))
        elif head.startswith(STILLS) or head[4:12] == b"ftypavif" or (head.startswith(PNG) and not _is_apng(file)):
            yield _PillowClip(file, max_pixels, deadline, [0.0])
        else:
            with _container(file, deadline, max_pixels) as (container, watched):
                yield _FFmpegClip(container, watched, max_pixels, deadline)


@contextmanager
def faults() -> Iterator[None]:
    """Turn everything that a bad clip can cause into a `Fault`."""
    try:
        yield
    except ExitError:
        raise Fault("too_slow", "waiting for data took longer than the time-out; copy it to a faster drive") from None
    except MemoryError:
        raise Fault("too_large", "decoding it needs more memory than there is; shrink the clip") from None
    except Unshowable as error:
        raise Fault("bad_picture", str(error)) from None
    except (av.FFmpegError, OSError) as error:
        raise Fault(_reason(error), f"{FAULTS[_reason(error)]} ({_text(error)}); make or copy it again") from None


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "missing"
        case PermissionError():
            return "unreadable"
        case OSError(errno=errno.EFBIG):
            return "too_large"
        case av.FFmpegError():
            return "corrupt"
    return "unreadable"


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if math.prod(size) > max_pixels:
        raise Fault(
            "too_large", f"frames of {size[0]}x{size[1]} pixels exceed the limit of {max_pixels}; shrink the clip"
        )


def _announced_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) of formats whose decoders take memory for all of it as soon as they are opened."""
    if head.startswith((b"GIF87a", b"GIF89a")) and len(head) > 10:
        return struct.unpack_from("<2H", head, 6)
    if head.startswith(PNG) and len(head) > 24:
        return struct.unpack_from(">2I", head, 16)
    if head[8:16] == b"WEBPVP8X" and len(head) > 30:
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _text(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def _opened(video: Path | bytes) -> File:
    if isinstance(video, bytes):
        return io.BytesIO(video)
    if not stat.S_ISREG(os.stat(video).st_mode):
        raise Fault("unreadable", "is no regular file; name a clip")
    os.close(os.open(video, os.O_RDONLY | os.O_NONBLOCK))  # raises what says why it cannot be read
    return open_regular(video)


# ------------------------------------------------------------------------------------------------------ FFmpeg


class _Watched:
    """A file as FFmpeg reads it: without a name, by the clock, and so many bytes between two `refill`s.

    What goes wrong in here looks like the end of the file to FFmpeg; `watch` tells it apart.
    """

    def __init__(self, file: File, deadline: Deadline) -> None:
        self._file, self._deadline, self._left = file, deadline, MAX_READ
        self._fault: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            self._deadline.left()
            self._left -= size
            if self._left < 0:
                raise Fault("too_large", f"a packet or header of more than {MAX_READ >> 20} MiB; make the clip again")
            return self._file.read(size)
        except Exception as error:
            self._fault = self._fault or error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def refill(self) -> None:
        self._left = MAX_READ

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise what went wrong while FFmpeg was reading rather than what FFmpeg makes of it."""
        try:
            yield
        except (av.FFmpegError, Fault):
            if self._fault:
                raise self._fault from None
            raise
        if self._fault:
            raise self._fault from None


@contextmanager
def _container(file: File, deadline: Deadline, max_pixels: int) -> Iterator[tuple[InputContainer, _Watched]]:
    """The file in FFmpeg's hands."""
    _check_boxes(file, deadline)
    _check_trailer(file)
    file.seek(0)
    watched = _Watched(file, deadline)
    options = {
        "format_whitelist": ",".join(DEMUXERS),
        "protocol_whitelist": "none",
        "max_pixels": _decoder_limit(max_pixels),
    }
    left = None if deadline.seconds == float("inf") else deadline.left()
    with watched.watch():
        try:
            container = av.open(watched, "r", timeout=left, metadata_errors="replace", options=options)
        except (InvalidDataError, ArgumentError) as error:
            raise Fault("not_video", f"{FAULTS['not_video']} ({_text(error)}); choose a clip") from None
    with container:
        yield container, watched


def _decoder_limit(max_pixels: int) -> str:
    """For decoders, which count their padding; every frame is checked exactly."""
    return str(min(2 * max_pixels + 65536, 2**31 - 1))


def read_tags(path: Path) -> dict[str, str]:
    """Texts that a container carries, by name.

    Raises:
        Fault: it cannot be opened.
    """
    deadline = Deadline()
    with faults(), _opened(path) as file, _container(file, deadline, MAX_PIXELS) as (container, _):
        return dict(container.metadata)


class _FFmpegClip(Clip):
    def __init__(self, container: InputContainer, watched: _Watched, max_pixels: int, deadline: Deadline) -> None:
        if not container.streams.video:
            raise Fault("no_video", "holds no pictures, only sound or text; choose a clip")
        self._container, self._watched = container, watched
        self._max_pixels, self._deadline, self._whole = max_pixels, deadline, True
        self._stream = container.streams.video[0]
        if self._stream.codec_context is None:
            raise Fault("corrupt", "its codec is unknown; convert it to H.264")
        self._unit = float(self._stream.time_base or 0)
        self.rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.animated = container.format.name in ("gif", "apng")
        self.announced = self._stream.frames
        self._max_frames = MAX_ANIMATED if self.animated else MAX_FRAMES
        # Browsers take the pixels of animations for square, whatever these files say.
        self._aspect = 1.0 if self.animated else float(self._stream.sample_aspect_ratio or 1)
        self._decoder = self._chosen_decoder()
        self._check_size(self._decoder.width, self._decoder.height)

    def _chosen_decoder(self) -> VideoCodecContext:
        """FFmpeg's own, but for VP8 and VP9 with alpha, which only libvpx decodes."""
        context = self._stream.codec_context
        assert context is not None
        alpha = {name.lower(): value for name, value in self._stream.metadata.items()}.get("alpha_mode") == "1"
        if alpha and context.name in LIBVPX:
            width, height = context.width, context.height
            try:
                context = cast(VideoCodecContext, CodecContext.create(LIBVPX[context.name], "r"))
            except UnknownCodecError:
                raise Fault(
                    "bad_picture", "its transparency takes FFmpeg's libvpx; convert it to another format"
                ) from None
            context.width, context.height = width, height
        context.options = {"max_pixels": _decoder_limit(self._max_pixels)}  # for streams that grow later
        context.thread_count = 1
        return context

    def _check_size(self, width: int, height: int) -> None:
        """Before memory is taken for a frame."""
        _check_size((width, height), self._max_pixels)
        _check_size((round(width * self._aspect), height), self._max_pixels)

    def _packets(self) -> Iterator[av.Packet]:
        """All packets, which are all that the header announces."""
        count, stamps = 0, array("d")
        with self._watched.watch():
            for packet in self._container.demux(self._stream):
                self._watched.refill()
                self._deadline.left()
                if packet.is_corrupt:
                    raise Fault("truncated", f"damaged or cut off after {count} frames; make or copy it again")
                if packet.size > 0 or packet.dts is not None:
                    count += 1
                if count > self._max_frames:
                    raise Fault("too_large", f"more than {self._max_frames:,} frames; cut the clip")
                if packet.size and packet.pts is not None:
                    stamps.append(packet.pts * self._unit)
                yield packet
        if not self._whole:
            return
        if count < self.announced or not count:
            expected = max(self.announced, 1)
            raise Fault("truncated", f"cut off, {count} of {expected} frames are there; copy it again")
        if not self.announced:
            self._check_end(np.unique(stamps))

    def _check_end(self, times: np.ndarray) -> None:
        """Compare the last frame's end with the one announced, where there is no sound that may go on longer."""
        container, rate = self._container, self.rate
        if container.duration is None or len(container.streams) > 1 or len(times) < 1:
            return
        end = ((container.start_time or 0) + container.duration) / av.time_base
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else rate or 1.0
        stays = float(np.diff(times, append=times[-1] + 1 / rate).max())  # no longer than any other
        if end > times[-1] + stays + 1 / rate:
            there = times[-1] - times[0] + 1 / rate
            raise Fault("truncated", f"cut off, {there:.2f} of {end:.2f} s are there; copy it again")

    def stamps(self) -> Iterator[tuple[float | None, float]]:
        for packet in self._packets():
            if packet.size and not packet.is_discard:
                yield None if packet.pts is None else packet.pts * self._unit, (packet.duration or 0) * self._unit

    def frames(self) -> Iterator[tuple[float | None, Shown]]:
        count = 0
        for packet in self._packets():
            if not packet.size and packet.dts is not None:  # AVI's "as before"; empty, it would end the decoder
                continue
            for frame in self._decoder.decode(packet if packet.size else None):
                self._deadline.left()
                self._check_size(frame.width, frame.height)
                if frame.is_corrupt:
                    raise Fault("corrupt", f"frame {count} is damaged; make or copy the clip again")
                seconds = None if frame.pts is None else frame.pts * self._unit
                yield seconds, partial(frame_to_rgb, frame, self._aspect)
                count += 1

    def seek(self, seconds: float) -> bool:
        if self.announced and len(self._stream.index_entries) > 2 * self.announced + 1000:
            return False  # samples without times, among which FFmpeg would search for minutes
        self._whole = False
        self._watched.refill()
        with self._watched.watch():
            try:
                self._container.seek(round(seconds / (self._unit or 1)), stream=self._stream)
            except av.FFmpegError:
                return False
        return True


def _check_boxes(file: File, deadline: Deadline) -> None:
    """Refuse an mp4 whose index announces more samples than FFmpeg should take memory for: 12 bytes may say 2**32."""
    file.seek(0)
    if file.read(8)[4:] not in (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return
    samples = boxes = 0
    ends, position = [file.seek(0, os.SEEK_END)], 0
    while ends:
        file.seek(position)
        header = file.read(16)
        if position + 8 > ends[-1] or len(header) < 8:
            position = ends.pop()
            continue
        boxes += 1
        size, kind = struct.unpack_from(">I4s", header)
        start = 16 if size == 1 and len(header) == 16 else 8
        size = struct.unpack_from(">Q", header, 8)[0] if start == 16 else size or ends[-1] - position
        end = min(position + max(size, start), ends[-1])
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf") and len(ends) < 10:
            ends.append(end)
            position += start
            continue
        if kind in (b"stsz", b"stz2", b"trun"):
            file.seek(position + start + (4 if kind == b"trun" else 8))
            samples += int.from_bytes(file.read(4), "big")
        if kind == b"cmov":
            raise Fault("not_video", "its index is compressed, as QuickTime 3 did; convert it to mp4")
        if samples > MAX_SAMPLES or boxes > MAX_BOXES:
            raise Fault("too_large", f"its index announces more than {MAX_SAMPLES:,} samples; cut the clip")
        deadline.left()
        position = end


def _check_trailer(file: File) -> None:
    """Refuse a GIF that is cut off, which FFmpeg takes for its end."""
    file.seek(0)
    if not file.read(6).startswith(b"GIF8"):
        return
    file.seek(0)
    content = file.read(MAX_READ)
    if len(content) < MAX_READ and _gif_end(content) >= len(content):
        raise Fault("truncated", "cut off before its end; make or copy it again")


def _gif_end(content: bytes) -> int:
    """Where a GIF's blocks end: at its trailer, at damage, or beyond the content; or where there are too many."""

    def table(flags: int) -> int:
        return content[flags] & 0x80 and 3 << (content[flags] & 7) + 1

    try:
        at = 13 + table(10)
        for _ in range(3 * MAX_ANIMATED):
            if content[at] not in b"!,":
                break
            at += 2 if content[at] == ord("!") else 11 + table(at + 9)
            while content[at]:
                at += 1 + content[at]
            at += 1
        return at
    except IndexError:
        return len(content)


# ------------------------------------------------------------------------------------------------------ Pillow


class _PillowClip(Clip):
    """A still, or an animated WebP whose frames last for `durations` seconds."""

    def __init__(self, file: File, max_pixels: int, deadline: Deadline, durations: list[float]) -> None:
        if file.seek(0, os.SEEK_END) > MAX_READ:
            raise Fault("too_large", f"a file of more than {MAX_READ >> 20} MiB; make it smaller")
        self._file, self._max_pixels, self._deadline, self._durations = file, max_pixels, deadline, durations
        self.animated, self.announced = len(durations) > 1, len(durations)
        self.rate = len(durations) / sum(durations) if any(durations) else 0.0

    def stamps(self) -> Iterator[tuple[float | None, float]]:
        at = 0.0
        for duration in self._durations:
            yield at, duration
            at += duration

    def frames(self) -> Iterator[tuple[float | None, Shown]]:
        self._file.seek(0)
        with _pillow_faults(), Image.open(self._file, formats=["WEBP", "PNG", "JPEG", "BMP", "TIFF", "AVIF"]) as image:
            _check_size(image.size, self._max_pixels)
            for index, (at, _) in enumerate(self.stamps()):
                self._deadline.left()
                image.seek(index)
                picture = np.asarray(to_rgb(image, name="it"))
                yield at, partial(np.asarray, picture)


@contextmanager
def _pillow_faults() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (Fault, MemoryError):
            raise
        except Exception as error:  # decoders raise OSError, EOFError, SyntaxError, struct.error, ...
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Fault("corrupt", f"{FAULTS['corrupt']} ({reason}); make or copy it again") from None


def _webp_durations(file: File) -> list[float]:
    """Seconds of every frame, by the chunks of the file."""
    durations, position = [], 12
    while len(durations) <= MAX_FRAMES:
        file.seek(position)
        header = file.read(24)
        if len(header) < 8:
            break
        if header[:4] == b"ANMF" and len(header) == 24:
            durations.append(int.from_bytes(header[20:23], "little") / 1000)
        size = int.from_bytes(header[4:8], "little")
        position += 8 + size + size % 2
    return durations or [0.0]


def _is_apng(file: File) -> bool:
    """Whether a PNG has an animation, which it says before its pixels."""
    position = len(PNG)
    for _ in range(10_000):
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[4:] == b"IDAT":
            return False
        if header[4:] == b"acTL":
            return True
        position += 12 + int.from_bytes(header[:4], "big")
    return False
