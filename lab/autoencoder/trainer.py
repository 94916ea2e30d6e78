"""The training loop: network, moving average, optimisers and progress of one run."""

import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lab.autoencoder.config import AutoencoderTraining
from lab.autoencoder.crops import to_pixels
from lab.autoencoder.network import (
    build_autoencoder,
    decode,
    fold_normalization,
    load_widened,
    posterior_mean,
)
from lab.autoencoder.objective import reconstruction_loss, resample_affine
from trip.data.text import read_json
from trip.files import atomic_path
from trip.loading import load_autoencoder
from trip.training.checkpoint import moments, restore_moments
from trip.training.optimizers import MatrixMuon


def make_optimizers(vae: AutoencoderKL, config: AutoencoderTraining) -> list[torch.optim.Optimizer]:
    """Muon, in two halves that step in parallel, for the inner convolutions; AdamW for everything else."""
    edges = ("encoder.conv_in", "decoder.conv_out", "quant_conv", "post_quant_conv")
    named = [(name, param) for name, param in vae.named_parameters() if param.requires_grad]
    inner = [param for name, param in named if param.ndim >= 2 and not name.startswith(edges)]
    outer = [param for name, param in named if param.ndim < 2 or name.startswith(edges)]
    halves = inner[::2], inner[1::2]
    return [
        *(MatrixMuon(part, config.learning_rate, config.weight_decay, "original") for part in halves),
        torch.optim.AdamW(outer, lr=config.adam_learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class Trainer:
    """State of one run: network, moving average, optimisers, progress; `restore` continues a saved one."""

    def __init__(self, config: AutoencoderTraining, pool: np.ndarray):
        torch.manual_seed(config.seed)
        self.config, self.pool = config, pool
        self.vae = build_autoencoder(config)
        self.norm: nn.Module = nn.BatchNorm2d(config.latent_channels, affine=False, momentum=0.02)
        if config.initial is not None:
            load_widened(self.vae, load_autoencoder(config.initial))
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

    def save(self, folder: Path) -> None:
        """Write the state atomically: tensors in safetensors, progress in JSON."""
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            for name, state in self.tensors().items():
                save_file({key: value.contiguous() for key, value in state.items()}, temporary / f"{name}.safetensors")
            for index, optimizer in enumerate(self.optimizers):
                save_file(dict(moments(optimizer)), temporary / f"optimizer-{index}.safetensors")
            progress = {"step": self.step, "seconds": self.seconds, "history": self.history}
            (temporary / "progress.json").write_text(json.dumps(progress))

    def restore(self, folder: Path) -> None:
        """Continue from a folder written by `save`."""
        for name, state in self.tensors().items():
            saved = load_file(folder / f"{name}.safetensors")
            for key, value in state.items():
                value.copy_(saved[key])
        for index, optimizer in enumerate(self.optimizers):
            restore_moments(optimizer, folder / f"optimizer-{index}.safetensors")
        progress = read_json(folder / "progress.json")
        self.step, self.seconds, self.history = progress["step"], progress["seconds"], progress["history"]

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What is saved besides the optimizers' moments; learning rates follow from the progress."""
        return {"vae": self.vae.state_dict(), "norm": self.norm.state_dict(), "average": self.average}
