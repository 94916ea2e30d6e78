r"""Fusion of the two paths: image noise prior and residual noise -> one estimate.

Every fusion maps (z_t, condition, residual, signal, noise, t) to the estimate of z_0, from which the denoiser's
callers derive epsilon, v or flow. What the residual network's raw output means is the fusion's business, so its
config also holds the settings that a backbone must be trained with: `concat`, `shortcut`, `prediction_type` and
the measured per-frame `sigma`. A fusion is small, saved alone (folder `fusion/`) and portable between backbones.

=========================  ===========================================================================
`LinearNoiseFusion`        TRIP Eq. 9, lambda^i falling linearly with the frame index (the paper's TRIP^W)
`OptimalNoiseFusion`       lambda*(t, i), the weight that leaves least variance (docs/method.md)
`TemporalNoiseFusion`      TRIP Eq. 11: a Transformer; from scratch, or refining the optimal fusion
`TrainingFreeNoiseFusion`  prior + any image-blind text-to-video network, no training
=========================  ===========================================================================

`shortcut=False` turns any of them into TRIP-: the network's output is the prediction, the prior is not used.
`register_fusion` adds one of one's own (docs/own-fusion.md).
"""

import importlib.util
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float, Num
from torch import Tensor, nn

from trip.condition import Condition
from trip.layers.attention import differentiable
from trip.loading import StrictModel, load_part, saved_part
from trip.noise_prior import (
    Clip,
    Coefficient,
    check_prediction_type,
    epsilon_prior,
    fuse_linear,
    linear_schedule,
    optimal_estimate,
    optimal_lambda,
    per_clip,
    per_frame,
    sample_from_prediction,
    training_free_lambda,
)

Concat = Literal["time", "channel", "none"]
CONCATS: tuple[Concat, ...] = ("time", "channel", "none")

Table = Sequence[float] | Sequence[Sequence[float]]
"""What configs hold: one value per frame (f,), or per channel and frame (c, f)."""

DEFAULT_SIGMA = (0.0, *(round(0.62 * math.sqrt(i / 15), 4) for i in range(1, 16)))
"""RMS of z_0^i - z_0^1 per frame, in units of the latent's standard deviation; replace by a measured table."""


