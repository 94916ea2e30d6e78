"""The flags of `trip data`. Nothing heavy is imported here, so that `trip --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from trip.apps.options import Verbosity
from trip.fields import Folder, Integer, Text
from trip.models import BUNDLED_MODEL

Layout = Literal["auto", "metadata", "pairs", "prompts", "webvid", "msrvtt", "classes", "shards"]
Source = Annotated[Positional[str], arg(metavar="SOURCE")]
Table = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Reading(Verbosity):
    """How a data set is read."""

    source: Source
    """Folder, metadata table, WebVid CSV, MSR-VTT JSON, .tar shard, or a pattern or URL of shards."""
    layout: Layout = "auto"
    """How the data is laid out; auto finds out."""
    video_column: Text = None
    """Column of a metadata table that names the clip (default: file_name or video)."""
    caption_column: Text = None
    """Column of a metadata table with the caption (default: text, caption or prompt)."""
    captions: Literal["first", "all"] = "first"
    """Of clips with several captions: one, or an example of each."""
    split: Text = None
    """Only the rows of this split, for metadata and MSR-VTT; of synthetic motion "train" (default) or "heldout"."""
    root: Folder = None
    """Folder that names and links in the data must not lead out of (default: the data's own)."""
    schemes: tuple[str, ...] = ()
    """URLs that a list may name, such as s3 or https; without it, local files only."""


@dataclass(frozen=True, kw_only=True)
class DataCheck(Reading):
    """Decode every clip of a data set, name the bad ones, measure the good ones.

    Prints a table of lengths, sizes, rates, motion and captions, and every faulty file under the reason why. The exit
    code is 0 also when some clips are faulty, since the list of the good ones is what the command is for; with
    --strict it is then 1.

    examples:
      trip data check clips/
      trip data check clips/ --output clips/good.jsonl --num-frames 16 --fps 8
      trip data check clips/ --strict --json > report.json
    """

    output: Table = None
    """Table (.jsonl) of the good clips to write; a data set of its own."""
    model: Annotated[str, arg(metavar="DIR")] = BUNDLED_MODEL
    """Model whose text encoder the captions are for: those that it cuts are counted."""
    strict: bool = False
    """Exit with 1 when a clip is faulty."""
    json: bool = False
    """One JSON object, for programs."""
    num_frames: int = 16
    """Frames that a clip must have at --fps."""
    fps: float = 8.0
    """Frames per second of the training; 0 is each clip's own."""
    width: int = 256
    """Pixels at which motion is measured: those of the training."""
    height: int = 256
    """Pixels at which motion is measured."""
    timeout: float = 60.0
    """Seconds for one clip."""
    max_pixels: int = 6144 * 4096
    """Largest width times height of a clip."""
    workers: Integer = None
    """Processes (default: one a CPU core)."""


@dataclass(frozen=True, kw_only=True)
class DataShard(Reading):
    """Pack a data set into WebDataset shards.

    Clips are copied byte for byte. A run that was stopped goes on where it was.

    examples:
      trip data shard clips/ --output shards/
      trip data shard clips/good.jsonl --output shards/ --clips-per-shard 500
    """

    output: Annotated[Path, arg(metavar="DIR")]
    """Folder for shard-000000.tar, ..."""
    clips_per_shard: int = 1000
    """Clips in a shard."""


@dataclass(frozen=True, kw_only=True)
class DataSynth(Verbosity):
    """Make a data set of synthetic motion: camera moves, moving objects and effects, with captions.

    Without --photos the pictures are drawn, which needs nothing and is enough to try a training run.

    examples:
      trip data synth --output clips/ --count 100
      trip data synth --output clips/ --count 1000 --seed 1 --photos photos/ --size 128
    """

    output: Annotated[Path, arg(metavar="DIR")]
    """New folder for the clips and their metadata.jsonl."""
    count: int = 100
    """Number of clips."""
    seed: int = 0
    """Same seed, same clips."""
    photos: Folder = None
    """Folder prepared by `python -m lab.photographs` of the repository (default: drawn pictures)."""
    size: int = 64
    """Width and height in pixels, even."""
    num_frames: int = 16
    """Frames of a clip."""
    fps: float = 8.0
    """Frames per second."""


DATA_COMMANDS = {"check": DataCheck, "shard": DataShard, "synth": DataSynth}
