r"""What training minimises, TRIP Eq. 10 and its reweightings, as one weighted error of the estimate of z_0.

All objectives are ``E[ w(t, i) (z_0_hat - z_0)^2 ]``, because at fixed z_t every prediction type is affine in z_0:

============  =====================  ====================================================================
objective     w(t, i)                which is
============  =====================  ====================================================================
"epsilon"     snr                    TRIP Eq. 10, ``E||eps - eps_hat||^2``
"residual"    snr + 1 / sigma_i^2    ``E||Delta* - Delta||^2``, the unit-variance target of the optimal fusion
"sample"      1                      ``E||z_0 - z_0_hat||^2``
============  =====================  ====================================================================

with ``snr = signal^2 / noise^2``. Frames with sigma = 0 (frame 1 is given) carry no weight.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from trip.condition import Condition
from trip.noise_prior import SMALLEST_NOISE, Clip, Coefficient, optimal_target, per_clip, per_frame


def loss_weight(
    objective: str,
    signal: Coefficient,
    noise: Coefficient,
    sigma: Tensor,
    like: Clip,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """w(t, i) of the table above, broadcastable to b c f h w.

    Min-SNR (Hang et al. 2023) replaces snr by min(snr, gamma).
    """
    snr = (per_clip(signal, like) / per_clip(noise, like).clamp_min(SMALLEST_NOISE)) ** 2
    snr = snr if min_snr_gamma is None else snr.clamp_max(min_snr_gamma)
    sigma = per_frame(sigma, like)
    moving = (sigma > 0).float()
    match objective:
        case "epsilon":
            return snr * moving
        case "residual":
            return (snr + 1 / sigma.clamp_min(1e-8) ** 2) * moving
        case "sample":
            return moving
    raise ValueError(f"objective={objective!r} is unknown; choose 'epsilon', 'residual' or 'sample'")


@dataclass(frozen=True, kw_only=True)
class Noising:
    """A drawn step of every clip, ``z_t = signal z_0 + noise eps``; `timestep` is as the network sees it, all (b,)."""

    timestep: Num[Tensor, " b"]
    eps: Clip
    signal: Float[Tensor, " b"]
    noise: Float[Tensor, " b"]

    def __call__(self, z_0: Clip) -> Clip:
        """z_t."""
        return per_clip(self.signal, z_0) * z_0 + per_clip(self.noise, z_0) * self.eps.float()


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How errors are weighted.

    Attributes:
        kind: row of the table above. sigma: its table. min_snr_gamma: see `loss_weight`.
        balance_clips: divide every clip's error by the power of its target Delta* (at least 0.1), so that a clip
            whose small object moves counts as much as one in which everything does.
    """

    sigma: Tensor
    kind: str = "residual"
    min_snr_gamma: float | None = None
    balance_clips: bool = False


def trip_loss(
    denoiser: nn.Module, z_0: Clip, condition: Condition, noising: Noising, objective: Objective
) -> Float[Tensor, "b f"]:
    """Weighted squared error per clip and frame; its mean is the loss.

    Args:
        z_0: clean latents. condition: what the denoiser is told of them. noising: the drawn step.
    """
    z_0, sigma, levels = z_0.float(), objective.sigma, (noising.signal, noising.noise)
    output = denoiser(noising(z_0), noising.timestep, condition, *levels)
    weight = loss_weight(objective.kind, *levels, sigma, z_0, objective.min_snr_gamma)
    error = (weight * (output.sample - z_0) ** 2).mean(dim=(1, 3, 4))
    if objective.balance_clips:
        target = optimal_target(z_0, condition.reference, noising.eps, *levels, sigma)
        error = error / target.square().mean(dim=(1, 2, 3, 4))[:, None].clamp_min(0.1)
    return error


def measure_sigma(displacements: Float[Tensor, "b c f h w"]) -> Float[Tensor, " f"]:
    """sigma_i of the optimal fusion: RMS of z_0^i - z_0^1 over clips, channels and positions; 0 at frame 1."""
    return displacements.double().square().mean(dim=(0, 1, 3, 4)).sqrt().float()


def draw_timesteps(batch: int, num_train_timesteps: int, generator: torch.Generator, power: float = 1.0) -> Tensor:
    """Integer timesteps with density ~ t^(power - 1): 1 is uniform, > 1 leans to high noise, where motion is decided.

    Stratified over the batch, which lowers the variance of the loss at no bias.
    """
    u = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    u = u[torch.randperm(batch, generator=generator)] ** (1 / power)
    return (u * num_train_timesteps).long().clamp_max(num_train_timesteps - 1)
