"""Calibration against networks and clips whose error is known."""

import pytest
import torch
from torch.testing import assert_close

from trip.noise_prior import training_free_lambda
from trip.training.calibration import measure, spread_timesteps

ALPHAS = torch.linspace(0.99, 0.01, 1000)
SHAPE = (2, 4, 6, 8, 8)


def drifting_clips(count, generator, slope=0.1):
    """Clips whose frame i is frame 1 plus noise of RMS slope * i."""
    for _ in range(count):
        first = torch.randn((*SHAPE[:2], 1, *SHAPE[3:]), generator=generator)
        steps = slope * torch.arange(SHAPE[2]).reshape(1, 1, -1, 1, 1)
        yield first + steps * torch.randn(SHAPE, generator=generator)


def test_known_sigma_and_tau_are_recovered(rng):
    truth = {0: 0.1, 500: 0.4, 999: 0.9}

    def clips():
        for latents in drifting_clips(20, rng):

            def estimate(z_t, timestep, signal, noise, latents=latents):
                return latents + truth[int(timestep)] * torch.randn(SHAPE, generator=rng)

            yield latents, estimate

    result = measure(clips(), ALPHAS, list(truth), rng)
    assert result.clips == 40 and result.timesteps == [0, 500, 999]
    assert_close(result.tau, torch.tensor(list(truth.values())), rtol=0.02, atol=0)
    assert_close(result.sigma, 0.1 * torch.arange(6.0), rtol=0.03, atol=0)
    assert result.sigma[0] == 0


def test_the_network_sees_the_noisy_clip_of_the_schedule(rng):
    """The estimate z_t / signal is off by noise / signal times the noise, at every timestep."""
    clips = ((latents, lambda z_t, t, signal, noise: z_t / signal) for latents in drifting_clips(20, rng))
    steps = spread_timesteps(4)
    result = measure(clips, ALPHAS, steps, rng)
    alpha_bar = ALPHAS[steps]
    assert_close(result.tau, ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=0.03, atol=0)


def test_the_measured_weight_is_the_best_one(rng):
    """lambda = tau^2 / (tau^2 + sigma^2) leaves less error than its neighbours."""
    sigma, tau, last = 0.5, 0.3, SHAPE[2] - 1
    (latents,) = drifting_clips(1, rng, slope=sigma / last)
    estimate = latents + tau * torch.randn(SHAPE, generator=rng)
    result = measure([(latents, lambda *_: estimate)], ALPHAS, [0], rng)
    lam = training_free_lambda(result.tau[0], result.sigma[last])

    def error(weight):
        mix = weight * latents[:, :, :1] + (1 - weight) * estimate
        return (mix - latents)[:, :, last].square().mean()

    assert error(lam) < min(error(lam - 0.1), error(lam + 0.1))


def test_same_seed_same_tables():
    def once():
        generator = torch.Generator().manual_seed(1)
        clips = [(latents, lambda z_t, t, a, s: z_t) for latents in drifting_clips(2, generator)]
        return measure(clips, ALPHAS, [10, 900], generator)

    assert torch.equal(once().tau, once().tau)


def test_errors(rng):
    with pytest.raises(ValueError, match="no clips"):
        measure([], ALPHAS, [0], rng)
    latents = torch.zeros(SHAPE)
    with pytest.raises(ValueError, match="not finite"):
        measure([(latents, lambda z_t, *_: z_t * torch.nan)], ALPHAS, [0], rng)
    for count in (1, 1001):
        with pytest.raises(ValueError, match="2 to 1000"):
            spread_timesteps(count)


def test_spread_timesteps_has_both_ends():
    assert spread_timesteps(3) == [0, 500, 999]
    assert spread_timesteps(11)[::10] == [0, 999]
