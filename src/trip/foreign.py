"""Text-to-video models of other people as parts of a `TripPipeline`."""

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel, UNet3DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from trip.loading import check_class, check_finite, check_model, one_line, shown
from trip.noise_prior import Clip
from trip.residual_unet import ResidualUNet3D

COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


class PerFrameText(nn.Module):
    """`UNetMotionModel` as a backbone: it wants the text features once for every frame."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, latents: Clip, timestep: Tensor, text: Float[Tensor, "b n d"]) -> Any:
        """Call with b c f h w, (b,) and b n d."""
        return self.unet(latents, timestep, text.repeat_interleave(latents.shape[2], dim=0))


def source_components(
    source: Any, load_options: dict[str, Any], takes: Sequence[str] = ("per-frame",)
) -> dict[str, Any]:
    """The components of a pipeline, given as itself, as a folder or hub id that `takes` names, or one by one."""
    if isinstance(source, str | os.PathLike):
        source = load_whole(DiffusionPipeline.from_pretrained, DiffusionPipeline, source, takes, load_options)
    parts = source.components if isinstance(source, DiffusionPipeline) else source
    if "stills" not in takes and isinstance(parts.get("unet"), UNet2DConditionModel):
        raise ValueError(
            f"{type(source).__name__} makes stills, no clips; train it on some with trip train --initial, or give a "
            "text-to-video model"
        )
    if missing := [name for name in COMPONENTS if parts.get(name) is None]:
        raise ValueError(f"the text-to-video model has no {', '.join(missing)}; pass a complete pipeline")
    return dict(parts)


def load_whole(
    load: Callable[..., Any], kind: type[DiffusionPipeline], source: Any, takes: Sequence[str], options: dict[str, Any]
) -> Any:
    """`load(source, **options)` of a model that was looked through before, and whose weights are finite after."""
    options = {**options, "use_safetensors": True}
    check_class(source, takes)
    where = f"model {shown(source)}"
    parts = COMPONENTS if kind is DiffusionPipeline else inspect.signature(kind.__init__).parameters
    given = [name for name in parts if name in options]
    with one_line(where):
        folder = source if os.path.isdir(source) else kind.download(source, **options)
    check_model(Path(folder), given, options.get("variant"))
    with one_line(where):
        pipeline = load(source, **options)
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module) and name not in given:
            check_finite(part, name, where)
    return pipeline


def to_residual_unet(unet: UNet3DConditionModel) -> ResidualUNet3D:
    """Our network with the same configuration and the same tensors, key for key."""
    names = inspect.signature(ResidualUNet3D.__init__).parameters
    with torch.device("meta"):
        ours = ResidualUNet3D(**{name: value for name, value in unet.config.items() if name in names})
    ours.load_state_dict(unet.state_dict(), strict=True, assign=True)
    return ours.train(unet.training)