class NoiseFusion(StrictModel, ModelMixin, ConfigMixin):
    """What all fusions share: the settings of the denoiser and the meaning of the residual network's output.

    Subclasses implement `fuse`; `forward` adds TRIP- (`shortcut=False`).
    """

    config_name = "config.json"

    def check_config(self) -> None:
        """Raise ValueError for settings that no denoiser can have."""
        if self.config["concat"] not in CONCATS:
            raise ValueError(f"concat={self.config['concat']!r} is unknown; choose one of {CONCATS}")
        check_prediction_type(self.config["prediction_type"])
        for name in {"sigma", "tau"} & self.config.keys():
            table = self.table(name)
            if not (table.numel() and (table >= 0).all() and table.isfinite().all()):
                raise ValueError(f"{name} (={self.config[name]}) must hold finite values >= 0; measure it again")

    def table(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """A measured table of the config, (f,) or (c, f), as float32 whatever the dtype of the weights."""
        values, tables = self.config[name], self.__dict__.setdefault("_tables", {})
        if (name, device) not in tables or tables[name, device][0] is not values:
            tables[name, device] = values, torch.tensor(values, dtype=torch.float32, device=device)
        return tables[name, device][1]

    @property
    def concat(self) -> Concat:
        """How the image latent enters the backbone: in front of the frames, as channels, or not at all."""
        return self.config["concat"]

    @property
    def num_frames(self) -> int | None:
        """Longest clip the per-frame tables allow; None without tables."""
        return None

    def forward(
        self,
        z_t: Clip,
        condition: Condition,
        residual: Clip,
        signal: Coefficient,
        noise: Coefficient,
        timestep: Tensor,
    ) -> Clip:
        """Estimate of z_0, float32, b c f h w.

        Args:
            z_t: noisy latents. condition: the prior's reference and, where it has one, its spread.
            residual: the backbone's raw output. signal, noise, timestep: the schedule at t, (), (b,) or (b, f).
        """
        if not self.config["shortcut"]:
            return sample_from_prediction(residual, z_t, signal, noise, self.config["prediction_type"])
        return self.fuse(z_t, condition, residual, signal, noise, timestep)

    def fuse(self, z_t, condition, residual, signal, noise, timestep) -> Clip:
        """The fusion rule of the subclass."""
        raise NotImplementedError

    def sigma(self, condition: Condition, device: torch.device) -> Tensor:
        """How far z_0 may be from the reference: the condition's spread, else the config's measured table."""
        return self.table("sigma", device) if condition.spread is None else condition.spread

    def error(self, z_t: Clip, condition: Condition, signal: Coefficient, noise: Coefficient) -> Tensor:
        """RMS error of the estimate, broadcastable to b c f h w: what prior and noisy latents alone leave open.

        ``sigma s / sqrt(s^2 + a^2 sigma^2)``; a network can only do better.
        """
        a, s, sigma = per_clip(signal, z_t), per_clip(noise, z_t), per_frame(self.sigma(condition, z_t.device), z_t)
        return sigma * s * (s**2 + (a * sigma) ** 2).clamp_min(1e-20).rsqrt()


# ------------------------------------------------------------------------------------------------------ registry

FUSIONS: dict[str, type[NoiseFusion]] = {}
"""Short name -> class: what `kind` means in a training run's settings, and what a saved fusion may be."""

Kind = TypeVar("Kind", bound=type[NoiseFusion])


def register_fusion(name: str) -> Callable[[Kind], Kind]:
    """Class decorator: the fusion is known by `name`, and loads again wherever its module is imported.

    Raises:
        ValueError: the name is another fusion's.
    """

    def register(kind: Kind) -> Kind:
        known = FUSIONS.setdefault(name, kind)
        if (known.__module__, known.__name__) != (kind.__module__, kind.__name__):
            raise ValueError(f"the fusion name {name!r} is {known.__name__}'s; choose another")
        FUSIONS[name] = saved_part(kind)
        # diffusers loads a class only where its module has the base that says how
        vars(sys.modules[kind.__module__]).setdefault("ModelMixin", ModelMixin)
        return kind

    return register


def import_fusions(file: str | os.PathLike[str]) -> None:
    """Run a Python file that registers fusions; its classes are saved under the file's name.

    Raises:
        ValueError: no such file, a name that another module has, or an error of the file's own.
    """
    file = Path(file).resolve()
    name, known = file.stem, sys.modules.get(file.stem)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return
    if not (file.suffix == ".py" and name.isidentifier() and file.is_file()):
        raise ValueError(f"fusion module {str(file)!r} is no Python file; name the .py that registers the fusion")
    other = None if known is not None else importlib.util.find_spec(name)
    if known is not None or (other is not None and other.origin != str(file)):
        raise ValueError(f"fusion module {str(file)!r} has the name of another module, {name}; rename the file")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not any(kind.__module__ == name for kind in FUSIONS.values()):
            raise TypeError("it registers no fusion, see register_fusion")
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"fusion module {str(file)!r} failed ({type(error).__name__}: {error}); correct it") from error


def load_fusion(source: str | os.PathLike[str]) -> NoiseFusion:
    """A saved fusion of whatever kind.

    Raises:
        ValueError: as `trip.loading.load_part`.
    """
    return load_part(source, {kind.__name__: kind for kind in FUSIONS.values()}, "fusion")


# -------------------------------------------------------------------------------------------------- closed forms


class ClosedFormNoiseFusion(NoiseFusion):
    """Fusions without parameters. Their one buffer gives them a file, a dtype and a device, as diffusers expects."""

    def __init__(self):
        super().__init__()
        self.register_buffer("anchor", torch.zeros(1))


