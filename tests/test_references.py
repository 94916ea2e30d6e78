"""One formula, every control: statements multiply, and the paper is the product of one."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from trip.condition import Condition, Statement, first_frame
from trip.denoiser import TripDenoiser
from trip.noise_fusion import OptimalNoiseFusion, TrainingFreeNoiseFusion
from trip.references import (
    chained,
    frames_mask,
    from_still,
    keyframes,
    masked,
    observed,
    product,
    spread_at,
    warped,
)

C, F, H, W = 3, 9, 2, 4
BROWNIAN = torch.arange(20).float().sqrt()
"""sigma(d)^2 = d."""


def latent(seed, f=1):
    return torch.randn(2, C, f, H, W, generator=torch.Generator().manual_seed(seed))


spreads = st.lists(st.sampled_from([0.1, 0.5, 1.0, 3.0, float("inf")]), min_size=2, max_size=4)


@given(spreads=spreads, seed=st.integers(0, 99))
def test_precisions_add_and_the_mean_is_weighted_by_them(spreads, seed):
    """Against a sum in float64; an infinite spread says nothing."""
    said = [Statement(mean=latent(seed + k), spread=torch.full((1, 1, 1, 1, 1), s)) for k, s in enumerate(spreads)]
    both = product(said)
    precision = [s**-2 for s in spreads]
    if sum(precision) == 0:
        assert both.spread.isinf().all() and both.mean.isfinite().all()
        return
    mean = sum(p * latent(seed + k).double() for k, p in enumerate(precision)) / sum(precision)
    assert_close(both.mean.double(), mean, atol=1e-5, rtol=1e-5)
    assert_close(both.spread, torch.full_like(both.spread, sum(precision) ** -0.5), atol=1e-5, rtol=1e-5)


def test_the_order_of_statements_does_not_matter_and_they_can_be_joined_in_parts():
    said = [Statement(mean=latent(k, F), spread=torch.rand(1, 1, F, H, W) + 0.1) for k in range(3)]
    whole = product(said)
    for order in itertools.permutations(said):
        assert_close(product(order).mean, whole.mean)
    assert_close(product([product(said[:2]), said[2]]).spread, whole.spread)


def test_a_certain_statement_overrules_the_others():
    certain = Statement(mean=latent(0), spread=torch.zeros(1, 1, 1, 1, 1))
    both = product([Statement(mean=latent(1), spread=torch.ones(1, 1, 1, 1, 1)), certain])
    assert torch.equal(both.mean, latent(0)) and not both.spread.any()


def test_one_still_is_the_paper_to_the_bit():
    z = latent(0)
    for condition in (keyframes({0: z}, F, BROWNIAN), keyframes({0: z}, F, BROWNIAN, still_only=True)):
        assert condition.reference is z and condition.image is z
        assert condition.spread is None and condition.added is None
        assert torch.equal(condition.pinned, first_frame(F))


@pytest.mark.parametrize("last", [1, 4, 8])
def test_two_keys_are_the_brownian_bridge(last):
    """Where the variance grows linearly: mean linear in time, variance d1 d2 / (d1 + d2)."""
    a, b = latent(0), latent(1)
    condition = keyframes({0: a, last: b}, F, BROWNIAN)
    i = torch.arange(last + 1).float()
    along = (i / last)[None, None, :, None, None]
    assert_close(condition.reference[:, :, : last + 1], torch.lerp(a, b, along), atol=1e-6, rtol=1e-6)
    variance = condition.spread[0, 0, : last + 1, 0, 0] ** 2
    assert_close(variance, i * (last - i) / last, atol=1e-6, rtol=1e-6)
    assert condition.pinned.flatten().nonzero().flatten().tolist() == [0, last]
    after = torch.arange(last, F)  # beyond the last key, its word alone
    assert torch.equal(condition.reference[:, :, last:], b.expand(-1, -1, F - last, -1, -1))
    assert_close(condition.spread[0, 0, last:, 0, 0] ** 2, (after - last).float(), atol=1e-6, rtol=0)


@given(numbers=st.sets(st.integers(1, F - 1), min_size=1))
def test_keys_are_exact_and_each_stretch_depends_on_its_own_two(numbers):
    keys = {number: latent(number) for number in (0, *numbers)}
    condition = keyframes(keys, F, BROWNIAN)
    for number, key in keys.items():
        assert torch.equal(condition.reference[:, :, number : number + 1], key)
    places = sorted(keys)
    for left, right in itertools.pairwise(places):
        alone = keyframes({0: keys[left], right - left: keys[right]}, right - left + 1, BROWNIAN)
        assert_close(condition.reference[:, :, left : right + 1], alone.reference, atol=1e-6, rtol=1e-6)


def test_a_loop_has_the_first_frame_after_the_last():
    """The reference of frame N - 1 lies as near to frame 0 as that of frame 1; no frame is doubled."""
    z, key = latent(0), latent(1)
    condition = keyframes({0: z, 4: key}, 8, BROWNIAN, loop=True)
    assert_close(condition.reference[:, :, 1], condition.reference[:, :, 7], atol=1e-6, rtol=1e-6)
    assert_close(condition.spread[:, :, 1], condition.spread[:, :, 7], atol=1e-6, rtol=1e-6)
    assert (condition.spread[:, :, 7] > 0).all() and condition.pinned.flatten()[7] == 0
    alone = keyframes({0: z}, 8, BROWNIAN, loop=True)
    i = torch.arange(8).float()
    assert_close(alone.spread[0, 0, :, 0, 0] ** 2, i * (8 - i) / 8, atol=1e-6, rtol=1e-6)


def test_observed_frames_are_pinned_and_later_ones_refer_to_the_last():
    frames = latent(0, f=4)
    condition = observed(frames, F, BROWNIAN)
    assert torch.equal(condition.reference[:, :, :4], frames)
    assert torch.equal(condition.reference[:, :, 4:], frames[:, :, 3:].expand(-1, -1, F - 4, -1, -1))
    assert condition.pinned.flatten().tolist() == [1.0] * 4 + [0.0] * (F - 4)
    assert_close(condition.spread[0, 0, :, 0, 0] ** 2, torch.tensor([0, 0, 0, 0, 1, 2, 3, 4, 5.0]), atol=1e-6, rtol=0)


def test_a_chunk_goes_on_from_the_last_and_is_held_by_the_still():
    last, image = latent(0, f=2), latent(1)
    condition = chained(last, image, F, BROWNIAN)
    assert torch.equal(condition.reference[:, :, :2], last) and torch.equal(condition.image, image)
    far, near = 19.0, torch.arange(F - 2).float() + 1
    weight = (near / (near + far))[None, None, :, None, None]  # of the still
    assert_close(condition.reference[:, :, 2:], torch.lerp(last[:, :, 1:], image, weight), atol=1e-5, rtol=1e-5)
    assert (condition.spread[0, 0, 2:, 0, 0] < near.sqrt()).all()


def test_a_mask_of_zero_is_the_reference_and_of_one_changes_nothing():
    fusion, condition = OptimalNoiseFusion(sigma=BROWNIAN[:F].tolist()), keyframes({0: latent(0)}, F, BROWNIAN)
    mask = torch.ones(1, 1, 1, H, W)
    mask[..., :2] = 0
    region = masked(condition, mask, F, BROWNIAN[:F])
    z_t, residual, t = latent(1, F), latent(2, F), torch.tensor(500)
    plain, part = (fusion(z_t, c, residual, 0.6, 0.8, t) for c in (condition, region))
    assert_close(part[..., 2:], plain[..., 2:])
    assert_close(part[..., :2], latent(0).expand_as(part)[..., :2])
    assert torch.equal(region.pin(z_t)[..., :2], latent(0).expand_as(z_t)[..., :2])
    assert torch.equal(region.pin(z_t)[:, :, 1:, :, 2:], z_t[:, :, 1:, :, 2:])


def test_a_warp_is_reference_and_spread_per_pixel():
    reference, spread = latent(0, F), torch.rand(2, 1, F, H, W)
    condition = warped(reference, spread, latent(0)[:, :, :1])
    assert condition.reference is reference and condition.spread is spread
    assert torch.equal(condition.pinned, frames_mask([0], F))


def test_distances_beyond_the_table_have_its_last_value():
    assert spread_at(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 2, 7])).flatten().tolist() == [0, 2, 2]
    per_channel = spread_at(torch.rand(C, 5), torch.arange(9))
    assert per_channel.shape == (1, C, 9, 1, 1)
    assert from_still(latent(0), F, BROWNIAN, at=3).spread.flatten()[3] == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({4: 1}, "there is no picture for frame 0; give the clip its first picture"),
        ({0: 1, 9: 1}, "keyframe 9 lies outside the clip's frames 0 to 8; move it inside"),
        ({0: 1, -1: 1}, "keyframe -1 lies outside"),
    ],
)
def test_keys_that_no_clip_has_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        keyframes({number: latent(number + 2) for number in keys}, F, BROWNIAN)
    with pytest.raises(ValueError, match="nothing to condition on"):
        product([])


# ------------------------------------------------------------------- a network that was trained with the still alone


class Blind(torch.nn.Module):
    def forward(self, latents, timestep, text):
        return torch.zeros_like(latents)


def test_what_the_network_was_not_told_is_weighed_against_its_error():
    """x = (tau^2 r + sigma^2 x_net) / (tau^2 + sigma^2), with the error that prior and noisy latents leave open."""
    table = BROWNIAN[:F]
    denoiser = TripDenoiser(Blind(), OptimalNoiseFusion(sigma=table.tolist(), concat="none"))
    first, last, z_t, a, s = latent(0), latent(1), latent(2, F), 0.6, 0.8
    t = torch.tensor([500, 500])
    plain = denoiser(z_t, t, keyframes({0: first}, F, BROWNIAN), a, s).sample
    both = denoiser(z_t, t, keyframes({0: first, 8: last}, F, BROWNIAN, still_only=True), a, s).sample
    tau = (table**2 * s**2 / (s**2 + a**2 * table**2))[None, None, :, None, None]
    sigma = (8 - torch.arange(F).float())[None, None, :, None, None]  # squares
    expected = (tau * last + sigma * plain) / (tau + sigma)
    assert_close(both, expected, atol=1e-5, rtol=1e-5)


def test_pinned_keys_are_exact_for_such_a_network_too():
    keys = {0: latent(0), 5: latent(1)}
    condition = keyframes(keys, F, BROWNIAN, still_only=True)
    pinned = condition.pin(latent(3, F))
    for number, key in keys.items():
        assert torch.equal(pinned[:, :, number : number + 1], key)
    assert torch.equal(pinned[:, :, 1:5], latent(3, F)[:, :, 1:5])
    assert condition.repeat(2).added.mean.shape[0] == 4


def test_the_stills_own_word_is_not_counted_twice():
    """Beside the still, keys 0 and 8 say what key 8 alone says."""
    z = latent(1)
    condition = keyframes({0: latent(0), 8: z}, F, BROWNIAN, still_only=True)
    assert torch.equal(condition.reference, latent(0)) and condition.spread is None
    assert_close(condition.added.mean[:, :, 1:], z.expand(-1, -1, F - 1, -1, -1))
    assert_close(condition.added.spread[0, 0, :, 0, 0] ** 2, 8.0 - torch.arange(F), atol=1e-5, rtol=0)


def test_a_network_that_knows_no_image_takes_the_whole_product():
    fusion = TrainingFreeNoiseFusion(sigma=BROWNIAN[:F].tolist())
    condition = keyframes({0: latent(0), 8: latent(1)}, F, BROWNIAN)
    x = fusion(latent(2, F), condition, latent(3, F), 0.6, 0.8, torch.tensor(999))
    assert torch.equal(x[:, :, :1], latent(0)) and torch.equal(x[:, :, 8:], latent(1))


def test_conditions_of_guidance_branches_stack(rng):
    condition = keyframes(
        {0: latent(0), 8: latent(1)}, F, BROWNIAN, text=latent(4)[:, :, 0, 0], null_text=latent(5)[:, :, 0, 0]
    )
    both = Condition.stack([condition, condition.without_text()])
    assert both.reference.shape[0] == 4 and both.spread.shape[0] == 1
    assert torch.equal(both.text[2:], condition.null_text)
