"""Fusions: Eq. 9, the variance-optimal rule, Eq. 11 and training-free use, and what their configs keep."""

import math

import pytest
import torch
from torch.testing import assert_close

from trip.condition import Condition
from trip.noise_fusion import (
    LinearNoiseFusion,
    NoiseFusion,
    OptimalNoiseFusion,
    TemporalNoiseFusion,
    TrainingFreeNoiseFusion,
)
from trip.noise_prior import (
    optimal_lambda,
    optimal_target,
    prediction_from_sample,
    sample_from_prediction,
    training_free_lambda,
)

SIGMA = [0.0, 0.2, 0.5, 0.9]
SIZES = [(2, 4, 4, 4), (3, 4, 5, 7), (4, 2, 1, 3), (1, 3, 6, 5)]  # c f h w; odd sides are padded to patches
A, S = 0.6, 0.8


def clips(size, seed=0, dtype=torch.float32):
    """(z_t, reference, residual, timestep) of two clips."""
    rng = torch.Generator().manual_seed(seed)
    c, f, h, w = size
    shapes = ((2, c, f, h, w), (2, c, 1, h, w), (2, c, f, h, w))
    z_t, reference, residual = (torch.randn(n, generator=rng).to(dtype) for n in shapes)
    return z_t, reference, residual, torch.tensor([10, 900])


def tnf(channels=2, perturb=0.0, **config):
    torch.manual_seed(0)
    fusion = TemporalNoiseFusion(**{"latent_channels": channels, "dim": 16, "depth": 2, "sigma": SIGMA, **config})
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter += perturb * torch.randn_like(parameter)
    return fusion


def set_gate(fusion, value):
    with torch.no_grad():
        fusion.to_gate.bias.fill_(value)


# ----------------------------------------------------------------------------------------- Eq. 9 and optimal


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_linear_fusion_is_eq9_of_prior_and_residual(kind):
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    fusion = LinearNoiseFusion(num_frames=4, first=0.9, last=0.3, prediction_type=kind)
    prior = prediction_from_sample(reference.expand_as(z_t), z_t, A, S, kind)
    lam = torch.tensor([0.9, 0.7, 0.5, 0.3])[:, None, None]
    mixed = lam * prior + (1 - lam) * residual
    estimate = fusion(z_t, Condition(reference=reference), residual, A, S, t)
    assert_close(estimate, sample_from_prediction(mixed, z_t, A, S, kind), atol=1e-5, rtol=1e-5)


def optimal(**config):
    return OptimalNoiseFusion(sigma=SIGMA, **config)


def linear(**config):
    return LinearNoiseFusion(num_frames=4, **config)


@pytest.mark.parametrize("make", [optimal, tnf])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_optimal_target_is_what_the_backbone_must_output(make, kind):
    """Frame 1 (sigma = 0) is the reference, so it is exact too."""
    z_0, _, eps, t = clips((2, 4, 3, 5))
    reference, fusion = z_0[:, :, :1], make(prediction_type=kind)
    target = optimal_target(z_0, reference, eps, A, S, torch.tensor(SIGMA))
    assert_close(fusion(A * z_0 + S * eps, Condition(reference=reference), target, A, S, t), z_0, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [linear, optimal, tnf, lambda **c: TrainingFreeNoiseFusion(sigma=SIGMA, **c)])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_without_shortcut_the_output_is_the_prediction(make, kind):
    """TRIP-: the reference has no influence."""
    z_0, reference, eps, t = clips((2, 4, 4, 4))
    fusion = make(prediction_type=kind, shortcut=False)
    target = prediction_from_sample(z_0, A * z_0 + S * eps, A, S, kind)
    for r in (reference, reference + 1):
        assert_close(fusion(A * z_0 + S * eps, Condition(reference=r), target, A, S, t), z_0, atol=1e-5, rtol=1e-5)


