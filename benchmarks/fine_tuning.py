"""What fine-tuning changed, on clips that took no part in it: before against after, clip by clip.

    python -m benchmarks.fine_tuning --clips my-clips/test --fps 0 --before trip-mini --after my-run/final \
        --json fine-tuning.json --filmstrips fine-tuning.png

==============  =====================================================================================================
row             measured, for every model
==============  =====================================================================================================
`loss`          the training objective on the clips, by quarter of the timesteps; the noise is the same for all models
`first-frame`   PSNR of the first frame against the clip's, and of the autoencoder's own reconstruction
`motion`        mean flow between frames, of the generated clips and of the real ones
`sharpness`     gradient energy of the last frame over the first's, of the generated clips and of the real ones
`to-real`       PSNR of all later frames against the real clip's; `still` is what the repeated first frame scores
`camera`        camera prompts followed, where --photos names pictures: is the old skill still there?
==============  =====================================================================================================

Intervals are at 95 %, over clips. Pieces of one recording resemble each other, so that the intervals are too narrow
where a recording gave several clips. No Fréchet distance is computed: it needs hundreds of clips.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lab.motion.fidelity import Pair, direction_agreement, measure_clips, sharpness_ratio
from lab.motion.pairs import camera_pairs
from PIL import Image
from torch import Tensor

from benchmarks import motion
from benchmarks.command import command
from benchmarks.motion import PipelineClips, circumstances, first_frame, model_identity, strip
from benchmarks.pages import write_json
from trip.apps.options import DType
from trip.condition import still
from trip.data.sets.datasets import read_examples
from trip.data.sets.decoding import Decoding
from trip.data.sources import ExampleClips, RenderedClip, Sample
from trip.data.synthetic.bank import SceneBank
from trip.evaluation.metric import mean_result
from trip.evaluation.motion import Frames, clip_motion
from trip.evaluation.pictures import psnr
from trip.models import BUNDLED_MODEL
from trip.opening import choose_device, choose_dtype, load_pipeline
from trip.pipeline import TripPipeline
from trip.schedule import noise_levels
from trip.training.batches import encode_clips
from trip.training.objective import Noising, Objective, trip_loss

QUARTERS = 4
Losses = Float[np.ndarray, "n 4"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Command line."""

    clips: str
    """Held-out clips with captions, in any layout of `trip data check`."""
    json: Path
    """File for the results."""
    before: str = BUNDLED_MODEL
    """Model that was fine-tuned: folder or hub id."""
    after: tuple[str, ...]
    """Models that came of it, as FOLDER or NAME=FOLDER."""
    photos: Path | None = None
    """Folder of `python -m lab.photographs`: ask for camera moves on its training pictures."""
    camera_count: int = 16
    """Camera prompts, eight moves in turn, with the wordings of the training."""
    fps: float = 8.0
    """Frames per second of the clips; 0 is each clip's own."""
    num_frames: int = 16
    """Frames of a clip."""
    draws: int = 4
    """Timesteps in each quarter that the loss is measured at."""
    steps: int = 25
    """Sampling steps."""
    scheduler: str | None = None
    """ddim, dpm++, unipc, euler, ... (default: the model's)."""
    seed: int = 0
    """Of noise and wordings."""
    device: str = "auto"
    """Device to run on."""
    dtype: DType = "auto"
    """Precision of the models."""
    batch_size: int = 8
    """Clips generated at once."""
    filmstrips: Path | None = None
    """Picture (.png) of the first clip of every caption: real, before, after."""
    debug: bool = False
    """Traceback on errors."""

    def models(self) -> dict[str, str]:
        """Folder of every model by its name, "before" first.

        Raises:
            ValueError: two of one name.
        """
        named = [("before", self.before)]
        for text in self.after:
            name, mark, folder = text.partition("=")
            named.append((name, folder) if mark else (f"after-{len(named)}" if len(self.after) > 1 else "after", text))
        if len(dict(named)) < len(named):
            raise ValueError(f"after (={' '.join(self.after)}) names two models alike, or 'before'; use NAME=FOLDER")
        return dict(named)


