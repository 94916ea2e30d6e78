"""TripDenoiser: image noise prior + residual network -> fused estimate, one forward over two saved parts.

As EDM's preconditioner owns its scalings, this module owns everything between a noisy clip and the estimate of
z_0; samplers, trainers and evaluation see only this call. The schedule is an argument: only the scheduler owns it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trip.condition import Condition
from trip.noise_fusion import NoiseFusion
from trip.noise_prior import Clip, Coefficient, fuse_linear, training_free_lambda


@dataclass(frozen=True)
class DenoiserOutput:
    """`sample`: estimate of z_0, float32. `residual`: the backbone's raw output Delta, last N frames. b c f h w."""

    sample: Tensor
    residual: Tensor


class TripDenoiser(nn.Module):
    """Composes a backbone and a fusion (TRIP Fig. 2: residual path, shortcut path, fusion).

    Args:
        backbone: any network ``backbone(latents b c f h w, timestep, encoder_hidden_states b n d)`` that returns a
            tensor, a tuple, or an object with `.sample`: `ResidualUNet3D`, or a video transformer of diffusers.
        fusion: decides what the backbone's output means and how the image enters it (`fusion.concat`):
            "time" puts the clean image latent in front of the noisy frames, N + 1 in, the last N out (the paper);
            "channel" repeats it over the frames as further input channels (TRIP_C); "none" keeps the backbone blind.
    """

    def __init__(self, backbone: nn.Module, fusion: NoiseFusion):
        super().__init__()
        self.backbone = backbone
        self.fusion = fusion

    def forward(
        self, z_t: Clip, timestep: Tensor | int | float, condition: Condition, signal: Coefficient, noise: Coefficient
    ) -> DenoiserOutput:
        """Estimate z_0 from z_t = signal z_0 + noise eps.

        Args:
            z_t: noisy latents (after `scheduler.scale_model_input`).
            condition: text, image as the backbone sees it, and the prior's reference.
            timestep, signal, noise: the schedule at t: one number, one a clip (b,), or one a frame (b, f).
        """
        t = torch.as_tensor(timestep, device=z_t.device)
        t = t if t.ndim == 2 else t.reshape(-1).expand(z_t.shape[0])
        inputs = self.concatenate(z_t, condition.image).to(_dtype(self.backbone, z_t))
        text = None if condition.text is None else condition.text.to(inputs.dtype)
        output = _tensor(self.backbone(inputs, self.of_inputs(t), text))
        residual = output[:, : z_t.shape[1], -z_t.shape[2] :]
        if residual.shape != z_t.shape:
            raise ValueError(
                f"the backbone turned {tuple(inputs.shape)} into {tuple(output.shape)}; it must return at least the "
                f"{tuple(z_t.shape)} of the noisy clip, so adapt it or change concat (={self.fusion.concat!r})"
            )
        sample = self.fusion(z_t, condition, residual, signal, noise, t)
        if condition.added is not None:
            lam = training_free_lambda(self.fusion.error(z_t, condition, signal, noise), condition.added.spread)
            sample = fuse_linear(condition.added.mean, sample, lam)
        return DenoiserOutput(sample=sample, residual=residual)

    def concatenate(self, z_t: Clip, image: Float[Tensor, "b c 1 h w"] | None) -> Float[Tensor, "b c_in f_in h w"]:
        """The backbone's input: {z_0^1, z_t^1, ..., z_t^N} along time, or along channels, or z_t alone.

        Raises:
            ValueError: a condition without the image that the backbone is to see.
        """
        if self.fusion.concat == "none":
            return z_t
        if image is None:
            raise ValueError(f"concat={self.fusion.concat!r} shows the image to the backbone; give the condition one")
        image = image.to(z_t.dtype)
        if self.fusion.concat == "time":
            return torch.cat([image, z_t], dim=2)
        return torch.cat([z_t, image.expand_as(z_t)], dim=1)

    def of_inputs(self, t: Tensor) -> Tensor:
        """Timesteps (b,), or (b, f) of the backbone's frames: the image in front has that of the frame it shows."""
        return torch.cat([t[:, :1], t], dim=1) if t.ndim == 2 and self.fusion.concat == "time" else t

    @property
    def num_frames(self) -> int | None:
        """Longest clip the fusion's tables allow; None = no limit."""
        return self.fusion.num_frames


def _dtype(module: nn.Module, like: Tensor) -> torch.dtype:
    """The dtype a backbone computes in: not float8, in which weights only rest. Without weights, that of its input."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point() and p.itemsize > 1), like.dtype)


def _tensor(output: Any) -> Tensor:
    """Unwrap what diffusers' models return."""
    if isinstance(output, Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.sample
