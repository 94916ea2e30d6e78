r"""Shortcut path: the image noise prior, in closed form.

The diffusion process noises a clip's latents as ``z_t = signal * z_0 + noise * eps``:

* variance preserving: ``signal = a = sqrt(alpha_bar)``, ``noise = s = sqrt(1 - alpha_bar)``;
* rectified flow: ``signal = 1 - t``, ``noise = t``.

Given a *reference* latent ``r`` per frame (the paper: the latent of the given image), the prior is the noise
that would explain ``z_t`` if the clean frame were ``r``. Everything here is a pure function, computed in float32
whatever the input dtype, because Eq. 8 divides by ``noise`` (34 times amplification at t = 0 of Stable
Diffusion's schedule). ``signal`` and ``noise`` are floats, 0-d tensors, one value per clip, shape ``(b,)``, or one per
frame, ``(b, f)``.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample", "flow_prediction")

SMALLEST_NOISE = 1e-4
"""Divisors are kept at or above this value: t -> 0 stays finite (SD's schedule starts at noise = 0.029)."""

SMALLEST_SIGNAL = 1e-4
"""The same for divisions by the signal, which vanishes at zero terminal SNR."""

Coefficient = float | Tensor
Clip = Float[Tensor, "b c f h w"]
Reference = Float[Tensor, "b c #f h w"]
"""The prior's clean latents: one per clip (f = 1, the paper) or one per frame."""


def per_clip(value: Coefficient, like: Tensor) -> Tensor:
    """Shape a coefficient, (), (b,) or one a frame (b, f), so that it multiplies a clip b c f h w, in float32."""
    value = torch.as_tensor(value, dtype=torch.float32, device=like.device)
    if value.ndim == 2:
        return value[:, None, :, None, None]
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value


def per_frame(value: Tensor | list | float, like: Tensor) -> Tensor:
    """Shape (f,), (c, f) or anything broadcastable to b c f h w so that it multiplies a clip, in float32.

    A table longer than the clip is cut to its first frames; a shorter one is an error, unless it has one frame.
    """
    value = torch.as_tensor(value, dtype=torch.float32, device=like.device)
    if value.ndim in (1, 2):
        frames = like.shape[2]
        if 1 < value.shape[-1] < frames:
            raise ValueError(
                f"the clip's {frames} frames exceed the {value.shape[-1]} of the per-frame table; "
                "shorten the clip or measure the table for more frames"
            )
        value = value[..., :frames].reshape(-1, value[..., :frames].shape[-1])[None, :, :, None, None]
    return value


# ------------------------------------------------------------------------------------------------ the prior


def image_noise_prior(z_t: Clip, reference: Reference, alpha_bar: Coefficient) -> Clip:
    r"""Image noise prior, TRIP Eq. 8: ``eps^{i->r} = (z_t^i - sqrt(alpha_bar) r^i) / sqrt(1 - alpha_bar)``.

    Args:
        z_t: noisy latents, b c f h w.
        reference: one clean latent per clip (b c 1 h w, the paper) or per frame (b c f h w).
        alpha_bar: cumulative product of 1 - beta at t, () or (b,), in [0, 1].
    """
    signal, noise = vp_coefficients(alpha_bar)
    return epsilon_prior(z_t, reference, signal, noise)


def vp_coefficients(alpha_bar: Coefficient) -> tuple[Tensor, Tensor]:
    """(signal, noise) = (sqrt(alpha_bar), sqrt(1 - alpha_bar)) of a variance-preserving process."""
    alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float32)
    return alpha_bar.sqrt(), (1 - alpha_bar).clamp_min(0).sqrt()


def epsilon_prior(z_t: Clip, reference: Reference, signal: Coefficient, noise: Coefficient) -> Clip:
    """Eq. 8 for any process: ``(z_t - signal r) / noise``."""
    z_t, reference = z_t.float(), reference.float()
    return (z_t - per_clip(signal, z_t) * reference) / per_clip(noise, z_t).clamp_min(SMALLEST_NOISE)


def velocity_prior(z_t: Clip, reference: Reference, alpha_bar: Coefficient) -> Clip:
    """The prior as a v-prediction ``v = a eps - s z_0``: ``(a z_t - r) / s``."""
    signal, noise = vp_coefficients(alpha_bar)
    return prediction_from_sample(reference.expand_as(z_t), z_t, signal, noise, "v_prediction")


def sample_prior(z_t: Clip, reference: Reference) -> Clip:
    """The prior as a prediction of z_0: the reference itself, one copy per frame."""
    return reference.float().expand_as(z_t)


def flow_prior(x_t: Clip, reference: Reference, t: Coefficient) -> Clip:
    """The prior as a rectified-flow velocity ``n - x_0``, where x_t = (1 - t) x_0 + t n: ``(x_t - r) / t``."""
    t = torch.as_tensor(t, dtype=torch.float32)
    return prediction_from_sample(reference.expand_as(x_t), x_t, 1 - t, t, "flow_prediction")


# ----------------------------------------------------------------------- one estimate, four parameterisations


def sample_from_prediction(
    prediction: Clip, z_t: Clip, signal: Coefficient, noise: Coefficient, prediction_type: str
) -> Clip:
    """The estimate of z_0 that a network's prediction means (TRIP Eq. 3 for epsilon)."""
    check_prediction_type(prediction_type)
    prediction, z_t = prediction.float(), z_t.float()
    a, s = per_clip(signal, z_t), per_clip(noise, z_t)
    match prediction_type:
        case "epsilon":
            return (z_t - s * prediction) / a.clamp_min(SMALLEST_SIGNAL)
        case "v_prediction":
            return a * z_t - s * prediction
        case "flow_prediction":
            return z_t - s * prediction
        case _:
            return prediction


