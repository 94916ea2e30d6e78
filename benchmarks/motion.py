"""Does the model do what the prompt says? Camera moves, moving objects, sharpness and the first frame.

    python -m benchmarks.motion --json motion.json                     the bundled model
    python -m benchmarks.motion --json static.json --baseline static   what counts for nothing
    python -m benchmarks.motion --json truth.json --baseline truth     how well the measurement itself works

Pictures, objects and wordings are those of `benchmarks/heldout`, none of which the bundled model was trained on. How
motion is measured, and what counts, is said in `trip.evaluation.motion`. Stills are whole photographs, cut centrally.

==============  ================================================================================================
row             measured                                                                                    bar
==============  ================================================================================================
`camera`        clips whose summed flow follows the prompted camera move, of eight                       >= 90 %
`objects`       composites whose object moves as prompted while the background is still                  >= 80 %
`sharpness`     median gradient energy of the last frame over the first, camera moves                 0.6 to 1.4
`first-frame`   largest difference in PSNR between first frame and autoencoder's reconstruction        <= 0.5 dB
`fidelity`      mean PSNR of the later frames to the rendered clip of the same move; only if asked     none
==============  ================================================================================================

==============  ================================================================================================
`--baseline`    clips (the bars of `camera` and `objects` are then: at most 15 %, for truth and truth-ae at least 98 %)
==============  ================================================================================================
`static`        the still, repeated
`prior`         the model's autoencoder, schedule and sigma with the image noise prior alone: residual = 0
`untrained`     the model's configuration with random weights; autoencoder and text encoder as they are
`truth`         rendered with the asked motion, from parts of the same photographs that leave room for it
`truth-ae`      the same through the model's autoencoder, frame by frame
==============  ================================================================================================
"""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from lab.motion.fidelity import (
    STILL_BACKGROUND,
    Generate,
    ObjectMotion,
    Pair,
    measure_clips,
    object_motion,
    rate_per_kind,
    sharpness_ratio,
)
from lab.motion.pairs import camera_pairs, object_pairs, rendered_camera_pairs
from PIL import Image, ImageDraw
from torch import nn
from tyro.conf import arg

from benchmarks.command import command
from benchmarks.pages import write_json
from trip.data.synthetic.bank import Cutout, Photo, make_cutout, make_photo
from trip.evaluation.intervals import Rate
from trip.evaluation.motion import SMALLEST_MOVE, CameraMotion, Frames, camera_motion, dense_flows
from trip.evaluation.pictures import psnr
from trip.models import BUNDLED_MODEL, bundled_model_path
from trip.noise_fusion import OptimalNoiseFusion
from trip.opening import choose_device, choose_dtype, load_pipeline
from trip.pipeline import TripPipeline

HELDOUT = Path(__file__).parent / "heldout"
ROWS = ("camera", "objects", "sharpness", "first-frame", "fidelity")
RATE_BARS = {"camera": 0.90, "objects": 0.80}
BASELINE_BAR, TRUTH_BAR = 0.15, 0.98
SHARPNESS_BAR = (0.6, 1.4)
FIRST_FRAME_BAR = 0.5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line; what is left out is the bundled model's or the pipeline's default."""

    json: Path
    """File for the results."""
    model: str = BUNDLED_MODEL
    """Model folder or hub id; for truth-ae also the folder of an autoencoder alone."""
    baseline: Literal["static", "prior", "untrained", "truth", "truth-ae"] | None = None
    """Measure this instead of the model: the still repeated, the image noise prior alone, random weights, or clips
    rendered with the asked motion (truth), also through the model's autoencoder (truth-ae)."""
    rows: str = ",".join(ROWS[:-1])
    """What to measure: some of camera, objects, sharpness, first-frame, fidelity, separated by commas."""
    count: int = 200
    """Camera pairs: eight moves in turn."""
    object_count: int = 48
    """Object pairs: four directions in turn."""
    seed: int = 0
    """Of wordings, composites and noise."""
    steps: Annotated[int, arg(aliases=["--num-inference-steps"])] = 50
    """Sampling steps."""
    guidance_scale: float | None = None
    """Text guidance."""
    image_guidance_scale: float = 1.0
    """Image guidance."""
    guidance_rescale: float = 0.0
    """Guidance rescale, 0 to 1."""
    motion_strength: float = 1.0
    """0 the still, 1 as trained."""
    scheduler: str | None = None
    """ddim, dpm++, unipc, euler, ..."""
    device: str = "auto"
    """Device to run on."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the model."""
    batch_size: int = 8
    """Clips generated at once."""
    size: int = 64
    """Width and height in pixels of baselines without a model; models have their own."""
    num_frames: int = 16
    """Length of the clips."""
    filmstrips: Path | None = None
    """Folder for pictures of the clips, one row of frames each."""
    debug: bool = False
    """Traceback on errors."""

    @property
    def asked(self) -> tuple[str, ...]:
        """The rows to measure.

        Raises:
            ValueError: an unknown row.
        """
        rows = tuple(row.strip() for row in self.rows.split(",") if row.strip())
        if unknown := [row for row in rows if row not in ROWS] or not rows:
            raise ValueError(f"rows (={self.rows!r}) must name some of {','.join(ROWS)}; unknown: {unknown}")
        return rows


