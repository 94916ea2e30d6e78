"""Writing clips: mp4, webm, gif, animated webp, and folders of PNGs.

Colour. Frames are 8 bit sRGB. mp4 and webm hold 4:2:0 BT.709 in limited range and say so in their tags; how others'
are read is in `trip.data.video.frames`.

Nothing half-written, by `trip.files`: an existing target is replaced only by a complete clip.

Same frames, same settings, same bytes: encoders run with a fixed number of threads, containers hold no dates
and no random identifiers.
"""

import errno
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image, PngImagePlugin

from trip.data.video.containers import Fault, open_video
from trip.data.video.frames import CONVERSION, DEFAULT_FPS, FPS_RANGE, Frame, Frames
from trip.data.video.metadata import (
    EXIF_IMAGE_DESCRIPTION,
    TAG,
    Metadata,
    encode_metadata,
    is_foreign,
    is_recorded,
    names_only,
    sidecar_path,
)
from trip.files import atomic_path

SUFFIXES = (".mp4", ".webm", ".gif", ".webp")
GIF_MAX_FPS = 50
"""Players slow down GIF frames shorter than 20 ms."""

ENCODER_THREADS = 2
AVCOL_SPC_BT709 = 1


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray | Iterable[np.ndarray],
    fps: int | float | Fraction = DEFAULT_FPS,
    metadata: Metadata | None = None,
    *,
    comment: str | None = None,
    crf: int = 14,
) -> None:
    """Write a clip; the format follows from the suffix.

    =================  ====================================================================================
    ``.mp4``           H.264, yuv420p, faststart; both sides even
    ``.webm``          VP9, yuv420p
    ``.gif``           one palette for all frames; at most 50 fps; equal consecutive frames become one longer
    ``.webp``          animated, quality 90; the same, and a clip that never changes becomes a picture
    none, or ``.../``  a folder of ``frame_0000.png``, ..., the lossless choice
    =================  ====================================================================================

    Args:
        path: the clip, in a folder that exists. A clip already there is replaced.
        frames: uint8 sRGB f H W 3, or any iterable of H W 3. mp4, webm and PNG take an iterator's frames as
            they come, so that decoding and encoding alternate; gif and webp collect them first.
        fps: frames per second, 0.1 to 240; a float becomes the nearest fraction with denominator <= 1001.
        metadata: record to embed, paths cut to names, and to write whole to the side-car ``NAME.json``; None keeps both
            out (and removes a side-car that an earlier clip of this name left).
        comment: for players, beside the record, such as the command that makes the clip again.
        crf: quality of mp4 and webm, 0 (best) to 51.

    Raises:
        ValueError: unknown suffix, wrong dtype, shape or size of frames, no frames, fps or crf out of range,
            metadata that is not JSON.
        OSError: missing or read-only folder, full disk; one line that says what to do.
    """
    target, kind = _target(path)
    rate = _frame_rate(fps, kind)
    if not 0 <= crf <= 51:
        raise ValueError(f"crf (={crf}) must lie in 0 (best) to 51; 14 is visually lossless")
    shared = None if metadata is None else names_only(metadata)
    record = None if shared is None else encode_metadata(shared)
    sidecar = None if metadata is None else encode_metadata(metadata, indent=2)
    check_output(path, recorded=metadata is not None)
    if comment is not None:  # file names need not be UTF-8, the comment must be; the record keeps such names exactly
        comment = comment.encode("utf-8", "replace").decode()
    beside = sidecar_path(target)
    try:
        with atomic_path(beside) as temporary_sidecar, atomic_path(target) as temporary:
            _WRITERS[kind](_Job(temporary, rate, record, comment, crf), _checked(frames, kind))
            if sidecar is not None:
                temporary_sidecar.write_text(sidecar + "\n", encoding="ascii")
        if sidecar is None and beside.is_file() and not is_foreign(beside):
            beside.unlink()
    except _SourceError as error:
        raise error.original from None
    except (OSError, av.FFmpegError) as error:
        raise _write_error(target, error) from error


def check_output(path: str | os.PathLike[str], *, recorded: bool = True) -> None:
    """Raise what `write_video` would raise for this path, before the work of making a clip.

    Args:
        recorded: whether a side-car is to be written beside the clip.

    Raises:
        ValueError: unknown suffix, a folder of other things in the way, or a stranger's file in the side-car's place.
        OSError: missing or read-only folder, or a name the file system refuses.
    """
    target, kind = _target(path)
    try:
        if target.is_dir() and kind != "png":
            raise ValueError(f"{target} is a folder; name a file in it, such as {target / 'clip.mp4'}")
        if kind == "png" and os.path.lexists(target):
            _check_folder(target)
        beside = sidecar_path(target)
        with suppress(FileNotFoundError):
            beside.lstat()  # a name that is too long fails here
        if recorded and is_foreign(beside):
            raise ValueError(
                f"{beside}, where the record of {target.name} goes, is a file of something else; choose another name, "
                "or leave the record out (--no-metadata)"
            )
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise _write_error(target, error) from error