# ----------------------------------------------------------------------------------------------- held-out clips


def read_clips(settings: Settings, size: tuple[int, int]) -> list[RenderedClip]:
    """The held-out clips at the model's size, each from a start that depends on the seed alone.

    Raises:
        ValueError: no clips, or one that cannot be used; it is named.
    """
    decoding = Decoding(num_frames=settings.num_frames, fps=settings.fps or None, size=size)
    clips = ExampleClips(read_examples(settings.clips), decoding, seed=settings.seed)
    return [clips.clip(index) for index in range(len(clips))]


def question(clip: RenderedClip, number: int, seed: int) -> Pair:
    """First frame and caption; the clip itself is the truth."""
    truth = clip.frames.astype(np.float32) / 255
    return Pair(clip.frames[0], clip.description["caption"], "clip", 1_000_000 * seed + number, clip.key, truth=truth)


# --------------------------------------------------------------------------------------------------------- loss


@torch.no_grad()
def denoising_losses(pipeline: TripPipeline, clips: Sequence[RenderedClip], sigma: Tensor, draws: int) -> Losses:
    """Training objective ("residual", clips balanced) of every clip in every quarter of the timesteps.

    Args:
        sigma: table that the loss is weighted with, the same for all models that are compared.
        draws: timesteps in a quarter, spread evenly; noise depends on clip and timestep alone.
    """
    total = pipeline.scheduler.config["num_train_timesteps"]
    count = QUARTERS * draws
    t = ((torch.arange(count) + 0.5) * total / count).long().to(pipeline.device)
    losses = [clip_losses(pipeline, clip, t, sigma, number) for number, clip in enumerate(clips)]
    return np.stack([loss.reshape(QUARTERS, draws).mean(1).numpy() for loss in losses])


def clip_losses(pipeline: TripPipeline, clip: RenderedClip, t: Tensor, sigma: Tensor, seed: int) -> Float[Tensor, " d"]:
    """Loss of one clip at timesteps t, mean over frames."""
    sample = Sample(torch.from_numpy(np.ascontiguousarray(clip.frames)), clip.description["caption"])
    latents = encode_clips([sample], pipeline.vae, pipeline.device).expand(len(t), -1, -1, -1, -1)
    text, _ = pipeline.encode_prompt([clip.description["caption"]], do_classifier_free_guidance=False)
    assert text is not None
    eps = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(pipeline.device)
    timestep, signal, noise = noise_levels(pipeline.scheduler, t)
    condition = still(latents[:, :, :1], text=text.expand(len(t), -1, -1))
    noising = Noising(timestep=timestep, eps=eps, signal=signal, noise=noise)
    objective = Objective(sigma=sigma.to(latents.device), balance_clips=True)
    loss = trip_loss(pipeline.denoiser, latents, condition, noising, objective)
    return loss.mean(1).cpu()


# -------------------------------------------------------------------------------------------------------- clips


def frame_measures(frames: Frames, pair: Pair, fps: float) -> dict[str, float]:
    """Motion, sharpness and likeness to the real clip."""
    assert pair.truth is not None
    pixels: UInt8[np.ndarray, "f H W 3"] = np.rint(frames * 255).astype(np.uint8)
    return {
        "motion": clip_motion(pixels, fps).flow,
        "sharpness": sharpness_ratio(frames),
        "to_real": float(np.mean([psnr(a, b) for a, b in zip(frames[1:], pair.truth[1:], strict=True)])),
    }


def generated_measures(
    pipeline: TripPipeline, pairs: Sequence[Pair], settings: Settings
) -> tuple[list[dict[str, float]], list[Frames]]:
    """Measures of a generated clip for every question, and the clips."""
    fps = settings.fps or 8.0

    def measure(frames: Frames, pair: Pair) -> tuple[dict[str, float], Frames]:
        return frame_measures(frames, pair, fps) | (first_frame(frames, pair, pipeline.vae) or {}), frames

    rows = measure_clips(PipelineClips(pipeline, sampling(settings)), pairs, measure, settings.batch_size)
    return [row for row, _ in rows], [frames for _, frames in rows]