# ---------------------------------------------------------------------------------------------- the held-out set


def heldout_set(folder: Path = HELDOUT) -> tuple[list[Photo], list[Cutout]]:
    """Photographs and objects of a folder's heldout.jsonl."""
    index = folder / "heldout.jsonl"
    if not index.is_file():
        raise ValueError(f"{folder} has no heldout.jsonl; run this from a checkout of the repository")
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    photos = [
        make_photo(Path(row["file"]).stem, row["caption"], read_picture(folder / row["file"], cv2.COLOR_BGR2RGB))
        for row in rows
        if row["kind"] == "photo"
    ]
    cutouts = [
        make_cutout(row["caption"], read_picture(folder / row["file"], cv2.COLOR_BGRA2RGBA))
        for row in rows
        if row["kind"] == "object"
    ]
    return photos, cutouts


def read_picture(path: Path, conversion: int) -> np.ndarray:
    """An 8 bit picture; objects keep their alpha."""
    keep_alpha = conversion == cv2.COLOR_BGRA2RGBA
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED if keep_alpha else cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is missing or damaged; check out the repository again")
    return cv2.cvtColor(image, conversion)


# --------------------------------------------------------------------------------------------------- generation


@dataclass(frozen=True)
class PipelineClips:
    """`generate(images, prompts, seeds)` of a pipeline; every clip has its own generator."""

    pipeline: TripPipeline
    settings: Settings

    def __call__(self, images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        s = self.settings
        guidance: dict[str, Any] = {} if s.guidance_scale is None else {"guidance_scale": s.guidance_scale}
        call: Any = self.pipeline
        return call(
            [Image.fromarray(image) for image in images],
            list(prompts),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_frames=s.num_frames,
            height=images[0].shape[0],
            width=images[0].shape[1],
            num_inference_steps=s.steps,
            image_guidance_scale=s.image_guidance_scale,
            guidance_rescale=s.guidance_rescale,
            motion_strength=s.motion_strength,
            output_type="np",
            **guidance,
        ).frames


def static_clips(num_frames: int) -> Generate:
    """Repeats every still."""

    def generate(images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        return np.repeat(np.stack(images)[:, None].astype(np.float32) / 255, num_frames, axis=1)

    return generate


def true_clips(pairs: Sequence[Pair], vae: nn.Module | None = None) -> Generate:
    """Looks the rendered clip of a pair up by its seed, and passes it through an autoencoder if there is one."""
    truth = {pair.seed: pair.truth for pair in pairs if pair.truth is not None}

    def generate(images: Sequence[np.ndarray], prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        clips = np.stack([truth[seed] for seed in seeds])
        return clips if vae is None else np.stack([reconstruct(vae, clip) for clip in clips])

    return generate


@torch.no_grad()
def reconstruct(vae: Any, frames: np.ndarray) -> np.ndarray:
    """Frames (f, H, W, 3) in [0, 1] through an autoencoder, the posterior's mode, frame by frame."""
    parameter = next(vae.parameters())
    pixels = torch.from_numpy(frames).movedim(-1, 1).to(parameter) * 2 - 1
    encoded = vae.encode(pixels)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    decoded = vae.decode(latents).sample.float().cpu()
    return (decoded / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()


class ZeroResidual(nn.Module):
    """A backbone that predicts nothing, so that the optimal fusion is left with the prior alone."""

    def __init__(self, unet: Any):
        super().__init__()
        self.config, self.device, self.dtype = unet.config, unet.device, unet.dtype

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Zeros."""
        return torch.zeros_like(latents)


def prior_alone(pipeline: TripPipeline) -> TripPipeline:
    """The pipeline with residual 0 in the variance-optimal fusion: every frame drawn around the image's latent."""
    table = pipeline.fusion.config.get("sigma")
    sigma = {} if table is None else {"sigma": table}
    fusion = OptimalNoiseFusion(**sigma, concat="none")
    pipeline.register_modules(unet=ZeroResidual(pipeline.unet), fusion=fusion.to(pipeline.device))
    return pipeline


def untrained(pipeline: TripPipeline, seed: int) -> TripPipeline:
    """The pipeline with freshly initialised network and fusion."""
    torch.manual_seed(seed)
    fresh = {
        name: type(part).from_config(part.config).to(part.device, part.dtype).eval()
        for name, part in (("unet", pipeline.unet), ("fusion", pipeline.fusion))
    }
    pipeline.register_modules(**fresh)
    return pipeline


@dataclass(frozen=True)
class Subject:
    """What is measured: its clips, their size and length, and of pipelines the autoencoder."""

    name: str
    clips: Callable[[Sequence[Pair]], Generate]
    size: int
    num_frames: int
    vae: Any = None
    identity: dict[str, Any] | None = None


def load_subject(settings: Settings) -> Subject:
    """The model, or the baseline in its place."""
    baseline, size, frames = settings.baseline, settings.size, settings.num_frames
    if baseline == "static":
        return Subject("static", lambda pairs: static_clips(frames), size, frames)
    if baseline == "truth":
        return Subject("truth", true_clips, size, frames)
    if baseline == "truth-ae":
        vae, identity = load_autoencoder(settings)
        return Subject("truth-ae", lambda pairs: true_clips(pairs, vae), size, frames, identity=identity)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    pipeline = load_pipeline(settings.model, device=device, dtype=dtype, scheduler=settings.scheduler)
    size = (pipeline.default_size or (size, size))[0]
    if baseline == "prior":
        pipeline = prior_alone(pipeline)
    if baseline == "untrained":
        pipeline = untrained(pipeline, settings.seed)
    generate = PipelineClips(pipeline, settings)
    name = baseline or Path(settings.model).name
    return Subject(name, lambda pairs: generate, size, frames, pipeline.vae, model_identity(settings.model))


def load_autoencoder(settings: Settings) -> tuple[Any, dict[str, Any]]:
    """The autoencoder of a model folder, or the one that the folder holds."""
    folder = model_folder(settings.model)
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    if not (folder / "config.json").is_file():
        raise ValueError(f"{settings.model} holds no autoencoder; name a model folder or an autoencoder's")
    vae = AutoencoderKL.from_pretrained(folder).to(choose_device(settings.device))
    return vae.eval(), {"name": Path(settings.model).name, "sha256": digests(folder)}


def model_folder(name: str) -> Path:
    """The folder that a model's name stands for."""
    return bundled_model_path() if name == BUNDLED_MODEL and not Path(name).is_dir() else Path(name)


def model_identity(name: str) -> dict[str, Any]:
    """Name of a model and digests of its weights."""
    return {"name": Path(name).name if Path(name).is_dir() else name, "sha256": digests(model_folder(name))}


def digests(folder: Path) -> dict[str, str]:
    """First 16 hexadecimal digits of every safetensors file's SHA-256."""
    files = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
    return {str(f.relative_to(folder)): sha256(f.read_bytes()).hexdigest()[:16] for f in files}


# ------------------------------------------------------------------------------------------------- measurements


def measure_camera_rows(subject: Subject, pairs: Sequence[Pair], settings: Settings) -> dict[str, Any]:
    """Rows `camera`, `sharpness` and `first-frame`, all from the same clips."""
    strips = Filmstrips(settings.filmstrips, "camera", rows_a_sheet=8)

    def measure(frames: Frames, pair: Pair) -> tuple[CameraMotion, float, dict[str, float] | None]:
        motion = camera_motion(dense_flows(frames).sum(0))
        strips.add(frames, pair, motion.follows(pair.kind, frames.shape[2]), asdict(motion))
        return motion, sharpness_ratio(frames), first_frame(frames, pair, subject.vae)

    measured = measure_clips(subject.clips(pairs), pairs, measure, settings.batch_size)
    strips.finish()
    motions, ratios, firsts = (list(column) for column in zip(*measured, strict=True))
    results: dict[str, Any] = {}
    if "camera" in settings.asked:
        results["camera"] = camera_row(pairs, motions, settings, subject.size)
    if "sharpness" in settings.asked:
        results["sharpness"] = sharpness_row(pairs, ratios)
    if "first-frame" in settings.asked and firsts[0] is not None:
        results["first-frame"] = first_frame_row(firsts)
    return results


def camera_row(
    pairs: Sequence[Pair], motions: Sequence[CameraMotion], settings: Settings, width: int
) -> dict[str, Any]:
    """Rates over all and per move, size of the prompted component by adverb, and every clip."""
    kinds = [pair.kind for pair in pairs]
    verdicts = [motion.follows(pair.kind, width) for motion, pair in zip(motions, pairs, strict=True)]
    rate = Rate.of(verdicts)
    return {
        **rate.as_dict(),
        **rate_bar("camera", rate.value, settings),
        "smallest_move": SMALLEST_MOVE,
        "per_move": {
            kind: value.as_dict() | {"wordings": len({p.prompt for p in pairs if p.kind == kind})}
            for kind, value in rate_per_kind(kinds, verdicts).items()
        },
        "shown_instead": confusion(pairs, motions, width),
        "median_move_by_speed": move_by_speed(pairs, motions, width),
        "clips": [
            record(pair) | {"motion": rounded(asdict(motion)), "follows": verdict}
            for pair, motion, verdict in zip(pairs, motions, verdicts, strict=True)
        ],
    }


def rate_bar(row: str, rate: float, settings: Settings) -> dict[str, Any]:
    """What a rate is held against: a baseline should be near zero, the truth near one."""
    if settings.baseline in ("static", "prior", "untrained"):
        return {"bar": f"<= {BASELINE_BAR:.0%}", "meets_bar": rate <= BASELINE_BAR}
    bar = RATE_BARS[row] if settings.baseline is None else TRUTH_BAR
    return {"bar": f">= {bar:.0%}", "meets_bar": rate >= bar}


def confusion(pairs: Sequence[Pair], motions: Sequence[CameraMotion], width: int) -> dict[str, dict[str, int]]:
    """Prompted move -> how often each move (or none) was seen."""
    table: dict[str, dict[str, int]] = {}
    for pair, motion in zip(pairs, motions, strict=True):
        seen = motion.classify(width)
        table.setdefault(pair.kind, {}).setdefault(seen, 0)
        table[pair.kind][seen] += 1
    return table


def move_by_speed(pairs: Sequence[Pair], motions: Sequence[CameraMotion], width: int) -> dict[str, float]:
    """Median magnitude of the largest component in widths, for slow, normal and fast wordings."""
    sizes: dict[str, list[float]] = {}
    for pair, motion in zip(pairs, motions, strict=True):
        sizes.setdefault(pair.speed, []).append(abs(getattr(motion, motion.largest)) / width)
    return {speed: round(float(np.median(sizes[speed])), 4) for speed in ("slow", "normal", "fast") if speed in sizes}


def sharpness_row(pairs: Sequence[Pair], ratios: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles, over all and per move."""
    low, high = SHARPNESS_BAR
    median = float(np.median(ratios))
    kinds = np.array([pair.kind for pair in pairs])
    return {
        "median": median,
        "quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        "n": len(ratios),
        "bar": f"{low} to {high}",
        "meets_bar": low <= median <= high,
        "median_per_move": {
            kind: float(np.median(np.array(ratios)[kinds == kind])) for kind in dict.fromkeys(kinds.tolist())
        },
    }


def first_frame(frames: Frames, pair: Pair, vae: Any) -> dict[str, float] | None:
    """PSNR against the still of the first frame and of the autoencoder's own reconstruction; None without one."""
    if vae is None:
        return None
    still = pair.image.astype(np.float32) / 255
    return {
        "first_frame": psnr(frames[0], still),
        "reconstruction": psnr(reconstruct(vae, still[None])[0], still),
    }


def first_frame_row(firsts: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Largest difference of the two over all clips, and their means."""
    worst = max(abs(row["first_frame"] - row["reconstruction"]) for row in firsts)
    return {
        "largest_difference_db": worst,
        "n": len(firsts),
        "bar": f"<= {FIRST_FRAME_BAR} dB",
        "meets_bar": worst <= FIRST_FRAME_BAR,
        "mean_psnr_db": {name: float(np.mean([row[name] for row in firsts])) for name in firsts[0]},
    }


def measure_fidelity_row(subject: Subject, pairs: Sequence[Pair], settings: Settings) -> dict[str, Any]:
    """Row `fidelity`: from the rendered clips' first frames. How far a move goes, prompts say by an adverb at most."""

    def measure(frames: Frames, pair: Pair) -> float:
        assert pair.truth is not None
        return psnr(np.concatenate(frames[1:]), np.concatenate(pair.truth[1:]))

    values = np.array(measure_clips(subject.clips(pairs), pairs, measure, settings.batch_size))
    half_width = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    mean = float(values.mean())
    return {"mean_psnr_db": mean, "interval_95": [mean - half_width, mean + half_width], "n": len(values)}


def measure_object_row(subject: Subject, pairs: Sequence[Pair], settings: Settings) -> dict[str, Any]:
    """Row `objects`: the whole rule, its two halves, per direction, and every clip."""
    strips, width = Filmstrips(settings.filmstrips, "objects", rows_a_sheet=8), subject.size

    def measure(frames: Frames, pair: Pair) -> ObjectMotion:
        assert pair.mask is not None
        motion = object_motion(dense_flows(frames), pair.mask)
        strips.add(frames, pair, motion.follows(pair.kind, width), asdict(motion))
        return motion

    motions = measure_clips(subject.clips(pairs), pairs, measure, settings.batch_size)
    strips.finish()
    both = list(zip(motions, pairs, strict=True))
    verdicts = [motion.follows(pair.kind, width) for motion, pair in both]
    rate = Rate.of(verdicts)
    return {
        **rate.as_dict(),
        **rate_bar("objects", rate.value, settings),
        "smallest_move": SMALLEST_MOVE,
        "still_background": STILL_BACKGROUND,
        "object_moves": Rate.of(motion.moves(pair.kind, width) for motion, pair in both).as_dict(),
        "background_still": Rate.of(motion.is_still_behind(width) for motion, _ in both).as_dict(),
        "per_move": {kind: value.as_dict() for kind, value in rate_per_kind([p.kind for p in pairs], verdicts).items()},
        "clips": [
            record(pair) | {"motion": rounded(asdict(motion)), "follows": verdict}
            for (motion, pair), verdict in zip(both, verdicts, strict=True)
        ],
    }


def record(pair: Pair) -> dict[str, Any]:
    """What identifies a pair."""
    return {
        "photo": pair.photo,
        "prompt": pair.prompt,
        "kind": pair.kind,
        "speed": pair.speed,
        "seed": pair.seed,
        **rounded(pair.details),
    }


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Floats to three decimals."""
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


# --------------------------------------------------------------------------------------------------- filmstrips


class Filmstrips:
    """Sheets of clips, eight frames of each in a row under its prompt and verdict; nothing without a folder."""

    def __init__(self, folder: Path | None, name: str, rows_a_sheet: int):
        self.folder, self.name, self.rows_a_sheet = folder, name, rows_a_sheet
        self.rows: list[np.ndarray] = []
        self.sheets = 0

    def add(self, frames: Frames, pair: Pair, follows: bool, motion: dict[str, float]) -> None:
        """Keep a clip's row; write the sheet when it is full."""
        if self.folder is None:
            return
        numbers = "  ".join(f"{name} {value:+.1f}" for name, value in motion.items())
        self.rows.append(strip(frames, f"[{'ok' if follows else 'missed'}] {pair.prompt}   ({pair.kind}: {numbers})"))
        if len(self.rows) == self.rows_a_sheet:
            self.finish()

    def finish(self) -> None:
        """Write what is left."""
        if self.folder is None or not self.rows:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(self.rows)).save(self.folder / f"{self.name}-{self.sheets:02d}.png")
        self.rows, self.sheets = [], self.sheets + 1


def strip(frames: Frames, caption: str, shown: int = 8, side: int = 128) -> np.ndarray:
    """A row of `shown` frames, enlarged, under a line of text."""
    chosen = frames[np.linspace(0, len(frames) - 1, shown).round().astype(int)]
    pictures = np.clip(np.rint(chosen * 255), 0, 255).astype(np.uint8)
    row = np.concatenate([cv2.resize(p, (side, side), interpolation=cv2.INTER_CUBIC) for p in pictures], axis=1)
    heading = Image.new("RGB", (row.shape[1], 16), "white")
    ImageDraw.Draw(heading).text((3, 2), caption, fill="black")
    return np.concatenate([np.asarray(heading), row])


# ------------------------------------------------------------------------------------------------------- report


def run(settings: Settings) -> dict[str, Any]:
    """Measure the rows asked for.

    Returns:
        What is written as JSON: settings, date, commit, machine, model, and one entry per row.
    """
    asked, started = settings.asked, time.perf_counter()
    photos, cutouts = heldout_set()
    subject = load_subject(settings)
    shape: dict[str, Any] = {"size": subject.size, "seed": settings.seed}
    results: dict[str, Any] = {}
    if {"camera", "sharpness", "first-frame"} & set(asked):
        if settings.baseline in ("truth", "truth-ae"):
            pairs = rendered_camera_pairs(photos, settings.count, num_frames=subject.num_frames, **shape)
        else:
            pairs = camera_pairs(photos, settings.count, **shape)
        results |= measure_camera_rows(subject, pairs, settings)
    if "fidelity" in asked:
        pairs = rendered_camera_pairs(photos, settings.count, num_frames=subject.num_frames, **shape)
        results["fidelity"] = measure_fidelity_row(subject, pairs, settings)
    if "objects" in asked:
        pairs = object_pairs(photos, cutouts, settings.object_count, num_frames=subject.num_frames, **shape)
        results["objects"] = measure_object_row(subject, pairs, settings)
    return {
        "measured": subject.name,
        "model": subject.identity,
        "settings": plain_settings(settings, subject),
        **circumstances(),
        "seconds": round(time.perf_counter() - started, 1),
        "results": results,
    }


def plain_settings(settings: Settings, subject: Subject) -> dict[str, Any]:
    """The settings that decide the result, without paths."""
    values = asdict(settings) | {"size": subject.size, "model": Path(settings.model).name}
    return {name: value for name, value in values.items() if name not in ("json", "filmstrips", "debug")}


def circumstances() -> dict[str, Any]:
    """Date, commit and machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
        },
    }


def commit() -> str | None:
    """The checkout's commit, with a plus if files differ from it; None outside of Git."""

    def git(*words: str) -> str:
        call = ["git", "-C", str(HELDOUT), *words]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(report: dict[str, Any]) -> str:
    """The results in a few lines."""
    lines = [f"{report['measured']}, {report['settings']['steps']} steps, {report['seconds']} s"]
    for name, row in report["results"].items():
        verdict = f"   bar {row['bar']}: {'met' if row['meets_bar'] else 'not met'}" if "bar" in row else ""
        lines.append(f"{name:12}  {summary(name, row)}{verdict}")
        moves = row.get("per_move", {})
        lines += [f"    {kind:26}{counted(value)}" for kind, value in moves.items()]
    return "\n".join(lines)


def summary(name: str, row: dict[str, Any]) -> str:
    """One row's figure."""
    if name == "sharpness":
        low, high = row["quartiles"]
        return f"median {row['median']:.2f} (quartiles {low:.2f} to {high:.2f}, N {row['n']})"
    if name == "fidelity":
        low, high = row["interval_95"]
        return f"{row['mean_psnr_db']:.2f} dB (95 %: {low:.2f} to {high:.2f}, N {row['n']})"
    if name == "first-frame":
        means = row["mean_psnr_db"]
        return f"{row['largest_difference_db']:.4f} dB at most of {means['reconstruction']:.1f} dB (N {row['n']})"
    return counted(row)


def counted(row: dict[str, Any]) -> str:
    """A rate that went through JSON."""
    return str(Rate(row["successes"], row["n"]))


def main(settings: Settings) -> None:
    """Measure, write, and show."""
    results = run(settings)
    write_json(settings.json, results)
    print(table(results))


if __name__ == "__main__":
    command("benchmarks.motion", Settings, __doc__, main)
