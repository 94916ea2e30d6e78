"""The flags of `trip ablate`. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from trip.apps.options import Verbosity
from trip.fields import Folder, Integer, Text

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Ablate(Verbosity):
    """Train and score the paper's variants under one budget, and print the table.

    All start from the same weights and see the same clips and noise. The command resumes where it was stopped; started
    several times on one folder, the processes share the work. docs/ablations.md explains the variants and the numbers.

    examples:
      trip ablate --data latents/ --held-out held-out/ --output-dir runs/ablation
      trip ablate --data latents/ --held-out held-out/ --output-dir runs/few --variants tnf,trip-minus --seeds 1
      trip ablate --output-dir runs/ablation --table
    """

    output_dir: Annotated[Path, arg(metavar="DIR")] = Path("runs/ablation")
    """The study's folder."""
    data: Text = None
    """Latent cache to train on."""
    held_out: Folder = None
    """Latent cache of clips that none trains on."""
    variants: Text = None
    """Comma-separated; default: all."""
    seeds: Integer = None
    """Runs of every variant (default: 3)."""
    steps: Integer = None
    """Updates of every run (default: 400)."""
    error_clips: Integer = None
    """Held-out clips that errors are measured on (default: 128)."""
    made_clips: Integer = None
    """Of them, clips that are animated (default: 48)."""
    start: Folder = None
    """Another study's folder: every variant goes on from its own weights there."""
    config: File = None
    """Settings shared by all runs, as `trip train` writes them; fusion and seed are the variants'."""
    weights: Folder = None
    """Folder of feature networks to look into before the cache."""
    table: bool = False
    """Only print the table of what is there."""
    cpu: bool = False
    """Train on the CPU even where there is an accelerator."""
