"""A fusion of one's own: the prior's weight halves every few frames, and training finds how many.

trip train --preset smoke --fusion-module examples/own_fusion.py --fusion-kind half-life --output-dir my-run
trip animate photo.jpg --prompt "..." --model my-run/final --fusion-module examples/own_fusion.py --output clip.mp4
"""

import torch
from diffusers.configuration_utils import register_to_config

from trip.noise_fusion import NoiseFusion, register_fusion
from trip.noise_prior import fuse_linear, sample_from_prediction


@register_fusion("half-life")
class HalfLifeFusion(NoiseFusion):
    """``z_0 = lambda^i r + (1 - lambda^i) z_0(network)`` with ``lambda^i = 2^(-i / frames)``."""

    @register_to_config
    def __init__(
        self, frames: float = 4.0, concat: str = "time", shortcut: bool = True, prediction_type: str = "sample"
    ):
        super().__init__()
        self.check_config()
        self.log_frames = torch.nn.Parameter(torch.tensor([frames]).log())

    def fuse(self, z_t, condition, residual, signal, noise, timestep):
        own = sample_from_prediction(residual, z_t, signal, noise, self.config["prediction_type"])
        index = torch.arange(z_t.shape[2], device=z_t.device)
        return fuse_linear(condition.reference, own, torch.exp2(-index / self.log_frames.float().exp()))