@register_fusion("linear")
class LinearNoiseFusion(ClosedFormNoiseFusion):
    """TRIP Eq. 9, ``lambda^i prior + (1 - lambda^i) residual`` with lambda^i linear in i and constant in t.

    The prior and the residual are of `prediction_type`; since all four types are affine in z_0 with the same
    coefficients for both, the result is ``lambda r + (1 - lambda) z_0(residual)`` in each of them.

    Args:
        num_frames: N. first, last: lambda at frame 1 and frame N (open in the paper).
        concat, shortcut, prediction_type: see the module.
    """

    @register_to_config
    def __init__(
        self,
        num_frames: int = 16,
        first: float = 0.9,
        last: float = 0.5,
        concat: str = "time",
        shortcut: bool = True,
        prediction_type: str = "epsilon",
    ):
        super().__init__()
        self.check_config()

    @property
    def num_frames(self) -> int:
        return self.config["num_frames"]

    @property
    def lam(self) -> Float[Tensor, " f"]:
        """lambda^i of Eq. 9."""
        return linear_schedule(self.config["num_frames"], self.config["first"], self.config["last"])

    def fuse(self, z_t, condition, residual, signal, noise, timestep) -> Clip:
        sample = sample_from_prediction(residual, z_t, signal, noise, self.config["prediction_type"])
        return fuse_linear(condition.reference, sample, self.lam)


@register_fusion("optimal")
class OptimalNoiseFusion(ClosedFormNoiseFusion):
    """Variance-optimal fusion: ``eps = lambda* prior + sqrt(1 - lambda*) Delta``, ``lambda* = 1 / (1 + snr sigma^2)``.

    Args:
        sigma: RMS of z_0^i - r^i on training clips, (f,) or (c, f); 0 at frame 1 makes that frame exact.
        concat, shortcut, prediction_type: see the module.
    """

    @register_to_config
    def __init__(
        self,
        sigma: Table = DEFAULT_SIGMA,
        concat: str = "time",
        shortcut: bool = True,
        prediction_type: str = "epsilon",
    ):
        super().__init__()
        self.check_config()

    @property
    def num_frames(self) -> int:
        return self.table("sigma").shape[-1]

    def fuse(self, z_t, condition, residual, signal, noise, timestep) -> Clip:
        return optimal_estimate(z_t, condition.reference, residual, signal, noise, self.sigma(condition, z_t.device))


@register_fusion("training-free")
class TrainingFreeNoiseFusion(ClosedFormNoiseFusion):
    """Prior and a network that knows nothing of the image: ``z_0 = lambda r + (1 - lambda) z_0(network)``.

    With independent errors the best weight is ``lambda = tau_t^2 / (tau_t^2 + sigma_i^2)``, where tau_t is the RMS
    error of the network's own estimate at t. It decides the layout early from the image and leaves the end to the
    network. Replace the default tables by measured ones with `trip calibrate`.

    Args:
        sigma: RMS of z_0^i - r^i, (f,) or (c, f). tau: RMS error of the network at `tau_timesteps`, increasing in t.
        tau_timesteps: timesteps of tau, interpolated linearly between.
        prediction_type: what the network predicts.
    """

    @register_to_config
    def __init__(
        self,
        sigma: Table = DEFAULT_SIGMA,
        tau: Sequence[float] = (0.05, 0.18, 0.32, 0.45, 0.56, 0.66, 0.75, 0.83, 0.90, 0.95, 1.0),
        tau_timesteps: Sequence[float] = (0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999),
        concat: str = "none",
        shortcut: bool = True,
        prediction_type: str = "epsilon",
    ):
        super().__init__()
        self.check_config()
        if len(tau) != len(tau_timesteps) or len(tau) < 2 or sorted(set(tau_timesteps)) != list(tau_timesteps):
            raise ValueError(
                f"tau has {len(tau)} values for the timesteps {tau_timesteps}; "
                "give one per timestep, two or more, increasing"
            )

    @property
    def num_frames(self) -> int:
        return self.table("sigma").shape[-1]

    def fuse(self, z_t, condition, residual, signal, noise, timestep) -> Clip:
        sample = sample_from_prediction(residual, z_t, signal, noise, self.config["prediction_type"])
        lam = training_free_lambda(
            per_clip(self.tau_at(timestep), z_t), per_frame(self.sigma(condition, z_t.device), z_t)
        )
        return lam * condition.reference.float() + (1 - lam) * sample

    def tau_at(self, timestep: Tensor) -> Tensor:
        """Interpolate tau linearly at t, of any shape; constant beyond the table."""
        t = torch.as_tensor(timestep, dtype=torch.float32)
        grid, tau = self.table("tau_timesteps", t.device), self.table("tau", t.device)
        right = torch.searchsorted(grid, t.contiguous()).clamp(1, len(grid) - 1)
        weight = ((t - grid[right - 1]) / (grid[right] - grid[right - 1])).clamp(0, 1)
        return torch.lerp(tau[right - 1], tau[right], weight)


