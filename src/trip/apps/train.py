"""`trip train`: one run, with what a person sees before and after it."""

import inspect
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState

from trip.apps.errors import EXIT_INTERRUPTED, quiet_models, say
from trip.apps.options import Train
from trip.data.sources import Source
from trip.files import atomic
from trip.noise_fusion import FUSIONS
from trip.opening import find_model
from trip.training.batches import encode, make_loader, open_source
from trip.training.config import TrainingConfig
from trip.training.folder import CONFIG, FINAL, FIRST_BATCH, check_folder, claimed, mark
from trip.training.memory import state_bytes
from trip.training.monitor import filmstrips, to_frames
from trip.training.run import about_captions, interrupted, make_accelerator
from trip.training.run import train as train_run
from trip.training.trainer import Run, start_run


def train(options: Train) -> int:
    """Train; returns the exit code.

    Raises:
        ValueError: settings that no run can have, data that cannot be read, a run that is there already.
    """
    if not options.debug:
        quiet_models()
    config, folder = options.settings, options.output_dir
    if options.fusion_kind is not None:
        config = with_fusion(config, options.fusion_kind)
    check_folder(folder)
    if config.initial is not None:
        find_model(config.initial, ("trip", "per-frame", "stills"), "initial")
    if options.dry_run:
        return dry_run(config, folder, options.cpu)
    tell_changes(config, folder, options.resume)
    try:
        finished = train_run(config, folder, resume_from=options.resume, quiet=options.quiet, cpu=options.cpu)
    except KeyboardInterrupt:
        say(f"interrupted; {interrupted(folder)}")
        return EXIT_INTERRUPTED
    if finished and PartialState().is_main_process:
        print(folder / FINAL)
    return 0


def with_fusion(config: TrainingConfig, kind: str) -> TrainingConfig:
    """The settings with a new fusion of another kind, which keeps those of its arguments that it has too."""
    if kind not in FUSIONS:
        raise ValueError(f"fusion-kind (={kind!r}) must be one of {', '.join(FUSIONS)}, or one of --fusion-module")
    accepted = inspect.signature(FUSIONS[kind].__init__).parameters
    kept = {name: value for name, value in config.fusion.items() if name in accepted}
    return replace(config, fusion={**kept, "kind": kind})


def tell_changes(config: TrainingConfig, folder: Path, resume: str | None) -> None:
    """Say in which settings a resumed run differs from what it was."""
    saved = folder / CONFIG
    if resume and saved.is_file() and (changes := TrainingConfig.load(saved).differences(config)):
        say(f"the run goes on with other settings than it had: {'; '.join(changes)}")


# --------------------------------------------------------------------------------------------------- dry run


def dry_run(config: TrainingConfig, folder: Path, cpu: bool) -> int:
    """Print what the run would be, and draw its first batch."""
    accelerator = make_accelerator(config, folder, cpu)
    source = open_source(config)
    run = start_run(config, source, accelerator)
    samples = next(iter(make_loader(source, config, 0)))
    batch = encode(samples, run.pipeline, accelerator.device)
    for line in facts(run, source, config, batch.latents):
        print(line)
    if line := about_captions(source, run.pipeline):
        say(line)
    shown = batch.latents[:8]
    with torch.no_grad():
        picture = filmstrips(list(to_frames(run.pipeline.decode_latents(shown))))
    for sample in samples[: len(shown)]:
        print(f"  {sample.caption!r}")
    if accelerator.is_main_process:
        with claimed(folder):
            mark(folder)
            with atomic(folder / FIRST_BATCH, "wb") as file:
                picture.save(file, "PNG")
        print(folder / FIRST_BATCH)
    return 0


def facts(run: Run, source: Source, config: TrainingConfig, latents: torch.Tensor) -> list[str]:
    """Sizes of the run, line by line."""
    parts = {"UNet": run.denoiser.backbone, "fusion": run.denoiser.fusion, "autoencoder": run.pipeline.vae}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    trained = sum(weight.numel() for weight in run.weights.values())
    clips, epochs = config.steps * config.batch_size, config.steps * config.batch_size / len(source)
    state = state_bytes(counts["UNet"] + counts["fusion"], trained, config.optimizer).total
    return [
        "parameters   " + ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items()),
        f"trained      {trained / 1e6:.2f} M ({config.trainable}), {config.optimizer}, {config.mixed_precision}",
        f"clips        {len(source):,} in the data, {clips:,} in {config.steps:,} steps of {config.batch_size} "
        f"({epochs:.2g} epochs)",
        f"latents      {' x '.join(map(str, latents.shape[1:]))} (c f h w), std {latents.std():.3f}",
        f"sigma        {' '.join(f'{x:.3f}' for x in run.sigma.tolist())}",
        f"memory       {state / 2**20:,.0f} MiB for weights, gradients, averages and moments; activations come on top",
    ]
