"""From an image network to a video network: configuration and weights of a `UNet2DConditionModel`, inflated.

The 3D-UNet keeps the 2-D layers under their own names and adds temporal ones, so inflation is a renamed
configuration and a state dict with three differences of form, none of arithmetic:

* `attention_head_dim` holds the *number* of heads in the 2-D config (Stable Diffusion's historical misnomer) and
  the width of a head in the 3-D one: (5, 10, 20, 20) heads of SD 2.1 become 64 channels a head.
* SD 1.5 projects into its transformers by 1x1 convolutions, the 3D-UNet by linear layers: the same matrix.
* Input channels that the 2-D network lacks (channel concatenation) get zero weights.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from trip.layers.attention import TemporalTransformer
from trip.layers.temporal import TemporalConv

BLOCK_TYPES = {
    "CrossAttnDownBlock2D": "CrossAttnDownBlock3D",
    "DownBlock2D": "DownBlock3D",
    "CrossAttnUpBlock2D": "CrossAttnUpBlock3D",
    "UpBlock2D": "UpBlock3D",
}
SAME = [
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "time_cond_proj_dim",
    "resnet_time_scale_shift",
]
FREE = ["use_linear_projection", "upcast_attention", "attention_head_dim", "num_attention_heads"]
FREE += ["down_block_types", "up_block_types", *SAME]


def inflated_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of the 3D-UNet that holds the 2-D network `config` describes.

    Raises:
        ValueError: a 2-D setting the 3D-UNet has no counterpart for.
    """
    for name, parameter in signature(UNet2DConditionModel.__init__).parameters.items():
        value = parameter.default
        if name not in ("self", *FREE) and config.get(name, value) != value:
            raise ValueError(f"{name}={config[name]!r} has no 3-D counterpart; inflate a UNet with {name}={value!r}")
    unknown = {*config["down_block_types"], *config["up_block_types"]} - BLOCK_TYPES.keys()
    if unknown:
        raise ValueError(f"block types {sorted(unknown)} have no 3-D counterpart; known are {sorted(BLOCK_TYPES)}")
    widths = config["block_out_channels"]
    heads = config["num_attention_heads"] or config["attention_head_dim"]
    heads = [heads] * len(widths) if isinstance(heads, int) else heads
    return {
        **{name: config[name] for name in SAME},
        "down_block_types": tuple(BLOCK_TYPES[name] for name in config["down_block_types"]),
        "up_block_types": tuple(BLOCK_TYPES[name] for name in config["up_block_types"]),
        "attention_head_dim": tuple(width // count for width, count in zip(widths, heads, strict=True)),
    }


def inflate_weights(unet: nn.Module, image_state: Mapping[str, Tensor]) -> None:
    """Fill `unet` with 2-D weights and make its temporal layers the identity: each frame sees the 2-D network.

    Raises:
        ValueError: a 2-D weight that `unet` has no place for.
    """
    state = unet.state_dict()
    unknown = image_state.keys() - state.keys()
    if unknown:
        raise ValueError(f"{len(unknown)} weights have no place in the 3D-UNet, e.g. {min(unknown)}")
    for name, weight in image_state.items():
        state[name].copy_(fit(weight, state[name]))
    for module in unet.modules():
        if isinstance(module, TemporalConv | TemporalTransformer):
            module.zero_residual()


def fit(weight: Tensor, target: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix it is; missing input channels as zeros; anything else unchanged."""
    if weight.ndim == 4 and target.ndim == 2:
        return weight.flatten(1)
    if weight.ndim == 4 and weight.shape[1] < target.shape[1]:
        padded = target.new_zeros(target.shape)
        padded[:, : weight.shape[1]] = weight
        return padded
    return weight
