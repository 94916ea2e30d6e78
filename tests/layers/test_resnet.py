"""Residual block, halving and doubling, against diffusers' blocks on the same weights."""

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from torch.testing import assert_close

from trip.layers.resnet import Downsample, ResnetBlock, Upsample


@pytest.mark.parametrize("time_scale_shift", ["default", "scale_shift"])
@pytest.mark.parametrize("out_channels", [16, 24])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_equals_the_block_of_diffusers(time_scale_shift, out_channels, activation):
    theirs = ResnetBlock2D(
        in_channels=16,
        out_channels=out_channels,
        temb_channels=12,
        groups=4,
        eps=1e-4,
        non_linearity=activation,
        time_embedding_norm=time_scale_shift,
        output_scale_factor=2.0,
    )
    ours = ResnetBlock(
        16,
        out_channels,
        emb_channels=12,
        groups=4,
        eps=1e-4,
        activation=activation,
        time_scale_shift=time_scale_shift,
        output_scale=2.0,
    )
    ours.load_state_dict(theirs.state_dict())
    x, emb = torch.randn(3, 16, 5, 4), torch.randn(3, 12)
    assert_close(ours(x, ours.nonlinearity(emb)), theirs(x, emb), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_downsampling_equals_diffusers(padding, size):
    theirs = Downsample2D(8, use_conv=True, padding=padding, name="op")
    ours = Downsample(8, padding)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, *size)
    assert_close(ours(x), theirs(x))


def test_upsampling_hits_the_size_of_the_skip_connection():
    layer = Upsample(8)
    assert layer(torch.randn(2, 8, 3, 4), (5, 8)).shape == (2, 8, 5, 8)