def prediction_from_sample(
    sample: Clip, z_t: Clip, signal: Coefficient, noise: Coefficient, prediction_type: str
) -> Clip:
    """The prediction of the given type that means the estimate `sample` of z_0; inverse of the above."""
    check_prediction_type(prediction_type)
    sample, z_t = sample.float(), z_t.float()
    a, s = per_clip(signal, z_t), per_clip(noise, z_t).clamp_min(SMALLEST_NOISE)
    match prediction_type:
        case "epsilon":
            return (z_t - a * sample) / s
        case "v_prediction":
            return (a * z_t - sample) / s
        case "flow_prediction":
            return (z_t - sample) / s
        case _:
            return sample


def check_prediction_type(prediction_type: str) -> None:
    """Raise ValueError unless the type is one of `PREDICTION_TYPES`."""
    if prediction_type not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type={prediction_type!r} is unknown; choose one of {PREDICTION_TYPES}")


# ---------------------------------------------------------------------------------------- linear fusion, Eq. 9


def linear_schedule(num_frames: int, first: float, last: float) -> Float[Tensor, " f"]:
    """The paper's lambda^i: from `first` at frame 1 down to `last` at frame N, linear in the frame index."""
    return torch.linspace(first, last, num_frames)


def fuse_linear(prior: Reference, residual: Clip, lam: Tensor) -> Clip:
    """TRIP Eq. 9: ``lambda^i prior^i + (1 - lambda^i) residual^i``; lambda broadcastable to (b, 1, f, h, w)."""
    lam = per_frame(lam, residual)
    return lam * prior.float() + (1 - lam) * residual.float()


# ------------------------------------------------------------------------------------- variance-optimal fusion


def optimal_lambda(signal: Coefficient, noise: Coefficient, sigma: Tensor, like: Clip) -> Tensor:
    r"""Weight of the prior that leaves least variance: ``1 / (1 + snr sigma^2) = s^2 / (s^2 + a^2 sigma^2)``.

    `sigma` is the root mean square of ``z_0^i - r^i``, measured on training clips: (f,), (c, f) or a map.
    """
    a, s, sigma = per_clip(signal, like), per_clip(noise, like), per_frame(sigma, like)
    return s**2 / (s**2 + (a * sigma) ** 2).clamp_min(1e-20)


def optimal_estimate(
    z_t: Clip, reference: Reference, residual: Clip, signal: Coefficient, noise: Coefficient, sigma: Tensor
) -> Clip:
    r"""Variance-optimal fusion: ``z_0 = lambda r + (1 - lambda) z_t / a - sigma sqrt(lambda) Delta``.

    With D = s^2 + a^2 sigma^2 this is ``(s^2 r + a sigma^2 z_t) / D - sigma s / sqrt(D) Delta``, finite for every
    signal, noise and sigma; where sigma = 0 (frame 1) it is the reference. As epsilon it reads
    ``lambda eps^{i->r} + sqrt(1 - lambda) Delta``: the residual network's target has unit variance at every t and i.
    """
    z_t, reference, residual = z_t.float(), reference.float(), residual.float()
    a, s, sigma = per_clip(signal, z_t), per_clip(noise, z_t), per_frame(sigma, z_t)
    power = (s**2 + (a * sigma) ** 2).clamp_min(1e-20)
    gain = a * sigma**2 / power  # Wiener gain: how far z_t moves the estimate away from the reference
    return reference + gain * (z_t - a * reference) - sigma * s * power.rsqrt() * residual


def optimal_target(
    z_0: Clip, reference: Reference, eps: Clip, signal: Coefficient, noise: Coefficient, sigma: Tensor
) -> Clip:
    r"""What the residual network should predict under `optimal_estimate`.

    ``Delta = (a sigma eps - s (z_0 - r) / sigma) / sqrt(s^2 + a^2 sigma^2)``: the v-prediction of the normalised
    displacement ``(z_0 - r) / sigma`` at the signal-to-noise ratio ``snr sigma^2``. Where sigma = 0 the target is 0.
    """
    z_0, reference, eps = z_0.float(), reference.float(), eps.float()
    a, s, sigma = per_clip(signal, z_0), per_clip(noise, z_0), per_frame(sigma, z_0)
    displacement = torch.where(sigma > 0, (z_0 - reference) / sigma.clamp_min(1e-8), 0.0)
    power = (s**2 + (a * sigma) ** 2).clamp_min(1e-20)
    return (a * sigma * eps - s * displacement) * power.rsqrt()


def training_free_lambda(tau: Tensor, sigma: Tensor) -> Tensor:
    """Weight of the reference beside an image-blind network whose error has RMS tau: ``tau^2 / (tau^2 + sigma^2)``."""
    return tau**2 / (tau**2 + sigma**2).clamp_min(1e-20)


# ------------------------------------------------------------------------------------------------ motion gain


def scale_motion(sample: Clip, reference: Reference, strength: float) -> Clip:
    """Motion strength g: ``z_0 <- r + g (z_0 - r)``; 0 gives the still, 1 the estimate as it is."""
    sample, reference = sample.float(), reference.float()
    return sample if strength == 1 else reference + strength * (sample - reference)
