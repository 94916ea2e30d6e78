"""Inflation: configuration names, shapes, and refusals."""

import pytest
import torch
from torch import nn

from trip.layers.inflation import fit, inflate_weights, inflated_config

SD21 = {
    "sample_size": 96,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "num_attention_heads": None,
    "time_cond_proj_dim": None,
    "resnet_time_scale_shift": "default",
    "use_linear_projection": True,
}


def test_heads_become_widths():
    assert inflated_config(SD21)["attention_head_dim"] == (64, 64, 64, 64)
    assert inflated_config(SD21 | {"attention_head_dim": 8})["attention_head_dim"] == (40, 80, 160, 160)


def test_block_types_are_renamed():
    config = inflated_config(SD21)
    assert config["down_block_types"] == ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",)
    assert config["up_block_types"] == ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"addition_embed_type": "text_time"}, "addition_embed_type='text_time' has no 3-D counterpart"),
        ({"transformer_layers_per_block": (1, 2, 10, 10)}, "transformer_layers_per_block"),
        ({"down_block_types": ("AttnDownBlock2D",) * 4}, "AttnDownBlock2D"),
    ],
)
def test_what_cannot_be_inflated_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        inflated_config(SD21 | setting)


def test_foreign_weights_are_refused():
    with pytest.raises(ValueError, match=r"1 weights have no place in the 3D-UNet, e\.g\. class_embedding"):
        inflate_weights(nn.Linear(2, 2), {"class_embedding": torch.zeros(2)})


def test_a_1x1_convolution_is_its_matrix():
    conv, linear = nn.Conv2d(3, 5, 1), nn.Linear(3, 5)
    linear.load_state_dict({"weight": fit(conv.weight, linear.weight), "bias": conv.bias})
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(linear(x.movedim(1, -1)).movedim(-1, 1), conv(x))


def test_new_input_channels_are_ignored_at_first():
    old, new = torch.randn(5, 3, 3, 3), torch.randn(5, 7, 3, 3)
    padded = fit(old, new)
    assert torch.equal(padded[:, :3], old) and not padded[:, 3:].any()
