r"""What the image noise prior is worth on clips, measured on latents with drawn noise, without a network.

Notation of docs/method.md: ``d^i = z_0^i - z_0^1``, ``sigma_i^2 = E (d^i)^2``, ``snr = a^2 / s^2``. Averages are over
clips, channels and positions; correlations are about zero, those between frames pooled over all pairs of a distance.
Tables are ``t f``: a row a timestep, a column a frame, the first frame included (its displacement is 0).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trip.ablation.scores import TIMESTEPS, fixed_noise, snr_at
from trip.data.cache.latents import LatentClips
from trip.data.sets.datasets import read_examples
from trip.data.sets.decoding import Decoding
from trip.data.sets.examples import Example
from trip.data.sources import ExampleClips
from trip.noise_fusion import LinearNoiseFusion
from trip.noise_prior import epsilon_prior, optimal_target, per_frame, prediction_from_sample
from trip.schedule import noise_levels
from trip.training.encoders import LatentEncoder

DISTANCES = (1, 2, 4, 8)
"""Of frames whose priors are compared."""

ENDS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0)
"""Of Eq. 9's lambda, tried at either end of the clip."""

BATCH = 32
QUARTERS = 4


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Clips to measure on: their name in the tables, latents n c f h w in float32."""

    name: str
    z_0: Tensor

    @property
    def sigma(self) -> Tensor:
        """RMS of z_0^i - z_0^1 per frame."""
        return displacement(self.z_0).square().mean(dim=(0, 1, 3, 4)).sqrt()


def displacement(z_0: Tensor) -> Tensor:
    """d^i = z_0^i - z_0^1."""
    return z_0 - z_0[:, :, :1]


# ---------------------------------------------------------------------------------------------------------- clips


def cached_clips(folder: Path, count: int) -> Latents:
    """The first `count` clips of a cache, of every kind of motion.

    Raises:
        ValueError: fewer clips.
    """
    clips = LatentClips(folder)
    if len(clips) < count:
        raise ValueError(f"{folder} has {len(clips)} clips, {count} are wanted; add some or lower --clips")
    return Latents(name="synthetic", z_0=torch.stack([clips[i][0] for i in range(count)]).float())


def real_clips(folder: Path, pipeline: Any, size: int, num_frames: int) -> Latents:
    """One piece of every source in a folder of real clips, its consecutive frames encoded as caches are."""
    decoding = Decoding(num_frames=num_frames, fps=None, size=(size, size))
    source = ExampleClips(one_of_each_source(read_examples(folder)), decoding)
    encode = LatentEncoder(vae=pipeline.vae, precision=torch.bfloat16)
    starts = range(0, len(source), 8)
    latents = torch.cat([encode([source.clip(i) for i in range(len(source))[k : k + 8]]) for k in starts]).float()
    return Latents(name="real", z_0=latents.movedim(2, 1))


def one_of_each_source(examples: Sequence[Example]) -> list[Example]:
    """The first piece of every source; pieces are named SOURCE_NUMBER."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(Path(example.key).stem.rpartition("_")[0] or example.key, example)
    return list(first.values())


# ------------------------------------------------------------------------------- measured at every timestep and frame


def measure_clips(clips: Latents, scheduler: Any, sigma: Tensor, ends: tuple[float, float]) -> dict[str, Any]:
    """Alignment of prior and noise, correlation between frames, and variance of residual targets.

    Args:
        clips: to measure on. scheduler: the schedule. sigma: the table that the optimal fusion uses, (f,).
        ends: Eq. 9's lambda at the first and the last frame.
    """
    rows = [measure_at(clips.z_0, scheduler, t, sigma, ends) for t in TIMESTEPS]
    tables = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    snr = snr_at(scheduler)[:, None]
    own, lam = clips.sigma.double().numpy(), np.linspace(*ends, clips.z_0.shape[2])
    return {
        "name": clips.name,
        "n": len(clips.z_0),
        "sigma": own,
        **tables,
        "alignment_theory": 1 / np.sqrt(1 + snr * own**2),
        "linear_variance_theory": 1 + (lam / np.maximum(1 - lam, 1e-4)) ** 2 * snr * own**2,
        "displacement_correlation": [lagged(displacement(clips.z_0), k) for k in DISTANCES],
    }


def linear_target(z_0: Tensor, reference: Tensor, eps: Tensor, signal: Tensor, noise: Tensor, lam: Tensor) -> Tensor:
    """Eq. 9 solved for the residual noise; its variance is 1 + (lambda / (1 - lambda))^2 snr sigma^2."""
    lam = per_frame(lam, z_0)
    sample = (z_0 - lam * reference) / (1 - lam).clamp_min(1e-4)
    return prediction_from_sample(sample, signal * z_0 + noise * eps, signal, noise, "epsilon")


