"""What a run is for: a pipeline with the averaged weights."""

import copy
import os
from pathlib import Path
from typing import Any

import torch

from trip.denoiser import TripDenoiser
from trip.noise_fusion import NoiseFusion
from trip.pipeline import TripPipeline
from trip.residual_unet import ResidualUNet3D
from trip.training.folder import FINAL, LORA, replaced
from trip.training.parts import add_lora
from trip.training.sharding import gathered
from trip.training.trainer import Run


def export(run: Run, folder: Path) -> None:
    """Write folder/final, which `TripPipeline.from_pretrained` loads, and folder/lora where adapters were trained.

    All processes call it; the first one writes.
    """
    pipeline = averaged_pipeline(run, folder / LORA)
    if pipeline is None:
        return
    with replaced(folder / FINAL) as temporary:
        pipeline.to(getattr(torch, run.config.export_dtype)).save_pretrained(temporary)
        share(temporary)


def share(folder: Path) -> None:
    """Give files the modes that new ones get; safetensors makes its own readable for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def averaged_pipeline(run: Run, lora: Path | None = None) -> TripPipeline | None:
    """A pipeline on the CPU that shares nothing with the run, adapters merged into its weights.

    All processes call it, since what is sharded is gathered; those but the first get None.

    Args:
        lora: folder for the adapters alone, where adapters are trained.
    """
    config, build = run.config, run.accelerator.is_main_process
    state = gathered({**run.denoiser.state_dict(), **run.ema}.items(), keep=build)
    if not build:
        return None
    unet: Any = ResidualUNet3D.from_config(run.pipeline.unet.config)
    fusion: Any = type(run.pipeline.fusion).from_config(run.pipeline.fusion.config)
    if config.trainable == "lora":
        add_lora(unet, config)
    TripDenoiser(unet, fusion).load_state_dict(state)
    if config.trainable == "lora":
        if lora is not None:
            with replaced(lora) as temporary:
                unet.save_lora_adapter(temporary)
        unet.fuse_lora()
        unet.unload_lora()
    return standalone(run.pipeline, unet.eval(), fusion.eval(), config.guidance_scale)


def standalone(
    pipeline: TripPipeline, unet: ResidualUNet3D, fusion: NoiseFusion, guidance_scale: float
) -> TripPipeline:
    """A pipeline of these parts and copies of the frozen ones."""
    parts = {"vae": nameless(pipeline.vae), "scheduler": pipeline.scheduler}
    settings = {k: pipeline.config[k] for k in ("zero_text_padding", "max_text_length", "packaged_text_encoder")}
    if not settings["packaged_text_encoder"]:
        parts |= {"text_encoder": copy.deepcopy(pipeline.text_encoder).cpu(), "tokenizer": pipeline.tokenizer}
    made = TripPipeline(**parts, **settings, unet=unet, fusion=fusion, default_guidance_scale=guidance_scale)
    made.set_progress_bar_config(disable=True)
    return made


def nameless(module: Any) -> Any:
    """A copy on the CPU whose config does not say where the original lay."""
    public = {name: value for name, value in module.config.items() if not name.startswith("_")}
    copied = type(module).from_config(public)
    copied.load_state_dict(module.state_dict())
    return copied.eval()
