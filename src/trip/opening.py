"""From a model's name to a pipeline that is ready to run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from trip.adapters import Adapter, load_adapters
from trip.loading import model_class
from trip.model_folder import find_model
from trip.noise_fusion import load_fusion
from trip.pipeline import TripPipeline
from trip.placement import place, store_in_float8
from trip.presets import SCHEDULERS
from trip.residual_unet import ResidualUNet3D
from trip.schedule import is_flow


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
    adapters: Sequence[Adapter] = (),
) -> TripPipeline:
    """Load a TRIP pipeline, or a text-to-video pipeline as a training-free one, and move it to the device.

    Args:
        name: "trip-mini", a folder, or a hub id. fusion: folder that replaces the model's fusion.
        scheduler: short name of `SCHEDULERS`; None keeps the model's.
        offload, float8: where and how weights rest, see `trip.placement`. compiled: the network's layers.
        adapters: LoRA to put on it.

    Raises:
        ValueError: no such model, a missing or damaged file in its folder, an unknown scheduler; a placement that the
            device or the network does not have.
    """
    if scheduler is not None:
        scheduler_class(scheduler)
    check_placement(device, offload, float8, compiled)
    source = find_model(name)
    own_fusion = None if fusion is None else load_fusion(fusion)
    try:
        if model_class(source) == TripPipeline.__name__:
            replaced: dict[str, Any] = {} if own_fusion is None else {"fusion": own_fusion}
            pipeline = TripPipeline.from_pretrained(source, dtype=dtype, **replaced)
        else:
            pipeline = TripPipeline.from_text_to_video(source, fusion=own_fusion, dtype=dtype)
    except ValueError as error:  # of a value that a config holds, which does not know where it stands
        raise error if str(source) in str(error) else ValueError(f"model {source}: {error}") from None
    if scheduler is not None:
        pipeline.scheduler = change_scheduler(pipeline.scheduler, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    load_adapters(pipeline, list(adapters))
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


# ------------------------------------------------------------------------------------------------- schedulers


def scheduler_class(name: str) -> type:
    """The diffusers class of a short name.

    Raises:
        ValueError: none of `SCHEDULERS`.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r} is unknown; choose one of {', '.join(SCHEDULERS)}")
    return getattr(diffusers, SCHEDULERS[name])


def change_scheduler(current: Any, name: str) -> Any:
    """A scheduler of another kind on the same noise schedule."""
    if is_flow(current):
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
