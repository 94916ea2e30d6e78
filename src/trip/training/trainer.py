"""Training loop: latents and captions in, a folder that `TripPipeline.from_pretrained` loads out.

`python -m trip.training.trainer --config FILE --output-dir RUN` (or the same under `accelerate launch`) starts or
resumes RUN: config.json, log.jsonl, checkpoint/ (the newest) and, at the end, final/.
"""

import copy
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import tyro
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from trip.data.captions import draw_caption
from trip.data.latents import LatentClips, batched, shuffled
from trip.denoiser import TripDenoiser
from trip.noise_fusion import TemporalNoiseFusion
from trip.noise_prior import vp_coefficients
from trip.pipeline import TripPipeline
from trip.residual_unet import PooledTextEmbedding, ResidualUNet3D
from trip.text import encode_text, load_sentence_encoder
from trip.training.checkpoint import load_checkpoint, save_checkpoint
from trip.training.config import TrainingConfig
from trip.training.objective import draw_timesteps, measure_sigma, trip_loss
from trip.training.optimizers import make_optimizers
from trip.training.text_adapter import warm_start


@dataclass(frozen=True)
class Batch:
    """Latents b c f h w in float32 and text features b n d."""

    latents: Tensor
    text: Tensor


def make_scheduler() -> DDIMScheduler:
    """Stable Diffusion's schedule, sampled over the whole range of t."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )


class CaptionedLatents:
    """Batches of cached clips with freshly drawn captions.

    A clip of a motion that has an opposite is played backwards half of the time, with the opposite's caption: the
    last frame becomes the image. Draws depend on (seed, position) alone: a resumed run sees the same batches, and
    each of several processes takes its share of the same global batch.
    """

    def __init__(self, config: TrainingConfig, clips: LatentClips, accelerator: Accelerator):
        self.config, self.clips = config, clips
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.indices = [i for i in range(len(clips)) if self.keeps(i)]
        self.tokenizer, self.text_encoder = load_sentence_encoder()

    def batches(self, start: int) -> Iterator[Batch]:
        """Endless batches from batch number `start`; this process's share of each."""
        size, seed = self.config.batch_size, self.config.seed
        order = shuffled(len(self.indices), seed, start * size)
        for number, indices in enumerate(batched(order, size), start):
            rng = np.random.default_rng((seed, 1, number))
            drawn = [self.draw(self.indices[i], rng) for i in indices][self.rank :: self.world]
            latents, captions = zip(*drawn, strict=True)
            yield Batch(torch.stack(latents).float(), self.encode(list(captions)))

    def keeps(self, index: int) -> bool:
        """Whether a clip is trained on: `config.shares` keeps a part of the clips of a kind."""
        share = self.config.shares.get(self.clips.descriptions[index]["kind"], 1.0)
        return (index * 0.6180339887) % 1.0 < share

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Tensor, str]:
        """One clip, forwards or backwards, with a caption or none."""
        latents, about = self.clips[index]
        kind = about["kind"]
        if about["reverse_kind"] and rng.random() < 0.5:
            latents, kind = latents.flip(1), about["reverse_kind"]
        caption = draw_caption(kind, rng, subject=about["subject"], speed=about["speed"])
        return latents, "" if rng.random() < self.config.caption_dropout else caption

    def encode(self, captions: list[str]) -> Tensor:
        """Text features of a list of captions."""
        return encode_text(self.tokenizer, self.text_encoder, captions, max_length=32, zero_padding=True)


def build_denoiser(config: TrainingConfig, clips: LatentClips) -> TripDenoiser:
    """A fresh network, its fusion holding sigma_i measured on (up to 2,000 of) the clips to train on."""
    chosen = np.linspace(0, len(clips) - 1, min(len(clips), 2000)).astype(int)
    latents = torch.stack([clips[int(i)][0] for i in chosen]).float()
    sigma = measure_sigma(latents - latents[:, :, :1]).tolist()
    torch.manual_seed(config.seed)
    unet = ResidualUNet3D(**config.unet)
    return TripDenoiser(unet, TemporalNoiseFusion(sigma=sigma, **config.fusion))


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Factor of the peak learning rate: linear warm-up, then cosine down to `final_lr`."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    progress = min(1.0, step / config.steps)
    return warmup * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """ema <- d ema + (1 - d) model, with d ramped up over the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


@dataclass(frozen=True)
class Noising:
    """The drawn step of every clip: timestep t, noise eps, and 0 in `keep` where the image is dropped."""

    t: Tensor
    eps: Tensor
    keep: Tensor


def draw_noising(step: int, shape: torch.Size, scheduler, config: TrainingConfig, rank: int, world: int) -> Noising:
    """This process's share of the global batch's draws, which depend on (seed, step) alone."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    size = config.batch_size
    t = draw_timesteps(size, scheduler.config.num_train_timesteps, generator, config.timestep_power)
    eps = torch.randn(size, *shape[1:], generator=generator)
    keep = (torch.rand(size, generator=generator) >= config.image_dropout).float()
    return Noising(*(x[rank::world] for x in (t, eps, keep)))


