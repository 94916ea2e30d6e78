"""`trip data cache`: encode a data set once, for training."""

import os

import torch
from torch import nn

from trip.apps.animate import progress
from trip.apps.cache_options import DataCache
from trip.apps.data import read
from trip.apps.errors import quiet_models, say
from trip.apps.loading import choose_device, load_pipeline
from trip.data.clip_sources import ExampleClips
from trip.data.decoding import Decoding
from trip.pipeline import TripPipeline
from trip.training.cache import CacheReport, fill_cache
from trip.training.encoders import CaptionEncoder

MOST_WORKERS = 4


def cache(options: DataCache) -> int:
    """Fill the cache and say what it holds; returns the exit code.

    Raises:
        ValueError: no readable data set, settings out of range, a model that cannot be loaded, or a cache of
            something else.
    """
    if not options.debug:
        quiet_models()
    check_counts(options)
    clips = open_clips(options)
    device = choose_device(options.device)
    with progress(options, f"loading {options.model}", total=1) as bar:
        pipeline = load_pipeline(options.model, device=torch.device("cpu"), dtype=torch.float32)
        bar.update()
    found = fill(options, clips, pipeline, device)
    faults = ", ".join(f"{count} {reason}" for reason, count in found.faults.items())
    say(f"{found.clips} clips, {found.encoded} of them new; left out: {faults or 'none'}")
    print(options.output)
    return 0


def check_counts(options: DataCache) -> None:
    """Counts must be positive; 0 workers are none."""
    for name, least in (("batch_size", 1), ("shard_size", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} (={value}) must be at least {least}")


def open_clips(options: DataCache) -> ExampleClips:
    """The clips that the options name."""
    size = (options.size, options.size)
    decoding = Decoding(num_frames=options.num_frames, fps=options.fps or None, size=size)
    return ExampleClips(read(options), decoding, variants=options.variants, seed=options.seed)


def fill(options: DataCache, clips: ExampleClips, pipeline: TripPipeline, device: torch.device) -> CacheReport:
    """Encode with the parts of a pipeline."""
    workers = min(MOST_WORKERS, os.cpu_count() or 1) if options.workers is None else options.workers
    if options.text:
        nn.Module.to(pipeline.text_encoder, device)
    with progress(options, "encoding", total=len(clips)) as bar:
        return fill_cache(
            clips,
            pipeline.vae,
            options.output,
            text=CaptionEncoder.of(pipeline) if options.text else None,
            dtype=getattr(torch, options.dtype),
            precision=getattr(torch, options.precision),
            device=str(device),
            shard_size=options.shard_size,
            batch_size=options.batch_size,
            workers=workers,
            on_clips=bar.update,
        )
