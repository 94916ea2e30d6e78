"""The table of training/objective.py: every objective is a weighted error of the estimate of z_0."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from trip.condition import still
from trip.denoiser import TripDenoiser
from trip.noise_fusion import LinearNoiseFusion, OptimalNoiseFusion, TemporalNoiseFusion
from trip.noise_prior import optimal_target, per_clip, prediction_from_sample
from trip.training.objective import Noising, Objective, draw_timesteps, loss_weight, measure_sigma, trip_loss

SIGMA = torch.tensor([0.0, 0.3, 0.8, 1.5])
T = torch.tensor([50, 400, 900])
SIGNAL = torch.tensor([0.95, 0.6, 0.1])
NOISE = (1 - SIGNAL**2).sqrt()
SHAPE = (3, 2, 4, 3, 3)


class Constant(nn.Module):
    """A backbone that returns a parameter and remembers its input."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, latents, timestep, encoder_hidden_states):
        self.latents = latents
        return self.output


@pytest.fixture
def draws(rng):
    """z_0, eps, text, residual."""
    z_0, eps, residual = (torch.randn(SHAPE, generator=rng) for _ in range(3))
    return z_0, eps, torch.zeros(3, 5, 8), residual


def loss_of(fusion, draws, objective, backbone=None, keep=None, **options):
    z_0, eps, text, residual = draws
    denoiser = TripDenoiser(backbone or Constant(residual), fusion)
    noising = Noising(timestep=T, eps=eps, signal=SIGNAL, noise=NOISE)
    condition = still(z_0[:, :, :1].float(), keep=keep, text=text)
    return trip_loss(denoiser, z_0, condition, noising, Objective(sigma=SIGMA, kind=objective, **options))


def estimate_of(fusion, draws):
    z_0, eps, _, residual = draws
    z_t = per_clip(SIGNAL, z_0) * z_0 + per_clip(NOISE, z_0) * eps
    return z_t, fusion(z_t, still(z_0[:, :, :1]), residual, SIGNAL, NOISE, T)


