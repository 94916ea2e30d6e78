"""Transformers over space and over time, the attention halves of a 3D-UNet layer.

Parameter names follow diffusers' `Transformer2DModel`, `TransformerTemporalModel` and `BasicTransformerBlock`.
Activations are `(b f) c h w` in channels-last memory, that is `b f h w c`: the token view of a frame, and the token
view of a whole clip, cost no copy. Only attention over time moves data, once in and once out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor, nn

from trip.layers.basic import GroupNorm, zero_init


class AttentionProcessor:
    """softmax(q k^T / sqrt(d)) v by whichever kernel `set_attention_backend` chose."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: "Attention",
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """`hidden_states` b l c attend to `encoder_hidden_states` b n d, or to themselves; returns b l c."""
        query, key, value = (
            heads.unflatten(-1, (attn.heads, -1))  # b l (heads d) -> b l heads d
            for heads in attn.project(hidden_states, encoder_hidden_states)
        )
        attended = self.attend(query, key, value, attention_mask)
        return attn.to_out[0](attended.flatten(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Each b l heads d."""
        kernel = partial(
            dispatch_attention_fn,
            attn_mask=mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        return differentiable(kernel, query, key, value)


def differentiable(kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`kernel(query, key, value)`, in float32 where CPUs need its gradient: in half precision it is 10x slower."""
    if query.device.type != "cpu" or query.dtype == torch.float32 or not torch.is_grad_enabled():
        return kernel(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return kernel(query.float(), key.float(), value.float()).to(query.dtype)


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head attention of `dim` channels to themselves, or to context of `context_dim` channels."""

    _default_processor_cls = AttentionProcessor
    _available_processors = [AttentionProcessor]
    processor: Any
    use_bias = False
    # What diffusers' own processors look up, so that `set_attn_processor` accepts them too.
    spatial_norm = group_norm = norm_cross = norm_q = norm_k = None
    residual_connection = upcast_attention = upcast_softmax = False
    rescale_output_factor = 1.0

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int | None = None):
        super().__init__()
        self.heads = heads
        self.scale = head_dim**-0.5
        self.is_cross_attention = context_dim is not None
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_k = nn.Linear(context_dim or dim, heads * head_dim, bias=False)
        self.to_v = nn.Linear(context_dim or dim, heads * head_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_dim, dim), nn.Identity()])
        self.processor = AttentionProcessor()

    def project(self, hidden_states: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each b l (heads d), in one product where `fuse_qkv_projections` was called."""
        if self.fused_projections and hasattr(self.to_q, "base_layer"):
            raise ValueError("adapters have no effect on fused projections; call unfuse_qkv_projections() first")
        if self.fused_projections and not self.is_cross_attention:
            return self.to_qkv(hidden_states).chunk(3, dim=-1)
        context = hidden_states if context is None else context
        query = self.to_q(hidden_states)
        if self.fused_projections:
            return query, *self.to_kv(context).chunk(2, dim=-1)
        return query, self.to_k(context), self.to_v(context)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """b l c -> b l c."""
        return self.processor(self, hidden_states, encoder_hidden_states, attention_mask)


ROWS_A_THREAD = 1024
"""Rows of the perceptron computed together on CPUs."""


class GEGLU(nn.Module):
    """x -> a * gelu(g), with [a, g] = W x + b."""

    def __init__(self, dim: int, inner_dim: int):
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner_dim)

    def forward(self, x: Tensor) -> Tensor:
        """... c -> ... inner_dim."""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated two-layer perceptron, four times wider inside."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.ModuleList([GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """... c -> ... c; on CPUs, without gradients, so many rows at a time that the inner ones stay in the cache."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.inner(x)
        rows = x.flatten(0, -2).split(ROWS_A_THREAD * torch.get_num_threads())
        return torch.cat([self.inner(part) for part in rows]).view(x.shape)

    def inner(self, x: Tensor) -> Tensor:
        """... c -> ... c."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    """x += self-attention(x); x += attention(x, text or x); x += feed-forward(x), each after a LayerNorm."""

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, head_dim, context_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x: (b f) l c, or any batch where there is no context; context: b n d, shared by a clip's f frames."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attend(self.norm2(x), context)
        return x + self.ff(self.norm3(x))

    def attend(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Second attention. A clip's frames share one set of text keys and values: they become one long query."""
        if context is None:
            return self.attn2(x)
        clip = x.reshape(context.shape[0], -1, x.shape[-1])  # (b f) l c -> b (f l) c
        return self.attn2(clip, context).view(x.shape)


class _Transformer(nn.Module):
    """GroupNorm, projection in, one transformer block, projection out: the parameters both axes share."""

    def __init__(self, channels: int, heads: int, head_dim: int, groups: int, context_dim: int | None = None):
        super().__init__()
        inner = heads * head_dim
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, inner)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(inner, heads, head_dim, context_dim)])
        self.proj_out = nn.Linear(inner, channels)

    def transform(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """b l c -> b l c, without the residual connection."""
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(tokens)

    def zero_residual(self) -> None:
        """Make the transformer the identity: its residual branch returns zero until training moves it."""
        zero_init(self.proj_out)


class SpatialTransformer(_Transformer):
    """Attention among the positions of a frame, and of every position to the text."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x: (b f) c h w; context: b n d. Returns (b f) c h w."""
        height, width = x.shape[-2:]
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (b f) c h w -> (b f) (h w) c
        tokens = self.transform(tokens, context)
        return x + tokens.transpose(1, 2).unflatten(2, (height, width))


class TemporalTransformer(_Transformer):
    """Attention among the frames of each position, twice (no text)."""

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """x: (b f) c h w. Returns the same shape."""
        height, width = x.shape[-2:]
        clip = x.permute(0, 2, 3, 1).contiguous().view(-1, num_frames, height * width, x.shape[1])  # b f (h w) c
        normed = self.norm(clip.permute(0, 3, 1, 2))  # b c f (h w)
        tokens = normed.permute(0, 3, 2, 1).flatten(0, 1)  # (b h w) f c
        tokens = self.transform(tokens).unflatten(0, (-1, height * width))  # b (h w) f c
        clip = clip + tokens.transpose(1, 2)
        return clip.reshape(-1, height, width, x.shape[1]).permute(0, 3, 1, 2)