def _target(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """(path, kind); kind is "mp4", "webm", "gif", "webp" or "png" (a folder)."""
    text, path = os.fspath(path), Path(path)
    suffix = path.suffix.lower()
    if not path.name:
        raise ValueError(f"output {text!r} names no file; give one, such as clip.mp4")
    if text.endswith(("/", os.sep)) or not suffix:
        return path, "png"
    if suffix not in SUFFIXES:
        raise ValueError(
            f"suffix {suffix!r} of {path} is unknown; choose {', '.join(SUFFIXES)}, or end it with / for PNGs"
        )
    return path, suffix[1:]


def _check_folder(folder: Path) -> None:
    """Refuse what is not a folder, or holds anything but frames that trip has written.

    They have records all of them, or none has, and they are numbered as trip does: from 0, where others begin with 1.
    """
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link; name the folder itself")
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder of PNGs; remove it or add a suffix such as .mp4")
    entries = sorted(folder.iterdir())
    for entry in entries:
        if not entry.match("frame_*.png") or entry.is_symlink() or not entry.is_file():
            raise ValueError(f"{folder} holds other files ({entry.name}); choose a new folder for the frames")
    foreign = [entry.name for entry in entries if not is_recorded(entry)]
    numbered = [entry.name for entry in entries] == [f"frame_{k:04d}.png" for k in range(len(entries))]
    if foreign and (len(foreign) < len(entries) or not numbered):
        raise ValueError(
            f"{folder} holds frames without a record of trip ({foreign[0]}); choose a new folder, or remove it"
        )


def _frame_rate(fps: int | float | Fraction, kind: str) -> Fraction:
    low, high = FPS_RANGE
    high = GIF_MAX_FPS if kind == "gif" else high
    if not (math.isfinite(fps) and low <= fps <= high):
        remedy = "choose .mp4, .webm or .webp" if kind == "gif" and fps > high else "choose a rate in between"
        raise ValueError(f"fps (={fps}) must lie in {low:g} to {high:g}; {remedy}")
    return Fraction(fps).limit_denominator(1001)


class _SourceError(Exception):
    """Carries a system error of the frames' maker past the handler of write errors."""

    def __init__(self, original: BaseException) -> None:
        super().__init__()
        self.original = original


def _checked(frames: np.ndarray | Iterable[np.ndarray], kind: str) -> Iterator[Frame]:
    """Yield frames as contiguous arrays, all of the first one's size."""
    size, source = None, iter(frames)
    while True:
        try:
            frame = next(source)
        except StopIteration:
            break
        except (OSError, av.FFmpegError) as error:
            raise _SourceError(error) from error
        frame = np.ascontiguousarray(frame)
        if frame.dtype != np.uint8:
            raise ValueError(f"frames have dtype {frame.dtype}, not uint8 in 0 to 255; scale and round them")
        if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"a frame has shape {frame.shape}, not (height, width, 3); pass RGB, channels last")
        height, width = frame.shape[:2]
        size = size or (width, height)
        if (width, height) != size:
            raise ValueError(f"frames change from {size[0]}x{size[1]} to {width}x{height}; give all one size")
        if kind == "mp4" and (width % 2 or height % 2):
            raise ValueError(
                f"size {width}x{height} has an odd side, which mp4 (yuv420p) cannot hold; "
                "choose an even width and height, or .webm, .gif or .webp"
            )
        yield frame
    if size is None:
        raise ValueError("a clip needs at least 1 frame, got 0; pass frames of shape (f, height, width, 3)")


@dataclass(frozen=True)
class _Job:
    """What every writer needs beside the frames."""

    path: Path
    rate: Fraction
    record: str | None
    comment: str | None
    crf: int


def _write_mp4(job: _Job, frames: Iterator[Frame]) -> None:
    options = {"crf": str(job.crf), "preset": "medium"}
    movflags = {"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"}
    _encode(job, frames, "mp4", "libx264", options, movflags)


def _write_webm(job: _Job, frames: Iterator[Frame]) -> None:
    options = {"crf": str(job.crf), "deadline": "good", "cpu-used": "4", "row-mt": "1"}
    _encode(job, frames, "webm", "libvpx-vp9", options, {"fflags": "+bitexact"})


