"""Clips by index, of any kind: what a run trains on, and what a latent cache is made of.

==================  ===============  =======================================================
`SyntheticClips`    `is_drawn`       synthetic motion, rendered when asked for
`ExampleClips`      files, shards    decoded from a random start
`CachedClips`       a latent cache   what either of the others was encoded to
==================  ===============  =======================================================
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from trip.data.cache.latents import LatentClips, caption_problem
from trip.data.sets.decoding import ClipFault, Decoding, decode_example
from trip.data.sets.examples import Example
from trip.data.synthetic.bank import SceneBank
from trip.data.synthetic.captions import OPPOSITE, draw_caption
from trip.data.synthetic.procedural import procedural_bank
from trip.data.synthetic.scenes import Clip, SyntheticMotion

PROCEDURAL = "procedural"
"""Names the synthetic motion that needs no files."""


@dataclass(frozen=True, kw_only=True)
class RenderedClip:
    """A clip that is ready to be encoded.

    Attributes:
        key: names the clip in errors.
        frames: uint8 sRGB.
        description: JSON object; its caption, or kind, reverse_kind, speed and subject, which captions are drawn from.
    """

    key: str
    frames: UInt8[np.ndarray, "f H W 3"]
    description: dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """One clip: latents c f h w (float16), or pixels f H W 3 (uint8), with its caption and perhaps its features."""

    clip: Tensor
    caption: str
    text: Tensor | None = None
    faults: tuple[ClipFault, ...] = ()


@runtime_checkable
class Source(Protocol):
    """Clips to train on.

    Attributes:
        captions: those that are the clips' own, and not drawn.
    """

    @property
    def captions(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """A sample of a clip; the same for the same state of `rng`.

        Raises:
            ClipFault: it cannot be used.
        """
        ...


@runtime_checkable
class ClipSource(Protocol):
    """Clips to encode."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON object that differs where any clip or caption does."""
        ...

    def clip(self, index: int) -> RenderedClip:
        """One clip, the same at every call.

        Raises:
            ClipFault: it cannot be used.
        """
        ...


class SyntheticClips:
    """Synthetic motion, its captions drawn when it is trained on. More clips can be added to a cache of it."""

    captions: list[str] = []

    def __init__(self, motion: SyntheticMotion):
        self.motion = motion

    def __len__(self) -> int:
        return len(self.motion)

    def fingerprint(self) -> dict[str, Any]:
        motion = self.motion
        return {
            "source": "synthetic",
            "source_sha256": bank_sha256(motion.bank),
            "split": motion.split,
            "seed": motion.seed,
            "size": [motion.size, motion.size],
            "num_frames": motion.num_frames,
        }

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        clip = self.motion[index]
        return Sample(torch.from_numpy(clip.frames), clip.caption)

    def clip(self, index: int) -> RenderedClip:
        clip = self.motion[index]
        return RenderedClip(key=str(index), frames=clip.frames, description=describe_clip(clip))


def describe_clip(clip: Clip) -> dict[str, Any]:
    """What is needed to draw captions for a synthetic clip, in either direction of time."""
    plain = {k: v for k, v in clip.params.items() if isinstance(v, str | int | float | bool) or v is None}
    return {"kind": clip.kind, "reverse_kind": OPPOSITE.get(clip.kind), **plain}


def bank_sha256(bank: SceneBank) -> str:
    """SHA-256 of the pictures and objects of a bank, with their names."""
    photos = ((photo.name, photo.caption, photo.levels[0]) for photo in bank.photos)
    return _sha256([*photos, *((cutout.name, "", cutout.rgba) for cutout in bank.objects)])


