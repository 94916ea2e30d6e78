"""The training loop: clips and captions in, a folder that `TripPipeline.from_pretrained` loads out.

    RUN/config.json          every choice of the run
    RUN/log.jsonl            one record a step
    RUN/checkpoints/step-N/  to resume from
    RUN/validation/          filmstrips of the first clips; RUN/trackers/ those of tensorboard and others
    RUN/final/               the pipeline, with the averaged weights

Everything drawn in step n depends on (seed, n) alone: timesteps, noise, dropout, batches, learning rate. A run
that is killed and resumed therefore ends with the same weights, and processes share one global batch.
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trip.condition import still
from trip.data.sources import CachedClips, Source
from trip.denoiser import TripDenoiser
from trip.pipeline import TripPipeline
from trip.schedule import noise_levels
from trip.training.batches import Batch, Faults, clips_sigma, encode, make_loader
from trip.training.checkpoint import load_checkpoint, save_checkpoint
from trip.training.config import TrainingConfig
from trip.training.objective import Noising, Objective, draw_timesteps, trip_loss
from trip.training.optimizers import make_optimizers
from trip.training.parts import build_pipeline, check_parts, choose_trainable, load_start, own_fusion, trained
from trip.training.sharding import local, whole
from trip.training.text_adapter import warm_start
from trip.training.zero import WholeMoments


@dataclass
class Run:
    """What training changes, and where it stands.

    Attributes:
        config: every choice. accelerator: the processes and devices.
        pipeline: all parts; its `unet` and `fusion` are those of `denoiser`.
        denoiser: the network, not wrapped. model: the same, wrapped by accelerate.
        sigma: the table that the loss is weighted with.
        weights: the parameters that are trained, by name. ema: their moving averages, float32.
        optimizers, peaks: and the peak learning rate of each of their groups.
        step: updates made. skipped: of them left out for a loss that was not finite; bad: the last ones in a row.
        seconds: time spent, over all resumptions.
        scaler: of the loss, with mixed_precision "fp16".
    """

    config: TrainingConfig
    accelerator: Accelerator
    pipeline: TripPipeline
    denoiser: TripDenoiser
    model: nn.Module
    sigma: Tensor
    weights: dict[str, nn.Parameter]
    ema: dict[str, Tensor]
    optimizers: list[Any]
    peaks: list[list[float]]
    step: int = 0
    skipped: int = 0
    bad: int = 0
    seconds: float = 0.0
    scaler: Any = None
    faults: Faults = field(default_factory=Faults)


# ----------------------------------------------------------------------------------------------------- start


def check_cache(source: Source, vae: Any) -> None:
    """Raise ValueError for cached latents that the autoencoder cannot have made."""
    if not isinstance(source, CachedClips):
        return
    found, wanted = source.clips.latent_shape[0], vae.config["latent_channels"]
    if found != wanted:
        raise ValueError(
            f"the cache {source.clips.folder} holds latents of {found} channels and the autoencoder has {wanted}; name "
            "the autoencoder that it was made with by --vae"
        )


def make_pipeline(config: TrainingConfig, source: Source, device: torch.device) -> tuple[TripPipeline, Tensor]:
    """The pipeline to train, and sigma: its fusion's, or where that has none the clips'.

    Raises:
        ValueError: parts that do not fit each other or the clips.
    """
    check_parts(config)
    start = load_start(config)
    vae, own = start.components["vae"].to(device), own_fusion(config, start)
    check_cache(source, vae)
    known = own is not None and "sigma" in own.config
    sigma = None if known else clips_sigma(source, config, vae, device)
    pipeline = build_pipeline(config, start, sigma)
    table = pipeline.fusion.table("sigma") if "sigma" in pipeline.fusion.config else sigma
    assert table is not None
    return pipeline, table


def start_run(config: TrainingConfig, source: Source, accelerator: Accelerator) -> Run:
    """Make the pipeline, and hand the network to accelerate.

    Raises:
        ValueError: clips longer than the fusion's tables, or parts that do not fit each other.
    """
    pipeline, sigma = make_pipeline(config, source, accelerator.device)
    choose_trainable(pipeline.unet, pipeline.fusion, config)
    if config.warm_start_text:
        warm_start_text(pipeline, config)
    if config.gradient_checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(accelerator.device)
    denoiser = pipeline.denoiser.train()
    parts = [(denoiser.backbone, config.unet_lr), (denoiser.fusion, config.fusion_lr)]
    made = make_optimizers(parts, config.optimizer, config.weight_decay)
    model, *optimizers = accelerator.prepare(denoiser, *(optimizer for optimizer, _ in made))
    weights = trained(denoiser)
    return Run(
        config=config,
        accelerator=accelerator,
        pipeline=pipeline,
        denoiser=denoiser,
        model=model,
        sigma=sigma.to(accelerator.device),
        weights=weights,
        ema={name: weight.detach().float().clone() for name, weight in weights.items()},
        optimizers=optimizers,
        peaks=[rates for _, rates in made],
        scaler=accelerator.scaler,
    )


def warm_start_text(pipeline: TripPipeline, config: TrainingConfig) -> None:
    """See `trip.training.text_adapter`.

    Raises:
        ValueError: a UNet without the pooled text embedding.
    """
    embedding = pipeline.unet.text_embed
    if embedding is None:
        raise ValueError("warm_start_text needs unet.pooled_text_embedding=True; set it, or switch the warm start off")

    def features(captions: list[str]) -> Tensor:
        states, _ = pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
        assert states is not None
        return states

    warm_start(embedding, features, config.seed)


def resume(run: Run, path: Path) -> None:
    """Go on where the checkpoint was made."""
    counters = load_checkpoint(path, run_tensors(run), plain(run.optimizers))
    run.step, run.skipped, run.bad = counters["step"], counters["skipped"], counters["bad"]
    run.seconds = counters["seconds"]
    if run.scaler is not None and counters.get("scaler"):
        run.scaler.load_state_dict(counters["scaler"])


def save(run: Run, folder: Path) -> Path:
    """Write the checkpoint of the current step; all processes call it, the first one writes."""
    counters: dict[str, Any] = {name: getattr(run, name) for name in ("step", "skipped", "bad", "seconds")}
    counters["scaler"] = None if run.scaler is None else run.scaler.state_dict()
    keep, write = run.config.keep_checkpoints, run.accelerator.is_main_process
    return save_checkpoint(folder, run_tensors(run), plain(run.optimizers), counters, keep, write)


def run_tensors(run: Run) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds besides the optimizers' moments."""
    return {"model": {name: weight.detach() for name, weight in run.weights.items()}, "ema": run.ema}


