"""Temporal convolution: a Conv3d over frames only, in a faster form, that starts as the identity."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from trip.layers.temporal import FrameConv, TemporalConv


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("shape", [(2, 8, 5, 3, 4), (1, 8, 1, 1, 1)])
def test_frame_conv_is_a_conv3d(shape, memory_format):
    conv = FrameConv(8, 8, (3, 1, 1), padding=(1, 0, 0))
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    assert_close(conv(x), F.conv3d(x, conv.weight, conv.bias, padding=(1, 0, 0)), atol=1e-5, rtol=1e-5)


def test_a_fresh_layer_is_the_identity():
    x = torch.randn(2 * 5, 8, 3, 4)
    assert torch.equal(TemporalConv(8, groups=4)(x, num_frames=5), x)


def test_layout_is_kept():
    x = torch.randn(2 * 5, 8, 3, 4).contiguous(memory_format=torch.channels_last)
    y = TemporalConv(8, groups=4)(x, num_frames=5)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_four_convolutions_reach_four_frames():
    layer = TemporalConv(8, groups=4).eval()
    torch.nn.init.normal_(layer.conv4[-1].weight)
    for stage in (layer.conv1, layer.conv2, layer.conv3, layer.conv4):
        stage[0] = torch.nn.Identity()  # its statistics span the clip
    x = torch.randn(12, 8, 1, 1)
    moved = x.clone()
    moved[0] += 1
    changed = (layer(moved, 12) - layer(x, 12)).abs().amax(dim=(1, 2, 3)) > 1e-7
    assert changed.tolist() == [True] * 5 + [False] * 7


def test_dropout_only_while_training():
    layer = TemporalConv(8, groups=4, dropout=0.5)
    torch.nn.init.normal_(layer.conv4[-1].weight)
    x = torch.randn(5, 8, 3, 4)
    assert not torch.equal(layer(x, 5), layer(x, 5))
    layer.eval()
    assert torch.equal(layer(x, 5), layer(x, 5))


@pytest.mark.parametrize("clips", [1, 2])
def test_a_single_clip_keeps_its_layout_too(clips):
    """torch hides the layout of a flattened batch of one, and answers it with slow, contiguous convolutions."""
    frames = torch.randn(clips, 5, 3, 4, 8)
    x = frames.permute(0, 4, 1, 2, 3)
    assert FrameConv(8, 8, (3, 1, 1), padding=(1, 0, 0))(x).stride() == x.stride()
