"""TripDenoiser: how the image enters the backbone, and that any backbone with the documented call works."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from trip.condition import Condition
from trip.denoiser import TripDenoiser
from trip.noise_fusion import LinearNoiseFusion, OptimalNoiseFusion, TemporalNoiseFusion
from trip.noise_prior import optimal_estimate

B, C, F, H, W = 2, 4, 3, 4, 4
SIGMA = [0.0, 0.4, 0.8]
A, S = 0.6, 0.8


class Recorder(nn.Module):
    """A backbone that keeps its arguments and returns a marked tensor for every frame it saw."""

    def __init__(self, wrap=lambda x: x, dtype=torch.float32, out_channels=C):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.wrap, self.out_channels = wrap, out_channels

    def forward(self, latents, timestep, encoder_hidden_states):
        self.seen = latents, timestep, encoder_hidden_states
        frames = torch.arange(latents.shape[2], dtype=latents.dtype)[:, None, None]
        b, _, f, h, w = latents.shape
        return self.wrap(self.weight * frames.expand(b, self.out_channels, f, h, w))


def inputs(seed=0):
    rng = torch.Generator().manual_seed(seed)
    draw = [torch.randn(n, generator=rng) for n in ((B, C, F, H, W), (B, 5, 8), (B, C, 1, H, W), (B, C, 1, H, W))]
    z_t, text, image, reference = draw
    return z_t, torch.tensor([7, 700]), Condition(reference=reference, image=image, text=text), A, S


def fusion(concat="time", **config):
    return OptimalNoiseFusion(sigma=SIGMA, concat=concat, **config)


def test_time_puts_the_clean_image_in_front_and_drops_its_output():
    """The paper: N + 1 frames in, the last N out."""
    backbone = Recorder()
    z_t, t, condition, *_ = call = inputs()
    image, text = condition.image, condition.text
    output = TripDenoiser(backbone, fusion("time"))(*call)
    latents, timestep, states = backbone.seen
    assert latents.shape == (B, C, F + 1, H, W)
    assert torch.equal(latents[:, :, :1], image) and torch.equal(latents[:, :, 1:], z_t)
    assert torch.equal(timestep, t) and torch.equal(states, text)
    assert output.residual[0, 0, :, 0, 0].tolist() == [1, 2, 3]


def test_channel_repeats_the_image_over_the_frames():
    """TRIP_C."""
    backbone = Recorder()
    z_t, _, condition, *_ = call = inputs()
    image = condition.image
    output = TripDenoiser(backbone, fusion("channel"))(*call)
    latents = backbone.seen[0]
    assert latents.shape == (B, 2 * C, F, H, W)
    assert torch.equal(latents[:, :C], z_t) and torch.equal(latents[:, C:], image.expand(B, C, F, H, W))
    assert output.residual[0, 0, :, 0, 0].tolist() == [0, 1, 2]


def test_none_keeps_the_backbone_blind():
    backbone = Recorder()
    call = inputs()
    TripDenoiser(backbone, fusion("none"))(*call)
    assert torch.equal(backbone.seen[0], call[0])


@pytest.mark.parametrize("concat", ["time", "channel", "none"])
def test_the_estimate_is_the_fusion_of_prior_and_residual(concat):
    z_t, _, condition, *_ = call = inputs()
    reference = condition.reference
    output = TripDenoiser(Recorder(), fusion(concat))(*call)
    expected = optimal_estimate(z_t, reference, output.residual, A, S, torch.tensor(SIGMA))
    assert_close(output.sample, expected, rtol=0, atol=0)
    assert output.sample.dtype == torch.float32


def test_without_shortcut_the_reference_is_not_used():
    """TRIP-."""
    denoiser = TripDenoiser(Recorder(), fusion(shortcut=False, prediction_type="v_prediction"))
    z_t, t, condition, a, s = inputs()
    output = denoiser(z_t, t, condition, a, s)
    assert_close(output.sample, a * z_t - s * output.residual)
    other = replace(condition, reference=condition.reference + 1)
    assert torch.equal(denoiser(z_t, t, other, a, s).sample, output.sample)


def test_image_latents_and_reference_are_separate():
    """Image guidance drops the image from the backbone's input and keeps the prior."""
    backbone = Recorder()
    z_t, t, condition, a, s = inputs()
    output = TripDenoiser(backbone, fusion("time"))(z_t, t, condition.without_image(), a, s)
    assert not backbone.seen[0][:, :, 0].any()
    assert torch.equal(output.sample[:, :, :1], condition.reference)