def plain(optimizers: list[Any]) -> list[Any]:
    """The optimizers inside accelerate's, as torch's are read and written."""
    inner = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
    return [WholeMoments(optimizer) if hasattr(optimizer, "bit16_groups") else optimizer for optimizer in inner]


# ------------------------------------------------------------------------------------------------------ loop


def training_loop(run: Run, source: Source) -> Iterator[dict]:
    """Train from the run's step to the last; yields one record a step, with losses where it is logged.

    Raises:
        ValueError: losses that were not finite several times in a row.
    """
    began = time.perf_counter()
    loader = make_loader(source, run.config, run.step, run.accelerator.process_index, run.accelerator.num_processes)
    for samples in loader:
        arrived = time.perf_counter()
        notes = run.faults.add(samples)
        record = train_step(run, encode(samples, run.pipeline, run.accelerator.device))
        took = time.perf_counter() - began
        run.step += 1
        run.seconds += took
        timing = {"seconds": run.seconds, "step_seconds": took, "data_wait": (arrived - began) / took}
        kept = {"skipped": run.skipped, "faults": run.faults.counts, "notes": notes}
        yield {"step": run.step, **record, **timing, **kept}
        began = time.perf_counter()


def train_step(run: Run, batch: Batch) -> dict:
    """One update of weights and averages, left out where the loss is not finite; returns what it was, if it is logged.

    One number is fetched from the device: whether the gradients are finite.
    """
    config, accelerator = run.config, run.accelerator
    factor = learning_rate(run.step, config)
    set_learning_rates(run.optimizers, run.peaks, factor)
    seed_layers(config.seed, run.step, accelerator)
    batch, noising = draw_step(run, batch)
    losses = accumulate(run, batch, noising)
    norm = clip_gradients(run)
    finite = math.isfinite(norm) or accelerator.mixed_precision == "fp16"  # there the scaler skips, and says so
    if finite:
        for optimizer in run.optimizers:
            optimizer.step()
    finite = finite and not any(getattr(optimizer, "step_was_skipped", False) for optimizer in run.optimizers)
    if finite:
        update_ema(run.ema, run.weights, run.step, config.ema_decay)
    run.denoiser.zero_grad(set_to_none=run.model is run.denoiser)  # DistributedDataParallel's stay in its buckets
    logged, t = is_logged(run.step + 1, config), noising.timestep
    if logged or not finite:
        everywhere: Any = accelerator.gather((losses, t))
        losses, t = everywhere
    count_bad(run, losses, finite)
    if not logged:
        return {}
    rates = {name: rate * factor for name, rate in (("lr", config.unet_lr), ("lr_fusion", config.fusion_lr))}
    return {"loss": losses.mean().item(), "grad_norm": norm, **rates, **split(losses, t)}


def is_logged(step: int, config: TrainingConfig) -> bool:
    """Whether the update that ends in `step` gets a line in the log; the last one does."""
    return step % config.log_every == 0 or step == config.steps


def count_bad(run: Run, losses: Tensor, finite: bool) -> None:
    """Keep count of updates that were left out.

    Raises:
        ValueError: too many in a row.
    """
    run.skipped += not finite
    if not finite and scale_falls(run.scaler, losses):
        return
    run.bad = 0 if finite else run.bad + 1
    if run.bad >= run.config.largest_bad_run:
        raise ValueError(
            f"the loss or its gradients were not finite in {run.bad} updates in a row, up to step {run.step + 1} (loss "
            f"{losses.mean().item():.3g}); lower the learning rates, or train with mixed_precision 'bf16' or 'no'; "
            "checkpoints are kept"
        )


