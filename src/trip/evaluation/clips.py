"""The clips of a folder in batches, decoded as they are needed."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trip.data.text import read_text
from trip.data.video.containers import Fault, open_video
from trip.data.video.reading import Video, read_video
from trip.evaluation.features.base import FeatureNetwork
from trip.evaluation.motion import ClipMotion, clip_motion

CLIP_SUFFIXES = (".mp4", ".webm", ".gif", ".webp", ".mov", ".mkv", ".avi")
FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one size, and what several metrics ask of them, worked out once.

    Attributes:
        files: the clips. clips: uint8 RGB. fps: of every clip. prompts: see `prompt_of`.
    """

    files: list[Path]
    clips: UInt8[Tensor, "b f H W 3"]
    fps: list[float]
    prompts: list[str]
    _features: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, videos: Sequence[tuple[Path, Video]]) -> "Batch":
        """Clips of one shape, with the files that they were read from."""
        return cls(
            files=[file for file, _ in videos],
            clips=torch.from_numpy(np.stack([video.frames for _, video in videos])),
            fps=[video.fps for _, video in videos],
            prompts=[prompt_of(file, video.metadata) for file, video in videos],
        )

    def features(self, network: FeatureNetwork) -> Float[Tensor, "b *f d"]:
        """A network's features of the clips or of their frames."""
        if network.name not in self._features:
            self._features[network.name] = network(self.clips)
        return self._features[network.name]

    @cached_property
    def motions(self) -> list[ClipMotion]:
        """How every clip moves."""
        return [clip_motion(clip, rate) for clip, rate in zip(self.clips.numpy(), self.fps, strict=True)]


@dataclass(frozen=True)
class ClipFolder:
    """A folder and its clips, listed once: there may be many, and on a slow drive."""

    path: Path
    files: list[Path]

    @classmethod
    def of(cls, folder: "Clips") -> "ClipFolder":
        """The folder with its clips.

        Raises:
            ValueError: no folder, or no clips in it.
        """
        return folder if isinstance(folder, ClipFolder) else cls(folder, clip_files(folder))

    @cached_property
    def by_name(self) -> dict[str, Path]:
        """The clips by name, without suffix."""
        return {file.stem: file for file in self.files}


Clips = Path | ClipFolder
"""A folder of clips, listed already or not."""


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


def prompt_of(file: Path, metadata: dict | None) -> str:
    """The text of NAME.txt beside a clip, else the prompt recorded in the clip, else nothing."""
    beside = file.with_name(f"{file.name if file.is_dir() else file.stem}.txt")
    if beside.is_file():
        return read_text(beside).strip()
    prompt = (metadata or {}).get("prompt", "")
    return prompt if isinstance(prompt, str) else ""


# ----------------------------------------------------------------------------------------------------- lengths


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
    return len(read_video(file, max_frames=most).frames)


def common_length(folder: Clips, num_frames: int | None = None) -> int:
    """Frames of every clip of a folder: `num_frames`, or as many as the first has.

    Raises:
        ValueError: a clip of another number of frames; it is named.
    """
    files = ClipFolder.of(folder).files
    expected = num_frames or frame_count(files[0])
    for file in files:
        count = frame_count(file, num_frames)
        if count != expected:  # a file may say what it does not hold
            count = len(read_video(file, max_frames=num_frames).frames)
        check_length(file, count, expected, None if num_frames else files[0])
    return expected


def check_length(file: Path, count: int, expected: int, model: Path | None) -> None:
    """Raise ValueError for a clip that has not as many frames as asked for, or as the model clip has."""
    if count == expected:
        return
    if model is None:
        raise ValueError(
            f"{file} has {count} frames, not {expected}; remove it or ask for {count} (--num-frames {count})"
        )
    fewest = min(count, expected)
    remedy = f"take the first {fewest} of all (--num-frames {fewest})"
    raise ValueError(f"{file} has {count} frames, {model.name} has {expected}; {remedy}")


def stream_clips(folder: Clips, num_frames: int | None = None, batch_size: int = 4) -> Iterator[Batch]:
    """All clips of a folder, at most `batch_size` of one size at a time.

    Args:
        folder: of clips. num_frames: of every clip the first so many; None: all, and all clips must have as many as
            the first. batch_size: clips held in memory at once.

    Raises:
        ValueError: no clips, a broken one, or one of another number of frames; it is named.
    """
    waiting: list[tuple[Path, Video]] = []
    files = ClipFolder.of(folder).files
    expected = num_frames
    for file in files:
        video = read_video(file, max_frames=num_frames)
        expected = expected or len(video.frames)
        check_length(file, len(video.frames), expected, None if num_frames else files[0])
        if waiting and (len(waiting) == batch_size or waiting[0][1].frames.shape != video.frames.shape):
            yield Batch.of(waiting)
            waiting = []
        waiting.append((file, video))
    yield Batch.of(waiting)
