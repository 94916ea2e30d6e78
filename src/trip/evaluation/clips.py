"""The clips of a folder in batches, decoded as they are needed."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from trip.data.containers import Fault, open_video
from trip.data.text import read_text
from trip.data.video import read_video

CLIP_SUFFIXES = (".mp4", ".webm", ".gif", ".webp", ".mov", ".mkv", ".avi")
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one size.

    Attributes:
        files: the clips. clips: uint8 RGB. fps: of every clip. prompts: see `prompt_of`.
    """

    files: list[Path]
    clips: UInt8[Tensor, "b f H W 3"]
    fps: list[float]
    prompts: list[str]


@dataclass(frozen=True)
class ClipFolder:
    """A folder and its clips, listed once: there may be many, and on a slow drive."""

    path: Path
    files: list[Path]


Clips = Path | ClipFolder
"""A folder of clips, listed already or not."""


def listed(folder: Clips) -> ClipFolder:
    """The folder with its clips.

    Raises:
        ValueError: no folder, or no clips in it.
    """
    return folder if isinstance(folder, ClipFolder) else ClipFolder(folder, clip_files(folder))


def clip_files(folder: Path) -> list[Path]:
    """Clips, and folders of PNG or JPEG frames, sorted by name; hidden ones are left out.

    Raises:
        ValueError: no folder, or no clips in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name a folder of clips")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_clip(path))
    if not files:
        raise ValueError(f"{folder} holds no clips ({', '.join(CLIP_SUFFIXES)}, folders of PNGs); name another folder")
    return files


def is_clip(path: Path) -> bool:
    """Whether a path looks like a clip."""
    if path.is_dir():
        return any(inner.suffix.lower() in FRAME_SUFFIXES for inner in path.iterdir())
    return path.suffix.lower() in CLIP_SUFFIXES


def frame_count(file: Path, most: int | None = None) -> int:
    """Frames of a clip, at most `most`, by what the file says of itself where it does.

    Raises:
        ValueError: it cannot be read.
    """
    if file.is_dir():
        return len([path for path in file.iterdir() if path.suffix.lower() in FRAME_SUFFIXES][:most])
    with suppress(Fault), open_video(file) as clip:
        if not clip.animated:  # whose frames are repeated for as long as they last
            return sum(1 for _ in islice(clip.stamps(), most))
    return read_clip(file, most).clips.shape[1]


def common_length(folder: Clips, num_frames: int | None = None) -> int:
    """Frames of every clip of a folder: `num_frames`, or as many as the first has.

    Raises:
        ValueError: a clip of another number of frames; it is named.
    """
    expected, model = num_frames, None
    for file in listed(folder).files:
        count = frame_count(file, num_frames)
        if expected is not None and count != expected:  # a file may say what it does not hold
            count = read_clip(file, num_frames).clips.shape[1]
        expected, model = expected or count, model or file
        if count != expected:
            raise ValueError(wrong_count(file, count, expected, None if num_frames else model))
    assert expected is not None  # listed
    return expected


def stream_clips(folder: Clips, num_frames: int | None = None, batch_size: int = 4) -> Iterator[Batch]:
    """All clips of a folder, at most `batch_size` of one size at a time.

    Args:
        folder: of clips. num_frames: of every clip the first so many; None: all, and all clips must have as many as
            the first. batch_size: clips held in memory at once.

    Raises:
        ValueError: no clips, a broken one, or one of another number of frames; it is named.
    """
    waiting: list[Batch] = []
    expected, model = num_frames, None
    for file in listed(folder).files:
        clip = read_clip(file, num_frames)
        count = clip.clips.shape[1]
        expected, model = expected or count, model or file
        if count != expected:
            raise ValueError(wrong_count(file, count, expected, None if num_frames else model))
        if waiting and (len(waiting) == batch_size or waiting[0].clips.shape != clip.clips.shape):
            yield joined(waiting)
            waiting = []
        waiting.append(clip)
    yield joined(waiting)


def read_clip(file: Path, num_frames: int | None) -> Batch:
    """A batch of one."""
    video = read_video(file, max_frames=num_frames)
    clips = torch.from_numpy(np.ascontiguousarray(video.frames))[None]
    return Batch(files=[file], clips=clips, fps=[video.fps], prompts=[prompt_of(file, video.metadata)])


def prompt_of(file: Path, metadata: dict | None) -> str:
    """The text of NAME.txt beside a clip, else the prompt recorded in the clip, else nothing."""
    beside = file.with_name(f"{file.name if file.is_dir() else file.stem}.txt")
    if beside.is_file():
        return read_text(beside).strip()
    prompt = (metadata or {}).get("prompt", "")
    return prompt if isinstance(prompt, str) else ""


def wrong_count(file: Path, count: int, expected: int, model: Path | None) -> str:
    """What to say of a clip that has not the expected number of frames."""
    if model is None:
        return f"{file} has {count} frames, not {expected}; remove it or ask for {count} (--num-frames {count})"
    remedy = f"take the first {min(count, expected)} of all (--num-frames {min(count, expected)})"
    return f"{file} has {count} frames, {model.name} has {expected}; {remedy}"


def joined(batches: list[Batch]) -> Batch:
    """One batch of many."""
    return Batch(
        files=[file for batch in batches for file in batch.files],
        clips=torch.cat([batch.clips for batch in batches]),
        fps=[rate for batch in batches for rate in batch.fps],
        prompts=[prompt for batch in batches for prompt in batch.prompts],
    )
