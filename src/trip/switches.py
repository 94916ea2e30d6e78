"""What diffusers' users switch on a pipeline: LoRA adapters, and ways to save memory or time.

Every switch does what it says or raises ValueError; none does nothing in silence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import logging
from torch import nn

from trip.loading import one_line, shown

logger = logging.get_logger(__name__)


class Switches(StableDiffusionLoraLoaderMixin):
    """LoRA by diffusers' own mixin (`load_lora_weights`, `set_adapters`, `fuse_lora`, ...), and the switches."""

    unet: Any
    vae: Any
    text_encoder: Any

    # ---------------------------------------------------------------------------------------------------- LoRA

    @classmethod
    def lora_state_dict(cls, pretrained_model_name_or_path_or_dict: Any, **kwargs: Any) -> Any:
        """As diffusers', from safetensors only."""
        kwargs["use_safetensors"] = True
        source = pretrained_model_name_or_path_or_dict
        if isinstance(source, dict):
            return super().lora_state_dict(source, **kwargs)
        with one_line(f"LoRA {shown(source)}"):
            return super().lora_state_dict(source, **kwargs)

    @contextmanager
    def lora_scaled(self, scale: float | None) -> Iterator[None]:
        """Multiply the strength of all adapters, of network and text encoder, for a while; None leaves it.

        Raises:
            ValueError: no adapter is loaded.
        """
        modules = [part for part in (self.unet, self.text_encoder) if part is not None and scale is not None]
        layers = [layer for part in modules for layer in part.modules() if hasattr(layer, "scale_layer")]
        if scale not in (None, 1.0) and not layers:
            raise ValueError(f"cross_attention_kwargs scale (={scale:g}) has no LoRA to scale; load_lora_weights first")
        before = [dict(layer.scaling) for layer in layers]
        for layer in layers:
            layer.scale_layer(scale)
        try:
            yield
        finally:
            for layer, scaling in zip(layers, before, strict=True):
                layer.scaling.update(scaling)

    # -------------------------------------------------------------------------------------------- autoencoder

    def enable_vae_slicing(self) -> None:
        """Decode one frame after the other."""
        self._switch(self.vae, "enable_slicing")

    def disable_vae_slicing(self) -> None:
        """Decode as many frames at once as `decode_chunk_size` says."""
        self._switch(self.vae, "disable_slicing")

    def enable_vae_tiling(self) -> None:
        """Encode and decode large frames in overlapping tiles."""
        self._switch(self.vae, "enable_tiling")

    def disable_vae_tiling(self) -> None:
        """Encode and decode frames whole."""
        self._switch(self.vae, "disable_tiling")

    # ------------------------------------------------------------------------------------------------ network

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """FreeU (2309.11497), of networks that have it (`UNetMotionModel`)."""
        self._switch(self.unet, "enable_freeu", s1=s1, s2=s2, b1=b1, b2=b2)

    def disable_freeu(self) -> None:
        """The network without FreeU."""
        self._switch(self.unet, "disable_freeu")

    def fuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """One projection to queries, keys and values, in those parts that have such layers."""
        parts = {"unet": self.unet if unet else None, "vae": self.vae if vae else None}
        fused = [name for name, part in parts.items() if part is not None and fuse(part)]
        if not fused:
            raise ValueError(f"{' and '.join(parts)} have no attention whose projections can be fused; leave them")
        logger.info(f"fused the projections of {' and '.join(fused)}")

    def unfuse_qkv_projections(self, unet: bool = True, vae: bool = True) -> None:
        """Separate projections again."""
        for part in (self.unet if unet else None, self.vae if vae else None):
            if part is not None and is_fused(part):
                part.unfuse_qkv_projections()

    def set_attention_slice(self, slice_size: str | int | None) -> None:
        """Compute attention in slices, in networks that can; torch's fused attention, which is used, needs none."""
        if hasattr(self.unet, "set_attention_slice"):
            self.unet.set_attention_slice(slice_size)
        elif slice_size is not None:
            logger.warning(
                "attention slicing changes nothing: attention is torch's scaled_dot_product_attention, "
                "which takes no more memory than slices would"
            )

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Any = None) -> None:
        """Refused: choose a backend with `pipe.unet.set_attention_backend` instead."""
        if valid:
            raise ValueError("xformers is not used here; choose a backend with pipe.unet.set_attention_backend(...)")

    def _switch(self, part: Any, name: str, **arguments: Any) -> None:
        method = getattr(part, name, None)
        if method is None:
            raise ValueError(f"{type(part).__name__} has no {name}; leave it out, or choose a part that has it")
        method(**arguments)


def fuse(part: nn.Module) -> bool:
    """Fuse the projections of a network's attention where that is possible; whether it was."""
    method = getattr(part, "fuse_qkv_projections", None)
    if method is not None:
        method()
    return is_fused(part)


def is_fused(part: nn.Module) -> bool:
    """Whether any attention of a network has fused projections."""
    return any(getattr(module, "fused_projections", False) for module in part.modules())
