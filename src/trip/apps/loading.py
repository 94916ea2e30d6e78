"""From a model's name to a pipeline that is ready to run."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline
from safetensors import SafetensorError, safe_open

from trip import noise_fusion, sampler
from trip.apps.options import SCHEDULERS
from trip.models import BUNDLED_MODEL, bundled_model_path
from trip.noise_fusion import NoiseFusion
from trip.pipeline import TripPipeline
from trip.placement import place, store_in_float8
from trip.residual_unet import ResidualUNet3D

WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "image_processor")


def load_pipeline(
    name: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    fusion: Path | None = None,
    scheduler: str | None = None,
    offload: str = "none",
    float8: bool = False,
    compiled: bool = False,
) -> TripPipeline:
    """Load a TRIP pipeline, or a text-to-video pipeline as a training-free one, and move it to the device.

    Args:
        name: "trip-mini", a folder, or a hub id. fusion: folder that replaces the model's fusion.
        scheduler: short name of `SCHEDULERS`; None keeps the model's.
        offload, float8: where and how weights rest, see `trip.placement`. compiled: the network's layers.

    Raises:
        ValueError: no such model, a missing or damaged file in its folder, an unknown scheduler; a placement that the
            device or the network does not have.
    """
    if scheduler is not None:
        scheduler_class(scheduler)
    check_placement(device, offload, float8, compiled)
    source = find_model(name)
    own_fusion = None if fusion is None else load_fusion(fusion)
    if pipeline_class(source) == TripPipeline.__name__:
        replaced: dict[str, Any] = {} if own_fusion is None else {"fusion": own_fusion}
        pipeline = TripPipeline.from_pretrained(source, dtype=dtype, **replaced)
    else:
        pipeline = TripPipeline.from_text_to_video(source, fusion=own_fusion, dtype=dtype)
    if scheduler is not None:
        pipeline.scheduler = change_scheduler(pipeline.scheduler, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if float8:
        store_in_float8(pipeline.unet)
    place(pipeline, device, offload)
    if compiled:
        compile_layers(pipeline.unet)
    return pipeline


def check_placement(device: torch.device, offload: str, float8: bool, compiled: bool) -> None:
    """Raise ValueError for what cannot be had together."""
    if offload != "none" and device.type == "cpu":
        raise ValueError(f"offload (={offload!r}) frees an accelerator's memory, and this is a CPU; leave it out")
    if compiled and (float8 or offload in ("group", "sequential")):
        raise ValueError("layers whose weights move or rest in float8 are not compiled; leave out one of the two")


def compile_layers(network: Any) -> None:
    """Regional `torch.compile`: every layer, without graph breaks, one variant a shape."""
    if not isinstance(network, ResidualUNet3D):
        raise ValueError(f"{type(network).__name__} has no layers that are known to compile; leave --compile out")
    network.compile_repeated_blocks(fullgraph=True, dynamic=False)


# --------------------------------------------------------------------------------------------- model folders


def find_model(name: str) -> str:
    """The folder of a model, checked, or a hub id as it is."""
    folder = Path(name)
    if name == BUNDLED_MODEL and not folder.is_dir():
        folder = bundled_model_path()
    if folder.is_dir():
        check_model_folder(folder)
        return str(folder)
    if folder.exists():
        raise ValueError(f"model {name!r} is a file; name the folder with model_index.json")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(
            f"there is no model folder {name!r}; check the path, give a hub id (user/name), or leave --model out "
            f"for the bundled {BUNDLED_MODEL}"
        )
    return name


def check_model_folder(folder: Path) -> None:
    """Raise ValueError for what is missing or damaged, naming the file; reads headers only."""
    index = read_json(folder / "model_index.json", folder)
    for part, kind in index.items():
        if part.startswith("_") or not isinstance(kind, list) or kind[0] is None:
            continue
        if not (folder / part).is_dir():
            raise ValueError(f"model {folder} lacks the folder {part}; {COPY_AGAIN}")
        if part not in WEIGHTLESS:
            check_weights(folder, folder / part)


COPY_AGAIN = "copy, download or save the model again"


def check_weights(model: Path, part: Path) -> None:
    """Every safetensors file of a part must be whole, and there must be one."""
    files = sorted(part.glob("*.safetensors"))
    for index in part.glob("*.safetensors.index.json"):
        files += [part / name for name in set(read_json(index, model).get("weight_map", {}).values())]
    if not files:
        raise ValueError(f"model {model} has no safetensors in {part.name}; {COPY_AGAIN}")
    for file in files:
        try:
            with safe_open(file, "pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is missing or damaged ({error}); {COPY_AGAIN}") from None


def read_json(path: Path, model: Path) -> dict[str, Any]:
    """A JSON object of a model folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{model} is no model folder, it has no {path.name}; check the path") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {COPY_AGAIN}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (not an object); {COPY_AGAIN}")
    return content


def pipeline_class(source: str) -> str:
    """Name of the pipeline class that a folder or hub id was saved as."""
    try:
        config: Any = DiffusionPipeline.load_config(source)
    except OSError as error:
        reason = " ".join(str(error).split()).split(". ")[0]
        raise ValueError(f"model {source!r} cannot be loaded: {reason}; check the name and the connection") from None
    return str(config.get("_class_name"))


def load_fusion(folder: Path) -> NoiseFusion:
    """A saved fusion of whatever kind."""
    config = read_json(folder / "config.json", folder)
    kind = getattr(noise_fusion, str(config.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, NoiseFusion)):
        raise ValueError(f"{folder} holds no fusion of trip ({config.get('_class_name')}); check the path")
    check_weights(folder, folder)
    return kind.from_pretrained(folder)


def load_vae(folder: Path) -> AutoencoderKL | AutoencoderTiny:
    """A saved autoencoder, float32."""
    config = read_json(folder / "config.json", folder)
    kinds = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny)}
    if config.get("_class_name") not in kinds:
        raise ValueError(f"{folder} holds no autoencoder ({config.get('_class_name')}); choose {' or '.join(kinds)}")
    check_weights(folder, folder)
    return kinds[config["_class_name"]].from_pretrained(folder, torch_dtype=torch.float32)


# ------------------------------------------------------------------------------------------------- schedulers


def scheduler_class(name: str) -> type:
    """The diffusers class of a short name."""
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
    return getattr(diffusers, SCHEDULERS[name])


def change_scheduler(current: Any, name: str) -> Any:
    """A scheduler of another kind on the same noise schedule."""
    if sampler.is_flow(current):
        raise ValueError(f"scheduler {name!r} does not fit a flow model; leave --scheduler out")
    return scheduler_class(name).from_config(current.config)


# ---------------------------------------------------------------------------------------------------- devices


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is the first accelerator, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0].split(". ")[0]
        raise ValueError(f"device {name!r} cannot be used ({reason}); use --device cpu or leave it out") from None
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; "auto" is float32 on a CPU and float16 elsewhere."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return getattr(torch, name)