def training_loop(
    denoiser: TripDenoiser,
    data: CaptionedLatents,
    config: TrainingConfig,
    run: Path,
    accelerator: Accelerator,
) -> Iterator[dict]:
    """Train from the run's checkpoint, or from the start; yields one record a step, leaves the EMA in `denoiser`."""
    ema = copy.deepcopy(denoiser).requires_grad_(False)
    parts = [(denoiser.backbone, config.unet_lr), (denoiser.fusion, config.fusion_lr)]
    optimizers, peaks = zip(*make_optimizers(parts, config.optimizer, config.weight_decay), strict=True)
    modules = {"model": denoiser, "ema": ema}
    counters = load_checkpoint(run / "checkpoint", modules, list(optimizers)) or {"step": 0, "seconds": 0.0}
    scheduler, sigma = make_scheduler(), denoiser.fusion.table("sigma")
    wrapped = accelerator.prepare(denoiser)
    saved = started = time.perf_counter()
    spent = counters["seconds"]
    for step, batch in zip(range(counters["step"], config.steps), data.batches(counters["step"]), strict=False):
        set_learning_rates(optimizers, peaks, learning_rate(step, config))
        torch.manual_seed((config.seed * 1_000_003 + step) * data.world + data.rank)  # dropout, also after a resume
        drawn = draw_noising(step, batch.latents.shape, scheduler, config, data.rank, data.world)
        signal, noise = vp_coefficients(scheduler.alphas_cumprod[drawn.t])
        loss = trip_loss(
            wrapped,
            batch.latents,
            batch.text,
            drawn.t,
            drawn.eps,
            signal,
            noise,
            sigma,
            config.objective,
            drawn.keep,
            config.min_snr_gamma,
            config.balance_clips,
        )
        accelerator.backward(loss.mean())
        norm = clip_gradients(accelerator, denoiser, config.grad_clip)
        if math.isfinite(norm):
            for optimizer in optimizers:
                optimizer.step()
            update_ema(ema, denoiser, step, config.ema_decay)
        denoiser.zero_grad(set_to_none=True)
        now = time.perf_counter()
        counters = {"step": step + 1, "seconds": spent + now - started}
        due = now - saved > config.checkpoint_seconds or step + 1 == config.steps
        if due and accelerator.is_main_process:
            save_checkpoint(run / "checkpoint", modules, list(optimizers), counters)
            saved = now
        yield {
            **counters,
            "loss": loss.mean().item(),
            "grad_norm": norm,
            **split_by_timestep(loss.detach(), drawn.t),
        }
    denoiser.load_state_dict(ema.state_dict())


def clip_gradients(accelerator: Accelerator, denoiser: TripDenoiser, limit: float) -> float:
    """Scale the gradients down to a norm of `limit`; returns the norm before."""
    norm = accelerator.clip_grad_norm_(denoiser.parameters(), limit)
    return float("nan") if norm is None else norm.item()


def set_learning_rates(optimizers, peaks, factor: float) -> None:
    """Scale every parameter group's peak learning rate."""
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def split_by_timestep(loss: Tensor, t: Tensor) -> dict[str, float]:
    """Mean loss of each quarter of [0, 1000) that the batch has clips of."""
    quarters = (t // 250).clamp_max(3)
    return {f"loss_t{q}": loss[quarters == q].mean().item() for q in range(4) if (quarters == q).any()}


def export_pipeline(denoiser: TripDenoiser, config: TrainingConfig, folder: Path) -> None:
    """Write the folder that `TripPipeline.from_pretrained` loads, in float16."""
    pipeline = TripPipeline(
        vae=AutoencoderKL.from_pretrained(config.vae),
        unet=denoiser.backbone,
        fusion=denoiser.fusion,
        scheduler=make_scheduler(),
        zero_text_padding=True,
        max_text_length=32,
        packaged_text_encoder=True,
        default_guidance_scale=config.guidance_scale,
    )
    pipeline.to(torch.float16).save_pretrained(folder)


def train(config: Path, output_dir: Path) -> None:
    """Start or resume a run.

    Args:
        config: JSON of a TrainingConfig. output_dir: the run's folder.
    """
    settings = TrainingConfig.load(config)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    output_dir.mkdir(parents=True, exist_ok=True)
    clips = LatentClips(settings.cache)
    denoiser = build_denoiser(settings, clips)
    data = CaptionedLatents(settings, clips, accelerator)
    if settings.warm_start_text and not (output_dir / "checkpoint").exists():
        embedding = denoiser.backbone.text_embed
        assert isinstance(embedding, PooledTextEmbedding), "warm_start_text needs unet.pooled_text_embedding"
        warm_start(embedding, data.encode, settings.seed)
    records = training_loop(denoiser, data, settings, output_dir, accelerator)
    if accelerator.is_main_process:
        settings.save(output_dir / "config.json")
        with (output_dir / "log.jsonl").open("a") as log:
            for record in records:
                report(record, settings, log)
        export_pipeline(denoiser, settings, output_dir / "final")
    else:
        for _ in records:
            pass


def report(record: dict, config: TrainingConfig, log: TextIO) -> None:
    """One line in the log a step, one on the terminal every `log_every`."""
    log.write(json.dumps(record) + "\n")
    if record["step"] % config.log_every == 0:
        log.flush()
        rate = config.batch_size * record["step"] / record["seconds"]
        print(f"step {record['step']}/{config.steps} loss {record['loss']:.4f} {rate:.1f} clips/s", flush=True)


if __name__ == "__main__":
    tyro.cli(train)