def test_optimal_fusion_gives_the_reference_where_sigma_is_zero():
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    estimate = optimal()(z_t, Condition(reference=reference), residual, A, S, t)
    assert torch.equal(estimate[:, :, :1], reference)


def test_sigma_per_channel_and_frame():
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    table = [SIGMA, [2 * x for x in SIGMA]]
    both = OptimalNoiseFusion(sigma=table)(z_t, Condition(reference=reference), residual, A, S, t)
    for channel, row in enumerate(table):
        alone = OptimalNoiseFusion(sigma=row)(z_t, Condition(reference=reference), residual, A, S, t)
        assert_close(both[:, channel], alone[:, channel], rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ training-free


def test_training_free_fusion_mixes_reference_and_estimate():
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    fusion = TrainingFreeNoiseFusion(
        sigma=SIGMA, tau=(0.1, 0.8), tau_timesteps=(0, 1000), prediction_type="v_prediction"
    )
    x0_hat = sample_from_prediction(residual, z_t, A, S, "v_prediction")
    lam = training_free_lambda(torch.tensor([0.107, 0.73])[:, None], torch.tensor(SIGMA))[:, None, :, None, None]
    expected = lam * reference + (1 - lam) * x0_hat
    assert_close(fusion(z_t, Condition(reference=reference), residual, A, S, t), expected, atol=1e-5, rtol=1e-5)


def test_tau_is_interpolated_and_constant_beyond_its_table():
    fusion = TrainingFreeNoiseFusion(tau=(0.1, 0.2, 0.8), tau_timesteps=(10, 100, 900))
    t = torch.tensor([-5.0, 10, 55, 100, 500, 900, 2000])
    assert_close(fusion.tau_at(t), torch.tensor([0.1, 0.1, 0.15, 0.2, 0.5, 0.8, 0.8]))
    assert fusion.tau_at(torch.tensor(55)).item() == pytest.approx(0.15)


# -------------------------------------------------------------------------------- temporal noise fusion, Eq. 11


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tnf_at_initialisation_is_the_optimal_fusion(size, dtype):
    z_t, reference, residual, t = clips(size, dtype=dtype)
    fusion = tnf(size[0]).to(dtype)
    expected = optimal()(z_t, Condition(reference=reference), residual, A, S, t)
    estimate = fusion(z_t, Condition(reference=reference), residual, A, S, t)
    assert estimate.dtype == torch.float32
    assert_close(estimate, expected, rtol=0, atol=0)


def test_tnf_under_autocast_keeps_the_estimate_in_float32():
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        estimate = tnf()(z_t, Condition(reference=reference), residual, A, S, t)
    assert_close(estimate, optimal()(z_t, Condition(reference=reference), residual, A, S, t), rtol=0, atol=0)


@pytest.mark.parametrize("gate", [-3.0, -0.5, 1.0, 4.0])
def test_gate_moves_lambda_in_log_odds(gate):
    """logit(lambda) = logit(lambda*) - gate; without Delta the estimate is r + (1 - lambda) / a (z_t - a r)."""
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    fusion = tnf()
    set_gate(fusion, gate)
    estimate = fusion(z_t, Condition(reference=reference), torch.zeros_like(residual), A, S, t)
    weight = (1 - A * (estimate - reference) / (z_t - A * reference))[:, :, 1:]
    start = optimal_lambda(A, S, torch.tensor(SIGMA), z_t)[:, :, 1:].expand_as(weight)
    assert_close(weight.logit(), start.logit() - gate, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("gate", [0.0, 5.0, 100.0, -100.0], ids=["start", "open", "saturated", "saturated shut"])
@pytest.mark.parametrize("a, s", [(0.6, 0.8), (0.0, 1.0), (1.0, 0.0), (0.99957, 0.0292)])
def test_tnf_gradients_are_finite_everywhere(gate, a, s):
    fusion = tnf(perturb=0.05)
    set_gate(fusion, gate)
    z_t, reference, residual, t = clips((2, 4, 3, 5))
    residual.requires_grad_()
    fusion(z_t, Condition(reference=reference), residual, a, s, t).square().sum().backward()
    for tensor in (residual, *fusion.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()


@pytest.mark.parametrize("base", ["optimal", "none"])
def test_tnf_uses_every_parameter(base):
    fusion = tnf(perturb=0.05, base=base)
    z_t, reference, residual, t = clips((2, 4, 3, 5))
    fusion(z_t, Condition(reference=reference), residual, A, S, t).square().sum().backward()
    unused = [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_tnf_from_scratch_predicts_by_itself(size, kind):
    z_t, reference, residual, t = clips(size)
    fusion = tnf(size[0], base="none", prediction_type=kind)
    estimate = fusion(z_t, Condition(reference=reference), residual, A, S, t)
    assert estimate.shape == z_t.shape and estimate.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
def test_patches_round_trip_at_any_size(size):
    fusion, clip = tnf(size[0]), clips(size)[0]
    assert torch.equal(fusion.unpatchify(fusion.patchify(clip), clip), clip)


def test_tnf_reads_the_prior_the_residual_and_the_timestep():
    """Eq. 11: phi(Delta, prior, t). Each of the three alone changes the correction."""
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    fusion = tnf(perturb=0.1)
    base = fusion.features(z_t, Condition(reference=reference), residual, A, S, t)
    for changed in (
        (z_t, Condition(reference=reference + 1), residual, A, S, t),
        (z_t, Condition(reference=reference), residual + 1, A, S, t),
    ):
        assert not torch.allclose(fusion.features(*changed), base)
    assert not torch.allclose(fusion.features(z_t, Condition(reference=reference), residual, A, S, t + 50), base)


def test_prior_tokens_have_unit_variance():
    """The scaling of `features`: Var(prior) = 1 / lambda*."""
    sigma, shape = torch.tensor([0.0, 0.3, 3.0]), (1, 1, 3, 100, 100)
    rng = torch.Generator().manual_seed(0)
    u, eps, r = (torch.randn(shape, generator=rng) for _ in range(3))
    z_t = A * (r + sigma[:, None, None] * u) + S * eps
    prior = prediction_from_sample(r, z_t, A, S, "epsilon") * optimal_lambda(A, S, sigma, z_t).sqrt()
    assert_close(prior.square().mean(dim=(0, 1, 3, 4)), torch.ones(3), atol=0.05, rtol=0)


def test_tnf_learns_something_the_optimal_fusion_cannot():
    """A Delta of half its size is doubled by the correction: the loss falls below its start."""
    z_0, _, eps, t = clips((2, 4, 4, 4))
    reference, fusion = z_0[:, :, :1], tnf()
    residual = 0.5 * optimal_target(z_0, reference, eps, A, S, torch.tensor(SIGMA))
    optimizer = torch.optim.Adam(fusion.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = (fusion(A * z_0 + S * eps, Condition(reference=reference), residual, A, S, t) - z_0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# --------------------------------------------------------------------------------------- configs, files, errors

FUSIONS = {
    "linear": lambda: LinearNoiseFusion(num_frames=4, first=0.8, last=0.2, concat="channel"),
    "optimal": lambda: OptimalNoiseFusion(sigma=SIGMA, prediction_type="v_prediction"),
    "optimal per channel": lambda: OptimalNoiseFusion(sigma=[SIGMA, SIGMA]),
    "training-free": lambda: TrainingFreeNoiseFusion(sigma=SIGMA, tau=(0.1, 0.7), tau_timesteps=(0, 999)),
    "tnf": lambda: tnf(perturb=0.1),
    "tnf from scratch": lambda: tnf(perturb=0.1, base="none"),
}


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_fusion_loads_to_the_same_output(name, dtype, tmp_path):
    """The tables do not lose precision in bfloat16: they live in the config."""
    fusion = FUSIONS[name]().to(dtype)
    fusion.save_pretrained(tmp_path)
    loaded = type(fusion).from_pretrained(tmp_path, torch_dtype=dtype)
    assert isinstance(loaded, NoiseFusion) and loaded.dtype == dtype and loaded.num_frames == 4
    for key in ("sigma", "tau"):
        if key in fusion.config:
            assert torch.equal(loaded.table(key), fusion.table(key))
            assert loaded.table(key).dtype == torch.float32
    z_t, reference, residual, t = clips((2, 4, 4, 4), dtype=dtype)
    with torch.no_grad():
        outputs = [f(z_t, Condition(reference=reference), residual, A, S, t) for f in (fusion, loaded)]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_weights_of_fusions_may_rest_in_float8(name, dtype):
    fusion = FUSIONS[name]().to(dtype)
    z_t, reference, residual, t = clips((2, 4, 4, 4), dtype=dtype)
    expected = fusion(z_t, Condition(reference=reference), residual, A, S, t)
    fusion.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    found = fusion(z_t, Condition(reference=reference), residual, A, S, t)
    assert found.dtype == torch.float32
    assert (found - expected).square().mean() < 0.05 * expected.square().mean()


@pytest.mark.parametrize("name", FUSIONS)
def test_fusions_stay_on_the_device_of_the_clip(name):
    """The meta device refuses to mix with the CPU as a GPU does."""
    z_t, reference, residual, t = (x.to("meta") for x in clips((2, 4, 4, 4)))
    for a, s in ((A, S), (torch.tensor(A), torch.tensor(S)), (torch.tensor([A, A]), torch.tensor([S, S]))):
        assert FUSIONS[name]().to("meta")(z_t, Condition(reference=reference), residual, a, s, t).device.type == "meta"


def test_table_follows_a_changed_config():
    fusion = optimal()
    fusion.table("sigma")
    fusion.register_to_config(sigma=[0.0, 1.0])
    assert fusion.table("sigma").tolist() == [0.0, 1.0] and fusion.num_frames == 2


def test_clip_longer_than_the_table_is_an_error():
    z_t, reference, residual, t = clips((2, 5, 4, 4))
    for fusion in (optimal(), linear(), tnf()):
        with pytest.raises(ValueError, match="5 frames exceed the 4"):
            fusion(z_t, Condition(reference=reference), residual, A, S, t)


def test_shorter_clips_use_the_head_of_the_table():
    z_t, reference, residual, t = clips((2, 4, 4, 4))
    for fusion in (optimal(), linear()):
        whole = fusion(z_t, Condition(reference=reference), residual, A, S, t)
        part = fusion(z_t[:, :, :3], Condition(reference=reference), residual[:, :, :3], A, S, t)
        assert_close(part, whole[:, :, :3], rtol=0, atol=0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: optimal(concat="depth"), "concat='depth' is unknown; choose one of"),
        (lambda: linear(prediction_type="eps"), "prediction_type='eps' is unknown; choose one of"),
        (lambda: tnf(base="linear"), "base='linear' is unknown; choose"),
        (lambda: tnf(dim=18), r"dim \(=18\) must be even and a multiple of num_heads \(=4\)"),
        (lambda: OptimalNoiseFusion(sigma=[0.0, -1.0]), r"sigma \(=\[0.0, -1.0\]\) must hold finite values >= 0"),
        (lambda: OptimalNoiseFusion(sigma=[0.0, math.nan]), "sigma .* must hold finite values"),
        (lambda: TrainingFreeNoiseFusion(tau=(0.1,), tau_timesteps=(0,)), "tau has 1 values"),
        (lambda: TrainingFreeNoiseFusion(tau=(0.1, 0.2), tau_timesteps=(5, 5)), "two or more, increasing"),
        (lambda: TrainingFreeNoiseFusion(tau=(0.1, 0.2), tau_timesteps=(0, 5, 9)), "tau has 2 values"),
    ],
)
def test_settings_that_cannot_work_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
