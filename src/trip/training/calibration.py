r"""Measuring the two tables of a training-free pipeline on clips.

``sigma_i^2 = E (z_0^i - r^i)^2`` says how far frame i moves away from its reference, and
``tau_t^2 = E (z_0 - x_0_hat)^2`` how far the network's own one-step estimate is off at t. Their ratio decides how much
the reference counts, ``lambda = tau_t^2 / (tau_t^2 + sigma_i^2)`` (`trip.noise_fusion.TrainingFreeNoiseFusion`).
Errors are summed clip by clip, so that one clip at a time is in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from trip.noise_prior import Clip, per_clip, vp_coefficients

Estimate = Callable[[Clip, Tensor, Tensor, Tensor], Clip]
"""``estimate(z_t, timestep, signal, noise) -> x_0_hat``, the network's own estimate of z_0; all but z_t are 0-d."""


@dataclass
class MeanSquare:
    """Running mean of squares, in float64, one per entry of a table."""

    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    count: int = 0

    def add(self, squares: Tensor, count: int) -> None:
        """Add sums of squares over `count` values each."""
        self.total = self.total + squares.double().cpu()
        self.count += count

    @property
    def root(self) -> Tensor:
        """Root of the mean, float32."""
        return (self.total / max(self.count, 1)).sqrt().float()


@dataclass(frozen=True)
class Calibration:
    """sigma (f,) and tau (one per timestep), float32, from `clips` clips."""

    sigma: Float[Tensor, "f"]
    tau: Float[Tensor, "k"]
    timesteps: list[int]
    clips: int


def spread_timesteps(count: int, num_train_timesteps: int = 1000) -> list[int]:
    """`count` timesteps from 0 to the last, evenly spread.

    Raises:
        ValueError: fewer than 2.
    """
    if not 2 <= count <= num_train_timesteps:
        raise ValueError(f"timesteps (={count}) must lie in 2 to {num_train_timesteps}; choose for example 11")
    return torch.linspace(0, num_train_timesteps - 1, count).round().int().tolist()


def displacement_squares(latents: Clip) -> Float[Tensor, "f"]:
    """Sum over clips, channels and positions of (z_0^i - z_0^1)^2."""
    return (latents.double() - latents[:, :, :1].double()).square().sum(dim=(0, 1, 3, 4))


def estimate_error_squares(
    estimate: Estimate, latents: Clip, timestep: int, alpha_bar: Tensor, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Sum over everything of (z_0 - x_0_hat)^2 at one timestep, with noise drawn from `generator` on its device."""
    eps = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents.device)
    signal, noise = vp_coefficients(alpha_bar)
    z_t = per_clip(signal, latents) * latents.float() + per_clip(noise, latents) * eps
    t = torch.tensor(timestep, device=latents.device)
    return (estimate(z_t, t, signal, noise).double() - latents.double()).square().sum()


def measure(
    clips: Iterable[tuple[Clip, Estimate]],
    alphas_cumprod: Float[Tensor, "t"],
    timesteps: Sequence[int],
    generator: torch.Generator,
) -> Calibration:
    """Measure sigma and tau.

    Args:
        clips: latents b c f h w, all of one shape but for b, each with the network's estimate for its caption.
        alphas_cumprod: the schedule of the network.
        timesteps: where tau is measured, increasing.
        generator: of the noise.

    Raises:
        ValueError: no clips, or an estimate that is not finite.
    """
    sigma, tau, count = MeanSquare(), [MeanSquare() for _ in timesteps], 0
    for latents, estimate in clips:
        sigma.add(displacement_squares(latents), latents.numel() // latents.shape[2])
        for t, error in zip(timesteps, tau, strict=True):
            squares = estimate_error_squares(estimate, latents, t, alphas_cumprod[t], generator)
            error.add(squares, latents.numel())
        count += len(latents)
    if not count:
        raise ValueError("there are no clips to measure on; give at least one of enough frames")
    roots = torch.stack([error.root for error in tau])
    if not (roots.isfinite().all() and sigma.root.isfinite().all()):
        raise ValueError("the network's estimates are not finite; measure with --dtype float32")
    return Calibration(sigma=sigma.root, tau=roots, timesteps=list(timesteps), clips=count)