class ExampleClips:
    """Clips of files or shards, each from `variants` random starts.

    Args:
        examples: what `trip.data.sets.datasets.read_examples` lists.
        decoding: rate, size and limits.
        variants: samples of every clip; variant v depends on (seed, key, v) alone.
        seed: of the starts.
    """

    def __init__(self, examples: list[Example], decoding: Decoding, *, variants: int = 1, seed: int = 0):
        if variants < 1:
            raise ValueError(f"variants (={variants}) must be at least 1")
        self.examples, self.decoding, self.variants, self.seed = examples, decoding, variants, seed
        self.captions = [example.caption for example in examples]

    def __len__(self) -> int:
        return len(self.examples) * self.variants

    def fingerprint(self) -> dict[str, Any]:
        """Hash of keys and captions, and the settings that change a sample; the clips' bytes are not read."""
        decoding = {name: value for name, value in asdict(self.decoding).items() if name != "timeout"}
        pairs = _sha256((example.key, example.caption, None) for example in self.examples)
        own = {"source": "examples", "source_sha256": pairs, "variants": self.variants, "seed": self.seed}
        return {**own, **decoding}

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        example = self.examples[index // self.variants]
        return Sample(torch.from_numpy(decode_example(example, self.decoding, rng)), example.caption)

    def clip(self, index: int) -> RenderedClip:
        place, variant = divmod(index, self.variants)
        example = self.examples[place]
        draw = hashlib.sha256(json.dumps([self.seed, example.key, variant]).encode()).digest()
        frames = decode_example(example, self.decoding, np.random.default_rng(int.from_bytes(draw, "big")))
        about = {"caption": example.caption, "variant": variant}
        return RenderedClip(key=example.key, frames=frames, description=about)


class CachedClips:
    """Clips of a latent cache; captions of synthetic ones are drawn afresh.

    A clip of a motion that has an opposite is played backwards half of the time, with the opposite's caption: the
    last frame becomes the image.
    """

    def __init__(self, clips: LatentClips, shares: dict[str, float]):
        self.clips = clips
        self.indices = []
        for i, about in enumerate(clips.descriptions):
            if problem := caption_problem(about):
                raise ValueError(f"clip {i} of {clips.folder} {problem}; fill the cache again")
            self.indices += [i] if kept(i, about.get("kind"), shares) else []
        if not self.indices:
            raise ValueError(f"shares (={shares}) leave no clip of {clips.folder}; raise one")

    @property
    def captions(self) -> list[str]:
        return [about["caption"] for about in self.clips.descriptions if "kind" not in about]

    def __len__(self) -> int:
        return len(self.indices)

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        index = self.indices[index]
        latents, about = self.clips[index]
        if "kind" not in about:
            return Sample(latents, about["caption"], self.clips.text(index))
        kind = about["kind"]
        if about.get("reverse_kind") and rng.random() < 0.5:
            latents, kind = latents.flip(1), about["reverse_kind"]
        return Sample(latents, draw_caption(kind, rng, subject=about.get("subject"), speed=about.get("speed")))


def kept(index: int, kind: str | None, shares: dict[str, float]) -> bool:
    """Whether clip `index` belongs to the part of its kind that is trained on; evenly spread."""
    return (index * 0.6180339887) % 1.0 < shares.get(kind or "", 1.0)


def is_drawn(data: str) -> bool:
    """Whether a source is synthetic motion, on pictures that are drawn too or on prepared photographs."""
    return data == PROCEDURAL or (Path(data) / "index.jsonl").is_file()


def drawn_motion(data: str, size: int, num_frames: int, seed: int, **options: Any) -> SyntheticMotion:
    """The synthetic motion of a source for which `is_drawn` holds; `options` of `SyntheticMotion`."""
    pictures = procedural_bank(seed, size) if data == PROCEDURAL else data
    return SyntheticMotion(pictures, size, num_frames, seed, **options)


def _sha256(items: Iterable[tuple[str, str, np.ndarray | None]]) -> str:
    """SHA-256 of (name, caption, pixels or None)."""
    digest = hashlib.sha256()
    for name, caption, pixels in items:
        digest.update(json.dumps([name, caption, None if pixels is None else pixels.shape]).encode())
        digest.update(b"" if pixels is None else np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