# ------------------------------------------------------------------------------- temporal noise fusion, Eq. 11


@register_fusion("tnf")
class TemporalNoiseFusion(NoiseFusion):
    r"""Temporal noise fusion (TNF), TRIP Eq. 11: ``eps^i = phi(Delta^i, eps^{i->r}, t)``, a Transformer.

    Tokens are `patch_size`^2 patches of every frame. Each block: adaptive LayerNorm driven by t on the residual
    tokens, self-attention, then cross-attention whose queries are those features and whose keys and values are the
    concatenation [prior, residual], then an MLP. The paper leaves layout, width and depth open.

    * ``base="none"``: the Transformer's output *is* the prediction (the paper's phi).
    * ``base="optimal"``: it refines the variance-optimal fusion with two outputs that start at zero: a correction of
      Delta, and a log-gain of sigma, ``sigma <- sigma exp(gate / 2)``, which moves the weight of the prior in
      log-odds, ``logit(lambda) = logit(lambda*) - gate``. At initialisation it equals `OptimalNoiseFusion` exactly.

    The prior's tokens are scaled by sqrt(lambda*), which gives them unit variance at every t and i.

    Args:
        latent_channels: c. dim, depth, num_heads, patch_size: size of the Transformer. With base="none" dim should be
            above c patch_size^2, the values of a patch: all of the output passes through it.
        sigma: as for `OptimalNoiseFusion` (used for the scaling, and by base="optimal").
        base: "optimal" | "none". concat, shortcut, prediction_type: see the module.
    """

    _supports_gradient_checkpointing = False
    _no_split_modules = ["FusionBlock"]
    _repeated_blocks = ["FusionBlock"]
    _skip_layerwise_casting_patterns = ["norm"]

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        dim: int = 256,
        depth: int = 2,
        num_heads: int = 4,
        patch_size: int = 2,
        sigma: Table = DEFAULT_SIGMA,
        base: str = "optimal",
        concat: str = "time",
        shortcut: bool = True,
        prediction_type: str = "epsilon",
    ):
        super().__init__()
        self.check_config()
        if base not in ("optimal", "none"):
            raise ValueError(f"base={base!r} is unknown; choose 'optimal' or 'none'")
        if dim % 2 or dim % num_heads:
            raise ValueError(f"dim (={dim}) must be even and a multiple of num_heads (={num_heads}); change either")
        self.patch_size = patch_size
        patch = latent_channels * patch_size**2
        self.embed_residual = nn.Linear(patch, dim)
        self.embed_prior = nn.Linear(patch, dim)
        self.time_embedding = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(FusionBlock(dim, num_heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(dim)
        self.to_correction = nn.Linear(dim, patch)
        self.to_gate = nn.Linear(dim, patch) if base == "optimal" else None
        if self.to_gate is not None:
            for layer in (self.to_correction, self.to_gate):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    @property
    def num_frames(self) -> int:
        return self.table("sigma").shape[-1]

    def fuse(self, z_t, condition, residual, signal, noise, timestep) -> Clip:
        features = self.features(z_t, condition, residual, signal, noise, timestep)
        correction = self.unpatchify(self.to_correction(features), z_t).float()
        if self.to_gate is None:
            return sample_from_prediction(correction, z_t, signal, noise, self.config["prediction_type"])
        gate = self.unpatchify(self.to_gate(features), z_t).float().clamp(-6, 6)
        sigma = per_frame(self.sigma(condition, z_t.device), z_t) * torch.exp(gate / 2)
        return optimal_estimate(z_t, condition.reference, residual.float() + correction, signal, noise, sigma)

    def features(self, z_t, condition, residual, signal, noise, timestep) -> Float[Tensor, "b n d"]:
        """Residual tokens after the Transformer."""
        weight = optimal_lambda(signal, noise, self.sigma(condition, z_t.device), z_t)
        prior = epsilon_prior(z_t, condition.reference, signal, noise) * weight.sqrt()
        dtype = self.embed_residual.weight.dtype
        dtype = self.dtype if dtype.itemsize == 1 else dtype  # float8, in which weights only rest
        position = position_embedding(residual.shape, self.patch_size, self.config["dim"], residual.device)
        x = self.embed_residual(self.patchify(residual).to(dtype)) + position.to(dtype)
        context = torch.cat([self.embed_prior(self.patchify(prior).to(dtype)) + position.to(dtype), x], dim=1)
        time = self.time_embedding(sinusoid(self.of_tokens(timestep, x), self.config["dim"]).to(dtype))
        for block in self.blocks:
            x = block(x, context, time)
        return self.norm_out(x)

    @staticmethod
    def of_tokens(timestep: Tensor, tokens: Float[Tensor, "b n d"]) -> Num[Tensor, "b _"]:
        """t of every clip, (b, 1), or of every token, (b, n), where frames have a t of their own."""
        t = torch.as_tensor(timestep, device=tokens.device)
        if t.ndim == 2:
            return t.repeat_interleave(tokens.shape[1] // t.shape[1], dim=1)
        return t.reshape(-1, 1).expand(tokens.shape[0], 1)

    def patchify(self, clip: Clip) -> Float[Tensor, "b n d"]:
        """b c f h w -> tokens; h and w are padded up to a multiple of the patch size."""
        p = self.patch_size
        clip = F.pad(clip, (0, -clip.shape[-1] % p, 0, -clip.shape[-2] % p))
        return rearrange(clip, "b c f (h p) (w q) -> b (f h w) (c p q)", p=p, q=p)

    def unpatchify(self, tokens: Float[Tensor, "b n d"], like: Clip) -> Clip:
        """Inverse of `patchify` for a clip of the same shape as `like`."""
        p, (f, h, w) = self.patch_size, like.shape[2:]
        rows = -(-h // p)
        clip = rearrange(tokens, "b (f h w) (c p q) -> b c f (h p) (w q)", f=f, h=rows, p=p, q=p)
        return clip[..., :h, :w]


class FusionBlock(nn.Module):
    """AdaLN by t -> self-attention -> cross-attention over [prior, residual] -> MLP, all residual."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.norm_self = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.self_attention = Attention(dim, num_heads)
        self.norm_cross = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, num_heads)
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x, context, time):
        scale, shift = self.modulation(F.silu(time)).chunk(2, dim=-1)
        h = self.norm_self(x) * (1 + scale) + shift
        x = x + self.self_attention(h, h)
        x = x + self.cross_attention(self.norm_cross(x), context)
        return x + self.mlp(self.norm_mlp(x))


class Attention(nn.Module):
    """Multi-head attention of queries b n d over a context b m d."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x, context):
        split = "b n (k d) -> b k n d"
        q = rearrange(self.to_q(x), split, k=self.num_heads)
        k, v = (rearrange(u, split, k=self.num_heads) for u in self.to_kv(context).chunk(2, dim=-1))
        attended = differentiable(F.scaled_dot_product_attention, q, k, v)
        return self.to_out(rearrange(attended, "b k n d -> b n (k d)"))


def sinusoid(position: Num[Tensor, "..."], dim: int) -> Float[Tensor, "... d"]:
    """Sinusoidal features of a scalar position, frequencies from 1 down to 1/10000."""
    frequency = torch.exp(-math.log(10000) * torch.arange(dim // 2, device=position.device) / (dim // 2))
    angle = position.float()[..., None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def position_embedding(shape: torch.Size, patch_size: int, dim: int, device) -> Float[Tensor, "n d"]:
    """Sum of sinusoids of frame, row and column index, in the token order of `patchify`; any size of clip."""
    f, h, w = shape[2], -(-shape[3] // patch_size), -(-shape[4] // patch_size)
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in (f, h, w)), indexing="ij")
    split = [dim - 2 * (dim // 6) * 2, (dim // 6) * 2, (dim // 6) * 2]
    parts = [sinusoid(axis.reshape(-1), d) for axis, d in zip(axes, split, strict=True)]
    return F.pad(torch.cat(parts, dim=-1), (0, dim - sum(p.shape[-1] for p in parts)))
