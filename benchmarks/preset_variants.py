"""What else could make sampling faster, beside the presets that ship: each is measured by `benchmarks.presets`."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trip.condition import Condition
from trip.denoiser import DenoiserOutput, TripDenoiser
from trip.noise_prior import Clip, optimal_estimate, optimal_lambda
from trip.pipeline import TripPipeline
from trip.presets import PRESETS, SamplingPreset
from trip.residual_unet import ResidualUNet3D

OWN_SETTINGS = ("zero_text_padding", "max_text_length", "packaged_text_encoder", "default_guidance_scale")
"""Of a pipeline's configuration, beside its parts."""


class PriorFirst(nn.Module):
    """A denoiser that leaves its network out where the prior's noise is within `tolerance` of the true one.

    Its root mean square error is ``sqrt(1 - lambda*)``, on training clips, in units of the noise; all frames must be
    within the tolerance. 0 leaves nothing out.
    """

    def __init__(self, denoiser: TripDenoiser, tolerance: float):
        super().__init__()
        self.denoiser, self.tolerance = denoiser, tolerance

    def forward(
        self, z_t: Clip, timestep: Tensor, condition: Condition, signal: Tensor, noise: Tensor
    ) -> DenoiserOutput:
        """As the denoiser, or the estimate with Delta = 0."""
        sigma = self.denoiser.fusion.table("sigma", z_t.device)
        error = (1 - optimal_lambda(signal, noise, sigma, z_t)).sqrt().max()
        if error >= self.tolerance:
            return self.denoiser(z_t, timestep, condition, signal, noise)
        nothing = torch.zeros_like(z_t)
        return DenoiserOutput(optimal_estimate(z_t, condition.reference, nothing, signal, noise, sigma), nothing)


class SkippingPipeline(TripPipeline):
    """A pipeline that samples with `PriorFirst`."""

    tolerance = 0.0

    @property
    def denoiser(self) -> Any:
        return PriorFirst(super().denoiser, self.tolerance)


@dataclass(frozen=True, kw_only=True)
class SkippingPreset(SamplingPreset):
    """A preset that leaves the network out of the first steps, see `PriorFirst`."""

    tolerance: float

    def apply(self, pipeline: Any) -> tuple[Any, dict[str, Any]]:
        """As the preset's own, of a pipeline that skips."""
        changed, arguments = super().apply(pipeline)
        skipping = SkippingPipeline(**changed.components, **{name: changed.config[name] for name in OWN_SETTINGS})
        skipping.tolerance = self.tolerance
        skipping.set_progress_bar_config(disable=True)
        return skipping, arguments


class Kept(nn.Module):
    """A block that is called in every `every`-th step only; in between, what it returned last is returned again."""

    def __init__(self, block: nn.Module, every: int):
        super().__init__()
        self.block, self.every, self.calls, self.last = block, every, 0, None

    def forward(self, *inputs: Any) -> Any:
        """As the block, or its last outputs."""
        if self.calls % self.every == 0:
            self.last = self.block(*inputs)
        self.calls += 1
        return self.last


def keeping_deep_features(unet: ResidualUNet3D, every: int) -> ResidualUNet3D:
    """The same weights, but all below the first resolution is kept for `every` steps (DeepCache, 2312.00858)."""
    changed = copy.copy(unet)
    changed._modules = dict(unet._modules)

    def kept(blocks: Sequence[nn.Module]) -> list[nn.Module]:
        return [Kept(block, every) for block in blocks]

    changed.down_blocks = nn.ModuleList([unet.down_blocks[0], *kept([*unet.down_blocks][1:])])
    changed.mid_block = Kept(unet.mid_block, every)
    changed.up_blocks = nn.ModuleList([*kept([*unet.up_blocks][:-1]), unet.up_blocks[-1]])
    return changed


@dataclass(frozen=True, kw_only=True)
class CachingPreset(SamplingPreset):
    """A preset that keeps deep features, see `keeping_deep_features`."""

    every: int

    def apply(self, pipeline: Any) -> tuple[Any, dict[str, Any]]:
        """As the preset's own, of a pipeline with such a network."""
        changed, arguments = super().apply(pipeline)
        components = changed.components | {"unet": keeping_deep_features(pipeline.unet, self.every)}
        caching = TripPipeline(**components, **{name: changed.config[name] for name in OWN_SETTINGS})
        caching.set_progress_bar_config(disable=True)
        return caching, arguments


def variants() -> dict[str, SamplingPreset]:
    """`quality`, and presets with another solver, or with what else could save evaluations."""
    balanced, fast = PRESETS["balanced"], PRESETS["fast"]
    return {
        "quality": PRESETS["quality"],
        "balanced": balanced,
        "balanced, by DDIM": replace(balanced, scheduler=None),
        "balanced, skipping to 0.1": SkippingPreset(**vars(balanced), tolerance=0.1),
        "balanced, skipping to 0.2": SkippingPreset(**vars(balanced), tolerance=0.2),
        "balanced, deep features kept for 2": CachingPreset(**vars(balanced), every=2),
        "balanced, deep features kept for 3": CachingPreset(**vars(balanced), every=3),
        "8 steps": replace(balanced, steps=8),
        "fast": fast,
        "fast, by DDIM": replace(fast, scheduler=None),
        "fast, by UniPC": replace(fast, scheduler="UniPCMultistepScheduler"),
        "6 steps, guided above 0.4": replace(fast, steps=6, guidance_interval=(0.4, 1.0)),
        "6 steps, guided below 0.9": replace(fast, steps=6, guidance_interval=(0.0, 0.9)),
        "6 steps, guidance kept for 3": replace(fast, steps=6, guidance_every=3),
    }
