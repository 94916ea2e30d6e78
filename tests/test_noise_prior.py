"""The prior and its fusions as identities: docs/method.md says which test belongs to which equation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from trip.noise_prior import (
    PREDICTION_TYPES,
    epsilon_prior,
    flow_prior,
    fuse_linear,
    image_noise_prior,
    linear_schedule,
    optimal_estimate,
    optimal_lambda,
    optimal_target,
    per_frame,
    prediction_from_sample,
    sample_from_prediction,
    sample_prior,
    scale_motion,
    training_free_lambda,
    velocity_prior,
    vp_coefficients,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
shapes = st.tuples(*(st.integers(1, n) for n in (2, 4, 5, 4, 4)))
alpha_bars = st.floats(0.0, 0.99915)  # Stable Diffusion's largest, at t = 0
seeds = st.integers(0, 2**31)


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def one_frame(shape):
    return (*shape[:2], 1, *shape[3:])


@st.composite
def processes(draw):
    """(signal, noise) of a variance-preserving or a flow process, away from noise = 0."""
    if draw(st.booleans()):
        a = math.sqrt(draw(alpha_bars))
        return a, math.sqrt(1 - a * a)
    t = draw(st.floats(0.02, 1.0))
    return 1 - t, t


# -------------------------------------------------------------------------------------------------- facts 1, 2


@given(shapes, st.sampled_from(DTYPES), alpha_bars, st.booleans(), seeds)
def test_eq8_is_computed_in_float32_whatever_the_dtype(shape, dtype, alpha_bar, per_clip_reference, seed):
    z_t = normal(shape, seed, dtype)
    reference = normal(one_frame(shape) if per_clip_reference else shape, seed + 1, dtype)
    prior = image_noise_prior(z_t, reference, alpha_bar)
    s = math.sqrt(1 - alpha_bar)
    expected = (z_t.double() - math.sqrt(alpha_bar) * reference.double()) / s
    assert prior.dtype == torch.float32
    assert_close(prior.double(), expected, atol=3e-6 / s**2, rtol=1e-5)


@given(shapes, alpha_bars, seeds)
def test_prior_minus_noise_is_the_scaled_displacement(shape, alpha_bar, seed):
    z_0, eps = normal(shape, seed), normal(shape, seed + 1)
    a, s = vp_coefficients(alpha_bar)
    prior = image_noise_prior(a * z_0 + s * eps, z_0[:, :, :1], alpha_bar)
    assert_close(prior - eps, (a / s) * (z_0 - z_0[:, :, :1]), atol=1e-4, rtol=1e-4)
    assert_close(prior[:, :, 0], eps[:, :, 0], atol=1e-4, rtol=1e-4)


@given(shapes, alpha_bars, seeds)
def test_prior_of_a_static_clip_is_its_noise(shape, alpha_bar, seed):
    z_0, eps = normal(one_frame(shape), seed), normal(shape, seed + 1)
    a, s = vp_coefficients(alpha_bar)
    assert_close(image_noise_prior(a * z_0 + s * eps, z_0, alpha_bar), eps, atol=1e-4, rtol=1e-4)


@given(shapes, st.sampled_from(DTYPES), st.floats(0.05, 1.0), seeds)
def test_priors_of_the_four_parameterisations(shape, dtype, s, seed):
    z_t, r = normal(shape, seed, dtype), normal(one_frame(shape), seed + 1, dtype)
    a = math.sqrt(1 - s * s)
    z, ref = z_t.float(), r.float()
    close = {"atol": 1e-3, "rtol": 1e-4}
    assert_close(epsilon_prior(z_t, r, a, s), (z - a * ref) / s, **close)
    assert_close(velocity_prior(z_t, r, a * a), (a * z - ref) / s, **close)
    assert_close(flow_prior(z_t, r, s), (z - ref) / s, **close)
    assert_close(sample_prior(z_t, r), ref.expand_as(z), rtol=0, atol=0)


@given(shapes, st.floats(0.05, 1.0), seeds)
def test_v_and_flow_priors_differ_from_the_truth_by_the_scaled_displacement(shape, s, seed):
    z_0, eps = normal(shape, seed), normal(shape, seed + 1)
    r, a = z_0[:, :, :1], math.sqrt(1 - s * s)
    v, flow = a * eps - s * z_0, eps - z_0
    close = {"atol": 2e-4, "rtol": 1e-4}
    assert_close(velocity_prior(a * z_0 + s * eps, r, a * a) - v, (z_0 - r) / s, **close)
    assert_close(flow_prior((1 - s) * z_0 + s * eps, r, s) - flow, (z_0 - r) / s, **close)


@pytest.mark.parametrize("function", [image_noise_prior, velocity_prior])
@pytest.mark.parametrize("dtype", DTYPES)
def test_priors_stay_finite_without_noise(function, dtype):
    z_t = normal((1, 2, 3, 2, 2), 0, dtype)
    assert function(z_t, z_t[:, :, :1], 1.0).isfinite().all()
    assert flow_prior(z_t, z_t[:, :, :1], 0.0).isfinite().all()


def test_one_coefficient_per_clip_equals_clip_by_clip():
    z_t, alpha_bar = normal((3, 2, 4, 2, 2), 0), torch.tensor([0.1, 0.5, 0.9])
    together = image_noise_prior(z_t, z_t[:, :, :1], alpha_bar)
    single = [image_noise_prior(z[None], z[None, :, :1], x) for z, x in zip(z_t, alpha_bar, strict=True)]
    assert_close(together, torch.cat(single), rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------- conversions


@given(shapes, processes(), st.sampled_from(PREDICTION_TYPES), seeds)
def test_conversions_round_trip(shape, process, kind, seed):
    """Epsilon says nothing of z_0 where there is no signal, and v belongs to variance-preserving processes."""
    a, s = process
    if (kind == "epsilon" and a < 0.05) or (kind == "v_prediction" and abs(a * a + s * s - 1) > 1e-6):
        return
    z_0, eps = normal(shape, seed), normal(shape, seed + 1)
    z_t = a * z_0 + s * eps
    prediction = prediction_from_sample(z_0, z_t, a, s, kind)
    assert_close(sample_from_prediction(prediction, z_t, a, s, kind), z_0, atol=1e-4, rtol=1e-4)
    meaning = {"epsilon": eps, "v_prediction": a * eps - s * z_0, "flow_prediction": eps - z_0, "sample": z_0}
    if kind != "flow_prediction" or abs(a + s - 1) < 1e-6:
        assert_close(prediction, meaning[kind], atol=3e-4, rtol=1e-3)


def test_unknown_prediction_type_is_named():
    z_t = torch.zeros(1, 1, 1, 1, 1)
    for convert in (sample_from_prediction, prediction_from_sample):
        with pytest.raises(ValueError, match="'eps' is unknown; choose one of"):
            convert(z_t, z_t, 0.5, 0.5, "eps")


# ------------------------------------------------------------------------------------------- Eq. 9, linear


def test_linear_schedule_has_the_given_ends_and_constant_steps():
    lam = linear_schedule(16, 0.9, 0.5)
    assert_close(lam[[0, -1]], torch.tensor([0.9, 0.5]))
    assert_close(lam.diff(), torch.full((15,), -0.4 / 15))
    assert linear_schedule(1, 0.9, 0.5).tolist() == pytest.approx([0.9])


@given(shapes, processes(), st.sampled_from(PREDICTION_TYPES), st.booleans(), seeds)
def test_eq9_in_any_parameterisation_is_the_same_mix_of_reference_and_estimate(shape, process, kind, is_map, seed):
    """In z_0 space Eq. 9 reads lambda r + (1 - lambda) x0_hat: for epsilon, v, sample and flow."""
    a, s = process
    if (kind == "epsilon" and a < 0.05) or (kind == "v_prediction" and abs(a * a + s * s - 1) > 1e-6):
        return
    b, _, f, h, w = shape
    z_t, x0_hat, reference = (normal(n, seed + i) for i, n in enumerate((shape, shape, one_frame(shape))))
    lam = torch.sigmoid(normal((b, 1, f, h, w) if is_map else (f,), seed + 3))
    prior = prediction_from_sample(reference.expand_as(z_t), z_t, a, s, kind)
    residual = prediction_from_sample(x0_hat, z_t, a, s, kind)
    mixed = sample_from_prediction(fuse_linear(prior, residual, lam), z_t, a, s, kind)
    weight = lam if is_map else lam[:, None, None]
    assert_close(mixed, weight * reference + (1 - weight) * x0_hat, atol=1e-3, rtol=1e-3)


# ------------------------------------------------------------------------------- fact 3: variance-optimal fusion


@pytest.mark.parametrize("alpha_bar", [0.9, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("sigma", [0.1, 0.6, 2.0])
def test_optimal_lambda_leaves_least_variance(alpha_bar, sigma):
    """Grid search over lambda of the empirical variance of eps - lambda prior."""
    eps, displacement = normal((1, 1, 1, 200, 200), 0), sigma * normal((1, 1, 1, 200, 200), 1)
    a, s = vp_coefficients(alpha_bar)
    reference = torch.zeros(1, 1, 1, 200, 200)
    prior = image_noise_prior(a * displacement + s * eps, reference, alpha_bar)
    grid = torch.linspace(0, 1, 201)
    variance = torch.stack([(eps - lam * prior).square().mean() for lam in grid])
    best = optimal_lambda(a, s, torch.tensor([sigma]), eps).item()
    assert grid[variance.argmin()].item() == pytest.approx(best, abs=0.015)
    assert variance.min().item() == pytest.approx(1 - best, rel=0.03)


@given(processes(), st.floats(0.01, 3.0))
def test_optimal_lambda_is_a_logistic_function_of_the_log_snr(process, sigma):
    a, s = process
    if a < 1e-3:
        return
    like = torch.zeros(1, 1, 1, 1, 1)
    lam = optimal_lambda(a, s, torch.tensor([sigma]), like)
    expected = torch.sigmoid(-torch.tensor((a / s) ** 2 * sigma**2).log())
    assert_close(lam.squeeze(), expected.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("process", ["variance preserving", "flow"])
@pytest.mark.parametrize("t", [0.03, 0.3, 0.7, 0.999, 1.0])
def test_residual_target_has_unit_variance_at_every_t_and_frame(process, t):
    a, s = (math.sqrt(1 - t * t), t) if process == "variance preserving" else (1 - t, t)
    sigma = torch.tensor([0.05, 0.3, 1.0, 4.0])
    shape = (1, 1, 4, 100, 100)
    reference = normal((1, 1, 1, 100, 100), 0)
    z_0 = reference + sigma[:, None, None] * normal(shape, 1)
    target = optimal_target(z_0, reference, normal(shape, 2), a, s, sigma)
    assert_close(target.square().mean(dim=(0, 1, 3, 4)), torch.ones(4), atol=0.06, rtol=0)


@st.composite
def sigmas(draw, shape):
    """A sigma of any accepted layout: (f,), (c, f) or a map; some entries are 0."""
    b, c, f, h, w = shape
    layout = draw(st.sampled_from([(f,), (c, f), (b, 1, f, h, w), (1, c, f, 1, 1)]))
    sigma = normal(layout, draw(seeds)).abs() + 0.01
    return sigma * (normal(layout, draw(seeds)) > -0.5)


@given(shapes.flatmap(lambda n: st.tuples(st.just(n), sigmas(n))), st.sampled_from(DTYPES), processes(), seeds)
def test_optimal_estimate_inverts_optimal_target(shape_and_sigma, dtype, process, seed):
    shape, sigma = shape_and_sigma
    a, s = process
    reference, eps = normal(one_frame(shape), seed, dtype), normal(shape, seed + 2)
    moving = (per_frame(sigma, eps) > 0).expand(shape)
    z_0 = torch.where(moving, normal(shape, seed + 1, dtype), reference)
    z_t = a * z_0.float() + s * eps
    delta = optimal_target(z_0, reference, eps, a, s, sigma)
    estimate = optimal_estimate(z_t, reference, delta, a, s, sigma)
    assert estimate.dtype == delta.dtype == torch.float32
    assert_close(estimate, z_0.float(), atol=2e-4, rtol=1e-4)
    assert_close(estimate[~moving], reference.float().expand(shape)[~moving], rtol=0, atol=0)
    assert (delta[~moving] == 0).all()


@pytest.mark.parametrize("a, s", [(0.0, 1.0), (1.0, 0.0), (1.0, 1e-6)], ids=["no signal", "no noise", "least noise"])
def test_optimal_fusion_is_exact_at_both_ends(a, s):
    sigma = torch.tensor([0.0, 0.5, 2.0])
    reference, eps = normal((2, 3, 1, 4, 4), 0), normal((2, 3, 3, 4, 4), 1)
    z_0 = reference + sigma[:, None, None] * normal((2, 3, 3, 4, 4), 2)
    delta = optimal_target(z_0, reference, eps, a, s, sigma)
    assert_close(optimal_estimate(a * z_0 + s * eps, reference, delta, a, s, sigma), z_0, atol=1e-5, rtol=1e-5)


@given(shapes, st.floats(0.05, 0.9998), seeds)
def test_optimal_fusion_read_as_epsilon(shape, s, seed):
    """eps = lambda prior + sqrt(1 - lambda) Delta."""
    a = math.sqrt(1 - s * s)
    z_t, delta, r = normal(shape, seed), normal(shape, seed + 1), normal(one_frame(shape), seed + 2)
    sigma = normal(shape[2:3], seed + 3).abs()
    lam = optimal_lambda(a, s, sigma, z_t)
    expected = lam * epsilon_prior(z_t, r, a, s) + (1 - lam).clamp_min(0).sqrt() * delta
    estimate = optimal_estimate(z_t, r, delta, a, s, sigma)
    assert_close(prediction_from_sample(estimate, z_t, a, s, "epsilon"), expected, atol=1e-3, rtol=1e-3)


@given(shapes, processes(), st.floats(0.05, 3.0), seeds)
def test_optimal_target_is_the_v_prediction_of_the_normalised_displacement(shape, process, sigma, seed):
    """u = (z_0 - r) / sigma noised to the signal-to-noise ratio snr sigma^2."""
    a, s = process
    root = math.hypot(s, a * sigma)
    r, u, eps = normal(one_frame(shape), seed), normal(shape, seed + 1), normal(shape, seed + 2)
    a_u, s_u = a * sigma / root, s / root
    v = prediction_from_sample(u, a_u * u + s_u * eps, a_u, s_u, "v_prediction")
    delta = optimal_target(r + sigma * u, r, eps, a, s, torch.tensor([sigma]))
    if s_u > 0.01:
        assert_close(delta, v, atol=1e-3, rtol=1e-3)
    assert_close(delta, a_u * eps - s_u * u, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("a, s", [(1.0, 0.0), (0.0, 1.0), (0.6, 0.8), (1.0, 1e-8)])
def test_gradients_of_the_optimal_fusion_are_finite_everywhere(a, s):
    sigma = torch.tensor([0.0, 1e-12, 1e-8, 1e-4, 1.0, 1e4], requires_grad=True)
    clips = [normal((1, 2, 6, 2, 2), i).requires_grad_() for i in range(3)]
    optimal_estimate(*clips, a, s, sigma).square().sum().backward()
    for tensor in (sigma, *clips):
        assert tensor.grad is not None and tensor.grad.isfinite().all()
    assert optimal_lambda(a, s, sigma, clips[0]).isfinite().all()


# ------------------------------------------------------------------------------------ fact 4: training-free use


@given(st.floats(0.02, 2.0), st.floats(0.02, 2.0), st.floats(0.0, 1.0))
def test_training_free_lambda_has_least_error(tau, sigma, other):
    """Error variance of lambda r + (1 - lambda) x0_hat with independent errors sigma and tau."""

    def error(lam):
        return lam**2 * sigma**2 + (1 - lam) ** 2 * tau**2

    best = training_free_lambda(torch.tensor(tau), torch.tensor(sigma)).item()
    assert 0 <= best <= 1
    assert error(best) <= error(other) + 1e-6
    assert error(best) == pytest.approx(tau**2 * sigma**2 / (tau**2 + sigma**2), rel=1e-4)


@given(processes(), st.floats(0.01, 3.0))
def test_optimal_lambda_is_training_frees_for_the_noise_of_the_pixel_itself(process, sigma):
    """tau = noise / signal is the error of z_t / signal: what knows more than the pixel must weigh more."""
    a, s = process
    if a < 1e-3:
        return
    lam = optimal_lambda(a, s, torch.tensor([sigma]), torch.zeros(1, 1, 1, 1, 1)).squeeze()
    assert_close(training_free_lambda(torch.tensor(s / a), torch.tensor(sigma)), lam, atol=1e-6, rtol=1e-5)


def test_training_free_lambda_on_random_data():
    z_0, tau, sigma = normal((100_000,), 0), 0.4, 0.7
    reference, estimate = z_0 + sigma * normal((100_000,), 1), z_0 + tau * normal((100_000,), 2)
    grid = torch.linspace(0, 1, 101)
    error = torch.stack([(lam * reference + (1 - lam) * estimate - z_0).square().mean() for lam in grid])
    best = training_free_lambda(torch.tensor(tau), torch.tensor(sigma)).item()
    assert grid[error.argmin()].item() == pytest.approx(best, abs=0.015)


# ------------------------------------------------------------------------------- fact 6 and per-frame tables


@given(shapes, st.sampled_from(DTYPES), st.floats(0.0, 2.0), seeds)
def test_motion_strength_scales_the_displacement(shape, dtype, g, seed):
    sample, r = normal(shape, seed, dtype), normal(one_frame(shape), seed + 1, dtype)
    scaled = scale_motion(sample, r, g)
    assert scaled.dtype == torch.float32
    assert_close(scaled - r.float(), g * (sample.float() - r.float()), atol=1e-5, rtol=1e-5)
    assert_close(scale_motion(sample, r, 1.0), sample.float(), rtol=0, atol=0)
    assert_close(scale_motion(sample, r, 0.0), r.float().expand(shape), rtol=0, atol=0)


def test_tables_broadcast_to_the_clip():
    clip = torch.zeros(2, 3, 4, 5, 6)
    assert per_frame(torch.rand(4), clip).shape == (1, 1, 4, 1, 1)
    assert per_frame(torch.rand(3, 4), clip).shape == (1, 3, 4, 1, 1)
    assert per_frame(torch.rand(2, 1, 4, 5, 6), clip).shape == (2, 1, 4, 5, 6)
    assert per_frame([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], clip).flatten().tolist() == pytest.approx([0, 0.1, 0.2, 0.3])
    assert per_frame(torch.tensor([0.5]), clip).shape == (1, 1, 1, 1, 1)
    assert per_frame(torch.rand(4, dtype=torch.float64), clip).dtype == torch.float32


def test_table_shorter_than_the_clip_is_an_error():
    with pytest.raises(ValueError, match="4 frames exceed the 3 of the per-frame table; shorten"):
        per_frame(torch.rand(3), torch.zeros(1, 1, 4, 1, 1))