def test_one_reference_per_frame():
    z_t, t, condition, a, s = inputs()
    reference = torch.randn(z_t.shape, generator=torch.Generator().manual_seed(9))
    output = TripDenoiser(Recorder(), fusion())(z_t, t, replace(condition, reference=reference), a, s)
    expected = optimal_estimate(z_t, reference, output.residual, a, s, torch.tensor(SIGMA))
    assert_close(output.sample, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x,), lambda x: SimpleNamespace(sample=x)], ids=["tensor", "tuple", "output"]
)
def test_backbone_outputs_of_any_packing(wrap):
    call = inputs()
    plain = TripDenoiser(Recorder(), fusion())(*call)
    assert torch.equal(TripDenoiser(Recorder(wrap), fusion())(*call).sample, plain.sample)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_backbone_computes_in_its_own_dtype_and_the_estimate_in_float32(dtype):
    backbone = Recorder(dtype=dtype)
    output = TripDenoiser(backbone, fusion())(*inputs())
    assert backbone.seen[0].dtype == backbone.seen[2].dtype == dtype
    assert output.residual.dtype == dtype and output.sample.dtype == torch.float32


@pytest.mark.parametrize("timestep", [500, 500.0, torch.tensor(500), torch.tensor([500, 500])])
def test_one_timestep_for_all_clips_or_one_each(timestep):
    backbone = Recorder()
    z_t, _, *rest = inputs()
    TripDenoiser(backbone, fusion())(z_t, timestep, *rest)
    assert backbone.seen[1].tolist() == [500, 500]


def test_coefficients_per_clip_equal_clip_by_clip():
    z_t, t, condition, *_ = inputs()
    a, s = torch.tensor([0.6, 0.28]), torch.tensor([0.8, 0.96])
    denoiser = TripDenoiser(Recorder(), fusion())
    both = denoiser(z_t, t, condition, a, s).sample
    for i in range(B):
        parts = (condition.reference, condition.image, condition.text)
        reference, image, text = (x[i : i + 1] for x in parts)
        one = Condition(reference=reference, image=image, text=text)
        assert_close(denoiser(z_t[i : i + 1], t[i : i + 1], one, a[i], s[i]).sample, both[i : i + 1], rtol=0, atol=0)


def test_extra_output_channels_are_ignored_and_missing_ones_are_an_error():
    """Networks that also predict a variance return 2 c channels."""
    call = inputs()
    wide = TripDenoiser(Recorder(out_channels=2 * C), fusion())(*call)
    assert torch.equal(wide.sample, TripDenoiser(Recorder(), fusion())(*call).sample)
    with pytest.raises(ValueError, match=r"the backbone turned \(2, 4, 4, 4, 4\) into \(2, 1, 4, 4, 4\)"):
        TripDenoiser(Recorder(out_channels=1), fusion())(*call)


def test_frame_limit_is_the_fusions():
    assert TripDenoiser(Recorder(), fusion()).num_frames == 3
    assert TripDenoiser(Recorder(), LinearNoiseFusion(num_frames=7)).num_frames == 7


@pytest.mark.parametrize("concat", ["time", "channel", "none"])
def test_a_foreign_video_transformer_is_a_backbone(concat):
    """Wan's transformer takes (latents, timestep, text) as it is; trained together with the fusion."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    backbone = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=2 * C if concat == "channel" else C,
        out_channels=C,
        text_dim=8,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=16,
    )
    tnf = TemporalNoiseFusion(latent_channels=C, dim=16, depth=1, sigma=SIGMA, concat=concat)
    output = TripDenoiser(backbone, tnf)(*inputs())
    assert output.sample.shape == output.residual.shape == (B, C, F, H, W)
    output.sample.square().mean().backward()
    assert output.sample.isfinite().all()
    assert backbone.patch_embedding.weight.grad.any()


def test_a_backbone_of_another_call_needs_one_lambda():
    """LTX-Video: tokens in, tokens out, keyword arguments."""
    from diffusers import LTXVideoTransformer3DModel
    from einops import rearrange

    torch.manual_seed(0)
    network = LTXVideoTransformer3DModel(
        in_channels=C,
        out_channels=C,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=8,
    )

    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, latents, timestep, text):
            f, h, w = latents.shape[2:]
            tokens = self.network(
                hidden_states=rearrange(latents, "b c f h w -> b (f h w) c"),
                encoder_hidden_states=text,
                timestep=timestep,
                encoder_attention_mask=torch.ones(text.shape[:2]),
                num_frames=f,
                height=h,
                width=w,
            ).sample
            return rearrange(tokens, "b (f h w) c -> b c f h w", f=f, h=h, w=w)

    output = TripDenoiser(Adapter(), fusion("time"))(*inputs())
    assert output.sample.shape == (B, C, F, H, W) and output.sample.isfinite().all()
