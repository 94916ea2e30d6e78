"""`trip calibrate`: measure the fusion of a training-free pipeline on clips."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from trip.apps.errors import quiet_models, report, say
from trip.apps.options import Calibrate
from trip.apps.progress import progress
from trip.condition import still
from trip.data.images import output_size
from trip.data.text import printable, read_json
from trip.data.video.reading import read_video
from trip.evaluation.clips import clip_files, frame_count, prompt_of
from trip.files import atomic_path, check_target, contents
from trip.inputs import to_pixels
from trip.noise_fusion import TrainingFreeNoiseFusion
from trip.noise_prior import sample_from_prediction
from trip.opening import choose_device, choose_dtype, load_pipeline
from trip.pipeline import TripPipeline
from trip.schedule import is_flow, prediction_type
from trip.studio import FALLBACK_AREA
from trip.training.calibration import Estimate, measure, spread_timesteps

WEIGHTS = "diffusion_pytorch_model.safetensors"
"""What `save_pretrained` writes beside config.json."""


@torch.no_grad()
def calibrate(options: Calibrate) -> int:
    """Measure and write the fusion folder; returns the exit code.

    Raises:
        ValueError: no clips of enough frames, or a model that cannot be calibrated.
    """
    if not options.debug:
        quiet_models()
    if options.num_frames < 2:
        raise ValueError(f"--num-frames (={options.num_frames}) must be at least 2; motion needs two frames")
    if options.timesteps < 2:
        raise ValueError(f"--timesteps (={options.timesteps}) must be at least 2; choose for example 11")
    check_folder(options.output)
    clip_files(options.data)
    device = choose_device(options.device)
    with progress(options, f"loading {options.model}", total=1) as bar:
        pipeline = load_pipeline(options.model, device=device, dtype=choose_dtype(options.dtype, device))
        bar.update()
    kind = check_model(pipeline)
    steps = spread_timesteps(options.timesteps, pipeline.scheduler.config.num_train_timesteps)
    files = long_enough(options.data, options.num_frames)
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
    with atomic_path(options.output) as temporary:
        fusion.save_pretrained(temporary)
    say(f"measured {result.clips} clips of {options.num_frames} frames at {len(steps)} timesteps")
    print(options.output)
    return 0


def long_enough(folder: Path, num_frames: int) -> list[Path]:
    """The clips of a folder that can be opened, have so many frames and no faulty text; the others are said.

    Raises:
        ValueError: there are none.
    """
    found = []
    for file in clip_files(folder):
        try:
            count = frame_count(file, num_frames)
            prompt_of(file, None)
        except ValueError as error:
            report(error)
            continue
        if count < num_frames:
            say(f"leaving out {printable(file)}: {count} frames, {num_frames} are needed")
        else:
            found.append(file)
    if not found:
        raise ValueError(f"{folder} has no clip of {num_frames} frames; give longer ones, or lower --num-frames")
    return found


def check_folder(folder: Path) -> None:
    """The output is new, empty, or a fusion that is measured again; nothing else is replaced.

    Raises:
        ValueError: it is something else.
        OSError: nothing can be written there.
    """
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        raise ValueError(f"--output (={folder}) is a file or a link; name a new folder")
    there = contents(folder) if folder.is_dir() else []
    own = ("config.json", WEIGHTS) if is_fusion(folder / "config.json") else ()
    if others := [name for name in there if name not in own]:
        raise ValueError(f"--output (={folder}) holds other files ({printable(others[0])}); name a new folder")
    check_target(folder)


def is_fusion(config: Path) -> bool:
    """Whether this command has written a config."""
    try:
        found = read_json(config)
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("_class_name") == TrainingFreeNoiseFusion.__name__


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
            video = read_video(file, max_frames=options.num_frames)
        except ValueError as error:
            report(error)
            continue
        finally:
            bar.update()
        pictures = [Image.fromarray(frame) for frame in video.frames]
        width, height = size = size or frame_size(pipeline, pictures[0], options)
        stills = [pipeline.encode_image(to_pixels(picture, height, width)) for picture in pictures]
        if len(stills) == options.num_frames:  # a damaged clip may hold fewer than it says
            yield torch.cat(stills, dim=2), network_estimate(pipeline, prompt_of(file, video.metadata))


def frame_size(pipeline: TripPipeline, picture: Image.Image, options: Calibrate) -> tuple[int, int]:
    """(width, height) of all clips: the model's own, unless given."""
    height, width = pipeline.default_size or (None, None)
    multiple = pipeline.vae_scale_factor
    return output_size(picture, multiple, FALLBACK_AREA, width=options.width or width, height=options.height or height)


def network_estimate(pipeline: TripPipeline, prompt: str) -> Estimate:
    """The estimate of z_0 that the network alone makes, given a prompt."""
    states, _ = pipeline.encode_prompt([prompt], do_classifier_free_guidance=False)
    denoiser, kind = pipeline.denoiser, pipeline.fusion.config["prediction_type"]

    def estimate(z_t, timestep, signal, noise):
        image = torch.zeros_like(z_t[:, :, :1])
        output = denoiser(z_t, timestep, still(image, text=states), signal, noise)
        return sample_from_prediction(output.residual, z_t, signal, noise, kind)

    return estimate


def rounded(table: torch.Tensor) -> list[float]:
    """Numbers as a config should show them."""
    return [round(value, 5) for value in table.tolist()]
