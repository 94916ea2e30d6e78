"""`trip data cache`: encode a data set once, for training."""

import os
from typing import Any

import torch
from torch import nn

from trip.apps.cache_options import DataCache
from trip.apps.data import read
from trip.apps.errors import quiet_models, say
from trip.apps.progress import progress
from trip.data.sets.decoding import Decoding
from trip.data.sets.examples import Example
from trip.data.sets.text_limit import TextLimit
from trip.data.sources import ClipSource, ExampleClips, SyntheticClips, drawn_motion, is_drawn
from trip.loading import load_autoencoder
from trip.opening import choose_device, load_pipeline
from trip.pipeline import TripPipeline
from trip.training.cache import CacheReport, fill_cache
from trip.training.encoders import CaptionEncoder

MOST_WORKERS = 4
DRAWN = 1000
"""Clips of synthetic motion where no number is given."""
DRAWN_HAS_NOT = ("variants", "fps", "layout", "video_column", "caption_column", "captions", "root", "schemes")

FALLBACK = 256, 256
"""(height, width) where neither the options nor the model say: the paper's size."""


def cache(options: DataCache) -> int:
    """Fill the cache and say what it holds; returns the exit code.

    Raises:
        ValueError: no readable data set, settings out of range, a model that cannot be loaded, or a cache of
            something else.
    """
    if not options.debug:
        quiet_models()
    check_counts(options)
    check_drawn(options)
    examples = [] if is_drawn(options.source) else read(options)[: options.count]
    device = choose_device(options.device)
    with progress(options, f"loading {options.model}", total=1) as bar:
        pipeline = load_pipeline(options.model, device=torch.device("cpu"), dtype=torch.float32)
        vae = pipeline.vae if options.vae is None else load_autoencoder(options.vae)
        bar.update()
    clips = open_clips(options, examples, decoding(options, pipeline))
    found = fill(options, clips, pipeline, vae, device)
    faults = ", ".join(f"{count} {reason}" for reason, count in found.faults.items())
    say(f"{found.clips} clips, {found.encoded} of them new; left out: {faults or 'none'}")
    print(options.output)
    return 0


def check_counts(options: DataCache) -> None:
    """Counts must be positive; 0 workers are none."""
    for name, least in (("batch_size", 1), ("shard_size", 1), ("variants", 1), ("count", 1), ("workers", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} (={value}) must be at least {least}")


def check_drawn(options: DataCache) -> None:
    """What synthetic motion has not would be passed over in silence."""
    if not is_drawn(options.source):
        return
    for name in DRAWN_HAS_NOT:
        value = getattr(options, name)
        if value != DataCache.__dataclass_fields__[name].default:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} (={value}) is of clips, and {options.source} is synthetic motion; leave it out")


def decoding(options: DataCache, pipeline: TripPipeline) -> Decoding:
    """How clips are decoded: at the model's size where the options name none, `FALLBACK` where it has none."""
    size = pipeline.default_size or FALLBACK
    size = size if options.size is None else (options.size, options.size)
    return Decoding(num_frames=options.num_frames, fps=options.fps or None, size=size)


def open_clips(options: DataCache, examples: list[Example], how: Decoding) -> ClipSource:
    """The examples' clips, or synthetic motion where there are none."""
    if examples:
        return ExampleClips(examples, how, variants=options.variants, seed=options.seed)
    settings = how.size[0], options.num_frames, options.seed
    split = {} if options.split is None else {"split": options.split}
    return SyntheticClips(drawn_motion(options.source, *settings, length=options.count or DRAWN, **split))


def fill(options: DataCache, clips: ClipSource, pipeline: TripPipeline, vae: Any, device: torch.device) -> CacheReport:
    """Encode with an autoencoder and a pipeline's text encoder; synthetic captions are drawn while training."""
    text = options.text and not isinstance(clips, SyntheticClips)
    workers = min(MOST_WORKERS, os.cpu_count() or 1) if options.workers is None else options.workers
    if text:
        nn.Module.to(pipeline.text_encoder, device)
    if isinstance(clips, ExampleClips):
        counts = TextLimit.of(pipeline.tokenizer, pipeline.max_text_tokens).count(clips.captions)
        if str(counts):
            say(str(counts))
    with progress(options, "encoding", total=len(clips)) as bar:
        return fill_cache(
            clips,
            vae,
            options.output,
            text=CaptionEncoder.of(pipeline) if text else None,
            dtype=getattr(torch, options.dtype),
            precision=getattr(torch, options.precision),
            device=str(device),
            shard_size=options.shard_size,
            batch_size=options.batch_size,
            workers=workers,
            on_clips=bar.update,
        )