FUSIONS = {
    "optimal": OptimalNoiseFusion(sigma=SIGMA.tolist()),
    "linear": LinearNoiseFusion(num_frames=4, prediction_type="v_prediction"),
    "no shortcut": OptimalNoiseFusion(sigma=SIGMA.tolist(), shortcut=False, prediction_type="sample"),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_epsilon_objective_is_eq10(name, draws):
    """The squared error of the noise, whatever the fusion; frame 1 is given and carries none."""
    z_t, estimate = estimate_of(FUSIONS[name], draws)
    eps_hat = prediction_from_sample(estimate, z_t, SIGNAL, NOISE, "epsilon")
    expected = (eps_hat - draws[1]).square().mean(dim=(1, 3, 4))
    loss = loss_of(FUSIONS[name], draws, "epsilon")
    assert_close(loss[:, 1:], expected[:, 1:], atol=1e-4, rtol=1e-4)
    assert (loss[:, 0] == 0).all()


def test_residual_objective_is_the_error_of_delta(draws):
    fusion, (z_0, eps, _, residual) = FUSIONS["optimal"], draws
    target = optimal_target(z_0, z_0[:, :, :1], eps, SIGNAL, NOISE, SIGMA)
    expected = (target - residual).square().mean(dim=(1, 3, 4))
    loss = loss_of(fusion, draws, "residual")
    assert_close(loss[:, 1:], expected[:, 1:], atol=1e-4, rtol=1e-4)
    assert (loss[:, 0] == 0).all()


def test_an_untrained_network_starts_at_unit_residual_loss(rng):
    """Delta = 0 leaves the variance of the target, which is 1 at every t and frame."""
    reference = torch.randn((3, 1, 1, 60, 60), generator=rng)
    z_0 = reference + SIGMA[:, None, None] * torch.randn((3, 1, 4, 60, 60), generator=rng)
    eps = torch.randn(z_0.shape, generator=rng)
    loss = loss_of(FUSIONS["optimal"], (z_0, eps, torch.zeros(3, 5, 8), torch.zeros(z_0.shape)), "residual")
    assert_close(loss[:, 1:], torch.ones(3, 3), atol=0.12, rtol=0)


@pytest.mark.parametrize("name", FUSIONS)
def test_sample_objective_is_the_error_of_the_estimate(name, draws):
    _, estimate = estimate_of(FUSIONS[name], draws)
    expected = (estimate - draws[0]).square().mean(dim=(1, 3, 4))
    loss = loss_of(FUSIONS[name], draws, "sample")
    assert_close(loss[:, 1:], expected[:, 1:], atol=1e-5, rtol=1e-5)
    assert loss.shape == (3, 4)


def test_residual_weight_exceeds_epsilons_by_one_over_sigma_squared(draws):
    weights = {k: loss_weight(k, SIGNAL, NOISE, SIGMA, draws[0]) for k in ("epsilon", "residual", "sample")}
    extra = (weights["residual"] - weights["epsilon"])[:, 0, 1:, 0, 0]
    assert_close(extra, (1 / SIGMA[1:] ** 2).expand(3, 3), atol=1e-3, rtol=1e-4)
    assert weights["sample"].flatten().tolist() == [0, 1, 1, 1]


def test_min_snr_bounds_the_snr_in_the_weight(draws):
    weight = loss_weight("epsilon", SIGNAL, NOISE, SIGMA, draws[0], min_snr_gamma=5.0)
    snr = (SIGNAL / NOISE) ** 2
    assert_close(weight[:, 0, 1, 0, 0], snr.clamp_max(5.0))
    assert snr.max() > 5


@pytest.mark.parametrize("objective", ["epsilon", "residual", "sample"])
@pytest.mark.parametrize("a, s", [(1.0, 0.0), (0.0, 1.0)])
def test_loss_and_gradients_are_finite_at_both_ends(objective, a, s, draws):
    z_0, eps, text, _ = draws
    torch.manual_seed(0)
    fusion = TemporalNoiseFusion(latent_channels=2, dim=16, depth=1, sigma=SIGMA.tolist())
    denoiser = TripDenoiser(Constant(torch.zeros(SHAPE)), fusion)
    noising = Noising(timestep=T, eps=eps, signal=torch.full((3,), a), noise=torch.full((3,), s))
    condition = still(z_0[:, :, :1], text=text)
    loss = trip_loss(denoiser, z_0, condition, noising, Objective(sigma=SIGMA, kind=objective))
    loss.mean().backward()
    assert loss.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in denoiser.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents_are_noised_in_float32(dtype, draws):
    """Caches hold float16."""
    z_0, eps, text, residual = draws
    half = z_0.to(dtype)
    expected = loss_of(FUSIONS["optimal"], (half.float(), eps, text, residual), "residual")
    assert torch.equal(loss_of(FUSIONS["optimal"], (half, eps, text, residual), "residual"), expected)


def test_image_dropout_reaches_the_backbone_and_not_the_prior(draws):
    backbone = Constant(torch.zeros(3, 2, 5, 3, 3))
    keep = torch.tensor([1.0, 0.0, 1.0])
    dropped = loss_of(FUSIONS["optimal"], draws, "residual", backbone, keep)
    image = backbone.latents[:, :, 0]
    assert torch.equal(image[0], draws[0][0, :, 0]) and not image[1].any() and image[2].any()
    assert torch.equal(dropped, loss_of(FUSIONS["optimal"], draws, "residual", backbone))


def test_unknown_objective_is_named(draws):
    with pytest.raises(ValueError, match="objective='v' is unknown; choose"):
        loss_of(FUSIONS["optimal"], draws, "v")


def test_measured_sigma_is_the_rms_displacement_per_frame(rng):
    z_0 = torch.randn((50, 3, 1, 8, 8), generator=rng) + SIGMA[:, None, None] * torch.randn(
        (50, 3, 4, 8, 8), generator=rng
    )
    z_0[:, :, 0] = z_0[:, :, 0].round()
    displacement = z_0 - z_0[:, :, :1]
    sigma = measure_sigma(displacement)
    assert sigma[0] == 0 and sigma.dtype == torch.float32
    assert_close(sigma, displacement.square().mean(dim=(0, 1, 3, 4)).sqrt())


# ------------------------------------------------------------------------------------------------- timesteps


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_timesteps_follow_the_power_law(power, rng):
    """P(t < x T) = x^power."""
    t = torch.cat([draw_timesteps(64, 1000, rng, power) for _ in range(400)])
    assert t.min() >= 0 and t.max() <= 999 and t.dtype == torch.int64
    for x in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert (t < 1000 * x).float().mean().item() == pytest.approx(x**power, abs=0.005)


def test_timesteps_of_a_batch_are_one_per_stratum_in_random_order(rng):
    t = draw_timesteps(10, 1000, rng)
    assert sorted((t // 100).tolist()) == list(range(10))
    first = torch.stack([draw_timesteps(10, 1000, rng)[0] for _ in range(500)]).float()
    assert first.mean().item() == pytest.approx(499.5, abs=4 * 1000 / math.sqrt(12 * 500))


def test_timesteps_depend_on_the_generator_alone():
    a, b = (draw_timesteps(8, 1000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