def real_measures(pair: Pair, fps: float) -> dict[str, float]:
    """The same of the real clip; `still` is the likeness of its repeated first frame."""
    assert pair.truth is not None
    still = [psnr(pair.truth[0], frame) for frame in pair.truth[1:]]
    measures = frame_measures(pair.truth, pair, fps)
    return {"motion": measures["motion"], "sharpness": measures["sharpness"], "still": float(np.mean(still))}


def sampling(settings: Settings) -> motion.Settings:
    """How clips are generated, in the words of `benchmarks.motion`."""
    return motion.Settings(json=settings.json, steps=settings.steps, num_frames=settings.num_frames)


def camera_row(pipeline: TripPipeline, pairs: Sequence[Pair], settings: Settings) -> dict[str, Any]:
    """Camera prompts followed, and by which clip."""
    found = direction_agreement(PipelineClips(pipeline, sampling(settings)), pairs, settings.batch_size)
    asked = [{"photo": pair.photo, "prompt": pair.prompt, "kind": pair.kind} for pair in pairs]
    return found.rate.as_dict() | {
        "clips": [row | {"follows": verdict} for row, verdict in zip(asked, found.verdicts, strict=True)]
    }


# ------------------------------------------------------------------------------------------------------- report


def run(settings: Settings) -> dict[str, Any]:
    """Measure all models.

    Returns:
        What is written as JSON: settings, date, commit, machine, models, results, and the numbers of every clip.
    """
    started, models = time.perf_counter(), settings.models()
    before = load(settings, settings.before)
    size = before.default_size or (64, 64)
    clips = read_clips(settings, size)
    pairs = [question(clip, number, settings.seed) for number, clip in enumerate(clips)]
    cameras = camera_questions(settings, size[0])
    sigma = loss_table(before, settings.num_frames)
    numbers: dict[str, dict[str, Any]] = {}
    films: dict[str, list[Frames]] = {"real": [pair.truth for pair in pairs if pair.truth is not None]}
    for name, folder in models.items():
        pipeline = before if name == "before" else load(settings, folder)
        measured, films[name] = generated_measures(pipeline, pairs, settings)
        losses = denoising_losses(pipeline, clips, sigma, settings.draws)
        camera = camera_row(pipeline, cameras, settings) if cameras else None
        numbers[name] = {"losses": losses, "measured": measured, "camera": camera}
        print(f"{name}: measured after {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if settings.filmstrips is not None:
        save_filmstrips(settings.filmstrips, films, pairs)
    real = [real_measures(pair, settings.fps or 8.0) for pair in pairs]
    return {
        "models": {name: model_identity(folder) for name, folder in models.items()},
        "settings": plain_settings(settings),
        **circumstances(),
        "seconds": round(time.perf_counter() - started, 1),
        "results": results(numbers, real, settings.seed),
        "clips": [clip_record(number, clips[number], numbers, real) for number in range(len(clips))],
    }


def load(settings: Settings, folder: str) -> TripPipeline:
    """A model, ready to run."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    return load_pipeline(folder, device=device, dtype=dtype, scheduler=settings.scheduler)


def camera_questions(settings: Settings, size: int) -> list[Pair]:
    """Camera prompts on training photographs; none without --photos."""
    if settings.photos is None:
        return []
    photos = SceneBank.load(settings.photos, split="train").photos
    return camera_pairs(photos, settings.camera_count, size=size, seed=settings.seed, split="train")


def loss_table(pipeline: TripPipeline, num_frames: int) -> Tensor:
    """The fusion's sigma; 0 for frame 1 and 1 for the others where it has none."""
    if "sigma" in pipeline.fusion.config:
        return pipeline.fusion.table("sigma")[:num_frames]
    return torch.tensor([0.0] + [1.0] * (num_frames - 1))


def results(numbers: dict[str, dict[str, Any]], real: list[dict[str, float]], seed: int) -> dict[str, Any]:
    """Means with intervals for every model and the real clips, and the paired differences to before."""
    base = numbers["before"]
    rows: dict[str, Any] = {"real": averaged(real, seed)}
    for name, found in numbers.items():
        rows[name] = {"loss": quarters(found["losses"], seed), **averaged(found["measured"], seed)}
        if found["camera"]:
            rows[name]["camera"] = found["camera"]
        if name != "before":
            pairs = zip(found["measured"], base["measured"], strict=True)
            differences = [{key: after[key] - was[key] for key in after} for after, was in pairs]
            change = {"loss": quarters(found["losses"] - base["losses"], seed), **averaged(differences, seed)}
            rows[name]["minus_before"] = change
    return rows


def quarters(losses: Losses, seed: int) -> dict[str, Any]:
    """Means over clips, of all timesteps and of every quarter, lowest noise first."""
    columns = {"all": losses.mean(1), **{f"t{quarter}": losses[:, quarter] for quarter in range(QUARTERS)}}
    return {name: mean_result(name, column.tolist(), seed=seed).as_dict() for name, column in columns.items()}


def averaged(rows: Sequence[dict[str, float]], seed: int) -> dict[str, Any]:
    """Mean of every measure over clips."""
    return {name: mean_result(name, [row[name] for row in rows], seed=seed).as_dict() for name in rows[0]}


def clip_record(
    number: int, clip: RenderedClip, numbers: dict[str, dict[str, Any]], real: list[dict[str, float]]
) -> dict[str, Any]:
    """All numbers of one clip."""
    record: dict[str, Any] = {"clip": clip.key, "caption": clip.description["caption"], "real": rounded(real[number])}
    for name, found in numbers.items():
        losses = {f"loss_t{quarter}": loss for quarter, loss in enumerate(found["losses"][number].tolist())}
        record[name] = rounded(losses | found["measured"][number])
    return record


def rounded(values: dict[str, float]) -> dict[str, float]:
    """To four decimals."""
    return {name: round(value, 4) for name, value in values.items()}


def plain_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide the result, without paths."""
    paths = ("json", "filmstrips", "debug", "clips", "photos", "before", "after")
    return {name: value for name, value in asdict(settings).items() if name not in paths}


def save_filmstrips(path: Path, films: dict[str, list[Frames]], pairs: Sequence[Pair]) -> None:
    """Six frames of the first clip of every caption, one row a model, in 256 colours."""
    prompts = [pair.prompt for pair in pairs]
    rows = []
    for number in sorted(prompts.index(prompt) for prompt in dict.fromkeys(prompts)):
        for name, clips in films.items():
            heading = f"real: {prompts[number]}" if name == "real" else name
            rows.append(strip(clips[number], heading, shown=6, side=96))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).quantize(256).save(path, optimize=True)


def table(found: dict[str, Any]) -> str:
    """The results in a few lines."""
    lines = []
    for name, row in found["results"].items():
        lines.append(name)
        flat = {f"loss {key}": value for key, value in row.get("loss", {}).items()} | row
        for key, value in flat.items():
            if "value" in value:
                lines.append(f"    {key:15}{figure(value)}{change(row, key)}")
        if "camera" in row:
            low, high = row["camera"]["wilson_95"]
            rate = f"{row['camera']['successes']} of {row['camera']['n']}"
            lines.append(f"    {'camera':15}{rate} (95 %: {low:.0%} to {high:.0%})")
    return "\n".join(lines)


def change(row: dict[str, Any], key: str) -> str:
    """The paired difference to before, where there is one."""
    differences = row.get("minus_before", {})
    kind, _, part = key.partition(" ")
    value = differences.get("loss", {}).get(part) if kind == "loss" else differences.get(key)
    return f"   change {figure(value)}" if value else ""


def figure(value: dict[str, Any]) -> str:
    """A mean with its interval."""
    low, high = value["interval"] or (float("nan"),) * 2
    return f"{value['value']:8.4f} ({low:.4f} to {high:.4f})"


def main(settings: Settings) -> None:
    """Fine-tune, measure, write, and show."""
    found = run(settings)
    write_json(settings.json, found)
    print(table(found))


if __name__ == "__main__":
    command("benchmarks.fine_tuning", Settings, __doc__, main)
