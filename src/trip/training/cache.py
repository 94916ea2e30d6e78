"""Encode clips once, for training.

A run that is killed goes on at the first missing shard, and encodes nothing that a whole shard holds. Worker processes
render and encode; one process, which holds the cache's lock, writes. Clip i depends on the source alone, never on
the number of processes.
"""

import json
import multiprocessing
import os
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trip.data.cache.latents import FAULTS, LatentClips, open_cache, shard_paths, write_empty_text, write_shard
from trip.data.sets.decoding import FAULTS as REASONS
from trip.data.sets.decoding import ClipFault
from trip.data.sources import ClipSource
from trip.data.text import parse_json, read_text
from trip.data.workers import Lost, guarded_map
from trip.files import lock_folder, write_text
from trip.training.encoders import CaptionEncoder, LatentEncoder

FAULT = {"shard": int, "index": int, "key": str, "reason": str, "message": str}
"""Fields of a line of faults.jsonl."""

LOST = {"hung": "too_slow", "crashed": "crashed"}
"""What is recorded of a clip that hangs or ends its process."""


@dataclass(frozen=True, kw_only=True)
class CacheReport:
    """What a cache holds after `fill_cache`.

    Attributes:
        clips: in the cache.
        encoded: of them, by this run.
        faults: clips left out, by reason.
    """

    clips: int
    encoded: int
    faults: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some consecutive clips of a shard; latents n f c h w, None where no clip is left."""

    latents: Tensor | None
    descriptions: list[dict]
    faults: list[dict]


def fill_cache(
    source: ClipSource,
    vae: Any,
    output: Path,
    *,
    text: CaptionEncoder | None = None,
    dtype: torch.dtype = torch.float16,
    precision: torch.dtype = torch.float32,
    device: str = "cpu",
    shard_size: int = 512,
    batch_size: int = 8,
    workers: int = 0,
    timeout: float = 300.0,
    on_clips: Callable[[int], object] = lambda clips: None,
) -> CacheReport:
    """Write every missing shard of a cache.

    Args:
        source: the clips. Those that fault are left out and recorded in faults.jsonl.
        vae: `AutoencoderKL` or `AutoencoderTiny`, float32; without workers it is moved to `device`.
        output: folder of the cache, new or of the same source, encoders and settings.
        text: encodes the captions of the source; None where they are drawn afresh, or encoded while training.
        dtype: of latents and text in the cache.
        precision: of the autoencoder, by autocast; float32 or bfloat16.
        device: of the autoencoder.
        shard_size: clips in a shard; a killed run loses at most the shards that were being made.
        batch_size: clips encoded at once.
        workers: processes, which share torch's threads; 0 encodes in this one, where a clip that crashes or hangs
            the decoder takes the run with it.
        timeout: seconds for a clip in a worker, start-up of the process included.
        on_clips: called with the number of clips done since the last call, first with those that are there.

    Raises:
        ValueError: a cache of something else, one that another process fills, values that the dtype cannot hold, or
            no clip that can be used.
    """
    encoder = LatentEncoder(vae=vae, dtype=dtype, precision=precision, device=device)
    about = {
        **source.fingerprint(),
        **encoder.describe(),
        **(text.describe() if text else {}),
        "shard_size": shard_size,
    }
    with lock_folder(output, "filled"):
        open_cache(output, about)
        faults = read_faults(output)
        write_faults(output, faults)
        if text is not None:
            write_empty_text(output, text([""])[0], dtype)
        missing = missing_shards(output, len(source), shard_size, faults)
        on_clips(len(source) - sum(map(len, missing.values())))
        encoded = 0
        parts = encode_parts(Task(source, encoder), missing, batch_size, workers, timeout)
        with closing(parts):
            for shard, done in whole_shards(parts, missing, batch_size, on_clips):
                faults += [{"shard": shard, **fault} for part in done for fault in part.faults]
                write_faults(output, faults)
                encoded += finish_shard(output, shard, done, text, dtype)
    return report(output, encoded, faults)


def read_faults(output: Path) -> list[dict]:
    """The faults of the whole shards.

    Raises:
        ValueError: the list is damaged.
    """
    path = output / FAULTS
    if not path.exists():
        return []
    faults = {}
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n") if path.stat().st_size else (), 1):
        fault = parse_json(line, f"{path} line {number}")
        if not (isinstance(fault, dict) and all(isinstance(fault.get(k), kind) for k, kind in FAULT.items())):
            raise ValueError(f"{path} line {number} is no fault; delete the cache and fill it again")
        if shard_paths(output, fault["shard"])[0].exists():
            faults[fault["index"]] = fault
    return list(faults.values())


def write_faults(output: Path, faults: list[dict]) -> None:
    """Before their shard, so that a shard that is there has all of its faults recorded."""
    if faults or (output / FAULTS).exists():
        write_text(output / FAULTS, "".join(json.dumps(fault) + "\n" for fault in faults))


def missing_shards(output: Path, clips: int, shard_size: int, faults: list[dict]) -> dict[int, range]:
    """Indices of the clips of every shard that is not there.

    Raises:
        ValueError: a shard was made when the source had fewer clips.
    """
    plan = {k: range(k * shard_size, min((k + 1) * shard_size, clips)) for k in range(-(-clips // shard_size))}
    there = [k for k in plan if shard_paths(output, k)[0].exists()]
    if there:  # of an older, shorter plan only the last shard can be short
        last = there[-1]
        lines = read_text(shard_paths(output, last)[1]).count("\n") + sum(f["shard"] == last for f in faults)
        if lines < len(plan[last]):
            name = shard_paths(output, last)[0].with_suffix(".*")
            raise ValueError(f"{name} was made of {lines} clips and {len(plan[last])} are wanted; delete it to go on")
    return {k: indices for k, indices in plan.items() if k not in set(there)}


# ------------------------------------------------------------------------------------------------- encoding


@dataclass(frozen=True)
class Task:
    """Render and encode some clips."""

    source: ClipSource
    encoder: LatentEncoder

    def __call__(self, indices: range) -> Part:
        clips, faults = [], []
        for index in indices:
            try:
                clips.append((index, self.source.clip(index)))
            except ClipFault as fault:
                faults.append({"index": index, "key": fault.key, "reason": fault.reason, "message": fault.message})
        latents = self.encoder([clip for _, clip in clips]) if clips else None
        return Part(latents=latents, descriptions=[{"key": c.key, **c.description} for _, c in clips], faults=faults)


class PickledTask:
    """A task for worker processes, which answers with pickled parts.

    Pickled beforehand: torch's own way between processes puts tensors into /dev/shm, which containers keep small.
    """

    def __init__(self, task: Task, threads: int):
        self.pickled, self.threads = pickle.dumps(task), threads
        self.task: Task | None = None

    def __call__(self, indices: range) -> bytes:
        if self.task is None:
            threading.Thread(target=end_with_parent, daemon=True).start()
            torch.set_num_threads(self.threads)
            self.task = pickle.loads(self.pickled)
        assert self.task is not None
        return pickle.dumps(self.task(indices))


def end_with_parent() -> None:
    """End a worker whose parent was killed, in the middle of a clip too: nobody waits for the result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def encode_parts(
    task: Task, missing: dict[int, range], batch_size: int, workers: int, timeout: float
) -> Generator[tuple[int, range, Part], None, None]:
    """(shard, indices, part) of all clips of the missing shards, parts of one shard in any order."""
    spans = [(shard, span) for shard, indices in missing.items() for span in split(indices, batch_size)]
    if workers < 1:
        yield from ((shard, span, task(span)) for shard, span in spans)
        return
    pickled = PickledTask(task, max(1, torch.get_num_threads() // workers))
    answers = guarded_map(pickled, [span for _, span in spans], workers=workers, timeout=timeout * batch_size)
    for number, answer in answers:
        shard, span = spans[number]
        yield shard, span, one_by_one(pickled, span, timeout) if isinstance(answer, Lost) else pickle.loads(answer)


def split(indices: range, size: int) -> list[range]:
    """Consecutive parts of `size`."""
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def one_by_one(task: PickledTask, indices: range, timeout: float) -> Part:
    """Clips one of which ended or held up its process: that one becomes a fault, the others are encoded."""
    parts: list[Part] = [Part(latents=None, descriptions=[], faults=[])] * len(indices)
    for number, answer in guarded_map(task, split(indices, 1), workers=1, timeout=timeout):
        parts[number] = lost_clip(indices[number], answer) if isinstance(answer, Lost) else pickle.loads(answer)
    return joined(parts)


def lost_clip(index: int, lost: Lost) -> Part:
    """The fault of a clip that nothing more is known of."""
    reason = LOST[lost.reason]
    fault = {"index": index, "key": f"clip {index}", "reason": reason, "message": REASONS[reason]}
    return Part(latents=None, descriptions=[], faults=[fault])


def joined(parts: list[Part]) -> Part:
    """Parts, in order, as one."""
    latents = [part.latents for part in parts if part.latents is not None]
    return Part(
        latents=torch.cat(latents) if latents else None,
        descriptions=[about for part in parts for about in part.descriptions],
        faults=[fault for part in parts for fault in part.faults],
    )


# -------------------------------------------------------------------------------------------------- writing


def whole_shards(
    parts: Iterator[tuple[int, range, Part]],
    missing: dict[int, range],
    batch_size: int,
    on_clips: Callable[[int], object],
) -> Iterator[tuple[int, list[Part]]]:
    """(shard, its parts in order) as soon as all of them are there."""
    waiting: dict[int, dict[int, Part]] = {}
    for shard, span, part in parts:
        waiting.setdefault(shard, {})[span.start] = part
        on_clips(len(span))
        if len(waiting[shard]) == len(split(missing[shard], batch_size)):
            done = waiting.pop(shard)
            yield shard, [done[start] for start in sorted(done)]


def finish_shard(output: Path, shard: int, parts: list[Part], text: CaptionEncoder | None, dtype: torch.dtype) -> int:
    """Write a shard; returns the number of its clips."""
    whole = joined(parts)
    if whole.latents is None:
        write_shard(output, shard, torch.empty(0, 0, 0, 0, 0), [])
        return 0
    features = None if text is None else text([caption_of(about) for about in whole.descriptions])
    write_shard(output, shard, whole.latents, whole.descriptions, text=features, dtype=dtype)
    return len(whole.descriptions)


def caption_of(about: dict) -> str:
    """The caption of a clip whose captions are fixed."""
    if "caption" not in about:
        raise ValueError(f"clip {about['key']!r} has no caption of its own; leave text out for synthetic clips")
    return about["caption"]


def report(output: Path, encoded: int, faults: list[dict]) -> CacheReport:
    """What is in the cache.

    Raises:
        ValueError: nothing but faults.
    """
    counts = dict(Counter(fault["reason"] for fault in faults))
    if faults and not any(path.stat().st_size for path in output.glob("clips-*.jsonl")):
        first = f"{faults[0]['key']}: {faults[0]['message']}"
        raise ValueError(f"none of the {len(faults)} clips can be used (the first: {first}); see {output / FAULTS}")
    return CacheReport(clips=len(LatentClips(output)), encoded=encoded, faults=counts)
