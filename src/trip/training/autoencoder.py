"""The bundled model's autoencoder: a small `diffusers.AutoencoderKL` (f8) for photographs at 64 pixels.

Network and file format are diffusers'; this file holds data sampling, the training loop, the normalisation of
the latents and the evaluation with linear PCA of equal latent size beside it.

    python -m trip.training.autoencoder --photos DIR --output DIR --minutes 20
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn

PIXELS = 64
MINIMUM_LOG_VARIANCE = -30.0  # diffusers clamps here: `sample()` and `mode()` then agree to 1e-6


@dataclass(frozen=True, kw_only=True)
class AutoencoderTraining:
    """Everything one training run depends on; saved as `training.json` beside the weights.

    photos: folder with an `index.jsonl` (see `read_index`) or with bare images.
    output: folder of the checkpoint, the pool of crops, the exported weights and the results.
    initial: exported folder to start from; its latents may have fewer channels than `latent_channels`.
    freeze_encoder: train only the decoder of `initial`, so that its latents stay as they are.
    minutes, steps: length of the run; the learning rate ends at the first of the two that is reached.
    pool: number of crops rendered before training starts and drawn from afterwards.
    latent_noise: standard deviation of the noise added to the unit-variance latents in training.
    equivariance: share of the steps that decode zoomed and shifted latents (EQ-VAE, arXiv 2502.09509).
    """

    photos: Path
    output: Path
    initial: Path | None = None
    freeze_encoder: bool = False
    minutes: float | None = 22.0
    steps: int | None = None
    pool: int = 40_000
    seed: int = 0
    threads: int = 2

    block_out_channels: tuple[int, ...] = (16, 32, 64, 128)
    layers_per_block: int = 1
    latent_channels: int = 16
    norm_num_groups: int = 8
    mid_block_add_attention: bool = False

    batch_size: int = 16
    learning_rate: float = 1e-2
    adam_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.02
    ema_decay: float = 0.998
    latent_noise: float = 0.05
    gradient_weight: float = 0.25
    equivariance: float = 0.15
    checkpoint_minutes: float = 4.0

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise ValueError("minutes and steps are both None; pass one of them to bound the run.")
        if self.freeze_encoder and self.initial is None:
            raise ValueError("freeze_encoder needs trained weights; pass initial=FOLDER of an exported autoencoder.")
        if not 0 <= self.equivariance <= 1:
            raise ValueError(f"equivariance (={self.equivariance}) must lie in [0, 1]; pass a share of the steps.")


# ---------------------------------------------------------------------------------------------------- data


def read_index(photos: Path) -> dict[str, list[Path]]:
    """Files of a folder: "train", "validation" and "heldout" photographs, and "objects" to paste in training.

    `index.jsonl` has one object a line with `file`, `split` ("train" or "heldout") and, unless it is "photo",
    `kind` ("object": an RGBA cut-out). Without it every eighth image is held out and there are no objects.
    Every sixteenth training photograph becomes the split "validation", on which decisions are taken.
    """
    index = photos / "index.jsonl"
    if index.is_file():
        rows = [json.loads(line) for line in index.read_text().splitlines() if line.strip()]
    else:
        files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
        rows = [
            {"file": file.relative_to(photos), "split": "heldout" if i % 8 == 7 else "train"}
            for i, file in enumerate(files)
        ]

    def select(kind: str, split: str) -> list[Path]:
        return [photos / row["file"] for row in rows if row.get("kind", "photo") == kind and row["split"] == split]

    train = select("photo", "train")
    if not train:
        raise ValueError(f"photos (={photos}) holds no training images; add some or mend index.jsonl.")
    return {
        "train": [file for i, file in enumerate(train) if i % 16 != 15],
        "validation": train[15::16],
        "heldout": select("photo", "heldout"),
        "objects": select("object", "train"),
    }


def read_rgb(path: Path, longest: int = 1024) -> np.ndarray:
    """Image as uint8 (H, W, 3) RGB whose longer side is at most `longest` pixels, shrunk by area."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"image (={path}) cannot be decoded; replace the file or drop it from the folder.")
    ratio = longest / max(image.shape[:2])
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_rgba(path: Path, longest: int = 128) -> np.ndarray:
    """Cut-out as uint8 (H, W, 4) RGBA whose longer side is at most `longest` pixels."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise ValueError(f"object (={path}) is not an 8-bit RGBA image; convert it or drop it.")
    ratio = min(1.0, longest / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def pyramid(image: np.ndarray) -> list[np.ndarray]:
    """The image and its halvings by area, down to 64 pixels on the shorter side."""
    levels = [image]
    while min(levels[-1].shape[:2]) >= 2 * PIXELS:
        levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    return levels


def center_crop(image: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Largest centred square of the image, shrunk by area to uint8 (size, size, 3)."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


def random_crop(levels: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A square crop of 35 to 100 % of the shorter side, sometimes turned or mirrored, as uint8 (64, 64, 3).

    Half of the crops are rendered at 128 pixels and shrunk by area, half are sampled at 64.
    """
    size = PIXELS * (2 if rng.random() < 0.5 else 1)
    height, width = levels[0].shape[:2]
    side = min(height, width) * math.exp(rng.uniform(math.log(0.35), 0))
    angle = rng.normal(0, 12) if rng.random() < 0.4 else 0.0
    center = [rng.uniform(side / 2, max(length - side / 2, side / 2)) for length in (width, height)]
    level = max(0, min(len(levels) - 1, int(math.log2(max(side / size, 1)))))
    ratio = levels[level].shape[1] / width
    scale = side * ratio / size
    cos, sin = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    mirror = -1 if rng.random() < 0.5 else 1
    linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    offset = np.array(center) * ratio - linear @ np.array([(size - 1) / 2] * 2)
    crop = cv2.warpAffine(
        levels[level],
        np.column_stack([linear, offset]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return crop if size == PIXELS else cv2.resize(crop, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)


def jitter_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gamma, contrast, saturation and white balance of a float image in [0, 1]."""
    image = np.clip(image, 0, 1) ** math.exp(rng.normal(0, 0.2))
    image = (image - 0.5) * math.exp(rng.normal(0, 0.15)) + 0.5
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * math.exp(rng.normal(0, 0.25))
    return np.clip(image * (1 + rng.normal(0, 0.06, 3)) + rng.normal(0, 0.04), 0, 1)


def paste_object(image: np.ndarray, rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend an object of 10 to 45 pixels, tilted by up to 30 degrees, into a random place of an image."""
    size = rng.uniform(10, 45)
    height, width = rgba.shape[:2]
    scale = size / max(height, width)
    small = cv2.resize(rgba, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small[..., :3] *= small[..., 3:]
    matrix = cv2.getRotationMatrix2D((small.shape[1] / 2, small.shape[0] / 2), rng.uniform(-30, 30), 1.0)
    matrix[:, 2] += rng.uniform(-size / 4, PIXELS - 0.75 * size, 2)
    layer = cv2.warpAffine(small, matrix, (PIXELS, PIXELS), flags=cv2.INTER_LINEAR)
    return image * (1 - layer[..., 3:]) + layer[..., :3]


def add_weather(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rain streaks or snow flakes over a float image."""
    layer = np.zeros((PIXELS * 2, PIXELS * 2), np.float32)
    length, slant = (rng.uniform(6, 20), rng.normal(0, 0.2)) if rng.random() < 0.5 else (0.0, 0.0)
    for x, y in rng.uniform(0, 2 * PIXELS, (rng.integers(20, 120), 2)):
        end = (int(x + slant * length), int(y + length))
        cv2.line(layer, (int(x), int(y)), end, rng.uniform(0.3, 1), 1 if length else int(rng.integers(1, 5)))
    layer = cv2.resize(layer, (PIXELS, PIXELS), interpolation=cv2.INTER_AREA)[..., None]
    return image * (1 - layer) + layer * rng.uniform(0.7, 1)


def render_pool(
    photos: Sequence[Path], objects: Sequence[np.ndarray], count: int, rng: np.random.Generator
) -> np.ndarray:
    """`count` augmented training crops as one uint8 array (count, 64, 64, 3)."""
    levels = [pyramid(read_rgb(path)) for path in photos]
    pool = np.empty((count, PIXELS, PIXELS, 3), np.uint8)
    for i in range(count):
        image = random_crop(levels[int(rng.integers(len(levels)))], rng).astype(np.float32) / 255
        if rng.random() < 0.7:
            image = jitter_colors(image, rng)
        while objects and rng.random() < 0.35:
            image = paste_object(image, objects[int(rng.integers(len(objects)))], rng)
        if rng.random() < 0.12:
            image = add_weather(image, rng)
        pool[i] = np.round(255 * np.clip(image, 0, 1))
    return pool


def to_pixels(images: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """uint8 (b, h, w, 3) to float32 in [-1, 1], channels first."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)


# ------------------------------------------------------------------------------------------------- network


def build_autoencoder(config: AutoencoderTraining) -> AutoencoderKL:
    """A randomly initialised AutoencoderKL with the configured widths; downsampling is 2^(levels - 1)."""
    levels = len(config.block_out_channels)
    settings: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_num_groups,
        "mid_block_add_attention": config.mid_block_add_attention,
        "sample_size": PIXELS,
        "scaling_factor": 1.0,
    }
    return AutoencoderKL(**settings)


@torch.no_grad()
def load_widened(vae: AutoencoderKL, source: AutoencoderKL) -> None:
    """Copy `source` into `vae`, whose latents may have more channels; the additional ones keep their initial weights.

    The decoder starts a tenth as sensitive to the additional channels, so that the reconstruction hardly changes.
    """
    old, new = source.config["latent_channels"], vae.config["latent_channels"]
    if old > new:
        raise ValueError(f"latent_channels (={new}) is below the initial model's {old}; pass {old} or more.")
    moments = torch.cat([torch.arange(old), torch.arange(new, new + old)])  # the mean's rows, then the variance's
    rows = {"encoder.conv_out": moments, "quant_conv": moments, "post_quant_conv": torch.arange(old)}
    columns = {"quant_conv": moments, "post_quant_conv": torch.arange(old), "decoder.conv_in": torch.arange(old)}
    for name, value in source.state_dict().items():
        target, module = vae.state_dict()[name], name.rpartition(".")[0]
        if target.shape == value.shape:
            target.copy_(value)
            continue
        row = rows.get(module, torch.arange(target.shape[0]))
        if target.ndim == 1:
            target[row] = value.to(target.dtype)
        else:
            target *= 0.1 if module == "decoder.conv_in" else 1.0
            column = columns.get(module, torch.arange(target.shape[1]))
            target[row] = 0 if module in ("quant_conv", "post_quant_conv") else target[row]
            target[row[:, None], column] = value.to(target.dtype)


def posterior_mean(vae: AutoencoderKL, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c y x"]:
    """Mean of q(z|x), the latent that diffusion works on."""
    return vae.encode(pixels, return_dict=False)[0].mean  # pyright: ignore[reportArgumentType]


def decode(vae: AutoencoderKL, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 h w"]:
    """Pixels of the latents, in about [-1, 1]."""
    return vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType, reportReturnType]


@torch.no_grad()
def fold_normalization(
    vae: AutoencoderKL, mean: Float[Tensor, "c"], std: Float[Tensor, "c"], invert: bool = True
) -> None:
    """Rewrite `quant_conv` to give latents (z - mean) / std; with `invert`, `post_quant_conv` undoes it.

    With `invert` the reconstruction stays the same. The posterior's variance becomes constant and negligible.
    """
    into, out = vae.quant_conv, vae.post_quant_conv
    assert into is not None and out is not None and into.bias is not None and out.bias is not None
    channels = mean.numel()
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.weight[channels:] = 0
    into.bias[channels:] = MINIMUM_LOG_VARIANCE
    if invert:
        out.bias += out.weight[:, :, 0, 0] @ mean
        out.weight *= std[None, :, None, None]


def resample_affine(
    x: Float[Tensor, "b c h w"], zoom: float, shift: tuple[float, float], size: int
) -> Float[Tensor, "b c y x"]:
    """The `size` x `size` window of `x` magnified by `zoom`; `shift` in [-1, 1] moves it across `x`."""
    share = size / (x.shape[-1] * zoom)
    room = max(0.0, 1 - share)
    matrix = torch.tensor([[share, 0, shift[0] * room], [0, share, shift[1] * room]])
    grid = F.affine_grid(matrix.expand(x.shape[0], 2, 3), [x.shape[0], x.shape[1], size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


# ----------------------------------------------------------------------------------------------- optimiser


def orthogonalize(matrix: Float[Tensor, "m n"], iterations: int = 5) -> Float[Tensor, "m n"]:
    """U V^T of the singular value decomposition, roughly, by Newton-Schulz steps (Muon, Jordan 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16() if matrix.shape[0] <= matrix.shape[1] else matrix.bfloat16().T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x if matrix.shape[0] <= matrix.shape[1] else x.T).float()


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates for convolution weights, taken as matrices (out, in * k * k)."""

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                buffer = self.state[param].setdefault("momentum", torch.zeros_like(param))
                buffer.lerp_(param.grad, 1 - group["momentum"])
                update = torch.lerp(param.grad, buffer, group["momentum"]).flatten(1)
                update = orthogonalize(update) * math.sqrt(max(1.0, update.shape[0] / update.shape[1]))
                param.mul_(1 - group["lr"] * group["weight_decay"])
                param.add_(update.view_as(param), alpha=-group["lr"])


def make_optimizers(vae: AutoencoderKL, config: AutoencoderTraining) -> list[torch.optim.Optimizer]:
    """Muon, in two halves that step in parallel, for the inner convolutions; AdamW for everything else."""
    edges = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv")
    named = [(name, param) for name, param in vae.named_parameters() if param.requires_grad]
    inner = [param for name, param in named if param.ndim >= 2 and not name.startswith(edges)]
    outer = [param for name, param in named if param.ndim < 2 or name.startswith(edges)]
    return [
        *(Muon(part, lr=config.learning_rate, weight_decay=config.weight_decay) for part in (inner[::2], inner[1::2])),
        torch.optim.AdamW(outer, lr=config.adam_learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


# ------------------------------------------------------------------------------------------------ training


def reconstruction_loss(output: Tensor, target: Tensor, gradient_weight: float) -> Float[Tensor, ""]:
    """Half Charbonnier, half scaled squared error, plus the L1 distance of the image gradients."""
    error = output.float() - target
    loss = (error.square() + 1e-4).sqrt().mean() + 4 * error.square().mean()
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return loss + gradient_weight * slopes


class Trainer:
    """State of one run: network, moving average, optimisers, progress; `restore` continues a saved one."""

    def __init__(self, config: AutoencoderTraining, pool: np.ndarray):
        torch.manual_seed(config.seed)
        self.config, self.pool = config, pool
        self.vae = build_autoencoder(config)
        self.norm: nn.Module = nn.BatchNorm2d(config.latent_channels, affine=False, momentum=0.02)
        if config.initial is not None:
            load_widened(self.vae, AutoencoderKL.from_pretrained(config.initial))
        if config.freeze_encoder:
            self.norm = nn.Identity()
            for name, param in self.vae.named_parameters():
                param.requires_grad_(name.startswith(("decoder.", "post_quant_conv.")))
        self.workers = ThreadPoolExecutor(config.threads)
        self.optimizers = make_optimizers(self.vae, config)
        self.base_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.average = {name: p.detach().clone() for name, p in self.vae.named_parameters()}
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1], by steps or by minutes, whichever is further."""
        by_steps = self.step / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds / 60 / self.config.minutes if self.config.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def batches(self) -> Iterator[Tensor]:
        """Endless shuffled batches, float in [-1, 1]; mirrored at random."""
        rng = np.random.default_rng([self.config.seed, self.step])
        while True:
            images = self.pool[np.sort(rng.integers(len(self.pool), size=self.config.batch_size))]
            yield to_pixels(np.ascontiguousarray(images[:, :, :: rng.choice([-1, 1])]))

    def loss(self, pixels: Tensor) -> Tensor:
        """Reconstruction of the images, or of a zoomed and shifted window from latents resampled alike."""
        config = self.config
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(not config.freeze_encoder):
            latents = posterior_mean(self.vae, pixels)
        latents = self.norm(latents.float())
        latents = latents + config.latent_noise * torch.randn_like(latents)
        if torch.rand(()) < config.equivariance:
            factor = pixels.shape[-1] // latents.shape[-1]
            size = latents.shape[-1] - int(torch.randint(0, 3, ()))
            zoom = float(torch.empty(()).uniform_(size / latents.shape[-1], 1.5))
            shift = (float(torch.empty(()).uniform_(-1, 1)), float(torch.empty(()).uniform_(-1, 1)))
            latents = resample_affine(latents, zoom, shift, size)
            pixels = resample_affine(pixels, zoom, shift, size * factor)
        with torch.autocast("cpu", torch.bfloat16):
            output = decode(self.vae, latents)
        return reconstruction_loss(output, pixels, config.gradient_weight)

    def set_rates(self) -> None:
        """Linear warm-up, then half a cosine to zero."""
        warm = min(1.0, (self.progress + 1e-4) / max(self.config.warmup, 1e-4))
        rate = warm * 0.5 * (1 + math.cos(math.pi * self.progress))
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, self.base_rates, strict=True):
            group["lr"] = base * rate

    def update(self, pixels: Tensor) -> float:
        """One optimiser step; returns the loss."""
        self.set_rates()
        params = [param for param in self.vae.parameters() if param.requires_grad]

        def shard(part: Tensor) -> tuple[float, tuple[Tensor, ...]]:
            loss = self.loss(part) * (len(part) / len(pixels))
            return loss.item(), torch.autograd.grad(loss, params)

        losses, gradients = zip(*self.workers.map(shard, pixels.chunk(self.config.threads)), strict=True)
        for param, *parts in zip(params, *gradients, strict=True):
            param.grad = torch.stack(parts).sum(0)
        nn.utils.clip_grad_norm_(params, 1.0)
        for _ in self.workers.map(lambda optimizer: optimizer.step(), self.optimizers):
            pass
        self.step += 1
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        names, params = zip(*self.vae.named_parameters(), strict=True)
        torch._foreach_lerp_([self.average[name] for name in names], [p.detach() for p in params], 1 - decay)
        return sum(losses)

    def train(self, on_checkpoint: Callable[["Trainer"], None] | None = None) -> None:
        """Run until `progress` is 1; calls `on_checkpoint` every `checkpoint_minutes`."""
        self.vae.train()
        self.norm.train()
        losses: list[float] = []
        saved = self.seconds
        for pixels in self.batches():
            if self.progress >= 1:
                return
            start = time.perf_counter()
            losses.append(self.update(pixels))
            self.seconds += time.perf_counter() - start
            if len(losses) == 100:
                self.history.append({"step": self.step, "minutes": self.seconds / 60, "loss": float(np.mean(losses))})
                print(json.dumps(self.history[-1]), flush=True)
                losses = []
            if on_checkpoint and self.seconds - saved > 60 * self.config.checkpoint_minutes:
                saved = self.seconds
                on_checkpoint(self)

    @torch.no_grad()
    def export(self) -> AutoencoderKL:
        """The averaged network in float32, its latents normalised per channel over 2048 crops of the pool.

        With a frozen encoder they are normalised already and stay as they are.
        """
        vae = build_autoencoder(self.config)
        vae.load_state_dict(self.average)
        vae.eval()
        if self.config.freeze_encoder:
            return vae
        sample = self.pool[:: max(1, len(self.pool) // 2048)][:2048]
        latents = torch.cat([posterior_mean(vae, to_pixels(part)) for part in np.array_split(sample, 16) if len(part)])
        # The decoder was trained on normalised latents, so there is nothing to invert.
        fold_normalization(vae, latents.mean((0, 2, 3)), latents.std((0, 2, 3)), invert=False)
        return vae

    def save(self, path: Path) -> None:
        """Write the state atomically."""
        state = {
            "vae": self.vae.state_dict(),
            "norm": self.norm.state_dict(),
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": {"step": self.step, "seconds": self.seconds, "history": self.history},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def restore(self, path: Path) -> None:
        """Continue from a file written by `save`."""
        state = torch.load(path, weights_only=True)
        self.vae.load_state_dict(state["vae"])
        self.norm.load_state_dict(state["norm"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.history = state["progress"]["history"]


# ---------------------------------------------------------------------------------------------- evaluation


def psnr(output: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, "b"]:
    """PSNR per image in dB, pixels in [-1, 1], after clamping and rounding to 8 bits."""
    rounded = output.float().clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)
    error = ((rounded - target) / 2).square().flatten(1).mean(1)
    return -10 * error.clamp_min(1e-10).log10()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pixels: Float[Tensor, "b 3 h w"], batch: int = 64) -> Float[Tensor, "b 3 h w"]:
    """Decode the posterior mean of every image."""
    parts = [decode(vae, posterior_mean(vae, part.to(vae.dtype))).float() for part in pixels.split(batch)]
    return torch.cat(parts).clamp(-1, 1)


def patches(pixels: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "n d"]:
    """Non-overlapping size x size patches as rows."""
    return F.unfold(pixels, size, stride=size).transpose(1, 2).flatten(0, 1)


def pca_reconstruct(
    train: Float[Tensor, "n c h w"], test: Float[Tensor, "b c h w"], components: int, size: int = 8
) -> Float[Tensor, "b c h w"]:
    """Best linear code of equal latent size: the first principal components of the patches of `train`."""
    rows = patches(train, size).double()
    mean = rows.mean(0)
    basis = torch.linalg.eigh((rows - mean).T @ (rows - mean))[1][:, -components:]
    coded = (patches(test, size).double() - mean) @ basis @ basis.T + mean
    folded = coded.float().unflatten(0, (test.shape[0], -1)).transpose(1, 2)
    return F.fold(folded, tuple(test.shape[-2:]), size, stride=size).clamp(-1, 1)


def count_flops(vae: AutoencoderKL) -> tuple[int, int]:
    """Floating point operations (two per multiply-add) of encoding and of decoding one 64x64 frame."""
    from torch.utils.flop_counter import FlopCounterMode

    pixels = torch.zeros(1, 3, PIXELS, PIXELS, dtype=vae.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        latents = posterior_mean(vae, pixels)
    with torch.no_grad(), FlopCounterMode(display=False) as decoder:
        decode(vae, latents)
    return encoder.get_total_flops(), decoder.get_total_flops()


@torch.no_grad()
def encode_seconds(vae: AutoencoderKL, batch: int = 64, repeats: int = 3) -> float:
    """Seconds to encode one frame of a batch under bf16 autocast, the best of `repeats`."""
    pixels = torch.zeros(batch, 3, PIXELS, PIXELS).contiguous(memory_format=torch.channels_last)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            posterior_mean(vae, pixels)
        times.append(time.perf_counter() - start)
    return min(times) / batch


def evaluate(vae: AutoencoderKL, pool: np.ndarray, images: np.ndarray) -> dict[str, Any]:
    """PSNR on `images` (n, 64, 64, 3), PCA of equal latent size beside it, latent statistics and cost."""
    pixels = to_pixels(images)
    scores = psnr(reconstruct(vae, pixels), pixels)
    linear = psnr(pca_reconstruct(to_pixels(pool[:4096]), pixels, vae.config["latent_channels"]), pixels)
    with torch.no_grad():
        latents = posterior_mean(vae, pixels.to(vae.dtype)).float()
    encoder, decoder = count_flops(vae)
    return {
        "images": len(images),
        "psnr": scores.mean().item(),
        "psnr_minimum": scores.min().item(),
        "psnr_pca": linear.mean().item(),
        "latent_mean_largest": latents.mean((0, 2, 3)).abs().max().item(),
        "latent_std_range": [latents.std((0, 2, 3)).min().item(), latents.std((0, 2, 3)).max().item()],
        "parameters": sum(p.numel() for p in vae.parameters()),
        "encoder_gflop": encoder / 1e9,
        "decoder_gflop": decoder / 1e9,
    }


def comparison(vae: AutoencoderKL, images: np.ndarray, columns: int = 10, magnify: int = 2) -> np.ndarray:
    """Originals over reconstructions as one uint8 RGB picture."""
    images = images[: 3 * columns]
    output = reconstruct(vae, to_pixels(images)).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = []
    for start in range(0, len(images) - len(images) % columns, columns):
        rows += [np.concatenate(part[start : start + columns], 1) for part in (images, output)]
    if not rows:
        rows = [np.concatenate(part, 1) for part in (images, output)]
    return np.concatenate(rows).repeat(magnify, 0).repeat(magnify, 1)


def save_autoencoder(vae: AutoencoderKL, folder: Path) -> AutoencoderKL:
    """Write the network in fp16 (`config.json`, safetensors) and return it as read back, in float32."""
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    vae.half().save_pretrained(folder, safe_serialization=True)
    vae.float().load_state_dict(state)
    return AutoencoderKL.from_pretrained(folder).float().eval()


# ------------------------------------------------------------------------------------------------- command


def prepare_pool(config: AutoencoderTraining, index: dict[str, list[Path]]) -> np.ndarray:
    """The pool of crops, rendered once and kept in `output/pool.npy`."""
    path = config.output / "pool.npy"
    if path.is_file():
        pool = np.load(path)
        if len(pool) == config.pool:
            return pool
    objects = [read_rgba(file) for file in index["objects"]]
    pool = render_pool(index["train"], objects, config.pool, np.random.default_rng(config.seed))
    config.output.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, pool)
    os.replace(partial, path)
    return pool


def finish(trainer: Trainer, splits: dict[str, np.ndarray]) -> dict[str, Any]:
    """Export to `output/vae` in fp16 and evaluate what was read back on every split."""
    output = trainer.config.output
    exported = trainer.export()
    vae = save_autoencoder(exported, output / "vae")
    results: dict[str, Any] = {
        name: evaluate(vae, trainer.pool, images) for name, images in splits.items() if len(images)
    }
    results |= {
        "steps": trainer.step,
        "frames": trainer.step * trainer.config.batch_size,
        "minutes": trainer.seconds / 60,
        "bytes": (output / "vae" / "diffusion_pytorch_model.safetensors").stat().st_size,
        "encode_ms_per_frame": 1e3 * encode_seconds(vae),
        "threads": trainer.config.threads,
        "history": trainer.history,
    }
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(trainer.config).items()}
    (output / "training.json").write_text(json.dumps(settings, indent=1) + "\n")
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def main(config: AutoencoderTraining) -> dict[str, Any]:
    """Train (or resume `output/checkpoint.pt`), export, evaluate; returns the content of `results.json`."""
    torch.set_num_threads(1)  # shards of the batch run in parallel instead: one meeting of the threads a step
    index = read_index(config.photos)
    trainer = Trainer(config, prepare_pool(config, index))
    checkpoint = config.output / "checkpoint.pt"
    if checkpoint.is_file():
        trainer.restore(checkpoint)
    splits = {
        name: np.stack([center_crop(read_rgb(path)) for path in index[name]])
        for name in ("validation", "heldout")
        if index[name]
    }

    def on_checkpoint(trainer: Trainer) -> None:
        trainer.save(checkpoint)
        results = finish(trainer, {name: splits[name] for name in splits if name == "validation"})
        print(json.dumps({"minutes": trainer.seconds / 60, "validation": results.get("validation")}), flush=True)

    trainer.train(on_checkpoint)
    trainer.save(checkpoint)
    results = finish(trainer, splits)
    shown = splits.get("heldout", splits.get("validation"))
    if shown is not None:
        picture = comparison(AutoencoderKL.from_pretrained(config.output / "vae").float(), shown)
        cv2.imwrite(str(config.output / "comparison.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(json.dumps({k: v for k, v in results.items() if k != "history"}, indent=1))
    return results


if __name__ == "__main__":
    import tyro

    main(tyro.cli(AutoencoderTraining))