def _encode(
    job: _Job,
    frames: Iterator[Frame],
    container_format: str,
    codec: str,
    options: dict[str, str],
    container_options: dict[str, str],
) -> None:
    first = next(frames)
    path = job.path.absolute()
    container = av.open(f"file:{path}", "w", format=container_format, container_options=container_options)
    try:
        tags = {TAG: job.record, "comment": job.comment}
        container.metadata.update({name: text for name, text in tags.items() if text is not None})
        stream = container.add_stream(codec, rate=job.rate, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = ENCODER_THREADS
        _tag_colours(stream.codec_context)
        count = 0
        for array in chain([first], frames):
            frame = _yuv420(array)
            frame.pts, frame.time_base = count, 1 / job.rate
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    except BaseException:
        with suppress(Exception):
            container.close()
        raise
    container.close()
    _check_count(path, count)


def _yuv420(frame: Frame) -> av.VideoFrame:
    converted = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=CONVERSION,
    )
    _tag_colours(converted)
    return converted


def _tag_colours(target: Any) -> None:
    target.colorspace = AVCOL_SPC_BT709
    target.color_range = ColorRange.MPEG
    target.color_primaries = ColorPrimaries.BT709
    target.color_trc = ColorTrc.BT709


def _check_count(path: Path, count: int) -> None:
    """A disk that fills while the container is closed shows only here."""
    try:
        with open_video(path, max_pixels=sys.maxsize) as clip:
            found = sum(1 for _ in clip.stamps())
    except Fault as fault:
        raise OSError(errno.EIO, f"what arrived in the file is no clip: {fault}") from None
    if found != count:
        raise OSError(errno.EIO, f"only {found} of {count} frames arrived in the file")


def _write_gif(job: _Job, frames: Iterator[Frame]) -> None:
    clip = np.stack(list(frames))
    palette = _palette(clip)
    dither = Image.Dither.FLOYDSTEINBERG
    images = [Image.fromarray(frame).quantize(palette=palette, dither=dither) for frame in clip]
    images[0].save(
        job.path,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=_durations(len(images), job.rate, unit=10),
        loop=0,
        palette=bytes(palette.getpalette() or []),
        **({} if job.record is None else {"comment": job.record.encode("ascii")}),
    )


def _palette(clip: Frames, pixels: int = 1 << 21) -> Image.Image:
    """256 colours for the whole clip by median cut and k-means: one palette keeps still areas still."""
    frames, height, width, _ = clip.shape
    kept = min(max(pixels // (height * width), 1), frames)
    sample = clip[np.linspace(0, frames - 1, kept).round().astype(int)]
    return Image.fromarray(sample.reshape(-1, width, 3)).quantize(256, Image.Quantize.MEDIANCUT, kmeans=2)


def _durations(count: int, rate: Fraction, unit: int) -> list[int]:
    """Milliseconds per frame in whole `unit`s that add up: 8 fps in units of 10 -> 120, 130, 120, ..."""
    ends = [round(i * 1000 / rate / unit) * unit for i in range(count + 1)]
    return [after - before for before, after in pairwise(ends)]


def _write_webp(job: _Job, frames: Iterator[Frame]) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    if max(images[0].size) > 16383:
        raise ValueError(f"size {images[0].size} exceeds WebP's 16383 pixels a side; choose .mp4")
    exif = Image.Exif()
    if job.record is not None:
        exif[EXIF_IMAGE_DESCRIPTION] = job.record
    durations = _durations(len(images), job.rate, unit=1)
    images[0].save(
        job.path,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        quality=90,
        method=4,
        exif=exif.tobytes() if job.record is not None else b"",
    )


def _write_png(job: _Job, frames: Iterator[Frame]) -> None:
    job.path.mkdir()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("fps", str(float(job.rate)))
    if job.record is not None:
        texts.add_text(TAG, job.record, zip=len(job.record) > 1000)
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(job.path / f"frame_{index:04d}.png", "PNG", pnginfo=texts)


_WRITERS: dict[str, Callable[[_Job, Iterator[Frame]], None]] = {
    "mp4": _write_mp4,
    "webm": _write_webm,
    "gif": _write_gif,
    "webp": _write_webp,
    "png": _write_png,
}


_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EFBIG: "choose another folder or a smaller clip",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _write_error(target: Path, error: Exception) -> OSError:
    """One line, of the original's class of error number."""
    code = getattr(error, "errno", None)
    if code in (errno.ENOENT, errno.ENOTDIR):
        reason, remedy = f"there is no folder {target.parent}", "create it or choose another"
    else:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        remedy = _REMEDIES.get(code or 0, "choose another folder or format")
    described = OSError(f"cannot write {target}: {reason}; {remedy}")
    described.errno = code
    return described
