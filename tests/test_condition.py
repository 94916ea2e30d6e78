"""Condition: one value for everything that a clip is conditioned on."""

import pytest
import torch
from torch.testing import assert_close

from trip.condition import Condition, first_frame, still
from trip.noise_fusion import LinearNoiseFusion, OptimalNoiseFusion, TemporalNoiseFusion, TrainingFreeNoiseFusion
from trip.noise_prior import optimal_lambda

B, C, F, H, W = 2, 4, 3, 4, 4
SIGMA = [0.0, 0.4, 0.8]
A, S = 0.6, 0.8


@pytest.fixture
def condition(rng):
    image = torch.randn(B, C, 1, H, W, generator=rng)
    text, null = torch.randn(2, B, 5, 8, generator=rng)
    return still(image, pinned=first_frame(F), text=text, null_text=null)


def test_repeating_goes_clip_by_clip_and_tables_and_shared_masks_stay(condition):
    both = condition.repeat(2)
    for name in ("reference", "image", "text", "null_text"):
        value = getattr(condition, name)
        assert torch.equal(getattr(both, name), torch.cat([value, value]))
    assert both.pinned.shape == (1, 1, F, 1, 1) and both.spread is None
    table = Condition(reference=condition.reference, spread=torch.tensor(SIGMA)).repeat(2)
    assert table.spread.tolist() == torch.tensor(SIGMA).tolist()
    spread = torch.rand(B, 1, F, H, W)
    assert Condition(reference=condition.reference, spread=spread).repeat(3).spread.shape == (3 * B, 1, F, H, W)


@pytest.mark.parametrize("batch", [1, 2])
def test_branches_of_any_batch_have_all_their_tensors(batch, rng):
    """Guidance stacks conditions that differ in their text alone; a spread per channel is shared by all clips."""
    image = torch.randn(batch, C, 1, H, W, generator=rng)
    text, null = torch.randn(2, batch, 5, 8, generator=rng)
    spread = torch.rand(1, C, F, 1, 1)
    condition = still(image, spread=spread, pinned=first_frame(F), text=text, null_text=null)
    both = Condition.stack([condition, condition.without_text()])
    assert len(both.reference) == len(both.image) == len(both.text) == 2 * batch
    assert both.spread is spread and len(both.pinned) == 1


def test_dropping_text_and_image_keeps_the_prior(condition):
    assert torch.equal(condition.without_text().text, condition.null_text)
    assert not condition.without_image().image.any()
    assert torch.equal(condition.without_image().reference, condition.reference)
    with pytest.raises(ValueError, match=r"null_text \(=None\)"):
        Condition(reference=condition.reference).without_text()


def test_moving_casts_every_tensor(condition):
    half = condition.to(torch.float16)
    assert {t.dtype for t in (half.reference, half.image, half.text, half.null_text, half.pinned)} == {torch.float16}


def test_the_paper_pins_its_first_frame_only(condition, rng):
    clip = torch.randn(B, C, F, H, W, generator=rng)
    pinned = condition.pin(clip)
    assert torch.equal(pinned[:, :, :1], condition.reference) and torch.equal(pinned[:, :, 1:], clip[:, :, 1:])
    assert torch.equal(Condition(reference=condition.reference).pin(clip), clip)


FUSIONS = {
    "optimal": lambda: OptimalNoiseFusion(sigma=SIGMA),
    "tnf": lambda: TemporalNoiseFusion(latent_channels=C, dim=16, depth=1, sigma=SIGMA),
    "training-free": lambda: TrainingFreeNoiseFusion(sigma=SIGMA),
}


@pytest.mark.parametrize("name", FUSIONS)
def test_a_spread_takes_the_place_of_the_measured_table(name, rng):
    """The table as a spread changes nothing, to the bit; spread 0 is the reference; a map acts where it is."""
    torch.manual_seed(0)
    fusion, t = FUSIONS[name](), torch.tensor([300, 700])
    z_t, residual = torch.randn(2, B, C, F, H, W, generator=rng)
    reference = torch.randn(B, C, F, H, W, generator=rng)
    plain = fusion(z_t, Condition(reference=reference), residual, A, S, t)
    table = fusion(z_t, Condition(reference=reference, spread=torch.tensor(SIGMA)), residual, A, S, t)
    assert torch.equal(table, plain)
    spread = torch.full((B, 1, F, H, W), 0.5)
    spread[..., :2] = 0
    mapped = fusion(z_t, Condition(reference=reference, spread=spread), residual, A, S, t)
    assert_close(mapped[..., :2], reference[..., :2], atol=1e-6, rtol=0)
    assert not torch.isclose(mapped[..., 2:], reference[..., 2:]).all()


def test_a_table_too_short_for_the_clip_may_be_replaced_by_a_spread(rng):
    fusion = OptimalNoiseFusion(sigma=SIGMA)
    clip = torch.randn(1, C, 6, H, W, generator=rng)
    condition = Condition(reference=clip[:, :, :1], spread=torch.linspace(0, 1, 6))
    assert fusion(clip, condition, clip, A, S, torch.tensor(1)).shape == clip.shape


@pytest.mark.parametrize("name", [*FUSIONS, "linear"])
def test_one_timestep_a_frame_is_each_frames_own(name, rng):
    """Frames that share a t have the estimate of a clip at that t, and the coefficients are per frame too."""
    torch.manual_seed(0)
    fusion = LinearNoiseFusion(num_frames=F) if name == "linear" else FUSIONS[name]()
    z_t, residual, reference = torch.randn(3, B, C, F, H, W, generator=rng)
    condition = Condition(reference=reference)
    t, a, s = torch.tensor([100.0, 500.0, 900.0]), torch.tensor([0.96, 0.8, 0.6]), torch.tensor([0.28, 0.6, 0.8])
    rows = [x.expand(B, F) for x in (a, s, t)]
    both = fusion(z_t, condition, residual, *rows)
    for i in range(F):
        alone = fusion(z_t, condition, residual, a[i], s[i], t[i].expand(B))
        assert_close(both[:, :, i], alone[:, :, i], atol=1e-5, rtol=1e-5)  # TNF starts as the closed form


def test_lambda_takes_coefficients_per_frame():
    like = torch.zeros(B, C, F, H, W)
    a, s = torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([[0.8, 0.6, 1.0]])
    lam = optimal_lambda(a, s, torch.tensor([1.0, 1.0, 1.0]), like)
    assert_close(lam.flatten(), torch.tensor([0.64, 0.36, 1.0]))
