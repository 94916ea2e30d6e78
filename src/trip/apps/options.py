"""The command line's flags. Nothing heavy is imported here, so that `trip --help` answers at once."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from trip.fields import Checked, Integer, Text, within
from trip.request import ClipRequest, DType, ModelRequest
from trip.training.config import TrainingConfig

Format = Literal["mp4", "webm", "gif", "webp"]


@dataclass(frozen=True, kw_only=True)
class Verbosity(Checked):
    """Flags that every command takes."""

    quiet: bool = False
    """No progress bars."""
    debug: bool = False
    """Full traceback on errors, and the messages of the libraries underneath."""


@dataclass(frozen=True, kw_only=True)
class OwnFusion:
    """Flag of the commands that load models."""

    fusion_module: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """A Python file of yours that registers fusions (docs/own-fusion.md); it is run."""


@dataclass(frozen=True, kw_only=True)
class Files(Checked):
    """Where the clips of `trip animate` go."""

    output: Annotated[str, arg(metavar="FILE")]
    """Clip to write: .mp4, .webm, .gif, .webp, or a folder (no suffix) of PNGs. Many pictures: a folder of clips.
    With --count N: NAME-1 to NAME-N."""
    count: Annotated[int, within(1)] = 1
    """Clips of every picture, with consecutive seeds."""
    format: Format = "mp4"
    """Kind of clip where --output is a folder of clips."""
    overwrite: bool = False
    """Make clips of a list or folder again that exist already."""
    metadata: bool = True
    """Do not record prompt, seed and settings in the clip and in a .json beside it."""


@dataclass(frozen=True, kw_only=True)
class Animate(Verbosity, OwnFusion, ModelRequest, ClipRequest, Files):
    """Animate a picture, or many.

    The prompt is English. The bundled model understands moves of the camera (pans, tilts, zooms, the picture turning)
    and of an object (left, right, up, down, spinning, bouncing, swaying), rain, snow, flicker, ripples and stillness,
    slowly or quickly; `trip info trip-mini` lists wordings.

    examples:
      trip animate photo.jpg --prompt "the camera pans left" --output out.mp4
      trip animate photo.jpg --prompt "snow falls" --output out.gif --seed 7 --motion-strength 0.7
      trip animate photo.jpg --prompt "the camera zooms in" --output out.mp4 --count 4
      trip animate photos/ --prompt "the camera tilts up" --output clips
      trip animate list.csv --output clips

    With many pictures, clips that exist already are skipped, and a picture that fails is reported while the rest
    goes on.
    """

    image: Positional[Path]
    """A picture; a folder of pictures; or a .csv or .jsonl with columns image, prompt[, seed, output]."""
    prompt: Text = None
    """What should move, and how. With a list: for the rows that have none."""


@dataclass(frozen=True, kw_only=True)
class Info(Verbosity):
    """Print how a clip was made, and the command that makes it again; or what a model is and understands.

    examples:
      trip info out.mp4
      trip info out.mp4 --json
      trip info trip-mini
    """

    file: Positional[Path]
    """Clip, folder of PNGs, side-car .json, or model folder."""
    json: bool = False
    """One JSON object, for programs."""


@dataclass(frozen=True, kw_only=True)
class Calibrate(Verbosity):
    """Measure the fusion of a training-free pipeline on clips of your own.

    Writes a fusion folder with sigma (how far frames move away from the first) and tau (how far the network's own
    estimate is off at every timestep). Prompts are read from NAME.txt beside each clip, where there is one.

    examples:
      trip calibrate --model text-to-video/ --data clips/ --output fusion/
      trip animate photo.jpg --prompt "waves roll in" --model text-to-video/ --fusion fusion/ --output out.mp4
    """

    model: Annotated[str, arg(metavar="MODEL")]
    """Folder or hub id of a text-to-video pipeline."""
    data: Path
    """Folder of clips (.mp4, .webm, .gif, .webp, .mov, .mkv, .avi)."""
    output: Path
    """Fusion folder to write."""
    num_frames: int = 16
    """First frames of every clip to measure on; shorter clips are left out."""
    timesteps: int = 11
    """Number of timesteps at which the network is measured."""
    width: Integer = None
    """Pixels (default: the model's)."""
    height: Integer = None
    """Pixels (default: the model's)."""
    seed: int = 0
    """Of the noise that is added to the clips."""
    dtype: DType = "auto"
    """Precision of the networks; auto is float32 on a CPU, float16 elsewhere."""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is the first accelerator, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class Train(OwnFusion, Verbosity):
    """Train a model, or go on with a run.

    examples:
      trip train --preset smoke --output-dir runs/smoke
      trip train --preset mini --data runs/latents --output-dir runs/mini --steps 4000
      trip train --output-dir runs/mini --resume latest
      trip train --initial trip-mini --data clips/ --trainable lora --steps 200 --output-dir runs/mine
      accelerate launch --config_file configs/accelerate/ddp.yaml -m trip.apps.cli train --preset paper --data SHARDS

    Settings come from --preset or --config (a run that is resumed: from its config.json), then from the flags. The
    run's folder gets config.json, log.jsonl, checkpoints/ and, at the end, final/, which `trip animate --model` takes.
    SIGTERM saves and ends the run; Ctrl-C ends it at once.
    """

    preset: Annotated[
        Literal["paper", "mini", "smoke", "fine-tune", "lora"] | None, arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """Named settings: paper, mini, smoke, fine-tune or lora."""
    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Settings as JSON, such as a run's config.json."""
    output_dir: Annotated[Path, arg(metavar="DIR")] = Path("runs/train")
    """The run's folder."""
    resume: Annotated[str | None, arg(metavar="STEP", help_behavior_hint="")] = None
    """"latest" (a new run where there is no checkpoint yet) or "step-N"."""
    fusion_kind: Text = None
    """Train a new fusion of this kind: tnf, linear, optimal, or one of --fusion-module."""
    dry_run: bool = False
    """Print sizes, memory and steps, draw the first batch into the run's folder, and stop."""
    cpu: bool = False
    """Train on the CPU even where there is an accelerator."""
    settings: OmitArgPrefixes[TrainingConfig] = field(default_factory=TrainingConfig)
