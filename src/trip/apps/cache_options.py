"""The flags of `trip data cache`. Nothing heavy is imported here, so that `trip --help` answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from trip.apps.data_options import Reading
from trip.apps.options import OwnFusion
from trip.fields import Integer


@dataclass(frozen=True, kw_only=True)
class DataCache(OwnFusion, Reading):
    """Encode a data set once, for training: latents of its clips and features of its captions.

    A run that was stopped goes on where it was. Clips that cannot be used are left out and listed in faults.jsonl.
    A cache is of one data set, model and size: anything else is refused.

    examples:
      trip data cache --data clips/ --model trip-mini --output latents/
      trip data cache --data clips/good.jsonl --model model/ --output latents/ --size 64 --num-frames 8 --variants 4
      trip data cache --data procedural --model trip-mini --output latents/ --count 2000
      trip data cache --data photos/ --split heldout --model trip-mini --output held-out/ --count 512
    """

    source: Annotated[str, arg(name="data", metavar="SOURCE")]
    """Folder, metadata table, WebVid CSV, MSR-VTT JSON, .tar shard, or a pattern or URL of shards; or synthetic motion:
    "procedural", or a folder that `python -m lab.photographs` of the repository prepared."""
    model: Annotated[str, arg(metavar="MODEL")]
    """Folder or hub id of the pipeline whose autoencoder and text encoder are used."""
    output: Annotated[Path, arg(metavar="DIR")]
    """Folder of the cache."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of an autoencoder in place of the model's."""
    num_frames: int = 16
    """Frames of a sample."""
    size: Integer = None
    """Width and height in pixels; clips are shrunk and cut to it (default: the model's)."""
    fps: float = 8.0
    """Frames per second of a sample; 0 is each clip's own."""
    variants: int = 1
    """Samples of every clip, from different random starts."""
    seed: int = 0
    """Of the starts, or of the synthetic motion."""
    count: Integer = None
    """Clips of synthetic motion (default: 1000), to which more can be added; of other data, only the first so many
    (default: all)."""
    workers: Integer = None
    """Processes, each with an autoencoder of its own (default: one a CPU core, at most 4). With 0 a clip
    that crashes the decoder ends the command."""
    batch_size: int = 1
    """Clips encoded at once."""
    shard_size: int = 128
    """Clips in a file; a run that is stopped loses the files that it was making."""
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of the values in the cache."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the autoencoder's computation; bfloat16 is faster and off by about 0.5 %."""
    text: bool = True
    """Do not encode the captions; they are kept, and encoded while training."""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is the first accelerator, else the CPU."""
