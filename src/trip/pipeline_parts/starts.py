"""Where pipelines come from, and how they are saved."""

import os
from collections.abc import Mapping
from typing import Any

from diffusers import (
    DiffusionPipeline,
    UNet3DConditionModel,
)
from diffusers.utils import logging
from torch import nn

from trip.foreign import load_whole, source_components, to_residual_unet
from trip.inputs import (
    real,
    whole,
)
from trip.loading import check_saveable
from trip.noise_fusion import NoiseFusion, TrainingFreeNoiseFusion
from trip.schedule import prediction_type

logger = logging.get_logger(__name__)

SETTINGS: Mapping[str, Any] = {
    "zero_text_padding": False,
    "max_text_length": None,
    "packaged_text_encoder": False,
    "default_guidance_scale": 7.5,
}
"""What no part says, and its defaults."""


NEEDED = ("vae", "unet", "fusion", "scheduler")
"""Parts without which there is no clip."""


class Starts(DiffusionPipeline):
    """Loading, converting and saving."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any):
        """Load a folder or hub id; arguments of `DiffusionPipeline.from_pretrained`, safetensors only.

        Raises:
            ValueError: in one line: another kind of model, or a file, tensor or setting that is missing, damaged or
                does not fit (`trip.loading`).
        """
        if "text_encoder" in kwargs and kwargs["text_encoder"] is None:
            kwargs.setdefault("packaged_text_encoder", False)
        return load_whole(super().from_pretrained, cls, pretrained_model_name_or_path, ("trip",), kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any):
        """A pipeline with the parts and settings of another, sharing its weights; a text-to-video one is converted.

        Args:
            kwargs: parts and settings in place of the other's, and `dtype`, to which all weights are cast.

        Raises:
            ValueError: for anything else.
        """
        if not isinstance(pipeline, Starts):
            return cls.from_text_to_video(pipeline, **kwargs)
        dtype = [kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs]
        settings = {name: pipeline.config[name] for name in SETTINGS}
        if unknown := sorted(set(kwargs) - set(settings) - set(pipeline.components)):
            raise ValueError(f"from_pipe takes no {unknown[0]}; pass parts or settings of TripPipeline")
        made = cls(**{**pipeline.components, **settings, **kwargs})
        return made.to(dtype=dtype[0]) if dtype and dtype[0] is not None else made

    @classmethod
    def from_text_to_video(
        cls,
        source: DiffusionPipeline | Mapping[str, Any] | str | os.PathLike,
        *,
        scheduler: Any = None,
        fusion: NoiseFusion | None = None,
        zero_text_padding: bool | None = None,
        max_text_length: int | None = None,
        **load_options: Any,
    ):
        """A training-free image-to-video pipeline out of a text-to-video checkpoint with per-frame latents.

        The network stays blind to the image; the prior is fused into its estimate of z_0 at every step
        (`TrainingFreeNoiseFusion`). A `UNet3DConditionModel` (ModelScopeT2V) is loaded key for key into
        `ResidualUNet3D`, sharing its weights; any other network (AnimateDiff's `UNetMotionModel`) stays as it is.

        Args:
            source: a pipeline, a folder or hub id of one, or its components by name: vae, text_encoder,
                tokenizer, unet, scheduler.
            scheduler: in place of the source's; its `prediction_type` is what the network predicts.
            fusion: in place of `TrainingFreeNoiseFusion` with its default tables, for measured ones.
            zero_text_padding, max_text_length: see the class.
            load_options: for `DiffusionPipeline.from_pretrained` (dtype, variant, revision, ...).

        Raises:
            ValueError: if a component is missing.
        """
        parts = source_components(source, load_options)
        scheduler = scheduler or parts["scheduler"]
        fusion = fusion or TrainingFreeNoiseFusion(prediction_type=prediction_type(scheduler))
        unet = parts["unet"]
        made: Any = cls
        return made(
            vae=parts["vae"],
            text_encoder=parts["text_encoder"],
            tokenizer=parts["tokenizer"],
            unet=to_residual_unet(unet) if isinstance(unet, UNet3DConditionModel) else unet,
            fusion=fusion.to(parts["vae"].device),
            scheduler=scheduler,
            zero_text_padding=zero_text_padding,
            max_text_length=max_text_length,
        )

    def save_pretrained(self, save_directory: str | os.PathLike, safe_serialization: bool = True, **kwargs: Any):
        """`DiffusionPipeline.save_pretrained`, always as safetensors: nothing else is read again.

        Raises:
            ValueError: before anything is written, if a part has adapters or is otherwise not what would be loaded.
        """
        if missing := [name for name in NEEDED if getattr(self, name) is None]:
            raise ValueError(f"this pipeline has no {', '.join(missing)}, so it would not load again; load it whole")
        for name, part in self.components.items():
            if isinstance(part, nn.Module):
                check_saveable(part, name)
        if not safe_serialization:
            logger.warning("safe_serialization=False would write pickles, which are not read here; wrote safetensors")
        super().save_pretrained(save_directory, safe_serialization=True, **kwargs)


def settings_of(unet: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is said, else what the network's config says, else the defaults; and the network's config says it from now.

    Raises:
        ValueError: a setting of the wrong type.
    """
    recorded = getattr(unet, "config", {}).get("_pipeline") or {}
    settings = {
        name: next((value for value in (said[name], recorded.get(name)) if value is not None), default)
        for name, default in SETTINGS.items()
    }
    if settings["max_text_length"] is not None:
        whole("max_text_length", settings["max_text_length"])
    real("default_guidance_scale", settings["default_guidance_scale"])
    if hasattr(unet, "register_to_config") and settings != (recorded or SETTINGS):
        unet.register_to_config(_pipeline=settings)
    return settings
