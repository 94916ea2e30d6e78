"""The residual path's 3D-UNet: a Stable Diffusion UNet whose every layer is followed by one over time.

Parameter names, configuration names and numerics are those of `diffusers.UNet3DConditionModel`: a ModelScopeT2V
checkpoint in diffusers layout loads key for key. One layer of a block is

    ResnetBlock (space) -> TemporalConv (time) -> SpatialTransformer (space, text) -> TemporalTransformer (time)

where the two transformers are present in the `CrossAttn...` blocks and in the middle. A fresh network: temporal
convolutions are the identity (zero-initialised last convolution), temporal transformers are not, as upstream;
`ResidualUNet3D.from_image_unet` makes both the identity. The added embeddings always start at zero.

Activations are `(b f) c h w` in channels-last memory throughout (see `trip.layers.attention`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.peft import _SET_ADAPTER_SCALE_FN_MAPPING
from diffusers.models.activations import get_activation
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import apply_freeu
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from trip.layers.attention import AttentionProcessor, SpatialTransformer, TemporalTransformer
from trip.layers.basic import GroupNorm, zero_init
from trip.layers.inflation import inflate_weights, inflated_config
from trip.layers.resnet import Downsample, ResnetBlock, Upsample
from trip.layers.temporal import TemporalConv
from trip.loading import StrictModel, saved_part

DOWN_BLOCKS = {"DownBlock3D": False, "CrossAttnDownBlock3D": True}
UP_BLOCKS = {"UpBlock3D": False, "CrossAttnUpBlock3D": True}


@dataclass
class ResidualUNet3DOutput(BaseOutput):
    """`sample`: b c f h w, in the meaning the fusion gives it (`NoiseFusion.config.prediction_type`)."""

    sample: Tensor


@dataclass(frozen=True, kw_only=True)
class Widths:
    """What every block of one network shares."""

    emb: int
    text: int
    groups: int
    eps: float
    activation: str
    time_scale_shift: str
    dropout: float


class Block(nn.Module):
    """A run of layers at one resolution.

    Args:
        widths: (channels in, channels out) of each layer's residual block.
        attended: how many layers, from the first, have transformers.
        head_dim: channels of an attention head.
        shared: the network's common widths.
        output_scale: divisor of each residual block's sum.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Tensor]

    def __init__(
        self,
        widths: list[tuple[int, int]],
        attended: int,
        head_dim: int,
        shared: Widths,
        output_scale: float | int = 1,
    ):
        super().__init__()
        outs = [channels for _, channels in widths]
        self.resnets = nn.ModuleList(
            ResnetBlock(
                *pair,
                emb_channels=shared.emb,
                groups=shared.groups,
                eps=shared.eps,
                activation=shared.activation,
                time_scale_shift=shared.time_scale_shift,
                output_scale=output_scale,
            )
            for pair in widths
        )
        self.temp_convs = nn.ModuleList(TemporalConv(c, shared.groups, shared.dropout) for c in outs)
        if attended:
            shape = [(c, c // head_dim, head_dim, shared.groups) for c in outs[:attended]]
            self.attentions = nn.ModuleList(SpatialTransformer(*s, context_dim=shared.text) for s in shape)
            self.temp_attentions = nn.ModuleList(TemporalTransformer(*s) for s in shape)
        self.attended = attended

    def layer(self, x: Tensor, index: int, emb: Tensor, text: Tensor, num_frames: int) -> Tensor:
        """Space, time, space and text, time. x: (b f) c h w; emb: (b f) d; text: b n d."""
        x = self.resnets[index](x, emb)
        x = self.temp_convs[index](x, num_frames)
        if index < self.attended:
            x = self.attentions[index](x, text)
            x = self.temp_attentions[index](x, num_frames)
        return x

    def run(self, x: Tensor, index: int, emb: Tensor, text: Tensor, num_frames: int) -> Tensor:
        """`layer`, recomputed in the backward pass where gradient checkpointing is on."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(self.layer, x, index, emb, text, num_frames)
        return self.layer(x, index, emb, text, num_frames)


class DownBlock(Block):
    """Layers, then half the resolution; every output is kept for the way up."""

    def __init__(self, widths, attended, head_dim, shared: Widths, downsample_padding: int | None):
        super().__init__(widths, attended, head_dim, shared)
        sampler = [] if downsample_padding is None else [Downsample(widths[-1][1], downsample_padding)]
        self.downsamplers = nn.ModuleList(sampler)

    def forward(self, x: Tensor, emb: Tensor, text: Tensor, num_frames: int) -> tuple[Tensor, list[Tensor]]:
        """(b f) c h w -> the result and all skip connections."""
        skips = []
        for index in range(len(self.resnets)):
            x = self.run(x, index, emb, text, num_frames)
            skips.append(x)
        for downsample in self.downsamplers:
            x = downsample(x)
            skips.append(x)
        return x, skips


class MidBlock(Block):
    """Two layers at the lowest resolution, transformers in between."""

    def forward(self, x: Tensor, emb: Tensor, text: Tensor, num_frames: int) -> Tensor:
        """(b f) c h w -> (b f) c h w."""
        for index in range(len(self.resnets)):
            x = self.run(x, index, emb, text, num_frames)
        return x


class UpBlock(Block):
    """Layers that each take one skip connection, then the resolution of the next ones."""

    freeu: dict[str, Any] | None = None
    """Arguments of `apply_freeu`: which of the blocks this is, and its scales."""

    def __init__(self, widths, attended, head_dim, shared: Widths, upsample: bool):
        super().__init__(widths, attended, head_dim, shared)
        self.upsamplers = nn.ModuleList([Upsample(widths[-1][1])] if upsample else [])

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        size: tuple[int, int],
        emb: Tensor,
        text: Tensor,
        num_frames: int,
    ) -> Tensor:
        """x, skips: (b f) c h w, the last skip is used first; size: (h, w) after upsampling."""
        for index, skip in enumerate(reversed(skips)):
            if self.freeu is not None:
                x, skip = apply_freeu(hidden_states=x, res_hidden_states=skip, **self.freeu)
            x = self.run(torch.cat([x, skip], dim=1), index, emb, text, num_frames)
        for upsample in self.upsamplers:
            x = upsample(x, size)
        return x


class FrameEmbedding(nn.Module):
    """Index of a frame in its clip -> addition to its time embedding; zero until trained."""

    def __init__(self, dim: int, emb_dim: int, activation: str):
        super().__init__()
        self.dim = dim
        self.mlp = zero_mlp(dim, emb_dim, activation)

    def forward(self, num_frames: int, like: Tensor) -> Tensor:
        """-> f d, in the dtype and on the device of `like`."""
        return self.mlp(sinusoid(torch.arange(num_frames, device=like.device), self.dim).to(like.dtype))


class PooledTextEmbedding(nn.Module):
    """Mean of the text's tokens -> addition to the time embedding; zero until trained. Zero tokens are padding."""

    def __init__(self, text_dim: int, emb_dim: int, activation: str):
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.mlp = zero_mlp(text_dim, emb_dim, activation)

    def forward(self, text: Tensor) -> Tensor:
        """b n d -> b e."""
        count = (text != 0).any(dim=-1).sum(dim=1, keepdim=True)
        return self.mlp(self.norm(text.sum(dim=1) / count.clamp(min=1)))


def zero_mlp(dim: int, out_dim: int, activation: str) -> nn.Sequential:
    """Two linear layers, the last of them zero."""
    mlp = nn.Sequential(nn.Linear(dim, out_dim), get_activation(activation), nn.Linear(out_dim, out_dim))
    zero_init(mlp[-1])
    return mlp


def sinusoid(position: Tensor, dim: int) -> Tensor:
    """[cos(w_k p), sin(w_k p)] with frequencies from 1 down to 1/10000: (n,) -> n dim, float32."""
    return get_timestep_embedding(position, dim, flip_sin_to_cos=True, downscale_freq_shift=0)


@saved_part
class ResidualUNet3D(StrictModel, ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """3D-UNet that predicts every frame's residual noise from noisy latents, time and text (TRIP Fig. 2).

    The first arguments are those of `diffusers.UNet3DConditionModel`, with its defaults (1.41 B parameters):

    Args:
        sample_size: height and width of the latents it was trained on; recorded, not enforced.
        in_channels, out_channels: of the latents; more in than out for concatenation along channels.
        down_block_types: "CrossAttnDownBlock3D" or "DownBlock3D" (no transformers), first resolution first.
        up_block_types: "CrossAttnUpBlock3D" or "UpBlock3D", last resolution first.
        block_out_channels: channels at each resolution.
        layers_per_block: layers of a down block; an up block has one more.
        downsample_padding, mid_block_scale_factor, act_fn, norm_num_groups, norm_eps: see `trip.layers.resnet`.
        cross_attention_dim: features of a text token.
        attention_head_dim: channels of a head, one number or one a resolution.
        num_attention_heads: must be None, as upstream.
        time_cond_proj_dim: features of `timestep_cond` (guidance-distilled networks).

    Beyond `UNet3DConditionModel`, off by default:

        resnet_time_scale_shift: "scale_shift" lets the time scale the features, not only shift them.
        frame_embedding: add an embedding of the frame's index to its time embedding.
        pooled_text_embedding: add the text's mean token to the time embedding.
        transformer_in_heads: heads of the temporal transformer behind the first convolution (upstream: 8).
        temporal_dropout: dropout inside the temporal convolutions while training (upstream: 0.1).
        max_num_frames: longest clip `forward` accepts; None for no limit.

    Raises:
        ValueError: settings that contradict each other.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["ResnetBlock", "TemporalConv", "SpatialTransformer", "TemporalTransformer"]
    _repeated_blocks = ["ResnetBlock", "TemporalConv", "SpatialTransformer", "TemporalTransformer"]
    _skip_layerwise_casting_patterns = ["norm", "time_embedding"]

    @register_to_config
    def __init__(
        self,
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        down_block_types: Sequence[str] = ("CrossAttnDownBlock3D",) * 3 + ("DownBlock3D",),
        up_block_types: Sequence[str] = ("UpBlock3D",) + ("CrossAttnUpBlock3D",) * 3,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        downsample_padding: int = 1,
        mid_block_scale_factor: float | int = 1,
        act_fn: str = "silu",
        norm_num_groups: int = 32,
        norm_eps: float = 1e-5,
        cross_attention_dim: int = 1024,
        attention_head_dim: int | Sequence[int] = 64,
        num_attention_heads: int | None = None,
        time_cond_proj_dim: int | None = None,
        resnet_time_scale_shift: str = "default",
        frame_embedding: bool = False,
        pooled_text_embedding: bool = False,
        transformer_in_heads: int = 8,
        temporal_dropout: float = 0.1,
        max_num_frames: int | None = None,
    ):
        super().__init__()
        channels, levels = block_out_channels, len(block_out_channels)
        head_dims = (attention_head_dim,) * levels if isinstance(attention_head_dim, int) else attention_head_dim
        check_config(self.config, head_dims)
        shared = Widths(
            emb=4 * channels[0],
            text=cross_attention_dim,
            groups=norm_num_groups,
            eps=norm_eps,
            activation=act_fn,
            time_scale_shift=resnet_time_scale_shift,
            dropout=temporal_dropout,
        )

        self.time_embedding = TimestepEmbedding(channels[0], shared.emb, act_fn, cond_proj_dim=time_cond_proj_dim)
        self.frame_embed = FrameEmbedding(channels[0], shared.emb, act_fn) if frame_embedding else None
        self.text_embed = (
            PooledTextEmbedding(cross_attention_dim, shared.emb, act_fn) if pooled_text_embedding else None
        )
        self.emb_act = get_activation(act_fn)

        self.conv_in = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.transformer_in = TemporalTransformer(channels[0], transformer_in_heads, head_dims[0], norm_num_groups)
        self.down_blocks = nn.ModuleList()
        for level, kind in enumerate(down_block_types):
            widths = down_widths(channels, level, layers_per_block)
            attended = len(widths) if DOWN_BLOCKS[kind] else 0
            padding = downsample_padding if level < levels - 1 else None
            self.down_blocks.append(DownBlock(widths, attended, head_dims[level], shared, padding))
        middle = [(channels[-1], channels[-1])] * 2
        self.mid_block = MidBlock(middle, 1, head_dims[-1], shared, mid_block_scale_factor)
        self.up_blocks = nn.ModuleList()
        for level, kind in zip(reversed(range(levels)), up_block_types, strict=True):
            widths = up_widths(channels, level, layers_per_block)
            attended = len(widths) if UP_BLOCKS[kind] else 0
            self.up_blocks.append(UpBlock(widths, attended, head_dims[level], shared, upsample=level > 0))
        self.conv_norm_out = GroupNorm(norm_num_groups, channels[0], eps=norm_eps)
        self.conv_out = nn.Conv2d(channels[0], out_channels, 3, padding=1)

    @classmethod
    def from_image_unet(cls, image_unet: UNet2DConditionModel, **config: Any) -> "ResidualUNet3D":
        """Inflate a Stable Diffusion UNet (1.x or 2.x): at first, every frame sees exactly the image network.

        The 2-D layers keep their weights; the temporal convolutions and transformers start as the identity and the
        added embeddings at zero. See `trip.layers.inflation` for what changes form.

        Args:
            image_unet: `diffusers.UNet2DConditionModel`.
            config: settings that override the inflated ones, for example `frame_embedding=True`, or more
                `in_channels` than the image network has (the new ones are ignored until trained).

        Raises:
            ValueError: a 2-D setting the 3D-UNet has no counterpart for.
        """
        unet = cls(**inflated_config(image_unet.config) | config)
        nn.Module.to(unet, image_unet.device, image_unet.dtype)
        inflate_weights(unet, image_unet.state_dict())
        return unet

    def enable_freeu(self, s1: float, s2: float, b1: float, b2: float) -> None:
        """FreeU (arXiv 2309.11497): scale skip connections by s and half of the other features by b, in two blocks."""
        for index, block in enumerate(self.up_blocks):
            assert isinstance(block, UpBlock)
            block.freeu = {"resolution_idx": index, "s1": s1, "s2": s2, "b1": b1, "b2": b2}

    def disable_freeu(self) -> None:
        """Undo `enable_freeu`."""
        for block in self.up_blocks:
            assert isinstance(block, UpBlock)
            block.freeu = None

    def set_default_attn_processor(self) -> None:
        """Undo `set_attn_processor`."""
        self.set_attn_processor(AttentionProcessor())  # pyright: ignore[reportArgumentType]

    def compile_repeated_blocks(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` every layer, with room for one variant a shape: a UNet's layers differ in width and size.

        Args:
            args, kwargs: of `torch.compile`, for example `fullgraph=True`.
        """
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
        super().compile_repeated_blocks(*args, **kwargs)

    def forward(
        self,
        sample: Float[Tensor, "b c f h w"],
        timestep: Shaped[Tensor, "*b_f"] | float | int,
        encoder_hidden_states: Float[Tensor, "b n d"],
        timestep_cond: Float[Tensor, "b e"] | None = None,
        return_dict: bool = True,
    ) -> ResidualUNet3DOutput | tuple[Tensor]:
        """Predict the residual of every frame.

        Args:
            sample: noisy latents, any height and width; in_channels channels.
            timestep: 0 ... 999, one number, one a clip (b,), or one a frame (b, f).
            encoder_hidden_states: text features, one sequence a clip.
            timestep_cond: features added to the time embedding where `time_cond_proj_dim` is set.
            return_dict: False returns the tuple `(sample,)`.

        Raises:
            ValueError: shapes that do not fit the configuration, or more frames than `max_num_frames`.
        """
        self.check_inputs(sample, timestep, encoder_hidden_states)
        num_frames = sample.shape[2]
        text = encoder_hidden_states
        emb = self.embed(sample, timestep, text, timestep_cond)

        x = rearrange(sample, "b c f h w -> (b f) h w c").contiguous().permute(0, 3, 1, 2)
        x = self.conv_in(x)
        x = self.transformer_in(x, num_frames)
        skips = [x]
        for block in self.down_blocks:
            x, outputs = block(x, emb, text, num_frames)
            skips += outputs
        x = self.mid_block(x, emb, text, num_frames)
        count = self.config["layers_per_block"] + 1
        for block in self.up_blocks:
            skips, taken = skips[:-count], skips[-count:]
            size = skips[-1].shape[-2:] if skips else x.shape[-2:]
            x = block(x, taken, size, emb, text, num_frames)
        x = self.conv_out(nn.functional.silu(self.conv_norm_out(x)))
        x = rearrange(x, "(b f) c h w -> b c f h w", f=num_frames).contiguous()
        return ResidualUNet3DOutput(sample=x) if return_dict else (x,)

    def embed(self, sample: Tensor, timestep: Tensor | float | int, text: Tensor, condition: Tensor | None) -> Tensor:
        """Time (+ frame index + text), already activated for the residual blocks: (b f) d."""
        b, f = sample.shape[0], sample.shape[2]
        t = torch.as_tensor(timestep, device=sample.device)
        t = t if t.ndim == 2 else t.expand(b).unsqueeze(1)  # b (1|f)
        condition = None if condition is None else condition.unsqueeze(1)
        waves = sinusoid(t.flatten(), self.config["block_out_channels"][0]).to(sample.dtype)
        emb = self.time_embedding(waves.unflatten(0, t.shape), condition)  # b (1|f) d
        if self.text_embed is not None:
            emb = emb + self.text_embed(text).unsqueeze(1)
        if self.frame_embed is not None:
            emb = emb + self.frame_embed(f, like=sample)
        return self.emb_act(emb).expand(b, f, -1).flatten(0, 1)

    def check_inputs(self, sample: Tensor, timestep: Tensor | float | int, text: Tensor) -> None:
        """Raise ValueError for shapes that do not fit the configuration."""
        config = self.config
        if sample.ndim != 5 or sample.shape[1] != config["in_channels"]:
            raise ValueError(
                f"sample has shape {tuple(sample.shape)}; expected b c f h w with c = {config['in_channels']}"
            )
        b, f = sample.shape[0], sample.shape[2]
        limit = config["max_num_frames"]
        if limit is not None and f > limit:
            raise ValueError(f"num_frames (={f}) exceeds the model's {limit}; shorten the clip")
        if text.ndim != 3 or text.shape[0] != b or text.shape[2] != config["cross_attention_dim"]:
            raise ValueError(
                f"encoder_hidden_states has shape {tuple(text.shape)}; expected ({b}, tokens, "
                f"{config['cross_attention_dim']}), one text for each of the {b} clips"
            )
        shape = tuple(getattr(timestep, "shape", ()))
        if shape not in ((), (1,), (b,), (b, f)):
            raise ValueError(f"timestep has shape {shape}; pass a number, ({b},) or ({b}, {f})")


def down_widths(channels: Sequence[int], level: int, layers: int) -> list[tuple[int, int]]:
    """(in, out) of each layer on the way down."""
    before = channels[max(level - 1, 0)]
    return [(before if i == 0 else channels[level], channels[level]) for i in range(layers)]


def up_widths(channels: Sequence[int], level: int, layers: int) -> list[tuple[int, int]]:
    """(in, out) of each layer on the way up: what comes from below, or before, plus the skip connection."""
    below = channels[min(level + 1, len(channels) - 1)]
    skips = [channels[level]] * layers + [channels[max(level - 1, 0)]]
    return [((below if i == 0 else channels[level]) + skip, channels[level]) for i, skip in enumerate(skips)]


def check_config(config: Any, head_dims: Sequence[int]) -> None:
    """Raise ValueError where a network cannot be built from `config`."""
    levels = len(config["block_out_channels"])
    lists = {name: config[name] for name in ("down_block_types", "up_block_types")}
    for name, given in (lists | {"attention_head_dim": head_dims}).items():
        if len(given) != levels:
            raise ValueError(f"{name} has {len(given)} entries for {levels} block_out_channels; give one for each")
    for (name, given), known in zip(lists.items(), (DOWN_BLOCKS, UP_BLOCKS), strict=True):
        if unknown := set(given) - known.keys():
            raise ValueError(f"{name} has {sorted(unknown)}; choose from {sorted(known)}")
    if (kind := config["resnet_time_scale_shift"]) not in ("default", "scale_shift"):
        raise ValueError(f"resnet_time_scale_shift={kind!r}; choose 'default' or 'scale_shift'")
    if config["num_attention_heads"] is not None:
        raise ValueError("num_attention_heads must be None; set the channels of a head by attention_head_dim")
    groups = config["norm_num_groups"]
    for width, head_dim in zip(config["block_out_channels"], head_dims, strict=True):
        if width % groups:
            raise ValueError(f"norm_num_groups (={groups}) does not divide {width} channels; change one of them")
        if width < head_dim:
            raise ValueError(f"attention_head_dim (={head_dim}) exceeds {width} channels; choose at most {width}")


# diffusers knows by a class's name how strengths of adapters that are given by block are spread over its layers.
_SET_ADAPTER_SCALE_FN_MAPPING[ResidualUNet3D.__name__] = _SET_ADAPTER_SCALE_FN_MAPPING["UNet2DConditionModel"]