def scale_falls(scaler: Any, losses: Tensor) -> bool:
    """Whether only the scaled gradients overflowed: fp16's scale starts high, and comes down until they do not."""
    return scaler is not None and bool(losses.isfinite().all()) and scaler.get_scale() >= 1


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Factor of the peak learning rate: linear warm-up, the peak, then half a cosine down to `final_lr`."""
    warmup = min(1.0, (step + 1) / config.warmup_steps)
    start = config.steps * (1 - config.decay)
    progress = min(1.0, max(0.0, step - start) / max(config.steps - start, 1))
    return warmup * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rates(optimizers: list[Any], peaks: list[list[float]], factor: float) -> None:
    """Scale every parameter group's peak learning rate."""
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor


def seed_layers(seed: int, step: int, accelerator: Accelerator) -> None:
    """Dropout of a step depends on (seed, step, process), also after a resume."""
    torch.manual_seed((seed * 1_000_003 + step) * accelerator.num_processes + accelerator.process_index)


def draw_step(run: Run, batch: Batch) -> tuple[Batch, Noising]:
    """The batch with images and texts as this step spoils them, and its noising.

    They are this process's share of the global batch's draws, which depend on (seed, step) alone.
    """
    config, accelerator = run.config, run.accelerator
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + run.step)
    size, steps = config.batch_size, run.pipeline.scheduler.config["num_train_timesteps"]
    t = draw_timesteps(size, steps, generator, config.timestep_power)
    eps = torch.randn(size, *batch.latents.shape[1:], generator=generator)
    seen = (torch.rand(size, generator=generator) >= config.image_dropout).float()
    width = batch.text.shape[-1]
    shift = config.text_noise / width**0.5 * torch.randn(size, 1, width, generator=generator)
    share = slice(accelerator.process_index, None, accelerator.num_processes)
    t, eps, seen, shift = (x[share].to(accelerator.device) for x in (t, eps, seen, shift))
    timestep, signal, noise = noise_levels(run.pipeline.scheduler, t)
    spoiled = Batch(batch.latents, blur_text(batch.text, shift), seen)
    return spoiled, Noising(timestep=timestep, eps=eps, signal=signal, noise=noise)


def blur_text(text: Tensor, shift: Tensor) -> Tensor:
    """Tokens b n d with `shift`, times their mean length, added to all but the padding, which is zeros."""
    lengths = text.norm(dim=-1, keepdim=True)
    tokens = (lengths > 0).float()
    mean = lengths.sum(1, keepdim=True) / tokens.sum(1, keepdim=True).clamp_min(1)
    return text + mean * shift * tokens


def accumulate(run: Run, batch: Batch, noising: Noising) -> Tensor:
    """Gradients of the batch's mean loss, in `accumulation` passes; returns the losses b f, detached."""
    config, accelerator, losses = run.config, run.accelerator, []
    objective = Objective(
        sigma=run.sigma,
        kind=config.objective,
        min_snr_gamma=config.min_snr_gamma,
        balance_clips=config.balance_clips,
    )
    passes = [*zip(chunks(batch, config.accumulation), chunks(noising, config.accumulation), strict=True)]
    for number, (part, noised) in enumerate(passes, 1):
        accelerator.sync_gradients = number == len(passes)  # where DeepSpeed steps
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(run.model):
            condition = still(part.latents[:, :, :1].float(), keep=part.seen, text=part.text)
            loss = trip_loss(run.model, part.latents, condition, noised, objective)
            accelerator.backward(loss.mean() * (len(part.latents) / len(batch.latents)))
        losses.append(loss.detach())
    return torch.cat(losses)


def chunks(values: Any, count: int) -> list[Any]:
    """A `Batch` or a `Noising` in `count` parts."""
    parts = {name: value.chunk(count) for name, value in vars(values).items() if value is not None}
    return [replace(values, **dict(zip(parts, part, strict=True))) for part in zip(*parts.values(), strict=True)]


def clip_gradients(run: Run) -> float:
    """Scale the gradients down to a norm of `grad_clip`; returns the norm before."""
    norm = run.accelerator.clip_grad_norm_(list(run.weights.values()), run.config.grad_clip)
    return float("nan") if norm is None else float(whole(torch.as_tensor(norm)))


@torch.no_grad()
def update_ema(ema: dict[str, Tensor], weights: dict[str, nn.Parameter], step: int, decay: float) -> None:
    """ema <- d ema + (1 - d) weights, with d ramped up over the first steps."""
    if not ema:
        return
    decay = min(decay, (1 + step) / (10 + step))
    now = [local(weights[name].detach()).float() for name in ema]
    torch._foreach_lerp_([local(average) for average in ema.values()], now, 1 - decay)


def split(losses: Tensor, t: Tensor) -> dict[str, Any]:
    """Mean loss of each quarter of [0, 1000) that the batch has clips of, and of each frame but the first."""
    quarters = (t // 250).clamp_max(3)
    by_time = {f"loss_t{q}": losses[quarters == q].mean().item() for q in range(4) if (quarters == q).any()}
    return {**by_time, "loss_frames": [round(x, 5) for x in losses.mean(0)[1:].tolist()]}