def measure_at(z_0: Tensor, scheduler: Any, t: int, sigma: Tensor, ends: tuple[float, float]) -> dict[str, np.ndarray]:
    """Everything that is measured at one timestep; sums over batches of clips."""
    _, signal, noise = noise_levels(scheduler, torch.tensor([t]))
    linear = LinearNoiseFusion(num_frames=z_0.shape[2], first=ends[0], last=ends[1])
    moments = torch.var_mean(z_0, dim=(0, 2, 3, 4), keepdim=True)
    total: dict[str, Tensor] = {}
    for start in range(0, len(z_0), BATCH):
        z = z_0[start : start + BATCH]
        eps = torch.stack([fixed_noise(z[0].shape, start + row, t) for row in range(len(z))])
        r = z[:, :, :1]
        prior = epsilon_prior(signal * z + noise * eps, r, signal, noise)
        estimates = estimate_from_prior(z, eps, signal, noise, sigma), estimate_blind(z, eps, signal, noise, *moments)
        sums = {
            "prior": squares(prior),
            "eps": squares(eps),
            "product": (prior * eps).sum(dim=(0, 1, 3, 4)),
            "optimal": squares(optimal_target(z, r, eps, signal, noise, sigma)),
            "linear": squares(linear_target(z, r, eps, signal, noise, linear.lam)),
            "prior_lags": torch.stack([lag_sums(prior, k) for k in DISTANCES]),
            "noise_lags": torch.stack([lag_sums(eps, k) for k in DISTANCES]),
            "flicker": torch.stack([(e - z).diff(dim=2).square().sum() for e in (*estimates, z * 0)]),
        }
        total = {name: total.get(name, 0) + value.double() for name, value in sums.items()}
    return summary(total, z_0.numel() // z_0.shape[2])


def summary(total: dict[str, Tensor], count: int) -> dict[str, np.ndarray]:
    """Correlations and variances out of sums; `count` values a frame."""
    aligned = total["product"] / (total["prior"] * total["eps"]).sqrt()
    ratios = {name: lags[:, 0] / (lags[:, 1] * lags[:, 2]).sqrt() for name, lags in total.items() if "lags" in name}
    flicker = total["flicker"] / total["flicker"][2]
    return {
        "alignment": aligned.numpy(),
        "optimal_variance": (total["optimal"] / count).numpy(),
        "linear_variance": (total["linear"] / count).numpy(),
        "prior_correlation": ratios["prior_lags"].numpy(),
        "noise_correlation": ratios["noise_lags"].numpy(),
        "flicker": flicker[:2].numpy(),
    }


def squares(x: Tensor) -> Tensor:
    """Sum of squares of every frame, (f,)."""
    return x.square().sum(dim=(0, 1, 3, 4))


def lag_sums(x: Tensor, distance: int) -> Tensor:
    """(sum of products, of squares, of squares) of frames `distance` apart, frame 1 left out."""
    moving = x[:, :, 1:]
    k = min(distance, moving.shape[2] - 1)
    a, b = moving[:, :, : moving.shape[2] - k], moving[:, :, k:]
    return torch.stack([(a * b).sum(), a.square().sum(), b.square().sum()])


def lagged(x: Tensor, distance: int) -> float:
    """Correlation of frames `distance` apart, sums pooled over all pairs of them."""
    product, a, b = lag_sums(x.double(), distance)
    return float(product / (a * b).sqrt())


def estimate_from_prior(z: Tensor, eps: Tensor, signal: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """z_0 by the variance-optimal fusion with residual 0."""
    r, variance = z[:, :, :1], sigma[None, None, :, None, None] ** 2
    gain = signal * variance / (noise**2 + signal**2 * variance)
    return r + gain * (signal * z + noise * eps - signal * r)


def estimate_blind(z: Tensor, eps: Tensor, signal: Tensor, noise: Tensor, variance: Tensor, mean: Tensor) -> Tensor:
    """z_0 by the best linear estimate from z_t alone, one value at a time: knows means and variances, not the image."""
    gain = signal * variance / (noise**2 + signal**2 * variance)
    return mean + gain * (signal * z + noise * eps - signal * mean)


# ------------------------------------------------------------------------------------------- lambda, in closed form


def measure_lambda(scheduler: Any, sigma: np.ndarray, ends: tuple[float, float]) -> dict[str, Any]:
    """The best lambda that is constant in t, lambda* averaged over t, and what Eq. 9's ends cost with residual 0.

    An error of z_0 counts `weight` at t: snr is the error of epsilon, 1 + snr of v, 1 of z_0 itself. Every t from 0 to
    the last counts alike; frame 1 is left out.
    """
    snr = snr_at(scheduler, range(scheduler.config.num_train_timesteps))
    moving = sigma[1:]
    weights = {"epsilon": snr, "v": 1 + snr, "z_0": np.ones_like(snr)}
    star = 1 / (1 + snr[:, None] * moving**2)
    return {
        "best_constant": {name: best_constant(w, snr, moving) for name, w in weights.items()},
        "star_mean": star.mean(0),
        "star_variance_share": variance_shares(star),
        "cost": {name: costs(w, snr, moving, star, ends) for name, w in weights.items()},
        "slope": slope_table(snr, moving),
        "ends": ENDS,
    }


def best_constant(weight: np.ndarray, snr: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """argmin of ``E_t w [(1 - lambda)^2 / snr + lambda^2 sigma^2]`` for every frame."""
    noise = (weight / snr).mean()
    return noise / (noise + weight.mean() * sigma**2)


def prior_error(lam: np.ndarray, snr: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """``E (eps - lambda eps^{i->1})^2 = (1 - lambda)^2 + lambda^2 snr sigma^2``, t f."""
    return (1 - lam) ** 2 + lam**2 * snr[:, None] * sigma**2


def costs(
    weight: np.ndarray, snr: np.ndarray, sigma: np.ndarray, star: np.ndarray, ends: tuple[float, float]
) -> dict[str, float]:
    """Weighted error with residual 0 of each choice of lambda, in units of that of lambda*."""
    scale = (weight / snr)[:, None]
    best = (scale * prior_error(star, snr, sigma)).mean()
    linear = np.linspace(*ends, len(sigma) + 1)[1:]
    choices = {
        "best_constant": best_constant(weight, snr, sigma),
        "one_for_all_frames": best_constant(weight, snr, np.full_like(sigma, np.sqrt((sigma**2).mean()))),
        "eq9": linear,
    }
    return {name: float((scale * prior_error(lam, snr, sigma)).mean() / best) for name, lam in choices.items()}


def variance_shares(star: np.ndarray) -> dict[str, float]:
    """Shares of the variance of lambda*(t, i) that t alone, i alone and their interaction explain."""
    total, by_t, by_i = star.var(), star.mean(1).var() / star.var(), star.mean(0).var() / star.var()
    return {"t": float(by_t), "i": float(by_i), "both": float(1 - by_t - by_i) if total else 0.0}


def slope_table(snr: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Error of epsilon for every pair of ends (first, last), by quarter of t, lowest t first."""
    quarters = np.array_split(np.arange(len(snr)), QUARTERS)
    table = np.empty((len(ENDS), len(ENDS), QUARTERS))
    for row, first in enumerate(ENDS):
        for column, last in enumerate(ENDS):
            error = prior_error(np.linspace(first, last, len(sigma) + 1)[1:], snr, sigma)
            table[row, column] = [error[quarter].mean() for quarter in quarters]
    return table


# --------------------------------------------------------------------------------------------------- prediction


def measure_prediction(clips: Latents, scheduler: Any) -> dict[str, Any]:
    """Half of the clip is observed: how far the rest is from the first frame, from the last observed, and from a line.

    The line goes on as the last two observed frames differ. `share` is lambda* averaged over all t: the part of the
    noise's variance that each reference explains.
    """
    seen = clips.z_0.shape[2] // 2
    future, last = clips.z_0[:, :, seen:], clips.z_0[:, :, seen - 1 : seen]
    steps = torch.arange(1, future.shape[2] + 1)[None, None, :, None, None]
    references = {
        "first": clips.z_0[:, :, :1],
        "last": last,
        "line": last + steps * (last - clips.z_0[:, :, seen - 2 : seen - 1]),
    }
    snr = snr_at(scheduler, range(scheduler.config.num_train_timesteps))[:, None]
    sigma = {name: rms(future - r) for name, r in references.items()}
    return {
        "observed": seen,
        "sigma": sigma,
        "share": {name: (1 / (1 + snr * s**2)).mean(0) for name, s in sigma.items()},
    }


def rms(x: Tensor) -> np.ndarray:
    """Root mean square of every frame."""
    return x.double().square().mean(dim=(0, 1, 3, 4)).sqrt().numpy()


def shortened(value: Any, digits: int = 4) -> Any:
    """For JSON: lists, and floats to a few significant digits."""
    if isinstance(value, dict):
        return {name: shortened(item, digits) for name, item in value.items()}
    if isinstance(value, np.ndarray | Tensor):
        return shortened(value.tolist(), digits)
    if isinstance(value, list | tuple | range):
        return [shortened(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float | np.floating) else value
