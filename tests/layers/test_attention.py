"""Attention: kernels really switch, text keys are computed once a clip, layouts do not change the result."""

import pytest
import torch
from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    attention_backend,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.testing import assert_close

from trip.layers import attention
from trip.layers.attention import Attention, FeedForward, SpatialTransformer, TemporalTransformer


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Names of the attention kernels called."""
    seen = []
    for name, kernel in list(_AttentionBackendRegistry._backends.items()):

        def spy(*args, _name=name, _kernel=kernel, **kwargs):
            seen.append(_name)
            return _kernel(*args, **kwargs)

        monkeypatch.setitem(_AttentionBackendRegistry._backends, name, spy)
    return seen


def softmax_attention(attn: Attention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    q, k, v = (p.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for p in attn.project(x, context))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    return attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("context_dim", [None, 12])
def test_attention_is_softmax_attention(context_dim):
    attn = Attention(16, heads=4, head_dim=8, context_dim=context_dim)
    x = torch.randn(3, 5, 16)
    context = x if context_dim is None else torch.randn(3, 7, context_dim)
    assert_close(attn(x, None if context_dim is None else context), softmax_attention(attn, x, context))


@pytest.mark.parametrize("context_dim", [None, 12])
def test_fused_projections_change_nothing(context_dim):
    attn = Attention(16, heads=4, head_dim=8, context_dim=context_dim)
    x, context = torch.randn(3, 5, 16), None if context_dim is None else torch.randn(3, 7, context_dim)
    expected = attn(x, context)
    attn.fuse_projections()
    assert_close(attn(x, context), expected)


def test_the_chosen_backend_is_called(calls):
    attn = Attention(16, heads=4, head_dim=8)
    x = torch.randn(1, 5, 16)
    expected = attn(x)
    attn.set_attention_backend("_native_math")
    assert_close(attn(x), expected)
    assert calls == [AttentionBackendName.NATIVE, AttentionBackendName._NATIVE_MATH]


def test_the_backend_context_is_followed(calls):
    attn = Attention(16, heads=4, head_dim=8)
    with attention_backend("_native_math"):
        attn(torch.randn(1, 5, 16))
    assert calls == [AttentionBackendName._NATIVE_MATH]


def test_processors_of_diffusers_fit():
    attn = Attention(16, heads=4, head_dim=8, context_dim=12)
    x, context = torch.randn(3, 5, 16), torch.randn(3, 7, 12)
    expected = attn(x, context)
    attn.set_processor(AttnProcessor2_0())
    assert_close(attn(x, context), expected)


def test_text_keys_are_computed_once_a_clip():
    layer = SpatialTransformer(16, heads=2, head_dim=8, groups=4, context_dim=12)
    shapes = []
    layer.transformer_blocks[0].attn2.to_k.register_forward_hook(lambda m, args, out: shapes.append(out.shape))
    layer(torch.randn(2 * 5, 16, 3, 4), torch.randn(2, 7, 12))
    assert shapes == [(2, 7, 16)]


@pytest.mark.parametrize("kind", [SpatialTransformer, TemporalTransformer])
def test_memory_layout_does_not_matter(kind):
    layer = kind(16, heads=2, head_dim=8, groups=4, context_dim=12 if kind is SpatialTransformer else None)
    other = torch.randn(2, 7, 12) if kind is SpatialTransformer else 5
    x = torch.randn(2 * 5, 16, 3, 4)
    y = layer(x.contiguous(memory_format=torch.channels_last), other)
    assert_close(y, layer(x, other), atol=1e-5, rtol=1e-5)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_spatial_attention_keeps_frames_apart_and_temporal_attention_positions():
    x = torch.randn(5, 16, 3, 4)
    moved = x.clone()
    moved[2, :, 1, 1] += torch.randn(16)
    spatial = SpatialTransformer(16, heads=2, head_dim=8, groups=4, context_dim=12)
    text = torch.randn(1, 7, 12)
    changed = (spatial(moved, text) - spatial(x, text)).abs().amax(dim=(1, 2, 3)) > 0
    assert changed.tolist() == [False, False, True, False, False]
    temporal = TemporalTransformer(16, heads=2, head_dim=8, groups=4)
    temporal.norm = torch.nn.Identity()  # its statistics span the clip
    changed = (temporal(moved, 5) - temporal(x, 5)).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.sum() == 1 and changed[1, 1]


def test_zero_residual_makes_a_transformer_the_identity():
    layer = TemporalTransformer(16, heads=2, head_dim=8, groups=4)
    x = torch.randn(10, 16, 3, 4)
    assert not torch.equal(layer(x, 5), x)
    layer.zero_residual()
    assert torch.equal(layer(x, 5), x)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_training_on_a_cpu_attends_in_float32(autocast, monkeypatch):
    seen = []
    kernel = _AttentionBackendRegistry._backends[AttentionBackendName.NATIVE]

    def spy(query, *args, **kwargs):
        seen.append(query.dtype)
        return kernel(query, *args, **kwargs)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName.NATIVE, spy)
    attn = Attention(16, heads=4, head_dim=8)
    x = torch.randn(1, 5, 16)
    expected = attn(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = attn(x) if autocast else attn.bfloat16()(x.bfloat16())
        with torch.no_grad():
            attn(x.to(y.dtype))
    assert y.dtype == torch.bfloat16
    assert seen[1:] == [torch.float32, torch.bfloat16]
    assert_close(y.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("rows", [1, 4, 1000])
def test_the_perceptron_in_parts_is_the_perceptron(rows, monkeypatch):
    monkeypatch.setattr(attention, "ROWS_A_THREAD", rows)
    layer, x = FeedForward(8), torch.randn(3, 5, 8)
    with torch.no_grad():
        assert_close(layer(x), layer.inner(x))
    assert_close(layer(x), layer.inner(x))


@pytest.mark.parametrize("clips", [1, 2])
def test_a_single_clip_keeps_its_layout_too(clips):
    layer = TemporalTransformer(16, heads=2, head_dim=8, groups=4)
    x = torch.randn(clips * 5, 16, 3, 4).contiguous(memory_format=torch.channels_last)
    normed = []
    layer.norm.register_forward_hook(lambda module, args, result: normed.append(result))
    assert layer(x, 5).is_contiguous(memory_format=torch.channels_last)
    assert normed[0].stride() == (5 * 12 * 16, 1, 12 * 16, 16)
