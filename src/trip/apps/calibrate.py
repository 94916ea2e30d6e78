"""`trip calibrate`: measure the fusion of a training-free pipeline on clips."""

from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from trip.apps.errors import quiet_models, report, say
from trip.apps.loading import choose_device, choose_dtype, load_pipeline
from trip.apps.options import Calibrate
from trip.apps.progress import progress
from trip.apps.studio import FALLBACK_AREA
from trip.condition import still
from trip.data.images import output_size
from trip.data.video import read_video
from trip.noise_fusion import TrainingFreeNoiseFusion
from trip.noise_prior import sample_from_prediction
from trip.pipeline import TripPipeline, to_pixels
from trip.schedule import is_flow, prediction_type
from trip.training.calibration import Estimate, measure, spread_timesteps

CLIP_SUFFIXES = frozenset((".mp4", ".webm", ".gif", ".webp", ".mov", ".mkv", ".avi"))


@torch.no_grad()
def calibrate(options: Calibrate) -> int:
    """Measure and write the fusion folder; returns the exit code.

    Raises:
        ValueError: no clips of enough frames, or a model that cannot be calibrated.
    """
    if not options.debug:
        quiet_models()
    files = clip_files(options.data)
    if options.num_frames < 2:
        raise ValueError(f"--num-frames (={options.num_frames}) must be at least 2; motion needs two frames")
    check_folder(options.output)
    device = choose_device(options.device)
    with progress(options, f"loading {options.model}", total=1) as bar:
        pipeline = load_pipeline(options.model, device=device, dtype=choose_dtype(options.dtype, device))
        bar.update()
    kind = check_model(pipeline)
    steps = spread_timesteps(options.timesteps, pipeline.scheduler.config.num_train_timesteps)
    with progress(options, "measuring", total=len(files)) as bar:
        result = measure(
            read_latents(pipeline, files, options, bar),
            pipeline.scheduler.alphas_cumprod,
            steps,
            torch.Generator().manual_seed(options.seed),
        )
    fusion = TrainingFreeNoiseFusion(
        sigma=rounded(result.sigma), tau=rounded(result.tau), tau_timesteps=result.timesteps, prediction_type=kind
    )
    fusion.save_pretrained(options.output)
    say(f"measured {result.clips} clips of {options.num_frames} frames at {len(steps)} timesteps")
    print(options.output)
    return 0


def clip_files(folder: Path) -> list[Path]:
    """The clips of a folder."""
    if not folder.is_dir():
        raise ValueError(f"--data (={folder}) is no folder; name a folder of clips")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in CLIP_SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no clips ({', '.join(sorted(CLIP_SUFFIXES))}); name another folder")
    return files


def check_folder(folder: Path) -> None:
    """The output must be a folder of its own."""
    others = [] if not folder.is_dir() else [p.name for p in folder.iterdir() if p.name != "config.json"]
    if any(not name.endswith(".safetensors") for name in others):
        raise ValueError(f"--output (={folder}) holds other files ({others[0]}); name a new folder")
    folder.mkdir(parents=True, exist_ok=True)


def check_model(pipeline: TripPipeline) -> str:
    """The prediction type of a network that can be calibrated: blind to the image, on a discrete noise schedule."""
    if pipeline.fusion.concat != "none":
        raise ValueError(
            "this model sees the image and is trained with its own fusion; calibrate a text-to-video pipeline"
        )
    if is_flow(pipeline.scheduler) or not hasattr(pipeline.scheduler, "alphas_cumprod"):
        raise ValueError("flow models cannot be calibrated; use a pipeline that predicts epsilon or v")
    return prediction_type(pipeline.scheduler)


def read_latents(
    pipeline: TripPipeline, files: list[Path], options: Calibrate, bar: tqdm
) -> Iterator[tuple[torch.Tensor, Estimate]]:
    """Latents 1 c f h w of every clip that is long enough, with the network's estimate for its prompt."""
    size = None
    for file in files:
        try:
            frames = read_video(file, max_frames=options.num_frames).frames
        except ValueError as error:
            report(error)
            continue
        finally:
            bar.update()
        if len(frames) < options.num_frames:
            say(f"leaving out {file}: {len(frames)} frames, {options.num_frames} are needed")
            continue
        pictures = [Image.fromarray(frame) for frame in frames]
        width, height = size = size or frame_size(pipeline, pictures[0], options)
        stills = [pipeline.encode_image(to_pixels(picture, height, width)) for picture in pictures]
        latents = torch.cat(stills, dim=2)
        yield latents, network_estimate(pipeline, prompt_of(file))


def frame_size(pipeline: TripPipeline, picture: Image.Image, options: Calibrate) -> tuple[int, int]:
    """(width, height) of all clips: the model's own, unless given."""
    height, width = pipeline.default_size or (None, None)
    multiple = pipeline.vae_scale_factor
    return output_size(picture, multiple, FALLBACK_AREA, width=options.width or width, height=options.height or height)


def prompt_of(clip: Path) -> str:
    """The text beside a clip, or none."""
    beside = clip.with_suffix(".txt")
    return beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""


def network_estimate(pipeline: TripPipeline, prompt: str) -> Estimate:
    """The estimate of z_0 that the network alone makes, given a prompt."""
    states, _ = pipeline.encode_prompt([prompt])
    denoiser, kind = pipeline.denoiser, pipeline.fusion.config["prediction_type"]

    def estimate(z_t, timestep, signal, noise):
        image = torch.zeros_like(z_t[:, :, :1])
        output = denoiser(z_t, timestep, still(image, text=states), signal, noise)
        return sample_from_prediction(output.residual, z_t, signal, noise, kind)

    return estimate


def rounded(table: torch.Tensor) -> list[float]:
    """Numbers as a config should show them."""
    return [round(value, 5) for value in table.tolist()]
